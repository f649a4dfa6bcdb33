"""The command line as a whole: quick to answer, fully described."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from PIL import Image
from typer.testing import CliRunner

import mblip
from mblip.cli.app import app
from mblip.errors import InputError

ROOT = Path(__file__).parents[2]

HELP = [sys.executable, "-m", "mblip", "--help"]


def verbs(command: Any = None, name: str = "") -> Iterator[tuple[str, Any]]:
    command = command or typer.main.get_command(app)
    for child, value in getattr(command, "commands", {}).items():
        yield from verbs(value, f"{name} {child}".strip())
    if not hasattr(command, "commands"):
        yield name, command


VERBS = dict(verbs())


def test_verbs_were_found() -> None:
    files = {path.stem for path in (Path(__file__).parents[2] / "src/mblip/cli").glob("*.py")} - {"__init__", "app"}
    assert "languages" in VERBS
    assert len(VERBS) >= len(files)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_and_option_says_what_it_does(name: str) -> None:
    command = VERBS[name]
    assert command.help
    silent = [parameter.name for parameter in command.params if not getattr(parameter, "help", None)]
    assert silent == []


def test_help_lists_the_verbs() -> None:
    done = subprocess.run(HELP, capture_output=True, text=True, check=True)
    assert "Commands:" in done.stdout and all(f"  {name.split()[0]} " in done.stdout for name in VERBS)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from mblip.cli.app import main\n"
        "sys.argv = ['mblip', '--help']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'transformers', 'gradio', 'peft', 'pyarrow', 'numpy', 'scipy', 'PIL', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_an_unknown_verb_is_refused() -> None:
    done = subprocess.run([sys.executable, "-m", "mblip", "langages"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "mblip: mblip has no verb 'langages'; did you mean 'languages'? Available: languages, "
    )
    assert {"caption", "ask", "train", "eval", "data"} <= set(re.findall(r"\w+", done.stderr))


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["data", "inspekt", "x"], "mblip data has no verb 'inspekt'; did you mean 'inspect'? Available: inspect, "),
        (["zzz"], "mblip has no verb 'zzz'; available: "),
        (["ask", "a.jpg", "b", "--langauge", "sw"], "mblip ask has no option '--langauge'; did you mean '--language'?"),
        (["caption", "a.jpg", "--lang=sw"], "mblip caption has no option '--lang'; did you mean '--language'?"),
        (["data", "inspect", "x", "--row", "3"], "mblip data inspect has no option '--row'; did you mean '--rows'?"),
        (["eval", "x", "--qqq"], "mblip eval has no option '--qqq'; available: "),
    ],
)
def test_an_unknown_verb_or_option_lists_what_there_is(command: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        CliRunner().invoke(app, command, prog_name="mblip", catch_exceptions=False)
    assert message in str(error.value)


def test_an_empty_question_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(InputError, match="the question is empty: write it after the picture"):
        CliRunner().invoke(app, ["ask", "a.jpg", " "], prog_name="mblip", catch_exceptions=False)


def test_a_question_in_an_unclear_language_names_the_option(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    command = ["ask", str(tmp_path / "a.png"), "What?", "--model", "nano:nano-blip2-en"]
    with pytest.raises(InputError, match="name the language of the answer, such as --language en"):
        CliRunner().invoke(app, command, prog_name="mblip", catch_exceptions=False)


def test_a_value_that_looks_like_an_option_is_a_value() -> None:
    with pytest.raises(InputError, match="unknown language '--what'"):
        CliRunner().invoke(app, ["ask", "a.jpg", "b", "--language", "--what"], catch_exceptions=False)


# Every verb that takes a path, with one that is not there; RUN is a model that is.
MISSING = [
    ("caption no/such.jpg --language sw --model RUN", "there is no picture, folder or table 'no/such.jpg'"),
    ("caption photo.jpg --language sw --model ./none", "there is no picture, folder or table 'photo.jpg'"),
    ("caption https://x.org/a.jpg --language sw --model RUN", "is an address, which is not fetched"),
    ("caption pyproject.toml --language sw --model ./none", "there is no checkpoint folder './none'"),
    ("caption pyproject.toml --language sw --model runs/none", "there is no checkpoint folder 'runs/none'"),
    ("caption pyproject.toml --language sw --model src/none", "there is no checkpoint folder 'src/none'"),
    ("caption pyproject.toml --language sw --model a/b/c", "there is no checkpoint folder 'a/b/c'"),
    ("caption pyproject.toml --language sw --model C:\\models\\x", "there is no checkpoint folder"),
    ("caption pyproject.toml --language sw --model ~/none-of-these", "there is no checkpoint folder"),
    ("caption pyproject.toml --language sw --model ~nobody-x/y", "there is no checkpoint folder"),
    ("caption pyproject.toml --language sw --model org/model.safetensors", "there is no checkpoint folder"),
    ("caption pyproject.toml --language sw --model multilingual-7", "there is no folder 'multilingual-7'"),
    ("caption pyproject.toml --language sw --model src", "src holds neither a model"),
    ("caption pyproject.toml --language sw --model pyproject.toml", "pyproject.toml is a file"),
    ("caption pyproject.toml --language sw --model nano:nano-blip2", "did you mean 'nano-blip2-en'?"),
    ("ask no/such.jpg What? --language en --model RUN", "there is no picture"),
    ("ask pyproject.toml What? --language en --model /none", "there is no checkpoint folder '/none'"),
    ("serve --model /none", "there is no checkpoint folder '/none'"),
    ("serve --model RUN --api-keys nokeys", "cannot read the keys in nokeys"),
    ("demo --model /none", "there is no checkpoint folder '/none'"),
    ("export /none --to new", "there is no checkpoint folder '/none'"),
    ("export RUN --to src", "src already exists"),
    ("doctor /none", "there is no checkpoint folder '/none'"),
    ("doctor nodata", "there is no folder, recipe or benchmark called 'nodata'"),
    ("eval /none --suite scenes --to new", "there is no checkpoint folder '/none'"),
    ("eval RUN --suite xgqa --data nodata --to new", "--data nodata is not a folder"),
    ("eval RUN --suite nosuite.yaml --to new", "no recipe file or shipped recipe 'nosuite.yaml'"),
    ("score xgqa --data no.json --predictions no.json", "--data: there is no no.json"),
    ("train no.yaml", "no recipe file or shipped recipe 'no.yaml'"),
    ("train nano/align model.vision=./none data.mix=src", "model.vision: there is no checkpoint folder './none'"),
    ("train nano/align data.mix=nomix", "data.mix: there is no mix nomix"),
    ("train mt0_xl_align data.mix=src data.images=nophotos", "data.images: 'nophotos' is not an image store"),
    ("train mt0_xl_align data.mix=src data.images=no:photos", "data.images: 'no:photos' is not an image store"),
    (
        "train finetune_own model.run=RUN data.replay= data.images=src data.source.options.path=no.csv",
        "there is no no.csv",
    ),
    ("train finetune_own model.run=/none data.images=src", "model.run: there is no checkpoint folder '/none'"),
    ("plan no.yaml", "no recipe file or shipped recipe 'no.yaml'"),
    ("plan nano/align model.vision=./none", "there is no checkpoint folder './none'"),
    ("data plan no.yaml", "no recipe file or shipped recipe 'no.yaml'"),
    ("report /none", "there is no directory /none"),
    ("data sample no.yaml --work new", "no recipe file or shipped recipe 'no.yaml'"),
    ("data translate no.yaml --work new", "no recipe file or shipped recipe 'no.yaml'"),
]


def test_a_path_that_is_not_there_is_told_before_torch_is_imported() -> None:
    """And without asking the Hub: every connection raises. What is imported counts, not the clock of a busy machine."""
    script = (
        "import json, socket, sys\n"
        "from mblip.cli.app import app\n"
        "from mblip.errors import InputError\n"
        "def refuse(*_): raise AssertionError('a connection')\n"
        "socket.socket.connect = refuse\n"
        "for command in json.loads(sys.argv[1]):\n"
        "    try:\n        app(command)\n"
        "    except InputError as error:\n"
        "        heavy = {'torch', 'transformers', 'gradio', 'peft', 'lingua'} & set(sys.modules)\n"
        "        print(json.dumps([command, str(error), sorted(heavy)]))\n"
        "    except SystemExit as stop:\n        print(json.dumps([command, f'exit {stop.code}', []]))\n"
    )
    commands = [command.replace("RUN", "nano:nano-blip2-en").split() for command, _ in MISSING]
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row[0] for row in told] == commands, done.stderr
    assert [(row[0], row[2]) for row in told if row[2]] == []
    assert [(row[1], part) for row, (_, part) in zip(told, MISSING, strict=True) if part not in row[1]] == []


def test_version() -> None:
    done = subprocess.run([sys.executable, "-m", "mblip", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == mblip.__version__


def test_a_stock_checkpoint_is_loaded_without_what_only_runs_and_questions_need() -> None:
    script = (
        "import sys\n"
        "from mblip.inference.caption_file import CaptionFile\n"
        "from mblip.inference.resolve import open_model\n"
        "open_model('nano:nano-blip2-en')\n"
        "print(sorted({'peft', 'bitsandbytes', 'lingua', 'fastapi', 'gradio'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", [["report"], ["doctor"], ["data", "plan", "nano_scenes", "--work"]])
def test_a_name_that_no_file_can_have_is_one_sentence(verb: list[str]) -> None:
    command = [sys.executable, "-m", "mblip", *verb, "q" * 900]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith("mblip: qq")
    assert done.stderr.endswith(": File name too long; choose a shorter name\n")
    assert len(done.stderr) < 300 and "Traceback" not in done.stderr
