"""A video on the page: brought as a picture is, run by a model that reads one, refused with a sentence otherwise."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from app.handlers.explore import Handlers
from app.handlers.requests import RunForm
from app.media.examples import read_examples
from app.serving.service import Service
from app.session import SessionState, Visitor
from app.settings import Settings
from pruning.inputs import video
from pruning.inputs.content import digest_of
from pruning.inputs.video import read_video
from pruning.records.archive import unpack_run
from support.families import FAMILIES
from support.media import film
from viz.export.figure import draw
from viz.theme import LIGHT

START, ME = SessionState(), Visitor("me")
ASKED = RunForm("What color is the star?", "divprune", 18, "demo")
STEPS = ["frames 1 and 2, 0.0 and 0.5 s", "frames 3 and 4, 1.0 and 1.5 s", "frame 5, 2.0 s"]


@pytest.fixture(scope="module")
def qwen():
    return FAMILIES["qwen3_vl"].make()


def page(adapter, folder) -> Handlers:
    """The handlers of a page that serves one model, not loaded yet."""
    return Handlers(
        Service(Settings(max_new_tokens=2), load=lambda name, **kwargs: adapter), read_examples(), 36, folder
    )


def test_a_video_is_run_shown_taken_away_and_opened_again(qwen, tmp_path):
    handlers, path = page(qwen, tmp_path), film(tmp_path / "my film.mp4")
    _, said, before, _ = handlers.bring([path], START, "me")
    assert said["text"].startswith("5 frames of the video are in place, taken evenly from 0.0 to 2.0 s.")
    assert before["canvas"]["layout"]["names"][-1] == "frame 5, 2.0 s", "no model is there to say what the steps are"
    handlers.service.adapter("demo")
    state, _, before, _ = handlers.bring([path], START, "me")
    *_, (_, payload) = handlers.run(state, ASKED, ME)
    canvas = payload["canvas"]
    assert canvas["layout"] == before["canvas"]["layout"]
    assert canvas["layout"]["names"] == STEPS
    assert canvas["layout"]["frames"] == [[0, 1], [2, 3], [4]]
    assert [t["picture"] for t in canvas["layout"]["tiles"]] == [0, 1, 2]
    assert len(set(canvas["pictures"])) == 5
    assert canvas["stops"][-1]["rows"] == canvas["n_tokens"] // 2
    assert any("the 3 steps of the video" in note for note in payload["answers"]["notes"])
    assert "run --video your_video.mp4 --frames 5 " in payload["recipe"]["command"]
    assert "read_video('your_video.mp4', 5)" in payload["recipe"]["python"]

    headless = digest_of(read_video(path))
    assert handlers.record(state, ASKED, ME).request.image_digest == headless

    made = handlers.take(SimpleNamespace(kind="zip", number=1, source=payload["recipe"]["source"]), "me")
    data = base64.b64decode(made["data"])
    record, files = unpack_run(data)
    assert record.request.image_digest == headless
    assert files == [Path(path).read_bytes()]
    (tmp_path / "mine.zip").write_bytes(data)
    _, said, opened, _ = handlers.bring([str(tmp_path / "mine.zip")], START, "you")
    assert "Nothing was computed" in said["text"]
    assert opened["canvas"]["pictures"] == canvas["pictures"]
    assert [a.get_title() for a in draw(record, handlers.album.visual_input(state), 1, LIGHT, "").axes] == STEPS


def test_a_model_without_video_says_so_and_goes_on(tiny, tmp_path):
    handlers, path = page(tiny, tmp_path), film(tmp_path / "film.mp4")
    state, *_ = handlers.bring([path], START, "me")
    *_, (said, run) = handlers.run(state, ASKED, ME)
    sentence = "is shown pictures here, no video; Qwen2.5-VL and Qwen3-VL read both. Choose one of these, or bring"
    assert (said["kind"], run["answers"]) == ("error", {"state": "restore"})
    assert sentence in said["text"]
    state, said, *_ = handlers.bring([path], START, "me")  # now that the model is there, at once
    assert (state, said["kind"]) == (START, "error")
    assert sentence in said["text"]
    assert said["text"].endswith("The picture before it is still here.")
    assert handlers.bring([path], START, "me", "qwen3-vl-2b")[1]["kind"] == "idle", "the model that was chosen decides"
    *_, (said, _) = handlers.run(state, ASKED, ME)
    assert said["text"].startswith("Done")


def test_a_video_is_not_decoded_for_a_model_that_reads_none(tiny, tmp_path, monkeypatch):
    handlers, path = page(tiny, tmp_path), film(tmp_path / "film.mp4")
    handlers.service.adapter("demo")
    monkeypatch.setattr(video, "_from_file", lambda *args, **kwargs: pytest.fail("decoded"))
    assert "no video" in handlers.bring([path], START, "me")[1]["text"]


def test_strangers_videos_are_decoded_one_at_a_time(qwen, tmp_path, monkeypatch):
    handlers, path = page(qwen, tmp_path), film(tmp_path / "film.mp4")
    monkeypatch.setattr(video, "WAIT", 0.01)
    with video._ONE_AT_A_TIME:
        state, said, *_ = handlers.bring([path], START, "me")
    assert (state, said["kind"]) == (START, "error")
    assert said["text"].startswith("Another video is being read at the moment. Bring yours again")
    assert handlers.bring([path], START, "me")[1]["kind"] == "idle"


def test_the_clock_runs_to_the_last_frame(qwen, tmp_path, monkeypatch):
    handlers, path = page(qwen, tmp_path), film(tmp_path / "film.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(video, "_count", lambda *args: 5)
        patch.setattr(video, "PATIENCE", 0.0)
        assert "film.mp4 is too long" in handlers.bring([path], START, "me")[1]["text"]


def test_bad_videos_get_a_sentence(qwen, tmp_path, monkeypatch):
    handlers = page(qwen, tmp_path)
    good = film(tmp_path / "film.mp4")
    full = Path(good).read_bytes()
    broken = bytearray(full)
    at = full.index(b"mdat") + 4
    broken[at + 200 : full.index(b"moov") - 4] = bytes(len(broken[at + 200 : full.index(b"moov") - 4]))
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile film.mp4\n")  # which FFmpeg would follow
    (tmp_path / "<b>noise.mov").write_bytes(b"no video at all" * 99)
    (tmp_path / "cut.mp4").write_bytes(full[: len(full) // 2])
    (tmp_path / "broken.mp4").write_bytes(broken)
    (tmp_path / "empty.mp4").write_bytes(b"")
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    (tmp_path / "uploads").mkdir()
    for names, said in (
        (["list.mp4"], "list.mp4 is no video that can be read here. Bring one of MP4,"),
        (["<b>noise.mov"], "<b>noise.mov is no video that can be read here"),
        (["empty.mp4"], "empty.mp4 is no video"),
        (["cut.mp4"], "cut.mp4 is no video that can be read, or has fewer than 2 frames"),
        (["broken.mp4"], "in broken.mp4 can be decoded: it is damaged"),
        ([film(tmp_path / "one.mp4", 1)], "one.mp4 is no video that can be read, or has fewer than 2 frames"),
        (["a.png", "film.mp4"], "2 files came together, film.mp4 among them; a prompt shows pictures or one video"),
    ):
        state, status, *_ = handlers.bring([str(tmp_path / name) for name in names], START, "me")
        assert (state, status["kind"]) == (START, "error")
        assert said in status["text"]
    for bound, value, said in (
        ("PATIENCE", 0.0, "film.mp4 is too long: its frames cannot all be decoded in 0 s here. Cut it"),
        ("MOST_TAKEN", 3e4, "The frames of film.mp4 have 90 x 60 pixels; 8 of them may have 0 megapixels together."),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(video, bound, value)
            assert said in handlers.bring([good], START, "me")[1]["text"]
    elsewhere = page(qwen, tmp_path / "uploads")
    assert "no longer here" in elsewhere.bring([good], START, "me")[1]["text"]
    assert handlers.bring([good], START, "me")[1]["kind"] == "idle", "and the next one is taken"
