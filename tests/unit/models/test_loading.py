"""Folders with missing or foreign files, hubs that are out of reach: each a sentence with a way on."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from pruning.demo_model.training.architecture import build_processor
from pruning.engine.run import run
from pruning.errors import ModelUnavailableError
from pruning.models import MODELS, find_spec, load
from pruning.models.loading.devices import choose_device, choose_dtype
from pruning.models.loading.loader import FAMILIES as SERVED
from pruning.records.run import RunRequest
from support.families import FAMILIES
from support.tiny_models import PATCH, SIDE, tiny_llava


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("models") / "small"
    tiny_llava().half().save_pretrained(where)
    build_processor(SIDE, PATCH).save_pretrained(where)
    return where


@pytest.fixture
def copy(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "model")


def refusal(where, **kwargs) -> str:
    with pytest.raises(ModelUnavailableError) as error:
        load(str(where), **kwargs)
    assert error.value.hint
    return str(error.value)


def test_a_folder_opens_and_answers(folder, noise):
    adapter = load(str(folder))
    assert adapter.dtype == torch.float32
    record = run(RunRequest("x", "vitcop", 0.4, "What?", max_new_tokens=2), adapter, noise)
    assert record.pruned.words
    assert record.notes == ()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_opens_from_a_folder_and_answers(family, tmp_path, noise):
    made = FAMILIES[family].make()
    made.model.save_pretrained(tmp_path)
    made.processor.save_pretrained(tmp_path)
    opened = load(str(tmp_path))
    assert type(opened) is type(made)
    assert opened.fingerprint == made.fingerprint
    request = RunRequest("x", "divprune", 0.4, "What?", max_new_tokens=2)
    assert run(request, opened, noise).pruned.log_probs == run(request, made, noise).pruned.log_probs


def test_half_precision_can_be_asked_for(folder, noise):
    adapter = load(str(folder), dtype="bfloat16")
    record = run(RunRequest("x", "visionzip", 0.4, "What?", max_new_tokens=2), adapter, noise)
    assert record.environment["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no *.safetensors"),
        ("processor_config.json", "no processor"),
        ("tokenizer.json", "no tokenizer"),
    ],
)
def test_what_a_folder_lacks_is_named(copy, missing, sentence):
    for path in copy.glob("tokenizer*" if missing.startswith("tokenizer") else missing):
        path.unlink()
    assert sentence in refusal(copy)


def test_an_empty_folder(tmp_path):
    assert "no config.json" in refusal(tmp_path)


def test_pickled_weights_are_never_read(copy):
    (copy / "model.safetensors").unlink()
    torch.save({}, copy / "pytorch_model.bin")
    assert "pytorch_model.bin is not read" in refusal(copy)


def test_damaged_weights(copy):
    (copy / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0not a header at all")
    assert "could not be loaded" in refusal(copy)


def test_damaged_configuration(copy):
    (copy / "config.json").write_text("{ this is not json")
    assert "cannot be read" in refusal(copy)


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("text_config", "use_cache", None),
        ("text_config", "hidden_size", "wide"),
        ("text_config", "num_attention_heads", 0),
        ("vision_config", "image_size", []),
        ("vision_config", "patch_size", None),
    ],
)
def test_impossible_values_in_the_configuration(copy, part, name, value):
    config = json.loads((copy / "config.json").read_text())
    config[part][name] = value
    (copy / "config.json").write_text(json.dumps(config))
    assert "could not be loaded" in refusal(copy)


def test_weights_of_another_model(copy):
    config = json.loads((copy / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 9
    (copy / "config.json").write_text(json.dumps(config))
    assert "do not fit its configuration" in refusal(copy)


def test_another_family_is_refused_by_name(copy):
    (copy / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "is a bert model; this version serves: idefics3, internvl, llava, llava_next, llava_onevision, " in refusal(
        copy
    )


def test_remote_code_is_not_run(copy):
    (copy / "config.json").write_text(json.dumps({"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config"}}))
    (copy / "evil.py").write_text("raise SystemExit('remote code ran')")
    assert "could not be loaded" in refusal(copy)


def test_cls_for_the_language_model_is_refused(copy):
    config = json.loads((copy / "config.json").read_text())
    config["vision_feature_select_strategy"] = "full"
    (copy / "config.json").write_text(json.dumps(config))
    assert "also gives [CLS]" in refusal(copy)


def test_hub_models_without_network_say_how_to_get_them():
    sentence = refusal("llava-1.5-7b")
    assert "not on this computer and downloads are off" in sentence
    assert "--model llava-hf/llava-1.5-7b-hf --allow-download" in sentence
    assert "failing" in refusal("llava-1.5-7b", allow_download=True)


@pytest.mark.parametrize("name", ["", "no such model", "/nowhere/at/all", "../..//", "a/b/c"])
def test_what_is_no_model_at_all(name):
    assert "neither a folder nor a hub id" in refusal(name) or "no config.json" in refusal(name)


def test_devices_and_number_formats():
    assert choose_device("cpu").type == "cpu"
    assert choose_dtype("auto", torch.device("cuda")) == torch.bfloat16
    with pytest.raises(ModelUnavailableError, match="not a device"):
        choose_device("abacus")
    with pytest.raises(ModelUnavailableError, match="not a number format"):
        choose_dtype("int1", torch.device("cpu"))
    if not torch.cuda.is_available():
        with pytest.raises(ModelUnavailableError, match="0 CUDA devices"):
            choose_device("cuda")


def test_the_table_of_models():
    assert next(iter(MODELS)) == "demo"
    assert find_spec("llava-hf/llava-1.5-7b-hf").key == "llava-1.5-7b"
    assert find_spec("somebody/else").source == "somebody/else"
    assert set(SERVED) - {"llava"} == set(FAMILIES), "a family without tests"
    for spec in MODELS.values():
        assert spec.licence
        assert spec.memory.endswith(("GB", "bf16"))


def test_a_tower_of_another_kind_is_refused_by_name():
    from transformers import LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, PixtralVisionConfig

    from pruning.models.families.llava import LlavaAdapter

    text = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=99)
    vision = PixtralVisionConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text))
    with pytest.raises(ModelUnavailableError, match="has a pixtral tower; this version serves: clip_vision_model"):
        LlavaAdapter(model, build_processor(SIDE, PATCH), "Pixtral")


@pytest.mark.parametrize(
    ("device", "sentence"),
    [("cuda:7", "this machine has"), ("meta", "not a device that"), ("toaster", "is not a device")],
)
def test_devices_that_are_not_there(device, sentence):
    with pytest.raises(ModelUnavailableError, match=sentence):
        choose_device(device)


def test_familiarity_of_another_model_is_refused(copy):
    from safetensors.torch import save_file

    save_file(
        {"mean": torch.zeros(7), "precision": torch.eye(7), "farthest": torch.ones(())},
        copy / "familiarity.safetensors",
    )
    assert "belongs to another model" in refusal(copy)
    (copy / "familiarity.safetensors").write_bytes(b"nothing")
    assert "could not be loaded" in refusal(copy)


def test_a_model_that_is_not_there_leaves_the_one_at_hand_alone(copy):
    from app.serving.service import Service
    from app.settings import Settings

    service = Service(Settings(model=str(copy)))
    first = service.adapter(str(copy))
    with pytest.raises(ModelUnavailableError):
        service.adapter("llava-1.5-7b")
    assert service.adapter(str(copy)) is first
