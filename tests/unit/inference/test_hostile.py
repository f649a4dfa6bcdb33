"""What a server must bear: broken and odd pictures, JSON of every shape, texts of every script, addresses that lead inside.

Whatever comes, the answer is an answer or a clear refusal (4xx) that shows nothing of the inside.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import random
import struct
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from tests.serving import NAME, chat, data_url, png

from mblip.inference.server import pictures as pictures_module
from mblip.inference.server.pictures import BadPicture, RequestPictures, is_public
from mblip.languages import LANGUAGES

PATH = "/v1/chat/completions"


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing of it: a few bytes that would decode to gigabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def usable_pictures() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8))
    frames = [colour.rotate(90 * turn, expand=False) for turn in range(3)]
    grey16 = Image.fromarray(rng.integers(0, 65536, (20, 30)).astype(np.uint16))
    exif = Image.Exif()
    found = {
        "one pixel": _encoded(colour.crop((0, 0, 1, 1)), "PNG"),
        "a line": _encoded(colour.resize((3000, 1)), "PNG"),
        "cmyk": _encoded(colour.convert("CMYK"), "JPEG"),
        "grey": _encoded(colour.convert("L"), "JPEG"),
        "bilevel": _encoded(colour.convert("1"), "PNG"),
        "palette": _encoded(colour.convert("P"), "PNG"),
        "palette with transparency": _encoded(colour.convert("P"), "PNG", transparency=3),
        "transparent": _encoded(colour.convert("RGBA"), "PNG"),
        "grey and alpha": _encoded(colour.convert("LA"), "PNG"),
        "16 bit": _encoded(grey16, "PNG"),
        "16 bit tiff": _encoded(grey16, "TIFF"),
        "float tiff": _encoded(Image.fromarray(rng.random((20, 30)).astype(np.float32)), "TIFF"),
        "lab tiff": _encoded(colour.convert("LAB"), "TIFF"),
        "animated gif": _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated png": _encoded(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "animated webp": _encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "lossless webp": _encoded(colour, "WEBP", lossless=True),
        "progressive": _encoded(colour, "JPEG", progressive=True),
        "bmp": _encoded(colour, "BMP"),
        "ppm": _encoded(colour, "PPM"),
        "tga": _encoded(colour, "TGA"),
        "ico": _encoded(colour.resize((16, 16)), "ICO"),
        "trailing bytes": _encoded(colour, "PNG") + b"<script>" * 100,
    }
    for orientation in range(10):
        exif[0x0112] = orientation
        found[f"exif {orientation}"] = _encoded(colour, "JPEG", exif=exif)
    return found


def unusable_pictures() -> dict[str, bytes]:
    whole = _encoded(Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)), "JPEG")
    found = {
        "empty": b"",
        "text": b"hello",
        "html": b"<html><img src=x></html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "pdf": b"%PDF-1.4\n%EOF",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(%pipe%id) (w) file\nshowpage\n",
        "zip": b"PK\x03\x04" + b"\0" * 100,
        "zeros": b"\0" * 1000,
        "magic alone": b"\x89PNG\r\n\x1a\n",
        "100 megapixels": _png_of_size(10_000, 10_001),
        "decompression bomb": _png_of_size(60_000, 60_000),
        "huge side": _png_of_size(2**31 - 1, 1),
        "no width": _png_of_size(0, 10),
        "less than its size": _png_of_size(500, 500),
        "heif": b"\0\0\0\x18ftypheic" + b"\0" * 64,
    }
    for share in range(1, 10):
        found[f"jpeg cut at {share}0 %"] = whole[: len(whole) * share // 10]
    rng = random.Random(2)
    for number in range(30):
        found[f"noise {number}"] = rng.randbytes(rng.randrange(1, 300))
    return found


def damaged_pictures() -> dict[str, bytes]:
    """Whole files with flipped bytes: some still decode."""
    rng = random.Random(3)
    found = {}
    for name, data in usable_pictures().items():
        for number in range(2):
            changed = bytearray(data)
            for _ in range(8):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            found[f"{name}, damaged {number}"] = bytes(changed)
    return found


BAD_ADDRESSES = [
    "", "x", "photo.jpg", "/etc/passwd", "../../etc/passwd", "file:///etc/passwd", "C:\\photo.jpg", "\\\\host\\share\\a.png",
    "http://127.0.0.1/a.png", "http://169.254.169.254/latest/meta-data/", "HTTP://localhost/", "https://example.org/a.png",
    "ftp://example.org/a.png", "gopher://x", "javascript:alert(1)", "upload:", "upload:../../etc/passwd", "upload:gone",
    "data:", "data:,x", "data:image/png;base64", "data:image/png;base64,", "data:image/png;base64,****", "data:text/html,<b>",
    "data:image/png;base64,AAA", "data:image/svg+xml;base64,PHN2Zy8+", "data:image/png,%89PNG", "data:image/png;base64,é",
    "nano:scenes/0", "~/.ssh/id_rsa", "|id", "$(id)", "\0", "data:image/png;base64," + "A" * 100_000,
    "data:image/" + "x" * 50_000 + ";base64,AAAA", "data:image/png" + ";a=b" * 20_000 + ",x",
]  # fmt: skip

PROMPTS = [
    "", " ", "\n\n", "\0", "a\0b", "\u202e\u2066mirrored", "\ufeff", "\ufffe", "\U0010ffff", "👩‍👩‍👧‍👦" * 50,
    "e" + "\u0301" * 3000,
    "<image>", "<image>" * 50, "<pad></s><unk>", "{language}", "{0.__class__}", "%s%n%x", "'; DROP TABLE x; --",
    "../../etc/passwd", "<script>alert(1)</script>",
    "a" * 1000, "x " * 3000, "\t" * 500, "\u200b" * 500, "ﷺ" * 200, "1e999", "\\ud800",
    *(f"{language.own_name} {language.name} {language.own_name[::-1]}?" for language in LANGUAGES.values()),
]  # fmt: skip

FIELDS: list[dict[str, Any]] = [
    {"max_tokens": value} for value in (0, -1, 1.5, "8", True, list[int](), dict[str, int]())
] + [{"temperature": value} for value in (-1, 2.1, 10**400, "hot", [1])] + [
    {"top_p": value} for value in (0, -0.1, 1.1, "x")
] + [{"n": value} for value in (0, -1, 9, 10**9, "2", 1.5)] + [
    {"num_beams": value} for value in (0, 11, -5, 2.5)
] + [{"seed": value} for value in (-(2**63) - 1, 2**63, 10**30, 0.5, "s")] + [
    {"repetition_penalty": value} for value in (0, -1, 1e9)
] + [
    {"stream": "yes"}, {"stream": 1}, {"stream_options": []}, {"stream_options": {"x": 1}}, {"model": 7}, {"model": "other"},
    {"model": "../../etc"}, {"stop": ["x"]}, {"tools": [{}]}, {"store": True},
    {"response_format": {"type": "json_object"}}, {"logit_bias": {"5": 1}},
    {"logprobs": True}, {"unknown": 1}, {"length_penalty": 99},
    {"messages": None}, {"messages": []}, {"messages": {}}, {"messages": "x"}, {"messages": [1]}, {"messages": [{}]},
    {"messages": [{"role": "user"}]}, {"messages": [{"role": "user", "content": None}]},
    {"messages": [{"role": "user", "content": []}]}, {"messages": [{"role": "user", "content": [1]}]},
    {"messages": [{"role": "user", "content": [{}]}]}, {"messages": [{"role": "user", "content": [{"type": "audio"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 7}}]}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 65}]},
    {"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "y"}]},
    {"messages": [{"role": "assistant", "content": "x"}]},
    {"messages": [{"role": "user", "content": "x" * 40_000}]},
]  # fmt: skip

BODIES = [
    b"", b" ", b"null", b"1", b'"x"', b"[]", b"{}", b"{", b"}", b"{'messages': 1}", b"\xff\xfe", b"\xef\xbb\xbf{}", b"NaN",
    b'{"messages": NaN}', b'{"temperature": Infinity}', b"[" * 100_000, b'{"a":' * 50_000,
    b'{"messages":[{"role":"user","content":"\\ud800"}]}',
    b'{"messages":[{"role":"user","content":"\xc3\x28"}]}', b"a" * 100_000, b"{}" * 10, b'{"n":1,"n":2}',
]  # fmt: skip

HEADERS: list[dict[str, str]] = [
    {"Content-Type": kind}
    for kind in (
        "text/plain", "text/html", "application/xml", "multipart/form-data", "multipart/form-data; boundary=",
        "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "application/json; charset=utf-16", "/", "x",
    )
]  # fmt: skip


def test_the_corpus_is_large() -> None:
    pictures = len(usable_pictures()) + len(unusable_pictures()) + len(damaged_pictures())
    assert pictures + len(BAD_ADDRESSES) + len(PROMPTS) + len(FIELDS) + len(BODIES) + len(HEADERS) >= 300


def post(server: str, request: dict[str, Any] | None = None, **options: Any) -> httpx.Response:
    if request is not None:
        options = {"content": json.dumps(request), "headers": {"Content-Type": "application/json"}}
    return httpx.post(f"{server}{PATH}", timeout=120, **options)


def check(reply: httpx.Response, status: int | None, what: str) -> None:
    assert reply.status_code < 500, f"{what}: {reply.status_code} {reply.text[:300]}"
    assert status is None or reply.status_code == status, f"{what}: {reply.status_code} {reply.text[:300]}"
    if reply.status_code >= 400:
        assert reply.json()["error"]["message"], what
        for inside in ("Traceback", "site-packages", "/src/mblip", 'File "'):
            assert inside not in reply.text, what


def test_pictures_of_every_kind(server: str) -> None:
    for expected, corpus in ((200, usable_pictures()), (400, unusable_pictures()), (None, damaged_pictures())):
        for name, data in corpus.items():
            check(post(server, chat("x", data, max_tokens=1, num_beams=1)), expected, name)


def test_addresses_of_pictures(server: str) -> None:
    for address in BAD_ADDRESSES:
        request = chat("x", max_tokens=1)
        request["messages"][0]["content"].append({"type": "image_url", "image_url": {"url": address}})
        reply = post(server, request)
        check(reply, 400, address[:80])
        assert "root:" not in reply.text


def test_prompts_of_every_script(server: str) -> None:
    answered = 0
    for prompt in PROMPTS:
        reply = post(server, chat(prompt, max_tokens=1, num_beams=1))
        check(reply, None, repr(prompt[:40]))
        answered += reply.status_code == 200
    assert answered >= len(LANGUAGES)  # some are too long, or hold the token of an image
    reply = post(server, chat("x " * 3000))
    check(reply, 400, "a prompt of many tokens")
    assert "at most 1024" in reply.text


def test_fields_of_every_value(server: str) -> None:
    for fields in FIELDS:
        another_model = isinstance(fields.get("model"), str)
        check(post(server, {**chat("x", max_tokens=1), **fields}), 404 if another_model else 400, str(fields)[:120])


def test_bodies_and_headers(server: str) -> None:
    for body in BODIES:
        check(post(server, content=body, headers={"Content-Type": "application/json"}), 400, repr(body[:60]))
    for header in HEADERS:
        encoding = "utf-16" if "json" in header["Content-Type"] else "utf-8"
        expected = 400 if header["Content-Type"].startswith(("multipart/form-data", "application/json")) else 415
        check(post(server, content=json.dumps(chat("x")).encode(encoding), headers=header), expected, str(header))
    outside = ("/v1", "/v1/../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/openapi.json/..", "/" + "a" * 5000)
    for path in outside:
        reply = httpx.get(f"{server}{path}")
        assert reply.status_code == 404, path
        assert "root:" not in reply.text
    assert httpx.get(f"{server}{PATH}").status_code == 405


def test_uploads(server: str) -> None:
    asked = chat("x", max_tokens=1)
    asked["messages"][0]["content"].append({"type": "image_url", "image_url": {"url": "upload:a"}})
    text = {"request": json.dumps(asked)}
    check(post(server, data=text, files={"a": ("../../../etc/cron.d/x", png())}), 200, "a name that leads out")
    check(post(server, data=text, files={"b": ("a", png())}), 400, "another field")
    check(post(server, data=text, files={"a": ("a.png", b"text")}), 400, "no picture")
    check(post(server, data=text, files=[("a", ("x", png())) for _ in range(9)]), 400, "too many files")
    check(post(server, data={"other": "1"}, files={"a": ("a.png", png())}), 400, "no request")
    check(
        post(server, files={"request": ("r", json.dumps(asked).encode()), "a": ("a", png())}), 400, "a file as request"
    )


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.1.2.3", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0",
        "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1",
        "::127.0.0.1", "::ffff:0:127.0.0.1", "fec0::1", "64:ff9b:1::7f00:1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "2002:7f00:1::", "64:ff9b::7f00:1", "2001:db8::1", "ff02::1",
        "localhost", "", "2130706433", "0x7f.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "193.99.144.80"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)


class _Web(BaseHTTPRequestHandler):
    hits: list[str]

    def do_GET(self) -> None:
        type(self).hits.append(self.path)
        if self.path == "/ok":
            self._send(200, png())
        elif self.path == "/big":
            self._send(200, b"x" * 5000)
        elif self.path == "/text":
            self._send(200, b"hello")
        elif self.path == "/hop":
            self._send(302, b"", Location="/ok")
        elif self.path == "/inside":
            self._send(302, b"", Location="http://inside.test/secret")
        elif self.path == "/file":
            self._send(302, b"", Location="file:///etc/passwd")
        elif self.path == "/port":
            self._send(302, b"", Location="http://public.test:65536/")
        elif self.path == "/loop":
            self._send(302, b"", Location="/loop")
        elif self.path == "/slow":
            threading.Event().wait(3)
        else:
            self._send(404, b"")

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Silence."""


