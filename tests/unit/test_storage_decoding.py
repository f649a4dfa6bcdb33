"""Pictures whose metadata cannot be read keep their pixels, and their rotation where that can be read; phones' formats."""

from __future__ import annotations

import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin, features

from mblip.processing.images import open_picture
from mblip.storage import FolderStore, UnreadableImage, decode_image, open_images
from mblip.storage import decoding as module
from mblip.storage.metadata import without_metadata

PIXELS = np.random.default_rng(5).integers(0, 256, (24, 40, 3), np.uint8)
BROKEN_EXIF = b"MM\x00\x2a\x00\x00"


def _encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(*chunks: bytes, at_end: bool = False) -> bytes:
    data = _encoded("PNG")
    place = len(data) - 12 if at_end else 33  # before IEND, or behind IHDR
    return data[:place] + b"".join(chunks) + data[place:]


def _segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def _jpeg(*segments: bytes, data: bytes | None = None) -> bytes:
    data = data or _encoded("JPEG", quality=95)
    return data[:2] + b"".join(segments) + data[2:]


def _webp(kind: bytes, content: bytes) -> bytes:
    data = _encoded("WEBP", lossless=True, exif=b"Exif\0\0II*\0")
    chunk = kind + struct.pack("<I", len(content)) + content
    body = data[8:] + chunk
    flags = {b"ICCP": 0x20, b"XMP ": 0x04, b"EXIF": 0x08}[kind]
    place = body.index(b"VP8X") + 8
    body = body[:place] + bytes([body[place] | flags]) + body[place + 1 :]
    return b"RIFF" + struct.pack("<I", len(body)) + body


