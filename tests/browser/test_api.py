"""The named endpoints over HTTP: what they return, and what they make of bad input. No browser, the real server."""

from __future__ import annotations

import base64
import io
import struct
import urllib.request
import zlib

import numpy as np
import pytest
from gradio_client import Client, handle_file
from PIL import Image

from app.api import ENDPOINTS
from pruning.compensation import COMPENSATORS
from pruning.methods import METHODS
from pruning.records.run import RunRecord
from pruning.structural import STRUCTURAL

pytestmark = pytest.mark.browser
DIGIT = "assets/examples/digit.jpg"
QUESTION = "What digit is on the black heart?"


@pytest.fixture(scope="module")
def client(server):
    return Client(server.url, verbose=False)


def test_only_the_named_endpoints_are_open(client):
    named = client.view_api(return_format="dict", print_info=False)
    assert sorted(named["named_endpoints"]) == sorted(f"/{name}" for name in ENDPOINTS)
    assert named["unnamed_endpoints"] == {}


def test_what_there_is(client):
    assert [m["key"] for m in client.predict(api_name="/list_methods")] == list(METHODS)
    models = client.predict(api_name="/list_models")
    assert models[0]["source"] == "demo", "no path of this machine leaves it"


def test_a_record_is_that_of_an_export(client):
    asked = {"image": handle_file(DIGIT), "question": QUESTION, "method": "vitcop", "keep": 64}
    full = client.predict(api_name="/compare", **asked)
    arrays = {
        n: np.array([np.nan if v is None else v for v in a["values"]]).reshape(a["shape"])
        for n, a in full["arrays"].items()
    }
    record = RunRecord.from_parts(full["record"], arrays)
    said = client.predict(api_name="/answer", **asked)
    assert (said["full_answer"], said["pruned_answer"]) == (record.full.text, record.pruned.text)
    assert said["rows_after_each_stage"] == [s.selection.n_rows for s in record.steps]
    drawn = client.predict(api_name="/prune_map", **asked)
    assert [s["kept"] for s in drawn["stages"]] == [s.selection.kept.tolist() for s in record.steps]


def test_several_pictures_are_one_prompt(client):
    pair = {"image": handle_file(DIGIT), "more_images": [handle_file(DIGIT)]}
    drawn = client.predict(**pair, question=QUESTION, method="uniform_grid", keep=64, api_name="/prune_map")
    assert drawn["tokens"] == 2 * 576
    assert len(drawn["stages"][0]["kept"]) == 2 * 64, "the share is of both together"
    gone = client.predict(
        **(pair | {"more_images": [{"path": "/etc/hostname"}]}), question=QUESTION, api_name="/answer"
    )
    assert "no longer here" in gone["error"]


def test_a_plan_for_the_weights_is_made_and_taken_to_a_run(client, tmp_path):
    assert [s["key"] for s in client.predict(api_name="/list_scores")] == list(STRUCTURAL)
    made = client.predict(score="magnitude", heads_out=50, where="vision tower", api_name="/plan")
    assert made["summary"]["heads"] == {"vision tower": [15, 30]}
    assert sum(len(layer["kept"]) for layer in made["heads"][0]["layers"]) == 15
    before, after = made["estimated_flops"]["full"]
    assert after < before
    (tmp_path / "plan.zip").write_bytes(base64.b64decode(made["file"]))
    asked = {"image": handle_file(DIGIT), "question": QUESTION, "plan": handle_file(tmp_path / "plan.zip")}
    said = client.predict(api_name="/answer", **asked)
    assert said["structural_plan"]["digest"] == made["summary"]["digest"]
    assert said["rows_after_each_stage"] == [64], "with the visual tokens pruned as well"
    assert "from 0 to below 100" in client.predict(heads_out=100, api_name="/plan")["error"]
    asked["plan"] = handle_file(DIGIT)
    assert "not a structural plan" in client.predict(api_name="/answer", **asked)["error"]


