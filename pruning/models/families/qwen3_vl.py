"""The Qwen3-VL family: as Qwen2.5-VL without windows, and DeepStack.

Conventions and where they are handled: some middle layers of the tower also go to the language model, which adds them
to the visual tokens behind its first layers; a token that was dropped takes its rows with it, and one that others were
merged into keeps its own (`_tokens`, and `deep` in `models.language`).

Before every grid of a video stands the second at which it is seen, the mean of its frames, as text (`_with_grids`);
grids have no other distance in time.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from pruning.inputs.content import VideoClip
from pruning.models.base import VisionFeatures
from pruning.models.families.base import pictures_only
from pruning.models.families.qwen2_5_vl import Qwen25VLAdapter
from pruning.models.prompt import Prompt


class Qwen3VLAdapter(Qwen25VLAdapter):
    model_class = Qwen3VLForConditionalGeneration
    processor_class = pictures_only(Qwen3VLProcessor)
    tower_matrices = 2
    no_tower_stages = "four patches of its tower make one token"

    def _tokens(self, encoded: VisionFeatures, prompt: Prompt) -> VisionFeatures:
        found = encoded.made_of(
            torch.arange(len(encoded.ids), device=encoded.ids.device).view(-1, self.info.patches_per_token)
        )
        found.deep = encoded.output.deepstack_features
        found.tokens_per_layer = self._patches(prompt) * len(encoded.tokens_per_layer)
        return found

    def _clock(self, clip: VideoClip, depth: int) -> dict[str, torch.Tensor]:
        return {}

    def _with_grids(self, text: str, sizes: Sequence[int], seconds: Sequence[Sequence[float]]) -> str:
        start, pad, end = (getattr(self.processor, f"{name}_token") for name in ("vision_start", "video", "vision_end"))
        grids = [
            f"<{(times[0] + times[-1]) / 2:.1f} seconds>{start}{pad * n}{end}"
            for n, times in zip(sizes, seconds, strict=True)
        ]
        # Some chats put marks around a video, others leave that to its grids.
        return text.replace(f"{start}{pad}{end}" if f"{start}{pad}{end}" in text else pad, "".join(grids))

    def _encoded(self, rows: torch.Tensor) -> BaseModelOutputWithDeepstackFeatures:
        return BaseModelOutputWithDeepstackFeatures(pooler_output=[rows], deepstack_features=[])
