"""Measure the engine's speed (`python -m pruning bench`) as ratios within one process, so that a slow machine changes
little.

Three questions, on random weights of a real shape and on the bundled model: does prefill get cheaper by as much as its
multiply-adds say; what does deciding cost by itself; what does writing a record cost over a plain `generate`. Pruned
and unpruned runs alternate, medians are compared, nothing is recorded while the clock runs.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pruning.benchmarks.published_order import ORDERS, order_ms
from pruning.cost import prefill_flops
from pruning.engine.environment import environment, one_thread
from pruning.engine.run import encode_for, encode_image
from pruning.engine.session import Session
from pruning.errors import BudgetError, PrunerUntrainedError
from pruning.interface import ModelInfo, PromptText, PruneContext, Signal, Stage
from pruning.methods import METHODS
from pruning.models import load
from pruning.models.base import RunCallbacks, VisionFeatures, VLMAdapter
from pruning.models.loading.random_model import Shape, random_llava
from pruning.models.prompt import Prompt
from pruning.records.run import RunRequest

QUESTION = "What color is the star?"
COUNTS = (192, 128, 64)
FEWEST = COUNTS[-1]
REPEATS = 7
GRIDS = ((24, 24), (48, 60))  # 576 tokens of LLaVA-1.5, 2880 of LLaVA-NeXT
DIM, HEADS = 4096, 32


SMALL = Shape(12, 1024, 2816, 16)  # 0.15 B
LLAVA_7B = Shape(32, 4096, 11008, 32)


def bench(device: torch.device, repeats: int = REPEATS) -> dict[str, Any]:
    """Everything; on a GPU also the shape of LLaVA-1.5-7B in bfloat16."""
    shapes = {"random 0.15 B": SMALL} | ({"random 7 B": LLAVA_7B} if device.type == "cuda" else {})
    bundled = load("demo", device=str(device))
    found: dict[str, Any] = {
        "environment": environment(bundled) | {"commit": commit()},
        "prefill": {},
        "recording": {},
        "memory": {},
    }
    found["prefill"]["bundled"] = prefill(bundled, repeats)
    found["recording"]["bundled"] = recording(bundled, repeats)
    for name, shape in shapes.items():
        adapter = random_llava(shape, bundled.processor, device)
        found["prefill"][name] = prefill(adapter, repeats)
        found["recording"][name] = recording(adapter, repeats)
        found["memory"][name] = peak_memory(adapter)
        del adapter
    found["selection"] = selection(repeats)
    return found


def bench_model(name: str, device: torch.device, repeats: int = REPEATS) -> dict[str, Any]:
    """Prefill and recording of one model that is on this computer, by key, hub id or folder.

    Raises:
        ModelUnavailableError: as `pruning.models.load`.
    """
    adapter = load(name, device=str(device))
    return {
        "environment": environment(adapter) | {"commit": commit()},
        "prefill": {name: prefill(adapter, repeats)},
        "recording": {name: recording(adapter, repeats)},
    }


def commit() -> str:
    """The commit of this checkout, with a `+` where tracked files differ from it; empty outside of git."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], capture_output=True, text=True, cwd=Path(__file__).parent, check=True)
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/assets/benchmarks")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def picture() -> np.ndarray:
    """Noise of the size of an example."""
    return np.random.default_rng(0).integers(0, 255, (192, 192, 3), dtype=np.uint8)


def prefill(adapter: VLMAdapter, repeats: int) -> list[dict[str, float]]:
    """For every count: prefill time pruned over full, the same for multiply-adds, and the one divided by the other; and
    the pruned prefill over a forward pass of the bare model on as many rows, which tells the engine's part in it from
    the machine's (few rows make poorer use of a processor, and weights must be read however few they are).
    """
    prompt = adapter.prompt(picture(), QUESTION)
    encoded, _ = encode_image(adapter, prompt)
    total = prompt.layout.n_tokens
    info = adapter.info

    def prefill_ms(count: int) -> float:
        session = _session(adapter, prompt, "uniform_grid", count / total)
        out = adapter.answer(prompt, adapter.project(encoded, session), session, 1, RunCallbacks())
        return out.prefill_ms - session.decide_ms

    text = prompt.input_ids.shape[1] - total

    def work(count: int) -> float:
        return prefill_flops([count] * info.text_layers, text, info.text_dim, info.text_ffn_dim, info.kv_dim)

    def bare_ms(count: int) -> float:
        weight = adapter.model.get_input_embeddings().weight
        states = torch.randn(1, count + text, weight.shape[1], device=weight.device).to(weight.dtype)
        with torch.inference_mode():
            return _timed(lambda: adapter.model.get_decoder()(inputs_embeds=states, use_cache=True))

    rows, counts = [], [count for count in COUNTS if count < total]
    if not counts:
        raise BudgetError(
            f"{info.name} makes {total} tokens of the picture that the bench reads; it keeps {FEWEST} or more.",
            "Bench a model with more.",
        )
    for count in counts:
        works = (lambda c=count: prefill_ms(c), lambda: prefill_ms(total), lambda c=count: bare_ms(c))
        pruned, full, bare = map(statistics.median, zip(*_in_turns(works, repeats), strict=True))
        time_ratio, work_ratio = pruned / full, work(count) / work(total)
        rows.append(
            {
                "kept": count,
                "full_ms": round(full, 2),
                "time_ratio": round(time_ratio, 4),
                "work_ratio": round(work_ratio, 4),
                "time_over_work": round(time_ratio / work_ratio, 3),
                "engine_over_bare": round(pruned / bare, 3),
            }
        )
    return rows


