"""Languages beside the 96: their file, the recipe's field, the environment, and whatever carries them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mblip import languages
from mblip.config import AllocationSection, DataRecipe, load_recipe
from mblip.errors import InputError
from mblip.languages import LANGUAGES, added_languages, find_language
from mblip.models.locate import know_languages
from mblip.more_languages import add_languages, carried, read_languages
from mblip.translation import allocate, plan_counts

GUARANI = {"code": "gn", "name": "Guarani", "script": "Latn", "nllb": "grn_Latn", "madlad": "<2gn>", "share": 0.02}
DIVEHI = {"code": "dv", "name": "Dhivehi", "script": "Thaa"}


pytestmark = pytest.mark.usefixtures("language_table")


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_an_added_language_is_found_by_all_its_names_and_stands_after_the_96(tmp_path: Path) -> None:
    file = write(
        tmp_path / "more.csv",
        "\ufeffcode,name,script,share,nllb,madlad,aliases,own_name\n"
        'gn,"Guarani",Latn,0.02,grn_Latn,<2gn>,Paraguayan Guarani;Jopara,Avañe\'ẽ\n'
        "dv,Dhivehi,Thaa,,,,,\n",
    )
    add_languages(read_languages(file), str(file))
    assert list(LANGUAGES)[-2:] == ["gn", "dv"] and len(LANGUAGES) == 98
    for name in ("gn", "guarani", "AVAÑE'Ẽ", "grn", "grn_Latn", "jopara", "gn-PY"):
        assert find_language(name).code == "gn", name
    assert (LANGUAGES["dv"].direction, LANGUAGES["dv"].own_name, LANGUAGES["gn"].madlad) == ("rtl", "Dhivehi", "<2gn>")
    assert [language.code for language in added_languages()] == ["gn", "dv"]


def test_a_language_of_a_benchmark_becomes_trainable_and_keeps_its_codes() -> None:
    assert "hr" not in LANGUAGES
    add_languages([{"code": "hr", "name": "Croatian", "script": "Latn", "share": 0.3}], "here")
    assert LANGUAGES["hr"].nllb == "hrv_Latn" and LANGUAGES["hr"].trainable
    assert find_language("hrvatski").mc4_share == 0.3


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"code": "de", "name": "German", "script": "Latn"}, "one of the 96"),
        ({"code": "xq", "name": "German", "script": "Latn"}, "already means German"),
        ({"code": "swh", "name": "Coastal Swahili", "script": "Latn"}, "'swh' already means Swahili"),
        ({"code": "gn", "name": "Guarani"}, "script: Field required"),
        ({"code": "gn", "name": "Guarani", "script": "Latin"}, "script"),
        ({"code": "gn", "name": "Guarani", "script": "Lant"}, "not a script of ISO 15924"),
        ({"code": "gn", "name": "Guarani", "script": "Latn", "share": 0}, "share"),
        ({"code": "gn", "name": "Guarani", "script": "Latn", "scirpt": "Latn"}, "unknown column 'scirpt'"),
        ({"code": "gn", "name": "", "script": "Latn"}, "name"),
        ({"code": "gn", "name": "Gua{r}ani", "script": "Latn"}, "name"),
        ({"code": "GN!", "name": "Guarani", "script": "Latn"}, "code"),
        ({"code": "gn", "name": "Guarani", "script": "Latn", "nllb": "Guarani"}, "nllb"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_told_and_adds_nothing(row: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        add_languages([row], "more.csv, row 1")
    assert len(LANGUAGES) == 96


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "lacks the column 'code'"),
        ("code|name|script\ngn|Guarani|Latn\n", "lacks the column 'code'"),
        ("code,name,script\n", "lists no language"),
        ("code,name,script\ngn,Guarani,Jopara,Latn\n", "row 1 has more fields"),
        ('code,name,script\ngn,"Guarani,Latn\n', "unexpected end of data"),
        ("code,name,script\ngn,Guarani,Latn\nhr,,Latn\n", "row 2"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_languages(write(tmp_path / "more.csv", text))


def test_the_same_language_twice_is_one_and_another_meaning_is_told() -> None:
    add_languages([GUARANI], "a recipe")
    add_languages([GUARANI | {"share": 0.5}], "a mix")  # where it is written, the share says how it was mixed
    assert LANGUAGES["gn"].mc4_share == 0.02
    with pytest.raises(InputError, match="already added"):
        add_languages([GUARANI | {"name": "Guaraní"}], "another mix")


def test_what_is_carried_adds_the_same_language_elsewhere() -> None:
    add_languages([GUARANI, DIVEHI], "a recipe")
    rows = json.loads(json.dumps(carried(["sw", "gn"])))
    before = LANGUAGES.pop("gn")
    languages._forget()
    add_languages(rows, "a mix")
    assert LANGUAGES["gn"] == before


def test_a_recipe_adds_its_languages_before_its_fields_name_them(tmp_path: Path) -> None:
    write(tmp_path / "more.csv", "code,name,script,share\ngn,Guarani,Latn,1\nquz,Quechua,Latn,3\n")
    recipe = write(
        tmp_path / "own.yaml",
        "title: own\nkind: data\nmore_languages: more.csv\nallocation: {languages: [Guarani, Quechua]}\n"
        "sources: [{name: own, reader: table, options: {path: own.csv}}]\n",
    )
    found = load_recipe(DataRecipe, recipe)
    assert found.allocation.languages == ("gn", "quz")
    assert plan_counts(found.allocation, "caption", 100) == {"quz": 75, "gn": 25}
    again = DataRecipe.model_validate_json(found.model_dump_json())  # as a worker reads it
    assert [language.code for language in again.more_languages] == ["gn", "quz"]
    counts = allocate(found.allocation, "own", {"caption": 100}, 0)["caption"]
    assert {list(LANGUAGES)[place] for place in counts} == {"gn", "quz"}


def test_without_more_languages_nothing_changes() -> None:
    assert set(plan_counts(AllocationSection(), "caption", 100_000)) <= set(LANGUAGES)
    with pytest.raises(InputError, match="mixes do not hold Croatian: add it with more_languages"):
        plan_counts(AllocationSection(languages=("hr",)), "caption", 10)


def test_more_rows_than_a_byte_counts() -> None:
    rows = [
        {"code": f"q{a}{b}-x1", "name": f"Lect {a}{b}", "script": "Latn", "share": 1.0}
        for a in "abcdefghijklmnop"
        for b in "abcdefghijklmno"
    ]
    add_languages(rows, "many")
    places = allocate(AllocationSection(method="uniform"), "own", {"caption": 4 * len(LANGUAGES)}, 0)["caption"]
    assert len(LANGUAGES) > 256 and set(places.tolist()) == set(range(len(LANGUAGES)))


def test_the_environment_adds_languages_for_every_verb(tmp_path: Path) -> None:
    file = write(tmp_path / "more.csv", "code,name,script\ngn,Guarani,Latn\n")
    command = [sys.executable, "-m", "mblip", "languages", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MBLIP_LANGUAGES": str(file)})
    assert [row["code"] for row in json.loads(done.stdout)][-1] == "gn"
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "MBLIP_LANGUAGES": str(tmp_path / "no")}
    )
    assert (
        done.returncode == 2 and "cannot read the file of languages" in done.stderr and "Traceback" not in done.stderr
    )


@pytest.mark.parametrize("file", ["mblip.json", "config.json"])
def test_a_model_brings_its_languages(tmp_path: Path, file: str) -> None:
    write(tmp_path / file, json.dumps({"more_languages": [GUARANI], "model_type": "blip-2"}))
    know_languages(tmp_path)
    assert find_language("Guarani").code == "gn"


@pytest.mark.parametrize("rows", ["gn", [1], [{"code": "gn"}], {"gn": "Guarani"}])
def test_damaged_languages_of_a_model_are_told(tmp_path: Path, rows: object) -> None:
    write(tmp_path / "mblip.json", json.dumps({"more_languages": rows}))
    with pytest.raises(InputError, match=r"mblip\.json"):
        know_languages(tmp_path)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_file_of_languages_may_have_the_separator_of_any_spreadsheet(separator: str, tmp_path: Path) -> None:
    rows = [("code", "name", "script", "aliases"), ("gn", "Guarani", "Latn", '"Jopara;Paraguayan Guarani"')]
    file = write(tmp_path / "more.csv", "".join(separator.join(row) + "\n" for row in rows))
    (found,) = read_languages(file)
    assert (found.code, found.aliases) == ("gn", ("Jopara", "Paraguayan Guarani"))
