"""Every claim names code, commands, tests and accounts that exist, and the page is the one that the claims make."""

from __future__ import annotations

import ast
import re
import shlex
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from tests.commands import complaint, is_there, page_headings
from tests.scripts import load_script

from mblip.config import shipped_recipes

ROOT = Path(__file__).parents[2]
FIELDS = {"id", "place", "claim", "code", "recipe", "command", "test", "measured", "link", "date", "status"}


TOOL = load_script(ROOT / "tools" / "build_claims.py")
DATA = TOOL.load()
CLAIMS: list[dict[str, Any]] = [claim for group in DATA["groups"] for claim in group["claims"]]


@lru_cache
def functions_of(path: Path) -> frozenset[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def trouble(claim: dict[str, Any]) -> list[str]:
    """What a claim names that is not there, or says that contradicts itself."""
    found = [f"no field {name}" for name in claim.keys() - FIELDS]
    for name in claim["code"]:
        if "/" in name:
            found += [] if (ROOT / name).is_file() else [f"no file {name}"]
        elif not is_there(name):
            found.append(f"no symbol {name}")
    if "recipe" in claim and claim["recipe"] not in shipped_recipes():
        found.append(f"no recipe {claim['recipe']}")
    if "command" in claim:
        program, *words = shlex.split(claim["command"])
        why = complaint(words) if program == "mblip" else f"{program} is not mblip"
        found += [f"{claim['command']}: {why}"] if why else []
    file, _, function = claim.get("test", "").partition("::")
    if file and not ((ROOT / file).is_file() and function in functions_of(ROOT / file)):
        found.append(f"no test {claim['test']}")
    if "link" in claim:
        page, _, heading = claim["link"].partition("#")
        if not (ROOT / "docs" / page).is_file() or (heading and heading not in page_headings(ROOT / "docs" / page)):
            found.append(f"no place {claim['link']}")
    if claim["status"] not in TOOL.STATUSES:
        found.append(f"no status {claim['status']}")
    if claim["status"] != "procedure" and not {"measured", "link"} <= claim.keys():
        found.append("measured, but not what or where")
    return found


def test_there_are_claims_of_both_kinds_and_each_has_its_own_name() -> None:
    names = [claim["id"] for claim in CLAIMS]
    assert len(names) == len(set(names)) >= 40
    assert {name[0] for name in names} == {"P", "M"}
    assert [claim["id"] for claim in CLAIMS if claim["id"].startswith("P") != ("place" in claim)] == []


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["id"])
def test_what_a_claim_names_is_there(claim: dict[str, Any]) -> None:
    assert trouble(claim) == []


def test_what_is_not_there_would_be_found() -> None:
    good = {"code": ["mblip.models.lora.add_lora"], "status": "procedure", "command": "mblip plan mt0_xl_align"}
    assert trouble(good) == []
    bad = {
        "code": ["mblip.models.lora.add_glue", "docs/no.md"],
        "recipe": "mt0_xl_glue",
        "command": "mblip glue",
        "test": "tests/repo/test_claims.py::test_glue",
        "link": "log.md#glue",
        "status": "full",
    }
    assert len(trouble(bad)) == 7


def test_the_papers_places_are_covered_or_listed_as_not() -> None:
    places = DATA["places"]
    assert places["sections_in_all"] == 28 and places["sections_left"].startswith("not")
    assert list(places["figures"]) == [1, 2, 3]
    assert list(places["tables"]) == list(range(1, 15))
    named = " ".join(claim["place"] for claim in CLAIMS if "place" in claim)
    for kind, states in (("section", places["sections"]), ("figure", places["figures"]), ("table", places["tables"])):
        for number, state in states.items():
            stands = re.search(rf"{kind}s? (\d+ and )?{re.escape(str(number))}\b(?!\.\d)", named)
            assert (state == "covered") == bool(stands), f"{kind} {number}"
            assert state == "covered" or state.startswith("not")


def test_the_page_is_what_the_claims_make() -> None:
    assert TOOL.PAGE.read_text(encoding="utf-8") == TOOL.page(DATA), "run python tools/build_claims.py"
