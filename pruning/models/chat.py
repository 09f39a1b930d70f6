"""A question among the tokens of a prompt: which tokens the person wrote, and the words that they are part of."""

from __future__ import annotations

import torch

from pruning.errors import QuestionRejectedError


def refuse_commands(tokenizer, question: str, image_token: str) -> None:
    """Refuse a question that holds one of the model's control tokens, its placeholder for pictures included.

    Raises:
        QuestionRejectedError.
    """
    for control in (*tokenizer.all_special_tokens, image_token):
        if control and control.strip() and control in question:
            raise QuestionRejectedError(
                f"The question contains {control}, which this model reads as a command.", "Write it differently."
            )


def chat(processor, question: str, kinds: list[str]) -> str:
    """The model's own chat: a placeholder for each that is shown (`kinds`: `image` or `video`), then the question."""
    content = [*({"type": kind} for kind in kinds), {"type": "text", "text": question}]
    if not processor.chat_template:  # early checkpoints ship none
        placeholders = f"{processor.image_token}\n" * len(kinds)
        return f"USER: {placeholders}{question} ASSISTANT:"
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def question_span(
    tokenizer, text: str, question: str, ids: torch.Tensor, placeholder: int
) -> tuple[torch.Tensor, list[str]]:
    """Which tokens the person wrote, bool `[tokens]`, and the whole word that each is part of.

    Where that cannot be told: all text behind the picture, and every token a word.

    Args:
        text: the chat as it is before pictures are written out as placeholders; ids: `[tokens]` the prompt afterwards.
    """
    # Control tokens cut a text before its words are looked for: what stands behind the picture is coded the same
    # however many placeholders there are.
    coded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    behind = len(coded["input_ids"]) - _last(coded["input_ids"], placeholder) - 1
    start = text.rfind(question.strip())
    end = start + len(question.strip())
    if behind and start >= 0 and coded["input_ids"][-behind:] == ids[-behind:].tolist():
        places = coded["offset_mapping"][-behind:]
        mine = [a < end and b > start and a < b for a, b in places]
        before = len(ids) - behind
        in_question = torch.tensor([False] * before + mine)
        words = [_word_around(text, a, b) if m else "" for (a, b), m in zip(places, mine, strict=True)]
        return in_question, [""] * before + words
    in_question = torch.zeros(len(ids), dtype=torch.bool)
    in_question[_last(ids.tolist(), placeholder) + 1 :] = True
    return in_question, [tokenizer.decode([i]) for i in ids.tolist()]


def _last(ids: list[int], wanted: int) -> int:
    return max((i for i, value in enumerate(ids) if value == wanted), default=-1)


def _word_around(text: str, start: int, end: int) -> str:
    """The text between the white space around `text[start:end]` (which may begin with some itself)."""
    while start < end and text[start].isspace():
        start += 1
    while start > 0 and not text[start - 1].isspace():
        start -= 1
    while end < len(text) and not text[end].isspace():
        end += 1
    return text[start:end]
