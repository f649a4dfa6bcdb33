"""Typed recipes: a YAML file plus dotted overrides, validated, and saved in full with every run."""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import Field, ValidationError

from mblip import plugins
from mblip.errors import InputError, cannot_read, leads_nowhere, nearest
from mblip.eval_recipe import EvalRecipe as EvalRecipe
from mblip.eval_recipe import PictureReading
from mblip.languages import LanguageCode
from mblip.model_recipe import LoraSection as LoraSection
from mblip.model_recipe import ModelSection as ModelSection
from mblip.model_recipe import PartsSection as PartsSection
from mblip.more_languages import parse_languages
from mblip.settings import Identity, Section, another_kind, decisive, dump_yaml, explain, override_field, parse_yaml
from mblip.settings import Recipe as Recipe

Share = Annotated[float, Field(gt=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
R = TypeVar("R", bound="Recipe")


class AllocationSection(Section):
    """The allocation of examples to languages; counts add up exactly (largest remainder)."""

    identity: ClassVar[Identity] = Identity.of(
        "method temperature floor english_share languages exclude_languages task_languages disjoint"
    )

    method: Literal["mc4", "uniform"] = "mc4"
    temperature: float = Field(default=1.0, gt=0, description="flattens mC4's shares to share ** (1 / temperature)")
    floor: int = Field(
        default=0, ge=0, description="minimum number of examples per language, in every task of every source"
    )
    english_share: float | None = Field(
        default=None, ge=0, le=1, description="share of English; null: as the method gives"
    )
    languages: tuple[LanguageCode, ...] = Field(default=(), description="by any name or code; empty for all 96")
    exclude_languages: tuple[LanguageCode, ...] = ()
    task_languages: dict[str, tuple[LanguageCode, ...]] = Field(default={}, description="by task: only these languages")
    disjoint: tuple[tuple[str, str], ...] = Field(
        default=(),
        serialization_alias="apart",
        description="pairs of tasks made from the same rows, which get different languages for each row",
    )


class SourceSection(Section):
    """One raw corpus. ``options`` go to its reader in ``mblip.corpora``; ``allocation`` replaces the recipe's."""

    identity: ClassVar[Identity] = Identity.of("name reader options images decode_images translate allocation")

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="first part of every id, and the folder of its shards"
    )
    reader: str
    options: dict[str, Any] = Field(default={}, description="options of the reader")
    images: str = Field(default="", description="image store; if given, rows without their image are bad")
    decode_images: bool = Field(
        default=False, description="with images: also decode each image, to find damaged ones early"
    )
    translate: bool = Field(default=True, description="false if the texts are already in their languages")
    allocation: AllocationSection | None = None


class MixSection(Section):
    """The training data: a mix directory (Parquet shards + manifest) and the store of its images.

    ``source``, instead of ``mix``, is one corpus or your own table, whose texts are used unchanged.
    """

    identity: ClassVar[Identity] = Identity.of(
        "source templates images replay_images replay_share tasks languages exclude_languages max_prompt_tokens "
        "max_answer_tokens end_cut_answers crop_scale flip pictures text_share",
        content="mix replay",
        free="max_unreadable workers keep_features features_gib",
    )

    mix: str = ""
    source: SourceSection | None = None
    templates: tuple[str, ...] = Field(
        default=("paper", "benchmarks"), description="templates for source; a mix uses those of its own recipe"
    )
    images: str = ""
    replay: str = Field(default="", description="an earlier mix; its texts prevent forgetting")
    replay_images: str = Field(default="", description="image store of the replayed mix")
    replay_share: float = Field(default=0.5, gt=0, lt=1, description="share of replayed texts in each batch")
    text_share: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="share of rows without a picture in every batch; by default their share in the mix",
    )
    tasks: tuple[str, ...] = Field(default=(), description="only these tasks; empty for all")
    languages: tuple[LanguageCode, ...] = Field(default=(), description="only these answer languages; empty for all")
    exclude_languages: tuple[LanguageCode, ...] = ()
    max_prompt_tokens: int = Field(default=128, gt=0)
    max_answer_tokens: int = Field(default=128, gt=0)
    end_cut_answers: bool = Field(
        default=False, description="give truncated answers an end token too, as in the original"
    )
    max_unreadable: float = Field(default=0.01, ge=0, le=1, description="share of unreadable images that stops the run")
    workers: int = Field(
        default=1,
        ge=0,
        description="threads that read and crop pictures ahead; their number does not change the result",
    )
    crop_scale: tuple[Share, Share] = Field(
        default=(0.5, 1.0), description="smallest and largest crop, as a share of the area"
    )
    flip: bool = False
    keep_features: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="keep a frozen vision encoder's output in memory, for pictures that are repeated and not augmented; "
        "auto: if all of it fits; on: as much as fits",
    )
    features_gib: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="memory for kept features, on one machine; null: half of the free memory",
    )
    pictures: PictureReading = "correct"


