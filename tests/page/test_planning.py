"""The handlers of the Weight pruning tab, without a browser."""

from __future__ import annotations

import base64
import json
import math
from types import SimpleNamespace

import gradio as gr
import pytest

from app.handlers.explore import Handlers
from app.handlers.requests import PlanForm, RunForm
from app.handlers.structure import Planning
from app.media.examples import read_examples
from app.serving import service as service_module
from app.serving.caches import BoundedCache
from app.serving.service import Service
from app.session import SessionState, Visitor
from app.settings import Settings
from pruning.engine.plan import make_plan
from pruning.records.plan import PlanRequest, StructuralPlan
from support.tiny_models import make_tiny_adapter

EXAMPLES = read_examples()
ME, YOU = Visitor("me"), Visitor("you")


@pytest.fixture
def planning(tiny, tmp_path) -> Planning:
    service = Service(Settings(max_new_tokens=3), load=lambda name, **kwargs: tiny)
    handlers = Handlers(service, EXAMPLES, 36, tmp_path)
    planning = Planning(handlers.service, handlers.runs, tmp_path / "gates.zip")
    planning.handlers = handlers  # of Explore, which share the runs
    return planning


@pytest.fixture(scope="module")
def foreign() -> bytes:
    """A plan for a model of the same shape with other weights."""
    return make_plan(make_tiny_adapter(seed=1), PlanRequest("other", score="magnitude", heads=0.5)).to_bytes()


def make(planning, visitor=ME, **kwargs):
    wish = {"model": "demo", "score": "magnitude", "out": 50, "ffn": "none"} | kwargs
    return list(planning.make(PlanForm(**wish), visitor))


def digest(planning) -> str:
    return planning.runs.plans.get("me").plan.digest


def bring(planning, tmp_path, content: bytes, visitor=ME):
    (tmp_path / "p.zip").write_bytes(content)
    return list(planning.open(str(tmp_path / "p.zip"), "demo", visitor))


def ask(planning, visitor=ME, count=9, method="resprune", **kwargs):
    asked = RunForm("What color is the cross?", method, count, "demo", with_plan=True, **kwargs)
    return list(planning.handlers.run(SessionState(), asked, visitor))


def test_a_plan_says_what_it_does_and_ends_with_its_view(planning):
    events = make(planning, score="infoprune", ffn="mass", tau=0.3)
    assert [e[0]["kind"] for e in events] == ["busy"] * (len(events) - 1) + ["idle"]
    assert events[-1][0]["text"].startswith("The plan is made")
    view = events[-1][1]
    assert view["maps"]["modes"] == ["score", "erank", "ks"]
    assert "the example pictures" in " ".join(view["facts"])
    kept = sum(len(layer["kept"]) for part in view["maps"]["parts"] for layer in part["layers"])
    total = sum(layer["heads"] for part in view["maps"]["parts"] for layer in part["layers"])
    assert kept == math.floor(total / 2 + 0.5)
    assert view["digest"] == digest(planning)


def test_the_tab_opens_with_a_plan_unless_there_is_one(planning):
    first = list(planning.first("demo", ME))[-1][1]
    assert first["headline"].startswith("InfoPrune, static score")
    mine = make(planning)[-1][1]
    assert list(planning.first("demo", ME)) == [(gr.skip(), gr.skip())], "what they look at is left as it is"
    assert digest(planning) == mine["digest"]
    [(status, nothing)] = planning.first("llava-1.5-7b", YOU)
    assert status["text"] == "No plan yet. Press Make a plan."
    assert nothing == gr.skip(), "a large model is not set to work unasked"


