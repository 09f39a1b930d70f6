"""The bundled example pictures with their questions, correct answers and recorded runs."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
import numpy as np

from pruning.errors import RecordFormatError
from pruning.inputs.images import read_image
from pruning.layout import TokenLayout
from pruning.records.archive import names_in, read_one
from pruning.records.run import RunRecord

ASSETS = Path(__file__).parents[2] / "assets"


@dataclass(frozen=True)
class KnownQuestion:
    """A question with its correct answer and the numbers of the objects in the answer region."""

    text: str
    answer: str
    answer_region: tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """One example picture of `assets/examples`."""

    key: str
    title: str
    alt: str
    idea: str
    questions: tuple[KnownQuestion, ...]

    @property
    def place(self) -> str:
        """Path of the picture's file, relative to the root of the checkout."""
        return f"assets/examples/{self.key}.jpg"

    @property
    def path(self) -> Path:
        return ASSETS.parent / self.place

    @cached_property
    def picture(self) -> np.ndarray:
        return read_image(self.path)

    @cached_property
    def object_map(self) -> np.ndarray:
        """uint8 `[height, width]`: 0 is background, k is object k - 1."""
        return cv2.imread(str(ASSETS / "examples" / f"{self.key}.objects.png"), cv2.IMREAD_GRAYSCALE)

    @cached_property
    def thumbnail(self) -> str:
        small = cv2.resize(self.picture, (192, 192), interpolation=cv2.INTER_AREA)
        _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
        return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"

    @property
    def archive(self) -> Path:
        return ASSETS / "recordings" / f"{self.key}.zip"

    @cached_property
    def recorded_stops(self) -> dict[str, list[int]]:
        """The numbers of visual tokens with a recorded run, by method; a method without any is not in it."""
        stops: dict[str, list[int]] = {}
        for name in names_in(self.archive):
            method, count = name.rsplit("-", 1)
            stops.setdefault(method, []).append(int(count))
        return stops

    def recording(self, method: str, count: int) -> RunRecord:
        """Return the recorded run nearest to `count` visual tokens; one of the first method where this one has none."""
        stops = self.recorded_stops
        method = method if method in stops else next(iter(stops))
        near = min(stops[method], key=lambda c: abs(c - count))
        return read_one(self.archive, f"{method}-{near}")

    @cached_property
    def random_band(self) -> dict[str, dict[str, object]]:
        """Answers of random pruning with several seeds, by number of visual tokens."""
        return json.loads((ASSETS / "recordings" / f"{self.key}.random.json").read_text(encoding="utf-8"))

    @property
    def more_archive(self) -> Path:
        return ASSETS / "recordings" / f"{self.key}.more.zip"

    @property
    def more(self) -> list[str]:
        """Names of the runs recorded in addition to those of the methods (`words`, `plan`); empty without the file."""
        return names_in(self.more_archive) if self.more_archive.exists() else []

    def recorded_more(self, name: str) -> RunRecord:
        """Return one of the runs named in `more`.

        Raises:
            RecordFormatError: if there is none of that name.
        """
        if name not in self.more:
            raise RecordFormatError(f"There is no recorded run {name[:40]!r} of this example.", "Press Run instead.")
        return read_one(self.more_archive, name)

    def _known(self, question: str) -> KnownQuestion | None:
        return next((q for q in self.questions if q.text.lower() == question.lower()), None)

    def truth(self, question: str) -> str:
        """Return the correct answer to one of the known questions, else an empty string."""
        known = self._known(question)
        return known.answer if known else ""

    def answer_region(self, question: str, layout: TokenLayout) -> np.ndarray | None:
        """Return the ids of the visual tokens of the answer region of a known question, else None."""
        known = self._known(question)
        if known is None:
            return None
        mask = np.isin(self.object_map, [i + 1 for i in known.answer_region])
        return layout.tokens_of(mask)


def read_examples() -> list[Example]:
    """Return all examples in display order."""
    data = json.loads((ASSETS / "examples" / "examples.json").read_text(encoding="utf-8"))
    return [
        Example(
            e["key"], e["title"], e["alt"], e["idea"],
            tuple(KnownQuestion(q["text"], q["answer"], tuple(q["evidence"])) for q in e["questions"]),
        )
        for e in data
    ]  # fmt: skip
