"""Make benchmarks from the tables of a recipe or of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mblip.config import EvalRecipe
from mblip.errors import InputError, leads_nowhere, nearest
from mblip.eval_recipe import TableSection, matching_files
from mblip.evaluation.benchmark import Benchmark
from mblip.evaluation.benchmarks import BENCHMARKS, MADE
from mblip.evaluation.table import TableBenchmark, table_name
from mblip.evaluation.table_columns import TASKS, parse_columns
from mblip.languages import find_language

TABLE = "table"
"""Name of a user's own table in ``mblip score``."""


def table_files(path: Path, source: str = "") -> list[Path]:
    """The files of a table: one, or those of a pattern such as ``test-*.parquet``, sorted by name.

    Raises:
        InputError: There is no such file.
    """
    found = matching_files(path)
    if not found and path.is_dir():
        raise InputError(f"{path} is a folder; name the table in it, or several as {path}/*.parquet in quotes")
    if not found:
        where = f" ({source}); choose among its languages with --languages" if source else ""
        raise InputError(f"there is no table {path}{leads_nowhere(path) or where}")
    return found


def table_section(table: Path | None, task: str, language: str, columns: Sequence[str]) -> TableSection:
    """The description of a table from the command line.

    Raises:
        InputError: An option is missing or unknown.
    """
    if table is None:
        raise InputError("--task, --language and --columns describe a table; name it with --table FILE")
    table_files(table)
    if task not in TASKS:
        said = (
            f"there is no task {task!r}{nearest(task, TASKS)}"
            if task
            else f"a table needs --task, {' or '.join(TASKS)}"
        )
        raise InputError(said)
    if not language:
        raise InputError(f"a table needs --language, the language of the texts in {table}")
    code = find_language(language).code
    return TableSection(path=str(table.absolute()), task=task, languages=(code,), columns=parse_columns(columns))


def own_table(table: Path, task: str, language: str, columns: Sequence[str], allow_missing: bool = False) -> Benchmark:
    """A table as a benchmark to score predictions; its pictures are not read.

    Raises:
        InputError: As in :func:`table_section`, or the table cannot be used.
    """
    section = table_section(table, task, language, columns)
    (code,) = section.languages
    return TableBenchmark(
        section.model_copy(update={"name": TABLE}), table_files(table), code, allow_missing, pictures=False
    ).benchmark()


def read_tables(
    recipe: EvalRecipe, root: Path, images: Sequence[str] = (), allow_missing: bool = False, pictures: bool = True
) -> list[Benchmark]:
    """Read the tables of a recipe in its languages.

    Args:
        recipe: The recipe, with tables, languages, protocol and the option for reading pictures.
        root: Folder of the tables.
        images: Image stores from the user; absolute paths of pictures must be below the first.
        allow_missing: Leave out and count rows that cannot be used.
        pictures: Whether the pictures are needed.

    Raises:
        InputError: A table is missing or cannot be used, two have the same name, or none is in the languages.
    """
    found: list[Benchmark] = []
    for section in recipe.tables:
        name = section.name or table_name(Path(section.path))
        if name in BENCHMARKS or name in MADE:
            raise InputError(f"the table {section.path} has the name of the benchmark {name!r}; give it another name")
        for code in section.languages:
            if recipe.languages and code not in recipe.languages:
                continue
            paths = table_files(section.place(root, code), section.source)
            if any((other.name, other.languages) == (name, (code,)) for other in found):
                raise InputError(f"two tables have the name {name!r} in {code!r}; give one of them another name")
            table = TableBenchmark(
                section.model_copy(update={"name": name}),
                paths,
                code,
                allow_missing,
                pictures,
                by_likelihood=recipe.protocol == "candidates",
                root=Path(images[0]) if images else None,
                as_stored=recipe.pictures == "original",
            )
            found.append(table.benchmark())
    if recipe.tables and not recipe.benchmarks and not found:
        held = dict.fromkeys(code for section in recipe.tables for code in section.languages)
        raise InputError(f"no table is in {', '.join(recipe.languages)}; the tables are in {', '.join(held)}")
    return found
