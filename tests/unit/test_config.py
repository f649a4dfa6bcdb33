from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from mblip import plugins
from mblip.config import (
    AllocationSection,
    DataRecipe,
    EvalRecipe,
    MixSection,
    Recipe,
    TrainRecipe,
    find_recipe,
    hash_recipe,
    load_recipe,
    load_train_recipe,
    save_recipe,
    shipped_recipes,
)
from mblip.errors import InputError
from mblip.mixture.mix import mix_hash
from mblip.models.auto_settings import resolve_auto
from mblip.nano.recipe_kinds import PhaseSection, TextRecipe
from mblip.settings import dump_yaml, parse_yaml

MINIMAL = {"title": "t", "stage": "align", "model": {"vision": "nano:a"}, "optim": {"lr": 1e-5}}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


def test_overrides_reach_every_depth_and_type(recipe: Path) -> None:
    overrides = (
        "optim.lr=3e-5",
        "optim.steps=20",
        "seed=7",
        "data.flip=true",
        "data.languages=[sw, de]",
        "model.run=a=b",
        "lora.dropout=0",
        "precision=fp32",
    )
    loaded = load_recipe(TrainRecipe, recipe, overrides)
    assert loaded.optim.lr == 3e-5
    assert loaded.optim.steps == 20
    assert loaded.seed == 7
    assert loaded.data.flip is True
    assert loaded.data.languages == ("sw", "de")
    assert loaded.model.run == "a=b"
    assert loaded.model.vision == "nano:a"
    assert loaded.precision == "fp32"


def test_exponents_without_a_dot_are_numbers(recipe: Path) -> None:
    recipe.write_text("title: t\nstage: align\nmodel: {}\noptim: {lr: 1e-5}\n")
    assert load_recipe(TrainRecipe, recipe).optim.lr == 1e-5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("017", 17), ("0o17", 15), ("0x1f", 31), ("-3", -3), ("1e3", 1000.0), ("1E-3", 1e-3), (".5", 0.5), ("2.", 2.0),
        (".inf", float("inf")), ("-.Inf", float("-inf")), ("~", None), ("TRUE", True), ("no", "no"), ("off", "off"),
        ("1:30", "1:30"), ("2026-01-01", "2026-01-01"), ("1_000", "1_000"), ("=", "="), ("1e", "1e"),
    ],
)  # fmt: skip
def test_plain_values_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = parse_yaml(text)
    assert (found, type(found)) == (value, type(value))
    assert parse_yaml(dump_yaml({"a": value, "b": [text]})) == {"a": value, "b": [text]}


def test_a_title_may_look_like_a_number_or_a_date(recipe: Path, tmp_path: Path) -> None:
    for title in ("1e3", "2026-01-01", "017", "no"):
        loaded = load_recipe(TrainRecipe, recipe, (f"title='{title}'",))
        save_recipe(loaded, tmp_path / "again.yaml")
        assert load_recipe(TrainRecipe, tmp_path / "again.yaml").title == title