def test_words_for_what_was_dropped(client):
    listed = client.predict(api_name="/list_compensators")
    assert [c["key"] for c in listed] == list(COMPENSATORS)
    asked = {"image": handle_file(DIGIT), "question": QUESTION, "method": "random_baseline", "keep": 18}
    said = client.predict(api_name="/answer", **asked, compensation={"caption": "a black heart", "measure_kl": True})
    assert said["compensation"]["inserted"] == "Additional information: a black heart."
    assert said["compensation"]["costs_as_many_visual_tokens"] > 1
    assert client.predict(api_name="/answer", **asked)["compensation"] is None
    for wrong in ({"gate": 3}, {"key": "magic"}, {"volume": 1}):
        assert "error" in client.predict(api_name="/answer", **asked, compensation=wrong)


def test_answers_carry_security_headers(server):
    with urllib.request.urlopen(server.url) as answer:
        assert "connect-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


# -- pictures ----------------------------------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str = "PNG", **kwargs) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **kwargs)
    return buffer.getvalue()


def noise(width=64, height=48, mode="RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def png(width: int, height: int, depth: int = 8, color: int = 2, idat: bytes | None = None) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + chunk(b"IDAT", zlib.compress(b"\0" * 99) if idat is None else idat)
        + chunk(b"IEND", b"")
    )


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


