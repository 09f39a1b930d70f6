"""Read an image file as upright RGB pixels, or refuse it with a sentence.

Limits are checked before decoding, so that a small file that unpacks to a huge picture costs nothing.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pruning.errors import ImageRejectedError

MAX_BYTES = 20 * 2**20
MAX_MEGAPIXELS = 20
MAX_SIDE = 12_000
MIN_SIDE = 2
MAX_ASPECT = 40
ALLOWED = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")


def read_image(source: Path | str | bytes) -> np.ndarray:
    """Decode a picture file to uint8 `[height, width, 3]` RGB: turned upright by its EXIF mark, on white where it is
    transparent, first frame of an animation, 16-bit greys scaled to 8.

    Raises:
        ImageRejectedError: for an empty, damaged, foreign, too small or too large file.
    """
    data = source if isinstance(source, bytes) else _read_bytes(Path(source))
    if not data:
        raise ImageRejectedError("The file is empty.", f"Bring a picture ({', '.join(ALLOWED)}).")
    if len(data) > MAX_BYTES:
        raise ImageRejectedError(
            f"The file has {len(data) / 2**20:.0f} MB; the limit is {MAX_BYTES // 2**20}.", "Save a smaller copy."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is stricter
            with Image.open(io.BytesIO(data), formats=ALLOWED) as image:
                check_size(*image.size)
                image.load()
                return to_rgb(image)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ImageRejectedError(
            "This file is not a picture that can be read.", f"Bring one of: {', '.join(ALLOWED)}."
        ) from error
    except ImageRejectedError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, MemoryError, RuntimeError, KeyError) as error:
        raise ImageRejectedError("The picture file is damaged or cut off.", "Save it again and retry.") from error


def to_rgb(image: Image.Image) -> np.ndarray:
    """A decoded picture as uint8 RGB; see `read_image`."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        grey = np.nan_to_num(np.asarray(image, dtype=np.float64))
        low, high = _range_of(grey, whole_numbers=image.mode.startswith("I"))
        grey = (grey - low) / max(high - low, 1e-12) * 255
        return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        background = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(background, image)
    return np.array(image.convert("RGB"))


def digest(picture: np.ndarray) -> str:
    """sha256 of a picture's pixels and shape."""
    return hashlib.sha256(str(picture.shape).encode() + np.ascontiguousarray(picture).tobytes()).hexdigest()


def _range_of(grey: np.ndarray, *, whole_numbers: bool) -> tuple[float, float]:
    """What counts as black and white: the 8-bit or 16-bit range that holds the values, else the values' own."""
    if whole_numbers and grey.min() >= 0 and grey.max() <= 65535:
        return 0.0, 255.0 if grey.max() <= 255 else 65535.0
    return float(grey.min()), float(grey.max())


def check_size(width: int, height: int) -> None:
    """Refuse what is too small to cut into visual tokens, or too large to decode.

    Raises:
        ImageRejectedError.
    """
    if min(width, height) < MIN_SIDE:
        raise ImageRejectedError(
            f"The picture is {width} x {height} pixels; each side needs at least {MIN_SIDE}.", "Bring a larger one."
        )
    if width * height > MAX_MEGAPIXELS * 1e6 or max(width, height) > MAX_SIDE:
        raise ImageRejectedError(
            f"The picture has {width * height / 1e6:.0f} megapixels ({width} x {height}); the limit is "
            f"{MAX_MEGAPIXELS} and {MAX_SIDE} a side.", "Bring a smaller copy."
        )  # fmt: skip
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise ImageRejectedError(
            f"The picture is {width} x {height}: one side is more than {MAX_ASPECT} times the other.", "Crop it first."
        )


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ImageRejectedError(
                f"The file has {path.stat().st_size / 2**20:.0f} MB; the limit is {MAX_BYTES // 2**20}.",
                "Save a smaller copy.",
            )
        return path.read_bytes()
    except OSError as error:
        raise ImageRejectedError(f"{path.name} cannot be opened ({error.strerror}).", "Check the path.") from error
