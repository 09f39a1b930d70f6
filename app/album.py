"""The pictures that visitors speak of: examples by number, their own by the file that they sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from app.caches import BoundedCache
from app.examples import Example
from app.session import SessionState
from pruning.archive import is_archive, picture_in
from pruning.errors import ImageRejectedError
from pruning.pictures import read_picture
from viz.view import picture_url


class Album:
    """Finds, decodes and keeps the last few pictures.

    Args:
        upload_folder: where visitors' files arrive; nothing outside it is ever read for them.
    """

    def __init__(self, examples: Sequence[Example], upload_folder: Path) -> None:
        self.examples, self.upload_folder = examples, upload_folder.resolve()
        self._pictures, self._urls = BoundedCache(16), BoundedCache(16)

    def example(self, state: SessionState) -> Example | None:
        """The example that a session looks at, or None for a picture of its own."""
        kind, _, number = state.picture.partition(":")
        return self.examples[int(number)] if kind == "example" else None

    def picture(self, state: SessionState) -> np.ndarray:
        """The picture that a session speaks of, uint8 `[height, width, 3]` RGB.

        Raises:
            PruningError: with what is wrong with the file.
        """
        example = self.example(state)
        if example is not None:
            return example.picture
        known = self._pictures.get(state.picture)
        if known is None:
            known = read_picture(self.file(state))
            self._pictures.put(state.picture, known)
        return known

    def url(self, state: SessionState) -> str:
        """The picture as a data URL, of a size for screens."""
        known = self._urls.get(state.picture)
        if known is None:
            known = picture_url(self.picture(state))[0]
            self._urls.put(state.picture, known)
        return known

    def file(self, state: SessionState) -> bytes:
        """The file of the picture; out of a saved run, if that is what was sent."""
        example = self.example(state)
        if example is not None:
            return example.path.read_bytes()
        data = self.sent(state)
        return picture_in(data) if is_archive(data) else data

    def sent(self, state: SessionState) -> bytes:
        """What a visitor sent. Only files that came through the upload door, whatever a browser claims."""
        gone = ImageRejectedError("That picture is no longer here.", "Bring it again.")
        try:
            path = Path(state.picture.partition(":")[2]).resolve()
            if path.is_relative_to(self.upload_folder) and path.is_file():
                return path.read_bytes()
        except (OSError, ValueError) as error:
            raise gone from error
        raise gone
