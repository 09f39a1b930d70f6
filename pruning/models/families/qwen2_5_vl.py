"""The Qwen2.5-VL family: pictures in their own proportions and videos, windows of attention, four patches to a token.

Conventions and where they are handled: the processor resizes to whole cells of two by two patches (`layout`); the tower
reads patches window by window and is put back into reading order (`_tokens`); the merger joins the four patches of a
token, so before the projector a token is a row of four patches side by side (`_project`); positions have three axes
(time, row, column), and text goes on behind the largest (`_placed`). Renumbering them has no official meaning: here the
numbers that no surviving token has on any axis are left out. The tower has no [CLS]: what the patches of a token
receive stands in for that, inside their window, or picture in layers that attend to all of it. Rows are not dropped
inside the tower, whose windows would come out in different lengths.

A video is a sequence of grids, each of which shows two frames (`_video`): every frame goes through the processor for
pictures, and the halves of a patch that are alike for a picture come from the two frames. An odd last frame is shown
twice, as in the library. Unlike its processor for videos (which needs torchvision), frames are not enlarged to 128
tokens; they are reduced to 768 as there. Seconds between grids are those between the frames that were taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.vision_utils import get_vision_window_index

from pruning.errors import ImageRejectedError
from pruning.inputs.content import VideoClip, VisualInput
from pruning.interface import Signal
from pruning.layout import Tile, TokenLayout
from pruning.models.base import VisionFeatures
from pruning.models.chat import Rendered, adds_special_tokens, refuse_commands
from pruning.models.families.base import Family, pictures_only
from pruning.models.prompt import Prompt
from pruning.models.weights.blocks import Anatomy

MOST_TOKENS = 768  # of a frame


class Qwen25VLAdapter(Family):
    model_class = Qwen2_5_VLForConditionalGeneration
    processor_class = pictures_only(Qwen2_5_VLProcessor)
    reads_videos = True
    vision_inputs = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")
    tower_signals = frozenset({Signal.RECEIVED_ATTENTION})
    tower_matrices = 3
    no_tower_stages = "its tower attends within windows, which would come out in different lengths"
    picture_end = "<|vision_end|>"

    def anatomy(self, model, name: str) -> Anatomy:
        tower = model.model.visual
        return Anatomy(
            tower, tower.blocks, "attn", len(tower.blocks) - 1, 0, model.model.language_model, tower.spatial_merge_unit
        )

    def layout(self, picture_wh: tuple[int, int]) -> TokenLayout:
        images = self.processor.image_processor
        return self._layout(picture_wh, images.size["longest_edge"])

    def _layout(self, picture_wh: tuple[int, int], most_pixels: int) -> TokenLayout:
        images, width, height = self.processor.image_processor, *picture_wh
        cell = images.patch_size * images.merge_size
        try:
            fit_h, fit_w = smart_resize(height, width, cell, images.size["shortest_edge"], most_pixels)
        except ValueError as error:
            raise ImageRejectedError(
                f"The picture has {width} x {height} pixels; {self.info.name} reads none that is 200 times as long as "
                "it is wide.", "Cut it.",
            ) from error  # fmt: skip
        box = (0.0, 0.0, float(width), float(height))
        return TokenLayout(picture_wh, (Tile(box, (fit_h // cell, fit_w // cell), (fit_w, fit_h)),))

    def layout_of(self, visual_input: VisualInput) -> TokenLayout:
        if not isinstance(visual_input, VideoClip):
            return super().layout_of(visual_input)
        steps, (height, width) = visual_input.in_steps(self._depth), visual_input.frames[0].shape[:2]
        seconds = [[visual_input.seconds[i] for i in step] for step in steps]
        return TokenLayout.joined([self._layout((width, height), self._most_pixels)] * len(steps), seconds)

    @property
    def _depth(self) -> int:
        """How many frames a grid shows."""
        return self.processor.image_processor.temporal_patch_size

    @property
    def _most_pixels(self) -> int:
        """Of a frame."""
        images = self.processor.image_processor
        return min(images.size["longest_edge"], MOST_TOKENS * (images.patch_size * images.merge_size) ** 2)

    def _written(
        self, visual_input: VisualInput, question: str
    ) -> tuple[Rendered, TokenLayout, Mapping[str, Any], int]:
        if not isinstance(visual_input, VideoClip):
            return super()._written(visual_input, question)
        refuse_commands(self.tokenizer, question, self.processor.video_token)
        layout, chat = self.layout_of(visual_input), self.chat.render(question, ["video"])
        batch = self._video(visual_input, layout.frames())
        text = self._with_grids(chat.text, [part.n_tokens for part in layout.parts()], layout.seconds)
        coded = self.tokenizer(
            [text], return_tensors="pt", return_token_type_ids=False,
            add_special_tokens=adds_special_tokens(self.tokenizer, text),
        )  # fmt: skip
        return chat, layout, {**coded, **batch}, self.model.config.video_token_id

    def _video(self, clip: VideoClip, steps: list[list[int]]) -> dict[str, torch.Tensor]:
        """What the model takes of a video: patches of pairs of frames `[patches, values]`, and the grid."""
        images, depth = self.processor.image_processor, self._depth
        size = {"shortest_edge": images.size["shortest_edge"], "longest_edge": self._most_pixels}
        frames = [Image.fromarray(f) for f in clip.frames]
        found = images(frames, size=size, return_tensors="pt")
        area = images.patch_size**2
        alike = found["pixel_values"].view(len(frames), -1, 3, depth, area)  # a frame's patches, `depth` times each
        pairs = [[alike[step[min(i, len(step) - 1)], :, :, i] for i in range(depth)] for step in steps]
        pixels = torch.stack([torch.stack(pair, 2) for pair in pairs])  # [steps, patches, colours, depth, area]
        grid = found["image_grid_thw"][:1].clone()
        grid[0, 0] = len(steps)
        return {"pixel_values": pixels.flatten(0, 1).flatten(1), "video_grid_thw": grid} | self._clock(clip, depth)

    def _clock(self, clip: VideoClip, depth: int) -> dict[str, torch.Tensor]:
        """What tells the model how far grids of `depth` frames are apart."""
        return {"second_per_grid_ts": torch.tensor([depth * clip.interval])}

    def _with_grids(self, text: str, sizes: Sequence[int], seconds: Sequence[Sequence[float]]) -> str:
        """The chat with as many placeholders as the grids have visual tokens."""
        del seconds
        return text.replace(self.processor.video_token, self.processor.video_token * sum(sizes))

    @staticmethod
    def _grid(prompt: Prompt) -> torch.Tensor:
        """Steps in time, rows and columns of patches of every picture, or of the video, int64 `[pictures, 3]`."""
        return prompt.extra[f"{prompt.modality}_grid_thw"]

    def _forward_vision(self, prompt: Prompt) -> object:
        return self._anatomy.tower(prompt.pixels, grid_thw=self._grid(prompt))

    def _tokens(self, encoded: VisionFeatures, prompt: Prompt) -> VisionFeatures:
        tower, grid = self._anatomy.tower, self._grid(prompt)
        window_of, ends = get_vision_window_index(grid, tower.spatial_merge_size, tower.window_size, tower.patch_size)
        windows, pictures = ends.diff().tolist(), self._patches(prompt)
        full = tower.fullatt_block_indexes
        rows = [n for i in range(len(encoded.tokens_per_layer)) for n in (pictures if i in full else windows)]
        encoded.tokens_per_layer = rows
        patches = torch.arange(len(encoded.ids)).view(len(window_of), -1)
        return encoded.made_of(patches[window_of.argsort()].to(encoded.ids.device))

    def _patches(self, prompt: Prompt) -> list[int]:
        """Patches that attend to each other where there are no windows: those of a picture, or of a step in time."""
        grid = self._grid(prompt)
        return (grid[:, 1] * grid[:, 2]).repeat_interleave(grid[:, 0]).tolist()

    def _project(self, features: torch.Tensor) -> torch.Tensor:
        return self._anatomy.tower.merger(features.reshape(-1, self.info.vision_dim))

    def _placed(self, prompt: Prompt) -> Prompt:
        positions, _ = self.model.model.get_rope_index(prompt.input_ids, prompt.kinds, **prompt.extra)
        return replace(prompt, positions=positions[:, 0])
