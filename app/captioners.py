"""Who can put into words what was dropped, on a page that was started so."""

from __future__ import annotations

from pathlib import Path

from app.settings import Settings
from pruning.compensation.accm import DEFAULT_FOLDER, Accm
from pruning.compensation.storage import is_captioner
from pruning.compensation.untrained import UntrainedCaptioner
from pruning.models import find_spec


def name_of(source: str) -> str:
    """What a link calls a captioner: hub id or folder; nothing for the bundled one."""
    return "" if Path(source) == DEFAULT_FOLDER else source


def captioners_of(settings: Settings) -> dict[str, str]:
    """The source of every compensator that this page opens, by key. With none, captions can be written by hand."""
    found = {}
    if find_spec(settings.model).bundled and DEFAULT_FOLDER.is_dir():
        found[Accm.key] = str(DEFAULT_FOLDER)
    if settings.captioner:
        trained = is_captioner(Path(settings.captioner))
        found[Accm.key if trained else UntrainedCaptioner.key] = settings.captioner
    return found
