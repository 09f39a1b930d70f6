"""The Qwen3-VL family: as Qwen2.5-VL without windows, and DeepStack.

Conventions and where they are handled: some middle layers of the tower also go to the language model, which adds them
to the visual tokens behind its first layers; a token that was dropped takes its rows with it, and one that others were
merged into keeps its own (`_tokens`, and `deep` in `models.language`).
"""

from __future__ import annotations

import torch
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

from pruning.models.base import Prompt, Seen
from pruning.models.pictures_only import pictures_only
from pruning.models.qwen2_5_vl import Qwen25VLAdapter


class Qwen3VLAdapter(Qwen25VLAdapter):
    model_class = Qwen3VLForConditionalGeneration
    processor_class = pictures_only(Qwen3VLProcessor)
    tower_matrices = 2
    no_tower_stages = "four patches of its tower make one token"

    def _tokens(self, seen: Seen, prompt: Prompt) -> Seen:
        found = seen.made_of(torch.arange(len(seen.ids), device=seen.ids.device).view(-1, self.info.patches_per_token))
        found.deep = seen.output.deepstack_features
        return found

    def _encoded(self, rows: torch.Tensor) -> BaseModelOutputWithDeepstackFeatures:
        return BaseModelOutputWithDeepstackFeatures(pooler_output=[rows], deepstack_features=[])
