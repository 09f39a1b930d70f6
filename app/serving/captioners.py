"""The captioners that this page can open, by compensator key."""

from __future__ import annotations

from pathlib import Path

from app.settings import Settings
from pruning.compensation.accm import DEFAULT_FOLDER, Accm
from pruning.compensation.checkpoint import is_captioner
from pruning.compensation.untrained import UntrainedCaptioner
from pruning.errors import LinkError
from pruning.models import find_spec


def name_of(source: str) -> str:
    """Return a captioner's name in a link: hub id or folder; empty for the bundled one."""
    return "" if Path(source) == DEFAULT_FOLDER else source


def check_link(key: str, captioner: str, sources: dict[str, str]) -> None:
    """Check that this page has the captioner that a link asks for: `captioner` (see `name_of`), of kind `key`.

    Raises:
        LinkError: if it does not.
    """
    if key not in sources:
        raise LinkError(
            f"The link asks for the captioner {key!r}, and this page has no captioner of that kind.",
            "Start PruneScope with --captioner for it.",
        )
    if captioner != name_of(sources[key]):
        theirs = f"those of {captioner[:80]!r}" if captioner else "those of the bundled captioner"
        raise LinkError(
            f"The link's captions were {theirs}; on this page another one writes them.",
            "Start PruneScope with that --captioner, or without one for the bundled one.",
        )


def captioners_of(settings: Settings) -> dict[str, str]:
    """Return the source of every compensator that this page opens, by key. With none, captions are written by hand."""
    found = {}
    if find_spec(settings.model).bundled and DEFAULT_FOLDER.is_dir():
        found[Accm.key] = str(DEFAULT_FOLDER)
    if settings.captioner:
        trained = is_captioner(Path(settings.captioner))
        found[Accm.key if trained else UntrainedCaptioner.key] = settings.captioner
    return found
