# Long because a plan, its checks and its file format are read together.
"""A structural plan: which heads and feed-forward ranks are kept, and the scores behind it; and its summary in a run's
record. No torch.

Like a run's record it can be saved, read back, drawn and applied later, and only to the model that it was made for.
Arrays go to an NPZ, everything else to JSON; both lie in one zip.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pruning.errors import ParameterError, PlanError, RecordFormatError
from pruning.interface import Part
from pruning.records.io import MAX_UNPACKED, read_parts, write_parts
from pruning.records.upgrade import READABLE, upgrade_plan
from pruning.shapes import LayerShape, MatrixShape

if TYPE_CHECKING:
    pass

SCHEMA_VERSION = READABLE[-1]
KIND = "structural plan"
NAME = "plan"
ADVICE = "Bring a file that `python -m pruning plan` or `train-heads` wrote."
FFN_RULES = ("none", "erank", "mass", "budget", "bottleneck")
TRAINED = "trained"  # the score of a plan whose heads were ranked by trained gates
_LAYER_ARRAYS = ("score", "erank", "ks", "spectra", "full", "without")  # of HeadScores, where there
_DAMAGE = (
    KeyError, TypeError, ValueError, ArithmeticError, AttributeError, OSError, RuntimeError, EOFError,
    NotImplementedError,
)  # fmt: skip


def _frozen(array: Any, dtype: type) -> np.ndarray | None:
    if array is None:
        return None
    made: np.ndarray = np.array(array, dtype=dtype)
    made.setflags(write=False)
    return made


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """Everything that determines a plan, beside the model's weights and the calibration pictures.

    Attributes:
        score: a key of `STRUCTURAL`, or `trained`; parameters: its options by name.
        heads: share of the heads that stay, in (0, 1]; 1 takes none out and needs no score.
        ffn: `none`, `erank`, `mass`, `budget` or `bottleneck`; see `structural.ranks`.
        erank_factor: c of the rule `erank`, 1 .. 2; tau: of `mass` and `bottleneck`; ffn_flops: of `budget`.
        whitening: weight the matrices by what really comes in (an extension, not the paper's).
        parts: where to prune; the vision tower by default, where the paper's motivation sees the redundancy.
        calibration: in words, what pictures were run; n_pairs: how many.
    """

    model: str
    score: str = "infoprune"
    heads: float = 1.0
    ffn: str = "none"
    erank_factor: float = 1.0
    tau: float = 0.1
    ffn_flops: float = 0.5
    whitening: bool = False
    parts: tuple[str, ...] = (Part.TOWER.value,)
    parameters: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    calibration: str = "none"
    n_pairs: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        ranges = (("heads", 0.0, 1.0), ("erank_factor", 1.0, 2.0), ("tau", 0.0, 1.0), ("ffn_flops", 0.0, 1.0))
        for name, low, high in ranges:
            value = getattr(self, name)
            fine = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
            if not fine or (name in ("heads", "ffn_flops") and value == 0):
                begin = "above 0" if name in ("heads", "ffn_flops") else f"from {low:g}"
                raise ParameterError(f"{name} is {value!r}; it must be a number {begin} to {high:g}.", "Try 1.")
        if self.ffn not in FFN_RULES:
            raise ParameterError(f"ffn is {self.ffn!r}; it must be one of {', '.join(FFN_RULES)}.", "Pick one.")
        known = (Part.TOWER.value, Part.LANGUAGE_MODEL.value)
        if not self.parts or any(p not in known for p in self.parts) or len(set(self.parts)) < len(self.parts):
            raise ParameterError(f"parts are {list(self.parts)}; each of {list(known)} at most once.", "Pick one.")


@dataclass(frozen=True, slots=True, eq=False)
class MatrixPlan:
    """One feed-forward matrix: its shape with the rank it gets, and the spectrum that the rank came from.

    Attributes:
        shape: with `rank` None where the matrix stays whole.
        wanted: the rank that the rule asked for, also where it was not below break-even; None without a rule.
        spectrum: float32 `[n]` singular values as shares of their squares, descending; of the whitened matrix where
            the request says so. erank: effective rank, in directions.
        directions: float32 `[d_out, rank]`, only with whitening; without it they follow from the weights.
    """

    shape: MatrixShape
    wanted: int | None = None
    spectrum: np.ndarray | None = None
    erank: float | None = None
    directions: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name in ("spectrum", "directions"):
            object.__setattr__(self, name, _frozen(getattr(self, name), np.float32))
        s = self.shape
        if s.rank is not None and not 1 <= s.rank < s.break_even:
            raise PlanError(f"{s.name} has rank {s.rank}; it must be from 1 to below {s.break_even:.1f}.", ADVICE)
        if self.directions is not None and self.directions.shape != (s.d_out, s.rank):
            raise PlanError(f"{s.name} needs directions of shape {(s.d_out, s.rank)}.", ADVICE)


@dataclass(frozen=True, slots=True, eq=False)
class LayerPlan:
    """One layer: the heads that stay, ascending int32, and the scores behind it.

    Attributes:
        shape: of the whole layer, before anything is taken out.
        score, erank, ks, spectra, full, without: see `structural.base.HeadScores`; float32, None where not looked at.
        hidden: int32 hidden units of the feed-forward that stay (rule `bottleneck`), or None for all.
    """

    part: Part
    layer: int
    shape: LayerShape
    head_dim: int
    heads: np.ndarray
    matrices: tuple[MatrixPlan, ...]
    score: np.ndarray | None = None
    erank: np.ndarray | None = None
    ks: np.ndarray | None = None
    spectra: np.ndarray | None = None
    full: np.ndarray | None = None
    without: np.ndarray | None = None
    hidden: np.ndarray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", _frozen(self.heads, np.int32))
        object.__setattr__(self, "hidden", _frozen(self.hidden, np.int32))
        for name in _LAYER_ARRAYS:
            object.__setattr__(self, name, _frozen(getattr(self, name), np.float32))
        where = f"layer {self.layer} of the {self.part}"
        if not len(self.heads):
            raise PlanError(f"The plan leaves no head in {where}; every layer needs at least one.", "Keep more heads.")
        for what, kept, total in (("heads", self.heads, self.n_heads), ("hidden units", self.hidden, self._hidden)):
            if kept is None:
                continue
            if kept.ndim != 1 or not len(kept) or (np.diff(kept) <= 0).any() or kept[0] < 0 or kept[-1] >= total:
                raise PlanError(f"The {what} kept in {where} must be ascending, from 0 to {total - 1}.", ADVICE)
        for name in ("score", "erank", "ks"):
            if getattr(self, name) is not None and getattr(self, name).shape != (self.n_heads,):
                raise PlanError(f"{name} of {where} must have {self.n_heads} entries.", ADVICE)
        if self.hidden is not None and any(m.shape.rank is not None for m in self.matrices):
            raise PlanError(f"Hidden units and ranks cannot both be cut in {where}.", ADVICE)

    @property
    def n_heads(self) -> int:
        return self.shape.kv_dim // self.head_dim

    @property
    def _hidden(self) -> int:
        return self.shape.matrices[-1].d_in

    @property
    def compressed(self) -> LayerShape:
        """The layer's sizes after the plan."""
        kept = len(self.heads)
        matrices = tuple(m.shape for m in self.matrices)
        if self.hidden is not None:
            *first, last = matrices
            n = len(self.hidden)
            matrices = (*(replace(m, d_out=n) for m in first), replace(last, d_in=n))
        queries = self.shape.q_dim // self.n_heads
        return replace(self.shape, q_dim=kept * queries, kv_dim=kept * self.head_dim, matrices=matrices)


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """How trained gates came to be, at `steps` int32 `[points]`.

    Attributes:
        gates: float32 `[points, heads]`, all layers of the plan after each other, 0 .. 1.
        terms: float32 `[points]` by name: `loss` and its terms, `target` (planned share of heads out), `temperature`.
        recipe: everything that the training was started with.
    """

    steps: np.ndarray
    gates: np.ndarray
    terms: dict[str, np.ndarray]
    recipe: dict[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", _frozen(self.steps, np.int32))
        object.__setattr__(self, "gates", _frozen(self.gates, np.float32))
        object.__setattr__(self, "terms", {n: _frozen(v, np.float32) for n, v in self.terms.items()})
        if len(self.gates) != len(self.steps) or any(len(v) != len(self.steps) for v in self.terms.values()):
            raise PlanError("A training needs its gates and terms at every noted step.", ADVICE)


@dataclass(frozen=True, slots=True, eq=False)
class StructuralPlan:
    """What to take out of which layers of one model. Layers that are not named stay whole.

    Attributes:
        fingerprint: of the model's weights; the plan is refused anywhere else.
        title: of the score ("InfoPrune, static score"); notes: sentences a person should read.
    """

    fingerprint: str
    request: PlanRequest
    layers: tuple[LayerPlan, ...]
    title: str
    training: Trajectory | None = None
    notes: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        places = [(p.part, p.layer) for p in self.layers]
        if not places or len(set(places)) < len(places):
            raise PlanError("A plan must name at least one layer, and each once.", ADVICE)
        if self.training is not None and self.training.gates.shape[1] != sum(p.n_heads for p in self.layers):
            raise PlanError("The training's gates must be those of the plan's heads.", ADVICE)

    @property
    def digest(self) -> str:
        """sha256 of everything that changes the model: equal digests, equal answers."""
        found = hashlib.sha256(self.fingerprint.encode())
        for p in self.layers:
            hidden = [] if p.hidden is None else p.hidden.tolist()
            ranks = [m.shape.rank for m in p.matrices]
            found.update(json.dumps([p.part.value, p.layer, p.heads.tolist(), hidden, ranks]).encode())
            for m in p.matrices:
                found.update(b"" if m.directions is None else m.directions.tobytes())
        return found.hexdigest()

    @property
    def keeps_everything(self) -> bool:
        return all(p.compressed == p.shape for p in self.layers)

    def summary(self) -> StructureSummary:
        """What a run's record says of this plan."""
        heads, parameters = {}, {}
        for part in dict.fromkeys(p.part for p in self.layers):
            mine = [p for p in self.layers if p.part is part]
            heads[part] = (sum(len(p.heads) for p in mine), sum(p.n_heads for p in mine))
            parameters[part] = (sum(p.compressed.parameters for p in mine), sum(p.shape.parameters for p in mine))
        cut = sum(len(p.matrices) if p.hidden is not None else sum(m.shape.rank is not None for m in p.matrices)
                  for p in self.layers)  # fmt: skip
        n_matrices = sum(len(p.matrices) for p in self.layers)
        request = asdict(self.request) | {"parts": list(self.request.parts)}
        return StructureSummary(self.digest, self.title, heads, parameters, cut, n_matrices, request)

    # -- to disk and back -----------------------------------------------------------------------------------------

    def to_parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The plan as a JSON-ready dict and a dict of arrays."""
        arrays: dict[str, np.ndarray] = {}
        layers = []
        for i, p in enumerate(self.layers):
            for name in ("heads", "hidden", *_LAYER_ARRAYS):
                if getattr(p, name) is not None:
                    arrays[f"layer{i}.{name}"] = getattr(p, name)
            for j, m in enumerate(p.matrices):
                for name in ("spectrum", "directions"):
                    if getattr(m, name) is not None:
                        arrays[f"layer{i}.matrix{j}.{name}"] = getattr(m, name)
            matrices = [{"rank": m.shape.rank, "wanted": m.wanted, "erank": m.erank} for m in p.matrices]
            layers.append({"part": p.part.value, "layer": p.layer, "head_dim": p.head_dim, "shape": asdict(p.shape),
                           "matrices": matrices})  # fmt: skip
        data = {"kind": KIND, "schema_version": SCHEMA_VERSION, "fingerprint": self.fingerprint, "title": self.title,
                "request": asdict(self.request), "layers": layers, "notes": list(self.notes),
                "environment": self.environment}  # fmt: skip
        if self.training is not None:
            data["training"] = self.training.recipe
            arrays |= {"training.steps": self.training.steps, "training.gates": self.training.gates}
            arrays |= {f"training.terms.{n}": v for n, v in self.training.terms.items()}
        return data, arrays

    @classmethod
    def from_parts(cls, data: dict[str, Any], arrays: dict[str, np.ndarray]) -> StructuralPlan:
        """The inverse of `to_parts`.

        Raises:
            PlanError: if it is something else, inconsistent, or newer than this version.
        """
        if data.get("kind") != KIND:
            raise PlanError("The file is not a structural plan.", ADVICE)
        if data.get("schema_version") not in READABLE:
            version = data.get("schema_version")
            raise PlanError(
                f"The plan has format {version!r}; this version reads up to {SCHEMA_VERSION}.", "Make it again."
            )
        try:
            arrays = upgrade_plan(data, arrays)
            return cls(
                fingerprint=str(data["fingerprint"]),
                request=PlanRequest(**data["request"]),
                layers=tuple(_read_layer(i, one, arrays) for i, one in enumerate(data["layers"])),
                title=str(data["title"]),
                training=_read_training(data.get("training"), arrays),
                notes=tuple(data["notes"]),
                environment=dict(data["environment"]),
            )
        except _DAMAGE as error:
            raise PlanError(f"The plan is damaged: {error!r}.", "Make it again.") from error

    def to_bytes(self) -> bytes:
        """The plan's file. Equal plans make equal files.

        Raises:
            PlanError: if it would be larger than what `from_bytes` opens.
        """
        data, arrays = self.to_parts()
        size = sum(a.nbytes for a in arrays.values())
        if size > MAX_UNPACKED:
            advice = "Make it without --whitening, which stores directions of every matrix."
            raise PlanError(f"The plan takes {size / 2**20:.0f} MB; {MAX_UNPACKED // 2**20} MB are opened.", advice)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            write_parts(archive, NAME, data, arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, file: bytes) -> StructuralPlan:
        """Read a plan's file.

        Raises:
            PlanError: if it is not one, or is damaged.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(file)) as archive:
                if f"{NAME}.json" not in archive.namelist():
                    raise PlanError("The file holds no structural plan.", ADVICE)
                data, arrays = read_parts(archive, NAME)
        except (zipfile.BadZipFile, RecordFormatError, MemoryError, *_DAMAGE) as error:
            raise PlanError("The file is not a structural plan, or it is damaged.", ADVICE) from error
        return cls.from_parts(data, arrays)

    def save(self, path: Path) -> Path:
        """Write the plan's file, whole or not at all."""
        file = self.to_bytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f"{path.name}.tmp")
        fresh.write_bytes(file)
        return fresh.replace(path)

    @classmethod
    def load(cls, path: Path) -> StructuralPlan:
        """Read a plan's file; errors as `from_bytes`."""
        try:
            return cls.from_bytes(Path(path).read_bytes())
        except OSError as error:
            raise PlanError(f"{path} cannot be read ({error.strerror}).", ADVICE) from error


