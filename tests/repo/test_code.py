"""Rules of the house that no linter here states."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "mblip").rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Imported by nothing but the verb or function that needs them, because they take long.
HEAVY = {"torch", "transformers", "gradio", "peft", "accelerate", "pyarrow", "scipy", "matplotlib", "spacy", "lingua"}
MAX_LINES = 420


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "src").as_posix()


def test_sources_were_found() -> None:
    assert len(SOURCES) > 20
    assert "mblip/storage/images.py" in map(name_of, SOURCES)


def test_modules_stay_readable_in_one_sitting() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def _public(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for member in node.body:
                    if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) and not member.name.startswith("_"):
                        yield f"{node.name}.{member.name}", member


def test_everything_public_has_a_docstring() -> None:
    found, lacking = 0, []
    for path, tree in TREES.items():
        if path.name != "__main__.py" and tree.body and not ast.get_docstring(tree):
            lacking.append(name_of(path))
        for name, node in _public(tree):
            found += 1
            overload = any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in node.decorator_list)  # type: ignore[attr-defined]
            if not overload and not ast.get_docstring(node):  # type: ignore[arg-type]
                lacking.append(f"{name_of(path)}: {name}")
    assert found > 60
    assert lacking == []


SAYING = re.compile(
    r"print|sys\.std(out|err)\.write|warnings\.warn|(logging|logger)\.(debug|info|warning|error|exception)"
)


def test_only_the_command_line_prints() -> None:
    """Print, a console of rich, a standard stream, a warning, the root logger: what speaks past the logger ``mblip``."""
    said = [
        (name_of(path), node.lineno)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.Call) and SAYING.fullmatch(ast.unparse(node.func)))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "rich")
    ]
    assert len([name for name, _ in said if name.startswith("mblip/cli/")]) > 10
    assert [(name, line) for name, line in said if not name.startswith("mblip/cli/")] == []


def test_every_logger_is_a_child_of_the_packages() -> None:
    named = [
        (name_of(path), ast.unparse(node))
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "logging.getLogger"
    ]
    others = [(name, call) for name, call in named if "__name__" not in call and "bitsandbytes" not in call]
    assert len(named) > 3
    assert others == [("mblip/cli/_progress.py", "logging.getLogger('mblip')")]


def test_no_except_catches_everything() -> None:
    def broad(handler: ast.ExceptHandler) -> bool:
        kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
        names = {kind.id for kind in kinds if isinstance(kind, ast.Name)}
        reraises = any(isinstance(node, ast.Raise) and node.exc is None for node in handler.body)
        return (handler.type is None or bool(names & {"Exception", "BaseException"})) and not reraises

    handlers = [
        (path, node) for path, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)
    ]
    assert len(handlers) > 10
    assert [f"{name_of(path)}:{node.lineno}" for path, node in handlers if broad(node)] == []


def _imports(nodes: Iterator[ast.AST] | list[ast.stmt]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


def test_verbs_import_heavy_libraries_only_when_called() -> None:
    light = [
        ROOT / "src/mblip" / name for name in ("errors.py", "schema.py", "languages.py", "config.py", "__init__.py")
    ]
    checked = [path for path in SOURCES if path.parent.name == "cli" or path in light]
    assert len(checked) >= 7
    found = {name_of(path): set(_imports(TREES[path].body)) & HEAVY for path in checked}
    assert {name: libraries for name, libraries in found.items() if libraries} == {}


def test_every_library_that_is_imported_is_declared() -> None:
    declared = list(PROJECT["project"]["dependencies"])
    for extra in ("translate", "train", "eval", "serve", "ray", "heic", "gguf"):
        declared += PROJECT["project"]["optional-dependencies"][extra]
    names = {_normal(re.split(r"[<>=!~;\[ ]", requirement)[0]) for requirement in declared}
    distributions = metadata.packages_distributions()
    undeclared = set()
    for path, tree in TREES.items():
        for module in _imports(ast.walk(tree)):
            if module in sys.stdlib_module_names or module == "mblip":
                continue
            if not names & {_normal(name) for name in distributions.get(module, [module])}:
                undeclared.add(f"{name_of(path)}: {module}")
    assert undeclared == set()


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_torchvision_is_never_imported() -> None:
    assert [name_of(path) for path, tree in TREES.items() if "torchvision" in set(_imports(ast.walk(tree)))] == []


def test_every_package_has_its_layer() -> None:
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {name.strip().removeprefix("mblip.") for layer in layers for name in layer.split("|")}
    folder = ROOT / "src" / "mblip"
    packages = {path.name for path in folder.iterdir() if (path / "__init__.py").is_file()}
    modules = {path.stem for path in folder.glob("*.py")} - {"__init__", "__main__"}
    assert (packages | modules) - named == set()


def test_data_flows_from_top_to_bottom() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    ("what", "where", "least"),
    [
        # plugins.py says in its docstring who is registered; nobody names the nano world by a string either.
        (r"mblip\.nano", ("mblip/nano/", "mblip/cli/quickstart.py", "mblip/plugins.py"), 15),
        (r"register_(forward|full_backward)\w*hook", ("mblip/models/speedups/",), 1),
        (r"Blip2[A-Z]", ("mblip/models/containers/",), 3),
    ],
)
def test_what_belongs_in_one_place_stands_nowhere_else(what: str, where: tuple[str, ...], least: int) -> None:
    """What import-linter cannot say: names in strings, methods, classes of another library."""
    found = [name_of(path) for path in SOURCES if re.search(what, path.read_text(encoding="utf-8"))]
    assert len([name for name in found if name.startswith(where)]) >= least
    assert [name for name in found if not name.startswith(where)] == []


def test_constraints_pin_every_declared_library() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert all(re.fullmatch(r"[0-9][0-9A-Za-z.]*", version) for version in pins.values())
    declared = list(PROJECT["project"]["dependencies"])
    declared += [item for extra in PROJECT["project"]["optional-dependencies"].values() for item in extra]
    assert len(declared) > 40
    missing = {_normal(re.split(r"[<>=!~;\[ ]", item)[0]) for item in declared} - set(pins)
    assert missing == set()


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_supported_python_is_declared(python: str) -> None:
    assert f"Programming Language :: Python :: {python}" in PROJECT["project"]["classifiers"]
