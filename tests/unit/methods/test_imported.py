"""Decisions made elsewhere: they are carried out exactly, become records like any other, and nonsense is refused."""

from __future__ import annotations

import io
import json
import shlex

import numpy as np
import pytest
import torch
from PIL import Image

from app.handlers.budgets import budgets
from app.handlers.explore import Handlers
from app.handlers.exports import recipe_of
from app.handlers.requests import RunForm
from app.media.examples import read_examples
from app.serving.service import Service
from app.session import SessionState, Visitor
from app.settings import Settings
from pruning import models
from pruning.cli.parser import main
from pruning.engine.run import run
from pruning.errors import ParameterError, PruningError
from pruning.interface import Part, PruneContext
from pruning.methods.base import BEFORE_LANGUAGE_MODEL
from pruning.methods.imported import Imported
from pruning.records.decisions import read_decision
from pruning.records.run import RunRecord, RunRequest
from viz.export.recipe import caption, command, python

N = 36
KEPT = [1, 8, 22, 35]
GROUPS = [(i // 9) if i < 27 else -1 for i in range(N)]  # three groups, the last nine tokens dropped


def asked(**parameters) -> RunRequest:
    return RunRequest("tiny", "imported", 1.0, "What color is the star?", parameters=parameters, max_new_tokens=2)


def npz(**arrays) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_listed_tokens_stay_and_the_record_is_like_any_other(tiny, noise, tmp_path):
    record = run(asked(kept=[35, 1, 8, 22], n_tokens=N), tiny, noise)
    assert record.kept.tolist() == KEPT
    assert record.counts == {"requested": 4, "kept": 4, "distinct": 4, "average": 4.0}
    record.save(tmp_path / "r")
    assert RunRecord.load(tmp_path / "r").request == record.request
    assert "Imported" in record.method_title
    assert "4 tokens of a file" in record.variant
    late = run(asked(kept=KEPT, layer=3), tiny, noise)
    assert late.pruned.visual_per_layer == (36, 36, 36, 4, 4, 4)
    first = run(asked(kept=KEPT, where=Part.PROJECTOR.value), tiny, noise)
    assert first.pruned.text == record.pruned.text, "a list before the projector or behind it is the same"


def test_groups_are_merged_by_their_mean(tiny, noise):
    record = run(asked(groups=GROUPS), tiny, noise)
    [step] = record.steps
    assert record.kept.tolist() == [0, 9, 18]
    assert step.selection.merged_into[:27].tolist() == [i // 9 * 9 if i % 9 else -1 for i in range(27)]
    assert step.selection.dropped.tolist() == list(range(27, N))
    features = torch.randn(N, 5, generator=torch.Generator().manual_seed(0))
    ids, places = torch.arange(N), torch.zeros(N, 2)
    context = PruneContext(BEFORE_LANGUAGE_MODEL, features, ids, places, N, tiny.info, torch.Generator())
    decision = Imported(groups=tuple(GROUPS))(context, 3)
    assert torch.allclose(decision.features, torch.stack([features[9 * i : 9 * i + 9].mean(0) for i in range(3)]))
    mixed = Imported(groups=(7, 3, 7, -1, *[3] * (N - 4)))(context, 2)  # the second group has the smaller number
    assert mixed.keep.tolist() == [0, 1]
    assert torch.allclose(mixed.features[0], features[[0, 2]].mean(0))


def test_a_partition_into_single_tokens_changes_nothing(tiny, noise):
    record = run(asked(groups=list(range(N))), tiny, noise)
    assert record.request.keep_ratio == 1
    assert record.pruned.text == record.full.text


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({}, "keeps no token"),
        ({"kept": []}, "keeps no token"),
        ({"groups": [-1] * N}, "keeps no token"),
        ({"kept": KEPT, "groups": GROUPS}, "both `kept` and `groups`"),
        ({"kept": [1, 2, 1]}, "keeps token 1 2 times"),
        ({"kept": [1, N]}, "keeps token 36; the 36 visual tokens are numbered from 0 to 35"),
        ({"kept": [-1, 2]}, "keeps token -1"),
        ({"kept": KEPT, "n_tokens": 576}, "is about 576 visual tokens; this picture has 36"),
        ({"groups": GROUPS[:-1]}, "is about 35 visual tokens; this picture has 36"),
        ({"kept": [1.5]}, "holds 1.5; it must hold whole numbers only"),
        ({"kept": [True]}, "must hold whole numbers only"),
        ({"groups": "abc"}, "must be a list of whole numbers"),
        ({"kept": KEPT, "who": "me"}, "no parameter 'who'"),
    ],
)
def test_nonsense_is_refused_with_a_sentence(tiny, noise, parameters, sentence):
    with pytest.raises(ParameterError) as refused:
        run(asked(**parameters), tiny, noise)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"[1, 8]", {"kept": [1, 8]}),
        (b'{"kept": [3], "n_tokens": 36, "by": "CoViPAL"}', {"kept": [3], "n_tokens": 36}),
        (b'{"mask": [false, true, true]}', {"kept": [1, 2], "n_tokens": 3}),
        (b'{"groups": [0, 0, -1]}', {"groups": [0, 0, -1]}),
        (npz(kept=np.array(KEPT, np.uint16), n_tokens=N), {"kept": KEPT, "n_tokens": N}),
        (npz(mask=np.eye(3, dtype=bool)[1]), {"kept": [1], "n_tokens": 3}),
    ],
)
def test_files_that_hold_a_decision(data, found):
    assert read_decision(data) == found


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"kept: 1", "neither JSON nor NPZ"),
        (b"\xff\xfe", "neither JSON nor NPZ"),
        (b"PK\x03\x04 cut", "neither JSON nor NPZ"),
        (b"[" * 100_000, "neither JSON nor NPZ"),
        (npz(kept=np.array([{}], dtype=object)), "neither JSON nor NPZ"),
        (b'{"keep": [1]}', "holds no decision"),
        (b'{"kept": [1], "groups": [0]}', "holds kept and groups"),
        (b'{"kept": 5}', "must be a list"),
        (npz(mask=np.ones((2, 2), bool)), "true or false for every token"),
        (b'{"mask": [2]}', "true or false for every token"),
        (b'{"kept": [%s]}' % b", ".join([b"1"] * 100_001), "at most 100000 entries"),
        (b" " * (2**22 + 1), "at most 4194304 are read"),
    ],
)
def test_files_that_hold_none(data, sentence):
    with pytest.raises(PruningError) as refused:
        read_decision(data)
    assert sentence in str(refused.value)


