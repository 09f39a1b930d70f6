"""Any file a person brings becomes upright RGB, or a sentence."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from pruning.errors import ImageRejectedError
from pruning.inputs.images import MAX_BYTES, read_image


def encoded(image: Image.Image, kind: str, **kwargs) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


def plain(size=(20, 10), color=(200, 30, 40)) -> Image.Image:
    return Image.new("RGB", size, color)


def png_header(width: int, height: int) -> bytes:
    """A tiny file that claims to be a huge picture."""
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + body
    data = zlib.compress(b"\0" * 100)
    idat = b"IDAT" + data
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
        + struct.pack(">I", len(data)) + idat + struct.pack(">I", zlib.crc32(idat))
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_the_usual_formats_open(kind):
    picture = read_image(encoded(plain(), kind))
    assert picture.shape == (10, 20, 3)
    assert picture.dtype == np.uint8
    assert np.abs(picture.mean((0, 1)) - (200, 30, 40)).max() < 6


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I", "F", "I;16"])
def test_every_pixel_mode_becomes_rgb(mode):
    base = Image.linear_gradient("L").resize((16, 16))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(base).astype(np.uint16) * 257)
    else:
        image = (
            base.convert("RGB").convert("L").convert(mode)
            if mode in ("1", "I", "F", "LA")
            else base.convert("RGB").convert(mode)
        )
    picture = read_image(encoded(image, "TIFF"))
    assert picture.shape == (16, 16, 3)
    assert picture[0].mean() < 60
    assert picture[-1].mean() > 190, "a gradient from black to white stays one"


def test_transparency_lies_on_white():
    picture = read_image(encoded(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG"))
    assert (picture == 255).all()
    indexed = Image.new("P", (8, 8), 0)
    indexed.putpalette([0, 0, 0] * 256)
    assert (read_image(encoded(indexed, "PNG", transparency=0)) == 255).all()


def test_exif_rotation_is_undone():
    image = Image.new("RGB", (20, 10), "black")
    image.paste("white", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    picture = read_image(encoded(image, "JPEG", exif=exif, quality=95))
    assert picture.shape == (20, 10, 3)
    assert picture[:8].mean() > 240
    assert picture[12:].mean() < 15


def test_the_first_frame_of_an_animation():
    frames = [plain(color=c) for c in ((255, 0, 0), (0, 255, 0))]
    picture = read_image(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert picture[0, 0].tolist() == [255, 0, 0]


REJECTED = {
    "empty": (b"", "empty"),
    "text": (b"hello, I am not a picture", "not a picture"),
    "html": (b"<html><img src=x onerror=alert(1)></html>", "not a picture"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a picture"),
    "pdf": (b"%PDF-1.7 something", "not a picture"),
    "zip": (b"PK\x03\x04" + b"\0" * 40, "not a picture"),
    "zeros": (b"\0" * 5000, "not a picture"),
    "only a png signature": (b"\x89PNG\r\n\x1a\n", "not a picture|damaged"),
    "truncated png": (encoded(plain((200, 200)), "PNG")[:120], "damaged"),
    "truncated jpeg": (encoded(plain((200, 200)), "JPEG")[:300], "damaged"),
    "truncated webp": (encoded(plain((200, 200)), "WEBP")[:60], "damaged|not a picture"),
    "jpeg with noise inside": (lambda d: d[:200] + bytes(300) + d[230:])(
        encoded(Image.effect_noise((200, 200), 90), "PNG")
    ),
    "one pixel": (encoded(plain((1, 1)), "PNG"), "at least 2"),
    "one pixel high": (encoded(plain((30, 1)), "PNG"), "at least 2"),
    "a ribbon": (encoded(plain((900, 3)), "PNG"), "more than 40 times"),
    "a bomb of 40 gigapixels": (png_header(200_000, 200_000), "megapixels|not a picture"),
    "a bomb of 100 megapixels": (png_header(10_000, 10_000), "megapixels"),
    "too long a side": (png_header(30_000, 100), "30000 x 100"),
    "too many bytes": (b"\x89PNG\r\n\x1a\n" + bytes(MAX_BYTES), "MB; the limit"),
}
REJECTED["jpeg with noise inside"] = (REJECTED["jpeg with noise inside"], "damaged")


@pytest.mark.parametrize("name", REJECTED)
def test_what_is_no_picture_gets_a_sentence(name):
    data, sentence = REJECTED[name]
    with pytest.raises(ImageRejectedError, match=sentence) as error:
        read_image(data)
    assert error.value.hint, "and what to do next"
    assert "Traceback" not in str(error.value)


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(ImageRejectedError, match="cannot be opened"):
        read_image(tmp_path / "nothing.png")
    with pytest.raises(ImageRejectedError):
        read_image(tmp_path)
