"""The registries are complete: every method, compensator, head score and model is in its table and explains itself."""

from __future__ import annotations

import ast

import pytest

from pruning.compensation import COMPENSATORS
from pruning.methods import FROM_FILES, METHODS
from pruning.methods.base import TokenPruner
from pruning.models import MODELS
from pruning.structural import STRUCTURAL
from pruning.structural.base import HeadScorer
from support.paths import ROOT

DOCSTRING_LINES = ("Paper:", "Stage:", "Needs:", "Symbols:", "Differs:", "Cost:")


def module_of(cls: type) -> str:
    return cls.__module__.rsplit(".", 1)[1]


def explained(folder: str, module: str) -> list[str]:
    """The fixed lines of a module's docstring, in their order."""
    text = ast.get_docstring(ast.parse((ROOT / "pruning" / folder / f"{module}.py").read_text()))
    return [w for line in text.splitlines() for w in DOCSTRING_LINES if line.startswith(w)]


def classes(folder: str, base: str) -> set[str]:
    """Files of a folder that define a class under this base, directly or through a base of their own folder."""
    found, bases = set(), {base}
    files = {p.stem: ast.parse(p.read_text()) for p in (ROOT / "pruning" / folder).glob("*.py")}
    for _ in range(2):
        for stem, tree in files.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and {ast.unparse(b) for b in node.bases} & bases:
                    abstract = "abstractmethod" in ast.unparse(node)
                    (bases if abstract else found).add(node.name if abstract else stem)
    return found


def test_the_table_of_methods_is_complete():
    assert classes("methods", TokenPruner.__name__) == {module_of(m) for m in (METHODS | FROM_FILES).values()}
    for key, method in METHODS.items():
        assert method.key == key == module_of(method)
        assert method.paper.startswith("https://")
        assert 3 <= len(method.idea.split()) <= 9
        for declared in method.parameters().values():
            assert declared.help.endswith(".")


@pytest.mark.parametrize("key", [*METHODS, *FROM_FILES])
def test_every_method_explains_itself_in_the_same_lines(key):
    text = ast.get_docstring(ast.parse((ROOT / "pruning" / "methods" / f"{key}.py").read_text()))
    assert text.splitlines()[0].endswith((".", ":"))
    assert explained("methods", key) == list(DOCSTRING_LINES)


def test_the_table_of_compensators_is_complete():
    assert classes("compensation", "Compensator") == {module_of(c) for c in COMPENSATORS.values()}
    for key, compensator in COMPENSATORS.items():
        assert compensator.key == key
        assert compensator.paper.startswith("https://")
        assert 3 <= len(compensator.idea.split()) <= 9
        assert explained("compensation", module_of(compensator)) == list(DOCSTRING_LINES)


def test_the_table_of_head_scores_is_complete():
    assert classes("structural", HeadScorer.__name__) == {module_of(s) for s in STRUCTURAL.values()}
    for key, scorer in STRUCTURAL.items():
        assert scorer.key == key
        assert scorer.paper.startswith("https://")
        assert explained("structural", module_of(scorer)) == [w for w in DOCSTRING_LINES if w != "Stage:"]


def test_models_of_the_table_name_what_they_take():
    for key, spec in MODELS.items():
        assert spec.key == key
        assert spec.licence
        assert "GB" in spec.memory
