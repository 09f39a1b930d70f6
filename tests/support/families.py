"""Small random members of every family, of the real classes, and what is special about each, told without a hook."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from transformers import (
    CLIPVisionConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from pruning.demo_model.training.architecture import CHAT_TEMPLATE, build_tokenizer
from pruning.models.families.base import Family
from pruning.models.families.idefics3 import Idefics3Adapter, SmolVLMAdapter
from pruning.models.families.internvl import InternVLAdapter
from pruning.models.families.llava_next import LlavaNextAdapter
from pruning.models.families.llava_onevision import LlavaOnevisionAdapter
from pruning.models.families.qwen2_5_vl import Qwen25VLAdapter
from pruning.models.families.qwen3_vl import Qwen3VLAdapter
from support.tiny_models import PATCH, SIDE, decisive

NEED_KEYS = frozenset({"visionzip", "vitcop", "prumerge", "tome"})
NEED_CLS = NEED_KEYS | {"accm_pruner"}  # and nothing stands in for it
NEED_SIGHT = NEED_CLS | {"vispruner", "holov", "vscan"}
GREY = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def text_sizes(tokenizer, **changes: Any) -> dict[str, Any]:
    special = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("pad", "bos", "eos")}
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4}
    return {
        "vocab_size": len(tokenizer), **sizes, "num_key_value_heads": 2, "max_position_embeddings": 2048,
        "tie_word_embeddings": False, **special, **changes,
    }  # fmt: skip


class Tiny:
    """What a reference without hooks must know of a family; the defaults are LLaVA's. `refused` names the methods that
    it cannot serve, `tower_reason` is part of why none may drop rows inside the tower, `projector_reason` the same for
    before the projector. `reach`: how far from its middle a token sees, in its own sizes.
    """

    refused: ClassVar[frozenset[str]] = frozenset()
    tower_reason = projector_reason = ""
    reach = 0.5

    def make(self, attention: str = "sdpa") -> Family:
        raise NotImplementedError

    def decoder(self, model):
        return model.model.language_model

    def features(self, model, prompt):
        """Rows `[tokens, dim]` before the projector in the order of the visual tokens, and [CLS] or None."""
        raise NotImplementedError

    def project(self, model, rows):
        return model.model.multi_modal_projector(rows[None])[0]

    def positions(self, model, prompt, ids):
        return torch.arange(len(ids))

    def deep(self, model, prompt):
        """Rows `[tokens, dim]` that the model adds behind its first layers."""
        return []

    def tokens_read(self, adapter, prompt):
        """The pixels in -1 .. 1 from which every visual token is made, float32 `[tokens, height, width, 3]`."""
        raise NotImplementedError


def patches(tiles, cells, size):
    """Tiles `[tiles, 3, side, side]` as `[tiles * cells * cells, size, size, 3]`."""
    n = len(tiles)
    cut = tiles[:, :, : size * cells, : size * cells].reshape(n, 3, cells, size, cells, size)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(-1, size, size, 3)


class LlavaNext(Tiny):
    refused: ClassVar = frozenset({"tome"})
    tower_reason = "several tiles side by side"
    cells = SIDE // PATCH

    def make(self, attention="sdpa"):
        tokenizer = build_tokenizer()
        canvases = [[h * SIDE, w * SIDE] for h, w in ((1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
        images = LlavaNextImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=canvases,
            **GREY,
        )  # fmt: skip
        processor = LlavaNextProcessor(
            images, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default",
            num_additional_image_tokens=1, chat_template=CHAT_TEMPLATE,
        )  # fmt: skip
        vision = CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE,
            patch_size=PATCH,
        )  # fmt: skip
        config = LlavaNextConfig(
            vision_config=vision, text_config=LlamaConfig(**text_sizes(tokenizer)), image_grid_pinpoints=canvases,
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"), image_seq_length=self.cells**2,
            tie_word_embeddings=False,
        )  # fmt: skip
        model = LlavaNextForConditionalGeneration._from_config(config, attn_implementation=attention)
        return LlavaNextAdapter(decisive(model), processor, "tiny LLaVA-NeXT")

    def _packed(self, model, prompt, rows):
        """Rows of all tiles `[tiles, cells ** 2, dim]` through the model's own packing, newlines taken out."""
        nowhere = torch.full((rows.shape[-1],), float("nan"))
        parts = rows.split([len(tiles) for tiles in self._tiles(prompt)])
        packed = torch.cat(model.model.pack_image_features(parts, prompt.extra["image_sizes"], "default", nowhere)[0])
        return packed[~packed.isnan().any(-1)]

    def _tiles(self, prompt):
        """Pixels of the tiles of every picture, without those that are there to fill up."""
        return [tiles[tiles.flatten(1).any(1)] for tiles in prompt.pixels]

    def features(self, model, prompt):
        tiles = torch.cat(self._tiles(prompt))
        hidden = model.model.vision_tower(tiles, output_hidden_states=True).hidden_states[-2]
        return self._packed(model, prompt, hidden[:, 1:]), hidden[0, 0]

    def tokens_read(self, adapter, prompt):
        cut = patches(torch.cat(self._tiles(prompt)), self.cells, PATCH)
        numbers = torch.arange(len(cut), dtype=torch.float64).view(-1, self.cells**2, 1)
        return cut[self._packed(adapter.model, prompt, numbers)[:, 0].long()]