@pytest.fixture
def web() -> Iterator[tuple[int, list[str]]]:
    _Web.hits = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Web)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port, _Web.hits
    server.shutdown()
    server.server_close()


def test_remote_pictures(web: tuple[int, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    port, hits = web
    looked_up: list[str] = []

    async def resolve(host: str, port: int) -> list[str]:
        looked_up.append(host)
        # What "public.test" resolves to the second time must not matter.
        return {"public.test": ["127.0.0.1"], "half.test": ["127.0.0.1", "10.0.0.1"]}.get(host, ["10.0.0.1"])

    monkeypatch.setattr(pictures_module, "is_public", lambda address: address == "127.0.0.1")

    def fetch(path: str, host: str = "public.test", port: int = port, **limits: Any) -> bytes | str:
        async def scenario() -> bytes | str:
            pictures = RequestPictures(lambda image: image, remote=True, resolve=resolve, **limits)
            try:
                ((_, image),) = await pictures.open([f"http://{host}:{port}{path}"], {})
            except BadPicture as error:
                return str(error)
            return image.tobytes()

        return asyncio.run(scenario())

    with Image.open(io.BytesIO(png())) as original:
        assert fetch("/ok") == original.tobytes() == fetch("/hop")
    assert looked_up == ["public.test"] * 3
    assert "not on the public internet" in str(fetch("/ok", "private.test"))
    assert "not on the public internet" in str(fetch("/ok", "half.test"))
    assert "not on the public internet" in str(fetch("/inside"))
    assert "/secret" not in hits
    assert "not plain http" in str(fetch("/file"))
    assert "not plain http" in str(fetch("/ok", "user:secret@public.test"))
    assert "a port above 65535" in str(fetch("/port"))
    assert "a port above 65535" in str(fetch("/ok", port=10**30))
    assert "redirects more than 3 times" in str(fetch("/loop"))
    assert hits.count("/loop") == 4
    assert "larger than 1,000 bytes" in str(fetch("/big", max_bytes=1000))
    assert "within 0.5 s" in str(fetch("/slow", seconds=0.5))
    assert "status 404" in str(fetch("/gone"))
    assert "not a readable image" in str(fetch("/text"))


def test_remote_pictures_are_off_unless_asked_for(server: str) -> None:
    request = chat("x")
    request["messages"][0]["content"].append({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}})
    reply = post(server, request)
    assert reply.status_code == 400
    assert "switched off" in reply.json()["error"]["message"]


def test_schemathesis_finds_no_server_error(server: str) -> None:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_url(f"{server}/openapi.json")
    tried: list[str] = []
    operations = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    assert {operation.path for operation in operations} >= {"/v1/chat/completions", "/v1/models", "/health", "/metrics"}
    for operation in operations:
        # What takes no input has no invalid one.
        modes = (
            list(schemathesis.GenerationMode) if operation.method == "post" else [schemathesis.GenerationMode.POSITIVE]
        )
        for mode in modes:

            @settings(max_examples=20, deadline=None, derandomize=True, phases=[Phase.generate],
                      suppress_health_check=list(HealthCheck))  # fmt: skip
            @given(case=operation.as_strategy(generation_mode=mode))
            def sent(case: Any) -> None:
                tried.append(case.path)
                response = case.call(timeout=60)
                assert response.status_code < 500, (case.body, response.text)

            sent()
    assert len(tried) >= 40


def test_data_urls_are_pictures() -> None:
    async def opened(url: str) -> bytes:
        ((_, image),) = await RequestPictures(lambda image: image).open([url], {})
        return image.tobytes()

    plain = asyncio.run(opened(data_url(png())))
    assert asyncio.run(opened(f"data:image/jpeg;name=x.png;base64,{base64.b64encode(png()).decode()}")) == plain
    assert NAME


def test_a_picture_asked_about_again_is_not_decoded_again() -> None:
    decoded: list[tuple[int, int]] = []

    def shrink(image: Image.Image) -> Image.Image:
        decoded.append(image.size)
        return image.resize((8, 8)) if image.width < 50 else image

    async def asked(*sides: int) -> None:
        for side in sides:
            ((key, image),) = await pictures.open([data_url(files[side])], {})
            assert key == hashlib.sha256(files[side]).hexdigest()
            assert image.size == ((8, 8) if side < 50 else (side, side))

    def file(side: int) -> bytes:
        data = io.BytesIO()
        Image.new("L", (side, side)).save(data, "PNG")
        return data.getvalue()

    files = {side: file(side) for side in (*range(1, 70), 1100)}
    pictures = RequestPictures(shrink)
    asyncio.run(asked(1, 2, 1, 2, 1))
    assert decoded == [(1, 1), (2, 2)]
    asyncio.run(asked(*range(3, 65), 1, 65, 1, 2))  # 64 are kept, the ones used last: 2 went for 65
    assert decoded[2:] == [(side, side) for side in (*range(3, 65), 65, 2)]
    asyncio.run(asked(1100, 1100))  # what the model wants large would fill the memory
    assert decoded[-2:] == [(1100, 1100)] * 2
