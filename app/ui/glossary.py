"""Read docs/glossary.md for the page: its dialog, and the tooltips of terms."""

from __future__ import annotations

import re
from pathlib import Path

GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"


def read_glossary(path: Path = GLOSSARY) -> dict[str, str]:
    """Return meanings by term, as plain text, from the tables of a Markdown file; empty where there is no file.

    The first column of a table is the term, the second its meaning; further columns are left out.
    """
    if not path.exists():
        return {}
    found: dict[str, str] = {}
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        is_head = number + 1 < len(lines) and _is_rule(lines[number + 1])
        if line.lstrip().startswith("|") and not is_head and not _is_rule(line):
            cells = [_plain(cell) for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
            if len(cells) > 1 and cells[0]:
                found[cells[0]] = cells[1]
    return found


def _is_rule(line: str) -> bool:
    return re.fullmatch(r"\s*\|[\s:|-]+\|\s*", line) is not None


def _plain(cell: str) -> str:
    """Return Markdown as plain text: no emphasis, code marks or links."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", cell)
    return re.sub(r"\*\*|`|\\(?=\|)", "", text).strip()
