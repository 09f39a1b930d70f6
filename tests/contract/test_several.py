"""Several pictures in one prompt, and videos: the same promises as for one picture, for every family that has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning.engine.run import run
from pruning.errors import CaptionRejectedError, ImageRejectedError, ParameterError, QuestionRejectedError
from pruning.inputs.content import MOST_PICTURES, VideoClip, digest_of
from pruning.methods import METHODS
from pruning.models.base import RunCallbacks
from pruning.records.compensation import Compensation
from pruning.records.run import RunRecord, kept_by_picture
from support.families import FAMILIES, patches
from support.following import N_NEW, ask, followed, spoken
from support.media import quadrants
from support.reference import QUESTION, log_probs
from support.tiny_models import PATCH, SIDE, make_tiny_adapter

ONE_ONLY = "llava_onevision"  # reads several without their tiles
VIDEO = ("qwen2_5_vl", "qwen3_vl")


@pytest.fixture(scope="module", params=["llava", *(name for name in FAMILIES if name != ONE_ONLY)])
def family(request):
    if request.param == "llava":
        return None, make_tiny_adapter()
    return FAMILIES[request.param], FAMILIES[request.param].make()


@pytest.fixture(scope="module", params=VIDEO)
def reader(request):
    return FAMILIES[request.param], FAMILIES[request.param].make()


@pytest.fixture(scope="module")
def pair() -> list[np.ndarray]:
    """Two pictures of different sizes."""
    draw = np.random.default_rng(1)
    return [draw.integers(0, 255, (*hw, 3), dtype=np.uint8) for hw in ((60, 90), (100, 70))]


@pytest.fixture(scope="module")
def clip() -> VideoClip:
    """Five frames, of which the last stands alone; twenty seconds apart, so that time outnumbers rows and columns."""
    draw = np.random.default_rng(2)
    return VideoClip(
        tuple(draw.integers(0, 255, (60, 90, 3), dtype=np.uint8) for _ in range(5)), (0.0, 20.0, 40.0, 60.0, 80.0)
    )


def test_a_family_of_one_picture_says_so(pair):
    with pytest.raises(ImageRejectedError, match="without their tiles"):
        FAMILIES[ONE_ONLY].make().prompt(pair, "what?")


def check_whole(adapter, visual_input):
    """Keep ratio 1 is plain `generate`; teacher forcing gives what generation gave."""
    prompt = adapter.prompt(visual_input, QUESTION)
    plain = adapter.model.generate(
        **prompt.inputs(), do_sample=False, max_new_tokens=N_NEW, return_dict_in_generate=True, output_logits=True
    )
    ids = plain.sequences[0, prompt.input_ids.shape[1] :]
    expected = [float(step[0].log_softmax(-1)[i]) for step, i in zip(plain.logits, ids, strict=True)]
    record, out = followed(adapter, ask("random_baseline", keep_ratio=1.0), visual_input)
    assert out.token_ids == ids.tolist()
    assert np.allclose(out.log_probs, spoken(adapter, out.token_ids, expected), atol=1e-5)
    assert record.full.visual_per_layer == (record.layout.n_tokens,) * adapter.info.text_layers
    full = adapter.project(adapter.encode_image(prompt, [], None, RunCallbacks()), None)
    scored = adapter.score(prompt, full, None, out.token_ids)
    assert np.allclose([float(p[i]) for p, i in zip(scored, out.token_ids, strict=True)], expected, atol=1e-5)


def check_pruned(tiny, adapter, visual_input, method, **more):
    """A pruned run is the run with the dropped tokens masked."""
    record, out = followed(adapter, ask(method, **more), visual_input)
    assert 0 < len(record.kept) < record.layout.n_tokens
    expected = spoken(adapter, out.token_ids, log_probs(adapter, visual_input, record, out.token_ids, tiny))
    assert np.allclose(out.log_probs, expected, atol=1e-5), (out.log_probs, expected)
    return record


def test_two_pictures_whole_and_pruned(family, pair):
    tiny, adapter = family
    check_whole(adapter, pair)
    for method in ("fastv", "uniform_grid"):
        record = check_pruned(tiny, adapter, pair, method, positions="renumbered")
    counts = kept_by_picture(record)
    assert [name for name, _, _ in counts] == ["picture 1", "picture 2"]
    assert sum(kept for _, kept, _ in counts) == len(record.kept)
    assert record.request.image_digest == digest_of(pair) != digest_of(pair[::-1])


def test_one_picture_is_the_plain_case(family, pair):
    _, adapter = family
    request = ask("divprune")
    alone, listed = (run(request, adapter, visual_input) for visual_input in (pair[0], pair[:1]))
    assert alone.request == listed.request
    assert alone.layout == listed.layout
    assert np.array_equal(alone.kept, listed.kept)
    assert alone.pruned.log_probs == listed.pruned.log_probs
    assert alone.notes == listed.notes == ()


def test_boxes_land_on_their_own_picture(family):
    """Coloured quadrants, the second picture turned upside down: what a token is made of lies under its box."""
    tiny, adapter = family
    pictures = [quadrants(200, 150), quadrants(150, 250)[::-1].copy()]
    prompt = adapter.prompt(pictures, "what?")
    layout = prompt.layout
    cut = tiny.tokens_read(adapter, prompt) if tiny else patches(prompt.pixels, SIDE // PATCH, PATCH)
    encoded = (cut.numpy() + 1) * 127.5
    assert len(encoded) == layout.n_tokens == int(prompt.visual.sum())
    hits = check_colours(encoded, layout, pictures)
    assert min(np.bincount(layout.picture_numbers()[hits], minlength=2)) >= 4


def check_colours(encoded, layout, pictures) -> list[int]:
    """Tokens in the middle of one colour, after seeing that they have it."""
    found = []
    for token, ((x0, y0, x1, y1), n) in enumerate(zip(layout.boxes(), layout.picture_numbers(), strict=True)):
        height, width = pictures[n].shape[:2]
        under = pictures[n][max(0, int(y0)) : int(y1) + 1, max(0, int(x0)) : int(x1) + 1].reshape(-1, 3)
        if x0 < 0 or y0 < 0 or x1 > width or y1 > height or len(np.unique(under, axis=0)) > 1:
            continue
        a, b = encoded.shape[1] // 4, encoded.shape[2] // 4
        assert np.abs(encoded[token][a:-a, b:-b].mean((0, 1)) - under[0]).max() < 40, (token, n)
        found.append(token)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_every_method_serves_two_pictures_or_refuses(tiny, pair, method):
    """On LLaVA, whose tower has everything that methods ask for."""
    if method == "tome":
        with pytest.raises(ParameterError, match=r"ToMe drops tokens inside .* several pictures side by side"):
            run(ask(method), tiny, pair)
        return
    record = check_pruned(None, tiny, pair, method)
    divided = METHODS[method].by_picture
    assert ("divides each" if divided else "one pool") in record.notes[-1]
    opened = RunRecord.from_parts(*record.to_parts())
    assert opened.layout == record.layout


@pytest.mark.parametrize(
    ("method", "parameters"), [("holov", {}), ("vscan", {}), ("vscan", {"windows": "windows of 4 x 4 tokens"})]
)
def test_windows_lie_in_one_picture(tiny, pair, method, parameters):
    """Two pictures that are alike get the same share of what windows give, wherever the prompt puts them."""
    record = run(ask(method, parameters=parameters), tiny, [pair[0], pair[0]])
    step, n = record.steps[0], record.layout.n_tokens
    if method == "holov":
        crop = step.extra["crop"]
        assert not set(crop[: n // 2]) & set(crop[n // 2 :])
        quota = step.extra["quota"]
        assert abs(int(quota[: len(quota) // 2].sum()) - int(quota[len(quota) // 2 :].sum())) <= 1
    else:
        local = step.extra["local"]
        assert abs(int((local < n // 2).sum()) - int((local >= n // 2).sum())) <= 1


def test_a_video_whole_and_pruned(reader, clip):
    tiny, adapter = reader
    check_whole(adapter, clip)
    check_pruned(tiny, adapter, clip, "divprune", positions="renumbered")
    record = check_pruned(tiny, adapter, clip, "fastv", positions="original")
    assert [name for name, _, _ in kept_by_picture(record)] == [
        "frames 1 and 2, 0.0 and 20.0 s", "frames 3 and 4, 40.0 and 60.0 s", "frame 5, 80.0 s",
    ]  # fmt: skip
    assert RunRecord.from_parts(*record.to_parts()).layout == record.layout


def test_tokens_of_a_video_know_their_frames_and_boxes(reader):
    """Every frame has its own turn of the colours, and a token shows both frames of its pair under its box."""
    tiny, adapter = reader
    base = quadrants(200, 150)
    frames = (base, base[::-1].copy(), base[:, ::-1].copy(), base[::-1, ::-1].copy())
    prompt = adapter.prompt(VideoClip(frames, (0.0, 0.5, 1.0, 1.5)), "what?")
    layout = prompt.layout
    assert layout.seconds == ((0.0, 0.5), (1.0, 1.5))
    for half, encoded in enumerate(tiny.frames_seen(prompt).numpy()):
        halves = [frames[half], frames[2 + half]]
        hits = check_colours((encoded + 1) * 127.5, layout, halves)
        assert min(np.bincount(layout.picture_numbers()[hits], minlength=2)) >= 8
    per_grid = layout.n_tokens // 2
    cols = layout.tiles[0].grid_hw[1]
    time, row, col = prompt.positions[:, prompt.visual]
    own = torch.arange(per_grid) // cols, torch.arange(per_grid) % cols
    assert torch.equal((row - row[0])[:per_grid], own[0])
    assert torch.equal((col - col[0])[:per_grid], own[1])
    assert len(set(time[:per_grid].tolist())) == len(set(time[per_grid:].tolist())) == 1
    assert int(time[per_grid]) > int(time[0])


def test_what_cannot_be_shown_is_refused_with_a_sentence(family, pair, clip):
    tiny, adapter = family
    with pytest.raises(ImageRejectedError, match="0 pictures; it may have 1 to 16"):
        adapter.prompt([], QUESTION)
    with pytest.raises(ImageRejectedError, match="Bring fewer"):
        adapter.prompt(pair[:1] * (MOST_PICTURES + 1), QUESTION)
    if tiny not in [FAMILIES[key] for key in VIDEO]:
        with pytest.raises(ImageRejectedError, match=r"no video; Qwen2.5-VL and Qwen3-VL"):
            adapter.prompt(clip, QUESTION)
    with pytest.raises(CaptionRejectedError, match="one picture; this run has 2"):
        run(ask("divprune", compensation=Compensation("accm")), adapter, pair)


def test_more_pictures_than_the_model_reads(tiny, pair):
    with pytest.raises(QuestionRejectedError, match=r"Question and 16 pictures make .* at most 512.* Bring fewer"):
        tiny.prompt(pair * 8, QUESTION)
