"""Registries, and packages that cannot be loaded: one sentence for whoever asks for their things, and for nobody else."""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

import pytest

from mblip import plugins
from mblip.corpora import READERS
from mblip.errors import InputError
from mblip.evaluation.benchmarks import BENCHMARKS, EVALUATED, evaluated, family, find_benchmark

Install = Callable[..., None]
REGISTERING = "from mblip import plugins\ndef register():\n    plugins.{}.register('{}', '{}')\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install packages whose module has some code; the registries are as they were afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins.load_plugins()
    # What registers mblip's own things when it is imported is imported before, so that nothing of it is undone.
    for owner in ("config", "corpora", "translation.engines", "mixture.templates", "evaluation.benchmarks"):
        importlib.import_module(f"mblip.{owner}")
    for registry in plugins._registries:
        monkeypatch.setattr(registry, "_things", {name: dict(held) for name, held in registry._things.items()})
        monkeypatch.setattr(registry, "_warned", set())
    monkeypatch.setattr(plugins, "_broken", {})
    monkeypatch.setattr(plugins, "_state", "loaded")
    monkeypatch.setattr(plugins, "_own_plugin_found", True)

    def install(name: str, code: str, points: tuple[str, ...] = ("register",), version: str = "2.0") -> None:
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.3\nName: {name}\nVersion: {version}\n", encoding="utf-8")
        lines = "".join(f"{point} = {name}:{point}\n" for point in points)
        (info / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{lines}", encoding="utf-8")
        plugins._state = "new"

    modules = set(sys.modules)
    yield install
    for name in set(sys.modules) - modules:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import no_such_module", 'ModuleNotFoundError: No module named "no_such_module"'),
        ("raise SystemExit(1)", "SystemExit: 1"),
        ("raise RuntimeError", "RuntimeError"),
        ("def register():\n    raise ValueError('no\\nlicence key')", "ValueError: no licence key"),
        ("def register():\n    raise ValueError('x' * 5000)", "ValueError: xxx"),
        ("def other(): ...", "has no attribute"),
        ("def register(needed): ...", "missing 1 required"),
        ("def register(:", "SyntaxError"),
        ("from mblip.errors import InputError\ndef register():\n    raise InputError('no key')", "InputError: no key"),
        (
            "from mblip import plugins\ndef register():\n    plugins.corpora.register('../up', 'x')",
            "cannot be the name",
        ),
        ("from mblip import plugins\ndef register():\n    plugins.corpora.register('Up', 'x')", "cannot be the name"),
        ("from mblip import plugins\ndef register():\n    plugins.corpora.register('half', 'x')\n    1 / 0", "by zero"),
    ],
)
def test_a_broken_package_is_left_out_whole_with_one_warning(
    install: Install, caplog: pytest.LogCaptureFixture, code: str, why: str
) -> None:
    install("bad_squares", code)
    with caplog.at_level(logging.WARNING, "mblip"):
        assert {*READERS, "scenes"} == set(plugins.corpora) and plugins.corpora["table"].read
        assert "half" not in plugins.corpora and len(BENCHMARKS) == 24
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("the plug-in of bad_squares 2.0 could not be loaded and is left out: ")
    assert why in line and "\n" not in line and len(line) < 300
    hint = plugins.corpora.hint("half")
    assert hint.startswith("; available: ") and "the plug-in of bad_squares 2.0 could not be loaded (" in hint
    with pytest.raises(InputError) as error:
        find_benchmark("squares")
    assert "could not be loaded (" in str(error.value) and why[:60] in str(error.value)


