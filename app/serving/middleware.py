"""ASGI middleware: security headers (the browser may contact this server only) and a bound on uploaded files."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

# Gradio's front end needs inline scripts and `eval` for the page's own components; those of other hosts are refused.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=(), usb=()"),
)
MOST_BYTES = 512 * 2**20
MOST_FILES = 1000


class SecurityHeaders:
    """ASGI middleware that adds `HEADERS` to every HTTP answer; streams pass through untouched."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in HEADERS}
                own = [(n, v) for n, v in message.get("headers", []) if n.lower() not in names]
                message = message | {"headers": [*own, *HEADERS]}
            await send(message)

        await self.app(scope, receive, send_with_headers)


def make_room(folder: Path, most_bytes: int = MOST_BYTES, most_files: int = MOST_FILES) -> None:
    """Delete the oldest files below `folder` until what is left is within the bounds. A visitor who still uses one of
    them is asked to bring it again.
    """
    found = []
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                found.append((path.stat(), path))
        except OSError:  # gone in between
            continue
    found.sort(key=lambda pair: pair[0].st_mtime, reverse=True)
    total = 0
    for number, (stat, path) in enumerate(found):
        total += stat.st_size
        if total > most_bytes or number >= most_files:
            path.unlink(missing_ok=True)


class UploadRoom:
    """ASGI middleware that makes room before a file is taken.

    Args:
        folder: where the files arrive; everything in it may be deleted.
    """

    def __init__(self, app: Any, folder: Path) -> None:
        self.app, self.folder = app, folder

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith("/upload"):
            await asyncio.to_thread(make_room, self.folder)
        await self.app(scope, receive, send)
