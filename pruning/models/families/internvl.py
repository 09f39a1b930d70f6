"""The InternVL family in its Hugging Face form: tiles and a thumbnail, pixel shuffle, a tower with [CLS].

Conventions and where they are handled: the picture is stretched over the grid of tiles nearest to its proportions, the
thumbnail comes last (`layout`); pixel shuffle lays four patches side by side, so before the projector a token is a row
of four patches, and its [CLS] attention is what the four get together (`_tokens`). Such a row has no room for [CLS]
itself and no key of its own, so methods that keep [CLS] or compare keys are refused. Rows are not dropped inside the
tower, where one token could lose some of its patches.
"""

from __future__ import annotations

import torch
from transformers import InternVLForConditionalGeneration, InternVLProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from pruning.layout import TokenLayout
from pruning.models.base import VisionFeatures
from pruning.models.families.base import Family, pictures_only
from pruning.models.families.tiling import tiles_then_overview
from pruning.models.prompt import Prompt
from pruning.models.weights.blocks import Anatomy


class InternVLAdapter(Family):
    model_class = InternVLForConditionalGeneration
    processor_class = pictures_only(InternVLProcessor)
    tower_signals = frozenset()
    no_tower_stages = "four patches of its tower make one token"
    picture_end = "</img>"

    def anatomy(self, model, name: str) -> Anatomy:
        tower = model.model.vision_tower
        layers = tower.encoder.layer
        feature_layer = model.config.vision_feature_layer % (len(layers) + 1) - 1
        return Anatomy(
            tower,
            layers,
            "attention",
            feature_layer,
            1,
            model.model.language_model,
            round(model.config.downsample_ratio**-2),
        )

    def layout(self, picture_wh: tuple[int, int]) -> TokenLayout:
        images, side = self.processor.image_processor, self.processor.image_processor.size["height"]
        cols, rows = 1, 1
        if self.processor.images_kwargs["crop_to_patches"]:  # the processor's default overrules that of its images
            hw = picture_wh[::-1]
            cols, rows = get_optimal_tiled_canvas(hw, (side, side), images.min_patches, images.max_patches)
        return tiles_then_overview(picture_wh, (rows, cols), side, int(self.processor.image_seq_length**0.5))

    def _forward_vision(self, prompt: Prompt) -> object:
        return self.model.model.vision_tower(prompt.pixels)

    def _tokens(self, encoded: VisionFeatures, prompt: Prompt) -> VisionFeatures:
        core, tiles = self.model.model, len(prompt.pixels)
        side = int((len(encoded.ids) // tiles) ** 0.5)
        numbers = torch.arange(len(encoded.ids), dtype=torch.float64, device=encoded.ids.device).view(
            tiles, side, side, 1
        )
        members = core.pixel_shuffle(numbers, scale_factor=self.model.config.downsample_ratio)  # the model's own order
        if self.model.config.vision_feature_layer == -1:
            encoded.features = core.vision_tower.layernorm(encoded.features)
        return encoded.made_of(members.flatten(0, 2).long())

    def _encoded(self, rows: torch.Tensor) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(pooler_output=rows[None])
