"""Is there room for a model, and what is fetched of it? Hub and GPUs are stand-ins: no request leaves the computer."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import DryRunFileInfo, get_local_safetensors_metadata
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import TensorInfo, filter_repo_objects, httpx

from app import messages
from app.serving.service import Service
from app.settings import Settings
from pruning.demo_model.training.architecture import build_processor
from pruning.errors import ModelUnavailableError, PlanError
from pruning.interface import Part
from pruning.models import check, load
from pruning.models.base import BESIDE
from pruning.models.loading import devices as placing
from pruning.models.loading import hub
from pruning.models.loading import loader as loading
from pruning.models.loading import memory as room
from pruning.records.plan import PlanRequest
from support.tiny_models import PATCH, SIDE, tiny_llava

GB = 10**9
HUB_ID = "somebody/tiny-llava"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("models") / "small"
    tiny_llava().half().save_pretrained(where, max_shard_size="100KB")
    build_processor(SIDE, PATCH).save_pretrained(where)
    return where


def refusal(name, **kwargs) -> str:
    with pytest.raises(ModelUnavailableError) as error:
        check(str(name), **kwargs)
    assert error.value.hint
    return str(error.value)


class Hub:
    """Answer what the hub would, from a folder, and record what was downloaded."""

    def __init__(self, folder, cache, monkeypatch) -> None:
        self.folder, self.cache, self.fetched, self.error = folder, cache, [], None
        self.extra = {"pytorch_model.bin": 5 * GB, "modeling_evil.py": 10, "onnx/model.json": 9}
        self.parameters = None
        monkeypatch.setattr(hub, "get_safetensors_metadata", self.metadata)
        monkeypatch.setattr(hub, "snapshot_download", self.snapshot)
        monkeypatch.setattr(hub, "try_to_load_from_cache", self.cached)
        monkeypatch.setattr(hub, "cache_folder", lambda: cache)

    def metadata(self, source):
        found = get_local_safetensors_metadata(self.folder)
        if self.parameters:
            first = next(iter(found.files_metadata.values()))
            first.tensors["large"] = TensorInfo("F16", [self.parameters], (0, 2 * self.parameters))
        return found

    def dry_run(self, allow_patterns, ignore_patterns):
        if self.error:
            raise self.error
        sizes = {p.name: p.stat().st_size for p in self.folder.iterdir()} | self.extra
        wanted = filter_repo_objects(sizes, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        there = {n: (self.cache / n).exists() for n in sizes}
        return [DryRunFileInfo("abc", sizes[n], n, str(self.cache / n), there[n], not there[n]) for n in wanted]

    def cached(self, source, name, revision=None):
        return str(self.cache / name) if (self.cache / name).exists() else None

    def snapshot(self, source, allow_patterns, tqdm_class, ignore_patterns=None, *, dry_run=False):
        if dry_run:
            return self.dry_run(allow_patterns, ignore_patterns)
        # A commit would not be found again as `main`.
        self.fetched += allow_patterns
        self.cache.mkdir(exist_ok=True)
        bar = tqdm_class(unit="B", total=0) if tqdm_class else None
        count = tqdm_class(unit="it", total=len(allow_patterns)) if tqdm_class else None
        for name in allow_patterns:
            shutil.copy(self.folder / name, self.cache / name)
            if bar is not None:
                bar.update((self.cache / name).stat().st_size)
                count.update(1)
        return str(self.cache)


@pytest.fixture
def fake_hub(folder, tmp_path, monkeypatch):
    return Hub(folder, tmp_path / "cache", monkeypatch)


def test_a_download_is_told_and_happens_once(fake_hub):
    told = []
    adapter = load(HUB_ID, allow_download=True, progress=lambda *n: told.append(n))
    assert adapter.info.text_layers == 6
    weights = sum(p.stat().st_size for p in fake_hub.folder.glob("*.safetensors"))
    assert told[-1] == (weights, weights)
    assert [n for n, _ in told] == sorted({n for n, _ in told})
    assert len(told) == len(list(fake_hub.folder.glob("*.safetensors"))) > 2
    assert not any(name.endswith((".bin", ".py")) or "/" in name for name in fake_hub.fetched)
    fake_hub.error, n = AssertionError("the hub was asked again"), len(fake_hub.fetched)
    load(HUB_ID, allow_download=True)
    load(HUB_ID)
    assert len(fake_hub.fetched) == n


def test_without_being_asked_nothing_is_fetched(fake_hub):
    fake_hub.error = AssertionError("the hub was asked")
    assert "not on this computer and downloads are off" in refusal(HUB_ID)
    assert not fake_hub.fetched


def test_half_a_download_goes_on(fake_hub):
    load(HUB_ID, allow_download=True)
    lost = sorted(fake_hub.cache.glob("*.safetensors"))[1]
    lost.unlink()
    told = []
    load(HUB_ID, allow_download=True, progress=lambda *n: told.append(n))
    assert told[0][1] == lost.stat().st_size


def test_a_full_disk_is_seen_before_weights_are_fetched(fake_hub, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda p: SimpleNamespace(free=GB // 2))
    sentence = refusal(HUB_ID, allow_download=True)
    assert "to download; the disk for it has 0.5 GB free" in sentence
    assert "HF_HOME" in sentence
    assert not any(name.endswith(".safetensors") for name in fake_hub.fetched)


def test_too_little_memory_is_seen_before_weights_are_fetched(fake_hub):
    fake_hub.parameters = 10**15
    assert "needs about 4600000.0 GB of memory on cpu" in refusal(HUB_ID, allow_download=True)
    assert not any(name.endswith(".safetensors") for name in fake_hub.fetched)


def test_another_family_is_refused_before_its_weights_are_fetched(fake_hub, folder, tmp_path):
    fake_hub.folder = shutil.copytree(folder, tmp_path / "other")
    (fake_hub.folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "is a bert model" in refusal(HUB_ID, allow_download=True)
    assert not any(name.endswith(".safetensors") for name in fake_hub.fetched)


def answer(code):
    return httpx.Response(code, request=httpx.Request("GET", "https://example.invalid"))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (GatedRepoError("gated", response=answer(403)), "asks for its licence to be accepted. Accept it on its hub"),
        (RepositoryNotFoundError("no", response=answer(404)), "knows no model somebody/tiny-llava"),
        (OfflineModeIsEnabled("off"), "downloads are failing. Look to the network (and that HF_HUB_OFFLINE"),
        (httpx.ConnectError("no route"), "downloads are failing"),
    ],
    ids=["gated", "unknown", "offline", "unreachable"],
)
def test_states_of_the_hub_are_explained(fake_hub, error, sentence):
    fake_hub.error = error
    assert sentence in refusal(HUB_ID, allow_download=True)


def test_only_safetensors_are_fetched(fake_hub, folder, tmp_path):
    fake_hub.folder = tmp_path / "pickled"
    fake_hub.folder.mkdir()
    shutil.copy(folder / "config.json", fake_hub.folder)
    assert "has no *.safetensors weights" in refusal(HUB_ID, allow_download=True)
    assert not fake_hub.fetched


def test_memory_is_counted_from_headers(folder):
    model = tiny_llava()
    n = sum(p.numel() for p in model.parameters())
    headers = list(room.headers_of(folder))
    assert len(headers) > 2
    assert room.memory_of(headers, torch.float32) == pytest.approx(4 * n * BESIDE, abs=1)
    assert room.memory_of(headers, torch.bfloat16) == pytest.approx(2 * n * BESIDE, abs=1)
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name)
    matrices -= model.lm_head.weight.numel()
    four = FOUR * matrices + 2 * (n - matrices)
    assert room.memory_of(headers, torch.bfloat16, four_bit=True) == pytest.approx(four * BESIDE, abs=1)


FOUR = 0.5625


def test_a_folder_that_does_not_fit_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(room.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**5))
    monkeypatch.setattr(loading.FAMILIES["llava"].model_class, "from_pretrained", lambda *a, **k: pytest.fail("read"))
    with pytest.raises(ModelUnavailableError, match=r"needs about .* MB of memory on cpu; 0.1 MB are free"):
        load(str(folder))
    assert check(str(folder), freed=10**9) is None  # the model at hand would make room


def test_a_missing_shard_is_named(folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    lost = sorted(copy.glob("*.safetensors"))[-1]
    lost.unlink()
    assert f"lacks {lost.name}" in refusal(copy)


# -- several GPUs and 4 bits, with stand-ins for the machine -----------------------------------------------------------


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (20 * GB, 24 * GB))


def installed(monkeypatch, *names):
    monkeypatch.setattr(placing, "find_spec", lambda name: name in names or None)


def place(gigabytes, device="auto", dtype="auto"):
    return placing.choose_place("Big", lambda kind, four_bit: gigabytes * GB // (4 if four_bit else 1), device, dtype)


def test_one_gpu_is_enough_for_what_fits(two_gpus, monkeypatch):
    installed(monkeypatch, "accelerate")
    found = place(15)
    assert found.max_memory is None
    assert found.options() == {"dtype": torch.bfloat16, "device_map": {"": torch.device("cuda")}}
    installed(monkeypatch)
    assert place(15).options() == {"dtype": torch.bfloat16}


def test_what_is_too_large_for_one_gpu_is_spread(two_gpus, monkeypatch):
    installed(monkeypatch, "accelerate")
    options = place(27).options()
    assert options["device_map"] == "auto"
    assert options["max_memory"] == {0: 18 * GB, 1: 18 * GB}
    with pytest.raises(ModelUnavailableError, match=r"needs about 40.0 GB of memory on all 2 GPUs .* 36.0 GB are free"):
        place(40)
    with pytest.raises(ModelUnavailableError, match=r"of memory on cuda:1; 20.0 GB are free"):
        place(27, device="cuda:1")
    installed(monkeypatch)
    with pytest.raises(ModelUnavailableError, match="takes the package accelerate, which is not installed"):
        place(27)


def test_four_bits_need_a_gpu_and_a_package(two_gpus, monkeypatch):
    installed(monkeypatch, "accelerate", "bitsandbytes")
    found = place(40, dtype="4bit")
    assert found.four_bit
    options = found.options()
    assert options["quantization_config"].load_in_4bit
    assert options["quantization_config"].bnb_4bit_compute_dtype == torch.bfloat16
    installed(monkeypatch, "accelerate")
    with pytest.raises(ModelUnavailableError, match="takes the package bitsandbytes; it is not installed"):
        place(40, dtype="4bit")
    with pytest.raises(ModelUnavailableError, match="on a GPU only; this is a cpu"):
        place(1, device="cpu", dtype="4bit")


def test_options_of_a_place_reach_the_library(folder, monkeypatch):
    given = {}
    original = loading.FAMILIES["llava"].model_class.from_pretrained

    def from_pretrained(where, **kwargs):
        given.update(kwargs)
        return original(where, **{k: v for k, v in kwargs.items() if k not in ("device_map", "max_memory")})

    spread = placing.Place(torch.device("cpu"), torch.float32, max_memory={0: GB, 1: GB})
    monkeypatch.setattr(loading, "choose_place", lambda *args: spread)
    monkeypatch.setattr(loading.FAMILIES["llava"].model_class, "from_pretrained", from_pretrained)
    load(str(folder))
    assert given["device_map"] == "auto"
    assert given["max_memory"] == {0: GB, 1: GB}
    assert given["use_safetensors"] is True
    assert given["trust_remote_code"] is False
    assert given["local_files_only"] is True


def test_a_plan_is_refused_for_weights_in_four_bits(tiny, monkeypatch):
    from pruning.engine.plan import make_plan

    monkeypatch.setattr(tiny.model, "is_quantized", True, raising=False)
    assert tiny.number_format == "4bit, computed in float32"
    with pytest.raises(PlanError, match="held in 4 bits; a plan needs them whole"):
        make_plan(tiny, PlanRequest("tiny", score="magnitude", parts=[Part.TOWER.value], heads=0.5, ffn="none"), [])


# -- the page ----------------------------------------------------------------------------------------------------------


def test_changing_the_model_frees_the_old_one(folder, tmp_path, monkeypatch):
    from pruning import models

    other = shutil.copytree(folder, tmp_path / "other")
    specs = [models.ModelSpec(p.name, str(p), p.name, "?", "?", "?") for p in (folder, other)]
    monkeypatch.setattr("app.serving.service.MODELS", {s.key: s for s in specs})
    monkeypatch.setattr(models, "MODELS", {s.key: s for s in specs})
    service = Service(Settings(model=specs[0].key))
    first = weakref.ref(service.adapter(specs[0].key))
    weights = weakref.ref(first().model.lm_head.weight)
    service.adapter(specs[1].key)
    gc.collect()
    assert first() is None
    assert weights() is None


def test_everybody_who_waits_hears_how_a_download_gets_on():
    service = Service(Settings())
    with service._subscribe() as events:
        for arrived in (10, 11, 500):
            service._arrived(arrived * 10**6, 10**9)
        heard = [events.get_nowait().value for _ in range(2)]
        assert events.empty()
    assert heard == [(10 * 10**6, 10**9), (500 * 10**6, 10**9)]
    assert messages.download(*heard[1]) == "Downloading the model: 0.5 GB of 1.0 GB (50 %)…"