class OptimSection(Section):
    """AdamW with a cosine schedule and linear warm-up. Batches are counted in texts, not in images."""

    identity: ClassVar[Identity] = Identity.of(
        "lr projection_lr lora_lr weight_decay betas clip warmup_steps min_lr_share epochs steps global_batch profile",
        free="micro_batch",  # changes only the rounding, so a run that is out of memory may change it and continue
    )

    lr: float = Field(ge=0, description="learning rate of Q-Former, queries and projection")
    projection_lr: float | None = Field(default=None, ge=0, description="the projection's own learning rate")
    lora_lr: float = Field(default=2e-4, ge=0)
    weight_decay: float = Field(default=0.1, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    clip: float = Field(
        default=1.0, gt=0, allow_inf_nan=True, description="gradients are clipped to this norm; .inf for no clipping"
    )
    warmup_steps: int = Field(default=1000, ge=0)
    min_lr_share: float = Field(default=0.0, ge=0, le=1, description="the cosine's floor, as a share of the peak")
    epochs: float | None = Field(default=None, gt=0, le=1e9, allow_inf_nan=False)
    steps: int | None = Field(default=None, ge=0)
    global_batch: int = Field(default=128, gt=0, description="texts per step, over all processes")
    micro_batch: int = Field(
        default=8, gt=0, description="texts processed at once, which determine the memory of a step"
    )
    profile: Literal["correct", "original"] = Field(
        default="correct", description="original: the original's weight decay, warm-up and mean of micro-batches"
    )

    @property
    def own_identity(self) -> Identity:
        """With the original's mean of micro-batches, their size affects the result too."""
        known = self.identity
        return known if self.profile == "correct" else Identity((*known.decides, *known.free))


class TrainRecipe(Recipe):
    """``mblip train``: warm-up, alignment or fine-tuning of a vision-LLM."""

    # checkpointing and sharding change only the rounding and the units that dropout hits. Texts are held out of the mix
    # only if there is a validation, at any interval.
    identity: ClassVar[Identity] = Identity.of(
        "seed kind stage model parts lora data optim precision validation_texts",
        whether="validate_every",
        free="title paper more_languages checkpointing sharding speedups samples tracker checkpoint_every "
        "keep_checkpoints log_every",
    )

    trained_by: ClassVar[str] = "mblip.training.align:train_vision_llm"

    kind: Literal["train"] = "train"
    stage: Literal["warmup", "align", "finetune"]
    model: ModelSection
    parts: PartsSection = PartsSection()
    lora: LoraSection = LoraSection()
    data: MixSection = MixSection()
    optim: OptimSection
    precision: Literal["fp32", "bf16", "auto"] = Field(default="bf16", description="auto: bf16 on a GPU, fp32 on a CPU")
    checkpointing: tuple[Literal["vision", "qformer", "llm", "auto"], ...] = Field(
        default=(),
        description="parts whose layers are recomputed for the gradient; auto: llm on a GPU, none on a CPU",
    )
    speedups: tuple[Literal["packed_rows", "shared_beams", "shared_prefix", "fused_layers"], ...] = Field(
        default=("packed_rows", "shared_beams", "shared_prefix", "fused_layers"),
        description="those that the model can use are turned on; [] for none",
    )
    sharding: Literal["none", "full"] = Field(default="none", description="full: over processes; none: a copy for each")
    validate_every: int = Field(default=0, ge=0, description="steps between validations; 0 for none")
    validation_texts: int = Field(default=512, gt=0, description="number of texts held out of the mix, by picture")
    samples: int = Field(
        default=16, ge=0, description="number of held-out texts for which the model's answers are shown"
    )
    tracker: Literal["tensorboard", "wandb", "trackio", "none"] = "tensorboard"
    checkpoint_every: int = Field(default=1000, gt=0)
    keep_checkpoints: int = Field(default=2, gt=0)
    log_every: int = Field(default=10, gt=0)


class FilterSection(Section):
    """Filters for translations; 0 turns a threshold off."""

    copied_words: int = Field(
        default=4, ge=0, description="texts with at least this many words must not come back unchanged"
    )
    script_share: float = Field(
        default=0.5, ge=0, le=1, description="minimum share of letters in the language's script"
    )
    language_words: int = Field(
        default=0,
        ge=0,
        description="texts with at least this many words must be in the language, as detected by lingua (75 languages; slow)",
    )
    language_confidence: float = Field(
        default=0.1, ge=0, le=1, description="minimum confidence of lingua that the text is in the language"
    )
    length_ratio: float = Field(
        default=4.0,
        ge=0,
        description="largest ratio of the translation's length to the source's, in characters, or its inverse",
    )
    repeats: int = Field(
        default=4, ge=0, description="a phrase must not occur this many times in a row, and a sentence not twice"
    )
    characters: bool = Field(default=True, description="require letters, refuse control and replacement characters")
    numbers: bool = Field(default=True, description="digits, {fields}, <tags> and addresses must all be kept")


class ShortAnswerSection(Section):
    """Short answers are translated only if that is safe (paper, section 3.2); else they stay English."""

    tasks: tuple[str, ...] = ()
    min_count: int = Field(
        default=15, ge=1, serialization_alias="least", description="answers that occur less often stay English"
    )
    share: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="share of examples with such an answer whose prompt asks for the translated answer",
    )