def test_equal_wishes_share_one_plan(planning, monkeypatch):
    made = make(planning, tau=0.1)[-1][1]
    monkeypatch.setattr("pruning.engine.plan.make_plan", None)
    same = make(planning, YOU, tau=0.4, seed=7)[-1]  # neither is heeded by this rule and score
    assert same[1] == made


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"out": 100}, "from 0 to below 100"),
        ({"out": -1}, "from 0 to below 100"),
        ({"out": math.nan}, "from 0 to below 100"),
        ({"out": None}, "from 0 to below 100"),
        ({"score": "magic"}, "no head score 'magic'"),
        ({"score": "infoprune", "parameters": {"a": 7}}, "allows 0 to 1"),
        ({"score": "random", "seed": -1}, "The seed is -1"),
        ({"score": "random", "seed": 0.5}, "The seed is 0.5"),
        ({"ffn": "magic"}, "it must be one of none"),
        ({"ffn": "mass", "tau": 3}, "tau is 3"),
        ({"ffn": "erank", "erank_factor": 9}, "erank_factor is 9"),
        ({"where": "ear"}, "is no part of the model"),
        ({"model": "somebody/else"}, "does not serve 'somebody/else'"),
        ({"score": "trained"}, "gates.zip cannot be read"),
    ],
)
def test_bad_wishes_are_one_sentence_and_the_plan_before_stays(planning, kwargs, sentence):
    before = make(planning)[-1][1]
    last = make(planning, **kwargs)[-1]
    assert last[0]["kind"] == "error"
    assert sentence in last[0]["text"]
    assert last[1] == gr.skip()
    assert digest(planning) == before["digest"]


def test_a_head_shows_what_it_attends_to(planning):
    wish = SimpleNamespace(part="vision tower", layer=1, head=2)
    [(status, nothing)] = planning.head_attention(wish, SessionState(), "What?", ME)
    assert status["text"].startswith("No plan yet")
    assert nothing == gr.skip()
    make(planning, score="infoprune")
    *said, (last, card) = planning.head_attention(wish, SessionState(), "What is it?", ME)
    assert "Computing what this head attends to…" in [s["text"] for s, _ in said]
    assert (last["kind"], last["text"]) == ("idle", "What the head attends to is drawn on Explore's picture.")
    assert (card["part"], card["layer"], card["head"]) == ("vision tower", 1, 2)
    assert card["attention"]["picture"].startswith("data:image/jpeg;base64,")
    assert "of 36 visual tokens" in card["attention"]["says"]
    assert card["spectrum"] is not None, "its curves stay"
    for state, question, sentence in (
        (SessionState("upload:gone"), "What?", "no longer here"), (SessionState(), "", "question is empty"),
    ):  # fmt: skip
        last, nothing = list(planning.head_attention(wish, state, question, ME))[-1]
        assert (last["kind"], nothing) == ("error", gr.skip())
        assert sentence in last["text"]


def test_a_plan_goes_to_a_file_and_comes_back(planning, tmp_path):
    view = make(planning, score="infoprune", ffn="mass", tau=0.3)[-1][1]
    parcel, status = planning.save("me")
    assert parcel["name"] == f"prunescope-plan-infoprune-{view['digest'][:8]}.zip"
    assert parcel["name"] in status["text"]
    file = base64.b64decode(parcel["data"])
    assert StructuralPlan.from_bytes(file).digest == view["digest"]
    opened = bring(planning, tmp_path, file, YOU)[-1]
    assert opened[0]["text"] == "The plan was opened and fits the model."
    assert opened[1] == view
    nothing, status = planning.save("nobody")
    assert nothing == gr.skip()
    assert status["kind"] == "error"


def test_files_that_are_no_plan_for_this_model_are_said_to_be_so(planning, tmp_path, foreign):
    before = make(planning)[-1][1]
    for content, sentence in (
        (b"", "not a structural plan"),
        (b"PK\x03\x04 cut", "not a structural plan"),
        (EXAMPLES[0].archive.read_bytes(), "holds no structural plan"),
        (foreign, "made for other weights (other)"),
    ):
        last = bring(planning, tmp_path, content)[-1]
        assert last[0]["kind"] == "error"
        assert sentence in last[0]["text"]
        assert last[1] == gr.skip()
    outside = list(planning.open("/etc/hostname", "demo", ME))[-1]
    assert "no longer here" in outside[0]["text"]
    assert digest(planning) == before["digest"]


def test_a_plan_that_cannot_be_shown_is_refused(planning, tmp_path):
    make(planning, score="infoprune")
    plan = planning.runs.plans.get("me").plan
    data, arrays = plan.to_parts()
    arrays["layer0.score"] = arrays["layer0.score"] * math.nan
    last = bring(planning, tmp_path, StructuralPlan.from_parts(json.loads(json.dumps(data)), arrays).to_bytes())[-1]
    assert last[0]["text"].startswith("The plan contains something that cannot be shown.")


