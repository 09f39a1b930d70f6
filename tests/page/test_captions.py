"""Compensation on the page, without a browser: what is asked, what is shown, and what goes wrong."""

from __future__ import annotations

import base64
import json
import shlex
from types import SimpleNamespace
from urllib.parse import parse_qsl

import gradio as gr
import numpy as np
import pytest

from app.handlers.explore import Handlers
from app.handlers.links import read_link
from app.handlers.requests import RunForm
from app.media.examples import read_examples
from app.serving import captioners as captioners_module
from app.serving import service as service_module
from app.serving.captioners import captioners_of
from app.serving.service import Service
from app.session import SessionState, Visitor
from app.settings import Settings, read_settings
from app.ui.caption_controls import N_VALUES, build_caption_controls, requested_compensation, shown
from pruning.cli.parser import main
from pruning.compensation.base import Candidate, Proposal
from pruning.compensation.checkpoint import save
from pruning.engine.run import run
from pruning.errors import PruningError
from pruning.metrics.agreement import telling_words
from pruning.models import load
from pruning.records.compensation import Compensation
from pruning.records.run import RunRequest
from support.paths import ROOT
from support.tiny_models import make_tiny_adapter, tiny_parts
from viz.export.figure import figure_file
from viz.export.recipe import command, figures_of, python, query
from viz.page.compensation import compensation_view, marked_words, price
from viz.page.run import answers_view, canvas_view, cost_view

EXAMPLES = read_examples()
START = SessionState()
QUESTION = "What color is the cross?"
CAPTION = "a large red circle with the digit 5 at the top left"


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    where = tmp_path_factory.mktemp("captions") / "captioner"
    save(where, tiny_parts(tiny))
    return where


@pytest.fixture
def handlers(tiny, folder, tmp_path) -> Handlers:
    settings = Settings(max_new_tokens=3, captioner=str(folder))
    return Handlers(Service(settings, load=lambda name, **kwargs: tiny), EXAMPLES, 36, tmp_path)


@pytest.fixture
def without(tiny, monkeypatch, tmp_path) -> Handlers:
    """A page without any captioner."""
    monkeypatch.setattr(captioners_module, "DEFAULT_FOLDER", tmp_path / "nothing")
    return Handlers(Service(Settings(max_new_tokens=3), load=lambda name, **kwargs: tiny), EXAMPLES, 36, tmp_path)


def ask(handlers, compensation, method="resprune", count=9, session="me"):
    asked = RunForm(QUESTION, method, count, "demo", compensation=compensation)
    return list(handlers.run(START, asked, Visitor(session)))


def last_record(handlers, session="me"):
    return handlers.runs.last.get(session)[1]


def test_a_run_with_a_captioner_shows_all_of_it(handlers):
    events = ask(handlers, {"measure_kl": True})
    assert any(e[0]["text"].startswith("Captioning what was dropped") for e in events)
    running = [e[1]["answers"] for e in events[:-1] if e[1] and "answers" in e[1]]
    assert running[-1]["compensated_text"] == last_record(handlers).compensated.answer.text
    page = events[-1][1]
    found, view = last_record(handlers).compensated, page["compensation"]
    assert [c["text"] for c in view["candidates"]] == [c.text for c in found.candidates]
    assert [c["chosen"] for c in view["candidates"]].index(True) == found.chosen
    assert sum(c["probability"] for c in view["candidates"]) == pytest.approx(1, abs=1e-4)
    assert [c["log_prob"] for c in view["candidates"]] == [c.log_prob for c in found.candidates]
    by_kl = sorted(view["candidates"], key=lambda c: c["kl"])
    assert (by_kl[0]["mark"], by_kl[-1]["mark"]) == ("closest", "farthest")
    assert view["kl_pruned"] == found.kl_pruned
    assert [p["kl"] for p in view["next_words"]] == [[w.kl_pruned, w.kl_compensated] for w in found.next_words]
    assert [list(row[1:]) for row in view["next_words"][0]["rows"]] == np.transpose(
        [found.next_words[0].full, found.next_words[0].pruned, found.next_words[0].compensated]
    ).tolist()
    assert view["attention"]["caption"] == [caption for _, caption, _ in found.layer_attention]
    assert view["prompt"]["inserted"] == found.inserted
    assert QUESTION.lower() in view["prompt"]["behind"].lower()
    parts = dict(view["price"]["parts"])
    assert sum(parts.values()) == pytest.approx(found.total_flops)
    assert min(parts["captioner"], parts["selector"], parts["caption's tokens"]) > 0
    assert page["cost"]["estimated"]["compensated"] == found.total_flops
    compensated = page["answers"]["compensated"]
    assert " ".join(w["text"] for w in compensated["words"]) == " ".join(found.answer.text.split())
    assert compensated["tokens"] == found.caption_tokens > 0
    assert page["canvas"]["attention"]["compensated"]["shares"]
    json.dumps(page)


