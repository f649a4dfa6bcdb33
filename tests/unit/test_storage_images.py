from __future__ import annotations

import io
import os
import pickle
import random
import struct
import tarfile
import unicodedata
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mblip.errors import InputError
from mblip.storage import FolderStore, TarStore, UnreadableImage, decode_image, open_images
from mblip.storage.decoding import EXTENSIONS, FORMATS

RED = (200, 30, 40)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(width: int = 20, height: int = 10, mode: str = "RGB") -> Image.Image:
    ramp = np.linspace(0, 255, width * height * 3).astype(np.uint8).reshape(height, width, 3)
    return Image.fromarray(ramp).convert(mode)


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


# --- decoding


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats_whatever_the_name_says(kind: str) -> None:
    image = decode_image(encoded(Image.new("RGB", (16, 8), RED), kind), "wrong.name")
    assert image.mode == "RGB"
    assert image.size == (16, 8)
    assert np.abs(np.asarray(image).astype(int) - RED).max() <= 6


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_modes_become_rgb_and_keep_their_content(mode: str) -> None:
    if mode == "I;16":
        source = Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16))
        pixels = np.asarray(decode_image(encoded(source), "x"))
        assert (pixels == np.arange(256).reshape(16, 16, 1)).all()
        return
    image = decode_image(encoded(picture(mode=mode), "TIFF" if mode == "CMYK" else "PNG"), "x")
    assert image.mode == "RGB"
    assert np.asarray(image)[0, 0].max() < 60 < 150 < np.asarray(image)[-1, -1].min()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_image(encoded(picture(20, 10), "JPEG", exif=exif), "x")
    assert image.size == ((20, 10) if orientation <= 4 else (10, 20))


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, (0, 255, 0))]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decode_image(data, "x").getpixel((0, 0)) == RED


def test_large_jpegs_may_be_decoded_smaller_but_never_below_what_is_needed() -> None:
    data = encoded(Image.new("RGB", (1600, 1200), RED), "JPEG")
    assert decode_image(data, "x").size == (1600, 1200)
    assert decode_image(data, "x", at_least=448).size == (800, 600)
    assert decode_image(data, "x", at_least=100).size == (200, 150)
    assert decode_image(data, "x", at_least=2000).size == (1600, 1200)
    assert decode_image(encoded(Image.new("RGB", (160, 120), RED)), "x", at_least=10).size == (160, 120)


def test_decompression_bombs_are_refused_without_decoding() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for size in (10_000, 60_000):
        header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(UnreadableImage, match=r"pixels|bomb"):
                decode_image(bomb, "bomb.png")


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"<html>", b"\xff\xd8\xff\xe0", bytes(1000)])
def test_what_is_no_image_is_named(data: bytes) -> None:
    with pytest.raises(UnreadableImage, match=r"image 'a.jpg' cannot be used: ") as caught:
        decode_image(data, "a.jpg")
    assert caught.value.key == "a.jpg"
    assert caught.value.reason
    assert isinstance(caught.value, InputError)
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_damage_is_an_unreadable_image_or_an_image(kind: str) -> None:
    rng = random.Random(0)
    whole = encoded(picture(40, 30), kind)
    for cut in range(0, len(whole), max(1, len(whole) // 40)):
        _try(whole[:cut])
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 3, 20])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        _try(bytes(data))


