"""Write a run as a link, a command or Python that repeats it, and its figures as a dict that every export contains."""

from __future__ import annotations

import shlex
from typing import Any
from urllib.parse import urlencode

from pruning.budget import mean_per_layer, n_keep
from pruning.metrics.agreement import RunComparison, compare_run
from pruning.metrics.diagnostics import diagnose
from pruning.metrics.token_fates import answer_region_kept
from pruning.records.decisions import FIELDS, from_file
from pruning.records.run import RunRecord, RunRequest
from viz.page.compensation import sentences
from viz.page.run import headline, tokens_left
from viz.page.structure import weights_words

YOUR_PICTURE, YOUR_VIDEO, YOUR_PLAN = "your_picture.jpg", "your_video.mp4", "your_plan.zip"
YOUR_DECISION = "your_decision.json"


def figures_of(record: RunRecord, truth: str = "") -> dict[str, Any]:
    """Return the figures and answers of a run, JSON-ready. `truth` is the correct answer, where it is known."""
    request, rows, compared = record.request, record.pruned.visual_per_layer, compare_run(record)
    return {
        "tool": f"PruneScope {record.environment['prunescope']}",
        "model": request.model,
        "method": record.method_title,
        "variant": record.variant,
        "keep_ratio": request.keep_ratio,
        "parameters": request.parameters,
        "positions": record.positions,
        "seed": request.seed,
        "structural_plan": None if record.structure is None else record.structure.to_dict(),
        "picture_sha256": request.image_digest,
        "question": request.question,
        "full_answer": record.full.text,
        "pruned_answer": record.pruned.text,
        "verdict": compared.pruned.verdict.value,
        "known_answer": truth or None,
        "headline": headline(record, compared),
        "tokens": record.layout.n_tokens,
        "kept_at_end": tokens_left(record),
        "mean_entering_a_layer": round(mean_per_layer(list(rows)), 4),
        "requested_kept_distinct": [record.counts[name] for name in ("requested", "kept", "distinct")],
        "rows_after_each_stage": [step.selection.n_rows for step in record.steps],
        "answer_region": answer_region_kept(record),
        "diagnostics": diagnose(record).figures(),
        "compensation": _compensation_figures(record, compared),
        "estimated_prefill_flops": [record.full_cost.prefill_flops, record.pruned_cost.prefill_flops],
        "computed_kv_bytes": [record.full_cost.kv_bytes, record.pruned_cost.kv_bytes],
        "torch": record.environment["torch"],
        "transformers": record.environment["transformers"],
        "date": record.environment["date"],
    }


def _compensation_figures(record: RunRecord, compared: RunComparison) -> dict[str, Any] | None:
    found = record.compensated
    if found is None or compared.compensated is None:
        return None
    return {
        "by": found.title,
        "candidates": [
            {"text": c.text, "log_prob": c.log_prob, "probability": c.probability, "kl": c.kl} for c in found.candidates
        ],
        "chosen": found.chosen,
        "inserted": found.inserted,
        "answer": found.answer.text,
        "verdict": compared.compensated.verdict.value,
        "kl_without": found.kl_pruned,
        "caption_tokens": found.caption_tokens,
        "estimated_flops_with_captioner_and_selector": found.total_flops,
        "costs_as_many_visual_tokens": round(found.break_even, 2),
        "what_happened": sentences(record, found, compared),
    }


def caption(record: RunRecord) -> str:
    """Return the recipe in one line, for the caption of a figure."""
    request, env = record.request, record.environment
    changed = "".join(f", {name} = {value}" for name, value in _settings(request).items())
    if record.structure is not None:
        changed += f"; {weights_words(record.structure)}, plan {record.structure.digest[:12]}"
    requested = f"{n_keep(request.keep_ratio, record.layout.n_tokens)} of {record.layout.n_tokens} requested"
    versions = f"PruneScope {env['prunescope']}, torch {env['torch']}, transformers {env['transformers']}"
    compensated = f"; caption: {record.compensated.title}" if record.compensated else ""
    return (
        f"{record.method_title} ({record.variant}{changed}), {requested}, positions {record.positions}, "
        f"seed {request.seed}{compensated}; model {request.model}; "
        f"{versions}; picture sha256 {request.image_digest[:12]}"
    )


