"""The LLaVA-1.5 family: a CLIP or SigLIP tower, a two-layer projector, a Llama-like language model, one square view.

Conventions and where they are handled: the picture is shown by the processor's own resize and crop (or pad), read
from its configuration in `layout`; the hidden state before the last one feeds the projector (`vision_feature_layer`);
[CLS] is not given to the language model (`vision_feature_select_strategy = default`; `full` is refused).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pruning.cost import layer_flops
from pruning.errors import CaptionRejectedError, ModelUnavailableError, PlanError, QuestionRejectedError
from pruning.geometry import Tile, TokenLayout, square_view
from pruning.models.anatomy import Block, fingerprint, take_apart
from pruning.models.base import Decider, Generated, Picture, Prompt, Seen, Watch
from pruning.models.calibration import Calibration
from pruning.models.capture import observe
from pruning.models.gating import Gated
from pruning.models.language import LanguageHooks
from pruning.models.sketch import sketch, vocabulary_digest
from pruning.models.splice import insertion_points, splice
from pruning.models.tower import TowerHooks
from pruning.models.view import compress, shared_copy
from pruning.plans import StructuralPlan
from pruning.records import CLS_SOURCE
from pruning.signals import LANGUAGE_SIGNALS, TOWER_KEY_SIGNALS, TOWER_SIGNALS, Look, ModelInfo, Part, Signal
from pruning.structure import BlockFacts

TOWERS = {"clip_vision_model", "siglip_vision_model"}
TEXT_LAYERS = 1  # of the language model serve as the selector's frozen text encoder


class LlavaAdapter:
    """An adapter around a loaded `LlavaForConditionalGeneration` and its processor. The model's weights, classes and
    forward functions stay as they are; `close` takes the sleeping hooks off again.
    """

    def __init__(self, model, processor, name: str, *, limits=None) -> None:
        core, config = model.model, model.config
        self.model, self.processor, self._limits = model.eval(), processor, limits
        self.device, self.dtype = model.device, model.dtype
        self.tokenizer = processor.tokenizer
        vision, text = config.vision_config, config.get_text_config()
        if vision.model_type not in TOWERS:
            raise ModelUnavailableError(
                f"{name} has a {vision.model_type} tower; this version serves: {', '.join(sorted(TOWERS))}.",
                "Choose another model.",
            )
        tower = getattr(core.vision_tower, "vision_model", core.vision_tower)
        layers = tower.encoder.layers
        has_cls = hasattr(tower.embeddings, "class_embedding")
        if not isinstance(config.vision_feature_layer, int):
            raise ModelUnavailableError(
                f"{name} feeds several tower layers to the projector, which is not supported.", "Choose another model."
            )
        if config.vision_feature_select_strategy == "full" and has_cls:
            raise ModelUnavailableError(
                f"{name} also gives [CLS] to the language model, which is not supported.", "Choose another model."
            )
        feature_layer = config.vision_feature_layer % (len(layers) + 1) - 1
        self._tower = TowerHooks(layers, lambda i: layers[i].self_attn, feature_layer, int(has_cls))
        decoder = core.language_model
        self._language = LanguageHooks(decoder, decoder.layers, lambda i: decoder.layers[i].self_attn)
        self._undo = [observe(layer.self_attn) for layer in (*layers, *decoder.layers)]
        self._side, self._patch = vision.image_size, vision.patch_size
        signals = {Signal.VISUAL_TOKENS, Signal.TEXT_EMBEDDING, *TOWER_KEY_SIGNALS, *LANGUAGE_SIGNALS}
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.info = ModelInfo(
            name=name,
            tower_layers=len(layers),
            feature_layer=feature_layer,
            text_layers=len(decoder.layers),
            vision_dim=vision.hidden_size,
            vision_ffn_dim=vision.intermediate_size,
            text_dim=text.hidden_size,
            text_ffn_dim=text.intermediate_size,
            kv_dim=head_dim * text.num_key_value_heads,
            signals=frozenset(signals | (TOWER_SIGNALS if has_cls else set())),
        )

    # -- picture and question -------------------------------------------------------------------------------------

    def layout(self, picture_wh: tuple[int, int]) -> TokenLayout:
        images = self.processor.image_processor
        if getattr(images, "do_pad", False):
            how = "pad"
        elif images.do_center_crop and getattr(images.size, "shortest_edge", None):
            how = "crop"
        else:
            how = "stretch"
        n = self._side // self._patch
        return TokenLayout(picture_wh, (Tile(square_view(picture_wh, how), (n, n), (self._side, self._side)),))

    def prompt(self, picture: np.ndarray, question: str) -> Prompt:
        """Put a picture `[height, width, 3]` uint8 and a question into the model's own chat template.

        Raises:
            QuestionRejectedError: if the question holds one of the model's control tokens or is too long for it.
        """
        for control in self.tokenizer.all_special_tokens:
            if control and control.strip() and control in question:
                raise QuestionRejectedError(
                    f"The question contains {control}, which this model reads as a command.", "Write it differently."
                )
        text = self._chat(question)
        layout = self.layout((picture.shape[1], picture.shape[0]))
        batch = self.processor(images=Image.fromarray(picture), text=text, return_tensors="pt")
        ids = batch["input_ids"]
        longest = self.model.config.get_text_config().max_position_embeddings
        if ids.shape[1] >= longest:
            raise QuestionRejectedError(
                f"Question and picture make {ids.shape[1]} tokens; this model reads at most {longest}.",
                "Shorten the question.",
            )
        words = [self.tokenizer.decode([i]) for i in ids[0].tolist()]
        visual = ids[0] == self.model.config.image_token_id
        asked, whole = self._question_span(text, question, ids[0], words)
        return Prompt(
            input_ids=ids.to(self.device),
            visual=visual,
            words=words,
            in_question=asked,
            whole=whole,
            pixels=batch["pixel_values"].to(self.device, self.dtype),
            layout=layout,
        )

    def insert(self, prompt: Prompt, text: str) -> Prompt:
        """The prompt with `text` between the picture (and its newline) and the question; unchanged for no text.

        Raises:
            CaptionRejectedError: if that makes it longer than the model reads.
        """
        if not text:
            return prompt
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        at = insertion_points(prompt.visual.tolist(), prompt.words)[0]
        words = [self.tokenizer.decode([i]) for i in ids]
        spliced = splice(prompt, at, ids, words, [w.strip() for w in words])
        longest = self.model.config.get_text_config().max_position_embeddings
        if spliced.input_ids.shape[1] >= longest:
            raise CaptionRejectedError(
                f"The caption has {len(ids)} tokens; with picture and question that makes "
                f"{spliced.input_ids.shape[1]}, and this model reads at most {longest}.",
                "Shorten the caption.",
            )
        return spliced

    def limits(self, seen: Seen, question: str) -> list[str]:
        """Sentences about what this model cannot know of this picture and question; empty for most models."""
        return self._limits(self.tokenizer, seen, question) if self._limits else []

    def _chat(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        if not self.processor.chat_template:  # early checkpoints ship none
            return f"USER: <image>\n{question} ASSISTANT:"
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def _question_span(
        self, text: str, question: str, ids: torch.Tensor, words: list[str]
    ) -> tuple[torch.Tensor, list[str]]:
        """Which tokens the person wrote, bool `[tokens]`, and the whole word that each is part of. Where that cannot be
        told: all text behind the picture, and every token a word.
        """
        token = self.processor.image_token
        expanded = text.replace(token, token * int((ids == self.model.config.image_token_id).sum()))
        coded = self.tokenizer(expanded, return_offsets_mapping=True)
        start = expanded.rfind(question.strip())
        if coded["input_ids"] == ids.tolist() and start >= 0:
            end = start + len(question.strip())
            places = coded["offset_mapping"]
            asked = torch.tensor([a < end and b > start and a < b for a, b in places])
            near = zip(places, asked.tolist(), strict=True)
            return asked, [_word_around(expanded, a, b) if mine else "" for (a, b), mine in near]
        behind = torch.zeros(len(ids), dtype=torch.bool)
        behind[int((ids == self.model.config.image_token_id).nonzero()[-1]) + 1 :] = True
        return behind, words

    # -- the three parts ------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def see(self, prompt: Prompt, looks: Sequence[Look], decider: Decider | None, watch: Watch) -> Seen:
        """Run the vision tower. `looks` of the tower's signals are observed; a decider may drop rows between layers."""
        tower_looks = [look for look in looks if look.signal in TOWER_SIGNALS]
        return self._tower.run(lambda: self.model.model.vision_tower(prompt.pixels), tower_looks, decider, watch.stop)

    @torch.inference_mode()
    def project(self, seen: Seen, decider: Decider | None) -> Picture:
        """Decide before the projector, if the decider wants to, and project what goes on."""
        ids, features = seen.ids, seen.features
        stage = next((s for s in decider.stages if s.part is Part.PROJECTOR), None) if decider else None
        if stage is not None:
            decision = decider.decide(stage, features, ids, seen.looks)
            features = features[decision.keep] if decision.features is None else decision.features
            ids = ids[decision.keep]
            if decision.order is not None:
                features = torch.cat([features, seen.cls[None].to(features.dtype)])[decision.order]  # -1 is [CLS]
                ids = torch.cat([ids, ids.new_tensor([CLS_SOURCE])])[decision.order]
        projected = self.model.model.multi_modal_projector(features[None].to(self.dtype))[0]
        return Picture(projected, ids)

    @torch.inference_mode()
    def answer(
        self, prompt: Prompt, picture: Picture, decider: Decider | None, max_new_tokens: int, watch: Watch
    ) -> Generated:
        """Generate greedily. The picture's rows are handed to `generate` as the encoder's output."""
        n_visual = int(prompt.visual.sum())
        rows = picture.features.new_zeros(n_visual, picture.features.shape[1])
        rows[: len(picture.features)] = picture.features
        pieces = _Pieces(self.tokenizer, watch, prompt.input_ids.shape[1])
        began = time.perf_counter()
        out, run = self._language.run(
            lambda: self.model.generate(
                input_ids=prompt.input_ids,
                mm_encoder_outputs={"image": BaseModelOutputWithPooling(pooler_output=[rows])},
                do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None,
                max_new_tokens=max_new_tokens,
                return_dict_in_generate=True, output_logits=True,
                streamer=pieces,
            ),
            prompt, picture, decider, watch,
        )  # fmt: skip
        ids = out.sequences[0, prompt.input_ids.shape[1] :].tolist()
        special = set(self.tokenizer.all_special_ids)
        spoken = [step for step, i in enumerate(ids) if i not in special]
        ends = self.model.generation_config.eos_token_id
        ended = bool(ids) and ids[-1] in (ends if isinstance(ends, list) else [ends])
        times = pieces.times
        return Generated(
            token_ids=ids,
            pieces=pieces.texts,
            log_probs=[float(out.logits[step][0].float().log_softmax(-1)[ids[step]]) for step in spoken],
            visual_per_layer=run.visual_per_layer,
            cached_per_layer=run.cached_per_layer,
            text_tokens=prompt.input_ids.shape[1] - n_visual,
            stopped="end" if ended else "length",
            read_ms=1e3 * (times[0] - began),
            per_word_ms=1e3 * (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None,
            attention=torch.stack([run.word_attention[s] for s in spoken]) if watch.attention and spoken else None,
        )

    @torch.inference_mode()
    def score(
        self, prompt: Prompt, picture: Picture, decider: Decider | None, token_ids: Sequence[int]
    ) -> torch.Tensor:
        """Teacher forcing: log-probabilities over the vocabulary at every place of a given answer, float32
        `[answer, vocabulary]`. The decider is asked as in `answer`; give it decisions that are already made.
        """
        said = torch.tensor([list(token_ids[:-1])], dtype=prompt.input_ids.dtype, device=self.device)
        n = said.shape[1]
        nothing = torch.zeros(n, dtype=torch.bool)
        longer = replace(
            prompt,
            input_ids=torch.cat([prompt.input_ids, said], 1),
            visual=torch.cat([prompt.visual, nothing]),
            in_question=torch.cat([prompt.in_question, nothing]),
            words=[*prompt.words, *[""] * n],
            whole=[*prompt.whole, *[""] * n],
        )
        states = self.model.get_input_embeddings()(longer.input_ids)
        places = longer.visual.nonzero()[:, 0].to(self.device)[: len(picture.features)]
        states[0, places] = picture.features.to(states.dtype)
        out, _ = self._language.run(
            lambda: self.model.model.language_model(inputs_embeds=states, use_cache=False),
            longer, picture, decider, Watch(),
        )  # fmt: skip
        hidden = out.last_hidden_state[0, -len(token_ids) :]
        return self.model.lm_head(hidden).float().log_softmax(-1)

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> tuple[torch.Tensor, int]:
        """Vectors of texts from the frozen first layers of the language model: the mean over a text's tokens beside
        its last token, float32 `[texts, 2 * dim]`; and the multiply-adds that it took.
        """
        core = self.model.model.language_model
        vectors, cost = [], 0
        for text in texts:
            ids = torch.tensor([self.tokenizer(text)["input_ids"]], device=self.device)
            hidden, n = core.embed_tokens(ids), ids.shape[1]
            turn = core.rotary_emb(hidden, torch.arange(n, device=self.device)[None])
            causal = torch.full((n, n), torch.finfo(hidden.dtype).min, device=self.device, dtype=hidden.dtype).triu(1)
            for layer in core.layers[:TEXT_LAYERS]:
                out = layer(hidden, attention_mask=causal[None, None], position_embeddings=turn)
                hidden = out[0] if isinstance(out, tuple) else out
            vectors.append(torch.cat([hidden[0].mean(0), hidden[0, -1]]).float())
            cost += TEXT_LAYERS * layer_flops(n, self.info.text_dim, self.info.text_ffn_dim, self.info.kv_dim)
        return torch.stack(vectors), cost

    def identity(self) -> dict[str, Any]:
        """What something trained for this model can be recognised by; see `models.sketch`."""
        core = self.model.model
        return {
            "vision_dim": self.info.vision_dim,
            "vocabulary": vocabulary_digest(self.tokenizer),
            "tower": sketch(core.vision_tower),
            "language": sketch(core.language_model),
        }

    # -- weights --------------------------------------------------------------------------------------------------

    @cached_property
    def fingerprint(self) -> str:
        """Which weights these are; a structural plan is for one fingerprint."""
        return fingerprint(self.model)

    def facts(
        self, parts: Sequence[Part], wanted: Sequence[str], prompts: Iterable[Prompt], stop: Callable[[], bool]
    ) -> list[BlockFacts]:
        """What a structural score may know of the layers of some parts; `wanted` as in `models.calibration`.

        Tower layers behind the one that feeds the projector are left out: nothing that they do is read.
        """
        with self._private() as copied:
            calibration = Calibration(copied.blocks(parts), wanted)
            return calibration.run(copied.model, prompts if wanted else (), stop)

    def gated(self, parts: Sequence[Part]) -> Gated:
        """A private copy whose heads can be turned down, for training."""
        copied = shared_copy(self.model)
        return Gated(copied, self._take_apart(copied, parts))

    def compressed(self, plan: StructuralPlan) -> LlavaAdapter:
        """An adapter around a private view of this model with the plan carried out: fewer heads, thin matrices.

        Every tensor that the plan leaves alone is shared; this model is not touched. `close` the view after use.

        Raises:
            PlanError: if the plan is for another model or names layers that it does not have.
        """
        if plan.fingerprint != self.fingerprint:
            raise PlanError(
                f"The plan was made for other weights ({plan.request.model}) than those of {self.info.name}.",
                "Load the model that the plan names, or make a plan for this one.",
            )
        copied = shared_copy(self.model)
        parts = tuple(dict.fromkeys(p.part for p in plan.layers))
        blocks = {(b.part, b.layer): b for b in self._take_apart(copied, parts)}
        for one in plan.layers:
            if (one.part, one.layer) not in blocks:
                raise PlanError(f"{self.info.name} has no layer {one.layer} in use in its {one.part}.", "Make it anew.")
            compress(blocks[one.part, one.layer], one)
        view = LlavaAdapter(copied, self.processor, self.info.name, limits=self._limits)
        shapes = {part: tuple(b.shape for b in take_apart(part, layers, self.info.name))
                  for part, layers in _layers_of(copied).items()}  # fmt: skip
        tower, text = shapes[Part.TOWER], shapes[Part.LANGUAGE_MODEL]
        view.info = replace(view.info, tower_shapes=tower, text_shapes=text)
        return view

    def blocks(self, parts: Sequence[Part]) -> list[Block]:
        """The layers of some parts taken apart, tower first; without tower layers that nothing reads."""
        return self._take_apart(self.model, parts)

    def _take_apart(self, model, parts: Sequence[Part]) -> list[Block]:
        used = {Part.TOWER: self.info.feature_layer + 1, Part.LANGUAGE_MODEL: self.info.text_layers}
        layers = _layers_of(model)
        return [b for p in used if p in parts for b in take_apart(p, layers[p][: used[p]], self.info.name)]

    @contextmanager
    def _private(self) -> Iterator[LlavaAdapter]:
        copied = LlavaAdapter(shared_copy(self.model), self.processor, self.info.name, limits=self._limits)
        try:
            yield copied
        finally:
            copied.close()

    def close(self) -> None:
        """Take every hook off the model again."""
        self._tower.remove()
        self._language.remove()
        for undo in self._undo:
            undo()


def _layers_of(model) -> dict[Part, Sequence[torch.nn.Module]]:
    core = model.model
    tower = getattr(core.vision_tower, "vision_model", core.vision_tower)
    return {Part.TOWER: tower.encoder.layers, Part.LANGUAGE_MODEL: core.language_model.layers}


def _word_around(text: str, start: int, end: int) -> str:
    """The text between the white space around `text[start:end]` (which may begin with some itself)."""
    while start < end and text[start].isspace():
        start += 1
    while start > 0 and not text[start - 1].isspace():
        start -= 1
    while end < len(text) and not text[end].isspace():
        end += 1
    return text[start:end]


class _Pieces(BaseStreamer):
    """Turns token ids into pieces of text as they come; the end mark gives no piece. A token that is only part of a
    character gives an empty one, and the token that completes it the whole character.
    """

    def __init__(self, tokenizer, watch: Watch, n_prompt: int) -> None:
        self.tokenizer, self.watch, self.waiting = tokenizer, watch, n_prompt
        self.ids: list[int] = []
        self.texts: list[str] = []
        self.times: list[float] = []
        self._shown = ""

    def put(self, value: torch.Tensor) -> None:
        if self.waiting:  # the prompt comes first, whole
            self.waiting = 0
            return
        self.ids += value.flatten().tolist()
        self.times.append(time.perf_counter())
        if self.ids[-1] in self.tokenizer.all_special_ids:
            return
        self.texts.append("")
        text = self.tokenizer.decode(self.ids, skip_special_tokens=True)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            self._add(text)

    def end(self) -> None:
        """What was held back because its last character was never completed comes now."""
        if self.texts:
            self._add(self.tokenizer.decode(self.ids, skip_special_tokens=True))

    def _add(self, text: str) -> None:
        new, self._shown = text[len(self._shown) :], text
        if new:
            self.texts[-1] += new
            self.watch.piece(new)
