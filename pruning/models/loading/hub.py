"""The hub of models: what it has of one, what is on this computer already, and the download of what is missing.

Only this file talks to the hub, and only when somebody asked for a download. Code, pickles and weights in other formats
are not among what is fetched.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from tqdm.std import tqdm

from pruning.models.base import BESIDE, Progress
from pruning.models.loading.memory import INDEX, SINGLE, weight_names

SMALL = (".json", ".txt", ".model", ".jinja")


@dataclass(frozen=True, slots=True)
class Listing:
    """What the hub has of a model.

    Attributes:
        commit: the version that `main` is now.
        sizes: bytes of every file that is wanted, by name.
        parameters: how many numbers the weights have; None where the hub does not say.
    """

    source: str
    commit: str
    sizes: dict[str, int]
    parameters: int | None

    @property
    def weights(self) -> list[str]:
        return [name for name in self.sizes if name.endswith(".safetensors")]

    @property
    def small(self) -> list[str]:
        """Configuration, processor and tokenizer."""
        return [name for name in self.sizes if name not in self.weights]

    def memory(self, bytes_each: float) -> int:
        """Bytes that the model takes in memory with so many for a number."""
        half = sum(self.sizes[name] for name in self.weights) // 2  # where the hub does not count: 2 bytes each
        return math.ceil((self.parameters or half) * bytes_each * BESIDE)

    def missing(self, names: Sequence[str]) -> int:
        """Bytes among these files that are not on this computer."""
        return sum(self.sizes[n] for n in names if not isinstance(_cached(self.source, n, self.commit), str))


def _cached(source: str, name: str, commit: str | None = None) -> object:
    return try_to_load_from_cache(source, name, revision=commit)


def on_this_computer(source: str) -> Path | None:
    """The folder of a model that was downloaded completely before; the hub is not asked."""
    config = _cached(source, "config.json")
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    try:
        names = weight_names(folder)
    except (ValueError, KeyError):
        return None
    return folder if names and all((folder / n).exists() for n in names) else None


def ask(source: str) -> Listing:
    """Ask the hub what it has of a model.

    Raises:
        OSError, and what the hub's library raises: if it cannot be reached, does not know it, or asks for a login.
    """
    found = HfApi().model_info(source, files_metadata=True)
    files = {f.rfilename: f.size or 0 for f in found.siblings or () if "/" not in f.rfilename}
    in_parts = INDEX in files
    wanted = {
        name: size
        for name, size in files.items()
        if name.endswith(SMALL) or (name.endswith(".safetensors") and (name != SINGLE) == in_parts)
    }
    if in_parts:  # some repositories hold the same weights again under other names
        wanted = {n: s for n, s in wanted.items() if not n.endswith(".safetensors") or n.startswith("model-")}
    return Listing(source, found.sha, wanted, found.safetensors.total if found.safetensors else None)


def cache_folder() -> Path:
    """Where downloads are kept."""
    return Path(constants.HF_HUB_CACHE)


def download(listing: Listing, names: Sequence[str], progress: Progress | None) -> Path:
    """Fetch what is missing of these files; the folder that has them then.

    Args:
        progress: told as bytes arrive; without it the library draws its own bars on the terminal.
    """
    bars = _bars(progress, listing.missing(names)) if progress else None
    # Without a commit: only what was fetched as `main` is found again later without asking the hub.
    return Path(snapshot_download(listing.source, allow_patterns=list(names), tqdm_class=bars))


def _bars(progress: Progress, total: int) -> type[tqdm]:
    """A class of progress bars that nobody sees and that tells how far the one ahead has come: the hub's library counts
    bytes from the network and bytes on the disk apart, and which of the two runs depends on how a file is stored there.
    """
    lock, told = threading.Lock(), [0]

    class Told(tqdm):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **{**kwargs, "file": io.StringIO()})

        def update(self, n: float | None = 1) -> bool | None:
            with lock:
                drawn = super().update(n)
                arrived = min(int(self.n), total)
                if self.unit == "B" and arrived > told[0]:
                    told[0] = arrived
                    progress(arrived, total)
            return drawn

    return Told
