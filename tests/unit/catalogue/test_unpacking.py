"""Archives of strangers: what may be unpacked comes out whole, what is hostile writes nothing."""

from __future__ import annotations

import io
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mblip.catalogue.unpacking import unpack
from mblip.errors import InputError

FILES = {"a.json": b"[1]", "train/1/x.jpg": b"\xff" * 2000, "train/2/ü y.jpg": b"", "./dot/z": b"z"}


def make_tar(path: Path, members: dict[str, bytes], mode: str = "w", **fields: Any) -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(content))
    return path


def make_zip(path: Path, members: dict[str, bytes], mode: int = 0, kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr, entry.compress_type = mode << 16, kind
            archive.writestr(entry, content)
    return path


def below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", ["w", "w:gz", "w:bz2", "w:xz", "zip"])
def test_files_come_out_whole(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "some.archive"
    archive = make_zip(path, FILES) if kind == "zip" else make_tar(path, FILES, kind)
    told: list[tuple[int, int]] = []
    found = unpack(archive, tmp_path / "to", tell=lambda done, total: told.append((done, total)))
    assert (found.files, found.bytes, found.first) == (4, 2004, ("a.json", "train", "dot")) and told[-1] == (2004, 2004)
    assert {name: (tmp_path / "to" / name).read_bytes() for name in below(tmp_path / "to")} == {
        name.removeprefix("./"): content for name, content in FILES.items()
    }
    assert not any(path.name.startswith(".") for path in (tmp_path / "to").iterdir())
    unpack(archive, tmp_path / "to")  # again: nothing differs
    (tmp_path / "to" / "a.json").write_text("mine")
    with pytest.raises(InputError, match="already exists and differs; move it away"):
        unpack(archive, tmp_path / "to")
    assert (tmp_path / "to" / "a.json").read_text() == "mine"


NAMES = {
    "/etc/cron.d/x": "is absolute",
    "../x": "leaves its folder",
    "a/../../x": "leaves its folder",
    "a/../x": "leaves its folder",
    "C:/x": "is absolute",
    "c:x": "is absolute",
    "..\\x": "contains a backslash",
    "a\\b": "contains a backslash",
    "a\nb": "contains a control character",
    "x" * 300: "longer than 255 bytes",
}


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("name", NAMES)
def test_names_that_leave_the_folder_write_nothing(tmp_path: Path, name: str, kind: str) -> None:
    members = {"good": b"1", name: b"2", "better": b"3"}
    archive = (make_tar if kind == "tar" else make_zip)(tmp_path / "a", members)
    with pytest.raises(InputError, match=f"is not unpacked: its member .* {NAMES[name]}.*do not trust it"):
        unpack(archive, tmp_path / "deep" / "to")
    assert below(tmp_path) == {"a"}


def test_a_nul_in_a_name(tmp_path: Path) -> None:
    """zipfile cuts a name there, so that what is checked could be another name than what is written."""
    archive = make_zip(tmp_path / "a", {"safe.jpgX../../x": b"1"})
    archive.write_bytes(archive.read_bytes().replace(b"safe.jpgX", b"safe.jpg\0"))
    with pytest.raises(InputError, match="contains a NUL character"):
        unpack(archive, tmp_path / "to")
    with tarfile.open(tmp_path / "b", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("safe")
        member.pax_headers = {"path": "safe\0/../../x"}
        tar.addfile(member)
    with pytest.raises(InputError, match="contains a NUL character"):
        unpack(tmp_path / "b", tmp_path / "to")
    assert below(tmp_path) == {"a", "b"}


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"Z", tarfile.CONTTYPE],
)
def test_links_and_devices(tmp_path: Path, kind: bytes) -> None:
    archive = make_tar(tmp_path / "a", {"link": b""}, type=kind, linkname="/etc")
    if kind == tarfile.CONTTYPE:  # an ordinary file, laid out in one piece
        unpack(archive, tmp_path / "to")
        assert below(tmp_path / "to") == {"link"}
        return
    with pytest.raises(InputError, match="'link' is a link or a device"):
        unpack(archive, tmp_path / "to")
    assert below(tmp_path) == {"a"}


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK])
def test_links_and_devices_in_a_zip(tmp_path: Path, mode: int) -> None:
    archive = make_zip(tmp_path / "a", {"link": b"/etc/passwd", "link/x": b"1"}, mode=mode | 0o777)
    with pytest.raises(InputError, match="is a link or a device"):
        unpack(archive, tmp_path / "to")
    assert below(tmp_path) == {"a"}


def test_bombs(tmp_path: Path) -> None:
    zeros = bytes(40 << 20)
    for archive in (make_zip(tmp_path / "a", {"x": zeros}), make_tar(tmp_path / "b", {"x": zeros}, "w:gz")):
        assert archive.stat().st_size < 200_000
        with pytest.raises(InputError, match="unpacks to more than 16,777,216 bytes, 100 times its own size"):
            unpack(archive, tmp_path / "to")
        assert unpack(archive, tmp_path / f"{archive.name}-to", most_bytes=len(zeros)).bytes == len(zeros)
    assert not (tmp_path / "to").exists()
    many = make_zip(tmp_path / "c", {f"{number}": bytes(1 << 20) for number in range(20)})  # small each, large together
    with pytest.raises(InputError, match="unpacks to more than"):
        unpack(many, tmp_path / "to")


