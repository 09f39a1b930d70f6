"""The pretrained pair in small: two parts joined without being changed, and a DINOv2 tower that serves every method."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning.engine.plan import make_plan
from pruning.engine.run import run
from pruning.engine.session import Compressed
from pruning.errors import ModelUnavailableError
from pruning.interface import Part
from pruning.methods import METHODS
from pruning.models import load
from pruning.models.base import RunCallbacks
from pruning.models.families.llava import LlavaAdapter
from pruning.models.loading.joined_pair import join, tower_of
from pruning.records.plan import PlanRequest
from support.following import IN_TOWER, ask, followed
from support.joined_pair import CELLS, HEAD_DIM, PATCH, exported, tiny_language, tiny_pair, tiny_tower
from support.noise import Noise
from support.reference import QUESTION, log_probs


@pytest.fixture(scope="module")
def pair():
    return tiny_pair()


@torch.inference_mode()
def test_the_tower_of_an_export_is_the_tower(pair):
    """Also with more patches than it was trained with, where the class itself would stretch its positions."""
    tower = tiny_tower()
    for cells in (CELLS, CELLS + 3):
        pixels = torch.randn(1, 3, cells * PATCH, cells * PATCH, generator=torch.Generator().manual_seed(0))
        found = tower_of(*exported(tower), cells=cells, head_dim=HEAD_DIM)
        assert found.config.image_size == cells * PATCH
        assert found.embeddings.position_embeddings.shape[1] == cells**2 + 1
        assert torch.allclose(found(pixels).last_hidden_state, tower(pixels).last_hidden_state, atol=1e-5)


@torch.inference_mode()
def test_the_language_model_is_left_as_it_was(pair):
    language, tokenizer = tiny_language()
    ids = tokenizer("the large star is blue", return_tensors="pt")["input_ids"]
    before, n = language(ids).logits, len(tokenizer)
    model, processor = join(tiny_tower(), language, tokenizer)
    after = model(ids).logits
    assert torch.equal(after[..., :n], before)
    assert after.shape[-1] == n + 1 == len(processor.tokenizer)
    assert torch.allclose(after[..., n], before.mean(-1), atol=1e-5)  # so `<image>` is never the likeliest word
    again, _ = join(tiny_tower(), *tiny_language())
    projector = model.model.multi_modal_projector.state_dict()
    assert all(torch.equal(t, projector[name]) for name, t in again.model.multi_modal_projector.state_dict().items())


def test_it_opens_from_a_folder_and_calls_itself_mechanics(pair, tmp_path, noise):
    pair.model.save_pretrained(tmp_path)
    pair.processor.save_pretrained(tmp_path)
    opened = load(str(tmp_path))
    assert opened.fingerprint == pair.fingerprint
    prompt = opened.prompt(noise, QUESTION)
    assert int(prompt.visual.sum()) == prompt.layout.n_tokens == CELLS**2
    text = opened.chat.render(QUESTION, ["image"]).text
    assert text == f"<|im_start|>user <image>\n{QUESTION}<|im_end|><|im_start|>assistant "
    record = run(ask("visionzip"), opened, noise)
    assert "never trained" in record.notes[0]
    assert "Mechanics, not answers" in record.notes[0]


def test_keep_ratio_one_equals_plain_generate(pair, noise):
    prompt = pair.prompt(noise, QUESTION)
    assert pair.tokenizer.pad_token_id in prompt.input_ids  # it ends the person's turn, and is no padding there
    everything = torch.ones_like(prompt.input_ids)
    plain = pair.model.generate(**prompt.inputs(), attention_mask=everything, do_sample=False, max_new_tokens=3)
    _, out = followed(pair, ask("random_baseline", keep_ratio=1.0), noise)
    assert out.token_ids == plain[0, prompt.input_ids.shape[1] :].tolist()
    with torch.inference_mode():
        encoded = pair.encode_image(prompt, [], None, RunCallbacks())
        states = pair.model.model.vision_tower(prompt.pixels, output_hidden_states=True).hidden_states
    assert torch.equal(encoded.features, states[-2][0, 1:])
    assert torch.equal(encoded.cls, states[-2][0, 0])


@pytest.mark.parametrize(
    ("method", "parameters"), [*((m, {}) for m in METHODS), ("random_baseline", IN_TOWER)], ids=str
)
def test_pruned_run_equals_masked_run(pair, noise, method, parameters):
    record, out = followed(pair, ask(method, parameters), noise)
    assert record.steps
    assert len(record.kept) < record.layout.n_tokens
    expected = log_probs(pair, noise, record, out.token_ids)
    spoken = [p for p, i in zip(expected, out.token_ids, strict=True) if i not in pair.tokenizer.all_special_ids]
    assert np.allclose(out.log_probs, spoken, atol=1e-5), (out.log_probs, spoken)


def test_heads_and_ranks_of_the_tower_can_be_taken_out(pair, noise):
    wanted = PlanRequest("tiny", parts=[Part.TOWER.value], heads=0.5, n_pairs=1)
    plan = make_plan(pair, wanted, Noise(QUESTION))
    view = pair.compressed(plan)
    try:
        record = run(ask("divprune"), pair, noise, compressed=Compressed(plan, view))
    finally:
        view.close()
    assert record.structure.heads[Part.TOWER] == (6, 12)  # of the three layers that are read
    assert record.pruned_cost.tower_flops < record.full_cost.tower_flops


def test_gated_feed_forward_parts_are_refused_by_name(pair):
    tower = tiny_tower()
    tower.config.use_swiglu_ffn = True
    model, processor = join(tower, *tiny_language())
    with pytest.raises(ModelUnavailableError, match="has a dinov2 tower with gated feed-forward parts; this version"):
        LlavaAdapter(model, processor, "DINOv2 giant")
