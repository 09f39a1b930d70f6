"""Decisions made elsewhere that visitors brought: what stays, or what is merged, as files say it."""

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
    """The last decision of every visitor.

    Args:
        album: opens what came through the upload door.
    """

    def __init__(self, album: Album) -> None:
        self._album, self._found = album, BoundedCache(KEPT)

    def bring(self, path: str, session: str) -> tuple[dict[str, str], Any]:
        """Status, and the method to choose; a file that is none changes nothing."""
        try:
            found = read_decision(self._album.sent(SessionState(f"upload:{path}")))
            method = Imported.from_parameters(1.0, found)
        except PruningError as error:
            return {"kind": "error", "text": sentence_for(error)}, gr.skip()
        self._found.put(session, found)
        text = messages.DECISION_TAKEN.format(name=Path(path).name[:60], what=method.variant())
        return {"kind": "idle", "text": text}, Imported.key

    def fill(self, method: Any, parameters: Any, session: str) -> Any:
        """A method's parameters; with what the visitor's file says, for the method that needs one.

        Raises:
            ParameterError: if there is no such file.
        """
        if method != Imported.key or not isinstance(parameters, dict) or from_file(parameters):
            return parameters
        known = self._found.get(session)
        if known is None:
            raise ParameterError("No file with a decision is here.", "Import one under Advanced, then press Run.")
        return known | parameters
