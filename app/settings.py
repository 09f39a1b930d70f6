"""Read and check the command-line flags of the page."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

from pruning.models import MODELS

RANGES = {
    "port": (0, 65535),
    "max_new_tokens": (1, 1024),
    "longest_question": (1, 100_000),
    "longest_queue": (1, 1000),
    "runs_per_minute": (0, 100_000),
    "runs_per_minute_per_host": (0, 100_000),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Frozen start-up settings. Loopback and no downloads unless asked for otherwise."""

    host: str = "127.0.0.1"
    port: int = 7860
    model: str = "demo"
    device: str = "auto"
    dtype: str = "auto"
    allow_download: bool = False
    captioner: str = ""
    max_new_tokens: int = 96
    longest_question: int = 4000  # characters; benchmarks that bring the words of a picture along pass 500
    longest_queue: int = 24
    runs_per_minute: int = 120
    runs_per_minute_per_host: int = 600  # a class behind one address, at twenty a minute each


def read_settings(argv: Sequence[str] | None = None) -> Settings:
    """Return settings from the command line."""
    default = Settings()
    parser = argparse.ArgumentParser(
        prog="python app.py", description="PruneScope: visual-token pruning, made visible."
    )
    parser.add_argument("--host", default=default.host, help="address to listen on (default: this computer only)")
    parser.add_argument("--port", type=int, default=default.port)
    parser.add_argument("--model", default=default.model, help=f"one of {', '.join(MODELS)}; or a hub id; or a folder")
    parser.add_argument("--device", default=default.device, help="auto, cpu, cuda, ...")
    parser.add_argument("--dtype", default=default.dtype, help="auto, bfloat16, float16, float32; 4bit on a GPU")
    parser.add_argument("--allow-download", action="store_true", help="fetch missing weights from the hub")
    parser.add_argument(
        "--captioner",
        default=default.captioner,
        help="captioner of what was dropped: a folder of train-accm, or a captioning model by hub id or folder",
    )
    parser.add_argument("--max-new-tokens", type=int, default=default.max_new_tokens, help="longest answer")
    parser.add_argument(
        "--longest-question", type=int, default=default.longest_question,
        help="characters of a question; the model's own context may be shorter",
    )  # fmt: skip
    parser.add_argument("--longest-queue", type=int, default=default.longest_queue, help="runs that may wait")
    parser.add_argument(
        "--runs-per-minute", type=int, default=default.runs_per_minute, help="per opened page; 0: no limit"
    )
    parser.add_argument(
        "--runs-per-minute-per-host",
        type=int,
        default=default.runs_per_minute_per_host,
        help="per address, which a class may share; 0: no limit",
    )
    found = parser.parse_args(argv)
    for name, (low, high) in RANGES.items():
        if not low <= getattr(found, name) <= high:
            parser.error(f"--{name.replace('_', '-')} is {getattr(found, name)}; allowed are {low} to {high}.")
    return Settings(**vars(found))