def test_saved_recipe_loads_to_the_same_and_spells_out_defaults(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(TrainRecipe, recipe, ("optim.steps=5",))
    save_recipe(loaded, tmp_path / "run" / "recipe.yaml")
    again = load_recipe(TrainRecipe, tmp_path / "run" / "recipe.yaml")
    assert again == loaded
    assert hash_recipe(again) == hash_recipe(loaded)
    assert hash_recipe(load_recipe(TrainRecipe, recipe)) != hash_recipe(loaded)
    assert "warmup_steps: 1000" in (tmp_path / "run" / "recipe.yaml").read_text()


def test_the_hash_is_of_what_decides_the_result(recipe: Path) -> None:
    plain = hash_recipe(load_recipe(TrainRecipe, recipe))
    assert hash_recipe(load_recipe(TrainRecipe, recipe, ("lora.rank=8", "optim.lora_lr=2e-4", "seed=0"))) == plain
    unaffected = ("title=other", "log_every=1", "checkpoint_every=7", "keep_checkpoints=1", "data.workers=3")
    assert hash_recipe(load_recipe(TrainRecipe, recipe, unaffected)) == plain
    others = {
        hash_recipe(load_recipe(TrainRecipe, recipe, (change,)))
        for change in ("lora.rank=4", "optim.lr=2e-5", "data.flip=true", "stage=warmup")
    }
    assert len(others | {plain}) == 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("optim.lrr=1",), "unknown field 'optim.lrr'; did you mean 'lr'?"),
        (("optmi.lr=1",), "unknown field 'optmi'; did you mean 'optim'?"),
        (("lora.rank=-1",), "field 'lora.rank': input should be greater than 0 (got -1)"),
        (("lora.rank=many",), "field 'lora.rank': .*integer.* (got 'many')"),
        (("stage=sleep",), "field 'stage': input should be 'warmup', 'align' or 'finetune' (got 'sleep')"),
        (("optim=3",), "field 'optim': input should be a section with its own fields (got 3)"),
        (("data.tasks=caption",), r"field 'data.tasks': input should be a list, such as \[a, b\] (got 'caption')"),
        (("optim.lr=-1",), "field 'optim.lr': input should be greater than or equal to 0"),
        (("optim.steps=-3",), "field 'optim.steps': input should be greater than or equal to 0"),
        (("optim.epochs=0",), "field 'optim.epochs': input should be greater than 0"),
        (("optim.epochs=",), "field 'optim.epochs': no value is given; where the field may be unset, write null"),
        (("lora.rank=",), "field 'lora.rank': no value is given"),
        (("optim.epochs=.inf",), "field 'optim.epochs': input should be a finite number"),
        (("optim.lr=.inf",), "field 'optim.lr': input should be a finite number (got inf)"),
        (("optim.lr=inf",), "field 'optim.lr': input should be a finite number"),
        (("optim.weight_decay=1e999",), "field 'optim.weight_decay': input should be a finite number"),
        (("optim.steps=true",), "field 'optim.steps': input should be a number (got true)"),
        (("optim.lr=false",), "field 'optim.lr': input should be a number (got false)"),
        (("data.features_gib=true",), "field 'data.features_gib': input should be a number (got true)"),
        (
            (f"optim.steps={2**63}",),
            "field 'optim.steps': input should be at most 9223372036854775807 (got 9223372036854775808)",
        ),
        ((f"seed=-{2**64}",), "field 'seed': input should be at least -9223372036854775807 (got -"),
        ((f"data.max_prompt_tokens={10**50}",), "field 'data.max_prompt_tokens': input should be at most"),
        (("optim.epochs=1e300",), "field 'optim.epochs': input should be less than or equal to 1000000000"),
        (("lora.rank=99999999",), "field 'lora.rank': input should be less than or equal to 65536"),
        (("optim.steps=1:30",), "field 'optim.steps': .*integer.* (got '1:30')"),
        (("seed=null",), "field 'seed': .* (got null)"),
        (
            ("data.keep_features=false",),
            "field 'data.keep_features': input should be 'auto', 'on' or 'off' (got false)",
        ),
        (("data.crop_scale=[0.1,0.5,1]",), r"field 'data.crop_scale': input should have at most 2 items"),
        (("optim.betas=[0.9,2]",), "field 'optim.betas.1': input should be less than 1"),
        (("optim.clip=-1",), "field 'optim.clip': input should be greater than 0"),
        (("optim.weight_decay=-1",), "field 'optim.weight_decay': input should be greater than or equal to 0"),
        (("optim.warmup_steps=-1",), "field 'optim.warmup_steps': input should be greater than or equal to 0"),
        (("data.crop_scale=[2,3]",), "field 'data.crop_scale.0': input should be less than or equal to 1"),
        (("data.max_answer_tokens=0",), "field 'data.max_answer_tokens': input should be greater than 0"),
        (("seed=-1",), "field 'seed': input should be greater than or equal to 0"),
        (("seed",), "override 'seed' must read field=value"),
        (("=3",), "override '=3' must read field=value"),
        (("title.x=3",), "override 'title.x=3': 'title' is not a section"),
        (("seed=[",), r"override 'seed=\[': the value is not readable YAML"),
    ],
)
def test_bad_overrides_are_named(recipe: Path, overrides: tuple[str, ...], message: str) -> None:
    pattern = message.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?")
    with pytest.raises(InputError, match=pattern):
        load_recipe(TrainRecipe, recipe, overrides)


