"""`RunRequest` and `RunRecord`: a run as data that is saved, read back without torch, drawn and compared.

Every token index in a record is an index into the original visual tokens, whatever was dropped before. Arrays go to
an NPZ file, everything else to JSON; both carry `SCHEMA_VERSION`.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from pruning.budget import check_keep_ratio, mean_per_layer, n_keep
from pruning.errors import RecordFormatError
from pruning.layout import TokenLayout
from pruning.records.answer import ANSWER_ARRAYS, Answer, Cost, arrays_of, freeze, read_answer
from pruning.records.compensation import Compensated, Compensation, read_compensated, read_compensation
from pruning.records.diagnostics import Overlap, Traits
from pruning.records.plan import StructureSummary
from pruning.records.selection import PruningStep, read_step
from pruning.records.upgrade import READABLE, upgrade_run

SCHEMA_VERSION = READABLE[-1]
MAX_SEED, MAX_NEW_TOKENS, MAX_TOKENS = 2**31 - 1, 4096, 100_000
_OPTIONAL = {"answer_region": np.int32, "nearest_kept": np.int32, "nearest_cosine": np.float32}


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Everything that determines a run. The same object is command line, page state and cache key.

    Attributes:
        image_digest: sha256 of the pixels of what is shown (`pruning.inputs.content.digest_of`), which is itself no
            part of a request.
        parameters: the method's own parameters by name; missing ones have the method's defaults.
        structure: digest of the structural plan that the pruned answer ran under, or nothing; filled in by the runner.
        positions: `original` (kept tokens keep their position ids, gaps allowed), `renumbered`, or `method` (what the
            method's paper or code does).
        compensation: whether, and how, what was discarded is compensated with a caption.
    """

    model: str
    method: str
    keep_ratio: float
    question: str
    image_digest: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    positions: str = "method"
    seed: int = 0
    max_new_tokens: int = 64
    structure: str = ""
    compensation: Compensation | None = None

    def __post_init__(self) -> None:
        check_keep_ratio(self.keep_ratio)
        object.__setattr__(self, "compensation", read_compensation(self.compensation))
        if self.positions not in ("method", "original", "renumbered"):
            raise RecordFormatError(f"positions is {self.positions!r}; it must be method, original or renumbered.")
        for name, low, high in (("seed", 0, MAX_SEED), ("max_new_tokens", 1, MAX_NEW_TOKENS)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                allowed = f"it must be a whole number from {low} to {high}"
                raise RecordFormatError(f"{name} is {value!r}; {allowed}.", "Choose one in that range.")

    def key(self) -> str:
        """The request as canonical JSON: equal requests have equal keys."""
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True, slots=True, eq=False)
class RunRecord:
    """A run with its unpruned baseline.

    Attributes:
        steps: every decision in the order in which the picture met it; empty at keep ratio 1.
        full, pruned: the two answers; `full_cost`, `pruned_cost`: their estimates.
        positions: what the pruned run really did, stage by stage: `original`, `renumbered`, `reindexed`, or a sequence
            of them joined by ", then ".
        answer_region: ids of the tokens that hold the answer, or None where the truth is not known.
        nearest_kept, nearest_cosine: for every token the surviving one that resembles it most, by the cosine of what
            the language model would read, and that cosine; None where it was not worked out.
        notes: sentences the person should read (deviations, limits of the model).
        environment: machine, versions, device, dtype, date.
        reused: what was not done anew for this run but taken over, with its time, from another one.
        compensated: the third answer, where the request asks for one.
        structure: what was taken out of the weights for the pruned answer, or None; the full answer has all of them.
        traits, overlaps: for `pruning.metrics.diagnostics`, where they were worked out.
    """

    request: RunRequest
    layout: TokenLayout
    steps: tuple[PruningStep, ...]
    full: Answer
    pruned: Answer
    full_cost: Cost
    pruned_cost: Cost
    positions: str
    method_title: str
    variant: str
    tower_layers: int
    environment: dict[str, str]
    answer_region: np.ndarray | None = None
    nearest_kept: np.ndarray | None = None
    nearest_cosine: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    reused: tuple[str, ...] = ()
    structure: StructureSummary | None = None
    compensated: Compensated | None = None
    traits: Traits | None = None
    overlaps: tuple[Overlap, ...] = ()

    def __post_init__(self) -> None:
        for name, kind in _OPTIONAL.items():
            if getattr(self, name) is not None:
                object.__setattr__(self, name, freeze(getattr(self, name), kind))
        if any(b.stage < a.stage for a, b in zip(self.steps, self.steps[1:], strict=False)):
            raise RecordFormatError("The steps of a record must be in the order in which the picture meets them.")
        n = self.layout.n_tokens
        if n > MAX_TOKENS:
            raise RecordFormatError(f"The layout has {n} tokens; at most {MAX_TOKENS} are opened.")
        if any(s.selection.n_total != n for s in self.steps):
            raise RecordFormatError(f"Every step must speak of the layout's {n} tokens.")
        answer_region = self.answer_region
        if answer_region is not None and (
            answer_region.ndim != 1 or ((answer_region < 0) | (answer_region >= n)).any()
        ):
            raise RecordFormatError(f"The answer region must be ids of the layout's {n} tokens.")
        for name in ("nearest_kept", "nearest_cosine"):
            if getattr(self, name) is not None and getattr(self, name).shape != (n,):
                raise RecordFormatError(f"{name} must have {n} entries.")
        if any(o.kept > n or o.shared > len(self.kept) for o in self.overlaps):
            raise RecordFormatError(f"Nothing can share more than the {len(self.kept)} tokens that are kept.")
        given_back = [self.compensated.answer] if self.compensated else []
        for answer in (self.full, self.pruned, *given_back):
            if answer.attention is not None and answer.attention.shape[1] != n:
                raise RecordFormatError(f"An answer's attention must have {n} columns.")
            if answer.nearest is not None and ((answer.nearest < 0) | (answer.nearest >= n)).any():
                raise RecordFormatError(f"Words can only be near the layout's {n} tokens.")

    @property
    def kept(self) -> np.ndarray:
        """Ids that survive every stage."""
        return self.steps[-1].selection.kept if self.steps else np.arange(self.layout.n_tokens, dtype=np.int32)

    @property
    def counts(self) -> dict[str, float]:
        """`asked`: tokens that the keep ratio asks for; `kept`: rows that the last layer reads for the picture (merged
        tokens are one row, [CLS] is one); `unique`: different tokens among them; `average`: rows for the picture that a
        layer of the language model really reads, mean over all layers.
        """
        rows = list(self.pruned.visual_per_layer)
        requested = n_keep(self.request.keep_ratio, self.layout.n_tokens)
        return {"requested": requested, "kept": rows[-1], "distinct": len(self.kept), "average": mean_per_layer(rows)}

    def save(self, path: Path) -> Path:
        """Write `<path>.json` and `<path>.npz` (`path` may end in either). Returns the JSON's path."""
        text, binary = _pair(path)
        data, arrays = self.to_parts()
        text.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(binary, **arrays)  # type: ignore[arg-type]  # numpy declares only its own keyword
        text.write_text(json.dumps(data, indent=1, ensure_ascii=False), encoding="utf-8")
        return text

    def to_parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The record as a JSON-ready dict and a dict of arrays."""
        arrays: dict[str, np.ndarray] = {}
        steps = []
        for i, step in enumerate(self.steps):
            s = step.selection
            for name in ("alive", "kept", "merged_into", "scores", "order"):
                if getattr(s, name) is not None:
                    arrays[f"step{i}.{name}"] = getattr(s, name)
            for kind in ("extra", "why"):
                for name, value in getattr(step, kind).items():
                    arrays[f"step{i}.{kind}.{name}"] = np.asarray(value)
            stage = {"part": step.stage.part.value, "layer": step.stage.layer}
            steps.append({"stage": stage, "n_total": s.n_total, "select_ms": step.select_ms, "summary": step.summary})
        arrays |= {name: getattr(self, name) for name in _OPTIONAL if getattr(self, name) is not None}
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("steps", "layout", *_OPTIONAL)}
        for name in ("request", "full", "pruned", "full_cost", "pruned_cost"):
            plain[name] = asdict(plain[name])
        plain["traits"] = None if self.traits is None else asdict(self.traits)
        plain["overlaps"] = [asdict(o) for o in self.overlaps]
        plain["structure"] = None if self.structure is None else self.structure.to_dict()
        answers = {"full": plain["full"], "pruned": plain["pruned"]}
        if self.compensated is not None:
            plain["compensated"] = asdict(self.compensated)
            answers["compensated"] = plain["compensated"]["answer"]
        for name, answer in answers.items():
            for field_name in ANSWER_ARRAYS:
                array = answer.pop(field_name)
                if array is not None:
                    arrays[f"{name}.{field_name}"] = array
        head = {"schema_version": SCHEMA_VERSION, "counts": self.counts}  # for readers without PruneScope
        return {**head, **plain, "layout": self.layout.to_dict(), "steps": steps}, arrays

    @classmethod
    def from_parts(cls, data: dict[str, Any], arrays: dict[str, np.ndarray]) -> RunRecord:
        """The inverse of `to_parts`.

        Raises:
            RecordFormatError: if something is missing, inconsistent or newer than this version.
        """
        version = data.get("schema_version")
        if version not in READABLE:
            said = f"The record has format {version!r}; this version reads up to {SCHEMA_VERSION}."
            raise RecordFormatError(said, "Open it with the version of PruneScope that wrote it, or run it again.")
        try:
            data, arrays = upgrade_run(data, arrays)
            return cls(
                request=RunRequest(**data["request"]),
                layout=TokenLayout.from_dict(data["layout"]),
                steps=tuple(read_step(i, s, arrays) for i, s in enumerate(data["steps"])),
                full=read_answer(data["full"], arrays_of(arrays, "full")),
                pruned=read_answer(data["pruned"], arrays_of(arrays, "pruned")),
                full_cost=Cost(**data["full_cost"]),
                pruned_cost=Cost(**data["pruned_cost"]),
                positions=data["positions"],
                method_title=data["method_title"],
                variant=data["variant"],
                tower_layers=data["tower_layers"],
                environment=data["environment"],
                **{name: arrays.get(name) for name in _OPTIONAL},
                notes=tuple(data["notes"]),
                reused=tuple(data.get("reused", ())),
                structure=StructureSummary.from_dict(data["structure"]) if data.get("structure") else None,
                compensated=read_compensated(data.get("compensated"), arrays_of(arrays, "compensated")),
                traits=Traits(**data["traits"]) if data.get("traits") else None,
                overlaps=tuple(Overlap(**o) for o in data.get("overlaps", ())),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RecordFormatError(f"The record is damaged: {error!r}.", "Run it again.") from error

    @classmethod
    def load(cls, path: Path) -> RunRecord:
        """Read a record written by `save`.

        Raises:
            RecordFormatError: with what is wrong with the files.
        """
        text, binary = _pair(path)
        try:
            data = json.loads(text.read_text(encoding="utf-8"))
            with np.load(binary, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            advice = "A record is a JSON file with an NPZ file of the same name beside it."
            raise RecordFormatError(f"{text.name} cannot be read as a record ({error}).", advice) from error
        if not isinstance(data, dict):
            raise RecordFormatError(f"{text.name} is not a record.")
        return cls.from_parts(data, arrays)


def _pair(path: Path | str) -> tuple[Path, Path]:
    """The two files of a record. Only their own suffixes are taken off: `resprune-0.11` is a whole name."""
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".json", ".npz") else path
    return stem.with_name(f"{stem.name}.json"), stem.with_name(f"{stem.name}.npz")


def kept_by_picture(record: RunRecord) -> list[tuple[str, int, int]]:
    """Of each of several pictures, or steps of a video: its name, how many of its tokens survive, and of how many.
    Nothing for one picture.
    """
    layout, number = record.layout, record.layout.picture_numbers()
    if layout.n_pictures == 1:
        return []
    counts = (np.bincount(n, minlength=layout.n_pictures) for n in (number[record.kept], number))
    return [(name, int(kept), int(of)) for name, kept, of in zip(layout.names(), *counts, strict=True)]
