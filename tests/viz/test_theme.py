"""The colours of fates come from one table, for browser, figure and animation alike."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from app.ui.components import FOLDER, colour_variables
from viz.theme import DARK, LIGHT, variables

ROOT = Path(__file__).parents[2]
FATES = ("kept", "dropped", "merged", "answer_region", "full", "pruned", "compensated")
FILES = [*sorted(FOLDER.rglob("*.css")), *sorted(FOLDER.rglob("*.js")), ROOT / "assets" / "style.css"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_no_colour_of_a_fate_is_written_outside_the_theme(file):
    colours = {getattr(look, fate).lower() for look in (LIGHT, DARK) for fate in FATES}
    assert not colours & {c.lower() for c in re.findall(r"#[0-9a-fA-F]{6}\b", file.read_text(encoding="utf-8"))}


def test_the_browser_gets_every_colour_and_uses_no_unknown_one():
    style = colour_variables()
    for look in (LIGHT, DARK):
        assert all(
            f"--ps-{field.name.replace('_', '-')}: {getattr(look, field.name)};" in style for field in fields(look)
        )
    used = {
        name for file in FILES for name in re.findall(r"var\(--ps-([a-z-]+(?:\d)?)\)", file.read_text(encoding="utf-8"))
    }
    assert used <= set(variables(LIGHT)), used - set(variables(LIGHT))
