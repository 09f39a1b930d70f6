"""One server and one browser for all browser tests."""

from __future__ import annotations

import pytest

from support.visitor import HoldingServer, Visitor, chromium_browser


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    running = HoldingServer(folder)
    yield running
    running.stop()
    assert not list(folder.glob("prunescope-*")), "what visitors sent is deleted at the end"


@pytest.fixture(scope="session")
def chromium():
    with chromium_browser() as browser:
        yield browser


@pytest.fixture(scope="session")
def home(chromium):
    """A browser profile that keeps the page's scripts: most visits are not the first one."""
    context = chromium.new_context()
    yield context
    context.close()


@pytest.fixture
def visit(server, chromium, home):
    """`visit(width=..., height=..., query=...)` opens a page, `visit(first=True)` in a browser that was never here; all
    are closed at the end of the test.
    """
    visitors = []

    def enter(*, first: bool = False, **kwargs) -> Visitor:
        visitors.append(Visitor(chromium, server.url, home=None if first else home, **kwargs))
        return visitors[-1]

    yield enter
    for visitor in visitors:
        visitor.close()


@pytest.fixture(scope="module")
def guest(server, chromium, home):
    """A page that stays open from one test to the next, as a person's would."""
    visitor = Visitor(chromium, server.url, home=home)
    yield visitor
    visitor.close()
