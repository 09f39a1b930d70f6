"""Open any captioning model that transformers loads as image-text-to-text: BLIP, GIT, LLaVA, SmolVLM, ...

For compensation without a captioner trained for it. The model gets a picture and a request in words, and compensates
its best beams. Its multiply-adds are counted while it runs (torch's flop counter), not estimated from its shape.
Safetensors only, never remote code, no download unless it is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText, AutoProcessor

from pruning.errors import CompensatorUnavailableError, ModelUnavailableError
from pruning.models.loading import hub
from pruning.models.loading.devices import choose_dtype
from pruning.models.loading.loader import LOADING_ERRORS
from pruning.models.loading.memory import free_memory, headers_of, memory_of, require_disk, require_memory

MAX_NEW_TOKENS = 40
REQUEST = "In one short phrase, say what in this picture matters for the question: {question}"


@dataclass(frozen=True, slots=True)
class Spoken:
    """One beam: its text, the sum of its tokens' natural log-probabilities, and how many tokens."""

    text: str
    log_prob: float
    length: int


class HubCaptioner:
    """A loaded captioning model with its processor."""

    def __init__(self, model, processor, name: str) -> None:
        self.model, self.processor, self.name = model.eval(), processor, name

    @torch.inference_mode()
    def __call__(self, picture: np.ndarray, question: str, n_beams: int) -> tuple[list[Spoken], int]:
        """The best captions of a picture (uint8 `[height, width, 3]`), best first, and the multiply-adds."""
        inputs = self.processor(images=Image.fromarray(picture), text=self._prompt(question), return_tensors="pt")
        inputs = inputs.to(self.model.device)
        if "pixel_values" in inputs:
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        with FlopCounterMode(display=False) as counter:
            out = self.model.generate(
                **inputs, do_sample=False, num_beams=n_beams, num_return_sequences=n_beams, length_penalty=1.0,
                max_new_tokens=MAX_NEW_TOKENS, return_dict_in_generate=True, output_scores=True,
            )  # fmt: skip
        n_prompt = inputs["input_ids"].shape[1]
        prefixed = torch.equal(out.sequences[0, :n_prompt], inputs["input_ids"][0])  # some models give the prompt back
        new = out.sequences[:, n_prompt:] if prefixed else out.sequences
        special = torch.tensor(self.processor.tokenizer.all_special_ids, device=new.device)
        found = []
        for ids, mean in zip(new, out.sequences_scores.tolist(), strict=True):
            text = self.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
            n = max(1, int((~torch.isin(ids, special)).sum()))
            found.append(Spoken(text, mean * n, n))
        return found, counter.get_total_flops() // 2

    def _prompt(self, question: str) -> str:
        request = REQUEST.format(question=question)
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": request}]
            chat = [{"role": "user", "content": content}]
            return self.processor.apply_chat_template(chat, add_generation_prompt=True)
        return request


def load_captioner(source: str, device: torch.device, *, allow_download: bool = False) -> HubCaptioner:
    """Open a captioner by hub id or folder.

    Raises:
        CompensatorUnavailableError: with what is missing and what to do.
    """
    options = {"local_files_only": not allow_download, "trust_remote_code": False}
    dtype = choose_dtype("auto", device)
    try:
        _require_room(source, dtype, device, allow_download=allow_download)
        processor = AutoProcessor.from_pretrained(source, **options)
        model = AutoModelForImageTextToText.from_pretrained(source, dtype=dtype, use_safetensors=True, **options)
        return HubCaptioner(model.to(device), processor, source)
    except ModelUnavailableError as error:
        raise CompensatorUnavailableError(error.message, error.hint) from error
    except LOADING_ERRORS as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise CompensatorUnavailableError(
            f"{source} could not be opened as a captioning model: {first}",
            "Give the hub id or the folder of an image-text-to-text model, with --allow-download if it is not here.",
        ) from error


def _require_room(source: str, dtype: torch.dtype, device: torch.device, *, allow_download: bool) -> None:
    """Refuse what does not fit before anything large is fetched or read."""
    folder = Path(source) if Path(source).is_dir() else hub.on_this_computer(source)
    if folder is not None:
        needed = memory_of(headers_of(folder), dtype)
    elif allow_download:
        listing = hub.ask(source)
        require_disk(source, listing.missing(listing.weights), hub.cache_folder())
        needed = memory_of(listing.headers.values(), dtype)
    else:
        return  # not here, which opening it will say
    require_memory(source, needed, free_memory(device), str(device))
