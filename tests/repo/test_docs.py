"""Documentation that names things names things that exist."""

from __future__ import annotations

import itertools
import re
import shlex
from importlib import metadata
from pathlib import Path

import pytest
import typer.main
from tests.commands import complaint, is_there, page_headings
from tests.literal import blocks, trouble
from tests.scripts import load_script

from mblip.cli.app import app
from mblip.config import DataRecipe, load_recipe, load_train_recipe, shipped_recipes
from mblip.errors import InputError

ROOT = Path(__file__).parents[2]
ABOUT = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md"]
PAGES = [
    *(ROOT / name for name in ABOUT),
    *sorted((ROOT / ".github").rglob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]


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
    assert {"index.md", "tutorial.md", "claims.md", "glossary.md", "log.md"} <= {page.name for page in PAGES}


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


def _broken_links(page: Path, text: str) -> list[str]:
    """Links of a page whose file, or heading in it, is not there; those to the web are not followed."""
    broken = []
    # Code is no link; in the text of a link it may stand.
    prose = re.sub(r"```.*?```|`[^`\n]*\]\([^`\n]*`", "", text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)|\b(?:src|href)=\"([^\"]+)\"", prose):
        target = "".join(target)
        if re.match(r"[a-z]+:", target):
            continue
        file, _, heading = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        headings = page_headings(path) if path.suffix == ".md" and path.is_file() else ()
        if not path.exists() or (heading and heading not in headings):
            broken.append(target)
    return broken


def test_links_lead_somewhere() -> None:
    links = {page: page.read_text(encoding="utf-8").count("](") for page in PAGES}
    assert sum(links.values()) >= 150
    found = {page.name: _broken_links(page, page.read_text(encoding="utf-8")) for page in PAGES}
    assert {name: broken for name, broken in found.items() if broken} == {}


def test_a_link_that_leads_nowhere_would_be_found() -> None:
    page = ROOT / "README.md"
    text = "[a](docs/log.md#training) [b](docs/log.md#glue) [c](docs/glue.md) `[d](glue)` [e](https://arxiv.org) [f](#glue)"
    text += ' <img src="docs/images/glue.png"> [g](docs/claims.md#m01) [h](docs/claims.md#m99)'
    assert _broken_links(page, text) == [
        "docs/log.md#glue", "docs/glue.md", "#glue", "docs/images/glue.png", "docs/claims.md#m99",
    ]  # fmt: skip


def test_names_of_the_package_exist() -> None:
    named = words(r"(?m)(?:^|[`\s(])(mblip(?:\.[A-Za-z_]\w*)+)\b(?!/)")
    for page in PAGES:
        for name in re.findall(r"(?m)^::: (mblip[\w.]*)$", page.read_text(encoding="utf-8")):
            named.setdefault(name, set()).add(page.name)
    files = {"mblip.json", "mblip.yaml", "mblip.plugins"}  # of a run, of a recipe, the name of the entry points
    assert len(named) >= 60
    assert {name: pages for name, pages in named.items() if name not in files and not is_there(name)} == {}
    imported = words(r"(?m)^from (mblip(?:\.\w+)* import [\w, ]+)$")
    assert "mblip.storage import ShardReader, read_drops, read_manifest" in imported
    names = {f"{line.split()[0]}.{name}" for line in imported for name in line.partition(" import ")[2].split(", ")}
    assert [name for name in sorted(names) if not is_there(name)] == []


def test_a_name_that_is_gone_would_be_found() -> None:
    assert is_there("mblip.storage.ShardReader") and is_there("mblip.schema.Example.texts") and is_there("mblip")
    assert not any(map(is_there, ("mblip.storage.ShardWeaver", "mblip.glue", "mblip.schema.Example.glue")))


