"""The README's section on speed says what lies in `assets/benchmarks`, and which command measures it."""

from __future__ import annotations

import json

from pruning.benchmarks.reports import COMMANDS, speed_section

ENVIRONMENT = {
    "machine": "A processor, 2 cores", "threads": "2", "dtype": "float32", "torch": "2.13.0", "transformers": "5",
    "chromium": "150", "commit": "0123456789ab",
}  # fmt: skip
SPEED = {
    "environment": ENVIRONMENT,
    "prefill": {
        "random 0.15 B": [
            {"kept": 192, "time_over_work": 1.2, "engine_over_bare": 1.01},
            {"kept": 64, "time_over_work": 1.04, "engine_over_bare": 0.99},
        ]
    },
    "recording": {"bundled": {"plain_ms": 100, "engine_over_plain": 1.012, "with_attention_over_plain": 1.2}},
    "selection": {
        "fastv": {"ms_576": 0.2, "ms_2880": 12.3, "growth": 1.0},
        "dart": {"ms_576": 3.0, "ms_2880": 50.4, "growth": 1.8, "over_published_order": 0.281},
        "vitcop": {"refused": "Too few tokens."},
    },
    "memory": {"random 0.15 B": {"full": 90.0, "fastv": 60.0, "resprune": 70.4}},
}
TIME = {"median": 812.4, "least": 700.0, "most": 950.0, "n": 7}
PAGE = {
    "environment": ENVIRONMENT,
    "ms": dict.fromkeys(("start", "first_comparison", "live_run", "recorded_stop", "hover"), TIME),
    "requests": {"hover": 0, "foreign": 3},
}


def test_without_figures_it_says_how_to_measure(tmp_path):
    assert all(
        f"Not measured yet: `{command}`." in speed_section(tmp_path)
        for command in (COMMANDS["speed"], COMMANDS["page"])
    )


def test_every_figure_is_quoted_with_its_aim_and_where_it_was_measured(tmp_path):
    for name, found in (("speed", SPEED), ("page", PAGE)):
        (tmp_path / f"{name}.json").write_text(json.dumps(found))
    said = speed_section(tmp_path).splitlines()
    kept = "192 / 64 tokens kept, random 0.15 B"
    assert f"| prefill time over multiply-adds, {kept} | 1.20 / 1.04 | at most 1.15 |" in said
    assert f"| pruned prefill over the bare model on as many rows, {kept} | 1.01 / 0.99 |  |" in said
    assert "| recording over plain `generate`, kept set and counts, bundled | 1.012 | at most 1.03 |" in said
    assert "| deciding, FastV, one thread, on a picture and on five | 0.2 ms, 12 ms | |" in said
    dart = "3.0 ms, 50 ms; 0.28 of the published order's time | below the published order"
    assert f"| deciding, DART, one thread, on a picture and on five | {dart} |" in said
    assert not any("ViTCoP" in line for line in said)
    assert "| peak memory of the hungriest method, random 0.15 B | 70 MB | below 90 MB, unpruned |" in said
    live = "a live run with the bundled model, picture not seen before"
    assert f"| {live} | 812 ms (700 to 950, n = 7) | 2500 ms |" in said
    assert "| requests to other hosts | 3 | 0 |" in said
    for command in (COMMANDS["speed"], COMMANDS["page"]):
        [where] = [line for line in said if line.startswith(f"`{command}` on A processor")]
        assert where.endswith("commit 0123456789ab:")