class TranslationSection(Section):
    """The translation of examples that were not allocated to English, and held-out pairs."""

    engine: str = "lexicon"
    options: dict[str, Any] = Field(default={}, description="options of the engine")
    filters: FilterSection = FilterSection()
    short_answers: ShortAnswerSection = ShortAnswerSection()
    rows_per_task: int = Field(default=10_240, gt=0, multiple_of=1024, description="examples per task")
    max_failed: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="stop if the engine fails on a larger share of the texts, and on at least 20 of them",
    )
    held_out: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        serialization_alias="never_shown",
        description="share of (word, language) pairs to hold out, to measure transfer; the corpus must record its words",
    )


class DataRecipe(Recipe):
    """``mblip data``: from raw English corpora to an instruction mix."""

    kind: Literal["data"] = "data"
    sources: tuple[SourceSection, ...]
    bad_rows: Literal["error", "drop"] = Field(
        default="error",
        description="error: a raw row that cannot be used stops the run; drop: it is left out and counted",
    )
    allocation: AllocationSection = AllocationSection()
    translation: TranslationSection = TranslationSection()
    templates: tuple[str, ...] = Field(default=("paper",), description="shipped template files, or paths of your own")
    translated_templates: bool = Field(default=False, description="also use prompts translated by the engine, in turn")
    exclude_images: tuple[str, ...] = Field(
        default=(), description="files that list evaluation images, which are left out"
    )
    images: str = Field(
        default="",
        description="image store of the mix; examples whose image is missing are left out before translation",
    )
    profile: Literal["correct", "original"] = Field(
        default="correct", description="original: the names of languages in the original's prompts"
    )