def test_options_that_pages_name_exist() -> None:
    """Alone in code, as ``--to`` is: one of a verb, of a script here or of a tool that this repository calls."""
    named = words(r"(?m)(?:^|`)(--[a-z][a-z_-]+)")
    sources = [path for folder in ("src", "benchmarks", "tools", "tests") for path in (ROOT / folder).rglob("*.py")]
    known = set(re.findall(r"--[a-z][a-z_-]+", "".join(path.read_text(encoding="utf-8") for path in sources)))
    root = typer.main.get_command(app)
    commands = [root]
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        known |= {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    theirs = {"--cpus", "--data_path", "--dataset", "--editable", "--image_folder", "--multi_gpu", "--num_processes"}
    assert len(named) >= 40
    assert {name: pages for name, pages in named.items() if name not in known | theirs} == {}


def test_every_verb_and_recipe_is_on_its_page() -> None:
    made = load_script(ROOT / "tools" / "build_reference.py").pages()
    verbs = list(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert len(verbs) >= 15 and len(shipped_recipes()) >= 30
    assert [verb for verb in verbs if f"\n## mblip {verb}" not in made["cli.md"]] == []
    assert [name for name in shipped_recipes() if "/" in name and f"`{name}`" not in made["recipes.md"]] == []


def test_pages_made_from_the_package_are_current() -> None:
    # How options are described differs between versions of typer: the page is that of the pinned one.
    pinned = re.findall(r"(?m)^typer==(.*)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"))
    tool = load_script(ROOT / "tools" / "build_reference.py")
    stale = [
        name
        for name, text in tool.pages().items()
        if (tool.FOLDER / name).read_text(encoding="utf-8") != text
        and (name != "cli.md" or [metadata.version("typer")] == pinned)
    ]
    assert stale == [], "run python tools/build_reference.py"


def test_every_page_is_in_the_order_of_the_documentation() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    placed = re.findall(r"([\w/-]+\.md)$", text.partition("\nnav:")[2].partition("\nhooks")[0], re.MULTILINE)
    assert sorted(placed) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))
    assert placed[:2] == ["index.md", "tutorial.md"]


def test_tables_of_benchmarks_are_those_that_the_benchmarks_declare() -> None:
    tables = load_script(ROOT / "tools" / "build_benchmark_tables.py")
    pages = {page: page.read_text(encoding="utf-8") for page in tables.PAGES}
    named = [name for text in pages.values() for name in re.findall(r"<!-- table: (\w+) -->", text)]
    assert sorted(named) == sorted(tables.TABLES)
    stale = [page.name for page, text in pages.items() if tables.filled(text) != text]
    assert stale == [], "run python tools/build_benchmark_tables.py"


