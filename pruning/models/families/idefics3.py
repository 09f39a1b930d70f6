"""The Idefics3 family, SmolVLM and SmolVLM2 among it: tiles and an overview, pixel shuffle, one linear projector.

Conventions and where they are handled: the picture is stretched over whole tiles, whose markers (`<row_1_col_1>`) are
text and always stay (`layout`); the tower's last norm comes before the projector (`_tokens`); pixel shuffle lays the
patches of a square side by side, so before the projector a token is a row of several patches. The tower (SigLIP) has no
[CLS]: what its patches receive stands in for that (added up over the patches of a token), and they have no key in
common. Rows are not dropped inside the tower, where one token of several patches could lose some of them. SmolVLM2 has
classes of its own for the same arithmetic; its processor's part for pictures is that of Idefics3, which does not ask
for the packages that its part for videos takes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from transformers import Idefics3ForConditionalGeneration, Idefics3Processor, SmolVLMForConditionalGeneration
from transformers.models.idefics3.image_processing_pil_idefics3 import get_resize_output_image_size

from pruning.interface import Signal
from pruning.layout import TokenLayout
from pruning.models.base import VisionFeatures
from pruning.models.families.base import Family
from pruning.models.families.tiling import tiles_then_overview
from pruning.models.prompt import Prompt
from pruning.models.weights.blocks import Anatomy


class Idefics3Adapter(Family):
    model_class = Idefics3ForConditionalGeneration
    tower_signals = frozenset({Signal.RECEIVED_ATTENTION})
    no_tower_stages = "several patches of its tower make one token"
    picture_end = "<fake_token_around_image>"

    def anatomy(self, model, name: str) -> Anatomy:
        tower = model.model.vision_model
        layers = tower.encoder.layers
        return Anatomy(
            tower, layers, "self_attn", len(layers) - 1, 0, model.model.text_model, model.config.scale_factor**2
        )

    def layout(self, picture_wh: tuple[int, int]) -> TokenLayout:
        images, vision = self.processor.image_processor, self.model.config.vision_config
        side = images.max_image_size["longest_edge"]
        grid_hw = self._grid(picture_wh, side) if images.do_image_splitting else (1, 1)
        in_a_row = self.model.config.scale_factor * vision.patch_size  # pixels along a side of a token
        cells = vision.image_size // in_a_row
        return tiles_then_overview(picture_wh, grid_hw, side, cells, cells * in_a_row / side)

    def _grid(self, picture_wh: tuple[int, int], side: int) -> tuple[int, int]:
        """Rows and columns of tiles: enlarged to the processor's longest edge, then to whole tiles."""
        empty = np.broadcast_to(np.uint8(0), (3, picture_wh[1], picture_wh[0]))  # only its shape is read
        height, width = get_resize_output_image_size(empty, self.processor.image_processor.size["longest_edge"])
        if width >= height:
            cols = math.ceil(width / side)
            return math.ceil(int(cols * side / (width / height)) / side), cols
        rows = math.ceil(height / side)
        return rows, math.ceil(int(rows * side * (width / height)) / side)

    def _forward_vision(self, prompt: Prompt) -> object:
        return self.model.model.vision_model(prompt.pixels[0])

    def _tokens(self, encoded: VisionFeatures, prompt: Prompt) -> VisionFeatures:
        core, tiles = self.model.model, prompt.pixels.shape[1]
        numbers = torch.arange(len(encoded.ids), dtype=torch.float64, device=encoded.ids.device).view(tiles, -1, 1)
        members = core.connector.pixel_shuffle(numbers, core.connector.scale_factor)  # the model's own order
        encoded.features = core.vision_model.post_layernorm(encoded.features)
        return encoded.made_of(members.flatten(0, 1).long())

    def _project(self, features: torch.Tensor) -> torch.Tensor:
        return self.model.model.connector.modality_projection(features)


class SmolVLMAdapter(Idefics3Adapter):
    model_class = SmolVLMForConditionalGeneration
    processor_class = Idefics3Processor
