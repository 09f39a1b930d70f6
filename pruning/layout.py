"""Where visual tokens lie: token index <-> grid cell <-> box of pixels in the original picture.

The only file that divides by a cell size. Numpy only; nothing here knows a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any

import numpy as np

from pruning.errors import GeometryError

EVIDENCE_SHARE = 0.125


@dataclass(frozen=True, slots=True)
class Tile:
    """A square or oblong part of the picture that the vision tower looks at, cut into a grid of visual tokens.

    Attributes:
        box_xyxy: the part in pixels of the original picture. It may reach outside the picture (padding).
        grid_hw: rows and columns of visual tokens.
        model_wh: width and height in pixels that the tower receives for this part.
        picture: number of the picture that it is a part of.
    """

    box_xyxy: tuple[float, float, float, float]
    grid_hw: tuple[int, int]
    model_wh: tuple[int, int]
    picture: int = 0

    def __post_init__(self) -> None:
        x0, y0, x1, y1 = self.box_xyxy
        if min(self.grid_hw) < 1 or not np.isfinite(self.box_xyxy).all() or x1 <= x0 or y1 <= y0:
            raise GeometryError(f"A tile needs at least one cell and a box with an area; got {self}.")

    @property
    def n_tokens(self) -> int:
        return self.grid_hw[0] * self.grid_hw[1]

    def boxes(self) -> np.ndarray:
        """Pixel boxes of the cells in raster order, float64 `[tokens, 4]` as x0, y0, x1, y1."""
        rows, cols = self.grid_hw
        x0, y0, x1, y1 = self.box_xyxy
        x, y = np.linspace(x0, x1, cols + 1), np.linspace(y0, y1, rows + 1)
        row, col = np.divmod(np.arange(rows * cols), cols)
        return np.stack([x[col], y[row], x[col + 1], y[row + 1]], 1)


@dataclass(frozen=True, slots=True)
class TokenLayout:
    """All visual tokens of a prompt, in the order in which the language model would read them unpruned.

    Attributes:
        picture_wh: width and height of the first picture, which is the only one as a rule; more_wh: of all others. Each
            has at least one tile, and tiles stand in the order of their pictures.
        seconds: for a video, whose grids of tokens are the pictures here: when the frames that each grid shows are
            seen. Empty for pictures.
    """

    picture_wh: tuple[int, int]
    tiles: tuple[Tile, ...]
    more_wh: tuple[tuple[int, int], ...] = ()
    seconds: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if not self.tiles:
            raise GeometryError("A token layout needs at least one tile.")
        numbers = [t.picture for t in self.tiles]
        if numbers != sorted(numbers) or set(numbers) != set(range(self.n_pictures)):
            raise GeometryError(f"{self.n_pictures} pictures need tiles each, in their order; got {numbers}.")
        if len(self.seconds) not in (0, self.n_pictures) or not all(self.seconds):
            raise GeometryError(f"Every grid of a video needs the seconds of its frames; got {self.seconds}.")

    @classmethod
    def joined(cls, layouts: Sequence[TokenLayout], seconds: Sequence[Sequence[float]] = ()) -> TokenLayout:
        """The layout of a prompt that shows several pictures, from one layout for each."""
        tiles = tuple(replace(t, picture=n) for n, layout in enumerate(layouts) for t in layout.tiles)
        first, *others = (layout.picture_wh for layout in layouts)
        return cls(first, tiles, tuple(others), tuple(tuple(s) for s in seconds))

    def parts(self) -> list[TokenLayout]:
        """A layout for each picture by itself: the inverse of `joined`, seconds aside."""
        own = [[t for t in self.tiles if t.picture == n] for n in range(self.n_pictures)]
        pairs = zip(self.pictures_wh, own, strict=True)
        return [TokenLayout(wh, tuple(replace(t, picture=0) for t in tiles)) for wh, tiles in pairs]

    @property
    def pictures_wh(self) -> tuple[tuple[int, int], ...]:
        return (self.picture_wh, *self.more_wh)

    @property
    def n_pictures(self) -> int:
        return 1 + len(self.more_wh)

    def names(self) -> list[str]:
        """What to call each picture; a grid of a video by its frames, counted from 1, and their seconds."""
        if not self.seconds:
            return [f"picture {n + 1}" for n in range(self.n_pictures)]
        names = []
        for (first, *others), times in zip(self.frames(), self.seconds, strict=True):
            frames = f"frames {first + 1} and {first + 2}" if len(others) == 1 else f"frame {first + 1}"
            names.append(f"{frames}, {' and '.join(f'{t:.1f}' for t in times)} s")
        return names

    def frames(self) -> list[list[int]]:
        """Numbers, from 0, of the frames that each grid of a video shows; of a picture its own."""
        counts, numbers = [len(times) for times in self.seconds] or [1] * self.n_pictures, count()
        return [list(islice(numbers, n)) for n in counts]

    @property
    def n_tokens(self) -> int:
        return sum(t.n_tokens for t in self.tiles)

    def boxes(self) -> np.ndarray:
        """Pixel boxes in the original picture, `[tokens, 4]`; outside it where the model sees padding."""
        return np.concatenate([t.boxes() for t in self.tiles])

    def positions(self) -> np.ndarray:
        """Where every token begins, down and across, as a share of all that the model looks at of its picture, float64
        `[tokens, 2]`.

        With one tile: row and column divided by their numbers. The same place in two tiles, or pictures, has the same
        position.
        """
        if self.n_pictures > 1:
            return np.concatenate([part.positions() for part in self.parts()])
        boxes = np.array([t.box_xyxy for t in self.tiles])
        first, size = boxes[:, :2].min(0), boxes[:, 2:].max(0) - boxes[:, :2].min(0)
        places = []
        for tile, (x0, y0, x1, y1) in zip(self.tiles, boxes, strict=True):
            start, share = ((np.array(p) / size)[::-1] for p in ((x0 - first[0], y0 - first[1]), (x1 - x0, y1 - y0)))
            places.append(start + _cells(tile) / np.array(tile.grid_hw) * share)
        return np.concatenate(places)

    def tile_numbers(self) -> np.ndarray:
        """The tile that every token lies in, int64 `[tokens]`."""
        return np.repeat(np.arange(len(self.tiles)), [t.n_tokens for t in self.tiles])

    def picture_numbers(self) -> np.ndarray:
        """The picture, or the grid of a video, that every token lies in, int64 `[tokens]`."""
        return np.array([t.picture for t in self.tiles])[self.tile_numbers()]

    def views(self) -> list[list[int]]:
        """Tiles that can be drawn on one picture because none covers another: numbers of tiles, view by view, picture
        by picture, and of a picture the view with the most tokens first.
        """
        views: list[list[int]] = []
        for number, tile in enumerate(self.tiles):
            free = (v for v in views if not any(_overlap(tile, self.tiles[other]) for other in v))
            view = next(free, None)
            if view is None:
                views.append([number])
            else:
                view.append(number)
        return sorted(
            views, key=lambda v: (self.tiles[v[0]].picture, -sum(self.tiles[number].n_tokens for number in v))
        )

    def padding(self) -> np.ndarray:
        """True for tokens whose centre lies outside the picture, bool `[tokens]`."""
        boxes = self.boxes()
        x, y = (boxes[:, 0] + boxes[:, 2]) / 2, (boxes[:, 1] + boxes[:, 3]) / 2
        width, height = np.array(self.pictures_wh)[self.picture_numbers()].T
        return (x < 0) | (y < 0) | (x > width) | (y > height)

    def coverage(self, mask: np.ndarray) -> np.ndarray:
        """Share of every token's box that a boolean mask of the first picture covers, float32 `[tokens]`.

        Args:
            mask: bool `[height, width]` in any resolution; it is read as stretched over the picture.
        """
        height, width = mask.shape
        total = np.zeros((height + 1, width + 1))
        total[1:, 1:] = mask.cumsum(0).cumsum(1)
        scale = np.array([width / self.picture_wh[0], height / self.picture_wh[1]] * 2)
        boxes = self.boxes() * scale
        x0, y0, x1, y1 = np.clip(np.rint(boxes), 0, [width, height, width, height]).astype(int).T
        inside = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        return np.where(self.picture_numbers() == 0, (inside / area).clip(0, 1), 0).astype(np.float32)

    def tokens_of(self, mask: np.ndarray) -> np.ndarray:
        """Ids of the tokens that hold part of a thing: more than `EVIDENCE_SHARE` of them lies under its mask."""
        return np.flatnonzero(self.coverage(mask) > EVIDENCE_SHARE).astype(np.int32)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; what only several pictures or a video have is left out for one picture."""
        several = self.n_pictures > 1
        tiles = [
            {"box_xyxy": list(t.box_xyxy), "grid_hw": list(t.grid_hw), "model_wh": list(t.model_wh)}
            | ({"picture": t.picture} if several else {})
            for t in self.tiles
        ]
        more = {"more_wh": [list(wh) for wh in self.more_wh]} if several else {}
        clock = {"seconds": [list(s) for s in self.seconds]} if self.seconds else {}
        return {"picture_wh": list(self.picture_wh), "tiles": tiles} | more | clock

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TokenLayout:
        tiles = tuple(
            Tile(tuple(t["box_xyxy"]), tuple(t["grid_hw"]), tuple(t["model_wh"]), t.get("picture", 0))
            for t in data["tiles"]
        )
        more, seconds = (tuple(tuple(row) for row in data.get(name, ())) for name in ("more_wh", "seconds"))
        return cls(tuple(data["picture_wh"]), tiles, more, seconds)


