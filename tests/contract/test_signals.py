"""What a method is shown is what the model really computes: against eager attention maps and the plain KV cache."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from pruning.engine.head_attention import head_attention
from pruning.engine.run import run
from pruning.engine.session import RunContext
from pruning.interface import (
    ATTENTION_SIGNALS,
    LANGUAGE_SIGNALS,
    STATE_SIGNALS,
    TOWER_SIGNALS,
    Decision,
    Observation,
    Part,
    Signal,
    Stage,
)
from pruning.models.base import RunCallbacks, VisionFeatures
from pruning.records.run import RunRequest
from support.families import FAMILIES
from support.reference import QUESTION
from support.tiny_models import make_tiny_adapter, tiny_llava


class Curious:
    """A decider that looks at everything before the last layer and drops nothing."""

    def __init__(self, info):
        self.stages = (Stage(Part.LANGUAGE_MODEL, info.text_layers - 1),)
        layers = range(info.text_layers - 1)
        self.observations = [Observation(s, i) for s in sorted(LANGUAGE_SIGNALS) for i in layers]
        self.observations += [
            Observation(s, len(layers), ahead=s in ATTENTION_SIGNALS) for s in ATTENTION_SIGNALS | STATE_SIGNALS
        ]
        self.observed = None

    def decide(self, stage, features, ids, observations, *, text=None):
        self.observed, self.text, self.features = observations, text, features
        return Decision(torch.arange(len(ids)))

    def positions_at(self, stage):
        return "original"


@torch.inference_mode()
def test_language_signals_equal_eager_maps_and_cache(noise):
    for kv_heads in (1, 2, 4):
        adapter = make_tiny_adapter(kv_heads=kv_heads)
        prompt = adapter.prompt(noise, QUESTION)
        curious = Curious(adapter.info)
        encoded = adapter.encode_image(prompt, [], None, RunCallbacks())
        adapter.answer(prompt, adapter.project(encoded, None), curious, 1, RunCallbacks())
        eager = tiny_llava(attention="eager", kv_heads=kv_heads)
        out = eager(
            input_ids=prompt.input_ids,
            pixel_values=prompt.pixels,
            output_attentions=True,
            output_hidden_states=True,
            use_cache=True,
        )
        behind = int(prompt.visual.nonzero()[-1]) + 1
        everywhere = (curious.observed, curious.text.observations, curious.text.observations_before)
        assert all(part.keys() == set(curious.observations) for part in everywhere)
        for observation in curious.observations:
            expected, rows = _computed(eager, out, observation, behind)
            visual = prompt.visual.nonzero()[:, 0]
            where = (visual, slice(behind, None), slice(0, int(visual[0])))
            for part, place in zip(everywhere, where, strict=True):
                wanted = expected[..., place] if rows == "last" else expected[..., place, :]
                atol = 1e-4 if observation.signal in STATE_SIGNALS else 1e-5
                torch.testing.assert_close(part[observation], wanted, atol=atol, rtol=1e-4)
        assert curious.text.first == behind
        states = out.hidden_states[adapter.info.text_layers - 1][0]
        torch.testing.assert_close(curious.features, states[prompt.visual], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(curious.text.states, states[behind:], atol=1e-4, rtol=1e-4)
        asked = [w for w, mine in zip(curious.text.token_texts, curious.text.in_question, strict=True) if mine]
        assert " ".join(w.strip() for w in asked) == "what color is the large star ?"


def _computed(eager, out, observation, behind):
    """What the eager model computed, for the whole prompt, and whether tokens are the last axis."""
    layer, core = observation.layer, eager.model.language_model
    cache = out.past_key_values.layers[layer]
    match observation.signal:
        case Signal.LAST_TOKEN_ATTENTION:
            return out.attentions[layer][0, :, -1], "last"
        case Signal.TEXT_ATTENTION:
            return out.attentions[layer][0, :, behind:], "last"
        case Signal.LANGUAGE_KEYS:
            return cache.keys[0], ""
        case Signal.LANGUAGE_VALUES:
            return cache.values[0], ""
        case Signal.LANGUAGE_STATES:
            return out.hidden_states[layer][0], ""
        case Signal.NORMED_STATES:
            return core.norm(out.hidden_states[layer][0]), ""
        case Signal.ROTARY:
            states = out.hidden_states[layer]
            return torch.cat(core.rotary_emb(states, torch.arange(states.shape[1])[None])), ""
    raise AssertionError(observation)


@torch.inference_mode()
def test_tower_signals_equal_eager_maps_and_key_projection(noise):
    adapter = make_tiny_adapter()
    prompt = adapter.prompt(noise, QUESTION)
    layers = range(adapter.info.feature_layer + 1)
    observations = [Observation(s, i) for s in sorted(TOWER_SIGNALS) for i in layers]
    encoded = adapter.encode_image(prompt, observations, None, RunCallbacks())
    eager = tiny_llava(attention="eager").model.vision_tower
    keys, queries = {}, {}
    for i in layers:
        attention = eager.encoder.layers[i].self_attn
        attention.k_proj.register_forward_hook(lambda m, a, out, i=i: keys.setdefault(i, out))
        attention.q_proj.register_forward_hook(lambda m, a, out, i=i: queries.setdefault(i, out))
    out = eager(prompt.pixels, output_attentions=True, output_hidden_states=True)
    for observation in observations:
        if observation.signal is Signal.CLS_ATTENTION:
            expected = out.attentions[observation.layer][0, :, 0, 1:]
        elif observation.signal is Signal.RECEIVED_ATTENTION:
            expected = out.attentions[observation.layer][0].mean(1)[:, 1:]
        elif observation.signal is Signal.CLS_ATTENTION_WIDE:
            query, key = queries[observation.layer][0, 0], keys[observation.layer][0]
            expected = (key @ query / len(query) ** 0.5).softmax(0)[None, 1:]
        elif observation.signal is Signal.TOWER_KEYS_MEAN:
            expected = keys[observation.layer][0, 1:].view(36, attention.num_heads, -1).mean(1)
        else:
            expected = keys[observation.layer][0, 1:]
        torch.testing.assert_close(encoded.observations[observation], expected, atol=1e-5, rtol=1e-4)
    hidden = out.hidden_states[-2][0]
    torch.testing.assert_close(encoded.features, hidden[1:], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(encoded.cls, hidden[0], atol=1e-5, rtol=1e-4)
    assert encoded.tokens_per_layer == [37] * adapter.info.tower_layers


@torch.inference_mode()
def test_what_a_head_looks_at_is_its_mean_row_in_the_eager_maps(noise):
    """A head is a group of query heads that share a key."""
    for kv_heads in (2, 4):
        adapter = make_tiny_adapter(kv_heads=kv_heads)
        prompt = adapter.prompt(noise, QUESTION)
        eager = tiny_llava(attention="eager", kv_heads=kv_heads)
        out = eager(input_ids=prompt.input_ids, pixel_values=prompt.pixels, output_attentions=True)
        maps = eager.model.vision_tower(prompt.pixels, output_attentions=True).attentions
        behind, layer = int(prompt.visual.nonzero()[-1]) + 1, adapter.info.text_layers - 1
        group = out.attentions[layer][0, -4 // kv_heads :, behind:][..., prompt.visual].mean((0, 1))
        for part, at, n_heads, expected in (
            (Part.LANGUAGE_MODEL, layer, kv_heads, group), (Part.TOWER, 1, 4, maps[1][0, 3].mean(0)[1:]),
        ):  # fmt: skip
            found = head_attention(adapter, prompt, part, at, n_heads - 1, n_heads)
            torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_word_attention_equals_the_eager_maps(noise):
    """Mean over heads and layers of the row that produced each word, for the prompt and for new tokens."""
    from pruning.engine.run import run
    from pruning.models.base import RunCallbacks
    from pruning.records.run import RunRequest

    adapter = make_tiny_adapter()
    request = RunRequest("tiny", "resprune", 1.0, QUESTION, max_new_tokens=4)
    record = run(request, adapter, noise, RunContext(callbacks=RunCallbacks(trace=True)))
    prompt = adapter.prompt(noise, QUESTION)
    eager = tiny_llava(attention="eager")
    out = eager.generate(
        input_ids=prompt.input_ids, pixel_values=prompt.pixels, do_sample=False, max_new_tokens=4,
        output_attentions=True, return_dict_in_generate=True,
    )  # fmt: skip
    for word, layers in enumerate(out.attentions):
        rows = torch.stack([a[0, :, -1, : len(prompt.visual)][:, prompt.visual].mean(0) for a in layers])
        expected = rows.mean(0)
        got = torch.from_numpy(record.full.attention[word].astype("float32"))
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=2e-3)


def test_word_attention_of_a_pruned_run_lies_on_survivors_only(noise):
    from pruning.engine.run import run
    from pruning.methods import METHODS
    from pruning.models.base import RunCallbacks
    from pruning.records.run import RunRequest

    adapter = make_tiny_adapter()
    for method in METHODS:
        record = run(
            RunRequest("tiny", method, 0.4, QUESTION, max_new_tokens=3),
            adapter,
            noise,
            RunContext(callbacks=RunCallbacks(trace=True)),
        )
        attention = record.pruned.attention.astype("float32")
        assert attention.shape == (len(record.pruned.words), 36)
        ever = (
            {i for s in record.steps for i in s.selection.kept.tolist()} if len(record.steps) > 1 else set(record.kept)
        )
        if record.steps[0].stage.part is not Part.LANGUAGE_MODEL or record.steps[0].stage.layer == 0:
            assert set((attention.sum(0) > 0).nonzero()[0].tolist()) <= ever
        assert (attention.sum(1) > 0).all()
        assert (attention.sum(1) <= 1.001).all()
        assert set(record.nearest_kept.tolist()) <= set(record.kept.tolist())
        kept = list(record.kept)
        assert record.nearest_kept[kept].tolist() == kept
        assert (record.nearest_cosine[kept] > 0.999).all()


def test_what_the_tower_showed_is_there_behind_the_projector(noise, monkeypatch):
    from pruning.engine.run import run
    from pruning.methods import METHODS
    from pruning.records.run import RunRequest

    adapter, contexts, select = make_tiny_adapter(), [], METHODS["vscan"].select

    def spy(self, context, n_keep):
        contexts.append((context.ids, context.observations))
        return select(self, context, n_keep)

    monkeypatch.setattr(METHODS["vscan"], "select", spy)
    run(RunRequest("tiny", "vscan", 0.3, QUESTION, max_new_tokens=1), adapter, noise)
    observations = [
        observation
        for observation in METHODS["vscan"]().observations(adapter.info)
        if observation.signal in TOWER_SIGNALS
    ]
    full = adapter.encode_image(adapter.prompt(noise, QUESTION), observations, None, RunCallbacks()).observations
    assert len({len(ids) for ids, _ in contexts}) == len(contexts) == 2
    for ids, cut in contexts:
        for observation in observations:
            torch.testing.assert_close(cut[observation], full[observation][:, ids])


@torch.inference_mode()
@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "idefics3", "internvl"])
def test_received_attention_is_the_mean_over_all_rows_of_the_eager_maps(monkeypatch, noise, name):
    """Windows and tiles one by one; a map of a token's patches is added up as its features are laid side by side."""
    adapter = FAMILIES[name].make(attention="eager")
    tower = adapter._anatomy.tower
    module = sys.modules[type(tower).__module__]
    eager, maps = module.eager_attention_forward, {}

    def noted(attention, *args, **kwargs):
        out, weights = eager(attention, *args, **kwargs)
        found = maps.setdefault(next(attention.parameters()), [])
        found += weights  # one map `[heads, rows, rows]` for each tile or window
        return out, weights

    monkeypatch.setattr(module, "eager_attention_forward", noted)
    prompt = adapter.prompt(noise, QUESTION)
    observations = [Observation(Signal.RECEIVED_ATTENTION, layer) for layer in range(adapter.info.tower_layers)]
    encoded = adapter.encode_image(prompt, observations, None, RunCallbacks())
    prefix = int(adapter.info.has_cls)
    for observation in observations:
        each = maps[next(adapter._tower.attention(observation.layer).parameters())]
        n_rows = sum(m.shape[-1] for m in each)
        patches = torch.cat([m.sum(1)[:, prefix:] for m in each], 1) / n_rows
        features = torch.zeros(patches.shape[1], adapter.info.vision_dim)
        nothing_deep = SimpleNamespace(deepstack_features=[])
        rows = VisionFeatures(features, torch.arange(len(features)), None, {observation: patches}, [0], nothing_deep)
        torch.testing.assert_close(
            encoded.observations[observation],
            adapter._tokens(rows, prompt).observations[observation],
            atol=1e-5,
            rtol=1e-4,
        )
    assert (len(each) > 1) == (name != "qwen3_vl"), "windows and tiles were among them"


@torch.inference_mode()
def test_a_llava_without_cls_shows_what_its_patches_receive(noise):
    adapter, eager = make_tiny_adapter(siglip=True), tiny_llava(siglip=True, attention="eager").model.vision_tower
    observation, prompt = adapter.info.default_attention(adapter.info.feature_layer), adapter.prompt(noise, QUESTION)
    assert observation.signal is Signal.RECEIVED_ATTENTION
    maps = eager(prompt.pixels, output_attentions=True).attentions
    encoded = adapter.encode_image(prompt, [observation], None, RunCallbacks())
    torch.testing.assert_close(
        encoded.observations[observation], maps[observation.layer][0].mean(1), atol=1e-5, rtol=1e-4
    )
    for method in ("vispruner", "holov", "vscan"):
        record = run(RunRequest("tiny", method, 0.5, QUESTION, max_new_tokens=2), adapter, noise)
        assert any("has no [CLS]" in note for note in record.notes)
        assert not any("[CLS]" in words for step in record.steps for words in step.why)
