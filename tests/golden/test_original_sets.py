"""What the original mBLIP scored, by small files in the layout of the real ones: sets, pictures and metrics of ``original``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests import evaluation_data as data
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.config import EvalRecipe
from mblip.errors import InputError
from mblip.evaluation.benchmark import Item, Options
from mblip.evaluation.benchmarks import BENCHMARKS, EVALUATED
from mblip.evaluation.benchmarks.pope import BENCHMARK as POPE
from mblip.evaluation.benchmarks.pope import score as score_pope
from mblip.evaluation.evaluate import evaluate
from mblip.evaluation.results import read_run
from mblip.evaluation.sets import CHAIR_IMAGES, VQA_QUESTIONS, choose_photos, choose_sets
from mblip.evaluation.suites import load_suite
from mblip.evaluation.tasks import Task, load_tasks
from mblip.schema import Score

COCO = "COCO_val2014_{:012d}.jpg"


def photo(number: int, split: str) -> dict[str, Any]:
    name = COCO.format(number)
    return {
        "cocoid": number, "filepath": "val2014", "filename": name, "split": split,
        "sentences": [{"raw": f"A dog number {number}."}],
    }  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Official files and, beside them, those that the original read."""
    folder = data.everything(tmp_path / "data")
    for code in ("en", "de"):
        rows = {str(n): {"question": f"{code} {n}?", "imageId": "n9", "answer": "yes"} for n in (91, 92)}
        data.write(folder / f"xGQA/annotations/few_shot/{code}/test.json", rows)
        data.write(folder / f"xGQA/annotations/few_shot/{code}/dev.json", {"1": rows["91"]})
    pairs = [{"identifier": f"test1-4-{n}-0", "sentence": "Two cats.", "label": "True"} for n in (0, 1)]
    data.write(folder / "nlvr2/annotations/test.jsonl", pairs)
    data.xflickrco(folder, "en")
    captions = [
        {"sentences": ["A man.", "Someone."], "id": str(n), "img_path": f"{n}.jpg"} for n in (1007129816, 1009434119)
    ]
    data.write(folder / "flickr30k/annotations/test_ann.jsonl", captions)
    data.write(folder / "flickr30k/annotations/valid_ann.jsonl", captions[:1])
    photos = [photo(9, "train"), photo(8, "restval"), photo(7, "test"), photo(6, "val"), photo(5, "restval")]
    data.write(folder / "coco/dataset_coco.json", {"images": photos, "dataset": "coco"})
    objects = [{"image": COCO.format(n), "objects": ["dog"]} for n in (5, 6, 7, 8, 4)]
    lines = "".join(json.dumps(row) + "\n" for row in objects)
    (folder / "pope/coco_ground_truth_segmentation.json").write_text(lines)
    return folder


def tasks(root: Path, name: str, language: str, sets: str) -> Task:
    (task,) = load_tasks([EVALUATED[name]], root, [language], pictures=False, sets=sets)
    return task


@pytest.mark.parametrize(
    ("name", "language", "official", "paper"),
    [
        ("xgqa", "de", ["1", "2", "3"], ["91", "92"]),
        ("xgqa", "en", ["1", "2", "3"], ["91", "92"]),
        ("nlvr2", "en", ["dev-1-0-0", "dev-1-1-0"], ["test1-4-0-0", "test1-4-1-0"]),
        ("xflickrco", "en", ["11.jpg", COCO.format(7)], ["1007129816.jpg", "1009434119.jpg"]),
        ("xflickrco", "de", ["11.jpg", COCO.format(7)], ["11.jpg", COCO.format(7)]),
        ("coco", "en", ["7"], ["7"]),
        ("chair_short", "en", [COCO.format(n) for n in (5, 6, 7, 8, 4)], [COCO.format(n) for n in (8, 6, 5)]),
        ("chair_long", "en", [COCO.format(n) for n in (5, 6, 7, 8, 4)], [COCO.format(n) for n in (8, 6, 5)]),
        ("marvl", "sw", ["sw-0", "sw-1"], ["sw-0", "sw-1"]),
        ("vqa", "en", ["70", "71"], ["70", "71"]),
        ("pope_random", "en", ["1", "2"], ["1", "2"]),
    ],
)
def test_the_items_of_both_sets(root: Path, name: str, language: str, official: list[str], paper: list[str]) -> None:
    for sets, wanted in (("official", official), ("paper", paper)):
        assert [item.id for item in tasks(root, name, language, sets).items] == wanted


def test_pictures_of_what_the_paper_has_elsewhere(root: Path) -> None:
    assert tasks(root, "nlvr2", "en", "paper").items[0].images == ("test1-4-0-img0.png", "test1-4-0-img1.png")
    assert tasks(root, "xflickrco", "en", "paper").items[0].gold == ("A man.", "Someone.")


