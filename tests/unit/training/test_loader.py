from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mblip.config import SourceSection, TrainRecipe
from mblip.errors import InputError
from mblip.models import load_vision_llm
from mblip.models.vision_llm import VisionLLM
from mblip.nano.scenes import Scene, render
from mblip.schema import Instruction
from mblip.storage import ShardWriter, read_jsonl, read_manifest, write_manifest
from mblip.training.checkpoints import save_checkpoint
from mblip.training.loader import TrainLoader, prepare_mix, unreadable_pictures
from mblip.training.run import train

Make = Callable[..., TrainRecipe]


@pytest.fixture(scope="module")
def vlm(aligning: Make, tmp_path_factory: pytest.TempPathFactory) -> VisionLLM:
    folder = tmp_path_factory.mktemp("untrained")
    train(aligning("optim.steps=0"), folder)
    return load_vision_llm(folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 pictures with two captions each, as a person may have them."""
    folder = tmp_path / "photos"
    folder.mkdir()
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "caption"])
        for number in range(24):
            picture = Image.fromarray(np.array(render(Scene((("fox", number % 4),), number)))).resize((640, 480))
            picture.save(folder / f"{number}.jpg")
            writer.writerow([f"{number}.jpg", f"mbweha {number}"])
            writer.writerow([f"{number}.jpg", f"mbweha mdogo {number}"])
    return folder


def own(aligning: Make, photos: Path, *overrides: str) -> TrainRecipe:
    source = SourceSection(
        name="own", reader="table",
        options={
            "path": str(photos / "captions.csv"), "columns": {"image": "file", "caption": "caption"}, "task": "caption",
            "licence": "mine", "language": "Swahili",
        },
    )  # fmt: skip
    recipe = aligning("data.mix=", "data.tasks=[]", f"data.images={photos}", "optim.global_batch=8", *overrides)
    return recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": source})})


def feed(recipe: TrainRecipe, vlm: VisionLLM, directory: Path, rank: int = 0, ranks: int = 1) -> TrainLoader:
    return TrainLoader(recipe, prepare_mix(recipe, directory), directory, vlm, rank, ranks)


def test_a_folder_and_a_csv_become_batches_that_encode_each_picture_once(
    aligning: Make, photos: Path, vlm: VisionLLM, tmp_path: Path
) -> None:
    found = feed(own(aligning, photos, "optim.micro_batch=4"), vlm, tmp_path / "run")
    assert found.steps_per_epoch == 6
    batches = found.micro_batches(0)
    assert [len(batch["labels"]) for batch in batches] == [4, 4]
    assert [len(batch["pixel_values"]) for batch in batches] == [2, 2]
    manifest = (tmp_path / "run/mix/manifest.json").read_text()
    assert '"sw": 48' in manifest


def test_a_step_is_the_same_for_any_number_of_processes(
    aligning: Make, photos: Path, vlm: VisionLLM, tmp_path: Path
) -> None:
    recipe = own(aligning, photos, "optim.micro_batch=4", "data.crop_scale=[0.5,1]", "data.flip=true")
    whole = feed(recipe, vlm, tmp_path).micro_batches(3)
    shared = [batch for rank in (0, 1) for batch in feed(recipe, vlm, tmp_path, rank, 2).micro_batches(3)]

    def rows(batches: list[dict[str, torch.Tensor]]) -> set[tuple[float, ...]]:
        return {
            (float(batch["pixel_values"][index[0]].sum()), *(x for x in ids.tolist() if x not in (0, -100)))
            for batch in batches
            for index, ids in zip(batch["image_index"], batch["labels"], strict=True)
        }

    assert rows(whole) == rows(shared) and len(rows(whole)) == 8
    with pytest.raises(InputError, match="8 is not a multiple of 3 processes"):
        feed(recipe, vlm, tmp_path, 0, 3)


def test_unreadable_pictures_are_skipped_counted_and_listed_and_stop_the_run_past_their_share(
    aligning: Make, photos: Path, vlm: VisionLLM, tmp_path: Path
) -> None:
    (photos / "3.jpg").write_bytes(b"")
    (photos / "4.jpg").unlink()
    recipe = own(aligning, photos, "data.max_unreadable=0.1", "optim.steps=6")
    last = train(recipe, tmp_path / "run")
    listed = {row["image"]: row["reason"] for row in read_jsonl(tmp_path / "run/unreadable.jsonl")}
    assert set(listed) == {"3.jpg", "4.jpg"} and "empty" in listed["3.jpg"]
    assert last["unreadable_images"] == 2
    with pytest.raises(InputError, match=r"2 of \d+ images cannot be read.*data\.max_unreadable"):
        train(own(aligning, photos, "data.max_unreadable=0.05", "optim.steps=6"), tmp_path / "strict")


def test_a_process_whose_pictures_are_all_missing_goes_along_and_teaches_nothing(
    aligning: Make, photos: Path, vlm: VisionLLM, tmp_path: Path
) -> None:
    recipe = own(aligning, photos, "optim.micro_batch=2", "data.max_unreadable=1")
    found = feed(recipe, vlm, tmp_path, 0, 2)
    key = found._instructions(0)[0][0].images[0].partition("/")[2]
    (photos / key).unlink()
    batches = found.micro_batches(0)
    assert len(batches) == 2
    assert [int((batch["labels"] != -100).any()) for batch in batches] == [1, 0]
    for picture in photos.glob("*.jpg"):
        picture.unlink()
    with pytest.raises(InputError, match=r"none of the pictures of step 2 can be read, such as '[0-9]+\.jpg'"):
        found.micro_batches(1)


def test_every_batch_holds_its_share_of_the_replayed_mix(
    aligning: Make, photos: Path, vlm: VisionLLM, mix: Path, tmp_path: Path
) -> None:
    replay = (f"data.replay={mix}", "data.replay_images=nano:scenes", "data.replay_share=0.25")
    found = feed(own(aligning, photos, *replay), vlm, tmp_path)
    for step in range(12):
        sources = [row.source for part in found._instructions(step) for row in part]
        assert (sources.count("own"), sources.count("scenes")) == (6, 2)
    assert found.steps_per_epoch == 8  # of one's own texts
    assert len(found.micro_batches(0)[0]["labels"]) == 8


def test_two_pictures_a_text(aligning: Make, vlm: VisionLLM, tmp_path: Path) -> None:
    keys = [Scene((("fox", 0),), i).key for i in range(8)]
    rows = [
        Instruction(f"p/{n}", "p", "image_pair", (keys[n // 2], keys[4 + n // 2]), "Both?", "yes", "en", "en")
        for n in range(8)
    ]
    with ShardWriter(tmp_path / "mix", Instruction) as writer:
        writer.extend(rows)
    write_manifest(tmp_path / "mix", Instruction, seed=0, recipe_hash="x", licences={"p": "MIT"})
    recipe = aligning(f"data.mix={tmp_path / 'mix'}", "data.tasks=[]", "optim.global_batch=8", "optim.micro_batch=4")
    batches = feed(recipe, vlm, tmp_path).micro_batches(0)
    assert [tuple(batch["image_index"].shape) for batch in batches] == [(4, 2), (4, 2)]
    assert [len(batch["pixel_values"]) for batch in batches] == [4, 4]
    placeholders = (batches[0]["input_ids"] == vlm.layout.image_token_id).sum(1)
    assert set(placeholders.tolist()) == {2 * vlm.container.tokens_per_image}
    assert train(recipe, tmp_path / "run")["step"] == 4


def test_the_recipe_names_its_data(aligning: Make, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"set one of data\.mix .* and data\.source"):
        train(aligning("data.mix="), tmp_path / "a")
    (tmp_path / "empty").mkdir()
    for folder, told in (("empty", r"manifest\.json"), ("nowhere", "there is no mix .*nowhere: make it")):
        with pytest.raises(InputError, match=told):
            train(aligning(f"data.mix={tmp_path / folder}"), tmp_path / "b")
    with pytest.raises(InputError, match=r"^data\.images: 'nowhere' is not an image store"):
        train(aligning("data.images=nowhere"), tmp_path / "c")
    with pytest.raises(InputError, match=r"^data\.images: '' is not an image store"):
        train(aligning("data.images="), tmp_path / "c")
    with pytest.raises(InputError, match=r"^data\.mix: .*captions\.csv is a file; name the folder of the mix"):
        train(aligning(f"data.mix={photos / 'captions.csv'}"), tmp_path / "c")
    assert not (tmp_path / "c/done.json").exists()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("data.replay=nowhere/mix", "there is no mix nowhere/mix: make it with mblip data mix"),
        ("data.images=nowhere/photos", "nowhere/photos"),
        ("data.mix=nowhere/mix", r"set one of data\.mix .* and data\.source"),
    ],
)
def test_missing_data_is_told_before_a_model_is_loaded(
    aligning: Make, photos: Path, tmp_path: Path, override: str, told: str
) -> None:
    recipe = own(aligning, photos, override, "model.vision=no/such", "model.llm=no/such")
    with pytest.raises(InputError, match=told):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pictures_that_ones_own_table_names_otherwise_are_told_at_once(
    aligning: Make, photos: Path, tmp_path: Path
) -> None:
    table = photos / "captions.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("\n1", "\nphotos/1"), encoding="utf-8")
    recipe = own(aligning, photos, "model.vision=no/such", "model.llm=no/such")
    told = r"photos lacks 11 of the 24 pictures .*'photos/(1\d?)\.jpg' \(.*captions.csv, record (\d+)\): put them there"
    with pytest.raises(InputError, match=told) as caught:
        train(recipe, tmp_path / "run")
    number, record = map(int, re.search(told, str(caught.value)).groups())  # type: ignore[union-attr]
    assert record in (2 * number + 1, 2 * number + 2)  # two rows name each picture


def test_a_path_with_backslashes_is_told_how_to_write_it(aligning: Make, photos: Path, tmp_path: Path) -> None:
    table = photos / "captions.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("\n7", "\nsub\\7"), encoding="utf-8")
    (photos / "sub").mkdir()
    (photos / "7.jpg").rename(photos / "sub" / "7.jpg")
    with pytest.raises(InputError, match=r"record 15\): its path has a backslash: write 'sub/7.jpg', or raise"):
        train(own(aligning, photos, "model.vision=no/such", "model.llm=no/such"), tmp_path / "run")


def test_a_row_of_ones_own_that_cannot_be_used_is_to_be_mended(aligning: Make, photos: Path, tmp_path: Path) -> None:
    with (photos / "captions.csv").open("a", encoding="utf-8") as file:
        file.write("1.jpg,\n")
    with pytest.raises(InputError, match=r"record 49: bad row \('caption' is blank\); correct it$"):
        train(own(aligning, photos), tmp_path / "run")
    with (photos / "captions.csv").open("a", encoding="utf-8") as file:
        file.seek(file.truncate(file.tell() - len("1.jpg,\n")))
        file.write("nowhere.jpg,mbweha\n")
    with pytest.raises(InputError, match=r"photos lacks 1 .* such as 'nowhere.jpg' \(.*captions.csv, record 49\): put"):
        train(own(aligning, photos), tmp_path / "run")
    table = photos / "captions.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("nowhere", "1"), encoding="utf-8")
    train(own(aligning, photos), tmp_path / "run")  # what was mended is what is trained on
    assert read_manifest(tmp_path / "run/mix").rows == 49
    table.write_text(table.read_text(encoding="utf-8") + "2.jpg,mbweha\n", encoding="utf-8")
    (tmp_path / "run/done.json").unlink()
    save_checkpoint(tmp_path / "run", 2, {}, {}, 1)
    with pytest.raises(InputError, match="has changed since"):  # but not of a run that has begun
        train(own(aligning, photos), tmp_path / "run")


def test_a_few_texts_are_told_what_to_lower(aligning: Make, photos: Path, mix: Path, tmp_path: Path) -> None:
    for changes, told in (
        (
            ("optim.global_batch=64",),
            r"has 48 texts to train on, fewer than the 64 of one batch: lower optim\.global_batch$",
        ),
        (
            ("validate_every=1", "validation_texts=40", "optim.global_batch=12"),
            r"has 8 texts to train on beside 40 held out, fewer than the 12 .* lower optim\.global_batch or validation_texts",
        ),
        ((f"data.replay={mix}", "data.replay_images=nano:scenes", "data.replay_share=0.01"), r"replay_share 0\.01 of"),
        ((f"data.replay={mix}", "data.replay_images=nano:scenes", "data.replay_share=0.99"), r"replay_share 0\.99 of"),
    ):
        with pytest.raises(InputError, match=told):
            train(own(aligning, photos, *changes), tmp_path / "run")


def test_pictures_held_out_that_cannot_be_read_are_counted(aligning: Make, photos: Path, tmp_path: Path) -> None:
    for picture in photos.glob("*.jpg"):
        if int(picture.stem) % 3 == 0:
            picture.write_bytes(b"")
    validated = ("validate_every=4", "validation_texts=16", "samples=2", "data.max_unreadable=1")
    train(own(aligning, photos, *validated), tmp_path / "run")
    [row] = read_jsonl(tmp_path / "run/validation.jsonl")
    assert row["left_out"] > 0 and row["texts"] > 0 and row["texts"] + row["left_out"] >= 16
    for picture in photos.glob("*.jpg"):
        picture.write_bytes(b"")
    with pytest.raises(InputError, match="none of the pictures held out for validation can be read"):
        train(own(aligning, photos, *validated), tmp_path / "none")


def test_each_process_lists_the_pictures_that_it_could_not_read(
    aligning: Make, photos: Path, vlm: VisionLLM, tmp_path: Path
) -> None:
    recipe = own(aligning, photos, "data.max_unreadable=1")
    parts = [feed(recipe, vlm, tmp_path, rank, 2) for rank in range(2)]
    bad = [part._instructions(0)[0][0].images[0].partition("/")[2] for part in parts]
    for picture in bad:
        (photos / picture).write_bytes(b"")
    for part in parts:
        part.micro_batches(0)
    assert len(set(bad)) == 2 and unreadable_pictures(tmp_path) == set(bad)


def test_a_missing_table_is_told_with_a_remedy(aligning: Make, photos: Path, tmp_path: Path) -> None:
    (photos / "captions.csv").unlink()
    with pytest.raises(InputError, match=r"no .*captions\.csv: put it there, or .* data\.source\.options\.path="):
        train(own(aligning, photos), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_cannot_begin_leaves_a_folder_as_it_was(aligning: Make, photos: Path, tmp_path: Path) -> None:
    there = sorted(path.name for path in photos.iterdir())
    with pytest.raises(InputError, match="nowhere/mix"):
        train(own(aligning, photos, "data.replay=nowhere/mix"), photos)
    assert sorted(path.name for path in photos.iterdir()) == there


def test_a_table_that_changed_after_the_run_is_not_taken_for_learnt(
    aligning: Make, photos: Path, tmp_path: Path
) -> None:
    recipe, run, table = own(aligning, photos, "optim.steps=1"), tmp_path / "run", photos / "captions.csv"
    ended = train(recipe, run)
    before = table.read_bytes()
    table.write_bytes(before + b"1.jpg,another\n")
    with pytest.raises(
        InputError, match=r"captions\.csv has changed since the run .*run ended: name another directory"
    ):
        train(recipe, run)
    table.write_bytes(before)  # the same content at another time
    assert train(recipe, run) == ended
    table.unlink()
    assert train(recipe, run) == ended  # a finished run needs no table
