"""The recorded runs are what today's code and weights would do; else: `python -m pruning.demo_model record`."""

from __future__ import annotations

import numpy as np
import pytest

from app.examples import read_examples
from pruning.methods import METHODS
from pruning.models import load
from pruning.runner import run

EXAMPLES = {e.key: e for e in read_examples()}


@pytest.fixture(scope="module")
def demo():
    return load("demo")


@pytest.mark.parametrize("key", EXAMPLES)
def test_recordings_are_not_stale(demo, key):
    example = EXAMPLES[key]
    for number, method in enumerate(METHODS):
        count = (18, 64, 192)[number % 3]
        if count not in example.recorded_stops[method]:
            count = example.recorded_stops[method][-2]
        record = example.recording(method, count)
        again = run(record.request, demo, example.picture, evidence=record.evidence)
        assert again.request == record.request, "the picture is the one that was recorded"
        assert again.variant == record.variant
        assert [s.stage for s in again.steps] == [s.stage for s in record.steps]
        for new, old in zip(again.steps, record.steps, strict=True):
            both = np.intersect1d(new.selection.kept, old.selection.kept)
            assert len(both) >= 0.97 * len(old.selection.kept), f"{method} at {count}: other tokens are kept now"
        assert again.full.text == record.full.text
        assert again.pruned.text == record.pruned.text, f"{method} at {count}"


def test_every_method_is_recorded_for_every_example():
    for example in EXAMPLES.values():
        assert list(example.recorded_stops) == list(METHODS)
        assert all(64 in counts for counts in example.recorded_stops.values())


def test_the_examples_know_their_answers():
    for example in EXAMPLES.values():
        record = example.recording("resprune", 576)
        assert example.truth(record.request.question)
