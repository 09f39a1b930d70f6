"""Zip archives of JSON and NPZ parts: written reproducibly, read with a bound on what they unpack to."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np

from pruning.errors import RecordFormatError

MAX_UNPACKED = 64 * 2**20
ADVICE = "Bring a file that Export, Record wrote."
DAMAGE = (KeyError, OSError, ValueError, NotImplementedError, RuntimeError, EOFError, MemoryError)
EPOCH = (1980, 1, 1, 0, 0, 0)  # equal records make equal files


def is_archive(data: bytes) -> bool:
    """Whether a file begins as a zip does."""
    return data.startswith(b"PK\x03\x04")


def write_parts(archive: zipfile.ZipFile, name: str, data: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Add `<name>.json` and `<name>.npz` to an open zip."""
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]  # numpy declares only its own keyword
    archive.writestr(zipfile.ZipInfo(f"{name}.json", EPOCH), json.dumps(data, ensure_ascii=False), 8)
    archive.writestr(zipfile.ZipInfo(f"{name}.npz", EPOCH), packed.getvalue(), 8)


def read_parts(archive: zipfile.ZipFile, name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `write_parts` added, with bombs not unpacked."""
    if sum(archive.getinfo(f"{name}.{kind}").file_size for kind in ("json", "npz")) > MAX_UNPACKED:
        raise RecordFormatError("The file unpacks to more than PruneScope opens.", ADVICE)
    parsed = json.loads(archive.read(f"{name}.json"))
    if not isinstance(parsed, dict):
        raise RecordFormatError(f"{name}.json is not a record.", ADVICE)
    return parsed, read_npz(archive.read(f"{name}.npz"))


def read_npz(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of an NPZ, which is a zip of its own and may be a bomb of its own; pickles are refused.

    Raises:
        RecordFormatError: if it unpacks to more than `MAX_UNPACKED` bytes; one of `DAMAGE` if it is damaged.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as inner:
        if sum(i.file_size for i in inner.infolist()) > MAX_UNPACKED:
            raise RecordFormatError("The file unpacks to more than PruneScope opens.", ADVICE)
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return {k: file[k] for k in file.files}
