"""Open a hub id or a folder as an adapter: safetensors only, no remote code, no download unless it is allowed."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    SafetensorsParsingError,
    StrictDataclassError,
)
from huggingface_hub.utils import SafetensorsFileMetadata, httpx
from safetensors import SafetensorError
from transformers import AutoConfig, PretrainedConfig, ProcessorMixin

from pruning.errors import ModelUnavailableError
from pruning.models.base import ModelSpec, Progress, VLMAdapter
from pruning.models.bundled import FAMILIARITY_FILE, DrawnWorld
from pruning.models.families.base import Family
from pruning.models.families.idefics3 import Idefics3Adapter, SmolVLMAdapter
from pruning.models.families.internvl import InternVLAdapter
from pruning.models.families.llava import LlavaAdapter
from pruning.models.families.llava_next import LlavaNextAdapter
from pruning.models.families.llava_onevision import LlavaOnevisionAdapter
from pruning.models.families.qwen2_5_vl import Qwen25VLAdapter
from pruning.models.families.qwen3_vl import Qwen3VLAdapter
from pruning.models.loading import hub
from pruning.models.loading.devices import Place, choose_place
from pruning.models.loading.joined_pair import mechanics_only
from pruning.models.loading.memory import headers_of, memory_of, require_disk, weight_names

# By `model_type` of the configuration.
FAMILIES: dict[str, type[Family]] = {
    "llava": LlavaAdapter,
    "llava_next": LlavaNextAdapter,
    "llava_onevision": LlavaOnevisionAdapter,
    "qwen2_5_vl": Qwen25VLAdapter,
    "qwen3_vl": Qwen3VLAdapter,
    "idefics3": Idefics3Adapter,
    "smolvlm": SmolVLMAdapter,
    "internvl": InternVLAdapter,
}
LOCAL = {"local_files_only": True, "trust_remote_code": False}  # what is to be fetched was fetched before
# What transformers raises for a file that says something impossible depends on where it is noticed.
LOADING_ERRORS = (
    OSError, ValueError, RuntimeError, LookupError, ArithmeticError, TypeError, AttributeError,
    ImportError, AssertionError, SafetensorError, SafetensorsParsingError, StrictDataclassError, httpx.HTTPError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for; see `pruning.models.load`."""

    spec: ModelSpec
    device: str = "auto"
    dtype: str = "auto"
    allow_download: bool = False
    progress: Progress | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model that is on this computer and fits, with its weights unread."""

    folder: Path
    config: PretrainedConfig
    processor: ProcessorMixin
    place: Place


def load_adapter(request: Request) -> VLMAdapter:
    """See `pruning.models.load`."""
    gc.collect()  # a model that was let go before may still lie in a cycle,
    torch.cuda.empty_cache()  # and its memory on a GPU is not free for others until it is given back
    spec, ready = request.spec, prepare(request)
    with _in_words(request):
        family, options = FAMILIES[ready.config.model_type], ready.place.options()
        model, report = family.model_class.from_pretrained(
            ready.folder, use_safetensors=True, output_loading_info=True, **LOCAL, **options
        )
        if report["missing_keys"] or report["mismatched_keys"]:
            first = next(iter({*report["missing_keys"], *map(str, report["mismatched_keys"])}))
            raise ModelUnavailableError(
                f"The weights of {spec.title} do not fit its configuration: {first} is missing or has another shape.",
                "Download the model again, or check that the folder holds one model only.",
            )
        if "device_map" not in options:
            model = model.to(ready.place.device)
        known = ready.folder / FAMILIARITY_FILE
        world = DrawnWorld.read(ready.folder, ready.config.vision_config.hidden_size) if known.exists() else None
        untrained = getattr(ready.config, "untrained_projector", False)
        return family(model, ready.processor, spec.title, limits=mechanics_only if untrained else world)


def prepare(request: Request, freed: int = 0) -> Prepared:
    """See `pruning.models.check`."""
    spec = request.spec
    with _in_words(request):
        folder = _find(request, freed)
        _check_folder(folder)
        config = _config(folder, spec)
        processor = FAMILIES[config.model_type].processor_class.from_pretrained(folder, **LOCAL)
        place = _place(request, headers_of(folder), freed)
        return Prepared(folder, config, processor, place)


def _find(request: Request, freed: int) -> Path:
    """The folder of a model: as given, as downloaded before, or downloaded now if that was asked for."""
    spec, folder = request.spec, Path(request.spec.source)
    if folder.is_dir():
        return folder
    if spec.made_by:
        raise ModelUnavailableError(f"{spec.title} is not on this computer yet.", f"Make it with {spec.made_by}")
    if not _looks_like_hub_id(spec.source):
        raise ModelUnavailableError(f"{spec.source} is neither a folder nor a hub id.", "Check the path.")
    found = hub.on_this_computer(spec.source)
    if found is not None:
        return found
    if not request.allow_download:
        raise _not_here(request)
    return _fetch(request, freed)


def _fetch(request: Request, freed: int) -> Path:
    """Small files first: they say whether the rest is worth its time. Then room is looked for, then weights come."""
    spec, listing = request.spec, hub.ask(request.spec.source)
    if not listing.weights:
        raise ModelUnavailableError(f"{spec.source} has no *.safetensors weights.", "Choose another model.")
    _config(hub.download(listing, listing.small, None), spec)
    _place(request, listing.headers.values(), freed)
    require_disk(spec.title, listing.missing(listing.weights), hub.cache_folder())
    return hub.download(listing, listing.weights, request.progress)


def _config(folder: Path, spec: ModelSpec) -> PretrainedConfig:
    config = AutoConfig.from_pretrained(folder, **LOCAL)
    if config.model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ModelUnavailableError(
            f"{spec.title} is a {config.model_type} model; this version serves: {known}.", "Choose another model."
        )
    return config


def _place(request: Request, headers: Iterable[SafetensorsFileMetadata], freed: int) -> Place:
    """Choose where weights with these headers go."""

    def needed(dtype: torch.dtype, four_bit: bool) -> int:  # noqa: FBT001 (as `choose_place` calls it)
        return memory_of(headers, dtype, four_bit=four_bit)

    return choose_place(request.spec.title, needed, request.device, request.dtype, freed)


def _looks_like_hub_id(source: str) -> bool:
    parts = source.split("/")
    return len(parts) == 2 and all(p and p not in (".", "..") for p in parts)


def _check_folder(folder: Path) -> None:
    """Say which file a folder lacks, before the library says it in its own words."""
    config = folder / "config.json"
    if not config.exists():
        raise ModelUnavailableError(
            f"{folder.name} holds no config.json, so it is not a model folder.", "Check the path."
        )
    try:
        json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelUnavailableError(
            f"The config.json in {folder.name} cannot be read: {error}.", "Download the model again."
        ) from error
    missing = [name for name in weight_names(folder) if not (folder / name).exists()]
    if missing:
        raise ModelUnavailableError(f"{folder.name} lacks {missing[0]}.", "Download the model again.")
    if not weight_names(folder):
        others = [p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf") for p in folder.glob(pattern)]
        found = f" ({others[0]} is not read: such files can run code)" if others else ""
        raise ModelUnavailableError(
            f"{folder.name} holds no *.safetensors weights{found}.", "Use a checkpoint saved as safetensors."
        )
    if not list(folder.glob("*processor_config.json")):
        raise ModelUnavailableError(
            f"{folder.name} holds no processor configuration.",
            "Copy preprocessor_config.json or processor_config.json there.",
        )
    if not list(folder.glob("tokenizer*")):
        raise ModelUnavailableError(f"{folder.name} holds no tokenizer.", "Copy tokenizer.json there.")


@contextmanager
def _in_words(request: Request) -> Iterator[None]:
    """Whatever goes wrong inside is said in a sentence."""
    try:
        yield
    except ModelUnavailableError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelUnavailableError(
            f"{request.spec.title} does not fit into the memory that is left ({request.spec.memory} needed).",
            "Choose a smaller model.",
        ) from error
    except LOADING_ERRORS as error:
        raise _explain(request, error) from error


def _explain(request: Request, error: Exception) -> ModelUnavailableError:
    spec = request.spec

    def is_a(*kinds: type[BaseException]) -> bool:
        return isinstance(error, kinds) or isinstance(error.__cause__, kinds)

    if Path(spec.source).is_dir():
        return ModelUnavailableError(
            f"The folder {Path(spec.source).name} could not be loaded: {_first_line(error)}",
            "Download the model again.",
        )
    if is_a(GatedRepoError):
        return ModelUnavailableError(
            f"{spec.source} asks for its licence to be accepted.",
            "Accept it on its hub page, log in (hf auth login), and try again.",
        )
    if is_a(RepositoryNotFoundError):
        return ModelUnavailableError(
            f"The hub knows no model {spec.source}, or it is a private one.", "Check the id, or log in (hf auth login)."
        )
    if is_a(OfflineModeIsEnabled, LocalEntryNotFoundError, httpx.TransportError):
        return _not_here(request)
    return ModelUnavailableError(f"{spec.title} could not be loaded: {_first_line(error)}", "Try again.")


def _not_here(request: Request) -> ModelUnavailableError:
    spec, state = request.spec, "failing" if request.allow_download else "off"
    size = f"To download: {spec.disk}; memory: {spec.memory}." if spec.disk else ""
    if request.allow_download:
        way = "Look to the network (and that HF_HUB_OFFLINE is not set), or put a folder's path after --model."
    else:
        way = f"Start with --model {spec.source} --allow-download, or put the folder's path after --model."
    return ModelUnavailableError(
        f"The weights of {spec.title} are not on this computer and downloads are {state}.", f"{way} {size}".strip()
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
