"""The card, layouts of other trainers, prompts in other languages, the compatibility profile, shipped recipes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mblip.config import DataRecipe, load_recipe
from mblip.errors import InputError
from mblip.mixture import build_mix, export_mix, load_templates, write_card
from mblip.mixture.templates.translating import translate_templates
from mblip.schema import Example, Instruction
from mblip.storage import ShardReader
from mblip.translation import check_engine, check_languages


@pytest.fixture(scope="module")
def mix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mix") / "mix"
    build_mix(load_recipe(DataRecipe, "nano_scenes", ("sources.scenes.options.scenes=60",)), folder)
    return folder


def test_card(mix: Path) -> None:
    text = (mix / "README.md").read_text()
    rows = len(ShardReader(mix, Instruction))
    front, _, body = text.removeprefix("---\n").partition("---\n")
    assert {"he", "sw", "zh"} <= set(yaml.safe_load(front)["language"])
    for part in (
        f"{rows:,} instructions",
        "| scenes |",
        "OFL-1.1",
        "Unicode-3.0",
        "never shown",
        "| Swahili |",
        "lexicon",
    ):
        assert part in body
    (mix / "README.md").unlink()
    assert write_card(mix) == text == (mix / "README.md").read_text()


def test_layouts_of_other_trainers(mix: Path, tmp_path: Path) -> None:
    rows = list(ShardReader(mix, Instruction))
    for layout in ("llava", "chat", "trl"):
        assert export_mix(mix, layout, tmp_path / layout) == len(rows)
    llava = json.loads((tmp_path / "llava").read_text())
    chat, trl = ([json.loads(line) for line in (tmp_path / n).read_text().splitlines()] for n in ("chat", "trl"))
    assert len(llava) == len(chat) == len(trl) == len(rows)
    first = rows[0]
    assert llava[0] == {
        "id": first.id, "image": first.images[0], "conversations": [
            {"from": "human", "value": f"<image>\n{first.prompt}"}, {"from": "gpt", "value": first.answer},
        ],
    }  # fmt: skip
    assert chat[0] == {
        "messages": [
            {"role": "user", "content": f"<image>{first.prompt}"}, {"role": "assistant", "content": first.answer},
        ],
        "images": [first.images[0]],
    }  # fmt: skip
    assert [part["type"] for part in trl[0]["messages"][0]["content"]] == ["image", "text"]
    with pytest.raises(InputError, match="no layout 'lava'; did you mean 'llava'"):
        export_mix(mix, "lava", tmp_path / "x")


def test_layouts_are_what_datasets_reads(mix: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    export_mix(mix, "trl", tmp_path / "trl.jsonl")
    table = datasets.Dataset.from_json(str(tmp_path / "trl.jsonl"), cache_dir=str(tmp_path / "cache"))
    assert table.column_names == ["messages", "images"]
    assert table[0]["messages"][1]["role"] == "assistant"


def _translate(texts: list[str], language: str) -> dict[str, str | None]:
    """Says everything in capitals, loses fields in Swahili and fails in Yoruba."""
    change = {"de": str.upper, "sw": lambda text: text.replace("{", "("), "yo": lambda text: None}[language]
    keep = {"QUESTION": "question", "CAPTION": "caption", "ANSWER": "answer"}
    results = {}
    for text in texts:
        result = change(text)
        for big, small in keep.items():
            result = result.replace("{" + big + "}", "{" + small + "}") if result else result
        results[text] = result
    return results


def test_prompts_in_other_languages_take_turns_with_the_english_ones() -> None:
    templates = load_templates(("nano",))
    found = translate_templates(templates, ["de", "en", "sw", "yo"], _translate)
    by_language = {code: [t.prompt for t in found if t.language == code] for code in ("de", "sw", "yo")}
    assert by_language["yo"] == []
    assert "CAPTION IN GERMAN:" in by_language["de"] and len(by_language["de"]) == 9
    assert not any("(" in prompt for prompt in by_language["sw"])  # lost their fields
    templates.add(found)
    prompts = {"de": set(), "fr": set()}
    languages = set()
    for row in range(40):
        for code, seen in prompts.items():
            example = Example(
                f"s/{row}",
                "s",
                "presence",
                ("k",),
                {"question": "Q", "answer": "A"},
                dict.fromkeys(("question", "answer"), code),
                "x",
            )
            instruction = templates.render(example)
            seen.add(instruction.prompt)
            caption = Example(f"s/{row}", "s", "caption", ("k",), {"caption": "C"}, {"caption": "de"}, "x")
            languages.add((templates.render(caption).prompt, templates.render(caption).prompt_language))
    assert prompts["de"] == {"Question: Q? Answer in German:", "QUESTION: Q? ANSWER IN GERMAN:"}
    assert prompts["fr"] == {"Question: Q? Answer in French:"}
    assert languages == {("Caption in German:", "en"), ("CAPTION IN GERMAN:", "de")}


def test_mix_with_translated_prompts(tmp_path: Path) -> None:
    overrides = ("sources.scenes.options.scenes=60", "translated_templates=true")
    manifest = build_mix(load_recipe(DataRecipe, "nano_scenes", overrides), tmp_path / "mix")
    # The lexicon knows no sentences: the English prompts remain.
    assert manifest.rows > 200
    assert not (tmp_path / "mix/.work").exists()


def test_original_profile_names_languages_as_the_original_did() -> None:
    example = Example("s/1", "s", "caption", ("k",), {"caption": "C"}, {"caption": "iw"}, "x")
    assert load_templates(("nano",)).render(example).prompt == "Caption in Hebrew:"
    assert load_templates(("nano",), "original").render(example).prompt == "Caption in former Hebrew:"


@pytest.mark.parametrize("name", ["paper_v2", "balanced"])
def test_recipes_of_the_full_mix(name: str) -> None:
    recipe = load_recipe(DataRecipe, name)
    assert [source.name for source in recipe.sources] == [
        "web_capfilt", "coco", "llava_detail", "llava_conversation", "aokvqa", "vqav2", "web_matching", "imagenet",
    ]  # fmt: skip
    check_languages(recipe.allocation)
    check_engine(recipe.translation.engine, recipe.translation.options)
    assert recipe.translation.short_answers.tasks == recipe.allocation.apart[0]
    if name == "balanced":
        from mblip.translation import plan_counts

        counts = plan_counts(recipe.allocation, "description", 23_000)
        assert len(counts) == 96 and min(counts.values()) == 100 and counts["en"] == 9200
