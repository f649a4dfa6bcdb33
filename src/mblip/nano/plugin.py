"""Register the nano world's parts, through the registries that every package can use (:mod:`mblip.plugins`)."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from mblip import plugins

FOLDER = Path(str(resources.files("mblip.nano")))
TEMPLATES = FOLDER / "templates.yaml"
BASES = FOLDER / "bases"
RECIPES = FOLDER / "recipes"


def register() -> None:
    """Register everything by address; nothing is imported before it is used."""
    plugins.corpora.register("scenes", "mblip.nano.corpus")
    plugins.engines.register("lexicon", "mblip.nano.lexicon")
    plugins.image_schemes.register("nano", "mblip.nano.images:open_scenes")
    plugins.benchmarks.register("scenes", "mblip.nano.benchmark:BENCHMARK")
    plugins.recipe_kinds.register("text", "mblip.nano.recipe_kinds:TextRecipe")
    plugins.recipe_kinds.register("vision", "mblip.nano.recipe_kinds:VisionRecipe")
    plugins.templates.register("nano", TEMPLATES)
    plugins.checkpoints.register("nano", BASES)
    plugins.notices.register("nano", "mblip.nano.notice:notice_for")
    plugins.demo_pictures.register("nano", "mblip.nano.demo_pictures:draw")
    plugins.reports.register("quickstart", "mblip.nano.quickstart")
    for path in sorted(RECIPES.glob("*/*.yaml")):
        plugins.recipes.register(path.relative_to(RECIPES).with_suffix("").as_posix(), path)