def test_without_the_switch_nothing_of_it_is_there(handlers):
    page = ask(handlers, None)[-1][1]
    assert page["compensation"] is None
    assert page["answers"]["compensated"] is None
    assert page["cost"]["estimated"]["compensated"] is None
    assert set(page["canvas"]["attention"]) == {"full", "pruned"}
    assert figures_of(last_record(handlers))["compensation"] is None
    recorded = handlers.open_example(0, "fastv", 64)[4]
    assert recorded["compensation"] is None, "a recorded run takes the caption of the last one off the page"
    assert recorded["answers"]["compensated"] is None


def test_words_by_hand_need_no_captioner(without):
    events = ask(without, {"caption": CAPTION})
    assert events[-1][0]["text"].startswith("Done")
    view = events[-1][1]["compensation"]
    assert view["by_hand"]
    assert view["candidates"][0]["probability"] is None
    assert view["prompt"]["inserted"] == f"Additional information: {CAPTION}."
    assert view["price"]["text"].startswith("This caption costs as much as")
    assert without.service._compensator is None


def test_without_a_captioner_the_page_says_so_and_goes_on(without):
    last = ask(without, {})[-1]
    assert last[0]["kind"] == "error"
    assert "This page has no captioner 'accm'. Write the caption yourself" in last[0]["text"]
    assert last[1]["answers"] == {"state": "restore"}
    assert ask(without, None)[-1][0]["text"].startswith("Done")


@pytest.mark.parametrize(
    ("compensation", "sentence"),
    [
        ({"gate": 1.5}, "from 0 to below 1"),
        ({"gate": float("nan")}, "from 0 to below 1"),
        ({"gate": None}, "from 0 to below 1"),
        ({"caption": "x" * 2001}, "at most 2000 characters"),
        ({"caption": 5}, "at most 2000 characters"),
        ({"caption": "red " * 499}, "this model reads at most"),
        ({"key": "magic"}, "There is no compensation 'magic'"),
        ({"key": ["accm"]}, "There is no compensation"),
        ({"key": "accm_untrained"}, "This page has no captioner 'accm_untrained', only accm"),
        ({"measure_kl": "yes"}, "must be true or false"),
        ({"volume": 3}, "Known ones: key, gate, caption, measure_kl"),
        ("accm", "it must have names"),
    ],
)
def test_a_bad_wish_is_one_sentence_and_the_next_run_works(handlers, compensation, sentence):
    last = ask(handlers, compensation)[-1]
    assert last[0]["kind"] == "error"
    assert sentence in last[0]["text"]
    assert "note" not in last[0]["text"], "foreseen, not an accident"
    assert ask(handlers, {"caption": "red"})[-1][0]["text"].startswith("Done")


# -- the cases of the specification (4.12), in plain sentences -------------------------------------------------------


def saying(handlers, monkeypatch, *texts, chosen=0):
    """The page's captioner says these, with equal probability."""
    ask(handlers, {})  # opens it
    candidates = tuple(Candidate(t, -1.0, 2, 1 / len(texts)) for t in texts)
    compensator = handlers.service._compensator
    monkeypatch.setattr(type(compensator), "propose", lambda self, discarded: Proposal(candidates, chosen, 5.0, 1.0))


def test_nothing_dropped(handlers):
    view = ask(handlers, {}, count=36)[-1][1]["compensation"]
    assert view["candidates"] == []
    assert view["sentences"] == ["Nothing was dropped, so there is nothing to caption. Keep fewer visual tokens."]
    assert (view["inserted"], view["price"]["text"]) == (False, "")


def test_an_empty_caption(handlers, monkeypatch):
    saying(handlers, monkeypatch, "", "a star")
    view = ask(handlers, {})[-1][1]["compensation"]
    assert view["sentences"][0].startswith("The caption is empty, so nothing was inserted")
    assert view["price"]["text"].startswith("Asking for a caption that is not inserted costs as much as")
    assert last_record(handlers).compensated.answer.text == last_record(handlers).pruned.text


def test_candidates_that_are_all_the_same(handlers, monkeypatch):
    saying(handlers, monkeypatch, "a star", "a star", "a star")
    view = ask(handlers, {})[-1][1]["compensation"]
    assert view["sentences"][0].startswith("All 3 candidates are the same")
    assert [c["chosen"] for c in view["candidates"]] == [True, False, False]


