"""The card, layouts of other trainers, prompts in other languages, the compatibility profile, shipped recipes."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml
from tests.killed import Commands

from mblip.config import DataRecipe, TranslationSection, load_recipe
from mblip.errors import InputError
from mblip.mixture import build_mix, export_mix, load_templates, plan_what_is_there, write_card
from mblip.mixture.templates.translating import translate_templates
from mblip.schema import Example, Instruction
from mblip.storage import ShardReader, read_drops
from mblip.translation import Translator, check_engine, check_languages


@pytest.fixture(scope="module")
def mix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mix") / "mix"
    build_mix(
        load_recipe(DataRecipe, "nano_scenes", ("sources.scenes.options.scenes=60", "sources.scenes.options.texts=6")),
        folder,
    )
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


def test_doctor_of_a_mix(mix: Path, tmp_path: Path, commands: Commands) -> None:
    rows = len(ShardReader(mix, Instruction))
    found = commands.run("doctor", str(mix))
    assert (
        found.code == 0
        and f"{mix}: {rows:,} instructions in 79 languages from 1 source; no file has changed" in found.out
    ), found
    described = json.loads(commands.run("doctor", str(mix), "--json").out)
    assert (described["rows"], described["is_complete"]) == (rows, True)
    shutil.copytree(mix, tmp_path / "mix")
    shard = next((tmp_path / "mix").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    changed = commands.run("doctor", str(tmp_path / "mix"))
    assert changed.code == 2 and str(shard) in changed.err, changed


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
    with pytest.raises(InputError, match="no export layout 'lava'; did you mean 'llava'"):
        export_mix(mix, "lava", tmp_path / "x")


def test_layouts_are_what_datasets_reads(mix: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    export_mix(mix, "trl", tmp_path / "trl.jsonl")
    table = datasets.Dataset.from_json(str(tmp_path / "trl.jsonl"), cache_dir=str(tmp_path / "cache"))
    assert table.column_names == ["messages", "images"]
    assert table[0]["messages"][1]["role"] == "assistant"


def _translate(texts: list[str], language: str) -> dict[str, str | None]:
    """Says every word backwards; loses fields in Swahili, adds one in Danish, fails in Yoruba, copies in Finnish."""

    def backwards(text: str) -> str:
        return re.sub("[A-Za-z]+", lambda word: word[0][::-1].upper(), text)

    change = {
        "de": backwards, "sw": lambda text: backwards(text).replace("{", "("), "da": lambda text: f"{backwards(text)} {{1}}",
        "yo": lambda text: None, "ru": backwards, "fi": lambda text: text,
    }[language]  # fmt: skip
    return {text: change(text) for text in texts}


def test_prompts_in_other_languages_take_turns_with_the_english_ones() -> None:
    templates = load_templates(("nano",))
    found, lost = translate_templates(templates, ["da", "de", "en", "fi", "ru", "sw", "yo"], _translate)
    by_language = {code: [t.prompt for t in found if t.language == code] for code in ("da", "de", "ru", "sw", "yo")}
    assert "STCEJBO NI NAMREG:" in by_language["de"] and len(by_language["de"]) == 10
    assert "NOITSEUQ: {question}? REWSNA NI NAMREG:" in by_language["de"]
    assert by_language["yo"] == by_language["ru"] == []
    # Those without a field have none to lose.
    assert len(by_language["sw"]) == 6 and by_language["da"] == []
    reasons = Counter((drop.id.split("/")[1], drop.reason) for drop in lost)
    assert reasons == {
        ("yo", "prompt: no translation"): 10, ("sw", "prompt: lost field"): 4, ("da", "prompt: lost field"): 10,
        ("ru", "prompt: wrong script"): 10, ("fi", "prompt: copied source"): 10,
    }  # fmt: skip
    assert len({drop.id for drop in lost}) == len(lost) and {drop.language for drop in lost} == {""}
    templates.add(found)
    prompts: dict[str, set[str]] = {"de": set(), "fr": set()}
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
    assert prompts["de"] == {"Question: Q? Answer in German:", "NOITSEUQ: Q? REWSNA NI NAMREG:"}
    assert prompts["fr"] == {"Question: Q? Answer in French:"}
    assert languages == {("Objects in German:", "en"), ("STCEJBO NI NAMREG:", "de")}


def test_prompts_without_words_need_no_translation() -> None:
    templates = load_templates(("llava",))
    asked: list[str] = []
    found, lost = translate_templates(templates, ["de", "sw"], lambda texts, _: asked.extend(texts) or {})
    assert (found, lost, asked) == ([], [], [])


def test_fields_of_prompts_survive_a_real_translation_program(apertium: str) -> None:
    translator = Translator(TranslationSection(engine="apertium"))
    templates = load_templates(("paper",))
    codes = [code for code in ("ca", "eo", "es", "gl") if ("en", code) in vars(translator.engine)["_modes"]]
    found, lost = translate_templates(templates, codes, translator.translate_texts)
    with_fields = sum(bool(template.prompt_roles) for _, template in templates.english())
    kept = [template for template in found if template.prompt_roles]
    assert codes and len(kept) > 0.9 * with_fields * len(codes)
    assert all(f"{{{role}}}" in template.prompt for template in kept for role in template.prompt_roles)
    assert len(found) + len(lost) == len(templates.english()) * len(codes)


def test_mix_with_translated_prompts(tmp_path: Path) -> None:
    overrides = ("sources.scenes.options.scenes=60", "sources.scenes.options.texts=6", "translated_templates=true")
    manifest = build_mix(load_recipe(DataRecipe, "nano_scenes", overrides), tmp_path / "mix")
    # The lexicon knows no sentences: the English prompts remain, and the manifest says how many were lost and why.
    assert manifest.rows > 200
    assert manifest.drops["prompt: no translation"] == 10 * 84
    assert sum(drop.source == "templates" for drop in read_drops(tmp_path / "mix")) == 10 * 84
    assert not (tmp_path / "mix/.work").exists()


def test_original_profile_names_languages_as_the_original_did() -> None:
    example = Example("s/1", "s", "caption", ("k",), {"caption": "C"}, {"caption": "iw"}, "x")
    assert load_templates(("nano",)).render(example).prompt == "Objects in Hebrew:"
    assert load_templates(("nano",), "original").render(example).prompt == "Objects in former Hebrew:"


@pytest.mark.parametrize("name", ["paper_v2", "balanced"])
def test_recipes_of_the_full_mix(name: str) -> None:
    recipe = load_recipe(DataRecipe, name)
    assert [source.name for source in recipe.sources] == [
        "web_capfilt", "coco", "llava_detail", "llava_conversation", "aokvqa", "vqav2", "web_matching", "imagenet",
    ]  # fmt: skip
    check_languages(recipe.allocation)
    check_engine(recipe.translation.engine, recipe.translation.options)
    assert recipe.translation.short_answers.tasks == recipe.allocation.disjoint[0]
    kept = {source.name for source in recipe.sources if not source.translate}
    assert kept == ({"imagenet", "aokvqa"} if name == "paper_v2" else {"imagenet"})
    options = {source.name: source.options for source in recipe.sources}
    assert options["llava_detail"].get("instructions", False) == (name == "paper_v2")
    assert options["web_matching"].get("draw", "fair") == ("original" if name == "paper_v2" else "fair")
    if name == "balanced":
        from mblip.translation import plan_counts

        counts = plan_counts(recipe.allocation, "description", 23_000)
        assert len(counts) == 96 and min(counts.values()) == 100 and counts["en"] == 9200


def test_the_papers_mix_leaves_aokvqa_in_english(tmp_path: Path) -> None:
    """Plan and manifest show it in English alone, other sources in all their languages."""
    rows = [
        {"split": "train", "image_id": number, "question_id": f"q{number}", "question": "fox?", "choices": ["dog", "fox"],
         "correct_choice_idx": 1, "direct_answers": [], "rationales": ["fox"]}
        for number in range(300)
    ]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "c.json").write_text(
        json.dumps({"images": [{"split": "train", "cocoid": number} for number in range(300)]})
    )
    full = load_recipe(
        DataRecipe, "paper_v2",
        (f"sources.aokvqa.options.path={tmp_path / 'a.json'}", f"sources.aokvqa.options.coco={tmp_path / 'c.json'}"),
    )  # fmt: skip
    found = plan_what_is_there(full).counts
    assert found == {"aokvqa": {"reasoning": {"en": 300}, "explanation": {"en": 300}}}
    only = full.model_copy(
        update={
            "sources": tuple(source for source in full.sources if source.name == "aokvqa"),
            "translation": TranslationSection(engine="lexicon"),
            "translated_templates": False,
        }
    )
    manifest = build_mix(only, tmp_path / "mix")
    assert manifest.counts == {"aokvqa": {"explanation": {"en": 300}, "reasoning": {"en": 300}}}
    assert manifest.evaluation_prompts_seen == []
    balanced = load_recipe(
        DataRecipe, "balanced",
        (f"sources.aokvqa.options.path={tmp_path / 'a.json'}", "sources.aokvqa.options.coco=null", "allocation.floor=1"),
    )  # fmt: skip
    assert len(plan_what_is_there(balanced).counts["aokvqa"]["reasoning"]) == 96
