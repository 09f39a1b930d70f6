"""What the browser gets: no markup out of strings, no foreign address, no model's grid written into the code."""

from __future__ import annotations

import ast
import re

from support.paths import ROOT

SOURCES = [p for package in ("app", "pruning", "viz") for p in sorted((ROOT / package).rglob("*.py"))]
COMPONENTS = ROOT / "app" / "ui" / "components"
LONG, LONGEST = 400, 600  # lines of a file: above the first it says why, above the second it is split


def test_numbers_of_geometry_belong_to_the_adapter():
    """No model's grid is written into the engine, the drawing or the page."""
    for path in SOURCES:
        if "demo_model" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and type(node.value) is int:
                assert node.value not in (576, 577, 2880, 336), f"{path}:{node.lineno}"
    for path in COMPONENTS.rglob("*.js"):
        assert "576" not in path.read_text(), path


def test_nothing_a_person_or_a_model_wrote_becomes_markup():
    for path in (ROOT / "app").rglob("*.js"):
        text = path.read_text(encoding="utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert word not in text, f"{path.name} uses {word}"
    for path in COMPONENTS.rglob("*.html"):
        assert not re.search(r"\$\{|\{\{", path.read_text()), f"{path.name} is not static"


def test_no_foreign_address_is_loaded():
    for path in [*(ROOT / "app").rglob("*.*"), ROOT / "assets" / "style.css"]:
        if path.suffix in (".js", ".css", ".html"):
            assert "http" not in path.read_text(encoding="utf-8"), path


def test_the_components_are_where_these_tests_look():
    assert len(list(COMPONENTS.rglob("*.js"))) > 15


def test_files_stay_readable():
    for path in SOURCES:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= LONGEST, f"{path} has grown; is the design wrong?"
        assert len(lines) <= LONG or lines[0].startswith("# Long because"), f"{path}: say why on the first line"