def test_from_the_command_line_and_back_to_a_recipe(tiny, noise, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(models, "load", lambda *args, **kwargs: tiny)
    Image.fromarray(noise).save(tmp_path / "p.png")
    (tmp_path / "your_decision.json").write_text(json.dumps({"kept": KEPT, "n_tokens": N}))
    args = ["run", str(tmp_path / "p.png"), "What?", "--max-new-tokens", "2"]
    kept = ["--kept", str(tmp_path / "your_decision.json"), "--set", "layer=2", "--out", str(tmp_path / "r")]
    assert main([*args, *kept]) == 0
    assert "requested 4, passed on 4 rows of 4 distinct tokens, mean over layers 14.7" in capsys.readouterr().out
    record = RunRecord.load(tmp_path / "r")
    assert record.kept.tolist() == KEPT
    assert shlex.split(command(record))[-4:] == ["--kept", "your_decision.json", "--set", "layer=2"]
    assert "read_decision('your_decision.json') | {'layer': 2}" in python(record)
    compile(python(record), "recipe", "exec")
    assert "kept = [" not in caption(record)
    assert recipe_of(record, {}, "digit")["query"] == "", "no link can hold a file"
    assert main([*args, "--budget", "9"]) == 0
    assert "requested 9, passed on 9" in capsys.readouterr().out
    assert main([*args, "--kept", str(tmp_path / "none.json")]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_on_the_page_a_file_becomes_a_run(tiny, tmp_path):
    handlers = Handlers(
        Service(Settings(max_new_tokens=2), load=lambda name, **kwargs: tiny), read_examples(), N, tmp_path
    )
    ask = RunForm("What color is the cross?", "imported", 9, "demo")
    [[status, _]] = list(handlers.run(SessionState(), ask, Visitor("me")))
    assert "No file with a decision is here" in status["text"]
    (tmp_path / "mine.json").write_text(json.dumps({"groups": GROUPS}))
    status, method = handlers.decisions.bring(str(tmp_path / "mine.json"), "me")
    assert (status["kind"], method) == ("idle", "imported")
    assert "3 groups" in status["text"]
    payload = list(handlers.run(SessionState(), ask, Visitor("me")))[-1][1]
    assert payload["canvas"]["stops"][-1]["rows"] == 3
    assert payload["cost"]["counted"]["requested"] == 3
    assert "decision from a file" in payload["canvas"]["how"][0]
    [[status, _]] = list(handlers.run(SessionState(), ask, Visitor("somebody else")))
    assert "No file" in status["text"], "nobody else has my file"
    (tmp_path / "bad.json").write_text("{}")
    status, _ = handlers.decisions.bring(str(tmp_path / "bad.json"), "me")
    assert status["kind"] == "error"
    view = budgets(handlers, SessionState(), "imported", "demo", {}, "me")
    assert view["note"] == "The file says how many are kept: 3 in every layer."
    assert view["decided"], "the slider does not count"
    outside, _ = handlers.decisions.bring("/etc/hostname", "me")
    assert outside["kind"] == "error"
