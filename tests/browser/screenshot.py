"""Make the picture of the README: `python tests/browser/screenshot.py`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a script sees its own folder only

from support.paths import ROOT
from support.visitor import Server, Visitor, chromium_browser

PICTURE = ROOT / "assets" / "screenshot.png"


def main() -> None:
    """Open the page as a visitor finds it, let it settle, and keep the first screen."""
    with tempfile.TemporaryDirectory() as folder, chromium_browser() as browser:
        server = Server(Path(folder))
        try:
            visitor = Visitor(browser, server.url, width=1280, height=820)
            visitor.settle()
            visitor.page.wait_for_timeout(1000)
            visitor.page.screenshot(path=PICTURE)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
