"""The wheel: what a person who never sees the repository gets."""

from __future__ import annotations

import ast
import email
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import mblip

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
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    about = email.message_from_bytes(wheel.read(name))
    assert about["Version"] == mblip.__version__
    assert about["License-Expression"] == "MIT"
    assert about["Requires-Python"] == ">=3.11"
    assert "make quickstart" in str(about.get_payload())
    (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert b"mblip = mblip.cli.app:main" in wheel.read(entry)


# Distributions whose module has another name, or which another distribution imports (that one is named).
MODULES = {"huggingface-hub": "huggingface_hub", "pillow": "PIL", "pyyaml": "yaml"}
EXTRAS = {
    "pydantic-core": "pydantic_core",
    "pillow-heif": "pillow_heif",
    "faiss-cpu": "faiss",
    "lingua-language-detector": "lingua",
    "prometheus-client": "prometheus_client",
    "python-multipart": "starlette",  # reads uploads with it
    "sudachidict-core": "spacy",  # segments Japanese with both
    "sudachipy": "spacy",
    "pythainlp": "spacy",  # segments Thai with it
    "tensorboard": "accelerate",  # its tracker writes with it
}


def _imported() -> set[str]:
    modules: set[str] = set()
    files = list((ROOT / "src").rglob("*.py"))
    assert len(files) > 100
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                modules.add(node.module)
    return modules


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=~! ]", requirement)[0]


def test_every_declared_dependency_is_imported_by_the_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [item for name, items in project["optional-dependencies"].items() if name != "dev" for item in items]
    imported = _imported()
    first = {module.partition(".")[0] for module in imported}
    assert len(project["dependencies"]) > 10
    assert len(extras) > 10
    unused = [item for item in project["dependencies"] if MODULES.get(_name(item), _name(item)) not in first]
    assert unused == []
    unused = [item for item in extras if EXTRAS.get(_name(item), _name(item)) not in first | imported]
    assert unused == []


def test_wheel_is_small_enough_to_try(wheel: zipfile.ZipFile) -> None:
    assert sum(item.compress_size for item in wheel.infolist()) < 32 * 2**20


def test_the_citation_and_the_package_have_one_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == mblip.__version__
    assert citation["license"] == "MIT"


def test_the_workflow_runs_what_ci_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = [step.get("run", "") for step in workflow["jobs"]["test"]["steps"]]
    assert ".ci/run" in steps
    assert any(step.get("run", "").startswith("make dist") for step in workflow["jobs"]["build"]["steps"])


def test_pre_commit_runs_the_linters_of_make_lint() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    entries = [hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = makefile.split("\nlint:")[1].split("\n\n")[0]
    assert {line.split("$(BIN)/")[1].split()[0] for line in lint.splitlines() if "$(BIN)/" in line} == set(entries)


def test_the_oldest_versions_are_those_that_are_allowed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(row for rows in project["optional-dependencies"].values() for row in rows)]
    bounds = dict(re.match(r"([\w.-]+)(?:\[.*\])?(?:>=([\d.]+))?", row).groups() for row in wanted)  # type: ignore[union-attr]
    lines = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.removesuffix(".*").split("==") for line in lines if not line.startswith("#"))
    assert all(line.startswith("#") or line.endswith(".*") for line in lines)  # the last correction of that version
    assert len(pinned) > 40
    assert pinned == {
        name.lower(): bound if "." in bound else f"{bound}.0" for name, bound in bounds.items() if bound is not None
    }