class LlavaOnevision(LlavaNext):
    refused: ClassVar = NEED_SIGHT | {"vistog"}  # which acts before the projector
    projector_reason = "thinned out there"
    reach = 1.5

    def make(self, attention="sdpa"):
        tokenizer = build_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": ["<video>"]}, replace_extra_special_tokens=False)
        canvases = [[h * SIDE, w * SIDE] for h, w in ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (1, 3))]
        images = LlavaOnevisionImageProcessorPil(
            size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=canvases, **GREY
        )
        processor = LlavaOnevisionAdapter.processor_class(
            images, tokenizer, num_image_tokens=self.cells**2, vision_feature_select_strategy="full",
            vision_aspect_ratio="anyres_max_2", chat_template=CHAT_TEMPLATE,
        )  # fmt: skip
        vision = SiglipVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE,
            patch_size=PATCH, vision_use_head=False,
        )  # fmt: skip
        config = LlavaOnevisionConfig(
            vision_config=vision, text_config=Qwen2Config(**text_sizes(tokenizer)), image_grid_pinpoints=canvases,
            image_token_id=processor.image_token_id, video_token_id=processor.video_token_id,
            vision_aspect_ratio="anyres_max_2", tie_word_embeddings=False,
        )  # fmt: skip
        model = LlavaOnevisionForConditionalGeneration._from_config(config, attn_implementation=attention)
        return LlavaOnevisionAdapter(decisive(model), processor, "tiny LLaVA-OneVision")

    def features(self, model, prompt):
        """What the model itself gives to its language model, newlines taken out."""
        packed = model.model.get_image_features(prompt.pixels, prompt.extra["image_sizes"], return_dict=True)
        rows = packed.pooler_output[0]
        return rows[~(rows == model.model.image_newline).all(-1)], None

    def project(self, model, rows):
        return rows

    def tokens_read(self, adapter, prompt):
        cut = patches(prompt.pixels[0], self.cells, PATCH)
        numbers = [cut.flatten(1).view(-1, self.cells**2, cut[0].numel())]
        sizes, nowhere = prompt.extra["image_sizes"], torch.full((cut[0].numel(),), float("nan"))
        packed, _ = adapter.model.model.pack_image_features(numbers, sizes, nowhere, "anyres_max_2")
        return packed[0][~packed[0].isnan().any(-1)].view(-1, *cut.shape[1:])