def _try(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert decode_image(data, "x").mode == "RGB"
        except UnreadableImage as error:
            assert error.key == "x"


def test_a_cut_off_jpeg_is_not_filled_with_grey() -> None:
    whole = encoded(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")
    with pytest.raises(UnreadableImage, match="truncated"):
        decode_image(whole[: len(whole) // 2], "x")


# --- stores


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    (root / "a.jpg").write_bytes(encoded(picture(), "JPEG"))
    (root / "sub" / "b.png").write_bytes(encoded(Image.new("RGB", (4, 4), RED)))
    (root / "empty.jpg").write_bytes(b"")
    (tmp_path / "secret.jpg").write_bytes(encoded(picture()))
    return root


def test_folder_store(folder: Path) -> None:
    store = open_images(folder)
    assert isinstance(store, FolderStore)
    assert store.get("a.jpg").size == (20, 10)
    assert store.get("a").size == (20, 10)
    assert store.get("sub/b.png").getpixel((0, 0)) == RED
    assert store.get("sub/b", at_least=2).size == (4, 4)
    assert "a.jpg" in store
    assert "sub/b" in store
    assert "c.jpg" not in store
    assert pickle.loads(pickle.dumps(store)).get("a").size == (20, 10)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("c.jpg", "holds no such file"),
        ("empty.jpg", "the file is empty"),
        ("sub", "holds no such file"),
        ("../secret.jpg", "leads out of the folder"),
        ("sub/../../secret.jpg", "leads out of the folder"),
        ("..\\secret.jpg", "leads out of the folder"),
        ("/etc/passwd", "leads out of the folder"),
        ("a.jpg\0.png", "leads out of the folder"),
        ("", "holds no such file"),
        ("x" * 5000, "holds no such file"),
        ("\ud800", "holds no such file"),
    ],
)
def test_folder_store_refuses(folder: Path, key: str, reason: str) -> None:
    store = FolderStore(folder)
    with pytest.raises(UnreadableImage, match=reason) as caught:
        store.get(key)
    assert caught.value.key == key
    if key != "empty.jpg":
        assert key not in store


@pytest.mark.parametrize(("on_disk", "asked"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_accents_spelt_apart_are_found(tmp_path: Path, on_disk: str, asked: str) -> None:
    name = "80-Tükenmez_kalem/80-n-3.jpg"
    path = tmp_path / unicodedata.normalize(on_disk, name)  # type: ignore[arg-type]
    path.parent.mkdir()
    path.write_bytes(encoded(picture()))
    key = unicodedata.normalize(asked, name)  # type: ignore[arg-type]
    assert FolderStore(tmp_path).get(key).size == (20, 10)
    tar = write_tar(tmp_path / "x.tar", {unicodedata.normalize(on_disk, name): encoded(picture())})  # type: ignore[arg-type]
    assert open_images(tar).get(key).size == (20, 10)


def test_tar_store(tmp_path: Path) -> None:
    for number in range(3):
        members = {f"{number}{i}.jpg": encoded(Image.new("RGB", (10 + number, 10 + i), RED), "JPEG") for i in range(5)}
        samples = {f"{number}{i}.txt": b"a caption" for i in range(5)} | {f"{number}{i}.json": b"{}" for i in range(5)}
        write_tar(tmp_path / f"{number:03d}.tar", members | samples)
    (tmp_path / "000.jsonl").touch()  # the tables that downloaders write beside
    for uri in (f"{tmp_path}/*.tar", f"{tmp_path}/{{000..002}}.tar", f"{tmp_path}/00[0-2].tar", str(tmp_path)):
        store = open_images(uri)
        assert isinstance(store, TarStore)
        assert len(store) == 15
        assert store.get("13.jpg").size == (11, 13)
        assert store.get("24").size == (12, 14)
        assert "00" in store
        assert "13.txt" not in store
        assert "33" not in store
        assert pickle.loads(pickle.dumps(store)).get("13").size == (11, 13)
    with pytest.raises(UnreadableImage, match=r"it is in none of the 3 tars"):
        store.get("33")
    assert len(open_images(tmp_path / "001.tar")) == 5  # type: ignore[arg-type]
    (tmp_path / "train2014").mkdir()
    assert isinstance(open_images(tmp_path), FolderStore)  # with pictures beside, the tars are none of it


def test_tar_index_is_built_once_and_again_when_the_tar_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar = write_tar(tmp_path / "a.tar", {"1.png": encoded(picture())})
    TarStore([tar])
    assert (tmp_path / "a.tar.index.npz").is_file()
    with monkeypatch.context() as patch:
        patch.setattr(tarfile, "open", lambda *_: pytest.fail("the index was built again"))
        assert TarStore([tar]).get("1").size == (20, 10)
    write_tar(tar, {"1.png": encoded(picture(30, 30)), "2.png": encoded(picture())})
    assert TarStore([tar]).get("1").size == (30, 30)
    for rubbish in (b"", b"PK\x03\x04 no archive"):
        (tmp_path / "a.tar.index.npz").write_bytes(rubbish)
        assert TarStore([tar]).get("2").size == (20, 10)


def test_names_in_a_tar_lead_nowhere(tmp_path: Path, folder: Path) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        for name, kind in (
            ("link.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("device.jpg", tarfile.CHRTYPE),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "../secret.jpg"
            tar.addfile(info)
        data = encoded(picture(7, 7))
        info = tarfile.TarInfo("../../outside.png")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    before = sorted(path for path in tmp_path.rglob("*"))
    store = TarStore([tmp_path / "evil.tar"])
    assert len(store) == 1
    for key in ("link.jpg", "hard.jpg", "device.jpg", "../secret.jpg"):
        with pytest.raises(UnreadableImage, match="it is in none of"):
            store.get(key)
    assert store.get("../../outside.png").size == (7, 7)
    after = sorted(path for path in tmp_path.rglob("*") if path.suffix != ".npz")
    assert after == before


def test_long_and_unicode_names_in_every_tar_dialect(tmp_path: Path) -> None:
    names = ["x" * 150 + ".png", "画像/ñ.png", "./dot.png"]
    for number, dialect in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        path = tmp_path / f"{number}.tar"
        with tarfile.open(path, "w", format=dialect) as tar:
            for size, name in enumerate(names, start=5):
                data = encoded(picture(size, size))
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        store = TarStore([path])
        assert [store.get(name.removeprefix("./")).size[0] for name in names] == [5, 6, 7]


def test_broken_tars_are_named(tmp_path: Path) -> None:
    image = encoded(Image.effect_noise((64, 64), 50))
    with pytest.raises(InputError, match=r"cannot read the tar .*nothing.tar"):
        open_images(tmp_path / "nothing.tar")
    (tmp_path / "text.tar").write_text("not a tar" * 100)
    with pytest.raises(InputError, match=r"text.tar is not a readable, uncompressed tar"):
        open_images(tmp_path / "text.tar")
    with tarfile.open(tmp_path / "zipped.tar", "w:gz") as tar:
        tar.add(tmp_path / "text.tar", "a.png")
    with pytest.raises(InputError, match=r"zipped.tar is not a readable, uncompressed tar"):
        open_images(tmp_path / "zipped.tar")
    whole = write_tar(tmp_path / "cut.tar", {"1.png": image, "2.png": image})
    whole.write_bytes(whole.read_bytes()[: len(image) + 2000])
    with pytest.raises(InputError, match=r"cut.tar is not a readable, uncompressed tar"):
        open_images(whole)
    for name in ("a.tar", "b.tar"):
        write_tar(tmp_path / name, {"same.png": image})
    with pytest.raises(InputError, match=r"a.tar and .*b.tar hold an image of the same name"):
        open_images(f"{tmp_path}/[ab].tar")


def test_a_tar_that_shrinks_under_a_store_is_noticed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"1.png": encoded(Image.effect_noise((64, 64), 50))})
    store = TarStore([path])
    os.truncate(path, 1000)
    with pytest.raises(UnreadableImage, match="is cut off"):
        store.get("1")
    path.unlink()
    with pytest.raises(UnreadableImage, match="No such file"):
        store.get("1")


def test_read_only_folders_cost_only_the_saved_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_tar(tmp_path / "a.tar", {"1.png": encoded(picture())})

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system", str(tmp_path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert TarStore([path]).get("1").size == (20, 10)
    assert not (tmp_path / "a.tar.index.npz").exists()


def test_nano_scenes() -> None:
    store = open_images("nano:scenes")
    image = store.get("fox@0#17", at_least=32)
    assert image.mode == "RGB"
    assert image.tobytes() == store.get("fox@0#17").tobytes()
    assert "fox@0#17" in store
    for key in ("fox", "phlogiston@0#1", "fox@3+fox@0#1", ""):
        assert key not in store
        with pytest.raises(UnreadableImage) as caught:
            store.get(key)
        assert caught.value.key == key


@pytest.mark.parametrize("uri", ["", "nothing", "nano:birds", "s3://bucket/x", "a.zip"])
def test_what_is_no_store_is_named(uri: str) -> None:
    with pytest.raises(
        InputError, match=r"is not an image store: name (nano:scenes|a folder, a .tar, .* or nano:NAME)$"
    ):
        open_images(uri)


@pytest.mark.parametrize(
    ("kind", "scale", "dtype"),
    [("PPM", 257, np.uint16), ("TIFF", 257, np.int32), ("TIFF", 1 / 255, np.float32), ("TIFF", 1, np.float32),
     ("TIFF", 1, np.int32), ("TIFF", 257, np.float32)],
)  # fmt: skip
def test_greys_of_many_bits_are_neither_white_nor_black(kind: str, scale: float, dtype: type) -> None:
    ramp = np.arange(256).reshape(16, 16)
    pixels = np.asarray(decode_image(encoded(Image.fromarray((ramp * scale).astype(dtype)), kind), "x")).astype(int)
    assert np.abs(pixels - ramp[..., None]).max() <= 1


def test_formats_that_run_other_programs_are_refused() -> None:
    with pytest.raises(UnreadableImage, match=r"not a readable image \(unknown format\)"):
        decode_image(encoded(picture(), "EPS"), "x")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_white_shows_through_what_is_transparent(mode: str) -> None:
    black = Image.new("L" if mode == "P" else mode, (4, 4), 0)
    source = encoded(black.convert(mode), "PNG", **({"transparency": 0} if mode == "P" else {}))
    assert (np.asarray(decode_image(source, "x")) == 255).all()


def test_folders_know_the_endings_of_all_formats_that_are_read() -> None:
    Image.init()
    known = Image.registered_extensions()
    heif = {".heic", ".heif", ".hif", ".heics", ".heifs"}  # of the extra
    for ending in set(EXTENSIONS) - heif:
        assert known[ending] in FORMATS, ending
    assert {known[ending] for ending in set(EXTENSIONS) - heif} == set(FORMATS) - {"HEIF"}
