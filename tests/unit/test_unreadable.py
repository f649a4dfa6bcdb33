"""A file that the system refuses ends every verb with one sentence that names it and the remedy, and exit code 2."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.rights import permissions_bind

from mblip.config import DataRecipe, load_recipe
from mblip.mixture import build_mix
from mblip.nano.demo_pictures import draw
from mblip.nano.plugin import BASES

HOWS = ("denied", "folder", "circle", "dangling")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(BASES / "nano-blip2-en", home / "model")
    (home / "pictures").mkdir()
    names = [path.name for path in draw(home / "pictures")]
    (home / "list.txt").write_text("".join(f"pictures/{name}\n" for name in names))
    (home / "table.csv").write_text(f"image,question,answer\npictures/{names[0]},what?,dog\n")
    (home / "answers.jsonl").write_text('{"id": "1", "answer": "dog"}\n')
    (home / "keys").write_text("key\n")
    (home / "more.csv").write_text("code,name,script\ngn,Guarani,Latn\n")
    shutil.copy(BASES / "nano-blip2-en/recipe.yaml", home / "own.yaml")
    small = ("sources.scenes.options.scenes=60", "allocation.languages=[en, de]")
    build_mix(load_recipe(DataRecipe, "nano_scenes", small), home / "mix")
    (home / "locked").mkdir(mode=0o500)
    return home


@contextmanager
def broken(path: Path, how: str) -> Iterator[None]:
    mode, kept = path.stat().st_mode, path.with_name("kept")
    if how == "denied":
        path.chmod(0)
    else:
        path.rename(kept)
        path.mkdir() if how == "folder" else path.symlink_to(path.name if how == "circle" else "gone")
    try:
        yield
    finally:
        if how == "denied":
            path.chmod(mode)
        else:
            path.rmdir() if how == "folder" else path.unlink()
            kept.rename(path)


def said(arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on standard error of a verb that ends with exit code 2."""
    from mblip.cli.app import main

    monkeypatch.setattr(sys, "argv", ["mblip", *arguments.split()])
    with permissions_bind(), pytest.raises(SystemExit) as stopped:
        main()
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and lines and "[Errno" not in lines[-1] and lines[-1].startswith("mblip: ")
    return lines[-1].removeprefix("mblip: ")


CAPTION = "caption pictures --language en --model model"
TRAIN = "train nano/align --to locked/run data.mix=mix"
SCORE = "score table --data table.csv --predictions answers.jsonl --task vqa --language en"


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(("file", "verb"), [
    ("model/tokenizer.json", CAPTION),
    ("model/tokenizer_config.json", CAPTION),
    ("model/processor_config.json", CAPTION),
    ("model/generation_config.json", CAPTION),
    ("model/model.safetensors", CAPTION),
    ("mix/mix-00000.parquet", "data inspect mix"),
    ("mix/exclusions.jsonl", "data inspect mix"),
    ("keys", "serve --model model --api-keys keys"),
    ("more.csv", "languages --more more.csv"),
])  # fmt: skip
def test_a_file_inside_is_named_with_the_remedy(
    file: str, verb: str, how: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    with broken(Path(file), how):
        message = said(verb, monkeypatch, capsys)
    remedy = {"denied": "give yourself the right", "folder": "a file is expected", "circle": "links lead in a circle",
              "dangling": "a link that leads to no file"}[how]  # fmt: skip
    assert message.startswith("cannot read ") and file in message and remedy in message, message


@pytest.mark.parametrize(("file", "verb"), [
    ("model/config.json", CAPTION),
    ("mix/manifest.json", "data inspect mix"),
    ("mix/recipe.yaml", TRAIN.replace("locked", "new")),
    ("own.yaml", "train own.yaml --to new/run"),
    ("own.yaml", "plan own.yaml"),
    ("list.txt", "caption list.txt --language en --model model"),
    ("table.csv", "eval model --table table.csv --task vqa --language en --to new/eval"),
    ("table.csv", SCORE),
    ("answers.jsonl", SCORE),
])  # fmt: skip
def test_a_file_without_the_right_to_read_it(
    file: str, verb: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    with broken(Path(file), "denied"):
        message = said(verb, monkeypatch, capsys)
    assert file in message and "; give yourself the right to read it" in message, message


@pytest.mark.parametrize(("file", "verb", "says"), [
    ("own.yaml", "train own.yaml --to new/run", "there is no recipe 'own.yaml'"),
    ("list.txt", "caption list.txt --language en --model model", "there is no picture, folder or table 'list.txt'"),
    ("table.csv", "eval model --table table.csv --task vqa --language en --to new/eval", "there is no table table.csv"),
    ("answers.jsonl", SCORE, "--predictions: there is no answers.jsonl"),
])  # fmt: skip
def test_a_link_without_a_file_is_not_only_missing(
    file: str, verb: str, says: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    link = "it is a link that leads to no file: name the file itself, or copy it again"
    for how in ("circle", "dangling"):
        with broken(Path(file), how):
            assert said(verb, monkeypatch, capsys) == f"{says}; {link}"


def test_a_folder_is_no_recipe(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(home)
    assert said("plan mix", monkeypatch, capsys) == "mix is a folder; name a recipe, such as mix/recipe.yaml"


def test_a_picture_without_the_right_to_read_it_stops_no_other(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    first, *others = sorted(Path("pictures").iterdir())
    with broken(first, "denied"), monkeypatch.context() as patched, permissions_bind():
        from mblip.cli.app import main

        patched.setattr(sys, "argv", ["mblip", *CAPTION.split()])
        with pytest.raises(SystemExit) as stopped:
            main()
        shown = capsys.readouterr()
        assert stopped.value.code == 1 and len(shown.out.splitlines()) == len(others)
        assert f"image '{first}' cannot be used: Permission denied; give yourself the right to read it" in shown.err
        message = said(f"ask {first} what? --language en --model model", monkeypatch, capsys)
    assert message == f"image '{first}' cannot be used: Permission denied; give yourself the right to read it"


@pytest.mark.parametrize("verb", [
    f"{CAPTION} --to TO/captions.csv",
    "data mix nano_scenes sources.scenes.options.scenes=60 --to TO/mix",
    "train nano/align data.mix=mix --to TO/run",
    "eval model --table table.csv --task vqa --language en --to TO/eval",
    "export model --to TO/stock",
    "examples --to TO/pictures",
])  # fmt: skip
def test_a_place_that_cannot_be_written(
    verb: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    for to, remedy in (
        ("locked", "choose a folder that can be written"),
        ("keys", "a part of its path is a file, where a folder is expected"),
        ("x" * 300, "choose a shorter name"),
    ):
        message = said(verb.replace("TO", to), monkeypatch, capsys)
        assert remedy in message, message
        assert (f"{to}/" in message) if len(to) < 9 else len(message) < 400
