"""The README fits on a page, and what it says is run and compared with the code."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest

from app.settings import read_settings
from pruning.cli.parser import main
from support.paths import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
HEADINGS = [
    "Run it", "Methods", "Models", "What the bundled model is, and is not", "Map", "Extending", "Tests", "Limits",
    "Licence",
]  # fmt: skip
LONGEST = 170  # lines: a person has one minute


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


def commands(program: str) -> list[list[str]]:
    """The commands of the shell blocks that begin with this program, each without it, as words."""
    lines = "\n".join(blocks("sh")).splitlines()
    found = [shlex.split(line, comments=True) for line in lines if line.startswith(program)]
    return [words[len(program.split()) :] for words in found]


def test_it_is_for_one_minute_and_keeps_its_order():
    assert re.findall(r"^## (.+)$", TEXT, re.M) == HEADINGS
    assert len(TEXT.splitlines()) <= LONGEST


def test_the_map_is_true():
    [tree] = blocks("text")
    inside, listed = "", set()
    for line in tree.strip().splitlines():
        name = line.split()[0]
        path = inside + name if line.startswith(" ") else name
        inside = inside if line.startswith(" ") else name
        assert (ROOT / path).exists(), path
        listed.add(path.rstrip("/"))
    tracked = subprocess.run(
        ["git", "ls-tree", "--name-only", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    visible = {n for n in tracked.stdout.split() if not n.startswith(".")}
    assert visible - listed <= {"LICENSE", "README.md", "pyproject.toml"}
    for package in ("pruning", "viz", "app"):
        folders = {p.parent for p in (ROOT / package).glob("*/*.py")}
        assert {str(f.relative_to(ROOT)) for f in folders} <= listed


def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    [code] = blocks("python")
    assert len(code.strip().splitlines()) <= 10
    exec(compile(code.replace("runs/digit", str(tmp_path / "digit")), "README.md", "exec"), {})
    assert (tmp_path / "digit.json").exists()
    assert (tmp_path / "digit.npz").exists()


@pytest.mark.parametrize("words", commands("python -m pruning"), ids=" ".join)
def test_commands_run(words, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(words) == 0
    assert capsys.readouterr().out.strip()


def test_the_page_takes_the_options_it_is_started_with():
    assert len(commands("python app.py")) == 2
    for words in commands("python app.py"):
        read_settings(words)
