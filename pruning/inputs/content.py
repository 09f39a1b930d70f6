"""What a prompt shows (`VisualInput`): one image, several images, or the frames of a video (`VideoClip`).

One picture is several with one in them. The frames of a video are pictures that some models read in pairs, with the
seconds at which they stand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pruning.errors import ImageRejectedError
from pruning.inputs.images import digest
from pruning.layout import TokenLayout

MOST_PICTURES = 16
FEWEST_FRAMES, MOST_FRAMES = 2, 64


@dataclass(frozen=True, slots=True, eq=False)
class VideoClip:
    """Frames of a video in their order.

    Attributes:
        frames: uint8 `[height, width, 3]` RGB each, all of one size.
        seconds: when each is seen, rising.
    """

    frames: tuple[np.ndarray, ...]
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not FEWEST_FRAMES <= len(self.frames) <= MOST_FRAMES:
            raise ImageRejectedError(
                f"The video has {len(self.frames)} frames; {FEWEST_FRAMES} to {MOST_FRAMES} are read.",
                "Bring another video, or ask for another number of frames.",
            )
        if len(self.seconds) != len(self.frames) or (np.diff(self.seconds) <= 0).any():
            raise ImageRejectedError("Every frame of a video needs its second, and they must rise.", "Check the times.")
        sizes = {f"{f.shape[1]} x {f.shape[0]}" for f in self.frames}
        if len(sizes) > 1:
            raise ImageRejectedError(
                f"The frames of a video must be of one size; these are {' and '.join(sorted(sizes)[:3])}.",
                "Bring frames of one video, or show them as pictures.",
            )

    @property
    def nbytes(self) -> int:
        return sum(f.nbytes for f in self.frames)

    @property
    def interval(self) -> float:
        """Mean seconds from one frame to the next."""
        return (self.seconds[-1] - self.seconds[0]) / (len(self.seconds) - 1)

    def in_steps(self, length: int) -> list[tuple[int, ...]]:
        """Numbers of the frames that are read together, `length` at a time; the last step may have fewer."""
        return [tuple(range(i, min(i + length, len(self.frames)))) for i in range(0, len(self.frames), length)]


VisualInput = np.ndarray | Sequence[np.ndarray] | VideoClip


def images_of(visual_input: VisualInput) -> tuple[np.ndarray, ...]:
    """Pictures, or frames, in their order.

    Raises:
        ImageRejectedError: if there is none, or more than `MOST_PICTURES` of them.
    """
    if isinstance(visual_input, VideoClip):
        return visual_input.frames
    pictures = (visual_input,) if isinstance(visual_input, np.ndarray) else tuple(visual_input)
    if not 1 <= len(pictures) <= MOST_PICTURES:
        raise ImageRejectedError(
            f"The prompt has {len(pictures)} pictures; it may have 1 to {MOST_PICTURES}.",
            "Bring a picture." if not pictures else "Bring fewer, or bring frames as a video.",
        )
    return pictures


def digest_of(visual_input: VisualInput) -> str:
    """sha256 of what is shown: of one picture its own (`pruning.inputs.images.digest`), else of all of them in order,
    and of a video its seconds too.
    """
    digests = [digest(p) for p in images_of(visual_input)]
    if isinstance(visual_input, VideoClip):
        digests.append(repr(visual_input.seconds))
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def about_several(method: str, layout: TokenLayout, *, by_picture: bool) -> list[str]:
    """What a method makes of several pictures, for the person; nothing where there is one.

    Args:
        method: its title. by_picture: see `pruning.methods.base.TokenPruner`.
    """
    if layout.n_pictures == 1:
        return []
    several = f"the {layout.n_pictures} {'steps of the video' if layout.seconds else 'pictures'}"
    if by_picture:
        return [f"{method} divides each of {several} by itself; the share kept is of all their tokens together."]
    return [
        f"{method} chooses among the tokens of {several} as one pool, so one may keep more of its own than another."
    ]
