# Long because what all families share is read in one place: prompt, vision, projector, answer, scoring.
"""What adapters of all families share: prompt, hooks, vision, projector, generation, scoring.

A family is one file with a subclass of `Family`, which says where its parts are and what is special about it: how it
cuts a picture (`layout`), what its processor hands to the model beside pixels (`vision_inputs`), how tower rows become
visual tokens (`_tokens`), how they are projected (`_project`), and which placeholders or positions are not plain.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import nn
from transformers import AutoProcessor, PreTrainedModel, ProcessorMixin
from transformers.modeling_outputs import BaseModelOutputWithPooling

from pruning.checkpoints import sketch, vocabulary_digest
from pruning.cost import layer_flops
from pruning.errors import CaptionRejectedError, GeometryError, ImageRejectedError, QuestionRejectedError
from pruning.inputs.content import VideoClip, VisualInput, images_of
from pruning.interface import LANGUAGE_SIGNALS, TOWER_KEY_SIGNALS, TOWER_SIGNALS, ModelInfo, Observation, Part, Signal
from pruning.layout import TokenLayout
from pruning.models.base import Decider, Generated, RunCallbacks, VisionFeatures, VisualTokens
from pruning.models.chat import Rendered, adds_special_tokens, open_chat, question_tokens, refuse_commands
from pruning.models.generation import TextStreamer, decoding_signals_of, token_by_token
from pruning.models.generation_settings import own_settings
from pruning.models.hooks.attention import observe
from pruning.models.hooks.language_model import LanguageHooks, slots
from pruning.models.hooks.vision_tower import TowerHooks
from pruning.models.prompt import Prompt, insertion_points, splice
from pruning.models.weights.adapter import Weights
from pruning.models.weights.blocks import Anatomy
from pruning.records.selection import CLS_SOURCE

TEXT_LAYERS = 1  # of the language model serve as the selector's frozen text encoder


class Family(Weights):
    """An adapter around a loaded model and its processor. The model's weights, classes and forward functions stay as
    they are; `close` takes the sleeping hooks off again.

    Class facts:
        model_class, processor_class: of transformers.
        vision_inputs: what the processor gives for the model beside text and pixels.
        tower_signals: what can be observed in a tower without [CLS]; where there is one, its attention comes with it.
        tower_matrices: of a tower layer's feed-forward part (3 where it is gated).
        no_tower_stages: why rows cannot be dropped between the tower's layers; empty where they can.
        no_projector_stage: what is done behind the projector before there are visual tokens; empty for most.
        reads_videos: whether a prompt may show a video.
        picture_end: the control token that closes a picture, if there is one.
    """

    model_class: ClassVar[type[PreTrainedModel]]
    processor_class: ClassVar[type] = AutoProcessor
    vision_inputs: ClassVar[tuple[str, ...]] = ()
    tower_signals: ClassVar[frozenset[Signal]] = TOWER_KEY_SIGNALS
    tower_matrices: ClassVar[int] = 2
    no_tower_stages: ClassVar[str] = ""
    no_projector_stage: ClassVar[str] = ""
    reads_videos: ClassVar[bool] = False
    picture_end: ClassVar[str] = ""

    def __init__(self, model, processor, name: str, *, limits=None) -> None:
        self.model, self.processor, self._limits = model.eval(), processor, limits
        self.device, self.dtype = model.device, model.dtype
        self.tokenizer = processor.tokenizer
        self.model.generation_config, self.settings_left_off, self.notes = own_settings(model)
        self.chat = open_chat(processor, name, vicuna=self.may_lack_template(model.config))
        found = self.anatomy(model, name)
        tower_layers, decoder = found.tower_layers, found.decoder
        tower_attention = [getattr(layer, found.attention) for layer in tower_layers]
        self._tower = TowerHooks(tower_layers, tower_attention.__getitem__, found.feature_layer, found.prefix)
        self._language = LanguageHooks(decoder, decoder.layers, lambda i: decoder.layers[i].self_attn)
        signals = self.tower_signals | (TOWER_SIGNALS - TOWER_KEY_SIGNALS if found.prefix else set())
        observed_modules = [*(tower_attention if signals else ()), *(layer.self_attn for layer in decoder.layers)]
        self._undo = [observe(attention) for attention in observed_modules]
        signals |= {Signal.VISUAL_TOKENS, Signal.TEXT_EMBEDDING, *LANGUAGE_SIGNALS}
        vision, text = model.config.vision_config, model.config.get_text_config()
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.info = ModelInfo(
            name=name,
            tower_layers=len(tower_layers),
            feature_layer=found.feature_layer,
            text_layers=len(decoder.layers),
            vision_dim=vision.hidden_size,
            vision_ffn_dim=getattr(vision, "intermediate_size", None) or vision.hidden_size * vision.mlp_ratio,
            patches_per_token=found.patches,
            vision_matrices=self.tower_matrices,
            text_dim=text.hidden_size,
            text_ffn_dim=text.intermediate_size,
            kv_dim=head_dim * text.num_key_value_heads,
            signals=frozenset(signals),
            no_tower_stages=self.no_tower_stages,
            no_projector_stage=self.no_projector_stage,
            identity=cache(self.identity),
        )

    # -- what a family says of itself -----------------------------------------------------------------------------

    def may_lack_template(self, config) -> bool:
        """Whether LLaVA-1.5's published prompt may stand in for a chat template that a checkpoint does not ship."""
        return False

    def anatomy(self, model, name: str) -> Anatomy:
        """Where its parts are.

        Raises:
            ModelUnavailableError: for a member of the family that is built in a way that is not served.
        """
        raise NotImplementedError

    def layout(self, picture_wh: tuple[int, int]) -> TokenLayout:
        """Where the visual tokens of a picture of this size are."""
        raise NotImplementedError

    def _forward_vision(self, prompt: Prompt) -> object:
        """Run the tower."""
        raise NotImplementedError

    def _tokens(self, encoded: VisionFeatures, prompt: Prompt) -> VisionFeatures:
        """From rows of the tower to visual tokens in the order of the layout; here every row is one."""
        del prompt
        return encoded

    def _project(self, features: torch.Tensor) -> torch.Tensor:
        """Visual tokens `[rows, dim]` as the language model reads them."""
        return self.model.model.multi_modal_projector(features[None])[0]

    def _separators(self, layout: TokenLayout) -> torch.Tensor:
        """Which placeholders, bool `[placeholders]`, mark the end of a line and show no part of the picture."""
        return torch.zeros(layout.n_tokens, dtype=torch.bool)

    def _separator(self) -> torch.Tensor:
        """What the language model reads at such a place, `[dim]`."""
        raise NotImplementedError

    def _placed(self, prompt: Prompt) -> Prompt:
        """The prompt with its positions, where they are not those of plain text."""
        return prompt

    def _encoded(self, rows: torch.Tensor) -> BaseModelOutputWithPooling:
        """Rows of all placeholders as the family's `generate` takes them from an encoder."""
        return BaseModelOutputWithPooling(pooler_output=[rows])

    def layout_of(self, visual_input: VisualInput) -> TokenLayout:
        """The layout of all that is shown; a video is refused (`ImageRejectedError`) where the family reads none."""
        if isinstance(visual_input, VideoClip):
            self.check_video()
        return TokenLayout.joined([self.layout((p.shape[1], p.shape[0])) for p in images_of(visual_input)])

    def check_video(self) -> None:
        """See that the family reads videos, before one is decoded.

        Raises:
            ImageRejectedError.
        """
        if not self.reads_videos:
            raise ImageRejectedError(
                f"{self.info.name} is shown pictures here, no video; Qwen2.5-VL and Qwen3-VL read both.",
                "Choose one of these, or bring a few frames as pictures.",
            )

    # -- picture and question -------------------------------------------------------------------------------------

    def prompt(self, visual_input: VisualInput, question: str) -> Prompt:
        """Put a picture `[height, width, 3]` uint8, several of them, or a video, and a question into the model's own
        chat template.

        Raises:
            ImageRejectedError: for no picture, too many, or a video where the family reads none.
            QuestionRejectedError: if the question holds one of the model's control tokens, or it and what is shown are
                too long for the model.
            GeometryError: if the processor makes another number of tokens than the layout has.
        """
        refuse_commands(self.tokenizer, question, self.processor.image_token)
        chat, layout, batch, placeholder = self._written(visual_input, question)
        ids, n_shown = batch["input_ids"], layout.n_pictures
        if ids.shape[1] >= self._longest:
            what = "picture" if n_shown == 1 else "video" if layout.seconds else f"{n_shown} pictures"
            less = "Shorten the question." if n_shown == 1 else "Bring fewer, or a smaller copy."
            raise QuestionRejectedError(
                f"Question and {what} make {ids.shape[1]} tokens; this model reads at most {self._longest}.", less
            )
        visual = ids[0] == placeholder
        separators = torch.cat([self._separators(part) for part in layout.parts()])
        if int(visual.sum()) != len(separators):
            raise GeometryError(
                f"The processor of {self.info.name} makes {int(visual.sum())} placeholders of pictures of "
                f"{layout.pictures_wh}; {len(separators)} were expected.",
                "Use the processor that belongs to the model.",
            )
        visual[visual.clone()] = ~separators
        in_question, words = question_tokens(self.tokenizer, chat, ids[0], placeholder)
        return self._placed(
            Prompt(
                input_ids=ids.to(self.device),
                visual=visual,
                token_texts=[self.tokenizer.decode([i]) for i in ids[0].tolist()],
                in_question=in_question,
                words=words,
                pixels=batch["pixel_values"].to(self.device, self.dtype),
                layout=layout,
                notes=(*self.chat.notes, *self.notes),
                separators=(ids[0] == placeholder) & ~visual,
                extra={name: batch[name].to(self.device) for name in self.vision_inputs if name in batch},
            )
        )

    def _written(
        self, visual_input: VisualInput, question: str
    ) -> tuple[Rendered, TokenLayout, Mapping[str, Any], int]:
        """The chat with one placeholder for each picture, where the visual tokens are, what the processor makes of chat
        and pictures, and the id of the placeholder.
        """
        layout, pictures = self.layout_of(visual_input), images_of(visual_input)
        chat = self.chat.render(question, ["image"] * len(pictures))
        batch = self.processor(
            images=[Image.fromarray(p) for p in pictures], text=chat.text, return_tensors="pt",
            add_special_tokens=adds_special_tokens(self.tokenizer, chat.text),
        )  # fmt: skip
        return chat, layout, batch, self.model.config.image_token_id

    def insert(self, prompt: Prompt, text: str) -> Prompt:
        """The prompt with `text` between the picture (and its newline) and the question; unchanged for no text.

        Raises:
            CaptionRejectedError: if that makes it longer than the model reads.
        """
        if not text:
            return prompt
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        picture = [
            p or w.strip() == self.picture_end != ""
            for p, w in zip(prompt.placeholders, prompt.token_texts, strict=True)
        ]
        at = insertion_points(picture, prompt.token_texts)[-1]
        token_texts = [self.tokenizer.decode([i]) for i in ids]
        spliced = self._placed(splice(prompt, at, ids, token_texts, [w.strip() for w in token_texts]))
        if spliced.input_ids.shape[1] >= self._longest:
            raise CaptionRejectedError(
                f"The caption has {len(ids)} tokens; with picture and question that makes "
                f"{spliced.input_ids.shape[1]}, and this model reads at most {self._longest}.",
                "Shorten the caption.",
            )
        return spliced

    def limits(self, encoded: VisionFeatures, question: str, n_pictures: int = 1) -> list[str]:
        """Sentences about what this model cannot know of these pictures and question; empty for most models."""
        return self._limits(self.tokenizer, encoded, question, n_pictures) if self._limits else []

    @property
    def _longest(self) -> int:
        text = self.model.config.get_text_config()
        window = getattr(text, "sliding_window", None)  # counts rows, so pruning would let it reach too far back
        return min(text.max_position_embeddings, window or text.max_position_embeddings)

    # -- the three parts ------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode_image(
        self, prompt: Prompt, observations: Sequence[Observation], decider: Decider | None, callbacks: RunCallbacks
    ) -> VisionFeatures:
        """Run the vision tower. `looks` of the tower's signals are observed; a decider may drop rows between layers."""
        tower_observations = [observation for observation in observations if observation.signal in TOWER_SIGNALS]
        rows = self._tower.run(lambda: self._forward_vision(prompt), tower_observations, decider, callbacks.stop)
        encoded = self._tokens(rows, prompt)
        encoded.output = None  # what is needed of it was taken; it would hold the whole grid in memory
        return encoded

    @torch.inference_mode()
    def project(self, encoded: VisionFeatures, decider: Decider | None) -> VisualTokens:
        """Decide before the projector, if the decider wants to, and project what goes on."""
        ids, features = encoded.ids, encoded.features
        stage = next((s for s in decider.stages if s.part is Part.PROJECTOR), None) if decider else None
        if stage is not None:
            decision = decider.decide(stage, features, ids, encoded.observations)
            features = features[decision.keep] if decision.features is None else decision.features
            ids = ids[decision.keep]
            if decision.order is not None:
                features = torch.cat([features, encoded.cls[None].to(features.dtype)])[decision.order]  # -1 is [CLS]
                ids = torch.cat([ids, ids.new_tensor([CLS_SOURCE])])[decision.order]
        return VisualTokens(self._project(features.to(self.dtype)), ids, encoded.deep)

    @torch.inference_mode()
    def answer(
        self,
        prompt: Prompt,
        picture: VisualTokens,
        decider: Decider | None,
        max_new_tokens: int,
        callbacks: RunCallbacks,
    ) -> Generated:
        """Generate greedily. The picture's rows are handed to `generate` as the encoder's output."""
        token_texts = TextStreamer(self.tokenizer, callbacks, prompt.input_ids.shape[1])
        began = time.perf_counter()
        out, run = self._language.run(
            lambda: self.model.generate(
                input_ids=prompt.input_ids,
                attention_mask=torch.ones_like(prompt.input_ids),  # or a pad token that ends a turn would be masked
                mm_encoder_outputs={prompt.modality: self._encoded(self._placeholder_rows(prompt, picture))},
                max_new_tokens=max_new_tokens, return_dict_in_generate=True, output_logits=True,
                streamer=token_texts,
            ),
            prompt, picture, decider, callbacks,
        )  # fmt: skip
        ids = out.sequences[0, prompt.input_ids.shape[1] :].tolist()
        special = set(self.tokenizer.all_special_ids)
        spoken = [step for step, i in enumerate(ids) if i not in special]
        ends = self.model.generation_config.eos_token_id
        ended = bool(ids) and ids[-1] in (ends if isinstance(ends, list) else [ends])
        times = token_texts.times
        return Generated(
            token_ids=ids,
            token_texts=token_texts.texts,
            log_probs=[float(out.logits[step][0].float().log_softmax(-1)[ids[step]]) for step in spoken],
            visual_per_layer=run.visual_per_layer,
            cached_per_layer=run.cached_per_layer,
            text_tokens=prompt.input_ids.shape[1] - int(prompt.visual.sum()),
            stopped="end" if ended else "length",
            prefill_ms=1e3 * (times[0] - began),
            decode_ms_per_token=1e3 * (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else None,
            **decoding_signals_of(run, out.logits, self.model.lm_head, spoken),
            prompt_attention=torch.stack(run.prompt_attention) if run.prompt_attention else None,
        )

    @torch.inference_mode()
    def score(
        self, prompt: Prompt, picture: VisualTokens, decider: Decider | None, token_ids: Sequence[int]
    ) -> torch.Tensor:
        """Teacher forcing: log-probabilities over the vocabulary at every place of a given answer, float32
        `[answer, vocabulary]`. The decider is asked as in `answer`; give it decisions that are already made.
        """
        said = list(token_ids[:-1])
        nothing = [""] * len(said)
        longer = self._placed(splice(prompt, prompt.input_ids.shape[1], said, nothing, nothing))
        states = self.model.get_input_embeddings()(longer.input_ids)
        rows = self._placeholder_rows(longer, picture)
        states[0, longer.placeholders.to(states.device)] = rows.to(states)
        decoder = self._anatomy.decoder
        if decider is not None and decider.evicts:  # new tokens see caches that the prompt's own rows did not
            work = partial(token_by_token, decoder, states, len(said))
            hidden, _ = self._language.run(work, prompt, picture, decider, RunCallbacks())
        else:
            work = partial(decoder, inputs_embeds=states, use_cache=False)
            out, _ = self._language.run(work, longer, picture, decider, RunCallbacks())
            hidden = out.last_hidden_state[0, -len(token_ids) :]
        return self.model.lm_head(hidden).float().log_softmax(-1)

    def _placeholder_rows(self, prompt: Prompt, picture: VisualTokens) -> torch.Tensor:
        """A row for every placeholder `[placeholders, dim]`: the picture's in their slots, nothing in the others; those
        are dropped before the first layer reads them.
        """
        shows = prompt.visual[prompt.placeholders].to(picture.features.device)
        rows = picture.features.new_zeros(len(shows), picture.features.shape[1])
        rows[shows.nonzero()[slots(picture.ids).to(rows.device), 0]] = picture.features
        if not bool(shows.all()):
            rows[~shows] = self._separator().to(rows)
        return rows

    # -- texts and names ------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def encode_text(self, texts: Sequence[str]) -> tuple[torch.Tensor, int]:
        """Vectors of texts from the frozen first layers of the language model: the mean over a text's tokens beside
        its last token, float32 `[texts, 2 * dim]`; and the multiply-adds that it took.
        """
        core = self._anatomy.decoder
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
        """What something trained beside this model reads of it; see `pruning.identity`."""
        tower, decoder = self._anatomy.tower, self._anatomy.decoder
        elsewhere = {id(p) for part in (tower, decoder) for p in part.parameters()}
        words = [self.model.get_input_embeddings(), *decoder.layers[:TEXT_LAYERS]]
        return {
            "vision_dim": self.info.token_dim,
            "vocabulary": vocabulary_digest(self.tokenizer),
            "tower": sketch(tower.parameters()),
            "projector": sketch(p for p in self.model.parameters() if id(p) not in elsewhere),
            "words": sketch(p for part in words for p in part.parameters()),
        }

    def layers_of(self, model) -> dict[Part, Sequence[nn.Module]]:
        found = self.anatomy(model, self.info.name)
        return {Part.TOWER: found.tower_layers, Part.LANGUAGE_MODEL: found.decoder.layers}

    @property
    def _anatomy(self) -> Anatomy:
        return self.anatomy(self.model, self.info.name)

    def close(self) -> None:
        self._tower.remove()
        self._language.remove()
        for undo in self._undo:
            undo()


def pictures_only(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """A processor class of the library that opens, and is made, without a video processor."""

    class Pictures(kind):
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

    Pictures.__name__ = kind.__name__  # is written down when it is saved
    return Pictures
