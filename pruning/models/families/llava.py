"""The LLaVA-1.5 family: a CLIP, SigLIP or DINOv2 tower, a two-layer projector, a Llama-like language model, one view.

Conventions and where they are handled: the picture is shown by the processor's own resize and crop (or pad), read
from its configuration in `layout`; the hidden state before the last one feeds the projector (`vision_feature_layer`);
[CLS] is not given to the language model (`vision_feature_select_strategy = default`; `full` is refused).
"""

from __future__ import annotations

from transformers import LlavaForConditionalGeneration

from pruning.errors import ModelUnavailableError
from pruning.interface import TOWER_KEY_SIGNALS, Signal
from pruning.layout import Tile, TokenLayout, square_view
from pruning.models.families.base import Family
from pruning.models.families.tiling import in_patches
from pruning.models.prompt import Prompt
from pruning.models.weights.blocks import Anatomy

TOWERS = {"clip_vision_model", "siglip_vision_model", "dinov2"}


class LlavaAdapter(Family):
    model_class = LlavaForConditionalGeneration
    tower_signals = TOWER_KEY_SIGNALS | {Signal.RECEIVED_ATTENTION}

    def anatomy(self, model, name: str) -> Anatomy:
        core, config = model.model, model.config
        gated = " with gated feed-forward parts" if getattr(config.vision_config, "use_swiglu_ffn", False) else ""
        if config.vision_config.model_type + gated not in TOWERS:
            raise ModelUnavailableError(
                f"{name} has a {config.vision_config.model_type} tower{gated}; this version serves: "
                f"{', '.join(sorted(TOWERS))}.",
                "Choose another model.",
            )
        tower = getattr(core.vision_tower, "vision_model", core.vision_tower)
        is_dino = config.vision_config.model_type == "dinov2"  # which has names of its own
        layers = tower.encoder.layer if is_dino else tower.encoder.layers
        attention = "attention" if is_dino else "self_attn"
        has_cls = hasattr(tower.embeddings, "cls_token" if is_dino else "class_embedding")
        if not isinstance(config.vision_feature_layer, int):
            raise ModelUnavailableError(
                f"{name} feeds several tower layers to the projector, which is not supported.", "Choose another model."
            )
        if config.vision_feature_select_strategy == "full" and has_cls:
            raise ModelUnavailableError(
                f"{name} also gives [CLS] to the language model, which is not supported.", "Choose another model."
            )
        feature_layer = config.vision_feature_layer % (len(layers) + 1) - 1
        return Anatomy(core.vision_tower, layers, attention, feature_layer, int(has_cls), core.language_model)

    def may_lack_template(self, config) -> bool:
        return config.model_type == "llava" and config.get_text_config().model_type == "llama"

    def layout(self, picture_wh: tuple[int, int]) -> TokenLayout:
        images = self.processor.image_processor
        if getattr(images, "do_pad", False):
            how = "pad"
        elif images.do_center_crop and getattr(images.size, "shortest_edge", None):
            how = "crop"
        else:
            how = "stretch"
        side, n, patch = self._side_and_cells
        box = in_patches(square_view(picture_wh, how), n * patch / side)
        return TokenLayout(picture_wh, (Tile(box, (n, n), (side, side)),))

    @property
    def _side_and_cells(self) -> tuple[int, int, int]:
        """Side of the tower's square view in pixels, and in visual tokens; side of a token in pixels."""
        vision = self.model.config.vision_config
        return vision.image_size, vision.image_size // vision.patch_size, vision.patch_size

    def _forward_vision(self, prompt: Prompt) -> object:
        return self.model.model.vision_tower(prompt.pixels)