def test_a_typo_inside_a_list_of_sections_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("title: t\nphases: [{steps: 3, tasks: {naming: 1}}, {steps: 3, task: {naming: 1}}]\n")
    with pytest.raises(InputError, match=r"x.yaml: .*phases\.1\.task"):
        load_recipe(TextRecipe, path)
    path.write_text("title: t\nphases: [{steps: 3, tasks: {}, max_object: 1}]\n")
    with pytest.raises(InputError, match=r"unknown field 'phases\.0\.max_object'; did you mean 'max_objects'"):
        load_recipe(TextRecipe, path)
    with pytest.raises(
        InputError, match=r"override 'phases\.1\.steps=4': 'phases' has no item '1'; it has 1, numbered"
    ):
        load_recipe(TextRecipe, path, ("phases.1.steps=4",))


def test_a_missing_field_does_not_print_the_whole_recipe(recipe: Path) -> None:
    recipe.write_text("title: t\nstage: align\noptim: {lr: 1}\n")
    with pytest.raises(InputError, match=r"mine.yaml: field 'model' is missing$"):
        load_recipe(TrainRecipe, recipe)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"title: [", "is not readable YAML"),
        (b"\xff\xfe\xfa", "is not readable YAML"),
        (b"[" * 50_000, "is not readable YAML"),
        (b"- a\n", "must hold a mapping"),
        (b"", "must hold a mapping"),
        (b"title: !!python/object/apply:os.getcwd []\n", "is not readable YAML"),
    ],
    ids=["broken", "not UTF-8", "too deep", "list", "empty", "code"],
)
def test_files_that_are_no_recipe_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"bad.yaml {message}"):
        load_recipe(TrainRecipe, path)


def test_a_recipe_in_utf_16_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes("title: t\n".encode("utf-16"))
    for load in (load_train_recipe, partial(load_recipe, DataRecipe)):
        with pytest.raises(InputError, match=r"bad\.yaml, line 1: .* is in UTF-16: save the file as UTF-8"):
            load(path)


@pytest.mark.parametrize(("load", "name", "verbs"), [
    (load_train_recipe, "paper_v2", "mblip data plan, sample, translate and mix"),
    (load_train_recipe, "eval/paper", "mblip eval"),
    (partial(load_recipe, DataRecipe), "mt0_xl_align", "mblip train and mblip plan"),
])  # fmt: skip
def test_a_recipe_of_another_kind_names_its_verbs(load: Callable[[str], Any], name: str, verbs: str) -> None:
    with pytest.raises(InputError, match=rf"\.yaml is a recipe for {verbs}, not for what was asked"):
        load(name)


def test_another_kind_is_not_seen_in_an_unknown_field() -> None:
    with pytest.raises(InputError, match=r"nano_scenes\.yaml: unknown field 'optim'"):
        load_recipe(DataRecipe, "nano_scenes", ("optim.lr=1",))


def test_recipes_are_frozen() -> None:
    recipe = Recipe(title="t")
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]


def test_shipped_recipes_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "recipes", recipes := plugins.Registry("recipe"))
    (path := tmp_path / "r.yaml").write_text("title: t\n")
    for name in ("train/align", "nano/align", "nano/only"):
        recipes.register(name, path, plugins.OWN)
    # The short names of mblip's own recipes are theirs, also those that are ambiguous.
    for name in ("train/only", "data/align", "train/foreign"):
        recipes.register(name, tmp_path / "foreign.yaml", "foreign 1.0")
    full = ["data/align", "nano/align", "nano/only", "train/align", "train/foreign", "train/only"]
    assert sorted(shipped_recipes()) == sorted([*full, "foreign", "only"])
    assert find_recipe("only") == find_recipe("nano/only.yaml") == path != find_recipe("foreign")
    with pytest.raises(InputError, match=r"no recipe file or shipped recipe 'onli'; did you mean 'only'\?"):
        find_recipe("onli")
    with pytest.raises(InputError, match="no recipe file or shipped recipe"):
        find_recipe("x" * 5000)


