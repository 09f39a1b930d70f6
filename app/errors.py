"""Translate exceptions into the sentence that a visitor reads."""

from __future__ import annotations

import logging
import secrets

from app import messages
from pruning.errors import PruningError

log = logging.getLogger("prunescope")


def sentence_for(error: BaseException) -> str:
    """Return one sentence: that of a `PruningError`, or a general one with the code under which the error is logged."""
    if isinstance(error, PruningError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return messages.OUT_OF_MEMORY
    code = secrets.token_hex(3)
    log.error("unexpected error, note %s", code, exc_info=error)
    return messages.UNEXPECTED.format(code=code)
