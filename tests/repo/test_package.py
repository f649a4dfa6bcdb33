"""The wheel: what a person who never sees the repository gets."""

from __future__ import annotations

import email
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    source = ROOT / "src"
    files = {path.relative_to(source).as_posix() for path in (source / "mblip").rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name}
    assert "mblip/languages.csv" in expected
    assert "mblip/nano/data/names.json.gz" in expected
    assert "mblip/py.typed" in expected
    assert sum(name.startswith("mblip/recipes/") for name in expected) >= 2
    assert expected - set(wheel.namelist()) == set()


def test_wheel_carries_the_licences_of_its_data(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    for licence in ("LICENSE", "NOTICE"):
        assert any(name.endswith(f".dist-info/licenses/{licence}") for name in names)
    assert {"mblip/nano/data/LICENSE.unicode.txt", "mblip/nano/data/LICENSE.noto-emoji.OFL-1.1.txt"} <= set(names)


def test_notice_names_every_file_of_others(wheel: zipfile.ZipFile) -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    licences = [name for name in wheel.namelist() if "/LICENSE." in name and name.startswith("mblip/")]
    assert len(licences) >= 2
    assert [name for name in licences if f"src/{name}" not in notice] == []


def test_metadata(wheel: zipfile.ZipFile) -> None:
    from mblip import __version__

    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    about = email.message_from_bytes(wheel.read(name))
    assert about["Version"] == __version__
    assert about["License-Expression"] == "MIT"
    assert about["Requires-Python"] == ">=3.11"
    assert "make quickstart" in str(about.get_payload())
    (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert b"mblip = mblip.cli.app:main" in wheel.read(entry)


def test_wheel_is_small_enough_to_try(wheel: zipfile.ZipFile) -> None:
    assert sum(item.compress_size for item in wheel.infolist()) < 32 * 2**20