def test_a_caption_that_the_gate_rejects(handlers, monkeypatch):
    saying(handlers, monkeypatch, "a star", "a ring")
    view = ask(handlers, {"gate": 0.75})[-1][1]["compensation"]
    assert "Rejected by the confidence gate: the selector gives the best caption 0.50" in view["sentences"][0]
    assert "more than 0.75" in view["sentences"][0]
    assert view["prompt"]["inserted"] == ""
    assert view["caption"] == "a star", "ready to be inserted by hand"
    assert "extension" in view["how"][-1]


def test_marks_of_the_chat_are_taken_out_and_it_is_said(handlers):
    view = ask(handlers, {"caption": "a star\nUSER: <image> red </s>."})[-1][1]["compensation"]
    assert view["caption"] == "a star red"
    assert "were taken out" in view["sentences"][0]
    assert "were taken out" not in " ".join(
        ask(handlers, {"caption": " a star  red. "})[-1][1]["compensation"]["sentences"]
    )


@pytest.mark.parametrize(
    ("pruned", "compensated", "said"),
    [
        ("blue", "red", "The caption compensates"),
        ("red", "blue", "The caption does harm"),
        ("red", "red", "was not needed"),
        ("blue", "green", "does not compensate"),
    ],
)
def test_what_the_caption_did(handlers, pruned, compensated, said):
    ask(handlers, {"caption": "a red star"})
    record = last_record(handlers)
    change(record.full, "red"), change(record.pruned, pruned), change(record.compensated.answer, compensated)
    sentences = compensation_view(record)["sentences"]
    assert said in sentences[0]
    assert any(s == "Brought back by the caption: red." for s in sentences) == (said == "The caption compensates")
    view = answers_view(record)["compensated"]
    assert [w["text"] for w in view["diff"] if w["again"]] == (["red"] if compensated == "red" else [])


def change(answer, text: str) -> None:
    for name, value in (("text", text), ("words", (text,)), ("log_probs", (-0.1,)), ("attention", None)):
        object.__setattr__(answer, name, value)


def test_only_words_that_tell_something_are_marked():
    shared = telling_words("There is a star at the top.") & telling_words("the star, at the left")
    assert shared == {"star"}
    marked = marked_words("a Star at the left", shared)
    assert [w["text"] for w in marked if w["again"]] == ["Star"]


@pytest.mark.parametrize(
    ("n", "said"), [(31.4, "as 31 visual tokens"), (1.2, "as 1 visual token "), (0.3, "less than one visual token")]
)
def test_the_price_in_words(n, said):
    assert said in price(SimpleNamespace(caption="a star", break_even=n))


# -- controls, flags, links, files, programs --------------------------------------------------------------------------


def test_the_controls_ask_for_what_they_show():
    with gr.Blocks():
        controls, bare = build_caption_controls({"accm": "x"}), build_caption_controls({})
    assert len(controls.values) == N_VALUES
    assert requested_compensation(False, "accm", CAPTION, 0.5, True) is None
    for asked in (
        {"key": "accm", "gate": 0.5, "caption": None, "measure_kl": True},
        {"key": "accm", "gate": 0, "caption": CAPTION, "measure_kl": False},
    ):
        on, _, *rest = shown(asked)
        assert requested_compensation(on, "accm", *rest) == asked
    assert requested_compensation(True, None, "  ", 0, False) == {"gate": 0, "caption": None, "measure_kl": False}
    assert shown(None)[0] is False
    assert bare.values[3].visible is False, "no selector, no gate"


