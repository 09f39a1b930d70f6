"""`python -m pruning docs`: check the generated parts of README.md and docs/*.md, or write them anew with `--write`.

A generated part stands between `<!-- NAME: python -m pruning docs -->` and `<!-- end -->`, where NAME is a key of
`BLOCKS`. Everything outside these marks is written by hand and is never changed.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pruning.benchmarks.reports import accm_section, speed_section, structural_section
from pruning.catalogue import (
    compensators_table,
    differences_list,
    methods_table,
    models_table,
    parameters_table,
    scores_table,
    short_methods_table,
)
from pruning.cli.options import written
from pruning.errors import ParameterError

ROOT = Path(__file__).parents[2]
MARKS = re.compile(r"(<!-- ([a-z ]+): python -m pruning docs -->\n)(.*?)(<!-- end -->)", re.S)


def add_command(commands: Any) -> None:
    """Declare the command."""
    docs = commands.add_parser("docs", help="check the generated tables of README.md and docs/, or write them anew")
    docs.add_argument("--write", action="store_true", help="write what is out of date")
    docs.set_defaults(do=_docs)


def pages(root: Path = ROOT) -> list[Path]:
    """Return README.md and every page of docs/."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def outdated(root: Path = ROOT) -> dict[Path, tuple[list[str], str]]:
    """Return, for every page with outdated parts, the names of these parts and the page's text as it should be.

    Raises:
        ParameterError: for a mark whose name is unknown, or that has no end.
    """
    found = {}
    for page in pages(root):
        text, names = page.read_text(encoding="utf-8"), []
        if len(MARKS.findall(text)) != text.count("<!-- end -->"):
            raise ParameterError(f"{page} has a mark without a partner.", "Close each mark with <!-- end -->.")

        def renew(match: re.Match[str], page: Path = page, names: list[str] = names) -> str:
            start, name, old, end = match.groups()
            if name not in BLOCKS:
                raise ParameterError(f"{page} has a part {name!r}.", f"Parts are: {', '.join(BLOCKS)}.")
            new = BLOCKS[name](page, root) + "\n"
            if new != old:
                names.append(name)
            return start + new + end

        renewed = MARKS.sub(renew, text)
        if names:
            found[page] = names, renewed
    return found


def _docs(arguments: argparse.Namespace) -> int:
    found = outdated(ROOT)
    for page, (names, text) in found.items():
        name = page.relative_to(ROOT).as_posix()
        if arguments.write:
            written(page, lambda path, text=text: path.write_text(text, encoding="utf-8"))
            print(f"{name}: wrote {', '.join(names)}")
        else:
            print(f"{name}: out of date: {', '.join(names)}")
    if not found:
        print("All generated parts are up to date.")
    elif not arguments.write:
        print("Write them with: python -m pruning docs --write")
    return 1 if found and not arguments.write else 0


def guides_list(page: Path, root: Path) -> str:
    """Return links to the guides docs/extending*.md, by their titles."""
    guides = sorted((root / "docs").glob("extending*.md"))
    folder = "" if page.parent == root / "docs" else "docs/"
    return "\n".join(f"- [{_title(g)}]({folder}{g.name})" for g in guides)


def index_list(page: Path, root: Path) -> str:
    """Return links to all other pages of docs/, each with the first sentence of its text."""
    others = [p for p in pages(root)[1:] if p != page]
    return "\n".join(f"- [{_title(p)}]({p.name}): {_first_sentence(p)}" for p in others)


def _title(page: Path) -> str:
    return page.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")


def _first_sentence(page: Path) -> str:
    """Return the first sentence below the title, on one line."""
    paragraph = " ".join(page.read_text(encoding="utf-8").split("\n\n")[1].split())
    return re.split(r"(?<=\.) (?=[A-Z`*])", paragraph)[0]


def _root_from(page: Path, root: Path) -> str:
    """Return the prefix of links from a page to files of the repository."""
    return "../" * (len(page.relative_to(root).parts) - 1)


BLOCKS: dict[str, Callable[[Path, Path], str]] = {  # from a page and the root of the repository to the part's text
    "methods": lambda page, root: methods_table(_root_from(page, root)),
    "methods in short": lambda page, root: short_methods_table(_root_from(page, root)),
    "options": lambda page, root: parameters_table(),
    "differences": lambda page, root: differences_list(_root_from(page, root)),
    "models": lambda page, root: models_table(),
    "scores": lambda page, root: scores_table(_root_from(page, root)),
    "compensators": lambda page, root: compensators_table(_root_from(page, root)),
    "speed": lambda page, root: speed_section(),
    "captions": lambda page, root: accm_section(),
    "plans": lambda page, root: structural_section(),
    "guides": guides_list,
    "index": index_list,
}