class Qwen25VL(Tiny):
    refused: ClassVar = NEED_CLS
    tower_reason = "attends within windows"
    patch = 14
    sizes: ClassVar = {"shortest_edge": 28 * 28 * 24, "longest_edge": 28 * 28 * 48}

    def processor(self, family):
        marks = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
        tokenizer = build_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": list(marks)}, replace_extra_special_tokens=False)
        tokenizer.image_token, tokenizer.video_token = "<|image_pad|>", "<|video_pad|>"
        chat = CHAT_TEMPLATE.replace(
            "{% if part['type'] == 'image' %}<image>\n{% endif %}",
            "{% if part['type'] in ('image', 'video') %}<|vision_start|><|{{ part['type'] }}_pad|><|vision_end|>"
            "{% endif %}",
        )
        images = Qwen2VLImageProcessorPil(size=self.sizes, patch_size=self.patch, **GREY)
        return family.processor_class(images, tokenizer, None, chat_template=chat)

    def make(self, attention="sdpa"):
        processor = self.processor(Qwen25VLAdapter)
        tokenizer = processor.tokenizer
        rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
        config = Qwen2_5_VLConfig(
            vision_config={
                "depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": self.patch,
                "out_hidden_size": 32, "fullatt_block_indexes": [1], "window_size": 56,
            },
            text_config=text_sizes(tokenizer, rope_parameters=rope),
            image_token_id=processor.image_token_id, video_token_id=processor.video_token_id,
        )  # fmt: skip
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation=attention)
        return Qwen25VLAdapter(decisive(model), processor, "tiny Qwen2.5-VL")

    def features(self, model, prompt):
        """Through the tower with the merger left out: the four patches of a token come back side by side."""
        tower = model.model.visual
        merger, width = tower.merger, 4 * model.config.vision_config.hidden_size
        tower.merger = torch.nn.Flatten(0)  # a module that does next to nothing, put back below
        tower.merger.forward = lambda x: x.view(-1, width)
        try:
            return tower(prompt.pixels, grid_thw=prompt.extra[f"{prompt.modality}_grid_thw"]).pooler_output, None
        finally:
            tower.merger = merger

    def project(self, model, rows):
        return model.model.visual.merger(rows.view(-1, model.config.vision_config.hidden_size))

    def positions(self, model, prompt, ids):
        """Those of the prompt, and what is generated behind: on from the last of the prompt."""
        kinds = (prompt.input_ids == model.config.image_token_id) + 2 * (
            prompt.input_ids == model.config.video_token_id
        )
        given = model.model.get_rope_index(prompt.input_ids, kinds, **prompt.extra)[0][:, 0]
        behind = torch.arange(1, 1 + len(ids) - given.shape[1])
        return torch.cat([given, given[:, -1:] + behind], 1)

    def tokens_read(self, adapter, prompt):
        return self.frames_seen(prompt)[0]  # both frames of a picture are alike

    def frames_seen(self, prompt):
        """The same of each of the two frames that a token is made of."""
        size = self.patch
        cut = prompt.pixels.view(-1, 2, 2, 3, 2, size, size).permute(4, 0, 1, 5, 2, 6, 3)
        return cut.reshape(2, -1, 2 * size, 2 * size, 3)


class Qwen3VL(Qwen25VL):
    tower_reason = "four patches of its tower"
    patch = 16

    def make(self, attention="sdpa"):
        processor = self.processor(Qwen3VLAdapter)
        tokenizer = processor.tokenizer
        rope = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4, "mrope_interleaved": True}
        config = Qwen3VLConfig(
            vision_config={
                "depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 4, "patch_size": self.patch,
                "out_hidden_size": 32, "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 64,
            },
            text_config=text_sizes(tokenizer, rope_parameters=rope, head_dim=8),
            image_token_id=processor.image_token_id, video_token_id=processor.video_token_id,
        )  # fmt: skip
        model = Qwen3VLForConditionalGeneration._from_config(config, attn_implementation=attention)
        return Qwen3VLAdapter(decisive(model), processor, "tiny Qwen3-VL")

    def deep(self, model, prompt):
        grid = prompt.extra[f"{prompt.modality}_grid_thw"]
        found = model.model.get_image_features(prompt.pixels, grid, return_dict=True).deepstack_features
        return [torch.cat(level) for level in found]


