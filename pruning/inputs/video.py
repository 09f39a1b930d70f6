"""Read a few frames with their seconds from a video file or a folder of frames, or refuse it with a sentence.

Frames are taken evenly from the first to the last, as Qwen3-VL's own processor does. OpenCV decodes files.
"""

from __future__ import annotations

import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np

from pruning.errors import BusyError, ImageRejectedError
from pruning.inputs.content import FEWEST_FRAMES, MOST_FRAMES, VideoClip
from pruning.inputs.images import check_size, read_image

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
SOUND = 0.9  # of the frames that a file says it has; fewer that can be decoded are a damage
FOLDER_RATE = 1.0  # frames a second in a folder, which has no clock
FILMS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
PATIENCE, MOST_TAKEN = 20.0, 40e6  # with a stranger's film: seconds of decoding, pixels of all frames that are taken
_ONE_AT_A_TIME = threading.Lock()  # strangers' films: decoding one keeps a processor busy
WAIT = 5.0  # seconds for another one's film to be decoded
_STILLS = (b"heic", b"heix", b"mif1", b"avif")  # pictures in the container of MP4


def read_video(source: Path | str, n_frames: int = 8, rate: float = FOLDER_RATE) -> VideoClip:
    """`n_frames` frames of a video, evenly spaced; all of them where there are fewer.

    Args:
        source: a video file, or a folder whose picture files, by name, are its frames.
        n_frames: from `FEWEST_FRAMES` to `MOST_FRAMES`.
        rate: frames a second in a folder; a file has its own.

    Raises:
        ImageRejectedError: for what cannot be read, a damaged frame, and numbers out of bounds.
    """
    source = Path(source)
    is_integer = isinstance(n_frames, int) and not isinstance(n_frames, bool)
    if not is_integer or not FEWEST_FRAMES <= n_frames <= MOST_FRAMES:
        raise ImageRejectedError(
            f"{n_frames!r} frames were asked for; allowed are {FEWEST_FRAMES} to {MOST_FRAMES}.",
            "Choose another number.",
        )
    if not 0 < rate <= 1000:
        raise ImageRejectedError(f"The rate is {rate!r} frames a second; it must be above 0.", "Say it with --fps.")
    return _from_folder(source, n_frames, rate) if source.is_dir() else _from_file(source, source.name, n_frames)


def is_film(data: bytes, name: str) -> bool:
    """Whether a file is meant as a video: it begins as one, or is called so."""
    return _holds_itself(data) or Path(name).suffix.lower() in FILMS


def read_film(data: bytes, name: str, n_frames: int = 8) -> VideoClip:
    """As `read_video`, for a video file that anybody may have sent: it is looked at before the decoder sees it, one is
    decoded at a time, in at most `PATIENCE` seconds, and the frames that are taken may have `MOST_TAKEN` pixels.

    Args:
        name: what its sender calls it; only said, never opened.

    Raises:
        ImageRejectedError: as `read_video`, and for what is too long or too large.
        BusyError: if another one is being decoded.
    """
    if not _holds_itself(data):
        raise ImageRejectedError(
            f"{name} is no video that can be read here.",
            f"Bring one of {', '.join(f[1:].upper() for f in FILMS)}, or a few frames as pictures.",
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film"
        path.write_bytes(data)
        if not _ONE_AT_A_TIME.acquire(timeout=WAIT):
            raise BusyError("Another video is being read at the moment.", "Bring yours again in a few seconds.")
        try:
            return _from_file(path, name, n_frames, of_a_stranger=True)
        finally:
            _ONE_AT_A_TIME.release()


def _holds_itself(data: bytes) -> bool:
    """Whether a file begins as MP4 and its kin, AVI, or Matroska does. Others may be lists of files that the decoder
    would go and open, on this computer or elsewhere.
    """
    mp4 = data[4:8] in (b"ftyp", b"moov", b"mdat", b"wide") and data[8:12] not in _STILLS
    return mp4 or (data[:4] == b"RIFF" and data[8:12] == b"AVI ") or data[:4] == b"\x1aE\xdf\xa3"


def _from_folder(folder: Path, n_frames: int, rate: float) -> VideoClip:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURES)
    if len(files) < FEWEST_FRAMES:
        raise ImageRejectedError(
            f"{folder.name} has {len(files)} picture files; a video needs at least {FEWEST_FRAMES} frames.",
            f"Frames are files that end in {', '.join(PICTURES)}.",
        )
    chosen, frames = _evenly(len(files), n_frames), []
    for i in chosen:
        try:
            frames.append(read_image(files[i]))
        except ImageRejectedError as error:
            raise ImageRejectedError(f"Frame {files[i].name}: {error.message}", error.hint) from error
    return VideoClip(tuple(frames), tuple(i / rate for i in chosen))


