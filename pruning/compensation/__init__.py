"""The table of compensators: giving back in words what was pruned. A new one is one new file and one line here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pruning.compensation.accm import Accm
from pruning.compensation.base import Compensator, unknown_compensator

if TYPE_CHECKING:
    from pruning.models.base import VLMAdapter

COMPENSATORS: dict[str, type[Compensator]] = {c.key: c for c in (Accm,)}


def open_compensator(key: str, adapter: VLMAdapter, source: Path | str | None = None) -> Compensator:
    """A compensator of the table, ready for a loaded model. `source` is its folder; by default the one in `assets`.

    Raises:
        CaptionRejectedError: for a key that is not in the table.
        CompensatorUnavailableError: if its weights are missing, or made for another model.
    """
    if key not in COMPENSATORS:
        raise unknown_compensator(key, list(COMPENSATORS))
    return COMPENSATORS[key].open(adapter, source)