class Idefics3(Tiny):
    refused: ClassVar = NEED_CLS
    tower_reason = "several patches of its tower"
    cells = SIDE // PATCH // 2
    side: ClassVar = SIDE
    config_class, model_class, adapter_class = Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Adapter

    def make(self, attention="sdpa"):
        tokenizer = build_tokenizer()
        marks = [f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)]
        tokenizer.add_special_tokens({"additional_special_tokens": [*marks, "<global-img>"]})
        images = Idefics3ImageProcessorPil(
            size={"longest_edge": 3 * self.side}, max_image_size={"longest_edge": self.side}, **GREY
        )
        chat = CHAT_TEMPLATE.replace("<image>\n", "<image>")
        processor = Idefics3Processor(images, tokenizer, image_seq_len=self.cells**2, chat_template=chat)
        vision = {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
            "image_size": self.side, "patch_size": PATCH,
        }  # fmt: skip
        config = self.config_class(
            vision_config=vision, text_config=LlamaConfig(**text_sizes(tokenizer)), scale_factor=2,
            image_token_id=processor.image_token_id, tie_word_embeddings=False,
        )  # fmt: skip
        model = self.model_class._from_config(config, attn_implementation=attention)
        return self.adapter_class(decisive(model), processor, f"tiny {self.adapter_class.__name__}")

    def decoder(self, model):
        return model.model.text_model

    def features(self, model, prompt):
        rows = model.model.vision_model(prompt.pixels[0]).last_hidden_state
        return model.model.connector.pixel_shuffle(rows, 2).flatten(0, 1), None

    def project(self, model, rows):
        return model.model.connector.modality_projection(rows)

    def tokens_read(self, adapter, prompt):
        return patches(prompt.pixels[0], self.cells, 2 * PATCH)


class SmolVLM(Idefics3):
    side: ClassVar = SIDE + 4  # half a patch over, as in the towers of 384 pixels in patches of 14
    config_class, model_class, adapter_class = SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMAdapter


class InternVL(Tiny):
    refused: ClassVar = NEED_KEYS
    tower_reason = "four patches of its tower"
    cells = SIDE // PATCH // 2

    def make(self, attention="sdpa"):
        plain = build_tokenizer()
        marks = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>", "video": "<video>"}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=plain.backend_tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<s>",
            eos_token="</s>", extra_special_tokens={f"{name}_token": mark for name, mark in marks.items()},
        )  # fmt: skip
        images = GotOcr2ImageProcessorPil(size={"height": SIDE, "width": SIDE}, max_patches=6, **GREY)
        chat = CHAT_TEMPLATE.replace("<image>", "<IMG_CONTEXT>")
        processor = InternVLAdapter.processor_class(
            images, tokenizer, image_seq_length=self.cells**2, chat_template=chat
        )
        vision = {
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
            "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH], "layer_scale_init_value": 1.0,
        }  # fmt: skip
        config = InternVLConfig(
            vision_config=vision, text_config=Qwen2Config(**text_sizes(tokenizer)),
            image_token_id=processor.image_token_id, image_seq_length=self.cells**2, tie_word_embeddings=False,
        )  # fmt: skip
        model = InternVLForConditionalGeneration._from_config(config, attn_implementation=attention)
        return InternVLAdapter(decisive(model), processor, "tiny InternVL")

    def features(self, model, prompt):
        rows = model.model.vision_tower(prompt.pixels).last_hidden_state[:, 1:]
        side = int(rows.shape[1] ** 0.5)
        shuffled = model.model.pixel_shuffle(rows.reshape(len(rows), side, side, -1), scale_factor=0.5)
        return shuffled.flatten(0, 2), None

    def project(self, model, rows):
        return model.model.multi_modal_projector(rows)

    def tokens_read(self, adapter, prompt):
        return patches(prompt.pixels, self.cells, 2 * PATCH)


FAMILIES = {
    "llava_next": LlavaNext(),
    "llava_onevision": LlavaOnevision(),
    "qwen2_5_vl": Qwen25VL(),
    "qwen3_vl": Qwen3VL(),
    "idefics3": Idefics3(),
    "smolvlm": SmolVLM(),
    "internvl": InternVL(),
}