def test_vqa_ends_after_its_first_5000_questions(root: Path) -> None:
    assert (VQA_QUESTIONS, CHAIR_IMAGES) == (5000, 1000)
    answers = [{"answer": "dog", "answer_confidence": "yes", "answer_id": n} for n in range(1, 11)]
    numbers = range(9000, 9000 - 5003, -1)  # the order of the file counts, not that of the numbers
    rows = [{"question_id": n, "image_id": 7, "answers": answers} for n in numbers]
    questions = [{"question_id": n, "image_id": 7, "question": "What?"} for n in numbers]
    data.write(root / "vqa/v2_mscoco_val2014_annotations.json", {"data_subtype": "val2014", "annotations": rows})
    data.write(root / "vqa/v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    assert len(tasks(root, "vqa", "en", "official").items) == 5003
    found = tasks(root, "vqa", "en", "paper")
    assert [item.id for item in found.items] == [str(n) for n in numbers[:5000]]
    assert found.items_in_data == 5000


def test_chair_takes_the_first_of_what_is_neither_train_nor_test(tmp_path: Path) -> None:
    splits = ("train", "val", "restval", "test", "restval", "val", "val")
    path = data.write(tmp_path / "k.json", {"images": [photo(n, split) for n, split in enumerate(splits)]})
    items = [Item(COCO.format(n), (COCO.format(n),), "", ("dog",)) for n in reversed(range(7))]
    assert [item.id for item in choose_photos(items, path, 3)] == [COCO.format(n) for n in (1, 2, 4)]
    assert len(choose_photos(items, path)) == 5
    with pytest.raises(InputError, match=r"k\.json, record 3: 'COCO_.*002.jpg' has no objects in coco_ground_truth"):
        choose_photos([item for item in items if item.id != COCO.format(2)], path)


@pytest.mark.parametrize("missing", ["few_shot/de/test.json", "nlvr2/annotations/test.jsonl", "dataset_coco.json"])
def test_a_set_is_never_filled_from_the_other(root: Path, missing: str) -> None:
    for path in [p for p in root.rglob("*.json*") if p.match(missing)]:
        path.unlink()
    name, language = {"f": ("xgqa", "de"), "n": ("nlvr2", "en"), "d": ("chair_long", "en")}[missing[0]]
    with pytest.raises(InputError, match=f"looked for.*{missing.rpartition('/')[2]}"):
        tasks(root, name, language, "paper")


def test_sets_by_name() -> None:
    assert choose_sets([POPE], "official") == [POPE]
    for name in ("papers", "dev", "", "Official", "original"):
        with pytest.raises(InputError, match="unknown sets"):
            choose_sets([POPE], name)
    wrong = CliRunner().invoke(app, ["eval", "dummy", "--suite", "vqa", "--sets", "papers"])
    assert isinstance(wrong.exception, InputError) and "--sets is one of official, paper" in str(wrong.exception)


def test_run_and_fingerprint_name_the_set_and_the_default_says_nothing(root: Path) -> None:
    for name in ("nlvr2", "chair_long"):
        for sets in ("official", "paper"):
            (benchmark,) = choose_sets([EVALUATED[name]], sets)
            for task in load_tasks([benchmark], root, ["en"], pictures=False, sets=sets):
                for key in (key for item in task.items for key in item.images):
                    if not (path := root / benchmark.images[0] / key).exists():
                        data.picture(path, 0)

    def run(to: str, name: str, **settings: Any) -> Score:
        recipe = EvalRecipe(title="t", benchmarks=(name,), **settings)
        (score,) = evaluate("dummy", recipe, root, root.parent / to)
        return score

    plain = run("a", "nlvr2")
    assert not {"sets", "pictures", "chosen_by"} & set(plain.fingerprint) and plain.fingerprint["variant"] == "default"
    paper = run("b", "nlvr2", sets="paper", pictures="original", variant="mblip")
    assert {name: paper.fingerprint[name] for name in ("data", "sets", "pictures", "variant")} == {
        "data": "test.jsonl", "sets": "paper", "pictures": "original", "variant": "mblip"
    }  # fmt: skip
    assert (read_run(root.parent / "b").sets, read_run(root.parent / "b").pictures) == ("paper", "original")
    with pytest.raises(InputError, match="holds an evaluation with sets 'official', not 'paper'"):
        run("a", "nlvr2", sets="paper")
    with pytest.raises(InputError, match="holds an evaluation with pictures 'correct', not 'original'"):
        run("a", "nlvr2", pictures="original")
    photos = run("c", "chair_long", sets="paper", variant="")
    assert photos.n == 3 and photos.fingerprint["chosen_by"] == "dataset_coco.json"
    assert len(photos.fingerprint["chosen_by_sha256"]) == 64
    with pytest.raises(InputError, match=r"none of nlvr2 has a variant 'mblp'; did you mean 'mblip'"):
        run("d", "nlvr2", variant="mblp")


def test_the_switches_of_the_command_line(root: Path) -> None:
    for item in (item for sets in ("official", "paper") for item in tasks(root, "xgqa", "de", sets).items):
        data.picture(root / "gqa/images" / item.images[0], 0)
    to = root.parent / "cli"
    words = ["eval", "dummy", "--suite", "xgqa", "--languages", "de", "--data", str(root), "--to", str(to), "--json"]
    done = CliRunner().invoke(app, [*words, "--sets", "paper", "--variant", "mblip", "--pictures", "original"])
    assert done.exit_code == 0, done.exception
    (score,) = json.loads(done.stdout)
    named = {name: score["fingerprint"][name] for name in ("sets", "variant", "pictures", "data")}
    assert named == {"sets": "paper", "variant": "mblip", "pictures": "original", "data": "test.json"}
    again = CliRunner().invoke(app, words)
    assert "with sets 'paper', not 'official'" in str(again.exception)


def test_the_suite_of_the_original() -> None:
    ours, theirs = load_suite(["paper"]), load_suite(["original"])
    assert theirs.benchmarks == ours.benchmarks
    assert (theirs.sets, theirs.prompts, theirs.pictures, theirs.variant) == ("paper", "original", "original", "mblip")
    assert (ours.sets, ours.prompts, ours.pictures, ours.variant) == ("official", "paper", "correct", "")
    known = {name: benchmark.variants for name, benchmark in BENCHMARKS.items() if "mblip" in benchmark.variants}
    assert set(known) == {"xgqa", "xvnli", "marvl", "nlvr2", "vqa", *(name for name in BENCHMARKS if "pope" in name)}


# What the original's classification_evaluation makes of an answer, reckoned by hand from its code: exact, relaxed.
READINGS = {
    "yes": (True, True), "Yes.": (True, True), "YES!": (True, True), " yes\n": (True, True), '"yes"': (True, True),
    "the yes": (True, True), "yes, there is": (False, True), "Oh yes": (False, True), "yeah": (False, False),
    "true": (False, False), "yes yes": (False, True), "": (False, False), "1": (False, False), "yesterday": (False, True),
    "There is a dog, yes": (False, True), "no": (False, False), "да": (False, False),
}  # fmt: skip


@pytest.mark.parametrize("answer", READINGS)
def test_pope_as_the_original_reads_it(answer: str) -> None:
    item = Item("1", ("a.jpg",), "Is there a dog?", True)
    found = score_pope([item], [answer], Options("mblip")).metrics
    exact, relaxed = READINGS[answer]
    assert found["accuracy"] == 100.0 * exact
    assert found["relaxed"] == float(relaxed)
    assert set(found) == {"accuracy", "relaxed", "unparsed"}  # and no precision, recall, F1 or share of yes


def test_the_two_readings_of_pope_differ_in_kind() -> None:
    """Sentences are read by POPE and are wrong to the original."""
    said: Sequence[tuple[str, bool]] = [
        ("Yes, there is a dog.", True), ("No, there is not.", False), ("yes", True), ("no", False), ("Yes.", False),
        ("A dog lies on the grass.", True), ("There is no dog.", False), ("maybe", True),
    ]  # fmt: skip
    items = [Item(str(n), ("a.jpg",), "?", gold) for n, (_, gold) in enumerate(said)]
    answers = [answer for answer, _ in said]
    own, theirs = (score_pope(items, answers, Options(variant)).metrics for variant in ("default", "mblip"))
    assert own["accuracy"] == 87.5 and theirs["accuracy"] == 25.0
    assert theirs["relaxed"] == 0.5


@pytest.mark.parametrize(("answer", "default", "original"), [
    ("yes", 100, 100), ("True", 100, 0), ("1", 100, 0), ("Yes.", 100, 100), ("false", 0, 0), ("yes it is", 0, 0),
])  # fmt: skip
def test_marvl_as_the_original_reads_it(answer: str, default: float, original: float) -> None:
    item = Item("1", ("a.jpg", "b.jpg"), "?", "yes")
    for variant, wanted in (("default", default), ("mblip", original)):
        assert EVALUATED["marvl"].score([item], [answer], Options(variant)).metrics["accuracy"] == wanted


def test_pictures_are_given_to_the_model_as_they_are_stored(root: Path) -> None:
    folder = root / "nlvr2/images/dev"
    folder.mkdir(parents=True, exist_ok=True)
    turned = Image.Exif()
    turned[0x0112] = 6
    for item in tasks(root, "nlvr2", "en", "official").items:
        for key in item.images:
            Image.new("RGBA", (20, 10), (0, 0, 0, 0)).save(folder / key, "PNG", exif=turned)
    for as_stored, size, colour in ((False, (10, 20), (255, 255, 255)), (True, (20, 10), (0, 0, 0))):
        (task,) = load_tasks([EVALUATED["nlvr2"]], root, ["en"], as_stored=as_stored)
        image = task.pictures.get(task.items[0].images[0])
        assert (image.size, image.mode, image.getpixel((3, 3))) == (size, "RGB", colour)
