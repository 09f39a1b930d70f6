"""Several pictures and videos as data: layouts, files, and what is refused on the way in."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pruning.cli.parser import main
from pruning.demo_model.training.architecture import build_processor
from pruning.errors import GeometryError, ImageRejectedError
from pruning.inputs.content import VideoClip, digest_of
from pruning.inputs.video import read_video
from pruning.layout import Tile, TokenLayout
from pruning.models.base import RunCallbacks
from pruning.models.bundled import DrawnWorld
from pruning.records.run import RunRecord
from support.tiny_models import PATCH, SIDE, tiny_llava

WIDE = TokenLayout((60, 40), (Tile((0, 0, 60, 40), (2, 3), (30, 20)),))
TALL = TokenLayout((20, 50), (Tile((-15, 0, 35, 50), (3, 3), (9, 9)), Tile((0, 0, 20, 50), (1, 1), (9, 9))))


def frame(number: int, side: int = 32) -> np.ndarray:
    """A picture as bright as its number says."""
    return np.full((side, side + 16, 3), 20 * number, np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven frames."""
    where = tmp_path_factory.mktemp("frames")
    for n in range(11):
        Image.fromarray(frame(n)).save(where / f"frame{n:03}.png")
    (where / "notes.txt").write_text("no frame")
    return where


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("film") / "film.avi")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10.0, (48, 32))
    for n in range(11):
        writer.write(frame(n))
    writer.release()
    return path


def test_a_joined_layout_says_where_every_token_lies():
    both = TokenLayout.joined([WIDE, TALL])
    assert both.pictures_wh == ((60, 40), (20, 50))
    assert both.names() == ["picture 1", "picture 2"]
    assert both.picture_numbers().tolist() == [0] * 6 + [1] * 10
    assert both.boxes().tolist() == [*WIDE.boxes().tolist(), *TALL.boxes().tolist()]
    assert both.positions().tolist() == [*WIDE.positions().tolist(), *TALL.positions().tolist()]
    assert both.padding().tolist() == [*WIDE.padding().tolist(), *TALL.padding().tolist()]
    assert both.views() == [[0], [1], [2]]
    assert both.parts() == [WIDE, TALL]
    assert not both.coverage(np.ones((40, 60), bool))[6:].any()
    assert TokenLayout.from_dict(json.loads(json.dumps(both.to_dict()))) == both


def test_one_picture_is_written_as_before():
    assert TokenLayout.joined([TALL]) == TALL
    assert set(TALL.to_dict()) == {"picture_wh", "tiles"}
    assert set(TALL.to_dict()["tiles"][0]) == {"box_xyxy", "grid_hw", "model_wh"}


def test_a_video_names_its_frames():
    film = TokenLayout.joined([WIDE, WIDE], [(0.0, 0.5), (1.0,)])
    assert film.names() == ["frames 1 and 2, 0.0 and 0.5 s", "frame 3, 1.0 s"]
    assert TokenLayout.from_dict(json.loads(json.dumps(film.to_dict()))) == film


def test_layouts_that_contradict_themselves_are_refused():
    with pytest.raises(GeometryError, match="2 pictures need tiles each"):
        TokenLayout((60, 40), WIDE.tiles, ((20, 50),))
    with pytest.raises(GeometryError, match="seconds of its frames"):
        TokenLayout.joined([WIDE, WIDE], [(0.0,)])