def test_trained_gates_are_picked_up_where_they_lie(planning, tiny):
    plan = make_plan(tiny, PlanRequest("demo", score="magnitude", heads=0.5))
    plan.save(planning.gates)
    assert make(planning, score="trained")[-1][1]["digest"] == plan.digest


def test_a_head_s_curves_are_those_of_the_visitor_s_plan(planning):
    make(planning, score="infoprune")
    view = planning.head(SimpleNamespace(part="vision tower", layer=1, head=2), "me")
    assert view["gap"]["at"] >= 1
    for wish in (
        SimpleNamespace(part="ear", layer=0, head=0),
        SimpleNamespace(),
        SimpleNamespace(part=[], layer={}, head=None),
    ):
        assert "no curves" in planning.head(wish, "me")["problem"]
    assert "No plan yet" in planning.head(SimpleNamespace(part="vision tower", layer=0, head=0), "nobody")["problem"]


def test_a_plan_and_a_token_pruner_act_in_one_run_and_both_are_named(planning, tiny):
    view = make(planning)[-1][1]
    last = ask(planning)[-1]
    assert last[0]["text"].startswith("Done")
    canvas = last[1]["canvas"]
    assert canvas["stops"][-1]["rows"] == 9
    assert canvas["method"] == "ResPrune"
    assert "heads" in canvas["weights"]
    assert last[1]["recipe"]["query"] == "", "a plan is in no link"
    _, record = planning.runs.last.get("me")
    assert record.structure.digest == view["digest"]
    assert record.steps
    full = ask(planning, count=36)[-1][1]
    assert full["canvas"]["headline"].count("all 36 visual tokens") == 1
    assert all(len(layer.self_attn.q_proj.weight) == 64 for layer in tiny.model.model.language_model.layers)


def test_the_control_of_random_tokens_runs_under_the_same_plan(planning, monkeypatch):
    monkeypatch.setattr("app.handlers.explore.RANDOM_SEEDS", 2)
    make(planning)
    ask(planning)
    source = {"kind": "live"}
    assert list(planning.handlers.run_random(source, ME))[-1][1]["random"]["seeds"] == 2
    make(planning, out=30)
    assert "not at hand" in list(planning.handlers.run_random(source, ME))[-1][0]["text"]


def test_without_a_plan_the_run_says_what_to_do(planning):
    [(status, run)] = ask(planning)
    assert "Make one under Weight pruning" in status["text"]
    assert run == gr.skip()


def test_two_visitors_with_two_plans_do_not_meet(planning):
    mine, yours = make(planning, ME, out=30)[-1][1], make(planning, YOU, out=60)[-1][1]
    for visitor, view in ((ME, mine), (YOU, yours), (ME, mine)):
        ask(planning, visitor)
        _, record = planning.runs.last.get(visitor.session)
        assert record.structure.digest == view["digest"]


def test_views_are_made_once_and_closed_when_they_leave(planning, tiny, monkeypatch):
    made, closed = [], []
    real = tiny.compressed

    def compressed(plan):
        view = real(plan)
        made.append(plan.digest)
        close = view.close
        view.close = lambda: (closed.append(plan.digest), close())
        return view

    monkeypatch.setattr(tiny, "compressed", compressed)
    for out in (10, 20, 30, 40, 50):
        make(planning, out=out)
        ask(planning)
        ask(planning)
    assert len(made) == len(set(made)) == 5
    assert closed == made[:1], "the oldest of five; four are kept"
    planning.service._views.clear()
    assert closed == made


def test_a_cache_lets_go_of_what_it_had(tmp_path):
    left = []
    cache = BoundedCache(2, leave=left.append)
    for i in range(3):
        cache.put(i, i)
    assert left == [0]
    cache.clear()
    assert left == [0, 1, 2]


def test_stop_ends_planning_and_says_so(planning, monkeypatch):
    def stopped(self, events, stop, request, pairs):
        planning.stop("me")
        assert stop.wait(2)
        raise service_module.RunStopped

    monkeypatch.setattr(Service, "_plan", stopped)
    assert make(planning)[-1][0]["text"] == "Stopped. Nothing was changed."
