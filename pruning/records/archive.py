"""Several records in one file: a zip with `<name>.json` and `<name>.npz` for each.

The form in which recorded runs ship and in which a visitor takes a run away and brings it back. No torch.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from pruning.errors import RecordFormatError
from pruning.inputs.content import MOST_PICTURES
from pruning.records.io import ADVICE, DAMAGE, EPOCH, MAX_UNPACKED, read_parts, write_parts
from pruning.records.run import RunRecord

MAX_RECORDS = 500
PICTURE = "picture"
_PICTURES = (PICTURE, *(f"{PICTURE}{n}" for n in range(2, MOST_PICTURES + 1)))
_NAME = re.compile(r"[A-Za-z0-9._-]{1,80}")


def pack(records: Mapping[str, RunRecord]) -> bytes:
    """The zip's bytes. Names may hold letters, digits, dots, dashes and underscores."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, record in records.items():
            if not _NAME.fullmatch(name):
                raise RecordFormatError(f"{name!r} cannot be the name of a record.", "Use letters, digits, . - and _.")
            write_parts(archive, name, *record.to_parts())
    return buffer.getvalue()


def update(path: Path, records: Mapping[str, RunRecord], names: Sequence[str]) -> None:
    """Rewrite a file that `pack` made so that it holds `names` in this order: those in `records` are written anew, the
    parts of the others are copied byte for byte.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in names:
            if name in records:
                write_parts(new, name, *records[name].to_parts())
            else:
                for part in (f"{name}.json", f"{name}.npz"):
                    new.writestr(zipfile.ZipInfo(part, EPOCH), old.read(part), zipfile.ZIP_DEFLATED)
    path.write_bytes(buffer.getvalue())


def unpack(data: bytes) -> dict[str, RunRecord]:
    """The records of a zip made by `pack`, in its order.

    Raises:
        RecordFormatError: if it is not such a zip, is damaged, or unpacks to more than `MAX_UNPACKED` bytes.
    """
    with _opened(data) as archive:
        names = _names(archive)
        if not names or len(names) > MAX_RECORDS:
            raise RecordFormatError("The file holds no record.", ADVICE)
        return {name: _read(archive, name) for name in names}


def pack_run(record: RunRecord, *pictures: bytes) -> bytes:
    """One run with the files of its pictures, which `unpack_run` opens again."""
    buffer = io.BytesIO(pack({"run": record}))
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as archive:
        for name, picture in zip(_PICTURES, pictures, strict=False):
            archive.writestr(zipfile.ZipInfo(name, EPOCH), picture)
    return buffer.getvalue()


def unpack_run(data: bytes) -> tuple[RunRecord, list[bytes]]:
    """The first record of a zip made by `pack_run`, and the files of its pictures.

    Raises:
        RecordFormatError: as `unpack`, or if there is no picture in it.
    """
    return next(iter(unpack(data).values())), pictures_in(data)


def pictures_in(data: bytes) -> list[bytes]:
    """The pictures' files in a zip made by `pack_run`; its record is left packed.

    Raises:
        RecordFormatError: if there is none, or as `unpack`.
    """
    with _opened(data) as archive:
        there = set(archive.namelist())
        if PICTURE not in there:
            raise RecordFormatError("The saved run holds no picture.", ADVICE)
        return [archive.read(name) for name in _PICTURES if name in there]


def read_one(path: Path, name: str) -> RunRecord:
    """One record of a file that `pack` made."""
    with zipfile.ZipFile(path) as archive:
        return _read(archive, name)


def names_in(path: Path) -> list[str]:
    """Names of the records in a file that `pack` made."""
    with zipfile.ZipFile(path) as archive:
        return _names(archive)


@contextmanager
def _opened(data: bytes) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(i.file_size for i in archive.infolist()) > MAX_UNPACKED:
                raise RecordFormatError("The file unpacks to more than PruneScope opens.", ADVICE)
            yield archive
    except (zipfile.BadZipFile, *DAMAGE) as error:
        raise RecordFormatError("The file is not a saved run, or it is damaged.", ADVICE) from error


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [i.removesuffix(".json") for i in archive.namelist() if i.endswith(".json")]


def _read(archive: zipfile.ZipFile, name: str) -> RunRecord:
    return RunRecord.from_parts(*read_parts(archive, name))
