"""Drawn scenes whose objects are all known, the only pictures that the bundled model was trained on.

A scene is sampled first (as numbers, in fractions of the side) and drawn afterwards at any resolution, so a picture on
the page at 768 pixels and one for training at 192 pixels can show the same scene. Seeds are pairs (split, index), so
training and evaluation scenes differ by construction.

This module does not depend on questions, tokens or models.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "heart", "diamond")
COLORS = {
    "red": (220, 40, 40),
    "green": (50, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (240, 210, 40),
    "purple": (150, 60, 190),
    "orange": (245, 140, 30),
    "pink": (250, 150, 190),
    "black": (30, 30, 30),
    "white": (245, 245, 245),
    "brown": (130, 80, 40),
}
# Radius ranges in fractions of the side. The gaps between them keep "how big?" answerable.
SIZES = {"tiny": (0.038, 0.047), "small": (0.062, 0.085), "large": (0.120, 0.155)}
ZONES = (
    "top left", "top", "top right",
    "left", "center", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
MAX_OBJECTS = 9
ALIKE = 0.35  # without scenes that repeat a few shapes or colours nearly every count would be one
SPLITS = {"train": 0, "evaluate": 1, "examples": 2, "windows": 3}

_DIGIT_CARRIERS = ("circle", "square", "diamond", "heart")  # convex enough to hold a glyph
_ZONE_MARGIN = 0.03  # centres stay this far from the lines between zones, so "where?" has one answer
_GAP = 0.02  # free space between neighbouring objects


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One drawn object. Position and radius are fractions of the side; `digit` is None on most objects."""

    shape: str
    color: str
    size: str
    digit: int | None
    x: float
    y: float
    radius: float
    tilt: float
    rgb: tuple[int, int, int]

    @property
    def zone(self) -> str:
        """The ninth of the picture that contains the centre."""
        return ZONES[min(2, int(self.y * 3)) * 3 + min(2, int(self.x * 3))]

    @property
    def name(self) -> str:
        return f"{self.size} {self.color} {self.shape}"


@dataclass(frozen=True, slots=True)
class Scene:
    """Objects plus the seed of the background."""

    objects: tuple[SceneObject, ...]
    background_seed: int


def scene_rng(split: str, index: int) -> np.random.Generator:
    """Return the generator of scene `index` of a split of `SPLITS`; no two splits share a stream."""
    return np.random.default_rng((SPLITS[split], index))


def sample_scene(rng: np.random.Generator, low: int = 1, high: int = MAX_OBJECTS, alike: float = ALIKE) -> Scene:
    """Sample a scene with `low` to `high` objects that do not touch.

    The more objects are requested, the smaller they are on average; in a full picture the scene has as many as fit
    (at least one). `alike` is the probability that a scene repeats two or three shapes, and that it repeats
    two or three colours.
    """
    wanted = int(rng.integers(low, high + 1))
    shapes = rng.permutation(SHAPES)[: int(rng.integers(2, 4)) if rng.random() < alike else len(SHAPES)]
    colors = rng.permutation(list(COLORS))[: int(rng.integers(2, 4)) if rng.random() < alike else len(COLORS)]
    large, small = (0.5, 0.33) if wanted <= 3 else (0.3, 0.48) if wanted <= 6 else (0.15, 0.6)
    objects: list[SceneObject] = []
    for _ in range(200):
        if len(objects) == wanted:
            break
        draw = rng.random()
        size = "large" if draw < large else "small" if draw < large + small else "tiny"
        radius = float(rng.uniform(*SIZES[size]))
        x, y = (float(v) for v in rng.uniform(radius + 0.01, 1 - radius - 0.01, 2))
        if any(abs(v - line) < _ZONE_MARGIN for v in (x, y) for line in (1 / 3, 2 / 3)):
            continue
        if any((x - o.x) ** 2 + (y - o.y) ** 2 < (radius + o.radius + _GAP) ** 2 for o in objects):
            continue
        shape = str(shapes[rng.integers(len(shapes))])
        color = str(colors[rng.integers(len(colors))])
        has_digit = size == "large" and shape in _DIGIT_CARRIERS and rng.random() < 0.75
        jitter = np.clip(np.array(COLORS[color]) + rng.normal(0, 8, 3), 0, 255)
        objects.append(
            SceneObject(
                shape=shape,
                color=color,
                size=size,
                digit=int(rng.integers(10)) if has_digit else None,
                x=x,
                y=y,
                radius=radius,
                tilt=float(rng.uniform(-0.25, 0.25)),
                rgb=tuple(int(v) for v in jitter),
            )
        )
    return Scene(tuple(objects), int(rng.integers(2**31)))