def _read_layer(index: int, data: dict[str, Any], arrays: dict[str, np.ndarray]) -> LayerPlan:
    shape = dict(data["shape"])
    full = tuple(MatrixShape(**m) for m in shape.pop("matrices"))
    matrices = tuple(
        MatrixPlan(
            replace(s, rank=m["rank"]),
            m["wanted"],
            arrays.get(f"layer{index}.matrix{j}.spectrum"),
            m["erank"],
            arrays.get(f"layer{index}.matrix{j}.directions"),
        )
        for j, (s, m) in enumerate(zip(full, data["matrices"], strict=True))
    )
    found = {name: arrays.get(f"layer{index}.{name}") for name in ("hidden", *_LAYER_ARRAYS)}
    return LayerPlan(
        Part(data["part"]), data["layer"], LayerShape(**shape, matrices=full), data["head_dim"],
        arrays[f"layer{index}.heads"], matrices, **found,
    )  # fmt: skip


def _read_training(recipe: dict[str, Any] | None, arrays: dict[str, np.ndarray]) -> Trajectory | None:
    if recipe is None:
        return None
    prefix = "training.terms."
    terms = {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}
    return Trajectory(arrays["training.steps"], arrays["training.gates"], terms, recipe)


@dataclass(frozen=True, slots=True)
class StructureSummary:
    """What a run's record says of the plan it ran under: enough to show it and to find the plan's file again.

    Attributes:
        digest: sha256 of everything in the plan that changes the model.
        heads: (kept, all) by part; parameters: (after, before) of the layers' matrices, by part.
        factorised: feed-forward matrices that became two thin ones, or whose hidden units were cut; of `matrices`.
        request: the plan's recipe.
    """

    digest: str
    title: str
    heads: dict[Part, tuple[int, int]]
    parameters: dict[Part, tuple[int, int]]
    factorised: int
    matrices: int
    request: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        by_part = {name: {p.value: two for p, two in getattr(self, name).items()} for name in ("heads", "parameters")}
        return asdict(self) | by_part  # plain names: not every writer of JSON takes the members of an enumeration

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> StructureSummary:
        """The inverse of `to_dict`.

        Raises:
            RecordFormatError: if a number or a name is missing or is none.
        """
        pairs: dict[str, dict[Part, Any]] = {}
        for name in ("heads", "parameters"):
            pairs[name] = {Part(part): tuple(two) for part, two in data[name].items()}
            for two in pairs[name].values():
                if len(two) != 2 or any(type(n) is not int or n < 0 for n in two):
                    raise RecordFormatError(f"A structure's {name} are {two!r}; two counts belong there.")
        digest, title = data["digest"], data["title"]
        if not isinstance(digest, str) or not isinstance(title, str) or not isinstance(data["request"], dict):
            raise RecordFormatError("A structure needs a digest, a title and its request.")
        return cls(digest, title, pairs["heads"], pairs["parameters"], int(data["factorised"]), int(data["matrices"]),
                   data["request"])  # fmt: skip
