"""Write the stages of a run as an animated GIF or MP4."""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

SECONDS = 1.4  # duration of a stage
LAST_SECONDS = 2.8
MP4_RATE = 10


def gif(pictures: Sequence[np.ndarray], inside: dict) -> bytes:
    """Return an endless GIF of frames uint8 `[height, width, 3]` RGB. `inside` is its comment, as JSON."""
    pages = [Image.fromarray(p).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE) for p in pictures]
    durations = [round(1000 * s) for s in _seconds(len(pages))]
    buffer = io.BytesIO()
    pages[0].save(
        buffer, "GIF", save_all=True, append_images=pages[1:], duration=durations, loop=0, disposal=1,
        comment=json.dumps(inside).encode(),
    )  # fmt: skip
    return buffer.getvalue()


def mp4(pictures: Sequence[np.ndarray]) -> bytes:
    """Return an MP4 (MPEG-4 Part 2, which OpenCV's own build can write) of frames uint8 `[height, width, 3]` RGB."""
    height, width = (side - side % 2 for side in pictures[0].shape[:2])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stages.mp4"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), MP4_RATE, (width, height))
        if not writer.isOpened():
            raise RuntimeError("OpenCV could not open its MP4 writer")
        for picture, seconds in zip(pictures, _seconds(len(pictures)), strict=True):
            frame = cv2.cvtColor(picture[:height, :width], cv2.COLOR_RGB2BGR)
            for _ in range(round(seconds * MP4_RATE)):
                writer.write(frame)
        writer.release()
        return path.read_bytes()


def _seconds(count: int) -> list[float]:
    return [SECONDS] * (count - 1) + [LAST_SECONDS]
