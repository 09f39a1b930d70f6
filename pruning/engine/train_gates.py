"""Train a gate for every attention head against the dense model's own answers, then take out the lowest.

InfoPrune's training-based scheme (arXiv 2511.19518) as far as it could be seen; see `structural.gates` for what is
inferred. No labels: the dense model answers every question first, and the gated copy must answer alike (`kl`, of the
whole distribution; or `ce`, of the words it chose). The backbone is frozen; only one number per head learns.

The pairs of a step follow from its number alone, so a training that was stopped goes on exactly where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from pruning.engine.plan import Pairs, assemble, calibrate, ffn_needs
from pruning.errors import ParameterError, RunStopped
from pruning.interface import Part
from pruning.models.base import RunCallbacks, VLMAdapter
from pruning.records.plan import TRAINED, PlanRequest, StructuralPlan, Trajectory
from pruning.structural.base import Statistic, choose_heads, n_heads_kept
from pruning.structural.gates import distance_term, gate_values, ramp, rank_term, temperature
from pruning.structural.infoprune import InfoPrune

TITLE = "InfoPrune, trained gates"
POINTS = 200  # of a trajectory, at most
SAVE_EVERY = 120.0  # seconds
MISSED = 0.05  # distance of the mean gate from the planned share, from which a plan says so
TASKS = ("kl", "ce")


@dataclass(frozen=True, slots=True)
class HeadRecipe:
    """Everything that a training is started with; every default is inferred.

    Attributes:
        sparsity: share of heads to take out, in [0, 1).
        pool: different pairs to learn from; batch: of them per step; answer_tokens: of the dense answer, at most.
        rate: Adam's, which moves z by about that much a step: 1000 steps of 0.01 close a gate that starts at 3, a tenth
            of them need ten times the rate.
        start: of every gate's z; heat: temperature at the end; ramp_share: of the steps until all sparsity is planned.
        rank, distance, sparse: weights l1, l2, l3 of the loss beside the task. With l3 = 10 the task held gates open on
            the bundled model: 59 % of them where 50 % were planned.
    """

    sparsity: float = 0.3
    steps: int = 1000
    pool: int = 256
    batch: int = 2
    answer_tokens: int = 16
    rate: float = 1e-2
    start: float = 3.0
    heat: float = 0.1
    ramp_share: float = 0.8
    rank: float = 0.05
    distance: float = 0.5
    sparse: float = 100.0
    task: str = "kl"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.sparsity < 1:
            raise ParameterError(f"sparsity is {self.sparsity!r}; it must be from 0 to below 1.", "Try 0.3.")
        for name in ("steps", "pool", "batch", "answer_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ParameterError(f"{name} is {value!r}; it must be a whole number above 0.", "Try a few hundred.")
        if self.task not in TASKS:
            raise ParameterError(f"task is {self.task!r}; it must be one of {', '.join(TASKS)}.", "Pick one.")


class HeadTraining:
    """One training, resumable.

    Args:
        request: what is planned beside the heads (parts, feed-forward rule) and how many pairs calibrate; its `score`
            and `heads` follow from the recipe.
        checkpoint: a file to go on from and to save to, or None.
        say: gets a line of figures now and then; stop: asked before every step.

    Raises:
        ParameterError: if the checkpoint belongs to another training.
    """

    def __init__(
        self,
        adapter: VLMAdapter,
        pairs: Pairs,
        recipe: HeadRecipe,
        request: PlanRequest,
        checkpoint: Path | None = None,
        *,
        say: Callable[[dict[str, float]], None] = lambda line: None,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.adapter, self.pairs, self.recipe, self.checkpoint, self.say, self.stop = (
            adapter, pairs, recipe, checkpoint, say, stop,
        )  # fmt: skip
        self.request = replace(
            request, score=TRAINED, heads=1 - recipe.sparsity, parameters={}, calibration=pairs.title, seed=recipe.seed
        )
        self.facts = calibrate(adapter, request, frozenset({Statistic.HEAD_OUTPUTS}) | ffn_needs(request), pairs, stop)
        generator = torch.Generator().manual_seed(recipe.seed)
        self.scores = [InfoPrune().score(f, generator) for f in self.facts]
        self.erank = [s.erank.float() for s in self.scores if s.erank is not None]  # InfoPrune gives all of them
        self.sizes = [f.n_heads for f in self.facts]
        self.model = adapter.gated([Part(p) for p in request.parts])
        self.z = torch.full((sum(self.sizes),), float(recipe.start), requires_grad=True)
        self.optimiser = torch.optim.Adam([self.z], lr=recipe.rate)
        self.step = 0
        self.trace: dict[str, list] = {"step": [], "gates": []}
        self._lessons: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._load()

    def run(self) -> StructuralPlan:
        """Train to the end (or go on) and return the plan."""
        saved = time.monotonic()
        while self.step < self.recipe.steps:
            if self.stop():
                self.save()
                raise RunStopped
            self._one_step()
            if time.monotonic() - saved > SAVE_EVERY:
                self.save()
                saved = time.monotonic()
        self.save()
        return self.plan()

    def plan(self) -> StructuralPlan:
        """The heads with the highest z stay, at least one a layer; then the feed-forward part of the request."""
        z = self.z.detach()
        kept = choose_heads(z.split(self.sizes), n_heads_kept(self.request.heads, len(z), len(self.sizes)))
        scores = [replace(s, score=part) for s, part in zip(self.scores, z.split(self.sizes), strict=True)]
        terms = {name: values for name, values in self.trace.items() if name not in ("step", "gates")}
        steps, gates = np.array(self.trace["step"], np.int32), np.array(self.trace["gates"], np.float32)
        curves = {name: np.array(values, np.float32) for name, values in terms.items()}
        training = Trajectory(steps, gates, curves, asdict(self.recipe))
        plan = assemble(self.adapter, self.request, self.facts, scores, kept, TITLE, training)
        open_share = float(training.gates[-1].mean()) if len(training.gates) else 1.0
        if abs(open_share - self.request.heads) <= MISSED:
            return plan
        note = (
            f"The gates ended {open_share:.0%} open where {self.request.heads:.0%} were planned: the ranking decided "
            "about the others, and says little there. Train longer, with a higher rate or a higher weight of the plan."
        )
        return replace(plan, notes=(*plan.notes, note))

    def loss(self, step: int) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of a step, and its terms."""
        r = self.recipe
        heat = temperature(step, r.steps, r.heat)
        planned = ramp(step + 1, max(1, round(r.ramp_share * r.steps)), r.sparsity)
        gates = list(gate_values(self.z, heat).split(self.sizes))
        self.model.gates = [g.to(self.adapter.device) for g in gates]
        draw = torch.Generator().manual_seed(r.seed * 1_000_003 + step)
        numbers = torch.randint(r.pool, (r.batch,), generator=draw).tolist()
        task = torch.stack([self._task(n) for n in numbers]).mean().cpu()
        terms = {"task": task}
        zero = torch.zeros(())
        terms["rank"] = rank_term(gates, self.erank) if r.rank else zero
        grams = [f.output_gram.cpu() for f in self.facts if f.output_gram is not None]
        terms["distance"] = distance_term(gates, grams) if r.distance else zero
        terms["sparse"] = (torch.cat(gates).mean() - (1 - planned)).square()
        loss = task + r.rank * terms["rank"] + r.distance * terms["distance"] + r.sparse * terms["sparse"]
        figures = {name: float(value.detach()) for name, value in terms.items()}
        return loss, {"loss": float(loss.detach()), **figures, "target": planned, "temperature": heat}

    def _one_step(self) -> None:
        loss, figures = self.loss(self.step)
        if self.step % max(1, self.recipe.steps // POINTS) == 0 or self.step + 1 == self.recipe.steps:
            self._note(figures)
        [self.z.grad] = torch.autograd.grad(loss, [self.z])  # nothing else may get a gradient
        self.optimiser.step()
        self.step += 1

    def _note(self, figures: dict[str, float]) -> None:
        self.trace["step"].append(self.step)
        self.trace["gates"].append(gate_values(self.z.detach(), figures["temperature"]).tolist())
        for name, value in figures.items():
            self.trace.setdefault(name, []).append(value)
        self.say({"step": self.step, "of": self.recipe.steps} | {n: round(v, 4) for n, v in figures.items()})

    def _task(self, number: int) -> torch.Tensor:
        prompt = self._prompt(number)
        answer, dense = self._lesson(number, prompt)
        logits = self.model.answer_logits(prompt, answer)
        if self.recipe.task == "ce":
            return F.cross_entropy(logits, answer.to(logits.device))
        return F.kl_div(logits.log_softmax(-1), dense.to(logits.device), log_target=True, reduction="batchmean")

    def _prompt(self, number: int):
        pair = self.pairs[self.request.n_pairs + number]  # apart from those that calibrate
        return self.adapter.prompt(pair.picture, pair.question)

    def _lesson(self, number: int, prompt) -> tuple[torch.Tensor, torch.Tensor]:
        """The dense answer's tokens, and the dense log-probabilities at each of them; worked out once."""
        if number not in self._lessons:
            adapter = self.adapter
            encoded = adapter.encode_image(prompt, [], None, RunCallbacks(stop=self.stop))
            out = adapter.answer(
                prompt, adapter.project(encoded, None), None, self.recipe.answer_tokens, RunCallbacks()
            )
            answer = torch.tensor(out.token_ids)
            gates, self.model.gates = self.model.gates, None
            with torch.no_grad():
                dense = self.model.answer_logits(prompt, answer).log_softmax(-1).cpu()
            self.model.gates = gates
            self._lessons[number] = answer, dense
        return self._lessons[number]

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, object]:
        calibration = {"parts": list(self.request.parts), "n_pairs": self.request.n_pairs, "data": self.pairs.title}
        return {"fingerprint": self.adapter.fingerprint, "recipe": asdict(self.recipe), **calibration}

    def save(self) -> None:
        """Write the checkpoint, whole or not at all."""
        if self.checkpoint is None:
            return
        state = {
            **self._identity(), "step": self.step, "z": self.z.detach(), "optimiser": self.optimiser.state_dict(),
            "trace": self.trace,
        }  # fmt: skip
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        fresh = self.checkpoint.with_suffix(".tmp")
        torch.save(state, fresh)
        fresh.replace(self.checkpoint)

    def _load(self) -> None:
        if self.checkpoint is None or not self.checkpoint.exists():
            return
        advice = "Delete it, or choose another --work."
        try:
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            mine = {name: state[name] for name in self._identity()}
        except Exception as error:
            raise ParameterError(f"{self.checkpoint} is not a checkpoint of head training.", advice) from error
        if mine != self._identity():
            raise ParameterError(f"{self.checkpoint} holds a training with other settings.", advice)
        self.step, self.trace = state["step"], state["trace"]
        with torch.no_grad():
            self.z.copy_(state["z"])
        self.optimiser.load_state_dict(state["optimiser"])
