"""Write the page's examples (six drawn scenes, each for one idea, with correct answers) and their recorded runs.

Called by `python -m pruning.demo_model examples` and `record`; the page reads the files, never this module.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pruning.demo_model.world.questions import NUMBERS, describe
from pruning.demo_model.world.scene import Scene, draw, sample_scene, scene_rng
from pruning.engine.compensate import open_compensator
from pruning.engine.plan import make_plan
from pruning.engine.run import FULL_ANSWER, LOOK, answer_in_full, encode_image, run
from pruning.engine.session import Compressed, RunContext
from pruning.errors import BudgetError, PrunerUntrainedError
from pruning.inputs.images import read_image
from pruning.inputs.questions import Pair
from pruning.interface import Part
from pruning.methods import METHODS
from pruning.metrics.agreement import random_band
from pruning.models.base import RunCallbacks, VLMAdapter
from pruning.records.archive import names_in, pack, update
from pruning.records.compensation import Compensation
from pruning.records.plan import PlanRequest, StructuralPlan
from pruning.records.run import RunRecord, RunRequest

RECORDED_COUNTS = (18, 36, 64, 128, 192, 576)
RANDOM_SEEDS = 20
MAX_NEW_TOKENS = 96
MORE = {"tiny": "words", "redundancy": "plan"}  # example: the run recorded in addition to those of the methods
MORE_SHARE = 1 / 16
SIDE = 768  # four times the model's input size, to be sharp on a screen


@dataclass(frozen=True, slots=True)
class ExampleQuestion:
    """A question about the objects with the attributes `about`; its answer is computed from the scene."""

    text: str
    kind: str
    about: dict[str, str]


@dataclass(frozen=True, slots=True)
class ExampleScene:
    """One scene of the `examples` split and its questions; the first one is recorded and opens the example."""

    key: str
    scene: int
    title: str
    idea: str
    questions: tuple[ExampleQuestion, ...]


EXAMPLES = (
    ExampleScene(
        "redundancy", 20, "Redundancy",
        "Three things on a plain ground: most visual tokens can go and the answer stays.",
        (
            ExampleQuestion("What color is the cross?", "color", {"shape": "cross"}),
            ExampleQuestion("Where is the ring?", "where", {"shape": "ring"}),
            ExampleQuestion("How many yellow objects are there?", "count", {"color": "yellow"}),
        ),
    ),
    ExampleScene(
        "digit", 15, "Reading",
        "A digit lives in a few visual tokens. Lose one of them and it reads as another digit.",
        (
            ExampleQuestion("What digit is on the black heart?", "digit", {"color": "black", "shape": "heart"}),
            ExampleQuestion("What color is the ring?", "color", {"shape": "ring"}),
            ExampleQuestion("Where is the circle?", "where", {"shape": "circle"}),
        ),
    ),
    ExampleScene(
        "counting", 9, "Counting",
        "Counting needs every one of the things counted, so evidence is spread wide.",
        (
            ExampleQuestion("How many green crosses are there?", "count", {"color": "green", "shape": "cross"}),
            ExampleQuestion("How many objects are there?", "count", {}),
            ExampleQuestion("How many triangles are there?", "count", {"shape": "triangle"}),
        ),
    ),
    ExampleScene(
        "question", 27, "Questions",
        "Two questions, one picture. A pruner that never reads the question keeps the same visual tokens for both.",
        (
            ExampleQuestion("Where is the ring?", "where", {"shape": "ring"}),
            ExampleQuestion("What color is the square?", "color", {"shape": "square"}),
            ExampleQuestion("Is there a red star?", "exists", {"color": "red", "shape": "star"}),
        ),
    ),
    ExampleScene(
        "clutter", 4, "Clutter",
        "A busy ground looks important to some pruners and costs them visual tokens.",
        (
            ExampleQuestion("What color is the circle?", "color", {"shape": "circle"}),
            ExampleQuestion("How many red objects are there?", "count", {"color": "red"}),
            ExampleQuestion("Describe the picture.", "describe", {}),
        ),
    ),
    ExampleScene(
        "tiny", 19, "Failing",
        "Tiny things own very few visual tokens: here pruning goes wrong first.",
        (
            ExampleQuestion("Where is the tiny triangle?", "where", {"size": "tiny", "shape": "triangle"}),
            ExampleQuestion("How many stars are there?", "count", {"shape": "star"}),
            ExampleQuestion("Describe the picture.", "describe", {}),
        ),
    ),
)  # fmt: skip


def write_examples(folder: Path) -> None:
    """Write pictures, object maps and `examples.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for example in EXAMPLES:
        scene = sample_scene(scene_rng("examples", example.scene))
        picture, ids = draw(scene, SIDE)
        bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{example.key}.jpg"), bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])
        cv2.imwrite(str(folder / f"{example.key}.objects.png"), ids)
        questions = [_known(scene, question) for question in example.questions]
        alt = f"Drawn scene: {describe(scene.objects)}"
        entries.append(
            {"key": example.key, "title": example.title, "idea": example.idea, "alt": alt, "questions": questions}
        )
    (folder / "examples.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


def record_more(adapter: VLMAdapter, folder: Path, out: Path, captioner: Path, gates: Path) -> None:
    """Record one run compensated with a caption and one with a structural plan, each into `<example>.more.zip`; print a
    line where the captioner is missing.

    Args:
        captioner: folder of a trained captioner. gates: file of a trained plan; without it a static one is made.
    """
    known = {e["key"]: e for e in json.loads((folder / "examples.json").read_text(encoding="utf-8"))}
    out.mkdir(parents=True, exist_ok=True)
    for key, name in MORE.items():
        first = known[key]["questions"][0]
        question = _open_example(adapter, folder, key, first)
        if name == "words":
            if not captioner.is_dir():
                print(f"{key}: no run with words: there is no captioner at {captioner}; train-accm writes one.")
                continue
            record = question.run(
                "resprune", question.share(MORE_SHARE), compensation=Compensation("accm", measure_kl=True),
                compensator=open_compensator("accm", adapter, captioner),
            )  # fmt: skip
        else:
            plan = StructuralPlan.load(gates) if gates.exists() else _static_plan(adapter, folder, known)
            view = adapter.compressed(plan)
            try:
                record = question.run("resprune", question.share(MORE_SHARE), compressed=Compressed(plan, view))
            finally:
                view.close()
        (out / f"{key}.more.zip").write_bytes(pack({name: record}))


class _FirstQuestions:
    """Pairs of every example and its first question, as calibration data."""

    title = "the example pictures"

    def __init__(self, folder: Path, known: dict[str, dict]) -> None:
        self._folder, self._known = folder, list(known.values())

    def __getitem__(self, number: int) -> Pair:
        example = self._known[number % len(self._known)]
        first = example["questions"][0]
        return Pair(read_image(self._folder / f"{example['key']}.jpg"), first["text"], first["answer"])


def _static_plan(adapter: VLMAdapter, folder: Path, known: dict[str, dict]) -> StructuralPlan:
    parts = (Part.TOWER.value, Part.LANGUAGE_MODEL.value)
    request = PlanRequest("demo", heads=0.7, ffn="mass", parts=parts, n_pairs=len(known))
    return make_plan(adapter, request, _FirstQuestions(folder, known))


def record_examples(adapter: VLMAdapter, folder: Path, out: Path, methods: Collection[str] = tuple(METHODS)) -> None:
    """Record the runs that the page shows before anything is computed: the first question of every example with every
    method and count, and random pruning with several seeds.

    Args:
        methods: keys to record. Runs of other methods that the archives in `out` already hold stay as they are.
    """
    known = {e["key"]: e for e in json.loads((folder / "examples.json").read_text(encoding="utf-8"))}
    out.mkdir(parents=True, exist_ok=True)
    for example in EXAMPLES:
        question = _open_example(adapter, folder, example.key, known[example.key]["questions"][0])
        records = {}
        for method in methods:
            for count in RECORDED_COUNTS:
                try:
                    records[f"{method}-{count}"] = question.run(method, count)
                except (BudgetError, PrunerUntrainedError) as error:
                    print(f"{example.key}: {error}")
        _store(out / f"{example.key}.zip", records, methods)
        if "random_baseline" not in methods:
            continue
        band = {str(count): question.random_band(count) for count in RECORDED_COUNTS}
        (out / f"{example.key}.random.json").write_text(json.dumps(band, indent=1) + "\n", encoding="utf-8")


def _store(path: Path, records: dict[str, RunRecord], methods: Collection[str]) -> None:
    """Put the records of `methods` into an archive, ordered as the table of methods, and leave all others there."""
    there = names_in(path) if path.exists() else []
    left = {name for name in there if name.rsplit("-", 1)[0] not in methods}
    in_order = [f"{method}-{count}" for method in METHODS for count in RECORDED_COUNTS]
    names = [name for name in in_order if name in records or name in left]
    if there:
        update(path, records, names)
    else:
        path.write_bytes(pack({name: records[name] for name in names}))


def _open_example(adapter: VLMAdapter, folder: Path, key: str, question: dict) -> _Asking:
    picture = read_image(folder / f"{key}.jpg")
    ids = cv2.imread(str(folder / f"{key}.objects.png"), cv2.IMREAD_GRAYSCALE)
    layout = adapter.layout((picture.shape[1], picture.shape[0]))
    answer_region = layout.tokens_of(np.isin(ids, [i + 1 for i in question["evidence"]]))
    return _Asking(adapter, picture, question["text"], answer_region)


class _Asking:
    """Runs of one question about one picture; the vision tower runs once for all of them."""

    def __init__(self, adapter: VLMAdapter, picture: np.ndarray, question: str, answer_region: np.ndarray) -> None:
        self.adapter, self.picture, self.question, self.answer_region = adapter, picture, question, answer_region
        self.callbacks = RunCallbacks(trace=True)
        prompt = adapter.prompt(picture, question)
        encode_image(adapter, prompt)  # the first pass of a process is slow, so its time is not recorded
        self.encoded, self.encode_ms = encode_image(adapter, prompt)
        answer_in_full(adapter, prompt, self.encoded, self.encode_ms, MAX_NEW_TOKENS, self.callbacks)
        self.baseline = answer_in_full(adapter, prompt, self.encoded, self.encode_ms, MAX_NEW_TOKENS, self.callbacks)

    @property
    def n_tokens(self) -> int:
        return self.adapter.layout(self.picture.shape[1::-1]).n_tokens

    def share(self, share: float) -> int:
        return max(1, round(share * self.n_tokens))

    def run(
        self, method: str, count: int, seed: int = 0, compensation: Compensation | None = None, **acting: Any
    ) -> RunRecord:
        request = RunRequest(
            "demo", method, count / self.n_tokens, self.question, seed=seed, max_new_tokens=MAX_NEW_TOKENS,
            compensation=compensation,
        )  # fmt: skip
        return run(
            request, self.adapter, self.picture,
            RunContext(
                self.callbacks, self.encoded, self.encode_ms, self.baseline, self.answer_region, (LOOK, FULL_ANSWER)
            ),
            **acting,
        )  # fmt: skip

    def random_band(self, count: int) -> dict[str, object]:
        return random_band([self.run("random_baseline", count, seed) for seed in range(RANDOM_SEEDS)])


def _known(scene: Scene, question: ExampleQuestion) -> dict[str, object]:
    found = [i for i, o in enumerate(scene.objects) if all(getattr(o, k) == v for k, v in question.about.items())]
    first = scene.objects[found[0]]
    answers: dict[str, Callable[[], str]] = {
        "color": lambda: first.color,
        "where": lambda: first.zone,
        "digit": lambda: str(first.digit),
        "count": lambda: NUMBERS[len(found)],
        "exists": lambda: "yes" if found else "no",
        "describe": lambda: describe(scene.objects),
    }
    if question.kind in ("color", "where", "digit") and len(found) != 1:
        raise ValueError(f"{question.text!r} fits {len(found)} objects")
    return {"text": question.text, "kind": question.kind, "answer": answers[question.kind](), "evidence": found}
