"""How captioner and selector learn: what they are taught, that nothing else moves, and that a stopped run goes on."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

from pruning.benchmarks.reports import accm_table
from pruning.cli.parser import main
from pruning.compensation.checkpoint import load as load_parts
from pruning.demo_model.accm import evaluate as accm_evaluate
from pruning.demo_model.accm.evaluate import BUDGETS, PRUNERS, CaptionJudge, Found, summary
from pruning.demo_model.accm.lessons import DrawnLessons, FolderLessons
from pruning.demo_model.accm.train import AccmRecipe, train_accm
from pruning.demo_model.accm.warmup import BRIEF_KINDS, LIST_KINDS, QUESTIONS, _Batches
from pruning.demo_model.evaluation.judge import phrases
from pruning.demo_model.training import optim as optimise
from pruning.demo_model.training.language import FeatureCache, owner_of
from pruning.demo_model.world.captions import MAX_PHRASES, N_PATCHES, caption_of, draw_discarded, objects_in
from pruning.demo_model.world.questions import KINDS, ask, phrase
from pruning.demo_model.world.scene import draw, sample_scene, scene_rng
from pruning.errors import ParameterError
from pruning.models import load
from support.paths import ROOT
from support.tiny_models import make_tiny_adapter

SMALL = AccmRecipe(warm_steps=4, warm_batch=2, scenes=12, check_scenes=1, steps=2, lessons=1)


@pytest.fixture(scope="module")
def demo():
    return load("demo", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def cache(demo, tmp_path_factory) -> FeatureCache:
    found = FeatureCache(tmp_path_factory.mktemp("features"), SMALL.scenes)
    found.folder = found._progress.parent
    found.fill(demo.model.model.vision_tower, torch.device("cpu"))
    return found


def drawn(number):
    rng = scene_rng("evaluate", 70_000 + number)
    scene = sample_scene(rng)
    _, ids = draw(scene, 192)
    return scene, owner_of(ids, len(scene.objects)), rng


# -- what is taught ---------------------------------------------------------------------------------------------------


def test_discarded_sets_come_in_all_sizes_and_never_empty():
    sizes, whole_objects = [], 0
    for number in range(30):
        scene, owner, rng = drawn(number)
        for _ in range(8):
            discarded = draw_discarded(owner, rng)
            assert discarded.shape == (N_PATCHES,)
            assert 0 < discarded.sum() < N_PATCHES
            sizes.append(int(N_PATCHES - discarded.sum()))
            shares = [discarded[owner == i + 1].mean() for i in range(len(scene.objects))]
            whole_objects += 0.0 in shares and 1.0 in shares
    assert min(sizes) < 20
    assert max(sizes) > 300
    assert np.mean([s <= 72 for s in sizes]) > 0.5
    assert whole_objects > 10, "some objects vanish while others stay whole"


@pytest.mark.parametrize("kind", KINDS)
def test_a_caption_tells_the_truth_about_discarded_evidence_only(kind):
    said = 0
    for number in range(30):
        scene, owner, rng = drawn(number)
        question = ask(scene, kind, rng)
        if question is None:
            continue
        gone = objects_in(owner, draw_discarded(owner, rng))
        caption = caption_of(scene, question, gone)
        told = phrases(caption)
        true = {phrase(scene.objects[i]) for i in gone & set(question.evidence)}
        assert set(told) <= true
        assert sum(told.values()) <= MAX_PHRASES
        if kind not in ("exists", "count") and len(gone & set(question.evidence)) <= MAX_PHRASES:
            assert set(told) == true
        assert caption_of(scene, question, set()) == ""
        said += bool(caption)
    assert said > 5


def test_too_long_a_list_stays_unsaid():
    scene = next(s for s, *_ in map(drawn, range(60)) if len(s.objects) > MAX_PHRASES)
    question = ask(scene, "count_all", np.random.default_rng(0))
    assert caption_of(scene, question, set(range(len(scene.objects)))) == ""


def test_batches_follow_from_their_number_alone(demo, cache):
    steps = 40
    for number, kinds in ((0, LIST_KINDS), (1, BRIEF_KINDS), (39, BRIEF_KINDS)):
        one = _Batches(demo.tokenizer, cache, steps, 3, 0)[number]
        other = _Batches(demo.tokenizer, cache, steps, 3, number)[0]
        assert torch.equal(one.features, other.features)
        assert torch.equal(one.question, other.question)
        assert torch.equal(one.target, other.target)
        assert len(one.question) == 3 * QUESTIONS[kinds]
        assert one.target.shape[1] == one.caption.shape[1] + 1
        ends = (one.target == demo.tokenizer.eos_token_id).sum(1)
        assert bool((ends == 1).all())


# -- the frozen model teaches -----------------------------------------------------------------------------------------


def test_a_drawn_lesson_agrees_with_the_engine(demo, cache):
    """One packed pass says what the adapter's own generation and teacher forcing say, question by question."""
    lesson = DrawnLessons(demo, cache, n_questions=3)(5)
    captions = [["a large red circle at the top", ""] for _ in lesson.questions]
    divergence = lesson.divergences(captions)
    assert divergence.shape == (3, 2)
    from pruning.compensation.base import inserted_text
    from pruning.compensation.objective import kl_to_full
    from pruning.demo_model.accm.lessons import LONGEST_ANSWER, _Arrived
    from pruning.models.base import RunCallbacks, VisualTokens

    features = lesson._all
    with torch.no_grad():
        rows = demo.model.model.multi_modal_projector(features[None])[0]
    kept = torch.from_numpy(lesson.kept)
    picture = np.zeros((192, 192, 3), np.uint8)
    for row, question in enumerate(lesson.questions):
        prompt = demo.prompt(picture, question)
        full = VisualTokens(rows, torch.arange(N_PATCHES))
        ids = demo.answer(prompt, full, None, LONGEST_ANSWER + 1, RunCallbacks()).token_ids
        assert demo.tokenizer.decode(ids, skip_special_tokens=True).strip() == lesson.asked[row].question.answer
        full = demo.score(prompt, full, None, ids)
        for column, caption in enumerate(captions[row]):
            compensated = demo.insert(prompt, inserted_text(caption))
            said = demo.score(compensated, VisualTokens(rows[kept], kept), _Arrived(), ids)
            assert float(kl_to_full(full, said)) == pytest.approx(float(divergence[row, column]), abs=1e-4)