def test_flags_say_who_writes(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(captioners_module, "DEFAULT_FOLDER", tmp_path)
    assert captioners_of(Settings()) == {"accm": str(tmp_path)}
    assert captioners_of(Settings(model="llava-1.5-7b")) == {}, "it was trained for the bundled model"
    assert captioners_of(read_settings(["--captioner", str(folder)])) == {"accm": str(folder)}
    both = captioners_of(Settings(captioner="some/captioner"))
    assert both == {"accm": str(tmp_path), "accm_untrained": "some/captioner"}
    monkeypatch.setattr(captioners_module, "DEFAULT_FOLDER", tmp_path / "nothing")
    assert captioners_of(Settings()) == {}


def test_a_captioner_leaves_with_its_model(folder, monkeypatch, tmp_path):
    own = {"demo": make_tiny_adapter(), "llava-1.5-7b": make_tiny_adapter(seed=5)}  # the first one is closed
    settings = Settings(max_new_tokens=3, captioner=str(folder))
    handlers = Handlers(Service(settings, load=lambda name, **kwargs: own[name]), EXAMPLES, 36, tmp_path)
    ask(handlers, {})
    assert handlers.service._compensator is not None
    monkeypatch.setattr(service_module, "check", lambda *args, **kwargs: None)
    asked = RunForm(QUESTION, "resprune", 9, "llava-1.5-7b", compensation={})
    last = list(handlers.run(START, asked, Visitor("me")))[-1]
    assert "was trained on another vision tower" in last[0]["text"]
    assert handlers.service._compensator is None


def test_random_seeds_are_run_without_it(handlers):
    ask(handlers, {})
    calls = []
    compensator = type(handlers.service._compensator)
    propose, compensator.propose = compensator.propose, lambda *args: calls.append(1)
    try:
        assert list(handlers.run_random({"kind": "live"}, Visitor("me")))[-1][1]["random"]["seeds"] == 20
    finally:
        compensator.propose = propose
    assert calls == []


def test_a_link_brings_it_along(handlers):
    ask(handlers, {"caption": "a red star & <b>", "measure_kl": True})
    record = last_record(handlers)
    link = read_link(dict(parse_qsl(query(record, EXAMPLES[0].key))), EXAMPLES, "demo")
    assert link.form.request(36, 3).compensation == record.request.compensation
    assert handlers.open_link(link)[2]["go"]
    for fields, sentence in (
        ({"compensation": "magic"}, "There is no compensation"),
        ({"compensation": "accm", "gate": "high"}, "should be a number"),
        ({"compensation": "accm", "gate": "7"}, "from 0 to below 1"),
        ({"compensation": "accm_untrained"}, "has no captioner"),
    ):
        with pytest.raises(PruningError, match=sentence):
            handlers.open_link(read_link({"example": "digit", "keep": "9"} | fields, EXAMPLES, "demo"))


def test_a_captioner_of_one_s_own_is_named_in_everything_that_repeats_the_run(handlers, folder, without):
    ask(handlers, {})
    record = last_record(handlers)
    assert f"--captioner={folder}" in command(record)
    assert f"open_compensator('accm', model, {str(folder)!r})" in python(record)
    text = query(record, EXAMPLES[0].key)
    link = read_link(dict(parse_qsl(text)), EXAMPLES, "demo")
    assert handlers.open_link(link)[2]["go"]
    without.service.captioners["accm"] = str(captioners_module.DEFAULT_FOLDER)
    with pytest.raises(PruningError, match="on this page another one writes them"):
        without.open_link(link)
    with pytest.raises(PruningError, match="were those of the bundled captioner"):
        handlers.open_link(read_link(dict(parse_qsl(text)) | {"captioner": ""}, EXAMPLES, "demo"))
    ask(handlers, {"caption": CAPTION})
    assert "captioner" not in query(last_record(handlers), "digit"), "nobody but the visitor wrote it"


def test_files_carry_it_and_a_saved_run_shows_it_again(handlers, tmp_path):
    shown_before = ask(handlers, {"measure_kl": True})[-1][1]
    record = last_record(handlers)
    made = handlers.take(SimpleNamespace(kind="zip", stop=1, dark=False, number=1, source={"kind": "live"}), "me")
    (tmp_path / "mine.zip").write_bytes(base64.b64decode(made["data"]))
    _, status, again, _ = handlers.bring([str(tmp_path / "mine.zip")], START, "me")
    assert status["kind"] == "idle", status
    assert json.dumps(again["compensation"]) == json.dumps(shown_before["compensation"])
    assert json.dumps(again["answers"]["compensated"]) == json.dumps(shown_before["answers"]["compensated"])
    text = figure_file(record, EXAMPLES[0].picture, 1, "svg").decode()
    found = figures_of(record)["compensation"]
    assert f"The same and {found['caption_tokens']} caption tokens" in text
    assert found["answer"] in text
    assert found["what_happened"] == again["compensation"]["sentences"]
    assert cost_view(record)["estimated"]["compensated"] == found["estimated_flops_with_captioner_and_selector"]
    assert canvas_view(record, "", recorded=False)["attention"]["compensated"] is not None


def test_the_command_and_the_python_give_it_again(capsys, monkeypatch):
    """On the bundled model, whatever its weights are."""
    monkeypatch.chdir(ROOT)
    example = EXAMPLES[0]
    words = Compensation("accm", caption=CAPTION, measure_kl=True)
    question = example.questions[0].text
    asked = RunRequest("demo", "random_baseline", 9 / 576, question, max_new_tokens=4, compensation=words)
    record = run(asked, load("demo"), example.picture)
    assert main(shlex.split(command(record, example.place))[3:]) == 0
    printed = capsys.readouterr().out
    assert f"Written by hand ({record.compensated.caption_tokens} caption tokens)" in printed
    names: dict = {}
    exec(python(record, example.place), names)
    assert names["record"].request == record.request
    assert names["record"].compensated.answer.text == record.compensated.answer.text
