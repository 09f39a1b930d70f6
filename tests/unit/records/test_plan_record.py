"""A plan is complete, consistent, and comes back from disk as it went there; and the commands that make one."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pruning.cli.parser import main
from pruning.demo_model.training.architecture import build_processor
from pruning.engine.plan import make_plan
from pruning.engine.run import run
from pruning.errors import ParameterError, PlanError, RecordFormatError
from pruning.inputs.questions import FolderPairs
from pruning.interface import Part
from pruning.records.archive import pack
from pruning.records.io import read_parts, write_parts
from pruning.records.plan import PlanRequest, StructuralPlan, StructureSummary
from pruning.records.run import RunRecord, RunRequest
from support.noise import Noise
from support.tiny_models import PATCH, SIDE, make_tiny_adapter, tiny_llava


@pytest.fixture(scope="module")
def plan() -> StructuralPlan:
    request = PlanRequest("tiny", heads=0.5, ffn="mass", tau=0.3, whitening=True, n_pairs=1)
    return make_plan(make_tiny_adapter(), request, Noise())


def test_round_trip(plan, tmp_path):
    again = StructuralPlan.load(plan.save(tmp_path / "deep" / "p.zip"))
    (data, arrays), (other, others) = plan.to_parts(), again.to_parts()
    assert json.loads(json.dumps(data)) == json.loads(json.dumps(other))
    assert arrays.keys() == others.keys()
    assert all(np.array_equal(arrays[k], others[k]) for k in arrays)
    assert again.digest == plan.digest
    assert again.to_bytes() == plan.to_bytes()
    assert again.layers[0].compressed == plan.layers[0].compressed
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_digest_tells_effects_apart_and_nothing_else(plan):
    fewer = replace(plan.layers[0], heads=plan.layers[0].heads[:1])
    assert len(plan.layers[0].heads) > 1 or len(plan.layers[1].heads) > 1
    thinner = replace(plan.layers[1], matrices=(plan.layers[1].matrices[0],) * 2)
    digests = {plan.digest}
    for layers in ((fewer, *plan.layers[1:]), (plan.layers[0], thinner, *plan.layers[2:])):
        digests.add(replace(plan, layers=layers).digest)
    digests.add(replace(plan, fingerprint="x").digest)
    assert len(digests) >= 3
    assert replace(plan, notes=("said",), title="other").digest == plan.digest


def test_a_plan_cannot_be_changed(plan):
    with pytest.raises(ValueError, match="read-only"):
        plan.layers[0].heads[0] = 5
    with pytest.raises(AttributeError):
        plan.title = "mine"


@pytest.mark.parametrize(
    ("heads", "sentence"),
    [([], "leaves no head in layer 0 of the vision tower"), ([1, 0], "ascending"), ([0, 9], "from 0 to 3"),
     ([-1, 0], "from 0 to 3")],
)  # fmt: skip
def test_impossible_heads_are_refused(plan, heads, sentence):
    with pytest.raises(PlanError, match=sentence):
        replace(plan.layers[0], heads=np.array(heads, dtype=np.int32))


def test_ranks_beyond_break_even_are_refused(plan):
    matrix = plan.layers[0].matrices[0]
    with pytest.raises(PlanError, match=r"below 21\.3"):
        replace(matrix, shape=replace(matrix.shape, rank=22), directions=None)
    with pytest.raises(PlanError, match="directions of shape"):
        replace(matrix, shape=replace(matrix.shape, rank=1 + matrix.shape.rank))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"heads": 0}, "above 0"),
        ({"heads": 1.5}, "above 0 to 1"),
        ({"heads": float("nan")}, "nan"),
        ({"ffn": "magic"}, "none, erank, mass, budget, bottleneck"),
        ({"tau": -0.1}, "from 0 to 1"),
        ({"erank_factor": 3}, "from 1 to 2"),
        ({"parts": ["projector"]}, "vision tower"),
        ({"parts": []}, "vision tower"),
    ],
)
def test_impossible_requests_are_refused(options, sentence):
    with pytest.raises(ParameterError, match=sentence):
        PlanRequest("tiny", **options)


def damaged(plan, **changes) -> bytes:
    """The plan's file with some of its JSON changed."""
    data, arrays = plan.to_parts()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        write_parts(archive, "plan", {k: v for k, v in (data | changes).items() if v is not None}, arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "run"}, "not a structural plan"),
        ({"schema_version": 99}, "format 99"),
        ({"layers": []}, "at least one layer"),
        ({"layers": None}, "damaged"),
        ({"layers": [3]}, "damaged"),
        ({"request": {"model": "x", "heads": "many"}}, "heads is 'many'"),
        ({"training": {}}, "damaged"),
        ({"notes": None}, "damaged"),
    ],
    ids=str,
)
def test_damaged_files_are_refused(plan, changes, sentence):
    with pytest.raises((PlanError, ParameterError), match=sentence):
        StructuralPlan.from_bytes(damaged(plan, **changes))