def weights(module) -> str:
    return hashlib.sha256(b"".join(v.detach().numpy().tobytes() for v in module.state_dict().values())).hexdigest()


@pytest.mark.parametrize("objective", ["dpo", "bestof"])
def test_training_moves_captioner_and_selector_and_nothing_else(demo, cache, tmp_path, objective):
    from dataclasses import replace

    before = weights(demo.model)
    recipe = replace(SMALL, objective=objective)
    train_accm(demo, tmp_path / "w", tmp_path / "warm", replace(recipe, steps=0), cache.folder)
    train_accm(demo, tmp_path / "w", tmp_path / "out", recipe, cache.folder)
    assert weights(demo.model) == before
    assert all(p.grad is None for p in demo.model.parameters())
    warm, done = load_parts(tmp_path / "warm"), load_parts(tmp_path / "out")
    assert warm.selector is None
    assert weights(warm.captioner.mapper) == weights(done.captioner.mapper), "the mapper is frozen in the second stage"
    assert weights(warm.captioner) != weights(done.captioner)
    assert bool(done.selector.head.weight.any()), "an untrained head is all zeros"
    assert done.facts["stages"] == ["captions", f"tune-{objective}"]
    curves = json.loads((tmp_path / "out" / "curves.json").read_text())
    assert {"kl_without", "kl_chosen", "selector_is_best", "weight"} <= set(curves[-1])
    card = (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["sha256"] in card
    assert sum(f.stat().st_size for f in (tmp_path / "out").iterdir()) < 15e6
    with pytest.raises(ParameterError, match="warm_batch"):
        train_accm(demo, tmp_path / "w", tmp_path / "out", replace(recipe, warm_batch=3), cache.folder)


@pytest.mark.parametrize(("phase", "stop_at"), [("captions", 2), ("tune-dpo", 1)])
def test_a_stopped_training_goes_on_exactly(demo, cache, tmp_path, monkeypatch, phase, stop_at):
    full = train_accm(demo, tmp_path / "a", tmp_path / "a_out", SMALL, cache.folder)
    original = optimise.Trainer.step

    def step(self, loss, number):
        original(self, loss, number)
        if self.phase == phase and number + 1 == stop_at:
            self._save(number + 1)
            raise KeyboardInterrupt

    monkeypatch.setattr(optimise.Trainer, "step", step)
    with pytest.raises(KeyboardInterrupt):
        train_accm(demo, tmp_path / "b", tmp_path / "b_out", SMALL, cache.folder)
    monkeypatch.undo()
    resumed = train_accm(demo, tmp_path / "b", tmp_path / "b_out", SMALL, cache.folder)
    assert weights(full.captioner) == weights(resumed.captioner)
    assert weights(full.selector) == weights(resumed.selector)


# -- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("tiny") / "model"
    adapter = make_tiny_adapter()
    adapter.model.save_pretrained(where)
    adapter.processor.save_pretrained(where)
    data = where.parent / "data"
    data.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 255, (50, 70, 3), dtype=np.uint8)).save(data / name)
    asked = [{"image": "a.png", "question": "What is this?"}, {"image": "b.png", "question": "How many stars?"}]
    (data / "questions.json").write_text(json.dumps(asked))
    return where


