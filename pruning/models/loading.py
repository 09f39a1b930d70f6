"""From a hub id or a folder to an adapter. Safetensors only, never remote code, no download unless it is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError
from transformers import AutoConfig, PretrainedConfig, ProcessorMixin

from pruning.errors import ModelUnavailableError
from pruning.models.base import ModelSpec, VLMAdapter
from pruning.models.demo import FAMILIARITY_FILE, DrawnWorld
from pruning.models.family import Family
from pruning.models.idefics3 import Idefics3Adapter
from pruning.models.internvl import InternVLAdapter
from pruning.models.joined import mechanics_only
from pruning.models.llava import LlavaAdapter
from pruning.models.llava_next import LlavaNextAdapter
from pruning.models.qwen2_5_vl import Qwen25VLAdapter
from pruning.models.qwen3_vl import Qwen3VLAdapter

# By `model_type` of the configuration.
FAMILIES: dict[str, type[Family]] = {
    "llava": LlavaAdapter,
    "llava_next": LlavaNextAdapter,
    "qwen2_5_vl": Qwen25VLAdapter,
    "qwen3_vl": Qwen3VLAdapter,
    "idefics3": Idefics3Adapter,
    "internvl": InternVLAdapter,
}
_TROUBLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError, HfHubHTTPError)
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def load_adapter(spec: ModelSpec, *, device: str, dtype: str, allow_download: bool) -> VLMAdapter:
    """See `pruning.models.load`."""
    where = choose_device(device)
    kind = choose_dtype(dtype, where)
    folder = Path(spec.source)
    try:
        config, processor = _open_source(spec, allow_download=allow_download)
        family = FAMILIES[config.model_type]
        model, report = family.model_class.from_pretrained(
            spec.source, dtype=kind, use_safetensors=True, output_loading_info=True,
            **_options(spec, allow_download=allow_download),
        )  # fmt: skip
        if report["missing_keys"] or report["mismatched_keys"]:
            first = next(iter({*report["missing_keys"], *map(str, report["mismatched_keys"])}))
            raise ModelUnavailableError(
                f"The weights of {spec.title} do not fit its configuration: {first} is missing or has another shape.",
                "Download the model again, or check that the folder holds one model only.",
            )
        model = model.to(where)
        known = folder / FAMILIARITY_FILE
        world = DrawnWorld.read(folder, config.vision_config.hidden_size) if known.exists() else None
        untrained = getattr(config, "untrained_projector", False)
        return family(model, processor, spec.title, limits=mechanics_only if untrained else world)
    except ModelUnavailableError:
        raise
    except torch.OutOfMemoryError as error:
        raise ModelUnavailableError(
            f"{spec.title} does not fit into the memory of {where} ({spec.memory} needed).", "Choose a smaller model."
        ) from error
    except _TROUBLE as error:
        raise _explain(spec, error, is_folder=folder.is_dir(), allow_download=allow_download) from error


def check_source(spec: ModelSpec, *, allow_download: bool) -> None:
    """See `pruning.models.check`."""
    try:
        _open_source(spec, allow_download=allow_download)
    except ModelUnavailableError:
        raise
    except _TROUBLE as error:
        raise _explain(spec, error, is_folder=Path(spec.source).is_dir(), allow_download=allow_download) from error


def _open_source(spec: ModelSpec, *, allow_download: bool) -> tuple[PretrainedConfig, ProcessorMixin]:
    """Configuration and processor: small files, which say whether the rest is there and can be served."""
    if Path(spec.source).is_dir():
        _check_folder(Path(spec.source))
    elif spec.made_by:
        raise ModelUnavailableError(f"{spec.title} is not on this computer yet.", f"Make it with {spec.made_by}")
    elif not _looks_like_hub_id(spec.source):
        raise ModelUnavailableError(f"{spec.source} is neither a folder nor a hub id.", "Check the path.")
    options = _options(spec, allow_download=allow_download)
    config = AutoConfig.from_pretrained(spec.source, **options)
    if config.model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise ModelUnavailableError(
            f"{spec.title} is a {config.model_type} model; this version serves: {known}.", "Choose another model."
        )
    return config, FAMILIES[config.model_type].processor_class.from_pretrained(spec.source, **options)


def _options(spec: ModelSpec, *, allow_download: bool) -> dict[str, bool]:
    return {"local_files_only": Path(spec.source).is_dir() or not allow_download, "trust_remote_code": False}


def choose_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one.

    Raises:
        ModelUnavailableError: for a device that this machine does not have.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ModelUnavailableError(f"{device!r} is not a device.", "Use auto, cpu or cuda.") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ModelUnavailableError(f"{device!r} is not a device that PruneScope was made for.", "Use cpu or cuda.")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ModelUnavailableError(
            f"{device} was asked for; this machine has {found} CUDA devices.", "Use --device cpu."
        )
    return chosen


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 on a GPU and float32 on a CPU."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if dtype not in DTYPES:
        raise ModelUnavailableError(f"{dtype!r} is not a number format.", f"Use auto, {', '.join(DTYPES)}.")
    return DTYPES[dtype]


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
    if not list(folder.glob("*.safetensors")):
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


def _explain(spec: ModelSpec, error: Exception, *, is_folder: bool, allow_download: bool) -> ModelUnavailableError:
    if is_folder:
        return ModelUnavailableError(
            f"The folder {Path(spec.source).name} could not be loaded: {_first_line(error)}",
            "Download the model again.",
        )
    if isinstance(error.__cause__ or error, GatedRepoError):
        return ModelUnavailableError(
            f"{spec.source} asks for its licence to be accepted.", "Accept it on its hub page, log in, and try again."
        )
    if isinstance(error.__cause__ or error, RepositoryNotFoundError):
        return ModelUnavailableError(f"The hub knows no model {spec.source}.", "Check the id.")
    cause = error.__cause__ or error
    if isinstance(cause, LocalEntryNotFoundError) or (isinstance(error, OSError) and not allow_download):
        return ModelUnavailableError(
            f"The weights of {spec.title} are not on this computer and downloads are "
            f"{'failing' if allow_download else 'off'}.",
            f"Start with --model {spec.source} --allow-download, or put the folder's path after --model. "
            f"Needed: {spec.memory}.",
        )
    return ModelUnavailableError(f"{spec.title} could not be loaded: {_first_line(error)}", "Try again.")


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]