def square_view(picture_wh: tuple[int, int], how: str) -> tuple[float, float, float, float]:
    """The square of the picture that a processor shows to a square tower, in pixels of the picture.

    Args:
        how: `crop` (the centre square; the rest is never seen), `pad` (the full picture on a larger square) or
            `stretch` (the full picture, its proportions changed).
    """
    width, height = picture_wh
    if how == "stretch":
        return (0.0, 0.0, float(width), float(height))
    if how not in ("crop", "pad"):
        raise GeometryError(f"A picture is shown by crop, pad or stretch; got {how!r}.")
    side = min(width, height) if how == "crop" else max(width, height)
    x0, y0 = (width - side) / 2, (height - side) / 2
    return (x0, y0, x0 + side, y0 + side)


def _overlap(one: Tile, other: Tile) -> bool:
    """Do two tiles share more than an edge, or lie in different pictures? Edges may be a rounding apart."""
    (a0, b0, a1, b1), (c0, d0, c1, d1) = one.box_xyxy, other.box_xyxy
    covers = min(a1, c1) - max(a0, c0) > 1e-6 and min(b1, d1) - max(b0, d0) > 1e-6
    return covers or one.picture != other.picture


def _cells(tile: Tile) -> np.ndarray:
    rows, cols = tile.grid_hw
    return np.stack(np.divmod(np.arange(rows * cols), cols), 1)