def test_any_model_can_be_taught_from_a_folder_and_then_used(tiny_folder, tmp_path, capsys):
    data, out = tiny_folder.parent / "data", tmp_path / "accm"
    taught = ["train-accm", "--model", str(tiny_folder), "--work", str(tmp_path / "w"), "--out", str(out)]
    assert main([*taught, "--data", str(data), "--steps", "2", "--lessons", "1", "--objective", "bestof"]) == 0
    assert load_parts(out).facts["stages"] == ["tune-bestof"]
    capsys.readouterr()
    ran = ["run", str(data / "a.png"), "What is this?", "--model", str(tiny_folder), "--max-new-tokens", "2"]
    ran += ["--compensation", "accm", "--captioner", str(out), "--measure-kl", "--keep-ratio", "0.3"]
    assert main([*ran, "--out", str(tmp_path / "r")]) == 0
    printed = capsys.readouterr().out
    assert "caption 3" in printed
    assert "no caption: KL" in printed
    assert "visual tokens (estimated)" in printed
    assert main(["run", str(ROOT / "assets/examples/digit.jpg"), "What?", "--compensation", "accm",
                 "--captioner", str(out)]) == 2  # fmt: skip
    assert "captioner" in capsys.readouterr().err


def test_words_by_hand_on_the_command_line(tiny_folder, capsys):
    ran = ["run", str(tiny_folder.parent / "data" / "a.png"), "What is this?", "--model", str(tiny_folder)]
    assert main([*ran, "--max-new-tokens", "2", "--caption", "a red star"]) == 0
    assert "Written by hand (7 caption tokens)" in capsys.readouterr().out
    assert main([*ran, "--caption", "star " * 600]) == 2
    assert "characters" in capsys.readouterr().err
    assert main([*ran, "--caption", "a " * 900]) == 2
    assert "Shorten the caption" in capsys.readouterr().err
    assert main([*ran, "--compensation", "nothing"]) == 2
    assert "accm_untrained" in capsys.readouterr().err


@pytest.mark.parametrize("listed", [None, "[]", "{}", '[{"image": "a.png"}]', "nothing"])
def test_a_data_folder_says_what_it_lacks(tmp_path, listed):
    if listed is not None:
        (tmp_path / "questions.json").write_text(listed)
    with pytest.raises(ParameterError, match=r"questions\.json"):
        FolderLessons(None, tmp_path)


def test_an_unknown_objective_is_refused():
    with pytest.raises(ParameterError, match="bestof"):
        AccmRecipe(objective="ppo")


# -- the evaluation ---------------------------------------------------------------------------------------------------


def test_one_scene_is_judged_under_every_pruner(demo, cache, tmp_path):
    train_accm(demo, tmp_path / "w", tmp_path / "out", SMALL, cache.folder)
    kind, _, found = CaptionJudge("demo", str(tmp_path / "out"))(3)
    assert kind in KINDS
    assert set(found) == {f"{m}@{k}" for m in PRUNERS for k in BUDGETS}
    for name, one in found.items():
        if one is not None:
            assert len(one.candidates) == 3
            assert one.worth > one.tokens > 0
            assert one.equal_budget > int(name.split("@")[1])


def test_figures_are_what_the_outcomes_say(monkeypatch):
    monkeypatch.setattr(accm_evaluate, "PRUNERS", ("random_baseline",))
    monkeypatch.setattr(accm_evaluate, "BUDGETS", (36,))
    parts = {"empty": False, "truth": True, "equal_budget": 60, "tokens": 9, "worth": 23.5,
             "captioner_flops": 1.0, "selector_flops": 2.0}  # fmt: skip
    rows = [
        Found(without=True, candidates=(False, True, True), chosen=0, equal_cost=True, **parts),
        Found(without=False, candidates=(True, True, False), chosen=1, equal_cost=False, **parts),
        Found(without=False, candidates=(False, True, False), chosen=1, equal_cost=True, **parts),
        Found(without=True, candidates=(True, True, False), chosen=2, equal_cost=True, **parts),
    ]
    from dataclasses import asdict

    scenes = [("color", {"random_baseline@36": asdict(r)}) for r in rows]
    row = summary(scenes)["curve"]["random_baseline@36"]
    assert row["without"]["value"] == 0.5
    assert row["compensated"]["value"] == 0.5
    assert row["equal_cost"]["value"] == 0.75
    assert row["best_fixed"]["value"] == 1.0
    assert row["gain_over_best_fixed"]["value"] == -0.5
    assert row["best_of_three"]["value"] == 1.0
    assert row["right_made_wrong"]["value"] == 0.5
    assert row["wrong_made_right"]["value"] == 0.5
    assert row["worth_visual_tokens"] == 23.5
    text = accm_table({"curve": {"random_baseline@36": row}, "full": {"value": 0.9}})
    assert "50.0" in text
    assert "24 tokens" in text