def test_foreign_files_are_refused(plan, tiny, noise, tmp_path):
    saved_run = pack({"run": run(RunRequest("tiny", "resprune", 1.0, "What?", max_new_tokens=1), tiny, noise)})
    file = plan.to_bytes()
    for content in (b"", b"PK\x03\x04 cut", b"nothing", saved_run, file[: len(file) // 2]):
        with pytest.raises(PlanError, match="structural plan"):
            StructuralPlan.from_bytes(content)
    with pytest.raises(PlanError, match="cannot be read"):
        StructuralPlan.load(tmp_path / "no.zip")


def test_a_bomb_is_not_unpacked(plan, monkeypatch):
    file = plan.to_bytes()
    monkeypatch.setattr("pruning.records.io.MAX_UNPACKED", 1000)
    with pytest.raises(PlanError):
        StructuralPlan.from_bytes(file)
    monkeypatch.setattr("pruning.records.plan.MAX_UNPACKED", 1000)
    with pytest.raises(PlanError, match="without --whitening"):
        plan.to_bytes()
    with zipfile.ZipFile(io.BytesIO(file)) as archive, pytest.raises(RecordFormatError, match="unpacks to more"):
        read_parts(archive, "plan")


@pytest.mark.parametrize("change", [{"heads": {"vision tower": [1]}}, {"heads": {"nose": [1, 2]}}, {"digest": 3}])
def test_a_damaged_summary_is_refused(plan, change):
    data = json.loads(json.dumps(plan.summary().to_dict()))
    assert StructureSummary.from_dict(data) == StructureSummary.from_dict(plan.summary().to_dict())
    with pytest.raises((RecordFormatError, ValueError)):
        StructureSummary.from_dict(data | change)


# -- pictures of one's own, and the commands ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("plans")
    tiny_llava().save_pretrained(where / "small")
    build_processor(SIDE, PATCH).save_pretrained(where / "small")
    (where / "data").mkdir()
    for name in ("a.png", "b.png"):
        pixels = np.random.default_rng(len(name)).integers(0, 255, (60, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(where / "data" / name)
    questions = {"a.png": ["What color is the star?", "How many?"], "b.png": ["What is it?"]}
    (where / "data" / "questions.json").write_text(json.dumps(questions))
    return where


def arguments(folder, command, *more):
    return [command, "--model", str(folder / "small"), "--data", str(folder / "data"), "--pairs", "2", *more]


def test_pairs_of_a_folder_begin_again_after_the_last(folder):
    pairs = FolderPairs(folder / "data")
    asked = ["What color is the star?", "How many?", "What is it?"]
    assert [pairs[i].question for i in range(4)] == [*asked, asked[0]]
    assert pairs[2].picture.shape == (60, 90, 3)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"a.png": [3]}', '{"a.png": 3}', '{"a.png": [""]}'])
def test_a_folder_without_questions_is_refused(tmp_path, content):
    (tmp_path / "questions.json").write_text(content)
    with pytest.raises(Exception, match=r"question") as error:
        FolderPairs(tmp_path)
    assert "Error" in type(error.value).__name__


@pytest.mark.parametrize("score", ["infoprune", "magnitude", "random"])
def test_plan_and_run_under_it(folder, tmp_path, capsys, score):
    out = tmp_path / "p.zip"
    parts = ("--parts", "both", "--ffn", "mass", "--tau", "0.3")
    assert main(arguments(folder, "plan", "--score", score, "--heads", "0.6", *parts, "--out", str(out))) == 0
    printed = capsys.readouterr().out
    plan = StructuralPlan.load(out)
    assert plan.digest[:12] in printed
    assert plan.request.score == score
    picture = str(folder / "data" / "a.png")
    asked = ["run", picture, "What color is the star?", "--model", str(folder / "small"), "--max-new-tokens", "3"]
    assert main([*asked, "--method", "fastv", "--plan", str(out), "--out", str(tmp_path / "r")]) == 0
    printed = capsys.readouterr().out
    assert plan.digest[:12] in printed
    assert "heads in the vision tower" in printed
    record = RunRecord.load(tmp_path / "r")
    assert record.structure.digest == record.request.structure == plan.digest
    assert record.structure.heads == plan.summary().heads
    assert record.steps


def test_train_heads_writes_a_plan_and_goes_on(folder, tmp_path, capsys):
    out, work = tmp_path / "t.zip", tmp_path / "work"
    command = arguments(folder, "train-heads", "--steps", "3", "--sparsity", "0.4", "--pool", "2", "--out", str(out))
    assert main([*command, "--work", str(work), "--ffn", "erank"]) == 0
    plan = StructuralPlan.load(out)
    assert plan.training.steps.tolist() == [0, 1, 2]
    assert plan.request.score == "trained"
    assert "ended 100% open" in plan.notes[-1]  # three steps close no gate, and the plan says so
    assert plan.summary().heads[Part.TOWER] == (7, 12)
    assert (work / "t.pt").exists()
    assert main([*command, "--work", str(work), "--ffn", "erank"]) == 0
    assert StructuralPlan.load(out).digest == plan.digest
    assert main([*command[:-4], "--pool", "3", "--out", str(out), "--work", str(work)]) == 2
    assert "other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (["--heads", "0"], "above 0 to 1"),
        (["--heads", "0.5", "--score", "magic"], "Known scores"),
        (["--heads", "0.5", "--set", "a=7"], "allows 0 to 1"),
        (["--heads", "0.5", "--pairs", "0"], "none were given"),
        (["--model", "nowhere"], "neither a folder nor a hub id"),
        (["--data", "nowhere"], "cannot be read as pictures with questions"),
        (["--out", "/proc/nowhere/p.zip"], "cannot be written"),
    ],
)
def test_bad_input_is_a_sentence_and_exit_code_2(folder, tmp_path, capsys, more, sentence):
    assert main(arguments(folder, "plan", "--out", str(tmp_path / "p.zip"), *more)) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert "Traceback" not in printed.err


def test_a_plan_for_another_model_or_none_at_all(folder, tmp_path, plan, capsys):
    plan_for_other = replace(plan, fingerprint="other")
    plan_for_other.save(tmp_path / "p.zip")
    picture = str(folder / "data" / "a.png")
    asked = ["run", picture, "What is it?", "--model", str(folder / "small"), "--plan"]
    assert main([*asked, str(tmp_path / "p.zip")]) == 2
    assert "made for other weights" in capsys.readouterr().err
    assert main([*asked, picture]) == 2
    assert "not a structural plan" in capsys.readouterr().err
    assert main(["plan", "--model", str(folder / "small"), "--heads", "0.5", "--out", str(tmp_path / "q.zip")]) == 2
    assert "does not live in the drawn world" in capsys.readouterr().err


def test_the_bench_judges_plans_and_goes_on(folder, tmp_path, monkeypatch):
    from pruning.demo_model.evaluation import structural as structural_bench
    from pruning.demo_model.evaluation.structural import DENSE, StructuralBench, table

    parts = (Part.TOWER.value,)
    few = {"tower: random 0.5": PlanRequest("x", score="random", heads=0.5, parts=parts),
           "tower: mass": PlanRequest("x", ffn="mass", tau=0.3, parts=parts)}  # fmt: skip
    assert len(structural_bench.requests("demo", [parts], 4)) > 40
    monkeypatch.setattr(structural_bench, "requests", lambda *_: few)

    def bench(n_scenes=2):
        return StructuralBench(str(folder / "small"), tmp_path / "f.json", n_scenes, 1, [parts], {}, 1)

    results = bench().run()
    assert set(results["plans"]) == {DENSE, *few}
    dense, cut = results["plans"][DENSE], results["plans"]["tower: random 0.5"]
    assert cut["estimated_flops"]["tower"] < dense["estimated_flops"]["tower"]
    assert cut["estimated_flops"]["prefill"] == dense["estimated_flops"]["prefill"]
    assert dense["accuracy"]["n"] == 2
    assert "1.00x" in table(results)
    again = json.loads((tmp_path / "f.json").read_text())
    del again["plans"]["tower: mass"]
    again["plans"][DENSE]["accuracy"]["value"] = 0.123
    (tmp_path / "f.json").write_text(json.dumps(again))
    results = bench().run()
    assert results["plans"][DENSE]["accuracy"]["value"] == 0.123  # what is there is not judged again
    assert "tower: mass" in results["plans"]
    with pytest.raises(ParameterError, match="other scenes or weights"):
        bench(3)


def test_training_and_judging_scenes_are_never_the_same():
    from pruning.demo_model.pairs import DrawnPairs, judged

    learnt = [DrawnPairs()[i] for i in range(6)]
    asked = [judged(i)[0] for i in range(6)]
    assert not any(np.array_equal(a.picture, b.picture) for a in learnt for b in asked)
    assert all(p.question and p.answer for p in learnt + asked)
    assert np.array_equal(DrawnPairs()[3].picture, learnt[3].picture)
