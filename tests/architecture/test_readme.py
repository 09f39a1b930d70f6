"""The README fits on a page, and what it says is run and compared with the code."""

from __future__ import annotations

import re
import shlex
import subprocess
from itertools import takewhile
from pathlib import Path

import pytest

from app.settings import read_settings
from pruning.cli.parser import main

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
HEADINGS = ["Run it", "Methods", "Models", "Map", "Extending", "Tests", "Limits", "Licence"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


def commands(program: str) -> list[list[str]]:
    """The commands of the shell blocks that begin with this program, each without it, as words."""
    lines = "\n".join(blocks("sh")).splitlines()
    found = [shlex.split(line, comments=True) for line in lines if line.startswith(program)]
    return [words[len(program.split()) :] for words in found]


def test_it_is_short_and_keeps_its_order():
    assert len(TEXT.splitlines()) <= 170
    assert re.findall(r"^## (.+)$", TEXT, re.M) == HEADINGS


def test_the_map_names_every_package_and_nothing_else():
    [tree] = blocks("text")
    parents, named = [], set()
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        first, *more = line.split()
        paths = [first, *takewhile(lambda word: word.endswith("/"), more)]
        parents = [*parents[:depth], first]
        named |= {"".join([*parents[:depth], path]) for path in paths}
    for path in named:
        assert (ROOT / path).exists(), path
    packages = {p.parent.relative_to(ROOT) for top in ("app", "pruning", "viz") for p in (ROOT / top).rglob("*.py")}
    assert {p.as_posix() + "/" for p in packages} <= named
    listed = subprocess.run(
        ["git", "ls-tree", "--name-only", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    visible = {n for n in listed.stdout.split() if not n.startswith(".")}
    assert visible - {n.strip("/") for n in named} <= {"LICENSE", "README.md", "pyproject.toml"}


def test_the_python_example_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    [code] = blocks("python")
    assert len([line for line in code.splitlines() if line]) <= 5
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("words", commands("python -m pruning"), ids=" ".join)
def test_commands_run(words, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(words) == 0
    assert capsys.readouterr().out.strip()


def test_the_page_takes_the_options_it_is_started_with():
    assert len(commands("python app.py")) == 2
    for words in commands("python app.py"):
        read_settings(words)
