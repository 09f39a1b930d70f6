"""The docs agree with the code: generated parts, links, named paths and commands, and the form of the glossary."""

from __future__ import annotations

import re
import shlex
import shutil
import statistics

import pytest

from pruning.cli import docs
from pruning.cli.parser import main
from pruning.demo_model.__main__ import main as demo_main
from pruning.errors import ParameterError
from support.paths import ROOT

PAGES = [*docs.pages(ROOT), ROOT / "tests" / "README.md"]
TEXTS = {p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8") for p in PAGES}
ASSETS = {
    p.relative_to(ROOT).as_posix(): p.read_text(encoding="utf-8")
    for p in [*(ROOT / "assets" / "models").glob("*/README.md"), ROOT / "assets" / "SOURCES.md"]
}
NAMED_PATH = re.compile(r"`((?:app|assets|docs|pruning|tests|viz)/[\w./-]*)`")
EXAMPLES = re.findall(r"^python -m pruning .*$", TEXTS["docs/command_line.md"], re.M)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as hosts of Markdown make them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def commands(text: str, program: str) -> set[tuple[str, ...]]:
    """All uses of a program, in blocks and in running text, as its words."""
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.S))
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S)).splitlines()
    uses = [" ".join(s.split()) for s in (*spans, *lines)]
    parts = [part.strip() for use in uses for part in use.split("&&")]
    return {
        tuple(shlex.split(p, comments=True)[len(program.split()) :]) for p in parts if f"{p} ".startswith(f"{program} ")
    }


def test_generated_parts_are_those_of_the_code():
    assert {p.name: names for p, (names, _) in docs.outdated(ROOT).items()} == {}, (
        "run `python -m pruning docs --write`"
    )


def test_the_command_reports_and_renews_what_is_out_of_date(tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    readme = tmp_path / "README.md"
    good = TEXTS["README.md"]
    readme.write_text(good.replace("FastV](", "SlowV]("), encoding="utf-8")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    assert main(["docs"]) == 1
    assert "README.md: out of date: methods in short" in capsys.readouterr().out
    assert main(["docs", "--write"]) == 0
    assert readme.read_text(encoding="utf-8") == good
    assert main(["docs"]) == 0
    readme.write_text(good + "\n<!-- nothing: python -m pruning docs -->\n<!-- end -->\n", encoding="utf-8")
    with pytest.raises(ParameterError, match="has a part 'nothing'"):
        docs.outdated(tmp_path)
    readme.write_text(good + "\n<!-- end -->\n", encoding="utf-8")
    with pytest.raises(ParameterError, match="without a partner"):
        docs.outdated(tmp_path)


@pytest.mark.parametrize("name", TEXTS | ASSETS)
def test_links_and_named_paths_lead_somewhere(name):
    page, text = ROOT / name, (TEXTS | ASSETS)[name]
    for target in re.findall(r"\]\(([^)]+)\)", re.sub(r"```.*?```", "", text, flags=re.S)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked.read_text(encoding="utf-8")), target
    for path in NAMED_PATH.findall(text):
        made_by_reader = name.startswith("docs/extending")  # a guide names files that its reader makes
        assert made_by_reader or (ROOT / path).exists(), path


@pytest.mark.parametrize("name", TEXTS | ASSETS)
def test_named_commands_and_options_exist(name, monkeypatch, capsys):
    for program, entry in (("python -m pruning", main), ("python -m pruning.demo_model", demo_main)):
        for words in commands((TEXTS | ASSETS)[name], program):
            if not words or words[0] == "..." or words[0].isupper() or words[0].startswith("-"):
                continue
            monkeypatch.setattr("sys.argv", [program, words[0], "--help"])
            with pytest.raises(SystemExit) as ended:
                entry()
            assert ended.value.code == 0, words
            said = capsys.readouterr().out
            for word in words:
                assert not word.startswith("--") or re.search(rf"{re.escape(word)}\b", said), words


@pytest.mark.parametrize("line", EXAMPLES)
def test_the_examples_of_the_command_line_run(line, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(shlex.split(line)[3:]) == 0
    assert capsys.readouterr().out.strip()


def test_every_page_begins_with_its_title_and_can_be_reached_from_the_readme():
    ahead, reached = [ROOT / "README.md"], set()
    while ahead:
        page = ahead.pop()
        if page.suffix == ".md" and page.is_file() and page not in reached:
            reached.add(page)
            targets = re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
            ahead += [(page.parent / target).resolve() for target in targets]
    for page in PAGES:
        assert page in reached, page.name
        first, blank, *_ = page.read_text(encoding="utf-8").splitlines()
        assert first.startswith("# "), page.name
        assert blank == "", page.name


def test_the_glossary_has_one_sentence_for_each_term():
    title, _, introduction, *lines = TEXTS["docs/glossary.md"].splitlines()
    assert title == "# Glossary"
    assert introduction.endswith(".")
    entries = [line for line in lines if line and not line.startswith("## ")]
    found = [re.fullmatch(r"\*\*([^*]+)\*\*: ([A-Z].*\.)", line) for line in entries]
    assert all(found), [line for line, ok in zip(entries, found, strict=True) if not ok]
    terms = [match[1].lower() for match in found]
    assert len(terms) == len(set(terms)) > 50
    assert not [m[0] for m in found if ". " in m[2]], "one sentence each"
    lengths = [len(match[2].split()) for match in found]
    assert statistics.median(lengths) <= 22
    assert max(lengths) <= 45


@pytest.mark.parametrize("name", TEXTS)
def test_no_word_of_the_old_dialect_is_left(name):
    by_hand = docs.MARKS.sub("", TEXTS[name])
    assert not re.findall(r"\bpieces?\b|\bgiv\w+ back\b|\bwhole picture\b|\blooks? at\b", by_hand, re.I)
