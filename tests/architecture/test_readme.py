"""What README.md and docs/ say is run and compared with the code."""

from __future__ import annotations

import re
import shlex
import statistics
import subprocess
from pathlib import Path

import pytest

from pruning.cli import docs
from pruning.cli.parser import main
from support.paths import ROOT

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
PAGES = [README, *sorted((ROOT / "docs").glob("*.md")), ROOT / "tests" / "README.md"]
HEADINGS = [
    "Run it", "Methods", "Models", "What the bundled model is, and is not", "Map", "Extending", "Tests", "Limits",
    "Licence",
]  # fmt: skip
LONGEST = 170  # lines of the README: a person has one minute
TERM = re.compile(r"^\*\*(.+?)\*\*: (.+)$")


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as they are made on code hosts."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def test_the_readme_is_for_one_minute_and_keeps_its_order():
    assert re.findall(r"^## (.+)$", TEXT, re.M) == HEADINGS
    assert len(TEXT.splitlines()) <= LONGEST


def test_generated_tables_are_those_of_the_code():
    assert len(docs.pages()) >= 4
    marks = [mark for page in docs.pages() for mark in re.findall(r"<!-- ([a-z ]+): python", page.read_text())]
    assert sorted(marks) == sorted(docs.TABLES), "every table has one place"
    for page in docs.pages():
        text = page.read_text(encoding="utf-8")
        assert docs.regenerated(text) == text, f"{page.name}: run `python -m pruning docs --write`"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {target}"


def test_every_page_of_the_docs_can_be_reached_from_the_readme():
    seen, ahead = set(), [README]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            if path.exists() and path.is_file():
                ahead.append(path)
    assert set((ROOT / "docs").glob("*.md")) <= seen


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


COMMANDS = [
    line
    for page in PAGES
    for line in re.findall(r"^python -m pruning .*$", page.read_text(encoding="utf-8"), re.M)
    if not line.startswith(("python -m pruning plan", "python -m pruning docs")) and "PICTURE" not in line
    and "runs/plan.zip" not in line and "llava-1.5-7b" not in line and "l2norm" not in line
]  # fmt: skip


@pytest.mark.parametrize("line", dict.fromkeys(COMMANDS))
def test_commands_run(line, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(shlex.split(line)[3:]) == 0
    assert capsys.readouterr().out.strip()


def test_the_docs_command_says_what_is_out_of_date(tmp_path, monkeypatch, capsys):
    (tmp_path / "docs").mkdir()
    page = tmp_path / "README.md"
    page.write_text("<!-- scores: python -m pruning docs -->\nold\n<!-- end -->\n")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    assert main(["docs"]) == 1
    assert "README.md is out of date" in capsys.readouterr().out
    assert main(["docs", "--write"]) == 0
    assert main(["docs"]) == 0
    assert "| head score |" in page.read_text()


def test_the_glossary_explains_each_term_once_in_a_sentence():
    lines = [
        line for line in (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ][1:]  # fmt: skip
    found = [TERM.match(line) for line in lines]
    assert all(found), [line for line, m in zip(lines, found, strict=True) if not m]
    terms = [m[1].lower() for m in found]
    assert len(terms) == len(set(terms)) > 50
    lengths = [len(m[2].split()) for m in found]
    assert statistics.median(lengths) <= 22
    assert max(lengths) <= 45
    assert all(m[2].endswith(".") for m in found)