def recording(adapter: VLMAdapter, repeats: int) -> dict[str, float]:
    """What writing a run down costs, over a plain `generate` with the same picture, question and number of words: with
    kept set and counts only, and with what the page records for its hover cards. Medians of the ratios of each round.

    One token of all is dropped, so that there is a kept set to decide and write, and the work stays that of the whole.
    """
    prompt, words = adapter.prompt(picture(), QUESTION), 16
    nearly_all = 1 - 1 / prompt.layout.n_tokens

    def plain() -> None:
        with torch.inference_mode():
            adapter.model.generate(**prompt.inputs(), do_sample=False, max_new_tokens=words)

    def engine(encode: Callable[[], VisionFeatures], callbacks: RunCallbacks) -> None:
        session = _session(adapter, prompt, "uniform_grid", nearly_all)
        adapter.answer(prompt, adapter.project(encode(), session), session, words, callbacks)

    def kept_and_counts() -> None:
        engine(lambda: adapter.encode_image(prompt, (), None, RunCallbacks()), RunCallbacks())

    def everything() -> None:
        engine(lambda: encode_image(adapter, prompt)[0], RunCallbacks(trace=True))

    works = (plain, kept_and_counts, everything)
    rounds = _in_turns([lambda work=work: _timed(work) for work in works], repeats)
    return {
        "plain_ms": round(statistics.median(r[0] for r in rounds), 2),
        "engine_over_plain": round(statistics.median(r[1] / r[0] for r in rounds), 3),
        "with_attention_over_plain": round(statistics.median(r[2] / r[0] for r in rounds), 3),
    }