JPEG, PNG, GIF, WEBP, BMP, TIFF = (encoded(noise(), k) for k in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"))
BAD_PICTURES = {
    "empty": b"", "one byte": b"\0", "zeros": bytes(5000), "text": b"I am not a picture", "utf-16": "Bild".encode("utf-16"),
    "html": b"<html><script>alert(1)</script></html>", "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><rect/></svg>",
    "json": b'{"a": 1}', "pdf": b"%PDF-1.7\n%%EOF", "zip": b"PK\x05\x06" + bytes(18), "elf": b"\x7fELF" + bytes(60),
    "gzip": b"\x1f\x8b\x08" + bytes(40), "mp4": bytes(4) + b"ftypisom" + bytes(60), "wav": b"RIFF\x24\0\0\0WAVEfmt " + bytes(20),
    "pickle": b"\x80\x04\x95" + bytes(30), "npy": b"\x93NUMPY\x01\0" + bytes(60), "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n", "ico": b"\0\0\x01\0\x01\0" + bytes(40),
    "jpeg mark only": b"\xff\xd8\xff", "jpeg cut early": JPEG[:120], "jpeg cut late": JPEG[:-400], "jpeg body wiped": JPEG[:600] + bytes(len(JPEG) - 600),
    "png mark only": PNG[:8], "png without data": PNG[:33], "png cut": PNG[: len(PNG) // 2], "png wrong checksum": flipped(PNG, 30), "png data of nonsense": png(64, 64, idat=b"no zlib here"),
    "png of no size": png(0, 0), "png of no height": png(5, 0), "png claims 100,000 wide": png(100_000, 100_000), "png claims 2^31": png(2**31 - 1, 1), "png of unknown colour": png(8, 8, color=9), "png of 3 bits": png(8, 8, depth=3),
    "gif mark only": GIF[:6], "gif cut": GIF[:40], "webp cut": WEBP[:30], "webp of nothing": b"RIFF\x0c\0\0\0WEBPVP8 ", "bmp cut": BMP[:40], "bmp of minus size": BMP[:18] + struct.pack("<ii", -5, -5) + BMP[26:], "tiff cut": TIFF[:20], "tiff endless": b"II*\0\x08\0\0\0\xff\xff" + bytes(50),
    "one pixel": encoded(noise(1, 1)), "one pixel high": encoded(noise(400, 1)), "a thread": encoded(noise(4000, 3)), "30 megapixels": encoded(Image.new("L", (6000, 5001))),
}  # fmt: skip
ODD_PICTURES = {
    "16-bit grey": encoded(Image.fromarray((np.arange(64 * 48).reshape(48, 64) * 20).astype(np.uint16))),
    "cmyk": encoded(noise(mode="CMYK"), "JPEG"), "alpha": encoded(noise(mode="RGBA")), "bilevel": encoded(noise(mode="1")),
    "palette": encoded(noise(mode="P"), "GIF"), "wrong suffix": JPEG, "trailing bytes": PNG + b"<script>", "tall": encoded(noise(40, 800)),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_PICTURES)
def test_a_bad_picture_gets_a_sentence(client, tmp_path, name):
    (tmp_path / "it.png").write_bytes(BAD_PICTURES[name])
    said = client.predict(image=handle_file(str(tmp_path / "it.png")), question=QUESTION, api_name="/answer")
    assert set(said) == {"error"}
    assert said["error"].count(".") >= 2, "what came, and what to do"
    assert "note" not in said["error"], "foreseen, not an accident"
    assert str(tmp_path) not in said["error"]


@pytest.mark.parametrize("name", ODD_PICTURES)
def test_an_odd_picture_is_answered(client, tmp_path, name):
    (tmp_path / "it.png").write_bytes(ODD_PICTURES[name])
    assert "headline" in client.predict(
        image=handle_file(str(tmp_path / "it.png")), question=QUESTION, api_name="/answer"
    )


def test_files_that_were_not_sent_are_not_read(client):
    for path in ("/etc/passwd", "../../etc/passwd", "", None, 5, "app.py"):
        said = client.predict(image={"path": path}, question=QUESTION, api_name="/answer")
        assert "no longer here" in said["error"]


# -- strings -----------------------------------------------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>", "<iframe src='javascript:alert(1)'>", "<b>bold</b>",
    "&lt;script&gt;", "<!-- comment", "]]>", "</textarea><script>1</script>", "<a href='data:text/html,x'>x</a>",
    "{{7*7}}", "${7*7}", "#{7*7}", "{% raw %}", "{0.__class__}", "%s%s%s%n", "%x" * 40, "`id`", "$(id)", "; rm -rf /",
    "'; DROP TABLE runs; --", '" OR ""="', "\\", "\\u0000", "../../etc/passwd", "file:///etc/passwd", "http://169.254.169.254/", "javascript:alert(1)", "data:text/html,<b>",
    "null", "undefined", "NaN", "true", "[]", "{}", "-1", "1e309", "Infinity",
    "Was ist das für eine Farbe?", "これは何色ですか", "ما لون النجمة؟", "מה הצבע", "какого цвета", "🔴🟢🔵", "👩‍👩‍👧‍👦", "e\u0301\u0301\u0301\u0301", "\u202eevil", "a\u200bb\u200bc", "ﷺ" * 30, "Z̸a̸l̸g̸o̸",
    "what\tcolor\nis\r\nit", "\x1b[31mred\x1b[0m", "x" * 500, "word " * 99, "?", "…",
]  # fmt: skip
REFUSED = ["<image>", "Look: <image><image>", "</s>", "<s>", "<pad>", "\x00", "\u200b", " \n ", "x" * 4001]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_question_is_only_text(client, text):
    said = client.predict(image=handle_file(DIGIT), question=text, keep=18, api_name="/answer")
    assert "headline" in said, said
    assert said["question"] in text or len(said["question"]) <= len(text)


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_a_question_that_cannot_be_asked_gets_a_sentence(client, text):
    said = client.predict(image=handle_file(DIGIT), question=text, keep=18, api_name="/answer")
    assert "error" in said, said
    assert "note" not in said["error"]


@pytest.mark.parametrize(
    "name", ["<b>x<b>.png", "';--.png", "a" * 200 + ".png", "фото.png", "..png", "x y\tz.png", "{{1}}.png", "con.png"]
)
def test_file_names_are_only_names(client, tmp_path, name):
    (tmp_path / name).write_bytes(PNG)
    assert "headline" in client.predict(
        image=handle_file(str(tmp_path / name)), question="What is it?", api_name="/answer"
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep": 0}, {"keep": -3}, {"keep": 577}, {"keep": "many"}, {"keep": None}, {"keep": 1e99}, {"method": "<b>"}, {"method": None}, {"method": ["fastv"]},
        {"parameters": {"alpha": "<b>"}}, {"parameters": {"__class__": 1}}, {"parameters": {"alpha": None}}, {"parameters": [1]},
        {"positions": "<b>"}, {"seed": "x"}, {"seed": None}, {"seed": 10**30}, {"question": None}, {"question": ["a"]},
        {"more_images": "x"}, {"more_images": [1]}, {"more_images": 5},
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_value_gets_a_sentence(client, wrong):
    said = client.predict(
        **({"image": handle_file(DIGIT), "question": QUESTION, "keep": 18} | wrong), api_name="/answer"
    )
    assert "error" in said
    assert "note" not in said["error"], said
