"""The words that go into the prompt: a caption made harmless, and the phrase that introduces it.

A caption is a model's text; nothing in it may act as part of the chat. Line breaks, role marks, image placeholders and
control tokens are taken out before anybody tokenises it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

LEAD = "Additional information:"  # [code] of the paper; the bundled model was taught to read it
MAX_CAPTION_CHARACTERS = 2000
_ROLES = re.compile(r"(user|assistant|system|human|gpt)\s*:", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"<\s*/?\s*(image|im_start|im_end|s|unk|pad|bos|eos|video|img)\s*/?\s*>", re.IGNORECASE)


def clean_caption(text: str, control_tokens: Iterable[str] = ()) -> str:
    """A caption as one line without anything that a chat template or a tokenizer reads as a command, and without the
    full stop that `inserted_text` puts behind it. May be empty.
    """
    before = None
    while before != text:  # taking one mark out may join the halves of another
        before = text
        text = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
        text = _PLACEHOLDER.sub(" ", text)
        for control in sorted({c for c in control_tokens if c.strip()}, key=len, reverse=True):
            text = text.replace(control, " ")
        text = _ROLES.sub(" ", text)
    return re.sub(r"\s+([,.;])", r"\1", " ".join(text.split())).strip(" .,;:")


def inserted_text(caption: str) -> str:
    """What stands between the picture and the question; nothing at all for an empty caption."""
    return f"{LEAD} {caption}." if caption else ""
