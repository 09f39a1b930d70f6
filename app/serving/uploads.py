"""Room for what visitors send: bounded, however much they send. Gradio itself deletes files only after an hour."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

MOST_BYTES = 512 * 2**20
MOST_FILES = 1000


def make_room(folder: Path, most_bytes: int = MOST_BYTES, most_files: int = MOST_FILES) -> None:
    """Delete the oldest files below `folder` until what is left is within the bounds. Who still looks at one of them is
    asked to bring it again.
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
