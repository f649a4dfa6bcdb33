"""Languages beyond the 96: read from a file or a recipe, and stored in every mix, run and evaluation that uses them."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mblip.errors import InputError, cannot_read, nearest, quoted
from mblip.languages import BENCHMARK_LANGUAGES, LANGUAGES, Language, add_language, added_languages

VARIABLE = "MBLIP_LANGUAGES"
"""Environment variable with the path of a file of languages for every command."""

_RIGHT_TO_LEFT = ("Arab", "Hebr", "Syrc", "Thaa", "Nkoo", "Adlm", "Rohg")


class AddedLanguage(BaseModel):
    """A language that a recipe adds; the fields are the columns of a file of languages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: str = Field(
        pattern=r"^[a-z]{2,8}(-[A-Za-z0-9]{2,8})*$",
        description="code of the language everywhere, ideally its BCP-47 tag",
    )
    name: str = Field(min_length=1, description="English name in prompts")
    script: str = Field(pattern=r"^[A-Z][a-z]{3}$", description="ISO 15924 code, such as Latn")
    share: float = Field(default=0.01, gt=0, description="percent, on the scale of mC4's shares")
    bcp47: str = Field(default="", description="current BCP-47 tag, if the code differs")
    own_name: str = Field(default="", description="the language's own name; by default the English name")
    direction: Literal["", "ltr", "rtl"] = Field(default="", description="by default the direction of the script")
    nllb: str = Field(
        default="", pattern=r"^([a-z]{3}_[A-Z][a-z]{3})?$", description="FLORES-200 code, such as quy_Latn"
    )
    madlad: str = Field(default="", pattern=r"^(<2\w+>)?$", description="target tag of MADLAD-400, such as <2qu>")
    aliases: tuple[str, ...] = Field(default=(), description="other names to find it by")

    @field_validator("name", "own_name")
    @classmethod
    def _one_line(cls, value: str) -> str:
        value = value.strip()
        if re.search(r"[\x00-\x1f{}<>]", value):
            raise ValueError("a name has no line breaks, control characters, braces or angle brackets")
        return value

    @field_validator("script")
    @classmethod
    def _known_script(cls, value: str) -> str:
        import langcodes  # 0.15 s, and rarely needed

        if not langcodes.tag_is_valid(f"und-{value}"):
            raise ValueError("this is not a script of ISO 15924; write Latn, Arab, Cyrl, ...")
        return value

    def to_language(self) -> Language:
        """The row of the table; codes that the table has for a benchmark's language are kept."""
        known = BENCHMARK_LANGUAGES.get(self.code)
        direction = self.direction or ("rtl" if self.script in _RIGHT_TO_LEFT else "ltr")
        return Language(
            code=self.code,
            bcp47=self.bcp47 or (known.bcp47 if known else self.code),
            name=self.name,
            own_name=self.own_name or (known.own_name if known else self.name),
            script=self.script,
            direction=direction,
            nllb=self.nllb or (known.nllb if known else ""),
            madlad=self.madlad or (known.madlad if known else ""),
            trainable=True,
            mc4_share=self.share,
            mt5_share=0.0,
            benchmark_codes=known.benchmark_codes if known else {},
            aliases=self.aliases or (known.aliases if known else ()),
            original_name=self.name,
            original_nllb=self.nllb or (known.nllb if known else ""),
            original_benchmark_names={},
        )


def read_languages(path: Path) -> list[AddedLanguage]:
    """Read a CSV file of languages (commas, semicolons or tabs): a header, then one per row.

    ``code``, ``name`` and ``script`` are required.

    Raises:
        InputError: The file cannot be read, lacks a column, has an unknown one, or a row is wrong; the message names
            the row.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise cannot_read(path, error, "the file of languages ") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; save it as CSV in UTF-8") from error
    separator = max(",;\t", key=text.partition("\n")[0].count)  # spreadsheets in many countries write semicolons
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restkey="", delimiter=separator)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}; save the file as CSV again") from error
    columns = reader.fieldnames or []
    if missing := [name for name in ("code", "name", "script") if name not in columns]:
        raise InputError(
            f"{path} lacks the column {missing[0]!r}; its first line names the columns code,name,script,..."
        )
    if not rows:
        raise InputError(f"{path} lists no language below its header")
    found = []
    for number, row in enumerate(rows, start=1):
        if "" in row:
            raise InputError(f"{path}, row {number} has more fields than the header; put a name with a comma in quotes")
        plain: dict[str, Any] = {name: value.strip() for name, value in row.items() if value and value.strip()}
        if "aliases" in plain:
            plain["aliases"] = [alias for alias in plain["aliases"].split(";") if alias]
        found.append(_parse(plain, f"{path}, row {number}"))
    return found


def parse_languages(rows: Any, where: str, folder: Path | None = None) -> list[AddedLanguage]:
    """Languages of a recipe's field: a list of sections, or the path of a file (see :func:`read_languages`).

    Args:
        rows: Value of the field.
        where: Name of the field for errors.
        folder: A relative path is searched first here, then in the working directory.

    Raises:
        InputError: The value is neither, or a row is wrong.
    """
    if isinstance(rows, str):
        beside = (folder or Path()) / rows
        return read_languages(beside if beside.is_file() else Path(rows))
    if not isinstance(rows, list | tuple) or not all(isinstance(row, Mapping | AddedLanguage) for row in rows):
        raise InputError(f"{where} is the path of a CSV file, or a list of languages with code, name and script")
    return [
        row if isinstance(row, AddedLanguage) else _parse(dict(row), f"{where}, language {number}")
        for number, row in enumerate(rows, start=1)
    ]


def add_languages(rows: Iterable[AddedLanguage | Mapping[str, Any]], where: str) -> None:
    """Add languages to the table of this process.

    Args:
        rows: Languages as in a recipe.
        where: Their source, for errors.

    Raises:
        InputError: A language is invalid, or its code or name already belongs to another language.
    """
    for row in rows:
        section = row if isinstance(row, AddedLanguage) else _parse(dict(row), where)
        try:
            add_language(section.to_language())
        except InputError as error:
            raise InputError(f"{where}: {error}") from error


def carried(codes: Iterable[str]) -> list[dict[str, Any]]:
    """The added languages among some codes, in the form that is stored with their texts."""
    wanted = set(codes)
    return [_plain(language) for language in added_languages() if language.code in wanted]


def add_from_environment() -> None:
    """Add the languages of the file that the environment variable names, if it is set.

    Raises:
        InputError: See :func:`read_languages`.
    """
    if path := os.environ.get(VARIABLE):
        add_languages(read_languages(Path(path)), f"{path} ({VARIABLE})")


def _plain(language: Language) -> dict[str, Any]:
    names = ("code", "name", "script", "bcp47", "own_name", "direction", "nllb", "madlad")
    plain: dict[str, Any] = {name: getattr(language, name) for name in names}
    return plain | {"share": language.mc4_share, "aliases": list(language.aliases)}


def _parse(row: dict[str, Any], where: str) -> AddedLanguage:
    if row.get("code") in LANGUAGES and row["code"] not in {language.code for language in added_languages()}:
        raise InputError(f"{where}: {row['code']!r} is already one of the 96 languages; leave it out")
    try:
        return AddedLanguage.model_validate(row)
    except ValidationError as error:
        first = error.errors()[0]
        field, said = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            raise InputError(
                f"{where}: unknown column {field!r}{nearest(field, AddedLanguage.model_fields)}"
            ) from error
        raise InputError(f"{where}: {field}: {said} (got {quoted(first['input'])})") from error
