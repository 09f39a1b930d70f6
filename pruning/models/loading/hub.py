"""The Hugging Face hub: what it has of a model, what the local cache has of it, and the download of the rest.

Only this module contacts the hub, and only when a download was asked for. Python code, pickles and weights in other
formats than safetensors are never downloaded.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import (
    DryRunFileInfo,
    constants,
    get_safetensors_metadata,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import NotASafetensorsRepoError
from huggingface_hub.utils import SafetensorsFileMetadata
from tqdm.std import tqdm

from pruning.models.base import Progress
from pruning.models.loading.memory import weight_names

SMALL = ("*.json", "*.txt", "*.model", "*.jinja")  # configuration, processor and tokenizer
WEIGHTS = "*.safetensors"


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a model on the hub that loading it takes.

    Attributes:
        files: by name, each with its size and whether it has to be downloaded.
        headers: of the files that hold the weights, by name; empty if the model has no safetensors weights.
    """

    source: str
    files: Mapping[str, DryRunFileInfo]
    headers: Mapping[str, SafetensorsFileMetadata]

    @property
    def weights(self) -> list[str]:
        """Names of the files that hold the weights."""
        return sorted(self.headers)

    @property
    def small(self) -> list[str]:
        """Names of the files of configuration, processor and tokenizer."""
        return sorted(name for name in self.files if not name.endswith(".safetensors"))

    def missing(self, names: Sequence[str]) -> int:
        """Return the bytes of these files that have to be downloaded."""
        return sum(self.files[name].file_size or 0 for name in names if self.files[name].will_download)


def on_this_computer(source: str) -> Path | None:
    """Return the folder of a model that was downloaded completely before, or None; the hub is not asked."""
    config = try_to_load_from_cache(source, "config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    try:
        names = weight_names(folder)
    except (ValueError, KeyError):
        return None
    return folder if names and all((folder / n).exists() for n in names) else None


def ask(source: str) -> Listing:
    """Ask the hub for the files of a model and the headers of its weights.

    Raises:
        OSError, and what the hub's library raises: if it cannot be reached, does not know the model, or asks for a
            login.
    """
    quiet = _bars(lambda arrived, total: None, 0)
    files = snapshot_download(
        source, allow_patterns=[*SMALL, WEIGHTS], ignore_patterns="*/*", dry_run=True, tqdm_class=quiet
    )
    try:
        headers = get_safetensors_metadata(source).files_metadata
    except NotASafetensorsRepoError:
        headers = {}
    return Listing(source, {f.filename: f for f in files}, headers)


def cache_folder() -> Path:
    """Return the folder where downloads are kept."""
    return Path(constants.HF_HUB_CACHE)


def download(listing: Listing, names: Sequence[str], progress: Progress | None) -> Path:
    """Download what is missing of these files, and return the folder that holds them.

    Args:
        progress: called as bytes arrive; without it the hub's library draws its own bars on the terminal.
    """
    bars = _bars(progress, listing.missing(names)) if progress else None
    # Without a commit: only what was downloaded as `main` is found again later without asking the hub.
    return Path(snapshot_download(listing.source, allow_patterns=list(names), tqdm_class=bars))


def _bars(progress: Progress, total: int) -> type[tqdm]:
    """Return a class of progress bars that draws nothing and calls `progress` with the count of the bar that is
    furthest: the hub's library counts bytes from the network and bytes on the disk in two bars, and which of the two
    moves depends on how a file is stored there.
    """
    lock, reported = threading.Lock(), [0]

    class SilentBar(tqdm):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **{**kwargs, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            with lock:
                drawn = super().update(n)
                arrived = min(int(self.n), total)
                if self.unit == "B" and arrived > reported[0]:
                    reported[0] = arrived
                    progress(arrived, total)
            return drawn

    return SilentBar
