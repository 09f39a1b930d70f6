"""Paint the attention of one head on the picture."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from pruning.layout import TokenLayout
from viz.page.run import picture_url

LONGEST, HEAT = 640, 0.68  # pixels; opacity of the heat map
MEANS = {
    "vision tower": "Mean over all rows of the vision tower, [CLS] included where there is one.",
    "language model": "Mean over the prompt's text after the picture, chat template included.",
}


def head_attention_view(picture: np.ndarray, layout: TokenLayout, weights: np.ndarray, part: str) -> dict[str, Any]:
    """Return the painted picture as a data URL, and a sentence about it.

    Args:
        picture: uint8 `[height, width, 3]`. weights: `[tokens]` as `pruning.engine.head_attention` returns them; where
            tiles cover each other they add up.
    """
    scale = min(1.0, LONGEST / max(picture.shape[:2]))
    width, height = (max(1, round(side * scale)) for side in picture.shape[1::-1])
    heat = np.zeros((height, width))
    places = np.rint(layout.boxes() * np.array([width / layout.picture_wh[0], height / layout.picture_wh[1]] * 2))
    for (x0, y0, x1, y1), weight in zip(np.clip(places, 0, [width, height] * 2).astype(int), weights, strict=True):
        heat[y0:y1, x0:x1] += weight / max(1, (x1 - x0) * (y1 - y0))
    shades = np.rint(255 * np.sqrt(heat / max(heat.max(), 1e-12))).astype(np.uint8)
    paint = cv2.cvtColor(cv2.applyColorMap(shades, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB)
    grey = cv2.cvtColor(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
    mixed = cv2.addWeighted(paint, HEAT, cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), 1 - HEAT, 0)
    total = float(weights.sum())
    half = int(np.searchsorted(np.cumsum(np.sort(weights)[::-1]), total / 2)) + 1
    said = f"{total:.0%} of its attention goes to the picture, half of that to {half} of {len(weights)} visual tokens. "
    return {"picture": picture_url(mixed)[0], "says": f"{said}{MEANS.get(part, '')} Yellow is most; square-root scale."}
