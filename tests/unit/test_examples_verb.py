"""``mblip examples``: pictures that a newcomer can try the commands on."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.errors import InputError


def test_pictures_are_written_the_same_ones_every_time(tmp_path: Path) -> None:
    to = tmp_path / "pictures"
    first = CliRunner().invoke(app, ["examples", "--to", str(to)])
    paths = [Path(line) for line in first.output.split()]
    assert first.exit_code == 0 and len(paths) == 4 and all(Image.open(path).size == (256, 256) for path in paths)
    before = [path.read_bytes() for path in paths]
    assert CliRunner().invoke(app, ["examples", "--to", str(to)]).exit_code == 0
    assert [path.read_bytes() for path in paths] == before


def test_a_picture_of_ones_own_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "scene-2.png").write_bytes(b"mine")
    done = CliRunner().invoke(app, ["examples", "--to", str(tmp_path)])
    assert isinstance(done.exception, InputError) and "scene-2.png is another picture" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["scene-2.png"] and (
        tmp_path / "scene-2.png"
    ).read_bytes() == b"mine"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    done = CliRunner().invoke(app, ["examples", "--to", str(tmp_path / "file" / "pictures")])
    assert "cannot write the pictures" in str(done.exception)
