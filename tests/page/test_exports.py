"""What is taken away says what the screen says, and opens again."""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import zipfile
from types import SimpleNamespace
from urllib.parse import parse_qsl

import cv2
import numpy as np
import pytest
from PIL import Image

from app.handlers.explore import Handlers
from app.handlers.exports import parcel
from app.handlers.links import read_link
from app.media.examples import read_examples
from app.serving.service import Service
from app.session import SessionState
from app.settings import Settings
from pruning.cli.parser import main
from pruning.errors import PruningError, RecordFormatError
from pruning.metrics.token_fates import DROPPED, GONE, KEPT, MERGED, fates_after
from pruning.records.archive import pack_run, unpack_run
from support.paths import ROOT
from viz.export.figure import KINDS, figure_file, frames
from viz.export.recipe import command, figures_of, python, query
from viz.page.run import run_view

EXAMPLES = read_examples()
EXAMPLE = EXAMPLES[0]
RECORDS = {m: EXAMPLE.recording(m, 64) for m in ("resprune", "vitcop", "visionzip")}
START = SessionState("example:0")


@pytest.fixture
def handlers(tmp_path):
    return Handlers(Service(Settings()), EXAMPLES, 576, tmp_path)


def inside(kind: str, data: bytes) -> dict:
    """The figures that a file carries."""
    if kind == "png":
        return json.loads(Image.open(io.BytesIO(data)).text["Description"])
    if kind == "svg":
        text = re.search(r"<dc:description>(.*?)</dc:description>", data.decode(), re.S)[1]
        return json.loads(text.replace("&quot;", '"').replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    raw = re.search(rb"/Subject \((.*?)(?<!\\)\)\s*/?", data, re.S)[1]
    return json.loads(re.sub(rb"\\([()\\])", rb"\1", raw).decode("latin-1"))


@pytest.mark.parametrize("method", RECORDS)
def test_figures_are_those_of_the_screen(method):
    record = RECORDS[method]
    found, view = figures_of(record), run_view(record, "", recorded=True)
    counted = view["cost"]["counted"]
    assert found["headline"] == view["canvas"]["headline"]
    assert found["answer_region"] == view["canvas"]["answer_region_kept"]
    assert found["verdict"] == view["answers"]["verdict"]
    assert found["kept_at_end"] == counted["kept_at_end"]
    assert found["mean_entering_a_layer"] == pytest.approx(counted["mean_entering"], abs=1e-4)
    assert found["rows_after_each_stage"] == [s["rows"] for s in view["canvas"]["stops"][1:]]
    assert found["estimated_prefill_flops"] == [view["cost"]["estimated"][k] for k in ("full", "pruned")]
    said = [" ".join(w["text"] for w in view["answers"][k]["words"]) for k in ("full", "pruned")]
    assert [found["full_answer"], found["pruned_answer"]] == said


@pytest.mark.parametrize("kind", KINDS)
def test_a_figure_carries_its_figures(kind):
    record = RECORDS["vitcop"]
    carried = inside(kind, figure_file(record, EXAMPLE.picture, 3, kind, truth="red"))
    assert carried == json.loads(json.dumps(figures_of(record, "red")))


def test_an_svg_says_them_in_words_that_can_be_read():
    record = RECORDS["vitcop"]
    text = figure_file(record, EXAMPLE.picture, 2, "svg").decode()
    fate = fates_after(record, 2)
    kept, merged, dropped = (int((fate == f).sum()) for f in (KEPT, MERGED, DROPPED))
    assert f"{kept} kept, {merged} merged, {dropped} dropped so far" in text
    assert kept + merged + dropped == 576
    assert figures_of(record)["headline"] in text
    assert text.count("<image") == 1, "only the picture is an image"
    assert text.count("M ") > 576, "every square is a path"


def test_what_the_page_knows_to_be_right_is_in_the_figure_and_only_there(handlers):
    record = RECORDS["resprune"]
    source = {"kind": "recorded", "example": 0, "method": "resprune", "count": 64}
    made = handlers.take(SimpleNamespace(kind="svg", stop=1, number=1, source=source), "a")
    text = base64.b64decode(made["data"]).decode()
    truth = handlers.open_example(0, "resprune", 64)[4]["answers"]["truth"]
    assert truth
    assert f">correct answer: {truth}<" in text
    assert inside("svg", text.encode())["known_answer"] == truth
    assert "correct answer" not in figure_file(record, EXAMPLE.picture, 1, "svg").decode(), (
        "nobody's own picture has one"
    )


def test_fates_add_up_over_the_stages():
    record = RECORDS["vitcop"]
    assert (fates_after(record, 0) == KEPT).all()
    for stop in range(1, 4):
        fate = fates_after(record, stop)
        assert GONE not in fate
        assert np.flatnonzero(fate == KEPT).tolist() == record.steps[stop - 1].selection.kept.tolist()


def test_a_figure_shows_the_kept_squares_bright():
    record, picture = RECORDS["resprune"], np.full_like(EXAMPLE.picture, 230)
    brightness = frames(record, picture)[1].astype(int).sum(2)
    side = 540 * 0.78
    x0, y0 = 0.02 * 960 + (0.5 * 960 - side) / 2, 540 * (1 - 0.91)
    centres = [(x0 + side * (c + 0.5) / 24, y0 + side * (r + 0.5) / 24) for r in range(24) for c in range(24)]
    bright = [brightness[round(y), round(x)] > 550 for x, y in centres]
    assert np.flatnonzero(bright).tolist() == record.kept.tolist()


@pytest.mark.parametrize("kind", ["gif", "mp4"])
def test_an_animation_shows_every_stage(kind, tmp_path):
    record = RECORDS["vitcop"]
    made = parcel(record, EXAMPLE.picture, [b""], kind, 0, dark=True)
    path = tmp_path / made["name"]
    path.write_bytes(base64.b64decode(made["data"]))
    if kind == "gif":
        with Image.open(path) as film:
            assert film.n_frames == 4
            assert json.loads(film.info["comment"])["headline"] == figures_of(record)["headline"]
    else:
        film = cv2.VideoCapture(str(path))
        count, changes, last = 0, 0, None
        while (frame := film.read()[1]) is not None:
            changes += last is not None and np.abs(frame.astype(int) - last).mean() > 1
            count, last = count + 1, frame.astype(int)
        assert (count, changes) == (3 * 14 + 28, 3)


def test_a_saved_run_opens_again_and_says_the_same(handlers, tmp_path):
    wish = SimpleNamespace(kind="zip", stop=1, dark=False, number=3, source=None)
    wish.source = {"kind": "recorded", "example": 0, "method": "visionzip", "count": 64}
    made = handlers.take(wish, "a")
    assert made["name"] == "prunescope-visionzip-64.zip"
    assert made["number"] == 3
    (tmp_path / "mine.zip").write_bytes(base64.b64decode(made["data"]))
    state, status, run, _ = handlers.bring([str(tmp_path / "mine.zip")], START, "a")
    assert status["kind"] == "idle"
    before = handlers.open_example(0, "visionzip", 64)[4]
    for part in ("cost", "chart"):
        assert json.dumps(run[part]) == json.dumps(before[part])
    assert run["canvas"]["stops"] == before["canvas"]["stops"]
    assert run["canvas"]["pictures"] == before["canvas"]["pictures"]
    assert (handlers.album.pictures(state)[0] == EXAMPLE.picture).all()
    again = handlers.take(SimpleNamespace(kind="zip", number=4, source=run["recipe"]["source"]), "a")
    assert again["data"] == made["data"], "taken away once more it is the same file"
    assert (
        "no longer here"
        in handlers.take(SimpleNamespace(kind="png", number=5, source={"kind": "live"}), "b")["problem"]
    )


def tampered(change) -> bytes:
    """A saved run with one of its files changed."""
    data = pack_run(RECORDS["resprune"], EXAMPLE.path.read_bytes())
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            changed = change(name, old.read(name))
            if changed is not None:
                new.writestr(name, changed, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def with_json(**changes):
    def change(name, data):
        return json.dumps(json.loads(data) | changes) if name == "run.json" else data

    return change


def bomb(name, data):
    if name != "run.npz":
        return data
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("step0.kept.npy", bytes(70 * 2**20))
    return out.getvalue()


NO_COST = {"prefill_flops": "many", "tower_flops": 1, "kv_bytes": 1, "formula": ""}
BROKEN = {
    "cut": lambda: tampered(lambda n, d: d)[:2000],
    "only the mark": lambda: b"PK\x03\x04",
    "no picture": lambda: tampered(lambda n, d: None if n == "picture" else d),
    "another picture": lambda: tampered(lambda n, d: EXAMPLES[1].path.read_bytes() if n == "picture" else d),
    "no arrays": lambda: tampered(lambda n, d: None if n == "run.npz" else d),
    "arrays that are none": lambda: tampered(lambda n, d: b"\x93NUMPY" if n == "run.npz" else d),
    "a bomb": lambda: tampered(bomb),
    "a list": lambda: tampered(lambda n, d: b"[1]" if n == "run.json" else d),
    "no json": lambda: tampered(lambda n, d: b"{" if n == "run.json" else d),
    "deep json": lambda: tampered(lambda n, d: b"[" * 100_000 if n == "run.json" else d),
    "newer": lambda: tampered(with_json(schema_version=99)),
    "numbers as words": lambda: tampered(with_json(full_cost=NO_COST)),
    "nothing of the environment": lambda: tampered(with_json(environment={})),
    "empty zip": lambda: b"PK\x05\x06" + bytes(18),
    "a zip of something else": lambda: tampered(lambda n, d: None if n != "picture" else d),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_run_gets_a_sentence(handlers, tmp_path, name):
    (tmp_path / "x.zip").write_bytes(BROKEN[name]())
    state, status, *_ = handlers.bring([str(tmp_path / "x.zip")], START, "a")
    assert status["kind"] == "error"
    assert "note" not in status["text"], "foreseen, not an accident"
    assert state == START


def test_unpack_refuses_what_is_too_large():
    with pytest.raises(RecordFormatError, match="more than PruneScope opens"):
        unpack_run(tampered(lambda n, d: bytes(70 * 2**20) if n == "run.json" else d))


@pytest.mark.parametrize("wish", [{}, {"kind": "exe"}, {"kind": "png", "stop": "x"}, {"kind": None, "source": 3}])
def test_a_made_up_wish_is_refused(handlers, wish):
    source = {"kind": "recorded", "example": 0, "method": "fastv", "count": 64}
    assert handlers.take(SimpleNamespace(**({"source": source} | wish)), "a")["problem"]


def test_the_command_and_the_python_give_the_run_again(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    record = RECORDS["resprune"]
    assert main(shlex.split(command(record, EXAMPLE.place))[3:]) == 0
    assert record.pruned.text in capsys.readouterr().out
    names: dict = {}
    exec(python(record, EXAMPLE.place), names)
    again = names["record"]
    assert again.request == record.request
    assert again.kept.tolist() == record.kept.tolist()
    assert (again.full.text, again.pruned.text) == (record.full.text, record.pruned.text)


def test_a_link_opens_the_run_it_was_copied_from(handlers):
    record = RECORDS["visionzip"]
    link = read_link(dict(parse_qsl(query(record, EXAMPLE.key))), EXAMPLES, "demo")
    _, status, run, _ = handlers.open_link(link)
    assert "go" not in run, "this run is recorded"
    assert run["recipe"]["query"] == query(record, EXAMPLE.key)
    assert status["kind"] == "idle"
    other = read_link(dict(parse_qsl(query(record, EXAMPLE.key) + "&seed=7")), EXAMPLES, "demo")
    assert handlers.open_link(other)[2]["go"], "another seed is not recorded and begins to run"
    assert read_link({}, EXAMPLES, "demo") is None


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"example": "cat"}, "no example 'cat'"),
        ({"example": "digit", "method": "magic"}, "no method 'magic'"),
        ({"example": "digit", "keep": "many"}, "should be a number"),
        ({"example": "digit", "keep": "0"}, "allowed are 1 to 576"),
        ({"example": "digit", "model": "evil/model"}, "asks for the model"),
        ({"example": "digit", "question": "x" * 4001}, "the limit is 4000"),
        ({"example": "digit", "positions": "nowhere"}, "method, original or renumbered"),
        ({"example": "digit", "set.alpha": "99"}, "allows 0 to 8"),
        ({"example": "digit", "set.beta": "1"}, "beta"),
    ],
)
def test_a_bad_link_gets_a_sentence(handlers, fields, sentence):
    with pytest.raises(PruningError, match=sentence):
        handlers.open_link(read_link(fields, EXAMPLES, "demo"))
