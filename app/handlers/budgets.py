"""Compute what stands below the budget slider: paper budgets for the picture at hand, and what they mean per layer."""

from __future__ import annotations

from typing import Any

from app import messages
from app.errors import sentence_for
from app.handlers.explore import Handlers
from app.session import SessionState
from pruning.budget import n_keep
from pruning.errors import PruningError
from pruning.interface import ModelInfo
from pruning.methods import FROM_FILES, method_class
from pruning.methods.base import TokenPruner
from pruning.methods.published_budgets import meaning, presets
from pruning.models import find_spec


def budgets(
    handlers: Handlers, state: SessionState, key: str, model: str, own: dict[str, Any], session: str
) -> dict[str, Any]:
    """Return the model's own count of visual tokens, the presets with their slider positions, and a note.

    Args:
        key: of the chosen method. own: its parameters.
    """
    scale, adapter = handlers.n_tokens, handlers.service.at_hand(model)
    if adapter is None:  # the slider's scale is the bundled model's count
        return _nothing(scale if find_spec(model).bundled else 0, scale) | {"note": messages.UNKNOWN_MODEL}
    found = _nothing(scale, scale)
    try:
        found = _nothing(adapter.layout_of(handlers.album.visual_input(state)).n_tokens, scale)
        own = handlers.decisions.fill(key, own, session)
        return found | _told(method_class(key), own, adapter.info, found["total"], scale)
    except PruningError as error:
        return found | {"note": sentence_for(error)}


def opening(slider: int, scale: int) -> dict[str, Any]:
    """Return the value at page load. The slider goes from 1 to `scale` and stands at `slider`."""
    return _nothing(scale, scale) | {"slider": slider}


def _nothing(total: int, scale: int) -> dict[str, Any]:
    return {"total": total, "scale": scale, "presets": [], "note": ""}


def _told(method: type[TokenPruner], own: dict[str, Any], info: ModelInfo, total: int, scale: int) -> dict[str, Any]:
    if method.key in FROM_FILES:
        text = meaning(method.from_parameters(1 / 2, own), info, total).text
        return {"note": messages.FILE_DECIDES.format(text=text), "decided": True}
    found = []
    for count in presets(total):
        place = max(1, round(count * scale / total))
        really = n_keep(place / scale, total)
        text = meaning(method.from_parameters(really / total, own), info, total).text
        found.append({"count": really, "slider": place, "text": text})
    return {"presets": found}
