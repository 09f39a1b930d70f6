"""Handlers for imported decisions: files that say which visual tokens are kept or merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from app import messages
from app.errors import sentence_for
from app.media.album import Album
from app.serving.caches import BoundedCache
from app.session import SessionState
from pruning.errors import ParameterError, PruningError
from pruning.methods.imported import Imported
from pruning.records.decisions import from_file, read_decision

KEPT = 64  # visitors


class Decisions:
    """Keep the last imported decision of every visitor.

    Args:
        album: opens uploaded files.
    """

    def __init__(self, album: Album) -> None:
        self._album, self._found = album, BoundedCache(KEPT)

    def bring(self, path: str, session: str) -> tuple[dict[str, str], Any]:
        """Return status and the method to choose; a file that holds no decision changes nothing."""
        try:
            found = read_decision(self._album.sent(SessionState(f"upload:{path}")))
            method = Imported.from_parameters(1.0, found)
        except PruningError as error:
            return {"kind": "error", "text": sentence_for(error)}, gr.skip()
        self._found.put(session, found)
        text = messages.DECISION_TAKEN.format(name=Path(path).name[:60], what=method.variant())
        return {"kind": "idle", "text": text}, Imported.key

    def fill(self, method: Any, parameters: Any, session: str) -> Any:
        """Return a method's parameters; for the method that needs one, with the visitor's decision file.

        Raises:
            ParameterError: if there is no such file.
        """
        if method != Imported.key or not isinstance(parameters, dict) or from_file(parameters):
            return parameters
        known = self._found.get(session)
        if known is None:
            raise ParameterError("No file with a decision is here.", "Import one under Advanced, then press Run.")
        return known | parameters
