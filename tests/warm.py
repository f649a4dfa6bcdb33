"""The process behind the ``mblip`` and ``python`` of ``tests/literal.py``: imports once, and forks for each command."""

from __future__ import annotations

import atexit
import dataclasses
import importlib
import json
import os
import runpy
import select
import signal
import site
import socket
import sys
import threading
import traceback
from pathlib import Path
from typing import Any


def shortened(words: list[str]) -> list[str]:
    """A command with fewer scenes, steps or items, where it would take minutes."""
    if words[:2] == ["data", "mix"] and "nano_scenes" in words and not any("scenes.options" in word for word in words):
        return [*words, "sources.scenes.options.scenes=1500"]
    if words[:1] == ["train"]:
        fewer = ["model.fit_words=[]"] if "nano/align" in words else ["validate_every=2", "validation_texts=8"]
        if not any(word.startswith("optim.global_batch=") for word in words):
            fewer += ["optim.global_batch=8", "optim.micro_batch=8"]
        return [*words, "optim.epochs=null", "optim.steps=2", *fewer]
    if words[:1] == ["quickstart"]:
        return [*words, "--scenes", "1", "--languages", "en,sw,de,ja"]
    if words[:1] == ["eval"] and "scenes" in words and "--limit" not in words:
        return [*words, "--limit", "8"]
    return words


def _quickstart_in_short() -> None:
    """Every setting's training cut to two steps, on a small mix."""
    from mblip.nano import experiment

    held: Any = experiment  # what it imports is replaced there
    cut = ("model.fit_words=[]", "optim.steps=2", "optim.global_batch=8", "optim.micro_batch=8")
    held.SETTINGS = tuple(
        setting if "optim.steps=0" in setting.overrides
        else dataclasses.replace(setting, overrides=(*setting.overrides, *cut))
        for setting in held.SETTINGS
    )  # fmt: skip
    load = held.load_recipe

    def small(kind: type, name: str, overrides: tuple[str, ...] = ()) -> Any:
        few = ("sources.scenes.options.scenes=1500",) if kind.__name__ == "DataRecipe" else ()
        return load(kind, name, (*overrides, *few))

    held.load_recipe = small


def _pip(words: list[str]) -> None:
    """``pip install`` of mblip with extras, which are there, or of a folder (``--editable .``): its name and entry points."""
    import tomllib
    from importlib.metadata import metadata

    folder = Path(os.environ["MBLIP_TEST_SITE"])
    assert words[0] == "install", words
    if words[1:] == ["--editable", "."]:
        project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
        info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir(parents=True)
        (folder / f"{project['name']}.pth").write_text(f"{Path.cwd()}\n", encoding="utf-8")
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
        )
        groups = "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
            for group, entries in project["entry-points"].items()
        )
        (info / "entry_points.txt").write_text(groups, encoding="utf-8")
        return
    (wanted,) = words[1:]
    name, _, extras = wanted.removesuffix("]").partition("[")
    lacking = set(filter(None, extras.split(","))) - set(metadata("mblip").get_all("Provides-Extra") or ())
    assert name == "mblip" and not lacking, wanted


def _run(argv: list[str], short: bool) -> None:
    program, words = Path(argv[0]).name, argv[1:]
    if Path(os.environ["MBLIP_TEST_SITE"]).is_dir():
        site.addsitedir(os.environ["MBLIP_TEST_SITE"])
        importlib.invalidate_caches()
    if program == "pip":
        _pip(words)
        return
    if program == "python":
        if words and words[0].endswith(".py"):
            sys.argv = words
            sys.path.insert(0, str(Path.cwd()))
            runpy.run_path(words[0], run_name="__main__")
        else:
            os.execv(sys.executable, [sys.executable, *words])
        return
    if short:
        words = shortened(words)
        if words[:1] == ["quickstart"]:
            _quickstart_in_short()
    served, page = os.environ["MBLIP_TEST_PORTS"].split(",")
    if words[:1] in (["serve"], ["demo"]):
        words += ["--port", served if words[0] == "serve" else page]
    sys.argv = [argv[0], *words]
    from mblip.cli.app import main

    main()


def _child(link: socket.socket, files: list[int], wanted: dict[str, object], short: bool) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(str(wanted["cwd"]))
    os.environ.clear()
    os.environ.update(wanted["env"])  # type: ignore[call-overload]
    code = 0
    try:
        _run(list(wanted["argv"]), short)  # type: ignore[call-overload]
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        if isinstance(stop.code, str):
            sys.stderr.write(f"{stop.code}\n")
    except BaseException:  # noqa: BLE001 - whatever it is, the command ends with it and the process behind it goes on
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    link.send(bytes([code]))
    os._exit(code)


def main(address: str, short: bool) -> None:
    """Answer until killed."""
    import peft
    import pyarrow
    import torch
    import transformers

    import mblip.cli.app
    import mblip.inference.resolve
    import mblip.training.run

    assert peft and pyarrow and torch and transformers and mblip
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address + ".new")
        server.listen(16)
        Path(address + ".new").rename(address)
        while True:
            if 0 in select.select([0, server.fileno()], [], [])[0]:  # whoever started this one has ended
                os.killpg(0, signal.SIGKILL)
            link, _ = server.accept()
            _, files, _, _ = socket.recv_fds(link, 1, 3)
            with link.makefile("rb") as stream:
                wanted = json.loads(stream.read(int.from_bytes(stream.read(8), "big")))
            pid = os.fork()
            if pid == 0:
                server.close()
                link.send(os.getpid().to_bytes(8, "big"))
                _child(link, files, wanted, short)
            for file in files:
                os.close(file)
            link.close()


if __name__ == "__main__":
    main(sys.argv[1], "--short" in sys.argv)
