"""A decision made elsewhere, as a file: which visual tokens stay, or which are merged. No torch.

JSON: an object with one of `kept` (ids of the tokens that stay), `mask` (true or false for every token) or `groups` (a
group number for every token, negative where it is dropped); beside `kept`, `n_tokens` may say of how many. A bare list
is `kept`. NPZ: arrays of the same names. Ids count visual tokens from 0, row after row, tile after tile.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pruning.errors import ParameterError
from pruning.records.io import DAMAGE, is_archive, read_npz
from pruning.records.run import MAX_TOKENS

FIELDS = ("kept", "groups", "n_tokens")  # parameters that a file brings and nobody types
KINDS = ("kept", "mask", "groups")
HOW = 'Write JSON such as {"kept": [0, 5, 9], "n_tokens": 36}, or {"groups": [0, 0, 1, -1]}.'
MAX_FILE_BYTES = 4 * 2**20


def from_file(parameters: Mapping[str, Any]) -> bool:
    """Whether parameters hold a decision made elsewhere."""
    return any(name in parameters for name in FIELDS)


def read_decision(source: Path | str | bytes) -> dict[str, Any]:
    """Parameters of the method `imported`, from a file or from what one holds.

    Raises:
        ParameterError: if it is no such file; whether the decision fits a picture, the method finds out.
    """
    try:
        data = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ParameterError(f"{source!s} cannot be read ({error.strerror}).", "Check the name.") from error
    if len(data) > MAX_FILE_BYTES:
        raise ParameterError(f"The file has {len(data)} bytes; at most {MAX_FILE_BYTES} are read.", HOW)
    try:
        found = {n: a.tolist() for n, a in read_npz(data).items()} if is_archive(data) else json.loads(data)
    except (zipfile.BadZipFile, RecursionError, *DAMAGE) as error:
        raise ParameterError("The file is neither JSON nor NPZ, or it is damaged.", HOW) from error
    found = {"kept": found} if isinstance(found, list) else found
    given = [name for name in KINDS if isinstance(found, dict) and name in found]
    if len(given) != 1:
        said = f"The file holds {' and '.join(given)}" if given else "The file holds no decision"
        raise ParameterError(f"{said}; it must hold one of {', '.join(KINDS)}.", HOW)
    values = found[given[0]]
    if not isinstance(values, list) or len(values) > MAX_TOKENS:
        raise ParameterError(f"`{given[0]}` must be a list of at most {MAX_TOKENS} entries.", HOW)
    if given == ["mask"]:
        if not all(v in (0, 1) for v in values if not isinstance(v, list)) or any(isinstance(v, list) for v in values):
            raise ParameterError("`mask` must hold true or false for every token.", HOW)
        return {"kept": np.flatnonzero(values).tolist(), "n_tokens": len(values)}
    return {given[0]: values} | ({"n_tokens": found["n_tokens"]} if "n_tokens" in found else {})
