"""Join DINOv2 (from ONNX) and a Llama (from GGUF) into one LLaVA; the projector is random.

Knows how weights are named and turned in those files, not where the files come from
(`pruning.models.loading.fetch_pair`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Dinov2Config,
    Dinov2Model,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from pruning.models.base import VisionFeatures

CELLS = 24  # rows and columns of patches, as in LLaVA-1.5, so that published budgets mean the same here
HEAD_DIM = 64  # of every DINOv2; not written in an ONNX file
IMAGE = "<image>"
SEED = 0
RENAMED = (
    ("backbone.", ""),
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
)
# Put before a language model's own chat template: what a message says may be text, or a picture and text.
SAID = (
    "{% macro said(content) %}{% if content is string %}{{ content }}{% else %}{% for part in content %}"
    "{{ '" + IMAGE + "\n' if part['type'] == 'image' else part['text'] }}"
    "{% endfor %}{% endif %}{% endmacro %}"
)
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}  # as DINOv2 was trained


def mechanics_only(tokenizer, encoded: VisionFeatures, question: str, n_pictures: int) -> list[str]:
    """What is said of every answer of a model whose projector was never trained."""
    del tokenizer, encoded, question, n_pictures
    return [
        "The projector between this vision tower and this language model was never trained: what is kept, what it "
        "costs and how long it takes are real, the answer is not. Mechanics, not answers."
    ]


def read_onnx(data: bytes) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors of an ONNX file by name; and by the name of every matrix product, which tensor it multiplies by."""
    import onnx

    graph = onnx.load_model_from_string(data).graph
    tensors = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
    return tensors, {n.name: n.input[1] for n in graph.node if n.op_type == "MatMul"}


def tower_of(
    tensors: dict[str, torch.Tensor], products: dict[str, str], cells: int = CELLS, head_dim: int = HEAD_DIM
) -> Dinov2Model:
    """A DINOv2 for pictures of `cells` x `cells` patches out of an exported `backbone`.

    An export keeps the names of biases and norms. The matrices of linear layers are turned round and have lost their
    names, which the products that use them still have; positions are split into [CLS] and patches, without names.
    Positions are brought to the size of the grid here, once, as the class itself would do it on every call.
    """
    found = {name: t for name, t in tensors.items() if name.startswith("backbone.")}
    for product, tensor in products.items():
        if product.startswith("/backbone/") and tensor in tensors:
            found[product[1:].removesuffix("/MatMul").replace("/", ".") + ".weight"] = tensors[tensor].T
    state = {}
    for name, t in found.items():
        for old, new in RENAMED:
            name = name.replace(old, new)
        state[name] = t.contiguous()
    nameless = (t for name, t in tensors.items() if name.startswith("onnx::") and t.ndim == 3)
    cls, patches = sorted(nameless, key=lambda t: t.shape[1])
    side = round(patches.shape[1] ** 0.5)
    grid = patches.unflatten(1, (side, side)).movedim(-1, 1)
    grid = F.interpolate(grid, size=(cells, cells), mode="bicubic", align_corners=False)
    state["embeddings.position_embeddings"] = torch.cat([cls, grid.flatten(2).mT], 1)
    dim, patch = cls.shape[-1], state["embeddings.patch_embeddings.projection.weight"].shape[-1]
    config = Dinov2Config(
        hidden_size=dim, num_hidden_layers=sum(n.endswith("norm1.weight") for n in state),
        num_attention_heads=dim // head_dim, mlp_ratio=len(state["encoder.layer.0.mlp.fc1.bias"]) // dim,
        image_size=cells * patch, patch_size=patch, use_mask_token=False,
    )  # fmt: skip
    tower = Dinov2Model(config)
    tower.load_state_dict(state)
    return tower


def read_gguf(path: Path) -> tuple[PreTrainedModel, Any]:
    """The language model of a GGUF file in float32, and its tokenizer."""
    options = {"gguf_file": path.name, "local_files_only": True}
    language = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **options)
    del language.config.quantization_config  # what is saved is no GGUF
    language.config._name_or_path = ""  # nor does it name a folder that is gone by then
    return language, AutoTokenizer.from_pretrained(path.parent, **options)


def join(
    tower: Dinov2Model, language: PreTrainedModel, tokenizer: Any
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A stock LLaVA around both, and its processor. The language model and the tokenizer get one more word, `<image>`.

    The word's row is the mean of all others, so that it is never the likeliest. The projector is random and always the
    same; its weights keep rows about as large as they come, which here is of the order of the embeddings of words.
    """
    tokenizer.add_special_tokens({"extra_special_tokens": [IMAGE]})
    words = language.get_input_embeddings().weight.detach()
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        language.get_input_embeddings().weight[len(words) :] = words.mean(0)
    vision = tower.config
    config = LlavaConfig(
        vision_config=vision, text_config=language.config, image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        vision_feature_layer=-2, vision_feature_select_strategy="default",
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        tie_word_embeddings=language.config.tie_word_embeddings, untrained_projector=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    core = model.model
    core.vision_tower, core.language_model, core.multi_modal_projector = tower, language.model, _projector(config)
    model.lm_head, model.generation_config = language.lm_head, language.generation_config
    images = LlavaImageProcessorPil(
        size={"shortest_edge": vision.image_size},
        crop_size={"height": vision.image_size, "width": vision.image_size},
        **IMAGENET,
    )
    processor = LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=vision.patch_size,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=SAID + tokenizer.chat_template.replace("message['content']", "said(message['content'])"),
    )  # fmt: skip
    return model, processor


def _projector(config: LlavaConfig) -> LlavaMultiModalProjector:
    generator = torch.Generator().manual_seed(SEED)
    projector = LlavaMultiModalProjector(config)
    with torch.no_grad():
        for linear in (projector.linear_1, projector.linear_2):
            linear.weight.normal_(std=linear.in_features**-0.5, generator=generator)
            linear.bias.zero_()
    return projector


def convert(onnx_data: bytes, gguf: Path, folder: Path) -> None:
    """Write the joined model, its processor and its tokenizer to a folder, as safetensors."""
    language, tokenizer = read_gguf(gguf)
    model, processor = join(tower_of(*read_onnx(onnx_data)), language, tokenizer)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
