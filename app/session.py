"""What the page remembers of one visitor between two clicks: keys and small values only."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SessionState:
    """`picture` is `example:<number>` or `upload:<path>`."""

    picture: str = "example:0"
