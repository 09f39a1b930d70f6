"""`python -m pruning docs [--write]`: the generated tables of README.md and docs/, checked or written anew."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from pruning.benchmarks.reports import accm_section, speed_section, structural_section
from pruning.catalogue import methods_table, models_table, scores_table, short_methods_table

ROOT = Path(__file__).parents[2]
TABLES: dict[str, Callable[[], str]] = {
    "methods in short": short_methods_table,
    "methods": methods_table,
    "scores": scores_table,
    "models": models_table,
    "speed": speed_section,
    "captions": accm_section,
    "plans": structural_section,
}
_BLOCK = re.compile(r"(<!-- ([a-z ]+): python -m pruning docs -->\n)(.*?)(\n?<!-- end -->)", re.S)


def add_command(commands: argparse._SubParsersAction) -> None:
    """Register the command."""
    parser = commands.add_parser("docs", help="check the generated tables of README.md and docs/, or write them anew")
    parser.add_argument("--write", action="store_true", help="write them")
    parser.set_defaults(do=_docs)


def pages() -> list[Path]:
    """The files with generated tables."""
    return [p for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if _BLOCK.search(p.read_text())]


def regenerated(text: str) -> str:
    """A page's text with every generated table as the code makes it now."""
    return _BLOCK.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}{m[4]}", text)


def _docs(arguments: argparse.Namespace) -> int:
    stale = [p for p in pages() if regenerated(p.read_text(encoding="utf-8")) != p.read_text(encoding="utf-8")]
    for page in stale:
        if arguments.write:
            page.write_text(regenerated(page.read_text(encoding="utf-8")), encoding="utf-8")
        print(f"{page.relative_to(ROOT)} {'was written anew' if arguments.write else 'is out of date'}.")
    if not stale:
        print("All tables are those of the code.")
    return 1 if stale and not arguments.write else 0
