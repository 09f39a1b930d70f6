"""The Qwen2.5-VL family: a picture in its own proportions, windows of attention, four patches to a visual token.

Conventions and where they are handled: the processor resizes to whole cells of two by two patches (`layout`); the tower
reads patches window by window and is put back into reading order (`_tokens`); the merger joins the four patches of a
token, so before the projector a token is a row of four patches side by side (`_project`); positions have three axes
(time, row, column), and text goes on behind the largest (`_placed`). Renumbering them has no official meaning: here the
numbers that no surviving token has on any axis are left out. Rows are not dropped inside the tower, whose windows would
come out in different lengths.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.vision_utils import get_vision_window_index

from pruning.errors import ImageRejectedError
from pruning.geometry import Tile, TokenLayout
from pruning.models.base import Prompt, Seen
from pruning.models.family import Anatomy, Family
from pruning.models.pictures_only import pictures_only


class Qwen25VLAdapter(Family):
    model_class = Qwen2_5_VLForConditionalGeneration
    processor_class = pictures_only(Qwen2_5_VLProcessor)
    vision_inputs = ("image_grid_thw",)
    tower_signals = frozenset()
    tower_matrices = 3
    no_tower_stages = "its tower attends within windows, which would come out in different lengths"
    picture_end = "<|vision_end|>"

    def anatomy(self, model, name: str) -> Anatomy:
        tower = model.model.visual
        return Anatomy(
            tower, tower.blocks, "attn", len(tower.blocks) - 1, 0, model.model.language_model, tower.spatial_merge_unit
        )

    def layout(self, picture_wh: tuple[int, int]) -> TokenLayout:
        images, width, height = self.processor.image_processor, *picture_wh
        cell = images.patch_size * images.merge_size
        try:
            fit_h, fit_w = smart_resize(height, width, cell, images.size["shortest_edge"], images.size["longest_edge"])
        except ValueError as error:
            raise ImageRejectedError(
                f"The picture has {width} x {height} pixels; {self.info.name} reads none that is 200 times as long as "
                "it is wide.", "Cut it.",
            ) from error  # fmt: skip
        box = (0.0, 0.0, float(width), float(height))
        return TokenLayout(picture_wh, (Tile(box, (fit_h // cell, fit_w // cell), (fit_w, fit_h)),))

    def _look(self, prompt: Prompt) -> object:
        return self._anatomy.tower(prompt.pixels, grid_thw=prompt.extra["image_grid_thw"])

    def _tokens(self, seen: Seen, prompt: Prompt) -> Seen:
        tower = self._anatomy.tower
        window_of, ends = get_vision_window_index(
            prompt.extra["image_grid_thw"], tower.spatial_merge_size, tower.window_size, tower.patch_size
        )
        lengths = ends.diff().tolist()
        whole = tower.fullatt_block_indexes
        rows = [n for i, patches in enumerate(seen.tokens_per_layer) for n in ([patches] if i in whole else lengths)]
        seen.tokens_per_layer = rows
        patches = torch.arange(len(seen.ids)).view(len(window_of), -1)
        return seen.made_of(patches[window_of.argsort()].to(seen.ids.device))

    def _project(self, features: torch.Tensor) -> torch.Tensor:
        return self._anatomy.tower.merger(features.reshape(-1, self.info.vision_dim))

    def _placed(self, prompt: Prompt) -> Prompt:
        kinds = prompt.visual.long()[None].to(self.device)
        grid = prompt.extra["image_grid_thw"]
        positions, _ = self.model.model.get_rope_index(prompt.input_ids, kinds, image_grid_thw=grid)
        return replace(prompt, positions=positions[:, 0])
