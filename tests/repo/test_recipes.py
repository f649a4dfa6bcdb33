"""Every shipped recipe: found, validated, short, labelled."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import yaml

from mblip import config, plugins
from mblip.config import DataRecipe, EvalRecipe, Recipe, load_recipe, shipped_recipes

PACKAGE = Path(config.__file__).parent
PATHS = sorted(path for folder in ("recipes", "nano/recipes") for path in (PACKAGE / folder).rglob("*.y*ml"))
RECIPES = {name: path for name, path in shipped_recipes().items() if "/" in name}
# Change the number with the recipes: one that is lost must not pass unseen.
COUNTS = {"data": 6, "eval": 12, "mini": 1, "nano": 5, "train": 15}


def kinds() -> dict[str, type[Recipe]]:
    return {"data": DataRecipe, "eval": EvalRecipe, **plugins.recipe_kinds}


def test_every_recipe_is_found() -> None:
    assert Counter(path.parent.name for path in PATHS) == COUNTS
    assert sorted(RECIPES.values()) == PATHS


@pytest.mark.parametrize("name", RECIPES)
def test_recipe_is_valid_short_and_labelled(name: str) -> None:
    text = RECIPES[name].read_text(encoding="utf-8")
    default = "data" if name.startswith("data/") else "train"
    recipe = load_recipe(kinds()[yaml.safe_load(text).get("kind", default)], name)
    assert recipe.title
    assert recipe.paper, "name the paper's section, or say that there is none"
    assert len(text.splitlines()) <= 45


def test_no_two_recipes_are_the_same() -> None:
    def settings(path: Path) -> str:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        return yaml.safe_dump({key: value for key, value in data.items() if key not in ("title", "paper")})

    assert len({settings(path) for path in PATHS}) == len(PATHS)
