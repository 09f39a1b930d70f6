"""requirements.txt names what the packages import, and nothing else."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions

import pytest

from support.paths import ROOT

OWN = {"app", "pruning", "viz"}
FROM_THE_PERSON = {"bitsandbytes", "onnx", "gguf"}  # optional; asked for by name when they are needed


def imported() -> dict[str, str]:
    """Third-party modules that any file imports, with one of the files."""
    found = {}
    for package in OWN:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names = [a.name for a in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    names = [node.module]
                else:
                    continue
                found |= {name.split(".")[0]: str(path.relative_to(ROOT)) for name in names}
    known = OWN | set(sys.stdlib_module_names) | FROM_THE_PERSON
    return {name: file for name, file in found.items() if name not in known}


def listed() -> dict[str, str]:
    """Distributions of requirements.txt with the line that names each."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    wanted = {re.match(r"[\w.-]+", line)[0]: line for line in lines if line and not line.startswith("#")}
    return {_plain(name): line for name, line in wanted.items()}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_listed():
    owners = packages_distributions()
    missing = {
        name: file for name, file in imported().items()
        if not {_plain(d) for d in owners.get(name, [name])} & set(listed())
    }  # fmt: skip
    assert not missing


def test_every_line_is_pinned_and_imported_or_says_why():
    owners = packages_distributions()
    used = {_plain(d) for name in imported() for d in owners.get(name, [name])}
    for name, line in listed().items():
        assert re.search(r"==|<", line), f"{line} has no upper bound"
        assert name in used or "#" in line, f"{line} is imported nowhere and does not say why it is there"


@pytest.mark.parametrize("name", ["gradio", "torch", "transformers", "matplotlib", "plotly", "opencv-python-headless"])
def test_the_packages_that_the_project_is_built_on_are_there(name):
    assert name in listed()
