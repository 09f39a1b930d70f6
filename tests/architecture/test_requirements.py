"""The requirement files name exactly what the code imports."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from importlib.metadata import packages_distributions
from pathlib import Path

from support.paths import ROOT

PACKAGES = ("pruning", "viz", "app")
RUNTIME, PAIR = ROOT / "requirements.txt", ROOT / "pruning" / "requirements-pair.txt"


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(path: Path) -> dict[str, str]:
    """The comment on the line of every distribution that a requirement file names; empty if there is none."""
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        requirement, _, comment = line.partition("#")
        if requirement.strip():
            found[normalized(re.match(r"[\w.-]+", requirement)[0])] = comment.strip()
    return found


def third_party(paths: Iterable[Path]) -> set[str]:
    """The distributions of all modules that these files import anywhere, also inside functions."""
    names = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    installed = packages_distributions()
    outside = names - set(sys.stdlib_module_names) - set(PACKAGES)
    return {normalized(installed.get(name, [name])[0]) for name in outside}


IMPORTED = third_party(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def test_every_import_is_required():
    assert {"torch", "pillow", "opencv-python-headless"} <= IMPORTED
    assert IMPORTED - set(required(RUNTIME)) <= set(required(PAIR))


def test_every_requirement_is_imported_or_says_why_it_is_there():
    for name, comment in required(RUNTIME).items():
        assert name in IMPORTED or comment, f"{name} is not imported, and its line does not say what it is for"