def query(record: RunRecord, example: str) -> str:
    """Return the query string of a link. `example` names the example picture; a visitor's own picture is in no link."""
    request = record.request
    fields: dict[str, Any] = {
        "example": example,
        "question": request.question,
        "method": request.method,
        "keep": n_keep(request.keep_ratio, record.layout.n_tokens),
        "model": request.model,
        "positions": request.positions,
        "seed": request.seed,
    }
    wanted = request.compensation
    if wanted is not None:
        fields |= {"compensation": wanted.key, "gate": wanted.gate, "kl": int(wanted.measure_kl)}
        fields |= {} if wanted.caption is None else {"caption": wanted.caption}
        fields |= {"captioner": source} if (source := _captioner(record)) else {}
    return urlencode(fields | {f"set.{name}": value for name, value in request.parameters.items()})


def command(record: RunRecord, picture: str = YOUR_PICTURE) -> str:
    """Return the run as a command line."""
    request = record.request
    several = [word for file in _files(record, picture) for word in ("--image", file)]
    inputs = [picture] if record.layout.n_pictures == 1 else several
    if frames := _frames(record):
        inputs = ["--video", YOUR_VIDEO, "--frames", str(frames)]
    words = ["python", "-m", "pruning", "run", *inputs, request.question, "--method", request.method]
    words += ["--keep-ratio", repr(request.keep_ratio), "--model", request.model, "--seed", str(request.seed)]
    words += ["--positions", request.positions, "--max-new-tokens", str(request.max_new_tokens)]
    wanted = request.compensation
    if wanted is not None:
        words += ["--compensation", wanted.key]
        words += ["--gate", repr(wanted.gate)] if wanted.gate else []
        words += ["--measure-kl"] if wanted.measure_kl else []
        words += [f"--captioner={source}"] if (source := _captioner(record)) else []
        words += [] if wanted.caption is None else [f"--caption={wanted.caption}"]
    if request.structure:
        words += ["--plan", YOUR_PLAN]
    if record.overlaps:
        words.append("--diagnostics")
    if from_file(request.parameters):
        words += ["--kept", YOUR_DECISION]
    for name, value in _settings(request).items():
        words += ["--set", f"{name}={value}"]
    return shlex.join(words)


def python(record: RunRecord, picture: str = YOUR_PICTURE) -> str:
    """Return the run as Python code."""
    r = record.request
    extra = f", parameters={_settings(r)!r}" if _settings(r) else ""
    names, opened, given = {"RunRequest", "load", "run"}, "", ""
    if from_file(r.parameters):
        names.add("read_decision")
        extra = f",\n                     parameters=read_decision({YOUR_DECISION!r}) | {_settings(r)!r}"
    answers = "record.pruned.text"
    if r.compensation is not None:
        names.add("Compensation")
        answers = f"{answers}, record.compensated.answer.text"
        extra += f",\n                     compensation={r.compensation!r}"
        if r.compensation.caption is None:
            names.add("open_compensator")
            source = f", {_captioner(record)!r}" if _captioner(record) else ""
            opened = f"captioner = open_compensator({r.compensation.key!r}, model{source})\n"
            given = ", compensator=captioner"
    if r.structure:
        names |= {"Compressed", "StructuralPlan"}
        opened += f"plan = StructuralPlan.load({YOUR_PLAN!r})\n"
        given += ", compressed=Compressed(plan, model.compressed(plan))"
    files = _files(record, picture)
    if frames := _frames(record):
        names.add("read_video")
        inputs = f"read_video({YOUR_VIDEO!r}, {frames})"
    else:
        names.add("read_image")
        inputs = f"read_image({picture!r})" if len(files) == 1 else f"[read_image(p) for p in {files!r}]"
    return f"""from pruning import {", ".join(sorted(names))}

request = RunRequest({r.model!r}, {r.method!r}, {r.keep_ratio!r}, {r.question!r},
                     positions={r.positions!r}, seed={r.seed}, max_new_tokens={r.max_new_tokens}{extra})
model = load({r.model!r})
{opened}record = run(request, model, {inputs}{given})
print(record.full.text, {answers}, record.kept)
"""


def _settings(request: RunRequest) -> dict[str, Any]:
    """Return the parameters that can be typed."""
    return {name: value for name, value in request.parameters.items() if name not in FIELDS}


def _files(record: RunRecord, picture: str) -> list[str]:
    """Return names for the files of all pictures, the first of which is `picture`."""
    return [picture, *(f"your_picture{n}.jpg" for n in range(2, 1 + record.layout.n_pictures))]


def _frames(record: RunRecord) -> int:
    """Return how many frames were sampled from the video; 0 for pictures."""
    return sum(map(len, record.layout.seconds))


def _captioner(record: RunRecord) -> str:
    """Return hub id or folder of a captioner; empty for the bundled one."""
    return str(record.compensated.provenance.get("captioner", "")) if record.compensated else ""