def _from_file(path: Path, name: str, n_frames: int, *, of_a_stranger: bool = False) -> VideoClip:
    if not path.is_file():
        raise ImageRejectedError(f"{name} is neither a file nor a folder.", "Check the path.")
    video = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    try:
        rate, said, opened = video.get(cv2.CAP_PROP_FPS), video.get(cv2.CAP_PROP_FRAME_COUNT), video.isOpened()
        until = time.monotonic() + (PATIENCE if of_a_stranger else np.inf)
        if opened:  # before any frame is taken
            size = int(video.get(cv2.CAP_PROP_FRAME_WIDTH)), int(video.get(cv2.CAP_PROP_FRAME_HEIGHT))
            check_size(*size)
            if of_a_stranger:
                _check_taken(name, *size, n_frames)
        total = _count(path, name, until) if opened else 0
        if total < FEWEST_FRAMES or not 0 < rate < np.inf:
            raise ImageRejectedError(
                f"{name} is no video that can be read, or has fewer than {FEWEST_FRAMES} frames.",
                "Bring another file, or some of its frames.",
            )
        if total < SOUND * said:
            raise ImageRejectedError(
                f"{total} of {said:.0f} frames in {name} can be decoded: it is damaged or cut off.",
                "Save it again, or bring some of its frames.",
            )
        chosen, frames = _evenly(total, n_frames), []
        for number in range(chosen[-1] + 1):  # one by one: seeking is inexact in many files
            there = video.grab()
            _check_time(name, until)
            if number in chosen:
                done, frame = video.retrieve() if there else (False, None)
                if not done:
                    raise ImageRejectedError(
                        f"Frame {number + 1} of {total} in {name} cannot be decoded: it is damaged or cut off.",
                        "Save it again, or bring some of its frames.",
                    )
                if of_a_stranger:  # a frame need not be as large as the file says
                    _check_taken(name, *frame.shape[1::-1], n_frames)
                frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    finally:
        video.release()
    return VideoClip(tuple(frames), tuple(i / rate for i in chosen))


def _check_taken(name: str, width: int, height: int, n_frames: int) -> None:
    """Refuse a stranger's film whose frames would take too much memory."""
    if width * height * n_frames > MOST_TAKEN:
        raise ImageRejectedError(
            f"The frames of {name} have {width} x {height} pixels; {n_frames} of them may have "
            f"{MOST_TAKEN / 1e6:.0f} megapixels together.", "Save a smaller copy.",
        )  # fmt: skip


def _check_time(name: str, until: float) -> None:
    """Refuse a stranger's film that takes too long."""
    if time.monotonic() > until:
        raise ImageRejectedError(
            f"{name} is too long: its frames cannot all be decoded in {PATIENCE:g} s here.",
            "Cut it, or save a smaller copy.",
        )


def _count(path: Path, name: str, until: float) -> int:
    """Frames that can be decoded; how many a file says it has is an estimate in some formats, or a lie."""
    video, count = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), 0
    try:
        while video.grab():
            count += 1
            _check_time(name, until)
    finally:
        video.release()
    return count


def _evenly(total: int, count: int) -> list[int]:
    """`count` different numbers below `total`, the first and the last among them; all where there are fewer."""
    return sorted({round(i) for i in np.linspace(0, total - 1, min(count, total)).tolist()})
