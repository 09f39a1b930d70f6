"""Bundled files: examples with their truth and recordings, sources of everything, the card beside the weights."""

from __future__ import annotations

import hashlib
import json
import subprocess

from pruning.methods import METHODS
from support.paths import ROOT


def test_the_example_pictures_have_truth_and_recordings():
    from app.media.examples import read_examples

    for example in read_examples():
        assert example.picture.shape[:2] == example.object_map.shape
        record = example.recording("resprune", 64)
        assert set(example.recorded_stops) <= set(METHODS)
        assert len(example.recorded_stops) > 1, "the page opens with runs to choose from"
        assert record.request.question == example.questions[0].text
        for question in example.questions:
            answer_region = example.answer_region(question.text, record.layout)
            assert len(answer_region) > 0, (example.key, question.text)
        assert example.answer_region("Something else?", record.layout) is None


def test_every_file_of_assets_has_a_source():
    listed = (ROOT / "assets" / "SOURCES.md").read_text()
    tracked = subprocess.run(["git", "ls-files", "assets"], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    for name in tracked.split():
        folder = name.removeprefix("assets/").rsplit("/", 1)[0]
        assert f"`{folder}/`" in listed or f"`{name.removeprefix('assets/')}`" in listed, name


def test_the_card_beside_the_weights_is_about_these_weights():
    folder = ROOT / "assets" / "models" / "demo"
    card = (folder / "README.md").read_text()
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert digest in card
    assert (folder / "model.safetensors").stat().st_size <= 25e6
    results = json.loads((ROOT / "assets" / "benchmarks" / "demo_model.json").read_text())
    assert results["weights"] == digest
    assert f"{100 * results['full']['exact_match']['value']:.1f}" in card
