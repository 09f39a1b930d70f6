"""Export a run as a file. Drawing libraries are imported when a file is asked for."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any

from pruning.budget import n_keep
from pruning.errors import RecordFormatError
from pruning.inputs.content import VisualInput
from pruning.records.archive import pack_run
from pruning.records.decisions import from_file
from pruning.records.run import RunRecord
from viz.export.recipe import command, figures_of, python, query
from viz.theme import theme

TYPES = {
    "png": "image/png", "svg": "image/svg+xml", "pdf": "application/pdf", "gif": "image/gif", "mp4": "video/mp4",
    "zip": "application/zip",
}  # fmt: skip


def recipe_of(record: RunRecord, source: dict[str, Any], example: str = "", path: str = "") -> dict[str, Any]:
    """Return what the browser needs to ask for files and to copy recipes.

    Args:
        source: says, for `Handlers.take`, which run this is.
        example, path: key and file of the example picture; empty for a visitor's own.
    """
    where = {"picture": path} if path else {}
    needs_file = record.request.structure or from_file(record.request.parameters)  # and no file is in a link
    return {
        "source": source,
        "query": query(record, example) if example and not needs_file else "",
        "command": command(record, **where),
        "python": python(record, **where),
    }


def parcel(
    record: RunRecord,
    pictures: VisualInput,
    files: Sequence[bytes],
    kind: str,
    stop: int,
    *,
    dark: bool,
    truth: str = "",
) -> dict[str, str]:
    """Return `name`, `type` and base64 `data` of a file.

    Args:
        files: the pictures' own files, for the record.
        stop: the stage that a figure shows; 0 is the full picture.
        truth: the correct answer, where the page shows one.
    """
    if kind not in TYPES:
        raise RecordFormatError(f"{kind!r} is no kind of file here.", f"Choose one of {', '.join(TYPES)}.")
    stop = min(max(stop, 0), len(record.steps))
    if kind == "zip":
        data = pack_run(record, *files)
    elif kind in ("gif", "mp4"):
        from viz.export.animation import gif, mp4
        from viz.export.figure import frames

        stages = frames(record, pictures, theme(dark=dark), truth)
        data = gif(stages, figures_of(record, truth)) if kind == "gif" else mp4(stages)
    else:
        from viz.export.figure import figure_file

        data = figure_file(record, pictures, stop, kind, theme(dark=dark), truth)
    count = n_keep(record.request.keep_ratio, record.layout.n_tokens)
    method = re.sub(r"[^a-z0-9_]", "", record.request.method.lower())[:40]
    return {
        "name": f"prunescope-{method}-{count}.{kind}",
        "type": TYPES[kind],
        "data": base64.b64encode(data).decode(),
    }
