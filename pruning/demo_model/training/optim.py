"""What every training phase shares: optimisers, schedule, checkpoints, one log line a minute."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

from pruning.errors import ParameterError


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised (Jordan et al., 2024), in float32 and batched over equal shapes.

    `torch.optim.Muon` iterates in bfloat16, which a CPU without bf16 units emulates: 4.4 s a step for this tower
    against 0.2 s here. Step sizes match AdamW's (0.2 * sqrt(larger side)), so both share one learning rate.
    """

    def __init__(
        self, params: list[torch.Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = {}
            for p in group["params"]:
                if p.grad is not None:
                    by_shape.setdefault(p.shape, []).append(p)
            for shape, same in by_shape.items():
                updates = []
                for p in same:
                    velocity = self.state[p].setdefault("momentum", torch.zeros_like(p))
                    velocity.lerp_(p.grad, 1 - group["momentum"])
                    updates.append(p.grad.lerp(velocity, group["momentum"]))  # Nesterov
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                for p, update in zip(same, _orthogonalise(torch.stack(updates)), strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-size)


def _orthogonalise(x: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Nearest semi-orthogonal matrices of a batch `[batch, rows, cols]`, by a quintic Newton-Schulz iteration."""
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.mT if tall else x


def autocast(device: torch.device):
    """bf16 on a GPU and on a CPU with units for it. Without them it is ten times slower than float32, so none there."""
    if device.type == "cpu" and not torch.cpu.get_capabilities().get("avx512_bf16", False):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


class Trainer:
    """Two optimisers with one learning rate, linear decay, gradient clipping, exact resume.

    Muon takes the two-dimensional matrices of the layers, AdamW everything else. A checkpoint holds weights,
    optimiser states and the step; the data of a step depends on the step's number alone, so a resumed run goes on
    exactly where it stopped.

    Args:
        modules: named modules to train and to save; frozen parameters are saved but not trained.
        folder: where `<phase>.pt` and `log.jsonl` are kept (an ignored folder).
        slower: factors of the learning rate for some modules, by name.
    """

    def __init__(
        self,
        phase: str,
        modules: dict[str, nn.Module],
        steps: int,
        rate: float,
        folder: Path,
        warmup: int = 100,
        slower: dict[str, float] | None = None,
    ) -> None:
        self.phase, self.modules, self.steps, self.rate, self.folder = phase, modules, steps, rate, folder
        self.warmup = max(1, min(warmup, steps // 10))
        self.device = next(p for m in modules.values() for p in m.parameters()).device
        parameters = {id(p): (n, p) for m in modules.values() for n, p in m.named_parameters() if p.requires_grad}
        matrices = [p for n, p in parameters.values() if p.ndim == 2 and "layers" in n]
        rest = [p for n, p in parameters.values() if not (p.ndim == 2 and "layers" in n)]
        self.parameters = matrices + rest
        factor = {id(p): (slower or {}).get(n, 1.0) for n, m in modules.items() for p in m.parameters()}

        def groups(of: list[torch.Tensor]) -> list[dict]:
            return [
                {"params": [p for p in of if factor[id(p)] == f], "factor": f}
                for f in dict.fromkeys(factor[id(p)] for p in of)
            ]

        self.optimisers = [torch.optim.AdamW(groups(rest), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)]
        if matrices:
            self.optimisers.append(Muon(groups(matrices), lr=rate))
        self.start = 0
        self._last_log = self._last_save = time.monotonic()
        self._seconds = self._earlier = 0.0  # of this process, and of those before it
        self._load()

    @property
    def done(self) -> bool:
        return self.start >= self.steps

    def autocast(self):
        return autocast(self.device)

    def loop(self) -> Iterator[int]:
        """Yield step numbers; after the body has called `step`, checkpoint every few minutes and at the end."""
        began = time.monotonic()
        for number in range(self.start, self.steps):
            yield number
            self._seconds = time.monotonic() - began
            if time.monotonic() - self._last_save > 240 or number + 1 == self.steps:
                self._save(number + 1)
                self._last_save = time.monotonic()

    def step(self, loss: torch.Tensor, number: int) -> None:
        factor = min(1.0, (number + 1) / self.warmup) * (0.03 + 0.97 * (1 - number / self.steps))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = self.rate * factor * group.get("factor", 1.0)  # older checkpoints have none
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def time_to_log(self, number: int) -> bool:
        if time.monotonic() - self._last_log < 60 and number + 1 < self.steps:
            return False
        self._last_log = time.monotonic()
        return True

    def log(self, number: int, **figures: object) -> None:
        left = self._seconds / max(1, number - self.start) * (self.steps - number) / 60 if number > self.start else 0
        line = {"phase": self.phase, "step": number + 1, "of": self.steps, "minutes_left": round(left, 1), **figures}
        print(json.dumps(line), flush=True)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def _path(self) -> Path:
        return self.folder / f"{self.phase}.pt"

    def _save(self, step: int) -> None:
        state = {
            "step": step,
            "seconds": self._earlier + self._seconds,
            "modules": {n: m.state_dict() for n, m in self.modules.items()},
            "optimisers": [o.state_dict() for o in self.optimisers],
        }
        fresh = self._path().with_suffix(".tmp")
        torch.save(state, fresh)
        fresh.replace(self._path())  # a kill during saving must not cost the old checkpoint

    def _load(self) -> None:
        if not self._path().exists():
            return
        state = torch.load(self._path(), map_location=self.device, weights_only=True)
        self.start, self._earlier = state["step"], state["seconds"]
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)


def same_sizes(note: Path, now: dict[str, object]) -> None:
    """See that a folder's checkpoints belong to one recipe, which `note` in it writes down.

    Raises:
        ParameterError: naming the first size that is another.
    """
    before = json.loads(note.read_text()) if note.exists() else now
    for name, value in now.items():
        if before.get(name, value) != value:
            raise ParameterError(
                f"{note.parent} holds checkpoints made with {name} = {before[name]}; now it is {value}.",
                "Use the same sizes, or another --work folder.",
            )
    note.write_text(json.dumps(now))
