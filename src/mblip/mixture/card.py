"""The card of a mix: its content, sources and licences."""

from __future__ import annotations

from pathlib import Path

from mblip.config import DataRecipe, load_recipe
from mblip.errors import InputError, counted
from mblip.languages import LANGUAGES, UNDETERMINED, name_code
from mblip.storage import Manifest, atomic_write, read_manifest
from mblip.translation.engines import engine_licence

CARD = "README.md"


def write_card(folder: Path) -> str:
    """Write ``README.md`` for a mix; returns its text.

    Raises:
        InputError: The folder has no finished mix.
    """
    manifest = read_manifest(folder)
    if manifest.kind != "Instruction":
        raise InputError(f"{folder} holds examples, not a mix; name the folder that mblip data mix wrote")
    text = card_text(manifest, load_recipe(DataRecipe, folder / "recipe.yaml"))
    with atomic_write(folder / CARD, "w") as file:
        file.write(text)
    return text


def card_text(manifest: Manifest, recipe: DataRecipe) -> str:
    """The card of a mix as Markdown, with the front matter that dataset hubs read."""
    translated = any(source.translate for source in recipe.sources) and set(manifest.by_language) != {"en"}
    tags = [LANGUAGES[code].bcp47 for code in manifest.by_language if code != UNDETERMINED]
    lines = ["---", "language:", *(f"- '{tag}'" for tag in tags), "task_categories:", "- image-text-to-text", "---", ""]
    lines += [f"# {recipe.title}", ""]
    lines += [
        f"{counted(manifest.rows, 'instruction')} in {counted(len(tags), 'language')}, written by mblip "
        f"{manifest.versions['mblip']} with seed {manifest.seed}. `recipe.yaml` reproduces it byte for byte. "
        "The images are not included: rows have keys into an image store.",
        "",
    ]
    lines += ["## Sources and licences", "", "| source | instructions | licence |", "|---|---:|---|"]
    lines += [f"| {name} | {count:,} | {manifest.licences[name]} |" for name, count in manifest.by_source.items()]
    if translated:
        licence = engine_licence(recipe.translation.engine)
        lines += [
            "",
            f"Translated by the engine `{recipe.translation.engine}`; licence of its translations: {licence}.",
        ]
    if manifest.prompts:
        seen = "; ".join(f"`{prompt}`" for prompt in manifest.evaluation_prompts_seen)
        remark = (
            f"Benchmarks use some of them, so their figures are not zero-shot: {seen}"
            if seen
            else "No benchmark uses one of them"
        )
        count = sum(map(len, manifest.prompts.values()))
        lines += ["", "## Prompts", "", f"{count:,} prompts, listed in `manifest.json`. {remark}."]
    lines += ["", "## Tasks", "", "| source | task | instructions | languages | English |", "|---|---|---:|---:|---:|"]
    for source, tasks in manifest.counts.items():
        for task, languages in tasks.items():
            total, english = sum(languages.values()), languages.get("en", 0)
            lines.append(f"| {source} | {task} | {total:,} | {len(languages)} | {english / total:.1%} |")
    lines += ["", "## Languages", "", "| code | language | instructions | share |", "|---|---|---:|---:|"]
    for code, count in sorted(manifest.by_language.items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"| {code} | {name_code(code)} | {count:,} | {count / manifest.rows:.2%} |")
    if manifest.drops:
        lines += [
            "",
            "## Left out",
            "",
            "`exclusions.jsonl` lists each example with its reason.",
            "",
            "| reason | examples |",
        ]
        lines += ["|---|---:|", *(f"| {reason} | {count:,} |" for reason, count in manifest.drops.items())]
    return "\n".join(lines) + "\n"