def test_a_list_that_lies_about_sizes(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a", {"x": bytes(100_000)})
    data = archive.read_bytes()
    archive.write_bytes(data.replace(struct.pack("<I", 100_000), struct.pack("<I", 10)))
    with pytest.raises(InputError, match=r"is damaged|is longer than the archive's list says"):
        unpack(archive, tmp_path / "to")
    assert below(tmp_path) == {"a"}


def test_headers_that_are_gigabytes_long(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, (1 << 33) - 1
    import gzip

    with gzip.open(tmp_path / "a", "wb") as file:
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(20):
            file.write(bytes(1 << 20))
    with pytest.raises(InputError, match="a header of more than four megabytes"):
        unpack(tmp_path / "a", tmp_path / "to")


def test_damage(tmp_path: Path) -> None:
    whole = {kind: make_tar(tmp_path / kind[2:], FILES, kind).read_bytes() for kind in ("w:gz", "w:xz")}
    whole["zip"] = make_zip(tmp_path / "zip", FILES).read_bytes()
    whole["tar"] = make_tar(tmp_path / "tar", FILES).read_bytes()[:2500]
    for kind, data in whole.items():
        for cut in (
            data[: len(data) // 2],
            data[:-6] if kind != "tar" else data[:600],
            b"<html>no such page</html>",
            b"",
        ):
            (tmp_path / "a").write_bytes(cut)
            with pytest.raises(InputError, match="is damaged or not an archive"):
                unpack(tmp_path / "a", tmp_path / "to")
            assert not (tmp_path / "to").exists() or below(tmp_path / "to") == set()


def test_names_twice_and_files_as_folders(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a", "w") as tar:
        for content in (b"1", b"22"):
            member = tarfile.TarInfo("x")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(InputError, match="two members called 'x'"):
        unpack(tmp_path / "a", tmp_path / "to")
    with pytest.raises(InputError, match="is inside another member that is a file"):
        unpack(make_tar(tmp_path / "b", {"x/y": b"1", "x": b"2"}), tmp_path / "to")


def test_archives_in_an_archive(tmp_path: Path) -> None:
    """ImageNet's training set is a tar of a tar for each class."""
    inner = {
        f"n0{number}.tar": make_tar(tmp_path / "x", {f"n0{number}_1.JPEG": b"1"}).read_bytes() for number in (1, 2)
    }
    outer = make_tar(tmp_path / "train.tar", inner)
    assert unpack(outer, tmp_path / "train", inner=True).files == 2
    assert below(tmp_path / "train") == {"n01/n01_1.JPEG", "n02/n02_1.JPEG"}
    bad = make_tar(tmp_path / "bad.tar", {"n01.tar": make_tar(tmp_path / "x", {"../../x": b"1"}).read_bytes()})
    with pytest.raises(InputError, match="leaves its folder"):
        unpack(bad, tmp_path / "other", inner=True)
    assert below(tmp_path / "other") == set()


def test_a_full_disk(tmp_path: Path) -> None:
    """The system lets the process write files of 100 kB at most, as a full disk would let it write no more."""
    make_tar(tmp_path / "a", {"small": b"1", "large": bytes(200_000)})
    program = (
        "import resource, sys\nfrom pathlib import Path\nfrom mblip.catalogue.unpacking import unpack\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "unpack(Path(sys.argv[1]), Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "a", tmp_path / "to"], capture_output=True, text=True, check=False
    )
    assert "InputError: cannot unpack" in done.stderr and "File too large; free the space" in done.stderr
    assert below(tmp_path / "to") == set()


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(InputError, match=r"unpacks to 2,004 bytes, but .* has 1,000 bytes free"):
        unpack(make_tar(tmp_path / "a", FILES), tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_what_a_killed_process_left_is_taken_up(tmp_path: Path) -> None:
    """It may have left a hidden folder, and members that had moved to their places whole."""
    archive = make_zip(tmp_path / "a.zip", FILES)
    staging = tmp_path / "to/.a.zip.unpacking"
    staging.mkdir(parents=True)
    (staging / "half").write_bytes(b"ha")
    (tmp_path / "to/a.json").write_bytes(FILES["a.json"])
    assert unpack(archive, tmp_path / "to").files == 4
    assert below(tmp_path / "to") == {name.removeprefix("./") for name in FILES} and not staging.exists()


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_without_files_is_damaged(tmp_path: Path, kind: str) -> None:
    archive = (make_zip if kind == "zip" else make_tar)(tmp_path / f"a.{kind}", {})
    with pytest.raises(InputError, match="it holds no file"):
        unpack(archive, tmp_path / "to")
    assert below(tmp_path / "to") == set()


def test_a_file_without_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a file without a name"):
        unpack(make_tar(tmp_path / "a.tar", {"b": b"1", "": b"2"}), tmp_path / "to")
    assert below(tmp_path / "to") == set()
