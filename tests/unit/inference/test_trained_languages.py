"""A model that is asked for a language that it was never trained to write says so, once."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import httpx
import pytest
from tests.serving import NAME, png, serving
from tests.unit.inference.test_demo import call, uploaded

from mblip.cli.serve import _greet
from mblip.inference.predictor import Predictor, load_model
from mblip.inference.server import Settings, create_app
from mblip.inference.trained_languages import read_languages, warn_of_languages
from mblip.nano.demo_pictures import draw

ENGLISH = "nano:nano-blip2-en"


@pytest.fixture(scope="module")
def english() -> Predictor:
    return load_model(ENGLISH)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return draw(tmp_path_factory.mktemp("scenes"))


@pytest.mark.parametrize(("trained", "asked", "says"), [
    (["en"], ["de"], "to write English only, not German: its text may be wrong or in another language"),
    (["en", "de", "sw"], ["ja", "de", "ar"], "to write English, German and Swahili, but not Arabic and Japanese:"),
    (["af", "am", "ar", "az", "be", "bg", "bn", "ca", "ceb", "co", "cs"], ["de"], "to write 11 languages, but not German:"),
    (["gn", "en"], ["quz"], "to write English and gn, but not Quechua:"),  # one beyond the 96, not registered here
    (["en"], ["af", "am", "ar", "az", "be", "bg", "bn", "ca", "ceb", "co", "cs", "cy"], "Czech and 2 more: "),
    (["en"], ["en"], ""),
    (["en"], [], ""),
    ([], ["de"], ""),
    (None, ["de"], ""),
])  # fmt: skip
def test_the_warning_names_what_was_trained_and_what_was_not(
    trained: list[str] | None, asked: list[str], says: str
) -> None:
    warning = warn_of_languages(trained, asked)
    assert says in warning and bool(says) == bool(warning)


@pytest.mark.parametrize(("file", "content", "languages"), [
    ("mblip.json", '{"trained_languages": ["de"]}', {"de"}),
    ("config.json", '{"trained_languages": ["de", "sw"]}', {"de", "sw"}),
    ("config.json", '{"trained_languages": "de"}', None),
    ("config.json", '{"trained_languages": null}', None),
    ("config.json", "{}", None),
    ("config.json", "[]", None),
    ("mblip.json", "cut of", None),
    ("other.json", "{}", None),
])  # fmt: skip
def test_a_folder_tells_its_languages_without_loading(
    file: str, content: str, languages: set[str] | None, tmp_path: Path
) -> None:
    (tmp_path / file).write_text(content)
    assert read_languages(tmp_path) == languages


def test_the_description_of_a_run_comes_before_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "mblip.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"trained_languages": ["en"]}')
    assert read_languages(tmp_path) is None


def run_verb(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from mblip.cli.app import main

    monkeypatch.setattr(sys, "argv", ["mblip", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0


@pytest.mark.parametrize(("languages", "warnings"), [("de,en,ja", 1), ("en", 0)])
def test_caption_warns_once_for_all_pictures(
    languages: str,
    warnings: int,
    scenes: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_verb(["caption", *map(str, scenes), "--language", languages, "--model", ENGLISH], monkeypatch)
    shown = capsys.readouterr()
    assert len(shown.out.splitlines()) == len(scenes) * len(languages.split(","))
    assert shown.err.count("trained") == warnings
    if warnings:
        assert "mblip: warning: the model was trained to write English only, not German and Japanese" in shown.err


def test_ask_warns_of_its_option_and_of_a_prompt_that_names_the_language(
    scenes: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for question, more, name in (
        ("Name the object in kiswahili", [], "Swahili"),
        ("What is on the table?", ["--language", "de"], "German"),
        ("Name the object in English:", [], ""),
    ):
        run_verb(["ask", str(scenes[0]), question, "--model", ENGLISH, *more], monkeypatch)
        shown = capsys.readouterr()
        assert shown.out
        lines = [line for line in shown.err.splitlines() if "trained" in line]
        said = f"mblip: warning: the model was trained to write English only, not {name}: "
        assert len(lines) == bool(name) and all(line.startswith(said) for line in lines)


def test_the_python_interface_logs_it_once_for_each_language(
    english: Predictor, scenes: list[Path], caplog: pytest.LogCaptureFixture
) -> None:
    assert english.trained_languages == {"en"}
    with caplog.at_level(logging.WARNING, "mblip"):
        english.caption(scenes[0], "en", max_new_tokens=2)
        assert not caplog.messages
        english.caption(scenes[:2], ["de", "en"], max_new_tokens=2)
        english.caption(scenes[1], "German", max_new_tokens=2)
        english.answer(scenes[0], "Name the object in German:", max_new_tokens=2)
        assert len(caplog.messages) == 1 and "not German:" in caplog.messages[0]
        english.answer(scenes[0], "What is it?", "sw", max_new_tokens=2)
    assert len(caplog.messages) == 2 and "not Swahili:" in caplog.messages[1]


def test_nothing_is_said_of_a_model_whose_languages_are_unknown(
    tiny: Predictor, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tiny.trained_languages is None
    tiny.caption(png(), "de", max_new_tokens=2)
    _greet("http://x", "127.0.0.1", False, tiny)
    assert not caplog.messages and "trained" not in capsys.readouterr().out


def test_serve_says_what_the_model_writes(english: Predictor, capsys: pytest.CaptureFixture[str]) -> None:
    _greet("http://x", "127.0.0.1", False, english)
    assert "the model was trained to write English only\n" in capsys.readouterr().out


def test_the_page_offers_what_the_model_writes_and_warns_of_the_rest(
    english: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mblip.inference.demo import mount_demo

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    app = mount_demo(create_app(english, NAME, Settings(wait=0)), english, NAME, 1 << 20)
    with serving(app) as address:
        config = httpx.get(f"{address}/config").json()
        picture = uploaded(address, png())
        captions = {
            codes: call(address, "caption", [picture, [*codes], 1, 0, 1.5, 4])[1] for codes in (("en",), ("en", "ja"))
        }
        named = call(address, "ask", [picture, "Name the object in German:", "", 1, 0, 1.5, 4])[1]
    picked = [part["props"] for part in config["components"] if part["props"].get("multiselect")]
    assert [props["value"] for props in picked] == [["en"]]
    assert "Name the object in English:" in [part["props"].get("placeholder") for part in config["components"]]
    page = next(part["props"]["value"] for part in config["components"] if part["type"] == "markdown")
    assert "answers questions about them, in English only" in page
    assert "never" not in captions["en",]
    assert "The model was trained to write English only, not Japanese: " in captions["en", "ja"]
    assert "not German: " in named


def test_an_older_run_on_this_model_is_not_taken_for_it(english: Predictor, tmp_path: Path) -> None:
    from mblip.models.runs import load_run, save_run

    save_run(english.vlm, tmp_path)
    assert read_languages(tmp_path) == {"en"}
    description = json.loads((tmp_path / "mblip.json").read_text())
    del description["trained_languages"]
    (tmp_path / "mblip.json").write_text(json.dumps(description))
    assert Predictor(load_run(tmp_path), ()).trained_languages is None