def test_frames_are_taken_evenly_from_a_folder_and_from_a_file(folder, film):
    bright, seconds = [0, 5, 10], (0.0, 5.0, 10.0)
    clip = read_video(folder, 3)
    assert [int(f[0, 0, 0]) // 20 for f in clip.frames] == bright
    assert clip.seconds == seconds
    assert read_video(folder, 3, rate=2.0).seconds == (0.0, 2.5, 5.0)
    decoded = read_video(film, 3)
    assert [round(float(f.mean()) / 20) for f in decoded.frames] == bright
    assert decoded.seconds == (0.0, 0.5, 1.0)
    assert decoded.in_steps(2) == [(0, 1), (2,)]
    assert len(read_video(folder, 64).frames) == 11
    assert digest_of(clip) != digest_of(list(clip.frames))


def test_what_is_no_video_is_refused_with_a_sentence(folder, film, tmp_path):
    for n, said in ((1, "1 frames were asked for; allowed are 2 to 64"), (65, "65 frames"), (2.5, "2.5 frames")):
        with pytest.raises(ImageRejectedError, match=said):
            read_video(folder, n)
    with pytest.raises(ImageRejectedError, match="must be above 0"):
        read_video(folder, 4, rate=float("nan"))
    with pytest.raises(ImageRejectedError, match="neither a file nor a folder"):
        read_video(tmp_path / "nothing.mp4")
    with pytest.raises(ImageRejectedError, match="0 picture files; a video needs at least 2"):
        read_video(tmp_path)
    (tmp_path / "noise.mp4").write_bytes(b"no video at all" * 99)
    with pytest.raises(ImageRejectedError, match="no video that can be read"):
        read_video(tmp_path / "noise.mp4")
    for name, data in (("a.png", (folder / "frame000.png").read_bytes()), ("b.png", b"\x89PNG damaged")):
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageRejectedError, match=r"Frame b\.png: "):
        read_video(tmp_path)
    with pytest.raises(ImageRejectedError, match="of one size; these are 48 x 32 and 80 x 64"):
        VideoClip((frame(1), frame(2, 64)), (0.0, 1.0))
    with pytest.raises(ImageRejectedError, match="must rise"):
        VideoClip((frame(1), frame(2)), (1.0, 1.0))


def test_a_film_that_is_cut_off_is_refused(film, tmp_path):
    full = Path(film).read_bytes()
    broken = bytearray(full)
    at = [i for i in range(len(full)) if full.startswith(b"00dc", i)]
    for i in at[3:9]:  # the pixels of some frames, not the index
        broken[i + 8 : i + 200] = bytes(192)
    (tmp_path / "broken.avi").write_bytes(broken)
    with pytest.raises(ImageRejectedError, match=r"\d of 11 frames in broken.avi can be decoded: it is damaged"):
        read_video(tmp_path / "broken.avi", 11)


def test_the_command_line_shows_several_pictures(folder, tmp_path, capsys):
    model = tmp_path / "model"
    tiny_llava().save_pretrained(model)
    build_processor(SIDE, PATCH).save_pretrained(model)
    pictures = ["--image", str(folder / "frame003.png"), "--image", str(folder / "frame009.png")]
    rest = ["What color is the star?", "--model", str(model), "--max-new-tokens", "2"]
    out = tmp_path / "record"
    assert main(["run", *pictures, *rest, "--method", "uniform_grid", "--keep-ratio", "0.5", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "picture 1: 18 of 36 tokens kept" in printed
    assert "picture 2: 18 of 36 tokens kept" in printed
    assert "divides each of the 2 pictures by itself" in printed
    assert RunRecord.load(out).layout.n_pictures == 2
    assert main(["run", "--video", str(folder), *rest]) == 2
    assert "Qwen2.5-VL and Qwen3-VL read both" in capsys.readouterr().err
    assert main(["run", *pictures, "--video", str(folder), *rest]) == 2
    assert "came together" in capsys.readouterr().err


def test_the_bundled_model_says_that_it_was_trained_on_one_picture(tiny, monkeypatch):
    monkeypatch.setattr(DrawnWorld, "distance", lambda self, pooled: 0.0)
    world = DrawnWorld(None, None, 1.0)
    encoded = tiny.encode_image(tiny.prompt([frame(1), frame(2)], "what is red?"), [], None, RunCallbacks())
    assert "trained on one picture at a time and now sees 2" in world(tiny.tokenizer, encoded, "what is red?", 2)[0]
    assert world(tiny.tokenizer, encoded, "what is red?") == []