@pytest.mark.parametrize("kind", [AllocationSection, MixSection, PhaseSection, TextRecipe, EvalRecipe])
def test_recipes_name_languages_as_people_do(kind: type[BaseModel]) -> None:
    needed = {"steps": 1, "tasks": {}, "title": "t", "phases": (), "benchmarks": ()}
    needed = {field: value for field, value in needed.items() if field in kind.model_fields and kind is not MixSection}
    made = kind(**needed, languages=["Swahili", "de_DE.UTF-8", "chi", "he", "no", "Français", "sr-Cyrl-RS"])
    assert made.languages == ("sw", "de", "zh", "iw", "no", "fr", "sr")  # type: ignore[attr-defined]
    said = r"unknown language 'Swahilli'; did you mean 'sw' .Swahili.\? mblip languages lists all 96 \["
    with pytest.raises(ValidationError, match=said):
        kind(**needed, languages=["Swahilli"])


def test_other_fields_that_name_languages() -> None:
    section = AllocationSection(exclude_languages=("heb",), task_languages={"vqa": ("ger", "deu", "Kiswahili")})
    assert (section.exclude_languages, section.task_languages) == (("iw",), {"vqa": ("de", "de", "sw")})
    assert MixSection(exclude_languages=("zh-Hant-TW",)).exclude_languages == ("zh",)


def test_the_same_languages_are_the_same_recipe(tmp_path: Path) -> None:
    def recipe(languages: str) -> EvalRecipe:
        path = tmp_path / "e.yaml"
        path.write_text(f"title: t\nbenchmarks: [xgqa]\nlanguages: {languages}\n", encoding="utf-8")
        return load_recipe(EvalRecipe, path)

    assert hash_recipe(recipe("[Swahili, no]")) == hash_recipe(recipe("[swa, nb]"))
    with pytest.raises(
        InputError, match=r"e.yaml: field 'languages.1': unknown language 'Klingon'; mblip languages lists"
    ):
        recipe("[de, Klingon]")


@pytest.mark.parametrize(
    ("on_gpu", "expected"), [(True, ("bf16", ("llm",), "int8")), (False, ("fp32", (), "none"))], ids=["GPU", "CPU"]
)
def test_auto_is_what_is_fastest_on_the_machine(on_gpu: bool, expected: tuple[object, ...]) -> None:
    recipe = resolve_auto(load_recipe(TrainRecipe, "finetune_own"), on_gpu)
    assert (recipe.precision, recipe.checkpointing, recipe.model.quantization) == expected


@pytest.mark.parametrize("on_gpu", [True, False])
def test_what_is_set_stays_as_it_is_set(on_gpu: bool) -> None:
    changes = ("precision=bf16", "checkpointing=[vision]", "model.quantization=nf4")
    recipe = load_recipe(TrainRecipe, "finetune_own", changes)
    assert resolve_auto(recipe, on_gpu) == recipe


@pytest.mark.parametrize(("first", "now", "value"), [
    ("translation.never_shown", "translation.held_out", "0.25"),
    ("translation.short_answers.least", "translation.short_answers.min_count", "7"),
    ("allocation.apart", "allocation.disjoint", "[[vqa, caption]]"),
])  # fmt: skip
def test_a_renamed_field_is_read_by_its_former_name_too_and_hashed_alike(
    first: str, now: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    new = load_recipe(DataRecipe, "data/paper_v2", (f"{now}={value}",))
    assert not caplog.records
    old = load_recipe(DataRecipe, "data/paper_v2", (f"{first}={value}",))
    assert (new, mix_hash(new)) == (old, mix_hash(old)) != (load_recipe(DataRecipe, "data/paper_v2"), "")
    assert f"'{first.rsplit('.')[-1]}' is now named '{now.rsplit('.')[-1]}'" in caplog.text


def test_hashes_keep_the_first_names_of_fields() -> None:
    """Mixes that were built before a field was renamed are found."""
    section = load_recipe(DataRecipe, "data/nano_scenes").model_dump(mode="json", by_alias=True)
    assert {"never_shown"} <= section["translation"].keys() >= {"short_answers"}
    assert "least" in section["translation"]["short_answers"] and "apart" in section["allocation"]
