"""Resolve ``--suite``: a recipe of ``recipes/eval``, a user's own file, or benchmarks by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mblip import plugins
from mblip.config import EvalRecipe, load_recipe, shipped_recipes
from mblip.errors import InputError, nearest
from mblip.evaluation.benchmarks import EVALUATED, MADE, evaluated, family

_FOLDER = "eval/"


def load_suite(names: Sequence[str]) -> EvalRecipe:
    """The recipe of an evaluation.

    Args:
        names: One recipe (``paper``, ``quick``, ... or a YAML file), or any number of benchmarks.

    Raises:
        InputError: There is no such recipe or benchmark; the message names the nearest.
    """
    shipped = {name.removeprefix(_FOLDER): path for name, path in shipped_recipes().items() if name.startswith(_FOLDER)}
    if len(names) == 1 and (names[0] in shipped or names[0].endswith((".yaml", ".yml"))):
        recipe = load_recipe(EvalRecipe, shipped.get(names[0], Path(names[0])))
    else:
        recipe = EvalRecipe(title=", ".join(names), benchmarks=tuple(names))
        unknown = [name for name in names if name not in shipped and not family(name)]
        if unknown:
            known = [*shipped, *EVALUATED, *MADE]
            raise InputError(
                f"unknown suite or benchmark {unknown[0]!r}{nearest(unknown[0], known)}{plugins.lacking()}"
            )
    for name in recipe.benchmarks:
        evaluated(name)
    if not (recipe.benchmarks or recipe.tables):
        raise InputError(f"the suite {names[0]!r} names neither benchmarks nor tables; add one")
    return recipe


def needs_data(recipe: EvalRecipe) -> bool:
    """Whether a benchmark or table of the recipe reads files below the data root."""
    return any(not Path(table.path).is_absolute() for table in recipe.tables) or any(
        not benchmark.is_made for name in recipe.benchmarks for benchmark in evaluated(name)
    )
