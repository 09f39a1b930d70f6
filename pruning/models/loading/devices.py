"""Choose device and number format of a model: one device, several GPUs together, or 4 bits on a GPU.

Several GPUs and 4 bits could be tried with stand-ins only: no such machine was at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig

from pruning.errors import ModelUnavailableError
from pruning.models.base import gigabytes
from pruning.models.loading.memory import free_memory, require_memory

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
FOUR_BIT = "4bit"
SHARE_OF_A_GPU = 0.9  # of each one's free memory, where weights are spread over several


@dataclass(frozen=True, slots=True)
class Place:
    """Attributes:
    device: of the weights, or of the first of them.
    dtype: in which the model computes.
    four_bit: its matrices are held in 4 bits.
    max_memory: bytes for weights on each GPU, where they are spread over several.
    """

    device: torch.device
    dtype: torch.dtype
    four_bit: bool = False
    max_memory: Mapping[int, int] | None = None

    def options(self) -> dict[str, Any]:
        """Arguments of `from_pretrained`."""
        found: dict[str, Any] = {"dtype": self.dtype}
        if self.four_bit:
            found["quantization_config"] = BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=self.dtype
            )
        if self.max_memory:
            return found | {"device_map": "auto", "max_memory": dict(self.max_memory)}
        if self.device.type == "cuda" and find_spec("accelerate"):  # straight there, without a stop in main memory
            found["device_map"] = {"": self.device}
        return found


def choose_place(
    title: str, needed: Callable[[torch.dtype, bool], int], device: str, dtype: str, freed: int = 0
) -> Place:
    """Where the weights fit: the device asked for, or, for `auto`, all GPUs together if one is too small.

    Args:
        needed: bytes in memory for a number format, and for 4 bits or not.
        freed: bytes on the device, or on all GPUs, that the model at hand will give back.

    Raises:
        ModelUnavailableError: with what it needs, what there is, and what to do.
    """
    where = choose_device(device)
    kind, four_bit = _format(title, dtype, where)
    n_bytes = needed(kind, four_bit)
    free, gpus = free_memory(where) + freed, torch.cuda.device_count() if where.type == "cuda" else 0
    if n_bytes <= free or device != "auto" or gpus < 2:
        require_memory(title, n_bytes, free, str(where))
        return Place(where, kind, four_bit)
    rooms = {i: int(SHARE_OF_A_GPU * free_memory(torch.device("cuda", i))) for i in range(gpus)}
    require_memory(title, n_bytes, sum(rooms.values()) + freed, f"all {gpus} GPUs together")
    if not find_spec("accelerate"):
        raise ModelUnavailableError(
            f"{title} needs about {gigabytes(n_bytes)}, more than one GPU has free ({gigabytes(free)}), and spreading "
            f"it over {gpus} GPUs takes the package accelerate, which is not installed.",
            "Install it (pip install accelerate), or choose a smaller model.",
        )
    return Place(where, kind, four_bit, rooms)


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
        raise ModelUnavailableError(f"{dtype!r} is not a number format.", f"Use auto, {', '.join(DTYPES)} or 4bit.")
    return DTYPES[dtype]


def _format(title: str, dtype: str, device: torch.device) -> tuple[torch.dtype, bool]:
    """The number format, and whether matrices are held in 4 bits."""
    if dtype != FOUR_BIT:
        return choose_dtype(dtype, device), False
    if device.type != "cuda":
        raise ModelUnavailableError(
            f"{title} was asked for in 4 bits, which PruneScope does on a GPU only; this is a {device.type}.",
            "Use --dtype auto.",
        )
    if not find_spec("bitsandbytes"):
        raise ModelUnavailableError(
            f"{title} was asked for in 4 bits, which takes the package bitsandbytes; it is not installed.",
            "Install it (pip install bitsandbytes), or use --dtype bfloat16.",
        )
    return choose_dtype("auto", device), True