def test_the_plug_in_of_the_how_to_is_the_one_that_the_tests_run() -> None:
    page = (ROOT / "docs/howto/plugins.md").read_text(encoding="utf-8")
    files = sorted((ROOT / "tests/fixtures/plugin/mblip_squares").glob("*.py"))
    assert len(files) == 5
    assert [
        file.name
        for file in files
        if f'```python title="mblip_squares/{file.name}"\n{file.read_text(encoding="utf-8")}```' not in page
    ] == []
    registered = re.findall(
        r"^([a-z_]+) = Registry\(", (ROOT / "src/mblip/plugins.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(registered) == 11
    assert [name for name in registered if f"`plugins.{name}`" not in page] == []


def _commands() -> list[tuple[str, list[str]]]:
    """Every ``mblip`` command in the code of a page, as words; ``VERB`` and the like stand for any."""
    found = []
    for page in PAGES:
        # One is made from the verbs themselves; the others name them without their arguments.
        if page.name in ("cli.md", "CHANGELOG.md") or ".github" in page.parts:
            continue
        text = page.read_text(encoding="utf-8")
        fenced = re.findall(r"```[^\n]*\n(.*?)```", text, re.DOTALL)
        lines = [line for block in fenced for line in block.replace("\\\n", " ").splitlines()]
        lines += re.findall(r"`(mblip [^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        for line in lines:
            command = re.match(r"\s*(?:\$ )?(?:\w+=\S+ )*(?:accelerate launch (?:--\S+ )*-m )?mblip (.*)", line)
            if command:
                words = itertools.takewhile(
                    lambda word: word not in ("|", ">", "&&"), shlex.split(command[1], comments=True)
                )
                found.append((page.name, [word if "=[" in word else word.strip("[]()") for word in words]))
    return found


def test_commands_that_pages_name_have_these_verbs_and_options() -> None:
    commands = _commands()
    assert len(commands) >= 30
    assert [(page, " ".join(words), why) for page, words in commands if (why := complaint(words))] == []


def _unknown_fields(words: list[str]) -> str:
    """What is wrong with the recipe that a command names, or with the fields that it changes; nothing where it names none."""
    verbs = [("train",), ("plan",), ("data", "mix"), ("data", "plan")]
    verb = next((verb for verb in verbs if tuple(words[: len(verb)]) == verb), None)
    if verb is None or len(words) == len(verb) or words[len(verb)] not in shipped_recipes():
        return ""
    changed = itertools.takewhile(lambda word: not word.startswith("--"), words[len(verb) + 1 :])
    fields = tuple(word for word in changed if "=" in word and not word.endswith("..."))
    try:
        if verb[0] == "data":
            load_recipe(DataRecipe, words[2], fields)
        else:
            load_train_recipe(words[1], fields)
    except InputError as error:
        return str(error)
    return ""


def test_recipes_that_pages_change_have_these_fields() -> None:
    commands = [(page, words) for page, words in _commands() if _unknown_fields(words) or any("=" in w for w in words)]
    assert len(commands) >= 15
    assert [(page, " ".join(words), why) for page, words in commands if (why := _unknown_fields(words))] == []
    assert "optim.stops" in _unknown_fields(["train", "mt0_xl_align", "optim.stops=3"])
    assert "images_" in _unknown_fields(["data", "mix", "paper_v2", "images_=x", "--to", "y"])


GUIDES = [ROOT / "README.md", ROOT / "docs/tutorial.md", *sorted((ROOT / "docs/howto").glob("*.md"))]


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_blocks_of_guides_say_what_they_are_and_parse(page: Path) -> None:
    found = {block.name: trouble(block) for block in blocks(page)}
    assert found
    assert {name: why for name, why in found.items() if why} == {}


def test_a_block_that_does_not_parse_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```\nmblip\n```\n```bash\nif\n```\n<!-- not run: slow -->\n```bash\nls\n```\n```yaml\na: [\n```\n"
        "```python\na b\n```\n<!-- not run: needs time -->\n```console\n$ ls \\\n  -l\nfile\n```\n",
        encoding="utf-8",
    )
    found = blocks(page)
    assert [bool(trouble(block)) for block in found] == [True] * 5 + [False]
    assert found[-1].script == "ls \\\n  -l" and found[-1].not_run == "needs time"


def test_a_command_that_does_not_exist_would_be_found() -> None:
    assert complaint(["reprot", "RUN"]) == "no verb 'reprot'"
    assert complaint(["report", "RUN", "--two", "x"]).startswith("No such option: --two")
    assert complaint(["serve", "runs/mine"]) == "no place for 'runs/mine'"
    assert complaint(["data", "mix", "nano_scenes", "--to", "x"]) == ""


def test_log_is_dated_entries_newest_first() -> None:
    """Each with what was asked and what came out; CONTRIBUTING says how to write one."""
    text = (ROOT / "docs/log.md").read_text(encoding="utf-8")
    entries = re.split(r"(?m)^## (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL))[1:]
    held = dict(zip(entries[::2], entries[1::2], strict=True))
    assert len(held) == len(entries) // 2 >= 30
    dates = {title: re.match(r"\n\n\*(\d{4}-\d\d-\d\d)\b", entry) for title, entry in held.items()}
    assert [title for title, date in dates.items() if not date] == [], "begin with *YYYY-MM-DD.*"
    days = [date[1] for date in dates.values() if date]
    lacking = [title for title, entry in held.items() if "**Question:**" not in entry or "**Verdict:**" not in entry]
    assert lacking == []
    assert days == sorted(days, reverse=True)


def test_changelog_has_the_current_version_or_unreleased_changes() -> None:
    from mblip import __version__

    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    # First what is not released yet, with at least one change; then each version with its day, the newest of them this one.
    assert heads[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", head) for head in heads[1:])
    newest = re.match(r"\[(.*?)\]", heads[1])[1] if heads[1:] else ""  # type: ignore[index]
    assert newest in ("", __version__)
    unreleased = re.split(r"^## .*$", changelog, flags=re.MULTILINE)[1]
    sections = re.findall(r"^### (.*)\n\n((?:(?!^#).*\n)*)", unreleased, re.MULTILINE)
    assert {name for name, _ in sections} <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert len({name for name, _ in sections}) == len(sections) >= (0 if newest else 1)
    assert all(text.startswith("- ") for _, text in sections)


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "decisions").glob("*.md")), ids=lambda page: page.stem)
def test_decisions_say_what_why_and_with_what_consequence(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.match(rf"# {int(page.name[:4])}\. \S", text)
    assert [part for part in ("Status", "Context", "Decision", "Consequences") if f"**{part}" not in text] == []
