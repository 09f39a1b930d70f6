"""The signals of ONLY and ReVisiT, told again with the model's own maps and states; no answer is changed by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pruning.engine.run import run
from pruning.engine.session import RunContext
from pruning.models.base import RunCallbacks
from pruning.ops.decoding_signals import entropy_ratio, nearest_visual
from pruning.records.run import RunRecord, RunRequest
from support.tiny_models import tiny_llava

QUESTION = "What color is the star?"


def traced(adapter, noise, method="resprune", ratio=0.25) -> RunRecord:
    request = RunRequest("tiny", method, ratio, QUESTION, max_new_tokens=4)
    return run(request, adapter, noise, RunContext(callbacks=RunCallbacks(trace=True)))


@pytest.fixture(scope="module")
def record(tiny, noise) -> RunRecord:
    return traced(tiny, noise)


@pytest.fixture(scope="module")
def eager(tiny, noise):
    """What the bare model does: the prompt, and a plain generation with all its maps and states."""
    prompt = tiny.prompt(noise, QUESTION)
    model = tiny_llava(attention="eager")
    out = model.generate(
        input_ids=prompt.input_ids, pixel_values=prompt.pixels, do_sample=False, max_new_tokens=4,
        output_attentions=True, output_hidden_states=True, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    return prompt.visual, model, out


def entropy(weights: np.ndarray) -> float:
    weights = np.where(weights > weights.mean() + weights.std(ddof=1), 0, weights)
    share = weights / weights.sum()
    return float(-(share * np.log(share + 1e-6)).sum())


def test_the_entropy_ratio_is_that_of_the_first_layers_heads(record, eager):
    visual, _, out = eager
    for word, layers in enumerate(out.attentions):
        for head, row in enumerate(layers[0][0, :, -1].float().numpy()):
            image = np.zeros(len(row), bool)
            image[: len(visual)] = visual
            text = ~image
            text[0] = False
            expected = entropy(row[text]) / entropy(row[image])
            assert record.full.head_ratios[word, head] == pytest.approx(expected, rel=1e-3)


def test_the_nearest_token_predicts_most_like_the_word(record, eager):
    """By whole vocabularies, cut to the plausible words afterwards."""
    visual, model, out = eager
    states = out.hidden_states[0][-1][0, visual]  # the library's last ones are behind the norm
    everything = model.lm_head(states)
    for word, logits in enumerate(out.logits):
        probability = logits[0].softmax(-1)
        plausible = probability >= 1e-5 * probability.max()
        p = probability[plausible] / probability[plausible].sum()
        q = everything[:, plausible].softmax(-1)
        m = (p + q) / 2
        js = ((m * (m / q).log()).sum(-1) + (m * (m / p).log()).sum(-1)) / 2
        near = record.full.nearest[word]
        assert js[near] <= js.min() + 1e-6
    assert len(set(record.full.nearest.tolist())) > 1, "or the test above says little"


def test_in_a_pruned_run_words_are_near_survivors_only(record, tiny, noise):
    assert set(record.pruned.nearest.tolist()) <= set(record.kept.tolist())
    assert record.pruned.head_ratios.shape == (len(record.pruned.words), 4)
    late = traced(tiny, noise, "fastv")
    assert set(late.pruned.nearest.tolist()) <= set(late.kept.tolist())


def test_answers_are_the_same_without_them_and_records_come_back(record, tiny, noise, tmp_path):
    request = record.request
    plain = run(request, tiny, noise)
    assert (plain.full.text, plain.pruned.text) == (record.full.text, record.pruned.text)
    assert plain.full.head_ratios is None
    assert plain.full.nearest is None
    record.save(tmp_path / "r")
    back = RunRecord.load(tmp_path / "r")
    assert np.array_equal(back.full.nearest, record.full.nearest)
    assert np.array_equal(back.pruned.head_ratios, record.pruned.head_ratios)


def test_extremes():
    even = torch.full((2, 6), 1 / 6)
    image = torch.tensor([False, False, False, True, True, False])
    assert entropy_ratio(even, image).tolist() == pytest.approx([np.log(3) / np.log(2)] * 2, rel=1e-4)
    assert entropy_ratio(even, torch.zeros(6, dtype=torch.bool)).tolist() == [0, 0], "no picture left"
    head = torch.nn.Linear(3, 5, bias=False)
    states = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    assert nearest_visual(head(states)[4], states, head) == 4
