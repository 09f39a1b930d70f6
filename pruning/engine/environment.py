"""Describe where a run was made (machine, versions, device, generation settings), for its record."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

from pruning import __version__
from pruning.models.base import VLMAdapter
from pruning.models.generation_settings import SETTINGS


def environment(adapter: VLMAdapter) -> dict[str, str]:
    """Machine, device, number format, versions and date."""
    gpu = torch.cuda.get_device_name(adapter.device) if adapter.device.type == "cuda" else ""
    return {
        "machine": gpu or f"{processor_name()}, {os.cpu_count()} cores",
        "device": str(adapter.device),
        "dtype": adapter.number_format,
        "threads": str(torch.get_num_threads()),
        "generation": generation_of(adapter),
        "prunescope": __version__,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "python": platform.python_version(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch, as figures of one core need it; afterwards as many as before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def processor_and_threads() -> str:
    """What a training names as its hardware."""
    return f"{processor_name()}, {torch.get_num_threads()} threads"


def processor_name() -> str:
    """What the machine calls its processor."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def generation_of(adapter: VLMAdapter) -> str:
    """How answers are generated, and which of the checkpoint's own settings were left off for that."""
    left = ", ".join(f"{name} = {value}" for name, value in adapter.settings_left_off.items())
    return f"{SETTINGS}{f'; left off: {left}' if left else ''}"
