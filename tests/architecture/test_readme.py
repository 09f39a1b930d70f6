"""What the README says is run and compared."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest

from pruning.benchmarks.reports import accm_section, speed_section, structural_section
from pruning.catalogue import methods_table, models_table, scores_table
from pruning.cli.parser import main
from support.paths import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
HEADINGS = [
    "Run it", "Methods", "Models", "The house", "Tests", "What the bundled model is, and is not",
    "How numbers were measured", "Licences and sources", "Known limits",
]  # fmt: skip


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.S)


def test_it_keeps_its_order():
    assert re.findall(r"^## (.+)$", TEXT, re.M) == HEADINGS


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("methods", methods_table),
        ("scores", scores_table),
        ("models", models_table),
        ("speed", speed_section),
        ("captions", accm_section),
        ("plans", structural_section),
    ],
)
def test_what_is_generated_is_that_of_the_code(name, table):
    written = re.search(rf"<!-- {name}: .*? -->\n(.*?)\n?<!-- end -->", TEXT, re.S)[1]
    assert written == table(), "run `python -m pruning list --markdown` and paste"


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_the_map_of_the_house_is_true():
    [tree] = blocks("text")
    inside, encoded = "", set()
    for line in tree.strip().splitlines():
        name = line.split()[0]
        path = name if not line.startswith(" ") else inside + name
        inside = name if not line.startswith(" ") else inside
        assert (ROOT / path).exists(), path
        encoded.add(path.split("/")[0])
    listed = subprocess.run(
        ["git", "ls-tree", "--name-only", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=True
    )
    visible = {n for n in listed.stdout.split() if not n.startswith(".")}
    assert visible - encoded <= {"LICENSE", "README.md", "pyproject.toml"}


def test_the_library_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    [code] = blocks("python")
    assert len(code.strip().splitlines()) <= 10
    exec(compile(code.replace("runs/digit", str(tmp_path / "digit")), "README.md", "exec"), {})
    assert (tmp_path / "digit.json").exists()
    assert (tmp_path / "digit.npz").exists()


@pytest.mark.parametrize("line", re.findall(r"^python -m pruning .*$", TEXT, re.M))
def test_commands_run(line, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(shlex.split(line)[3:]) == 0
    assert capsys.readouterr().out.strip()