def load_recipe(kind: type[R], source: str | Path, overrides: tuple[str, ...] = ()) -> R:
    """Read a recipe by the name of a shipped one or by path, apply ``a.b=value`` overrides and validate it.

    Raises:
        InputError: There is no such recipe, it is not YAML, or a field is unknown, missing or of the wrong type; the
            message names the field and the nearest valid one.
    """
    path = find_recipe(source)
    try:
        data = parse_yaml(_read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path} must hold a mapping of recipe fields")
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise InputError(f"override {override!r} must read field=value, for example optim.lr=1e-5")
        override_field(data, key.split("."), value, override)
    if data.get("more_languages"):  # resolved here, because the file may be in the recipe's folder
        data["more_languages"] = parse_languages(data["more_languages"], f"{path}: more_languages", path.parent)
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{path}{another_kind(kind, data) or f': {explain(kind, error)}'}") from error


plugins.recipe_kinds.register("train", TrainRecipe, plugins.OWN)


def load_train_recipe(source: str | Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a training recipe of the registered kind in its field ``kind`` (see :func:`load_recipe`).

    Raises:
        InputError: As in :func:`load_recipe`, or the kind is unknown.
    """
    path = find_recipe(source)
    written = re.search(r"^kind: *([\w.+-]+)", _read_text(path), re.MULTILINE)
    kind = written[1] if written else "train"
    if kind in ("data", "eval"):
        kind = "train"  # its check reports the recipe's purpose
    if kind not in plugins.recipe_kinds:
        hint = plugins.recipe_kinds.hint(kind)
        raise InputError(f"{path}: field 'kind' is {kind!r}, which mblip train does not run{hint}")
    recipe_class: type[Recipe] = plugins.recipe_kinds[kind]
    return load_recipe(recipe_class, source, overrides)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        from mblip.storage import not_utf8  # slow to import, and rarely needed

        raise InputError(f"{path} is not readable YAML: {not_utf8(path)}") from error
    except OSError as error:
        raise cannot_read(path, error) from error


_RECIPES = Path(str(resources.files("mblip"))) / "recipes"
for _path in sorted(_RECIPES.glob("*/*.yaml")):
    plugins.recipes.register(_path.relative_to(_RECIPES).with_suffix("").as_posix(), _path, plugins.OWN)


def find_recipe(source: str | Path) -> Path:
    """The path of a recipe given by path or by the name of a shipped one.

    Raises:
        InputError: There is neither; the message names the nearest shipped recipe.
    """
    with suppress(OSError):  # the name is too long for the file system
        if Path(source).is_file():
            return Path(source)
    shipped = shipped_recipes()
    name = str(source).removesuffix(".yaml")
    if name in shipped:
        return shipped[name]
    if name in plugins.recipes:  # registered, but broken: raises the reason
        plugins.recipes[name]
    if hint := leads_nowhere(source):
        raise InputError(f"there is no recipe {str(source)!r}{hint}")
    if os.path.isdir(source):  # noqa: PTH112  # False for a name that the system refuses
        raise InputError(f"{source} is a folder; name a recipe, such as {Path(source, 'recipe.yaml')}")
    short = [full for full in shipped if "/" not in full or full.rpartition("/")[2] not in shipped]
    raise InputError(f"no recipe file or shipped recipe {str(source)!r}{nearest(name, short)}{plugins.lacking()}")


def shipped_recipes() -> dict[str, Path]:
    """Every recipe of mblip and of other packages, as ``folder/stem`` and, if it is unambiguous, as ``stem``.

    Short names of mblip's own recipes take precedence over those of other packages.
    """
    names: dict[str, Path] = dict(sorted(plugins.recipes.usable()))
    stems = {name: name.rpartition("/")[2] for name in names}
    own = {name: stem for name, stem in stems.items() if plugins.OWN in plugins.recipes.owners(name)}
    rivals = {name: list((own if name in own else stems).values()) for name in names}
    return names | {stem: names[name] for name, stem in stems.items() if rivals[name].count(stem) == 1}


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe as YAML, with all defaults."""
    from mblip.storage import atomic_write  # slow to import, and needed only by runs

    with atomic_write(path, "w") as file:
        file.write(dump_yaml(recipe.model_dump(mode="json")))


def hash_recipe(recipe: Recipe) -> str:
    """SHA-256 of the settings that decide the result, independent of how they were given.

    Settings with their default value do not count, so a field that is added later does not change older hashes.
    """
    settings = decisive(recipe, defaults=False) | {"kind": type(recipe).__name__}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
