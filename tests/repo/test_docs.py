"""Documentation that names things names things that exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from mblip.cli.app import app
from mblip.config import shipped_recipes

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def words(pattern: str) -> dict[str, set[str]]:
    """What a pattern's group matches inside the code of each page."""
    found: dict[str, set[str]] = {}
    for page in PAGES:
        code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", page.read_text(encoding="utf-8"), re.DOTALL))
        for match in re.findall(pattern, code):
            found.setdefault(match, set()).add(page.name)
    return found


def test_pages_were_found() -> None:
    assert len(PAGES) >= 10
    assert {"index.md", "tutorial.md", "paper_map.md", "log.md"} <= {page.name for page in PAGES}


def test_readme_names_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^make quickstart\b", readme, re.MULTILINE)
    assert re.search(r"^make test\b", readme, re.MULTILINE)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = words(r"(?m)(?:^|`)make ([a-z-]+)")
    assert {"quickstart", "test"} <= set(named)
    assert {name: pages for name, pages in named.items() if name not in targets} == {}


def test_files_exist() -> None:
    named = words(r"((?:src|docs|tests|tools|benchmarks|recipes)/[\w./-]+\w)")
    assert len(named) >= 5
    missing = {
        name: pages
        for name, pages in named.items()
        if not any((base / name).exists() for base in (ROOT, ROOT / "src/mblip"))
    }
    assert missing == {}


def test_python_examples_import() -> None:
    named = words(r"(?m)^from (mblip[\w.]*) import")
    assert "mblip.storage" in named
    assert [name for name in named if importlib.util.find_spec(name) is None] == []


def test_every_verb_is_on_the_command_line_page() -> None:
    import typer.main

    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "tools" / "docs_hooks.py")
    assert spec
    assert spec.loader
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks.cli_page()
    verbs = list(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert len(verbs) >= 1
    assert [verb for verb in verbs if f"\n## mblip {verb}" not in page] == []
    assert [name for name in shipped_recipes() if "/" in name and f"`{name}`" not in hooks.recipes_page()] == []


def test_verbs_that_pages_name_exist() -> None:
    import typer.main

    verbs = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    named = words(r"(?m)(?:^|`)mblip ([a-z]+)")
    assert len(named) >= 1
    assert {name: pages for name, pages in named.items() if name not in verbs} == {}


def test_changelog_has_the_current_version_or_unreleased_changes() -> None:
    from mblip import __version__

    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{__version__}]" in changelog or "## [Unreleased]" in changelog
    assert "Keep a Changelog" in changelog


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "decisions").glob("*.md")), ids=lambda page: page.stem)
def test_decisions_say_what_why_and_with_what_consequence(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.match(rf"# {int(page.name[:4])}\. \S", text)
    assert [part for part in ("Status", "Context", "Decision", "Consequences") if f"**{part}" not in text] == []
