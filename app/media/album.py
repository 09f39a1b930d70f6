"""Find and decode the pictures and videos of visitors: examples by number, uploads by path."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from app.media.examples import Example
from app.serving.caches import BoundedCache
from app.session import SessionState
from pruning.errors import ImageRejectedError
from pruning.inputs.content import VideoClip, images_of
from pruning.inputs.images import read_image
from pruning.inputs.video import is_film, read_film
from pruning.records.archive import pictures_in
from pruning.records.io import is_archive
from viz.page.run import picture_url

MOST_PICTURES = 8
MOST_MEGAPIXELS, MOST_BYTES = 40, 40 * 2**20  # of all pictures of a prompt


class Pictures(tuple[np.ndarray, ...]):
    """Pictures with their total size in bytes, for the cache."""

    __slots__ = ()

    @property
    def nbytes(self) -> int:
        return sum(p.nbytes for p in self)


class Album:
    """Find, decode and cache the last few pictures.

    Args:
        upload_folder: where uploads are stored; nothing outside it is ever read for a visitor.
    """

    def __init__(self, examples: Sequence[Example], upload_folder: Path) -> None:
        self.examples, self.upload_folder = examples, upload_folder.resolve()
        self._pictures, self._urls = BoundedCache(16), BoundedCache(16)

    def example(self, state: SessionState) -> Example | None:
        """Return the example of a session, or None for an uploaded picture."""
        kind, _, number = state.picture.partition(":")
        return self.examples[int(number)] if kind == "example" else None

    def visual_input(self, state: SessionState) -> Pictures | VideoClip:
        """Return the visual input of a session: pictures uint8 `[height, width, 3]` RGB, or a video.

        Raises:
            PruningError: with what is wrong with a file, or with all of them together.
        """
        example = self.example(state)
        if example is not None:
            return Pictures((example.picture,))
        known = self._pictures.get(state.picture)
        if known is None:
            names = cycle(Path(path).name for path in state.picture.partition(":")[2].split("\n"))
            known = self._decoded(self.files(state), names)
            self._pictures.put(state.picture, known)
        return known

    def is_video(self, state: SessionState) -> bool:
        """Return whether the session has a single file that is meant as a video."""
        kind, _, path = state.picture.partition(":")
        return kind != "example" and "\n" not in path and is_film(self._sent(path), Path(path).name)

    def pictures(self, state: SessionState) -> tuple[np.ndarray, ...]:
        """Return the pictures, or the frames sampled from the video."""
        return images_of(self.visual_input(state))

    @staticmethod
    def _decoded(files: Sequence[bytes], names: Iterable[str]) -> Pictures | VideoClip:
        films = [(file, name) for file, name in zip(files, names, strict=False) if is_film(file, name)]
        if films and len(files) > 1:
            raise ImageRejectedError(
                f"{len(files)} files came together, {films[0][1]} among them; a prompt shows pictures or one video.",
                "Bring the video alone, or pictures.",
            )
        if films:
            return read_film(*films[0])
        if len(files) > MOST_PICTURES:
            raise ImageRejectedError(
                f"{len(files)} pictures came together; a prompt here may have {MOST_PICTURES}.", "Bring fewer."
            )
        pictures, pixels = [], 0
        for file in files:
            pictures.append(read_image(file))
            pixels += pictures[-1].size // 3
            if pixels > MOST_MEGAPIXELS * 1e6 or sum(map(len, files)) > MOST_BYTES:
                raise ImageRejectedError(
                    f"The pictures are too large together; the limit is {MOST_MEGAPIXELS} megapixels and "
                    f"{MOST_BYTES // 2**20} MB.", "Bring smaller copies, or fewer.",
                )  # fmt: skip
        return Pictures(pictures)

    def urls(self, state: SessionState) -> list[str]:
        """Return the pictures, or frames, as data URLs in screen size."""
        known = self._urls.get(state.picture)
        if known is None:
            known = [picture_url(p)[0] for p in self.pictures(state)]
            self._urls.put(state.picture, known)
        return known

    def files(self, state: SessionState) -> list[bytes]:
        """Return the files of the pictures or of the video; from within a saved run, if one was sent."""
        example = self.example(state)
        if example is not None:
            return [example.path.read_bytes()]
        sent = [self._sent(path) for path in state.picture.partition(":")[2].split("\n")]
        return pictures_in(sent[0]) if len(sent) == 1 and is_archive(sent[0]) else sent

    def sent(self, state: SessionState) -> bytes:
        """Return what a visitor sent, the first of several files."""
        return self._sent(state.picture.partition(":")[2].partition("\n")[0])

    def _sent(self, name: str) -> bytes:
        """Return an uploaded file; nothing outside the upload folder, whatever path a browser sends."""
        gone = ImageRejectedError("That picture is no longer here.", "Bring it again.")
        try:
            path = Path(name).resolve()
            if path.is_relative_to(self.upload_folder) and path.is_file():
                return path.read_bytes()
        except (OSError, ValueError) as error:
            raise gone from error
        raise gone
