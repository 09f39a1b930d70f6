"""The bundled model before training: tokenizer, processor, configuration, all of stock transformers classes.

Its structure is that of LLaVA-1.5, smaller: a CLIP vision tower with [CLS] on a 24 x 24 patch grid whose second-to-last
hidden state feeds a two-layer projector, and a Llama language model. A chat template puts a system prompt before the
picture, as LLaVA does; without it a pruned sequence would lose its attention sinks with its background.
"""

from __future__ import annotations

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from pruning.demo_model.world.questions import all_words

SIDE, PATCH = 192, 8
ROWS = COLS = SIDE // PATCH
WIDTH = 192

SYSTEM_PROMPT = "A chat about a drawn picture. The assistant sees objects and gives short answers."
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>", "<image>")
CHAT_TEMPLATE = (
    SYSTEM_PROMPT + "{% for message in messages %}"
    "{% if message['role'] == 'user' %} USER: {% else %} ASSISTANT: {% endif %}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% endif %}{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build a word-level tokenizer for exactly the words of questions and answers; letter case is ignored."""
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("-", " ")])
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n"), "isolated"),
            pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always"),
            pre_tokenizers.Split(Regex(r"[^\w\u2581\n]"), "isolated"),
        ]
    )
    words: set[str] = set()
    for text in [*all_words(), SYSTEM_PROMPT, " USER: ASSISTANT:", "\n", "a, b. c? d: e!"]:
        words |= {part for part, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
    words -= {"\u2581b", "\u2581c", "\u2581d", "\u2581e", "\u2581"}  # left over from the punctuation sample
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, "\u2581", *sorted(words)])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.normalizer, core.pre_tokenizer = normalizer, splitter
    core.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def build_processor(side: int = SIDE, patch: int = PATCH) -> LlavaProcessor:
    """Build a processor that resizes the shorter side and crops the centre, as LLaVA-1.5's does."""
    images = LlavaImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    tokenizer = build_tokenizer()
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int = 0) -> LlavaForConditionalGeneration:
    """Build the untrained model, float32, with sine position embeddings of rows and columns."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=6, num_attention_heads=6,
        image_size=SIDE, patch_size=PATCH, hidden_act="gelu", projection_dim=WIDTH,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=512, num_hidden_layers=8,
        num_attention_heads=6, num_key_value_heads=6, max_position_embeddings=2048, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2, vision_feature_select_strategy="default", image_seq_length=ROWS * COLS,
        tie_word_embeddings=True,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    embeddings = model.model.vision_tower.embeddings
    with torch.no_grad():
        embeddings.position_embedding.weight[0] = 0
        embeddings.position_embedding.weight[1:] = 0.3 * _sine_table(ROWS, COLS, WIDTH)
        torch.nn.init.normal_(embeddings.patch_embedding.weight, std=0.7 * (3 * PATCH * PATCH) ** -0.5)
    return model


def _sine_table(rows: int, cols: int, width: int) -> torch.Tensor:
    """Return two-dimensional sines and cosines, `[rows * cols, width]`: half the width for the row, half for the
    column.
    """
    frequency = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(torch.arange(rows).float(), torch.arange(cols).float(), indexing="ij")
    waves = [torch.cat([(t.reshape(-1, 1) * frequency).sin(), (t.reshape(-1, 1) * frequency).cos()], 1) for t in (y, x)]
    return torch.cat(waves, 1)
