"""Names that a docstring lists under Args and Attributes are names that the code has."""

from __future__ import annotations

import ast
import re

import pytest

from support.paths import ROOT

FILES = sorted(p for package in ("pruning", "viz", "app") for p in (ROOT / package).rglob("*.py"))
SECTION = r"^(?:{}):\n((?:    .*\n|\n)+)"
NAMES = re.compile(r"^    ([a-z_]\w*(?:, [a-z_]\w*)*): ?|[.;] ([a-z_]\w*(?:, [a-z_]\w*)*): ", re.MULTILINE)


def listed(docstring: str, sections: str) -> set[str]:
    """Names that stand before a colon at the start of an entry, or after a full stop or a semicolon within one."""
    bodies = re.findall(SECTION.format(sections), docstring + "\n", re.MULTILINE)
    return {name for body in bodies for found in NAMES.findall(body) for name in "".join(found).split(", ")}


def parameters(function: ast.FunctionDef) -> set[str]:
    a = function.args
    return {x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if x is not None}


def members(kind: ast.ClassDef) -> set[str]:
    """Fields, methods, attributes that are set on `self`, and parameters of `__init__`."""
    names = {n.id for n in ast.walk(kind) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    names |= {n.attr for n in ast.walk(kind) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    functions = [n for n in kind.body if isinstance(n, ast.FunctionDef)]
    names |= {f.name for f in functions}
    return names.union(*(parameters(f) for f in functions if f.name == "__init__"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_docstrings_name_what_is_there(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            unknown = listed(ast.get_docstring(node) or "", "Args|Attributes") - members(node)
        elif isinstance(node, ast.FunctionDef):
            unknown = listed(ast.get_docstring(node) or "", "Args") - parameters(node)
        else:
            continue
        assert not unknown, f"{node.name} (line {node.lineno}) describes what it does not have: {sorted(unknown)}"
