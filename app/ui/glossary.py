"""Read docs/glossary.md for the page: its dialog, and the tooltips of terms."""

from __future__ import annotations

import re
from pathlib import Path

ENTRY = re.compile(r"\*\*(.+?)\*\*: (.+)")
GLOSSARY = Path(__file__).parents[2] / "docs" / "glossary.md"


def read_glossary(path: Path = GLOSSARY) -> dict[str, str]:
    """Return meanings by term, as plain text, from the lines `**term**: meaning` of a Markdown file, if it exists."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines()
    return {_plain(m[1]): _plain(m[2]) for line in lines if (m := ENTRY.fullmatch(line))}


def _plain(text: str) -> str:
    """Return Markdown as plain text: no emphasis, code marks or links."""
    text = re.sub(r"\[([^\]]*)\]\(https?://[^)]*\)", r"\1", text)
    return re.sub(r"\*\*|`|\\(?=\|)", "", text).strip()
