"""Notes on what the bundled model cannot know, for pictures and questions outside of its drawn world."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from pruning.models.base import VisionFeatures

FAMILIARITY_FILE = "familiarity.safetensors"
STRETCH = 1.5  # a scene may be this much farther out than any held-out one before it counts as foreign
ALTERNATIVES = "LLaVA-1.5 or another model chosen with --model can answer about photographs."


@dataclass(frozen=True, slots=True)
class DrawnWorld:
    """Statistics of the drawn scenes in the space of mean tower features."""

    mean: torch.Tensor
    precision: torch.Tensor
    farthest: float

    @classmethod
    def read(cls, folder: Path, dim: int) -> DrawnWorld:
        """Read the statistics of a tower of width `dim`.

        Raises:
            SafetensorError, KeyError, ValueError: if the file is damaged or belongs to another model.
        """
        saved = load_file(str(folder / FAMILIARITY_FILE))
        if saved["mean"].shape != (dim,) or saved["precision"].shape != (dim, dim):
            raise ValueError(f"{FAMILIARITY_FILE} belongs to another model")
        return cls(saved["mean"], saved["precision"], float(saved["farthest"]))

    def distance(self, pooled: torch.Tensor) -> float:
        """Mahalanobis distance of a mean tower feature `[dim]`, in units of the farthest held-out scene."""
        way = pooled.float().cpu() - self.mean
        return float((way @ self.precision @ way).clamp(min=0).sqrt()) / self.farthest

    def __call__(self, tokenizer, encoded: VisionFeatures, question: str, n_pictures: int = 1) -> list[str]:
        """Sentences for a picture or words outside the drawn world, and for several pictures."""
        notes = []
        if n_pictures > 1:
            notes.append(
                f"The bundled model was trained on one picture at a time and now sees {n_pictures}: its answer is a "
                f"guess. {ALTERNATIVES}"
            )
        if self.distance(encoded.features.mean(0)) > STRETCH:
            notes.append(
                "This does not look like a drawn scene, and the bundled model knows nothing else: "
                f"its answer is a guess. {ALTERNATIVES}"
            )
        unknown = unknown_words(tokenizer, question)
        if unknown:
            listed = ", ".join(f"“{w}”" for w in unknown[:5])
            verb = "is" if len(unknown) == 1 else "are"
            notes.append(
                f"{listed} {verb} not among the words the bundled model knows, so it reads a blank. {ALTERNATIVES}"
            )
        return notes


def unknown_words(tokenizer, question: str) -> list[str]:
    """Words of the question that the tokenizer turns into its unknown token, in order, each once."""
    coded = tokenizer(question, return_offsets_mapping=True, add_special_tokens=False)
    found = [
        question[a:b].strip()
        for i, (a, b) in zip(coded["input_ids"], coded["offset_mapping"], strict=True)
        if i == tokenizer.unk_token_id
    ]
    return list(dict.fromkeys(w for w in found if w))
