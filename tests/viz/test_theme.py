"""Colours have one home: viz/theme.py, for the browser, figures and animations alike."""

from __future__ import annotations

import re
from dataclasses import fields

from support.paths import ROOT
from viz.theme import DARK, LIGHT, PALETTE, css_variables

COMPONENTS = ROOT / "app" / "ui" / "components"
STYLES = [*COMPONENTS.rglob("*.css"), *COMPONENTS.rglob("*.js"), ROOT / "assets" / "style.css"]


def test_no_colour_with_a_meaning_stands_in_a_style_or_a_script():
    meant = {c.lower() for c in PALETTE.values()} | {
        getattr(look, f.name).lower()
        for look in (LIGHT, DARK)
        for f in fields(look)
        if f.name in ("full", "pruned", "compensated", "answer_region", "dropped", "outside", "second")
    }
    for path in STYLES:
        found = {c.lower() for c in re.findall(r"#[0-9a-fA-F]{6}\b", path.read_text())}
        assert not found & meant, path.name


def test_every_variable_that_is_used_is_declared():
    declared = set(re.findall(r"(--ps-[\w-]+):", css_variables()))
    own = set(re.findall(r"(--ps-[\w-]+):", (ROOT / "assets" / "style.css").read_text()))
    for path in STYLES:
        text = path.read_text()
        used = set(re.findall(r"var\((--ps-[\w-]+)", text)) | {
            f"--ps-{n}" for n in re.findall(r"color\('([\w-]+)'\)", text)
        }
        assert used <= declared | own, path.name


def test_the_dark_look_changes_only_what_differs():
    light, dark = css_variables().split(".dark")
    assert f"--ps-pruned: {LIGHT.pruned};" in light
    assert f"--ps-pruned: {DARK.pruned};" in dark
    assert "--ps-blue" not in dark
