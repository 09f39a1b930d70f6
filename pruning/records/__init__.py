"""Records of what happened, as data on disk: runs, selections, answers, plans, diagnostics, archives; loads no torch.

`RunRecord` and `RunRequest` are importable from here, as exported Python of earlier versions does.
"""

from __future__ import annotations

from typing import Any

__all__ = ["RunRecord", "RunRequest"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pruning.records import run

    return getattr(run, name)
