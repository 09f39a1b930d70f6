"""The LLaVA-OneVision family: LLaVA-NeXT's overview and canvas of tiles, a SigLIP tower, large canvases thinned out.

Conventions and where they are handled: the tower has no [CLS]; its last layer's output feeds the projector, without the
tower's last norm (`anatomy`, as in LLaVA); a canvas of more tokens than so many tiles hold is made smaller bilinearly,
behind the projector and behind the removal of padding (`_tokens`). So a visual token of the canvas comes into being
behind the projector: nothing can be dropped before it, and such a token has no key in the tower. Its box is its share
of the canvas, which is where its middle lies; its features also hold something of its neighbours (`layout`). Newlines
are put in after that, as in LLaVA-NeXT.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F
from transformers import LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor

from pruning.errors import ImageRejectedError, ModelUnavailableError
from pruning.inputs.content import VideoClip, VisualInput, images_of
from pruning.layout import Tile, TokenLayout
from pruning.models.base import VisionFeatures
from pruning.models.families.base import pictures_only
from pruning.models.families.llava_next import LlavaNextAdapter
from pruning.models.prompt import Prompt
from pruning.models.weights.blocks import Anatomy

LARGER = 1.1  # along a side, than the largest canvas: only then is it made smaller


class LlavaOnevisionAdapter(LlavaNextAdapter):
    model_class = LlavaOnevisionForConditionalGeneration
    processor_class = pictures_only(LlavaOnevisionProcessor)
    tower_signals = frozenset()
    no_projector_stage = "large pictures are thinned out there"

    def anatomy(self, model, name: str) -> Anatomy:
        found = super().anatomy(model, name)
        if model.config.vision_feature_select_strategy != "full":
            raise ModelUnavailableError(
                f"{name} leaves out its tower's first row, which is a part of the picture.", "Choose another model."
            )
        return found

    def layout(self, picture_wh: tuple[int, int]) -> TokenLayout:
        overview, canvas = self._packing(picture_wh)[0].tiles
        thinned = Tile(canvas.box_xyxy, self._thinned(canvas.grid_hw), canvas.model_wh)
        return TokenLayout(picture_wh, (overview, thinned))

    def layout_of(self, visual_input: VisualInput) -> TokenLayout:
        if not isinstance(visual_input, VideoClip) and len(images_of(visual_input)) > 1:
            raise ImageRejectedError(
                f"{self.info.name} reads several pictures without their tiles, which PruneScope does not serve.",
                "Bring one picture, or choose another family.",
            )
        return super().layout_of(visual_input)

    def _thinned(self, grid_hw: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of a canvas as the language model reads it."""
        (rows, cols), (_, cells, _) = grid_hw, self._side_and_cells
        most_tiles = int(self.model.config.vision_aspect_ratio.removeprefix("anyres_max_"))
        ratio = math.sqrt(rows * cols / (most_tiles * cells**2))
        return (int(rows // ratio), int(cols // ratio)) if ratio > LARGER else grid_hw

    def _tokens(self, encoded: VisionFeatures, prompt: Prompt) -> VisionFeatures:
        full, members = self._packing(prompt.layout.picture_wh)
        overview, canvas = full.tiles
        rows = self.model.model.multi_modal_projector(encoded.features)[members.to(encoded.ids.device)]
        lines = rows[overview.n_tokens :].view(*canvas.grid_hw, -1).permute(2, 0, 1)
        thinned = prompt.layout.tiles[1].grid_hw
        if thinned != canvas.grid_hw:
            lines = F.interpolate(lines[None], list(thinned), mode="bilinear")[0]  # as the model does it
        features = torch.cat([rows[: overview.n_tokens], lines.flatten(1).T])
        ids = torch.arange(len(features), device=features.device)
        return VisionFeatures(features, ids, None, {}, encoded.tokens_per_layer)

    def _project(self, features: torch.Tensor) -> torch.Tensor:
        return features  # they are behind the projector already
