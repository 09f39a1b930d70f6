"""Pictures and videos whose content a test knows."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

COLORS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)


def quadrants(width: int, height: int) -> np.ndarray:
    """Red, green / blue, yellow."""
    y, x = np.mgrid[:height, :width]
    return COLORS[(y >= height / 2) * 2 + (x >= width / 2)]


def film(path: Path, n_frames: int = 5) -> str:
    """A video file of 90 x 60 pixels and two frames a second, every frame brighter than the one before."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 2.0, (90, 60))
    for n in range(n_frames):
        writer.write(np.full((60, 90, 3), 40 * n, np.uint8))
    writer.release()
    return str(path)
