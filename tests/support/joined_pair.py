"""A small random stand-in for the pretrained pair: the two parts as their files hold them, and joined."""

from __future__ import annotations

import re

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import Dinov2Config, Dinov2Model, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pruning.models.families.llava import LlavaAdapter
from pruning.models.loading.joined_pair import RENAMED, join
from support.tiny_models import decisive

CELLS, PATCH, HEAD_DIM, DIM = 6, 8, 8, 32
CHAT = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' ' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant ' }}{% endif %}"
)
SPECIAL = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", "unk_token": "<unk>"}
WORDS = "user assistant what color is the large star small round blue red a one two three ?"


def tiny_tower(cells: int = CELLS) -> Dinov2Model:
    config = Dinov2Config(
        hidden_size=DIM, num_hidden_layers=4, num_attention_heads=DIM // HEAD_DIM, mlp_ratio=2,
        image_size=cells * PATCH, patch_size=PATCH, use_mask_token=False,
    )  # fmt: skip
    tower = decisive(Dinov2Model(config), seed=1)
    with torch.no_grad():
        for layer in tower.encoder.layer:  # or no layer would change anything
            layer.layer_scale1.lambda1 += 1
            layer.layer_scale2.lambda1 += 1
    return tower


def exported(tower: Dinov2Model) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What `read_onnx` finds in an export of a tower: matrices turned round and nameless, a decoder behind it."""
    tensors, products = {"decoder.bias": torch.ones(1), "onnx::MatMul_1": torch.ones(2, 2)}, {}
    products["/decoder/MatMul"] = "onnx::MatMul_1"
    products["/backbone/encoder/layer.0/attention/attention/MatMul"] = "/backbone/encoder/layer.0/keys"  # no weight
    for name, t in tower.state_dict().items():
        for old, new in RENAMED[1:]:
            name = name.replace(new, old)
        if name == "embeddings.position_embeddings":
            tensors["onnx::Reshape_9"], tensors["onnx::Concat_8"] = t[:, 1:], t[:, :1]
        elif t.ndim == 2:
            feed = f"onnx::MatMul_{len(tensors)}"
            tensors[feed] = t.T
            node = re.sub(r"\.(?!\d)", "/", name.removesuffix(".weight"))  # encoder.layer.0.mlp -> encoder/layer.0/mlp
            products[f"/backbone/{node}/MatMul"] = feed
        else:
            tensors[f"backbone.{name}"] = t
    return tensors, products


def tiny_language() -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    words = [*dict.fromkeys(SPECIAL.values()), "\n", *WORDS.split()]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, chat_template=CHAT, **SPECIAL)
    ends = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("pad", "bos", "eos")}
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True, **ends,
    )  # fmt: skip
    return decisive(LlamaForCausalLM(config), seed=2), tokenizer


def tiny_pair() -> LlavaAdapter:
    model, processor = join(tiny_tower(), *tiny_language())
    return LlavaAdapter(model, processor, "tiny pair")
