"""Start the server of the page."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from app.settings import Settings, read_settings


def main(argv: Sequence[str] | None = None) -> None:
    """Serve the page until it is interrupted. What visitors sent is deleted at the end."""
    settings = read_settings(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # or the folder would stay behind
    with tempfile.TemporaryDirectory(prefix="prunescope-", ignore_cleanup_errors=True) as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # no other program's files are among those that make room
        _serve(settings, Path(folder))


def _serve(settings: Settings, folder: Path) -> None:
    # Before gradio and the hub library are imported: no call home, no hub unless a download was allowed.
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if not settings.allow_download:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")

    from starlette.middleware import Middleware

    from app.page import appearance, build_page
    from app.serving.middleware import SecurityHeaders, UploadRoom
    from app.serving.service import Service
    from pruning.inputs.images import MAX_BYTES

    service = Service(settings)
    page = build_page(service)
    service.warm_up()
    waiting = settings.longest_queue + 16  # exports wait in the same queue
    page.queue(max_size=waiting, default_concurrency_limit=8, api_open=False).launch(
        server_name=settings.host,
        server_port=settings.port,
        share=False,
        ssr_mode=False,
        strict_cors=True,
        max_file_size=MAX_BYTES,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        show_error=False,
        state_session_capacity=200,
        max_threads=80,  # a waiting visitor holds one
        app_kwargs={"middleware": [Middleware(SecurityHeaders), Middleware(UploadRoom, folder=folder)]},
        **appearance(),
    )