def test_a_damaged_list_of_entry_points_is_not_taken_for_any(
    install: Install, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    install("one_squares", "")
    (tmp_path / "one_squares-2.0.dist-info" / "entry_points.txt").write_bytes(b"\xff\xfe[mblip.plugins]\nx = y\n")
    install("two_squares", "")
    (tmp_path / "two_squares-2.0.dist-info" / "entry_points.txt").write_text("[mblip.plugins]\nno equals sign\n")
    for name, metadata_file in (("three_squares", ""), ("four_squares", None)):  # packages without a name
        install(name, REGISTERING.format("corpora", name, "x"))
        path = tmp_path / f"{name}-2.0.dist-info" / "METADATA"
        path.unlink() if metadata_file is None else path.write_text(metadata_file)
    assert {*READERS, "scenes"} == set(plugins.corpora)
    *lines, line = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and all("because its metadata is damaged" in told for told in lines)
    assert line.startswith("the plug-in of two_squares 2.0 could not be loaded and is left out: ")


def test_the_first_installation_on_the_path_counts(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("squares", REGISTERING.format("corpora", "old", "squares"))
    newer = tmp_path / "newer" / "squares-3.0.dist-info"
    newer.mkdir(parents=True)
    (newer / "METADATA").write_text("Metadata-Version: 2.3\nName: squares\nVersion: 3.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(newer.parent))
    assert "old" not in plugins.corpora and "scenes" in plugins.corpora


def test_of_two_plug_ins_of_a_broken_package_neither_is_there(install: Install) -> None:
    code = "from mblip import plugins\ndef good():\n    plugins.corpora.register('good', 'x')\ndef bad():\n    1 / 0\n"
    install("bad_squares", code, ("good", "bad"))
    assert "good" not in plugins.corpora and "scenes" in plugins.corpora


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("no_such_module", "the corpus 'lost' of squares 2.0 cannot be imported (ModuleNotFoundError: "),
        ("squares:missing", "cannot be imported (AttributeError: "),
        ("squares", "the corpus 'lost' of squares 2.0 has no 'read'; report it to its authors"),
    ],
)
def test_what_cannot_be_imported_is_an_error_for_whoever_asks(install: Install, address: str, sentence: str) -> None:
    install("squares", REGISTERING.format("corpora", "lost", address))
    with pytest.raises(InputError) as error:
        plugins.corpora["lost"]
    assert sentence in str(error.value)
    assert "lost" in plugins.corpora and "lost" not in dict(plugins.corpora.usable())  # nearest() still names it


def test_two_packages_that_claim_one_name_are_both_named(install: Install, caplog: pytest.LogCaptureFixture) -> None:
    install("one_squares", REGISTERING.format("corpora", "squares", "one_squares"), version="1.0")
    install("two_squares", REGISTERING.format("corpora", "squares", "two_squares"))
    with pytest.raises(
        InputError, match=r"one_squares 1\.0 and two_squares 2\.0 both register the corpus 'squares': uninst"
    ):
        plugins.corpora["squares"]
    assert plugins.corpora["table"].read
    install("three_squares", REGISTERING.format("benchmarks", "xgqa", "three_squares"))
    with pytest.raises(InputError, match=r"mblip and three_squares 2\.0 both register the benchmark 'xgqa'"):
        evaluated("xgqa")
    assert [found.name for found in evaluated("xvnli")] == ["xvnli"]
    with caplog.at_level(logging.WARNING, "mblip"):
        assert "xgqa" not in list(EVALUATED) and "xgqa" not in list(BENCHMARKS)
    assert len([record for record in caplog.records if "'xgqa'" in record.getMessage()]) == 1


def test_a_foreign_name_never_joins_a_family_of_ours(install: Install) -> None:
    ours = family("pope")
    install("squares", REGISTERING.format("benchmarks", "pope_squares", "squares"))
    assert family("pope") == ours and len(ours) > 3 and family("pope_squares") == ["pope_squares"]
    assert not any(found.name == "pope_squares" for found in evaluated("pope"))


def test_a_benchmark_must_call_itself_what_it_is_registered_as(install: Install) -> None:
    install("squares", REGISTERING.format("benchmarks", "a", "mblip.nano.benchmark:BENCHMARK"))
    with pytest.raises(InputError, match=r"the benchmark 'a' of squares 2\.0 has the name 'scenes'"):
        find_benchmark("a")


def test_a_plug_in_may_look_things_up_while_it_registers(install: Install) -> None:
    code = (
        "from mblip import plugins\ndef register():\n    plugins.corpora.register('late', plugins.corpora['table'])\n"
    )
    install("squares", code)
    assert plugins.corpora["late"] is plugins.corpora["table"]


def test_threads_that_look_first_at_once_all_see_everything(install: Install) -> None:
    install("squares", "import time\ntime.sleep(0.2)\n" + REGISTERING.format("corpora", "slow", "x"))
    start, found = threading.Barrier(8), []

    def look() -> None:
        start.wait()
        found.append("slow" in plugins.corpora)

    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


def test_without_its_own_entry_point_mblip_says_to_install_it_again(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources that are run without being installed, or over the metadata of an older version."""
    monkeypatch.setattr(metadata, "distributions", lambda: [])
    monkeypatch.setattr(plugins, "_state", "new")
    for registry in plugins._registries:
        for owners in registry._things.values():
            owners.pop("nano", None)
    assert "install it again (pip install --editable . in its folder)" in plugins.corpora.hint("scenes")


def test_a_program_may_register_and_replace_its_own_things(install: Install) -> None:
    plugins.corpora.register("mine", first := type("Corpus", (), {"read": None}))
    assert plugins.corpora["mine"] is first and plugins.corpora.owners("mine") == ["this program"]
    plugins.corpora.register("mine", second := type("Corpus", (), {"read": None}))
    assert plugins.corpora["mine"] is second


def test_the_nano_world_registers_by_address_alone() -> None:
    """So that looking something up imports nothing slow."""
    import subprocess

    script = (
        "import sys\nfrom mblip import plugins\nassert 'scenes' in plugins.corpora\n"
        "print(sorted({'numpy', 'PIL', 'pyarrow', 'pydantic', 'torch', 'yaml'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
