"""One server and one browser for all browser tests."""

from __future__ import annotations

import pytest
from visitor import Server, Visitor, chromium_browser


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("server")
    running = Server(folder)
    yield running
    running.stop()
    assert not list(folder.glob("prunescope-*")), "what visitors sent is deleted at the end"


@pytest.fixture(scope="session")
def chromium():
    with chromium_browser() as browser:
        yield browser


@pytest.fixture
def visit(server, chromium):
    """`visit(width=..., height=..., query=...)` opens a new visitor; all leave at the end of the test."""
    visitors = []

    def enter(**kwargs) -> Visitor:
        visitors.append(Visitor(chromium, server.url, **kwargs))
        return visitors[-1]

    yield enter
    for visitor in visitors:
        visitor.close()
