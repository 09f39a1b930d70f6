"""The properties that any caption compensation must have, on random weights."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pruning.compensation.accm import BEAMS, Accm
from pruning.compensation.base import LEAD, Discarded, clean_caption, inserted_text
from pruning.compensation.beam import beam_search, pad_left
from pruning.compensation.captioner import Captioner, CaptionerShape, captioner_flops
from pruning.compensation.checkpoint import Parts
from pruning.compensation.objective import (
    BETA,
    best_and_worst,
    bestof_weight,
    dpo_loss,
    kl_to_full,
    losses,
)
from pruning.compensation.selector import Selector, SelectorShape
from pruning.cost import break_even, prefill_flops
from pruning.demo_model.training.architecture import build_tokenizer
from pruning.demo_model.world.questions import HELP_PREFIX
from pruning.interface import ModelInfo
from pruning.layout import Tile, TokenLayout

TOKENIZER = build_tokenizer()
SHAPE = CaptionerShape(vision_dim=12, vocab=len(TOKENIZER), width=32, layers=2, heads=2, max_caption=10)


def captioner(seed=0, **changes) -> Captioner:
    torch.manual_seed(seed)
    from dataclasses import replace

    model = Captioner(replace(SHAPE, **changes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)  # decisive
    return model


def selector(seed=0, **changes) -> Selector:
    torch.manual_seed(seed)
    model = Selector(SelectorShape(text_dim=16, width=32, **changes)).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def questions(*texts):
    return pad_left([TOKENIZER(t, add_special_tokens=False)["input_ids"] for t in texts], TOKENIZER.pad_token_id)


# -- the captioner ----------------------------------------------------------------------------------------------------


def test_cached_decoding_equals_one_forward_pass():
    model, features = captioner(), torch.randn(2, 9, 12)
    asked, n_pad = questions("What color is the star?", "Count the stars.", "Where is it?", "How many?")
    caption = torch.randint(6, 100, (4, 5))
    memory = model.look(features)
    with torch.no_grad():
        full = model(memory, asked, n_pad, caption)
        logits, cache = model.start(memory, asked, n_pad)
        steps = [logits]
        for token in caption.T:
            logits, cache = model.proceed(memory, token, n_pad, cache)
            steps.append(logits)
    assert torch.allclose(torch.stack(steps, 1), full, atol=1e-5)


def test_padding_and_neighbours_change_nothing():
    model, features = captioner(), torch.randn(2, 9, 12)
    asked, n_pad = questions("What color is the large red star?", "Where is it?")
    caption = torch.randint(6, 100, (2, 5))
    alone, none = questions("Where is it?")
    with torch.no_grad():
        both = model(model.look(features), asked, n_pad, caption)
        one = model(model.look(features[1:]), alone, none, caption[1:])
    assert torch.allclose(both[1], one[0], atol=1e-5)


def test_order_and_number_of_discarded_tokens_are_free():
    model, features = captioner(), torch.randn(1, 9, 12)
    asked, n_pad = questions("Where is it?")
    caption = torch.randint(6, 100, (1, 5))
    shuffled = features[:, torch.randperm(9)]
    with torch.no_grad():
        a, b = (model(model.look(f), asked, n_pad, caption) for f in (features, shuffled))
        c = model(model.look(features[:, :2]), asked, n_pad, caption)
    assert torch.allclose(a, b, atol=1e-5)
    assert not torch.allclose(a, c, atol=1e-2)


def test_a_masked_token_is_as_if_it_were_not_there():
    """The captioner never sees kept patches: neither masked ones in training nor any others when it is used."""
    model, features = captioner(), torch.randn(1, 9, 12)
    asked, n_pad = questions("Where is it?")
    caption = torch.randint(6, 100, (1, 5))
    encoded = torch.tensor([[True] * 4 + [False] * 5])
    with torch.no_grad():
        masked = model(model.look(features, encoded), asked, n_pad, caption)
        changed = features.clone()
        changed[:, 4:] += 9
        same = model(model.look(changed, encoded), asked, n_pad, caption)
        cut = model(model.look(features[:, :4]), asked, n_pad, caption)
    assert torch.equal(masked, same)
    assert torch.allclose(masked, cut, atol=1e-5)


def exhaustive(model, memory, asked, n_pad, end, depth):
    """All captions up to `depth` tokens with their mean log-probability, the plain way."""
    found, open_ends = {}, [((), 0.0)]
    for _ in range(depth):
        longer = []
        for ids, total in open_ends:
            caption = torch.tensor([ids], dtype=torch.long).reshape(1, -1)
            step = model(memory, asked, n_pad, caption)[0, -1].log_softmax(-1)
            for word in range(len(step)):
                longer.append(((*ids, word), total + float(step[word])))
        found |= {ids: (total, len(ids)) for ids, total in longer if ids[-1] == end}
        open_ends = [(ids, total) for ids, total in longer if ids[-1] != end]
    return found | {ids: (total, len(ids)) for ids, total in open_ends}


@torch.no_grad()
def test_a_wide_beam_finds_the_best_captions_of_all():
    model = captioner(vocab=5, max_caption=3)
    memory = model.look(torch.randn(1, 4, 12))
    asked, n_pad = torch.tensor([[1, 2]]), torch.tensor([0])
    everything = exhaustive(model, memory, asked, n_pad, 4, 3)
    beams = beam_search(model, memory, asked, n_pad, end=4, n_beams=5)
    for j in range(5):
        ids = tuple(beams.tokens[0, j, : int(beams.lengths[0, j])].tolist())
        total, length = everything[ids]
        assert math.isclose(total, float(beams.log_probs[0, j]), abs_tol=1e-4)
        assert length == int(beams.lengths[0, j])
    means = beams.log_probs[0] / beams.lengths[0]
    assert bool((means[:-1] >= means[1:]).all())


def test_beams_of_a_batch_are_those_of_each_row():
    model, features = captioner(), torch.randn(2, 9, 12)
    asked, n_pad = questions("What color is the large red star?", "Where is it?", "Count.", "Is there a star?")
    end = TOKENIZER.eos_token_id
    together = beam_search(model, model.look(features), asked, n_pad, end)
    for row in range(4):
        mine = asked[row : row + 1, int(n_pad[row]) :]
        alone = beam_search(model, model.look(features[row // 2][None]), mine, torch.tensor([0]), end)
        for j in range(BEAMS):
            assert together.ids(row, j, end) == alone.ids(0, j, end)
        assert torch.allclose(together.log_probs[row], alone.log_probs[0], atol=1e-4)


def test_flops_of_the_captioner_are_those_of_its_matrices():
    """Counted with hooks on every linear layer while a search runs."""
    model, n_discarded = captioner(), 9
    counted = []
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(
                lambda m, x, y: counted.append(y.numel() // y.shape[-1] * m.in_features * m.out_features)
            )
    asked, n_pad = questions("What color is the star?")
    beams = beam_search(model, model.look(torch.randn(1, n_discarded, 12)), asked, n_pad, TOKENIZER.eos_token_id)
    s, n_question = model.shape, asked.shape[1]
    begun = n_question + s.prefix
    rows = begun + BEAMS * beams.steps
    lengths = begun**2 + BEAMS * sum(begun + i for i in range(1, beams.steps + 1))
    attention = s.layers * 2 * s.width * (lengths + (rows - n_question) * n_discarded)
    words = (1 + BEAMS * beams.steps) * s.width * s.vocab
    assert captioner_flops(s, n_discarded, n_question, beams.steps, BEAMS) == sum(counted) + attention + words


# -- the selector -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reads_scores", [True, False])
def test_the_selector_is_permutation_equivariant_and_adds_up_to_one(reads_scores):
    model = selector(reads_scores=reads_scores)
    text, scores = torch.randn(2, 3, 16), -torch.rand(2, 3)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        plain, turned = model(text, scores), model(text[:, order], scores[:, order])
        single = model(text[:, :1], scores[:, :1])
    assert torch.allclose(plain[:, order], turned, atol=1e-5)
    assert torch.allclose(plain.exp().sum(-1), torch.ones(2), atol=1e-5)
    assert not torch.allclose(plain[0, 0], plain[0, 1], atol=1e-3), "it does choose"
    assert torch.equal(single, torch.zeros(2, 1))


def accm(chooser=None, **changes) -> Accm:
    parts = Parts(captioner(**changes), chooser, {}, {})
    return Accm(parts, TOKENIZER, lambda texts: (torch.stack([torch.full((16,), len(t) / 9.0) for t in texts]), 7))


def discarded(n=9, kept=3, question="What color is the star?") -> Discarded:
    layout = TokenLayout((12, 12), (Tile((0, 0, 12, 12), (3, 4), (12, 12)),))
    ids = np.arange(kept, kept + n)
    rest = np.setdiff1d(np.arange(12), ids)
    return Discarded(torch.randn(n, 12), ids, rest, question, np.zeros((12, 12, 3), np.uint8), layout)


@pytest.mark.parametrize("chooser", [None, "trained"])
def test_identical_candidates_are_equally_likely_and_the_first_is_taken(chooser):
    model = accm(selector() if chooser else None)
    pi, cost = model.choose("Where?", ["a star"] * 3, torch.tensor([-3.0, -1.0, -2.0]), torch.tensor([3, 3, 3]))
    assert torch.allclose(pi, torch.full((3,), 1 / 3))
    assert int(pi.argmax()) == 0
    assert cost == 0


@pytest.mark.parametrize("chooser", [None, "trained"])
def test_a_proposal_keeps_its_contract(chooser):
    model = accm(selector() if chooser else None)
    proposal = model(discarded())
    assert len(proposal.candidates) == BEAMS
    assert math.isclose(sum(c.probability for c in proposal.candidates), 1, abs_tol=1e-5)
    assert proposal.candidates[proposal.chosen].probability == max(c.probability for c in proposal.candidates)
    assert all(c.log_prob < 0 for c in proposal.candidates)
    assert proposal.captioner_flops > 0
    assert (proposal.selector_flops > 0) == (chooser is not None)


def test_nothing_discarded_means_nothing_said():
    empty = discarded(n=0, kept=0)
    proposal = accm()(empty)
    assert proposal.candidates == ()
    assert proposal.chosen is None
    assert proposal.caption == ""
    assert proposal.captioner_flops == proposal.selector_flops == 0


def test_kept_and_discarded_are_disjoint_and_cover_everything():
    right = discarded()
    with pytest.raises(ValueError, match="cover"):
        Discarded(right.features, right.ids, right.kept[:-1], "?", right.picture, right.layout)
    with pytest.raises(ValueError, match="both"):
        Discarded(right.features, right.ids, np.append(right.kept, right.ids[0]), "?", right.picture, right.layout)


# -- learning ---------------------------------------------------------------------------------------------------------


def test_divergence_is_zero_for_the_same_and_never_negative():
    rng = torch.Generator().manual_seed(0)
    answers = torch.randn(6, 4, 50, generator=rng).mul(3).log_softmax(-1)
    assert float(kl_to_full(answers[0], answers[0])) == 0
    found = torch.stack([kl_to_full(answers[0], a) for a in answers])
    assert bool((found >= 0).all())
    assert bool((found[1:] > 0.1).all())
    by_hand = torch.nn.functional.kl_div(answers[1], answers[0], log_target=True, reduction="none").sum(-1).mean()
    assert math.isclose(float(found[1]), float(by_hand), abs_tol=1e-3)


def test_the_better_candidate_is_the_one_with_less_divergence():
    divergence = torch.tensor([[0.3, 0.1, 0.9], [2.0, 5.0, 1.0]])
    best, worst = best_and_worst(divergence)
    assert (best.tolist(), worst.tolist()) == ([1, 2], [2, 1])
    swapped = best_and_worst(divergence[:, [2, 1, 0]])
    assert [2 - i for i in swapped[0].tolist()] == best.tolist()
    assert [2 - i for i in swapped[1].tolist()] == worst.tolist()


def test_the_weight_of_bestof_is_zero_only_for_equals():
    assert float(bestof_weight(torch.tensor([[0.4, 0.4, 0.4], [1.0, 1.0, 1.0]]))) == 0
    assert float(bestof_weight(torch.tensor([[0.4, 0.4, 0.4], [1.0, 1.3, 1.0]]))) > 0
    assert math.isclose(float(bestof_weight(torch.tensor([[0.0, 3.0, 0.0]]))), 4.0, rel_tol=1e-6)


def test_dpo_starts_at_log_two_and_falls_when_the_better_becomes_likelier():
    p = torch.tensor([-4.0, -9.0])
    worse = torch.tensor([-3.0, -2.0])
    start = dpo_loss(p, worse, p, worse)
    assert torch.allclose(start, torch.full((2,), math.log(2)))
    assert bool((dpo_loss(p + 1, worse, p, worse) < start).all())
    assert bool((dpo_loss(p, worse + 1, p, worse) > start).all())
    assert math.isclose(float(dpo_loss(p + 1, worse, p, worse)[0]), math.log(1 + math.exp(-BETA)), rel_tol=1e-5)


@pytest.mark.parametrize("objective", ["dpo", "bestof"])
def test_both_losses_push_the_better_candidate_up(objective):
    divergence = torch.tensor([[0.9, 0.1, 0.5]])
    spoken = torch.tensor([[-5.0, -6.0, -7.0]], requires_grad=True)
    raw = torch.zeros(1, 3, requires_grad=True)
    caption, chosen, _ = losses(
        objective, divergence, spoken, spoken.detach(), torch.tensor([[5, 5, 5]]), raw.log_softmax(-1)
    )
    (caption + chosen).backward()
    assert spoken.grad[0, 1] < 0 < -spoken.grad[0, 1]
    assert raw.grad[0, 1] < 0
    assert (spoken.grad[0, 0] > 0) == (objective == "dpo")


@pytest.mark.parametrize("objective", ["dpo", "bestof"])
def test_equals_teach_nothing(objective):
    spoken = torch.tensor([[-5.0, -6.0, -7.0]], requires_grad=True)
    raw = torch.tensor([[0.3, 0.1, 0.2]], requires_grad=True)
    caption, chosen, weight = losses(
        objective, torch.full((1, 3), 0.7), spoken, spoken.detach(), torch.tensor([[5, 5, 5]]), raw.log_softmax(-1)
    )
    (caption + chosen).backward()
    assert float(weight) == 0
    assert not spoken.grad.any()
    assert not raw.grad.any()


# -- words and cost ---------------------------------------------------------------------------------------------------


def test_the_words_that_introduce_help_are_those_the_bundled_model_learnt():
    assert LEAD == HELP_PREFIX


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a red star.", "a red star"),
        ("a star\nASSISTANT: no", "a star no"),
        ("USER: a star <image> </s> <s>", "a star"),
        ("USUSER:ER: a star", "US ER: a star"),
        ("a\u2028star\x00 , a ring .", "a star, a ring"),
        ("<unk> <ima<image>ge> \u202e", "<ima ge>"),
        (" . ", ""),
        ("\n\n", ""),
    ],
)
def test_a_caption_can_never_command(text, clean):
    assert clean_caption(text, TOKENIZER.all_special_tokens) == clean
    assert clean_caption(clean, TOKENIZER.all_special_tokens) == clean


def test_an_empty_caption_inserts_nothing_at_all():
    assert inserted_text("") == ""
    assert inserted_text("a star") == "Additional information: a star."


def test_break_even_is_where_the_costs_meet():
    info = ModelInfo("m", 4, 3, 6, 32, 64, 64, 128, 64, frozenset())
    visual, text = [18, 18, 9, 9, 9, 9], 20
    for more in (1, 7, 40):
        cost = prefill_flops([n + more for n in visual], text, 64, 128, 64) - prefill_flops(visual, text, 64, 128, 64)
        assert math.isclose(break_even(info, visual, text, cost), more, abs_tol=1e-9)
    assert break_even(info, visual, text, 0) == 0
    assert 7 < break_even(info, visual, text, cost / 5) < 9
