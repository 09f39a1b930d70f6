"""The command that measures the page finds everything that it looks for. How long anything takes is not asserted."""

from __future__ import annotations

import json

import pytest

from browser import timings
from pruning.benchmarks.reports import PAGE, page_rows

pytestmark = pytest.mark.browser


def test_every_figure_of_the_page_is_measured(server, chromium):
    found, requests = {"start": [1.0], "first_comparison": [], "recorded_stop": [], "hover": []}, {"foreign": 0}
    timings.visit(chromium, server.url, 2, found, requests)
    assert set(found) == {name for name, _, _ in PAGE}
    assert all(took > 0 for values in found.values() for took in values)
    assert [len(found[name]) for name in ("first_comparison", "recorded_stop", "hover")] == [2, 2, 2]
    assert requests == {"foreign": 0, "hover": 0}
    summary = {"ms": {name: timings.summary(values) for name, values in found.items()}, "requests": requests}
    assert len(page_rows(json.loads(json.dumps(summary)))) == 2 + len(PAGE) + 2