def selection(repeats: int) -> dict[str, dict[str, float | str]]:
    """Milliseconds of all decisions of a run, keeping one ninth, on random tensors of width 4096 and one thread; and at
    the larger size over the bare operations that published implementations of some methods need
    (`pruning.benchmarks.published_order`).
    """
    with one_thread():
        found: dict[str, dict[str, float | str]] = {}
        for key, method in METHODS.items():
            try:
                small, large = (_decide_ms(method(keep_ratio=1 / 9), grid, repeats) for grid in GRIDS)
            except (BudgetError, PrunerUntrainedError) as error:
                found[key] = {"refused": str(error)}
                continue
            growth = float(np.log(large / small) / np.log(5))  # 1: linear in the number of tokens, 2: quadratic
            found[key] = {"ms_576": round(small, 3), "ms_2880": round(large, 3), "growth": round(growth, 2)}
            if key in ORDERS:
                n = GRIDS[-1][0] * GRIDS[-1][1]
                features = torch.randn(n, DIM, generator=torch.Generator().manual_seed(0))
                published = statistics.median(order_ms(key, features, n // 9) for _ in range(3))
                found[key]["over_published_order"] = round(large / published, 2)
        return found


def _decide_ms(method: Any, grid: tuple[int, int], repeats: int) -> float:
    n, g = grid[0] * grid[1], torch.Generator().manual_seed(0)
    info = ModelInfo("bench", 24, 22, 32, 1024, 4096, DIM, 11008, DIM, signals=frozenset(Signal))
    places = torch.stack([torch.arange(n) // grid[1] / grid[0], torch.arange(n) % grid[1] / grid[1]], 1)
    shapes = {
        Signal.CLS_ATTENTION: lambda rows: torch.rand(16, rows, generator=g),
        Signal.CLS_ATTENTION_WIDE: lambda rows: torch.rand(1, rows, generator=g),
        Signal.TOWER_KEYS: lambda rows: torch.randn(rows, 1024, generator=g),
        Signal.TOWER_KEYS_MEAN: lambda rows: torch.randn(rows, 64, generator=g),
        Signal.LAST_TOKEN_ATTENTION: lambda rows: torch.rand(HEADS, rows, generator=g),
        Signal.LANGUAGE_KEYS: lambda rows: torch.randn(HEADS, rows, DIM // HEADS, generator=g),
        Signal.LANGUAGE_VALUES: lambda rows: torch.randn(HEADS, rows, DIM // HEADS, generator=g),
        Signal.TEXT_ATTENTION: lambda rows: torch.rand(HEADS, len(words), rows, generator=g),
        Signal.LANGUAGE_STATES: lambda rows: torch.randn(rows, DIM, generator=g),
        Signal.NORMED_STATES: lambda rows: torch.randn(rows, DIM, generator=g),
        Signal.ROTARY: lambda rows: torch.rand(2, rows, DIM // HEADS, generator=g),
    }
    words = QUESTION.split()
    states = torch.randn(len(words), DIM, generator=g)

    def context(stage: Stage, ids: torch.Tensor, features: torch.Tensor, memory: dict) -> PruneContext:
        observations, behind, before = (
            {observation: shapes[observation.signal](rows) for observation in method.observations(info)}
            for rows in (len(ids), len(words), 2)
        )
        text = PromptText(states, words, torch.ones(len(words), dtype=torch.bool), words, 2 + len(ids), behind, before)
        return PruneContext(
            stage=stage, features=features, ids=ids, positions=places[ids], n_total=n, info=info, generator=g,
            observations=observations, text=text, memory=memory,
        )  # fmt: skip

    times = []
    for _ in range(max(3, repeats // 2)):
        ids, features, memory, spent = torch.arange(n), torch.randn(n, DIM, generator=g), {}, 0.0
        for stage, wanted in method.plan(info, n).items():
            context_now = context(stage, ids, features, memory)
            began = time.perf_counter()
            decision = method(context_now, wanted)
            spent += 1e3 * (time.perf_counter() - began)
            ids = ids[decision.keep]
            features = features[decision.keep] if decision.features is None else decision.features
        times.append(spent)
    return statistics.median(times)


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - began)


def _in_turns(measurements: Sequence[Callable[[], float]], repeats: int) -> list[list[float]]:
    """Rounds in which each is taken once, after one that does not count."""
    rounds = [[measure() for measure in measurements] for _ in range(1 + repeats)]
    return rounds[1:]


def peak_memory(adapter: VLMAdapter) -> dict[str, float]:
    """Peak megabytes above what is held anyway, while a picture is projected and read: unpruned, and with each method
    keeping 64 tokens. Of the GPU, or of the process (Linux).
    """
    prompt = adapter.prompt(picture(), QUESTION)
    encoded, _ = encode_image(adapter, prompt)
    found, few = {}, FEWEST / prompt.layout.n_tokens
    for key in ("full", *METHODS):
        try:
            session = _session(adapter, prompt, *(("uniform_grid", 1) if key == "full" else (key, few)))
            mine = encode_for(session, adapter, prompt, encoded, RunCallbacks())
            base = _reset_peak(adapter.device)
            adapter.answer(prompt, adapter.project(mine, session), session, 2, RunCallbacks())
            found[key] = round(_peak(adapter.device) - base, 1)
        except (BudgetError, PrunerUntrainedError):
            continue
    return found


def _session(adapter: VLMAdapter, prompt: Prompt, method: str, ratio: float) -> Session:
    return Session(METHODS[method](keep_ratio=ratio), adapter, prompt, RunRequest("bench", method, ratio, QUESTION))


def _reset_peak(device: torch.device) -> float:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # or memory that an earlier run gave back would hide this one's
        Path("/proc/self/clear_refs").write_text("5")
    return _peak(device)


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def table(found: dict[str, Any]) -> str:
    """The figures as text."""
    lines = [
        "| prefill, kept of 576 | full, ms | time | work | time / work | engine / bare model |",
        f"|{' --- |' * 6}",
    ]
    for model, rows in found["prefill"].items():
        for r in rows:
            lines.append(
                f"| {model}, {r['kept']} | {r['full_ms']:.1f} | {r['time_ratio']:.3f} | {r['work_ratio']:.3f} | "
                f"{r['time_over_work']:.2f} | {r['engine_over_bare']:.2f} |"
            )
    lines += [
        "",
        "| engine over plain `generate` | kept sets and counts | with attention of every word |",
        "| --- | --- | --- |",
    ]
    for model, r in found["recording"].items():
        lines.append(f"| {model} | {r['engine_over_plain']:.3f} | {r['with_attention_over_plain']:.3f} |")
    if "selection" not in found:  # of one model only
        return "\n".join(lines)
    lines += [
        "",
        "| deciding, one thread | 576 tokens, ms | 2880 tokens, ms | grows like N^ | over the published order |",
        "| --- | --- | --- | --- | --- |",
    ]
    for key, r in found["selection"].items():
        if "refused" not in r:
            times = f"{r['ms_576']:.2f} | {r['ms_2880']:.2f} | {r['growth']:.2f}"
            lines.append(f"| {METHODS[key].title} | {times} | {r.get('over_published_order', '–')} |")
    lines += ["", "| peak memory at 64 tokens | MB | unpruned, MB |", "| --- | --- | --- |"]
    for model, r in found["memory"].items():
        lines += [f"| {model}, {METHODS[k].title} | {v:.1f} | {r['full']:.1f} |" for k, v in r.items() if k != "full"]
    return "\n".join(lines)
