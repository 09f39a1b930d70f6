"""Use a checkpoint's own chat template, wherever it lies, and find the question in the prompt that it makes.

A template is used as the checkpoint ships it, from wherever it lies: the processor (`chat_template.jinja`, the older
`chat_template.json`, a key of `processor_config.json`) or the tokenizer (`tokenizer_config.json`). How it wants to be
called is found out once, when a model is opened, by rendering a mark in place of the question: with a list of content
parts, as text with the placeholder written into it, and either of them behind a system turn. What had to be added is
noted, and a template that fits none of these is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError

from pruning.errors import ModelUnavailableError, QuestionRejectedError

MARK = "Qx7question7xQ"  # rendered in place of a question; a word that no template and no model's chat contains
VICUNA = "{% for m in messages %}USER: {{ m['content'] }} {% endfor %}ASSISTANT:"  # LLaVA-1.5's published prompt
SYSTEM = "You are a helpful assistant."
VICUNA_NOTE = "The checkpoint has no chat template; LLaVA-1.5's published prompt (USER: ... ASSISTANT:) was used."
SYSTEM_NOTE = f"The chat template asks for a system turn; “{SYSTEM}” was put there."
TEXT_NOTE = (
    "The chat template takes text only; the picture's placeholder and a line break were put before the question."
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A chat with one placeholder for each picture; `start` and `end` are the question's place in `text`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Chat:
    """How the chat of one checkpoint is written.

    Attributes:
        template: in Jinja, as shipped.
        in_parts: whether a turn's content is a list of parts, else text with placeholders in it.
        system: whether a system turn comes first.
        notes: what was added to what the checkpoint says, for the record; empty for most.
    """

    processor: Any
    template: str
    in_parts: bool
    system: bool
    notes: tuple[str, ...] = ()

    def render(self, question: str, kinds: Sequence[str]) -> Rendered:
        """The chat about what is shown (`kinds`: `image` or `video`, one for each placeholder) and a question.

        Raises:
            QuestionRejectedError: if the template changes this question so that its place cannot be told.
        """
        marked, text = self._render(MARK, kinds), self._render(question, kinds)
        before, _, behind = marked.rpartition(MARK)
        start, end = len(before), len(text) - len(behind)
        # A template may trim what it is given.
        fits = text.startswith(before) and text.endswith(behind) and text[start:end].strip() == question.strip()
        if not fits:
            raise QuestionRejectedError(
                "This model's chat template does not give the question back as it was written.", "Write it differently."
            )
        return Rendered(text, start, end)

    def _render(self, question: str, kinds: Sequence[str]) -> str:
        if self.in_parts:
            content: Any = [*({"type": kind} for kind in kinds), {"type": "text", "text": question}]
            system: Any = [{"type": "text", "text": SYSTEM}]
        else:
            marks = "".join(f"{placeholder(self.processor, kind)}\n" for kind in kinds)
            content, system = f"{marks}{question}", SYSTEM
        turns = [{"role": "system", "content": system}] if self.system else []
        turns.append({"role": "user", "content": content})
        # The tokenizer's renderer takes both kinds of content as they are; the processor's is the same one behind
        # checks of its own.
        return self.processor.tokenizer.apply_chat_template(
            turns, chat_template=self.template, add_generation_prompt=True, tokenize=False
        )


def placeholder(processor: Any, kind: str) -> str:
    """The token that stands for a picture or a video in text."""
    return processor.video_token if kind == "video" else processor.image_token


def open_chat(processor: Any, name: str, *, vicuna: bool = False) -> Chat:
    """How a checkpoint's chat is written.

    Args:
        name: the model's, for sentences. vicuna: whether LLaVA-1.5's published prompt may stand in for a missing one.

    Raises:
        ModelUnavailableError: if there is no template, or none of the ways of calling it yields a chat with one
            placeholder, the question, and text behind the picture.
    """
    template = template_of(processor)
    if template is None:
        if not vicuna:
            raise ModelUnavailableError(
                f"{name} comes without a chat template (looked for in its processor and its tokenizer).",
                "Add the checkpoint's chat_template.jinja to its folder.",
            )
        return Chat(processor, VICUNA, in_parts=False, system=False, notes=(VICUNA_NOTE,))
    problem = ""
    for in_parts in (True, False):
        for system in (False, True):
            notes = ((SYSTEM_NOTE,) if system else ()) + (() if in_parts else (TEXT_NOTE,))
            chat = Chat(processor, template, in_parts, system, notes)
            found = _problem(chat)
            if not found:
                return chat
            problem = problem or found
    raise ModelUnavailableError(
        f"The chat template of {name} cannot be used: {problem}.", "Use the template that the model was published with."
    )


def template_of(processor: Any) -> str | None:
    """The chat template that a checkpoint ships, the processor's before the tokenizer's; of several, the default."""
    for owner in (processor, processor.tokenizer):
        found = getattr(owner, "chat_template", None)
        if isinstance(found, dict):
            found = found.get("default") or next(iter(found.values()), None)
        if found:
            return found
    return None


def _problem(chat: Chat) -> str:
    """Why a chat is not one that can be asked about a picture; empty if it is."""
    mark = placeholder(chat.processor, "image")
    try:
        text = chat._render(MARK, ["image"])
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
        return f"it fails with “{str(error).splitlines()[0][:120] if str(error) else type(error).__name__}”"
    if MARK not in text:
        return "it leaves the question out"
    if "{'type'" in text or text.count(mark) != 1:
        return f"it writes {text.count(mark)} placeholders for one picture"
    if not text[text.index(mark) + len(mark) :].strip():
        return "it puts nothing behind the picture, so the answer would begin at a token that pruning can drop"
    return ""


def refuse_commands(tokenizer: Any, question: str, image_token: str) -> None:
    """Refuse a question that holds one of the model's control tokens, its placeholder for pictures included.

    Raises:
        QuestionRejectedError.
    """
    for control in (*tokenizer.all_special_tokens, image_token):
        if control and control.strip() and control in question:
            raise QuestionRejectedError(
                f"The question contains {control}, which this model reads as a command.", "Write it differently."
            )


def adds_special_tokens(tokenizer: Any, text: str) -> bool:
    """Whether the tokenizer shall add its own first token: not where the template has written it, as in the library's
    `apply_chat_template(tokenize=True)`.
    """
    return not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))


def question_tokens(tokenizer: Any, chat: Rendered, ids: torch.Tensor, mark: int) -> tuple[torch.Tensor, list[str]]:
    """Which tokens of a prompt the person wrote, bool `[tokens]`, and for each of those the word of the question that
    it is part of (between white space), clipped to the question; empty for all others.

    No token is marked where the tokenizer tells no offsets, or where the prompt's tokens are not those of the chat:
    methods that read the question then refuse, and all others run.

    Args:
        ids: `[tokens]` of the prompt, in which the processor has written each placeholder out. mark: its id.
    """
    in_question, words = torch.zeros(len(ids), dtype=torch.bool), [""] * len(ids)
    try:
        coded = tokenizer(chat.text, return_offsets_mapping=True, add_special_tokens=False)
    except (NotImplementedError, ValueError):  # tokenizers written in Python tell no offsets
        return in_question, words
    own, places = coded["input_ids"], coded["offset_mapping"]
    asked = [i for i, (a, b) in enumerate(places) if a < chat.end and b > chat.start and a < b]
    if not asked:
        return in_question, words
    first, last = asked[0], asked[-1] + 1
    shift = _shift(own, ids.tolist(), first, last, mark)
    if shift is None:
        return in_question, words
    for i in asked:
        in_question[i + shift] = True
        words[i + shift] = _word_around(chat, *places[i])
    return in_question, words


def _shift(own: list[int], ids: list[int], first: int, last: int, mark: int) -> int | None:
    """How far the tokens `own[first:last]` of the chat are moved in the prompt, or None if they cannot be found: from
    the end behind the last placeholder, from the front before the first, else by the only place where they stand.
    """
    marks = [i for i, value in enumerate(own) if value == mark]
    behind = len(ids) - len(own)
    begin = next((i for i in range(len(ids)) if ids[i : i + 1] == own[:1]), 0)  # behind a first token that was added
    for shift, fits in ((behind, not marks or first > marks[-1]), (begin, bool(marks) and last <= marks[0])):
        if fits and ids[first + shift : last + shift] == own[first:last]:
            return shift
    found = [i for i in range(len(ids) - (last - first) + 1) if ids[i : i + last - first] == own[first:last]]
    return found[0] - first if len(found) == 1 else None


def _word_around(chat: Rendered, start: int, end: int) -> str:
    """The part of the question between the white space around `text[start:end]`, which may begin with some itself."""
    text, start, end = chat.text, max(start, chat.start), min(end, chat.end)
    while start < end and text[start].isspace():
        start += 1
    while start > chat.start and not text[start - 1].isspace():
        start -= 1
    while end < chat.end and not text[end].isspace():
        end += 1
    return text[start:end]
