"""Several pictures on the page: brought together, run as one prompt, taken away and opened again."""

from __future__ import annotations

import base64
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from app.handlers.explore import Handlers
from app.handlers.requests import RunForm
from app.media import album as album_module
from app.media.examples import read_examples
from app.serving.service import Service
from app.session import SessionState, Visitor
from app.settings import Settings
from pruning.records.archive import unpack_run
from viz.export.figure import draw
from viz.theme import LIGHT

START = SessionState()
SIZES = ((60, 90), (100, 70))


@pytest.fixture
def handlers(tiny, tmp_path) -> Handlers:
    return Handlers(
        Service(Settings(max_new_tokens=2), load=lambda name, **kwargs: tiny), read_examples(), 36, tmp_path
    )


@pytest.fixture
def files(tmp_path) -> list[str]:
    draw = np.random.default_rng(5)
    paths = [tmp_path / f"{n}.png" for n in range(2)]
    for path, hw in zip(paths, SIZES, strict=True):
        Image.fromarray(draw.integers(0, 255, (*hw, 3), dtype=np.uint8)).save(path)
    return [str(p) for p in paths]


def test_two_pictures_are_one_prompt(handlers, files, tmp_path):
    state, status, before, _ = handlers.bring(files, START, "me")
    assert status["text"].startswith("2 pictures are in place")
    assert "trained on one picture at a time" in status["text"]
    assert before["canvas"]["layout"]["pictures_wh"] == [[90, 60], [70, 100]]
    asked = RunForm("What color is the star?", "uniform_grid", 18, "demo")
    *_, (status, payload) = handlers.run(state, asked, Visitor("me"))
    canvas = payload["canvas"]
    assert len(canvas["pictures"]) == 2
    assert canvas["pictures"] == before["canvas"]["pictures"]
    assert canvas["layout"]["names"] == ["picture 1", "picture 2"]
    assert [t["picture"] for t in canvas["layout"]["tiles"]] == [0, 1]
    assert canvas["layout"]["views"] == [[0], [1]]
    assert (canvas["n_tokens"], canvas["stops"][-1]["rows"]) == (72, 36)
    assert any("by itself" in note for note in payload["answers"]["notes"])
    assert "--image your_picture.jpg --image your_picture2.jpg" in payload["recipe"]["command"]
    assert "for p in ['your_picture.jpg', 'your_picture2.jpg']" in payload["recipe"]["python"]

    made = handlers.take(SimpleNamespace(kind="zip", number=1, source=payload["recipe"]["source"]), "me")
    data = base64.b64decode(made["data"])
    record, pictures = unpack_run(data)
    assert len(pictures) == record.layout.n_pictures == 2
    (tmp_path / "mine.zip").write_bytes(data)
    _, status, opened, _ = handlers.bring([str(tmp_path / "mine.zip")], START, "you")
    assert "Nothing was computed" in status["text"]
    assert opened["canvas"]["pictures"] == canvas["pictures"]
    axes = draw(record, handlers.album.pictures(state), 1, LIGHT, "").axes
    assert [a.get_xlim() for a in axes] == [(0, w) for _, w in SIZES]


def test_what_is_too_much_or_no_picture_is_refused(handlers, files, tmp_path, monkeypatch):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    for paths, said in (
        ([*files, str(tmp_path / "broken.png")], "not a picture"),
        (files * 5, "10 pictures came together; a prompt here may have 8"),
        ([], "no longer here"),
        ([files[0], "/etc/passwd"], "no longer here"),
    ):
        state, status, *_ = handlers.bring(paths, START, "me")
        assert state == START
        assert status["kind"] == "error"
        assert said in status["text"]
    monkeypatch.setattr(album_module, "MOST_MEGAPIXELS", 0.01)
    assert "too large together; the limit is 0.01" in handlers.bring(files, START, "me")[1]["text"]