_HUGE = zlib.compress(b"x" * (PngImagePlugin.MAX_TEXT_CHUNK + 9))
SPOILT = {
    "png: EXIF": _png(_chunk(b"eXIf", BROKEN_EXIF)),
    "png: EXIF of nothing": _png(_chunk(b"eXIf", b"")),
    "png: raw profile": _png(_chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  999\nnothexadecimal")),
    "png: text too large": _png(_chunk(b"zTXt", b"Comment\0\0" + _HUGE)),
    "png: text too large at the end": _png(_chunk(b"zTXt", b"Comment\0\0" + _HUGE), at_end=True),
    "png: international text too large": _png(_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + _HUGE)),
    "png: profile": _png(_chunk(b"iCCP", b"icc\0\0" + b"not compressed")),
    "png: profile in an unknown way": _png(_chunk(b"iCCP", b"icc\0\7" + b"x")),
    "png: resolution cut off": _png(_chunk(b"pHYs", b"\0")),
    "png: checksum of a text": _png(_chunk(b"tEXt", b"a\0b")[:-1] + b"?"),
    "png: animation": _png(_chunk(b"acTL", b"\0")),
    "jpeg: EXIF": _jpeg(_segment(0xE1, b"Exif\0\0" + BROKEN_EXIF)),
    "jpeg: EXIF of nothing": _jpeg(_segment(0xE1, b"Exif\0\0")),
    "jpeg: profile": _jpeg(_segment(0xE2, b"ICC_PROFILE\0")),
    "jpeg: thumbnails": _jpeg(_segment(0xE2, b"MPF\0MM\0*\0\0\0\x08\0\x01\xb0\x01\0\x04\0\0\0\x01\0\0\0\x09")),
    "jpeg: Photoshop and IPTC": _jpeg(_segment(0xED, b"Photoshop 3.0\x008BIM\x04\x04\xff\x00\xff\xff\xff\xff")),
    "jpeg: XMP": _jpeg(_segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta tiff:Orientation='\xff'")),
    "jpeg: comment": _jpeg(_segment(0xFE, b"\xff\xfe\x00")),
    "jpeg: header of JFIF": _jpeg(_segment(0xE0, b"JFIF\0\1")),
    "webp: EXIF": _webp(b"EXIF", BROKEN_EXIF),
    "webp: profile": _webp(b"ICCP", b"nothing"),
    "webp: XMP": _webp(b"XMP ", b"\xff\xfe<"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_good_pixels_are_read_whatever_their_metadata(name: str, tmp_path: Path) -> None:
    plain = decode_image(_encoded("JPEG", quality=95), "x") if name.startswith("jpeg") else Image.fromarray(PIXELS)
    assert decode_image(SPOILT[name], "x").tobytes() == plain.tobytes()
    (tmp_path / "a.jpg").write_bytes(SPOILT[name])
    assert open_picture(tmp_path / "a.jpg").tobytes() == plain.tobytes()
    assert FolderStore(tmp_path).get("a").tobytes() == plain.tobytes()
    try:
        opened = Image.open(tmp_path / "a.jpg")
    except (OSError, ValueError, SyntaxError):  # what Pillow itself does not even open
        return
    assert open_picture(opened).tobytes() == plain.tobytes()


def test_some_of_these_stop_pillow() -> None:
    """Without this the test above could pass because nothing was spoilt."""
    stopped = []
    for name, data in SPOILT.items():
        try:
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                image.getexif()
        except (OSError, ValueError, SyntaxError, KeyError, struct.error):
            stopped.append(name)
    assert len(stopped) >= 5, stopped


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_the_rotation_is_kept_where_other_metadata_are_broken(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = _encoded(kind, exif=exif)
    if kind == "JPEG":
        turned = _jpeg(_segment(0xFE, b"x"), _segment(0xE2, b"MPF\0"), data=turned)
    elif kind == "PNG":
        turned = turned[:33] + _chunk(b"zTXt", b"Comment\0\0" + _HUGE) + turned[33:]
    assert decode_image(turned, "x").size == (24, 40)
    bare = without_metadata(turned, keep_exif=True)
    assert bare is not None and decode_image(bare, "x").size == (24, 40)
    barest = without_metadata(turned, keep_exif=False)
    assert barest is not None and decode_image(barest, "x").size == (40, 24)


def test_colours_stay_those_of_the_file_without_metadata() -> None:
    cmyk = io.BytesIO()
    Image.fromarray(PIXELS).convert("CMYK").save(cmyk, "JPEG")
    clear = io.BytesIO()
    Image.fromarray(PIXELS).quantize(16).save(clear, "PNG", transparency=3)
    for data in (cmyk.getvalue(), clear.getvalue()):
        bare = without_metadata(data, keep_exif=False)
        assert bare is not None and decode_image(bare, "x").tobytes() == decode_image(data, "x").tobytes()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_pixels_stay_damaged(kind: str, tmp_path: Path) -> None:
    data = _encoded(kind)
    cut = data[: len(data) * 2 // 3]
    with pytest.raises(UnreadableImage):
        decode_image(cut, "x")
    if kind == "WEBP":  # Pillow decodes it when it is opened
        return
    (tmp_path / "cut.jpg").write_bytes(cut)
    with pytest.raises(UnreadableImage, match=r"cut\.jpg"):  # and no OSError, SyntaxError or ValueError of Pillow
        open_picture(Image.open(tmp_path / "cut.jpg"))
    with pytest.raises(UnreadableImage, match="PIL image"):
        open_picture(Image.open(io.BytesIO(cut)))


def _ftyp(*brands: bytes) -> bytes:
    data = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return struct.pack(">I", len(data) + 4) + data + bytes(64)


@pytest.mark.parametrize("brands", [(b"heic", b"mif1"), (b"heix",), (b"mif1", b"heic"), (b"msf1", b"hevc"), (b"mif1",)])
def test_a_phones_picture_names_the_extra_that_reads_it(
    brands: tuple[bytes, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_registers_heif", lambda: False)
    with pytest.raises(UnreadableImage, match=r"it is HEIC/HEIF, which needs an extra: pip install 'mblip\[heic\]'"):
        decode_image(_ftyp(*brands), "IMG_0001.HEIC")


def test_a_film_under_a_pictures_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreadableImage, match="it is a video"):
        decode_image(_ftyp(b"isom", b"mp42"), "IMG_0001.JPG")
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(UnreadableImage, match="AVIF, which this Pillow does not read"):
        decode_image(_ftyp(b"avif", b"mif1"), "x.avif")


@pytest.mark.parametrize("ending", [".HEIC", ".heif", ".hif"])
def test_heic_with_the_extra(ending: str, tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="the extra heic is not installed")
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth = Image.fromarray(PIXELS).resize((4, 3)).resize((96, 64), Image.Resampling.BICUBIC)
    heif.from_pillow(smooth).save(tmp_path / f"IMG_1{ending}", quality=-1)
    heif.from_pillow(smooth).save(tmp_path / f"IMG_2{ending}", quality=-1, exif=exif.tobytes())
    store = FolderStore(tmp_path)
    found = np.asarray(store.get("IMG_1")).astype(int)
    assert found.shape == (64, 96, 3) and np.abs(found - np.asarray(smooth)).mean() < 3
    assert store.get("IMG_2").size == (64, 96)  # held upright
    assert open_picture(tmp_path / f"IMG_2{ending}").size == (64, 96)


def _stored() -> dict[str, tuple[bytes, Image.Image]]:
    """Files that the original reads otherwise, with what plain Pillow makes of them."""
    exif = Image.Exif()
    found = {}
    for turn in (2, 3, 6, 8):
        exif[0x0112] = turn
        found[f"turned {turn}"] = _encoded("JPEG", quality=95, exif=exif)
    exif[0x0112] = 5
    found["png, turned"] = _encoded("PNG", exif=exif)
    clear = Image.fromarray(np.dstack([PIXELS, np.zeros(PIXELS.shape[:2], np.uint8)]))
    palette = clear.convert("RGB").quantize(8)
    grey = Image.fromarray(np.linspace(0, 60000, 96 * 64).reshape(64, 96).astype(np.uint16))
    for name, image, options in (
        ("transparent", clear, {}), ("palette", palette, {"transparency": 0}), ("grey and alpha", clear.convert("LA"), {}),
        ("sixteen bits", grey, {}),
    ):  # fmt: skip
        stream = io.BytesIO()
        image.save(stream, "PNG", **options)
        found[name] = stream.getvalue()
    stored = {}
    for name, data in found.items():
        with Image.open(io.BytesIO(data)) as image:
            stored[name] = (data, image.convert("RGB"))
    return stored


@pytest.mark.parametrize("name", _stored())
def test_pictures_as_they_are_stored_are_those_of_plain_pillow(name: str, tmp_path: Path) -> None:
    data, plain = _stored()[name]
    ending = ".jpg" if name.startswith("turned") else ".png"
    (tmp_path / f"a{ending}").write_bytes(data)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / f"a{ending}", f"a{ending}")
    table = {"image": [{"bytes": data, "path": None}]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    for place, key in ((tmp_path, "a"), (tmp_path / "a.tar", "a"), (tmp_path / "a.parquet", "a.parquet#0")):
        found = open_images(place, as_stored=True).get(key, at_least=8)  # and no smaller, however small it may be
        assert (found.size, found.mode, found.tobytes()) == (plain.size, "RGB", plain.tobytes()), place
        assert open_images(place).get(key).tobytes() != plain.tobytes()


def test_what_is_damaged_is_unreadable_as_stored_too() -> None:
    for data in (b"", b"nothing", _encoded("JPEG")[:200], _encoded("PNG")[:-40], _ftyp(b"isom", b"mp42")):
        with pytest.raises(UnreadableImage):
            decode_image(data, "x", as_stored=True)
