"""Short runs, the token ids and log-probabilities of their answers, and the fingerprint of what they leave alone."""

from __future__ import annotations

import hashlib

from pruning.engine.run import run
from pruning.interface import Part
from pruning.records.run import RunRequest
from support.reference import QUESTION

N_NEW = 3
IN_TOWER = {"where": Part.TOWER.value, "layer": 1}


def ask(method, parameters=None, keep_ratio=0.4, positions="method", **more) -> RunRequest:
    return RunRequest(
        "tiny", method, keep_ratio, QUESTION, parameters=parameters or {}, positions=positions, max_new_tokens=N_NEW,
        **more,
    )  # fmt: skip


def followed(adapter, request, picture):
    """A run and the token ids and log-probabilities of its last answer."""
    answers, answer = [], adapter.answer
    adapter.answer = lambda *args: answers.append(answer(*args)) or answers[-1]
    try:
        return run(request, adapter, picture), answers[-1]
    finally:
        del adapter.answer


def spoken(adapter, token_ids, log_probs):
    """Log-probabilities of the tokens that are said; control tokens are not."""
    return [p for p, i in zip(log_probs, token_ids, strict=True) if i not in adapter.tokenizer.all_special_ids]


def fingerprint(adapter) -> str:
    """Weights, hooks, configurations: everything that a run must leave alone."""
    digest = hashlib.sha256()
    for name, tensor in adapter.model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    for name, module in adapter.model.named_modules():
        hooks = (len(module._forward_pre_hooks), len(module._forward_hooks))
        config = getattr(module, "config", None)
        digest.update(f"{name} {hooks} {id(config)} {type(module).forward}".encode())
    return digest.hexdigest()