def draw(scene: Scene, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene as a picture.

    Returns:
        The picture, uint8 `[side, side, 3]` RGB, and the object map, uint8 `[side, side]`: 0 is background, k is
        object k - 1.
    """
    scale = 2  # supersampling, so that edges are smooth at the model's resolution
    canvas = cv2.resize(_background(scene.background_seed), (side * scale,) * 2, interpolation=cv2.INTER_LINEAR)
    ids = np.zeros((side * scale,) * 2, np.uint8)
    for number, thing in enumerate(scene.objects, start=1):
        contours = [np.round(c * side * scale * 256).astype(np.int32) for c in _contours(thing)]
        cv2.fillPoly(canvas, contours, thing.rgb, cv2.LINE_AA, shift=8)
        cv2.fillPoly(ids, contours, number, cv2.LINE_8, shift=8)
        if thing.digit is not None:
            _draw_digit(canvas, thing, side * scale)
    picture = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
    return picture, cv2.resize(ids, (side, side), interpolation=cv2.INTER_NEAREST)


def patch_coverage(ids: np.ndarray, n_objects: int, rows: int, cols: int) -> np.ndarray:
    """Return the share of every patch that every object covers, float32 `[rows * cols, n_objects]`, in raster order."""
    height, width = ids.shape
    cells = ids.reshape(rows, height // rows, cols, width // cols)
    shares = [(cells == k).mean(axis=(1, 3)) for k in range(1, n_objects + 1)]
    return np.stack(shares, -1).reshape(rows * cols, n_objects).astype(np.float32)


def _background(seed: int) -> np.ndarray:
    """Return a faint texture at a fixed resolution, so that it is the same at every size of the drawing."""
    rng = np.random.default_rng(seed)
    side = 192
    tone = rng.integers(100, 200, 3).astype(np.float64)
    image = np.ones((side, side, 3)) * (
        0.7 * tone.mean() + 0.3 * tone
    )  # greyish, so that no background resembles an object
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    kind = rng.integers(5)
    width = int(rng.integers(10, 36))
    if kind == 1:
        ramp = 1 - 0.4 * np.linspace(0, 1, side)
        image *= (ramp[:, None] if rng.random() < 0.5 else ramp[None, :])[..., None]
    elif kind == 2:
        image *= (1 - 0.12 * (((x + y * rng.integers(-1, 2)) // width) % 2))[..., None]
    elif kind == 3:
        coarse = rng.normal(0, 18, (side // 8, side // 8)).astype(np.float32)
        image += cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)[..., None]
    elif kind == 4:
        image *= (1 - 0.12 * ((x // width + y // width) % 2))[..., None]
    return np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)


def _outline(shape: str) -> list[np.ndarray]:
    """Return contours in units of the radius, y down; the second contour of a ring is its hole."""
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    if shape == "circle":
        return [circle]
    if shape == "ring":
        return [circle, circle * 0.55]
    if shape == "heart":
        wave = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
        return [np.stack([16 * np.sin(turn) ** 3, -wave], 1) / 17]
    if shape == "star":
        reach = np.where(np.arange(10) % 2 == 0, 1.0, 0.45)
        spoke = np.arange(10) * np.pi / 5
        return [np.stack([reach * np.sin(spoke), -reach * np.cos(spoke)], 1)]
    arm = 0.33
    corners = {
        "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
        "triangle": [(0, -1), (0.95, 0.8), (-0.95, 0.8)],
        "diamond": [(0, -1.05), (0.7, 0), (0, 1.05), (-0.7, 0)],
        "cross": [
            (-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm),
            (arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm),
        ],
    }  # fmt: skip
    return [np.array(corners[shape], dtype=np.float64)]


def _contours(thing: SceneObject) -> list[np.ndarray]:
    cos, sin = np.cos(thing.tilt), np.sin(thing.tilt)
    rotation = np.array([[cos, -sin], [sin, cos]]).T
    return [c @ rotation * thing.radius + (thing.x, thing.y) for c in _outline(thing.shape)]


def _draw_digit(canvas: np.ndarray, thing: SceneObject, side: int) -> None:
    luminance = np.dot(thing.rgb, (0.3, 0.59, 0.11))
    ink = (20, 20, 20) if luminance > 120 else (240, 240, 240)
    radius = thing.radius * side
    font, text = cv2.FONT_HERSHEY_DUPLEX, str(thing.digit)
    height = cv2.getTextSize(text, font, 1.0, 1)[0][1]
    scale = 1.05 * radius / height
    thickness = max(1, round(radius / 9))
    (w, h), _ = cv2.getTextSize(text, font, scale, thickness)
    corner = (round(thing.x * side - w / 2), round(thing.y * side + h / 2))
    cv2.putText(canvas, text, corner, font, scale, ink, thickness, cv2.LINE_AA)
