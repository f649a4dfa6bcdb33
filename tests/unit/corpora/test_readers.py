"""Every reader on rows of the real layout (and on the real rows where they are at hand), good and bad."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mblip import plugins
from mblip.config import DataRecipe, SourceSection
from mblip.corpora import READERS, read_source
from mblip.errors import InputError
from mblip.mixture import load_templates
from mblip.schema import Drop, Example


def _read(reader: str, bad_rows: Any = "error", images: Any = "", decode: Any = False, **options: Any) -> list[Any]:
    options = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    source = SourceSection(name="s", reader=reader, options=options, images=images, decode_images=decode)
    recipe = DataRecipe(title="t", sources=(source,), bad_rows=bad_rows)
    return list(read_source(recipe, source))


def _json(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def _lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _short(example: Example) -> tuple[str, str, tuple[str, ...], dict[str, str]]:
    return example.id, example.task, example.images, example.texts


KARPATHY = {"images": [
    {"filepath": "train2014", "filename": "COCO_train2014_000000057870.jpg", "split": "train", "cocoid": 57870,
     "sentences": [{"raw": "A restaurant. ", "sentid": 1}, {"raw": "Long tables", "sentid": 2}]},
    {"filepath": "val2014", "filename": "COCO_val2014_000000000042.jpg", "split": "restval", "cocoid": 42,
     "sentences": [{"raw": "A shoe", "sentid": 3}]},
    {"filepath": "val2014", "filename": "COCO_val2014_000000000073.jpg", "split": "test", "cocoid": 73,
     "sentences": [{"raw": "A bike", "sentid": 4}]},
], "dataset": "coco"}  # fmt: skip


def test_coco(tmp_path: Path) -> None:
    path = _json(tmp_path / "dataset_coco.json", KARPATHY)
    key = "train2014/COCO_train2014_000000057870.jpg"
    train = [
        ("s/1", "caption", (key,), {"caption": "A restaurant."}),
        ("s/2", "caption", (key,), {"caption": "Long tables"}),
    ]
    assert [_short(e) for e in _read("coco", path=path)] == train
    assert [e.id for e in _read("coco", path=path, restval=True)] == ["s/1", "s/2", "s/3"]
    assert [e.id for e in _read("coco", path=path, split="test", restval=True)] == ["s/4"]
    assert _read("coco", path=path, split="val") == []
    with pytest.raises(InputError, match="option 'split'"):
        _read("coco", path=path, split="validation")


def test_coco_real_rows(bench: Path) -> None:
    path = bench / "_derived/coco/dataset_coco.sample400.json"
    rows = json.loads(path.read_text())["images"]
    for split in ("train", "val", "test"):
        wanted = [s["raw"].strip() for row in rows if row["split"] == split for s in row["sentences"]]
        assert [e.texts["caption"] for e in _read("coco", path=path, split=split)] == wanted
    restval = sum(len(row["sentences"]) for row in rows if row["split"] in ("train", "restval"))
    assert len(_read("coco", path=path, restval=True)) == restval > 0


def _vqa(tmp_path: Path, annotations: list[Any] | None = None) -> dict[str, Path]:
    questions = [
        {"image_id": 9, "question": "What is it?", "question_id": 9000},
        {"image_id": 9, "question": "How many?", "question_id": 9001},
    ]
    answers = annotations or [
        {"question_id": 9000, "multiple_choice_answer": "net", "answers": [{"answer": "a goal"}]},
        {"question_id": 9001, "answers": [{"answer": "2"}, {"answer": "3"}, {"answer": "3"}]},
    ]
    return {
        "questions": _json(tmp_path / "q.json", {"info": {}, "questions": questions}),
        "annotations": _json(tmp_path / "a.json", {"annotations": answers, "info": {}}),
    }


def test_vqav2_keeps_question_and_answer_together(tmp_path: Path) -> None:
    key = ("train2014/COCO_train2014_000000000009.jpg",)
    net, three = {"question": "What is it?", "answer": "net"}, {"question": "How many?", "answer": "3"}
    assert [_short(e) for e in _read("vqav2", **_vqa(tmp_path))] == [
        ("s/9000", "vqa", key, net),
        ("s/9000-question_generation", "question_generation", key, net),
        ("s/9001", "vqa", key, three),
        ("s/9001-question_generation", "question_generation", key, three),
    ]


def test_vqav2_files_must_match(tmp_path: Path) -> None:
    row = {"question_id": 9000, "multiple_choice_answer": "x"}
    with pytest.raises(InputError, match="continues after record 1"):
        _read("vqav2", **_vqa(tmp_path, [row]))
    with pytest.raises(InputError, match="differ at record 2: question_id 9001 and 9000"):
        _read("vqav2", **_vqa(tmp_path, [row, row]))


def test_vqav2_real_rows(bench: Path) -> None:
    folder = bench / "allenai__allennlp-models/test_fixtures/vision/vqav2"
    vqa = _read("vqav2", questions=folder / "questions.json", annotations=folder / "annotations.json", tasks=["vqa"])
    assert [e.texts["answer"] for e in vqa] == ["net", "pitcher", "orange"]
    folder = bench / "mlfoundations__open_flamingo/open_flamingo/eval/data/textvqa"
    files = {
        "questions": folder / "val_questions_vqa_format.json",
        "annotations": folder / "val_annotations_vqa_format.json",
    }
    rows = _read("vqav2", bad_rows="drop", image_key="{image_id}.jpg", **files)
    assert Counter(type(row) for row in rows) == {Example: 1000}
    assert rows[0].images == ("003a8ae2ef43b901.jpg",) and rows[0].texts["answer"] == "nous les gosses"
    with pytest.raises(InputError, match=r"image_key .* does not fit"):
        _read("vqav2", **files)


AOKVQA = {
    "split": "train", "image_id": 299207, "question_id": "22M", "question": "Waiting for?",
    "choices": ["a", "bus", "cab"], "correct_choice_idx": 2,
    "direct_answers": ["ride"], "rationales": ["A train would not.", "He has bags."],
}  # fmt: skip


def test_aokvqa(tmp_path: Path) -> None:
    examples = _read("aokvqa", path=_json(tmp_path / "a.json", [AOKVQA]))
    assert [(e.id, e.task, e.texts["answer"], e.texts["rationale"]) for e in examples] == [
        ("s/22M-0-reasoning", "reasoning", "cab", "A train would not."),
        ("s/22M-0-explanation", "explanation", "cab", "A train would not."),
        ("s/22M-1-reasoning", "reasoning", "cab", "He has bags."),
        ("s/22M-1-explanation", "explanation", "cab", "He has bags."),
    ]
    assert {e.images for e in examples} == {("train2014/COCO_train2014_000000299207.jpg",)}


def test_aokvqa_of_the_training_photos_of_coco(tmp_path: Path) -> None:
    rows = [AOKVQA, AOKVQA | {"question_id": "33N", "image_id": 57870}, AOKVQA | {"question_id": "44O", "image_id": 42}]
    path = _json(tmp_path / "a.json", rows)
    official = {"images": [{"id": 57870, "file_name": "COCO_train2014_000000057870.jpg"}], "annotations": []}
    for coco in (KARPATHY, official):
        records = _read("aokvqa", path=path, coco=_json(tmp_path / "c.json", coco))
        kept = [record.id for record in records if isinstance(record, Example)]
        drops = [record for record in records if isinstance(record, Drop)]
        assert kept == [f"s/33N-{number}-{task}" for number in (0, 1) for task in ("reasoning", "explanation")]
        assert [drop.reason for drop in drops] == ["other split"] * 8
        assert "42" in drops[-1].detail and drops[-1].id == "s/44O-1-explanation"
    with pytest.raises(InputError, match=r"c\.json has no photo of COCO in split 'train'"):
        _read("aokvqa", path=path, coco=_json(tmp_path / "c.json", {"images": [{"split": "val", "cocoid": 1}]}))


def test_aokvqa_real_rows(bench: Path) -> None:
    examples = _read("aokvqa", path=bench / "_derived/aokvqa/aokvqa_v1p0_train.json", tasks=["reasoning"])
    assert [e.texts["answer"] for e in examples] == ["cab"] * 3


def _llava(*turns: str, **fields: Any) -> dict[str, Any]:
    speakers = ("human", "gpt")
    return (
        {"id": "000000033471", "image": "000000033471.jpg"}
        | fields
        | {"conversations": [{"from": speakers[number % 2], "value": turn} for number, turn in enumerate(turns)]}
    )


def test_llava_conversation(tmp_path: Path) -> None:
    rows = [
        _llava("What colour?\n<image>", "Red.", "Why?", "A. B. C. D."),
        _llava("<image>\nHm?", "Yes", id="2", image=""),
    ]
    rows[1].pop("image")
    records = _read("llava", path=_json(tmp_path / "l.json", rows), task="conversation")
    assert _short(records[0]) == (
        "s/000000033471-0", "conversation", ("train2014/COCO_train2014_000000033471.jpg",),
        {"question": "What colour?", "answer": "Red."},
    )  # fmt: skip
    assert [(r.id, r.reason) for r in records[1:]] == [("s/000000033471-1", "long answer"), ("s/2-0", "no image")]


def test_llava_keeps_the_instruction_of_a_description_where_it_is_asked_to(tmp_path: Path) -> None:
    path = _json(tmp_path / "l.json", [_llava("<image>\nWhat is all there?", "A long tale. " * 9)])
    [plain] = _read("llava", path=path, task="description")
    [kept] = _read("llava", path=path, task="description", instructions=True)
    assert plain.texts == {"description": ("A long tale. " * 9).strip()}
    assert kept.texts == {"instruction": "What is all there?", **plain.texts}
    rendered = load_templates(("paper", "llava")).render(kept)
    assert (rendered.prompt, rendered.answer) == ("What is all there?", plain.texts["description"])
    assert load_templates(("paper",)).render(kept).prompt != rendered.prompt


def test_llava_real_rows(bench: Path) -> None:
    folder = bench / "_derived/llava"
    details = _read("llava", path=folder / "detail_23k.json", task="description", image_key="train2017/{image}")
    assert len(details) == 2 and details[0].images == ("train2017/000000442786.jpg",)
    assert "\n\n" in details[0].texts["description"]
    turns = _read("llava", path=folder / "conversation_58k.json", task="conversation")
    assert len(turns) == 3 and all("<image>" not in text for turn in turns for text in turn.texts.values())


def test_gqa_in_both_layouts(tmp_path: Path) -> None:
    official = {"029": {"question": "Is the sky dark?", "imageId": "235", "answer": "yes", "fullAnswer": "Yes."}}
    listed = [{"img_id": "n16", "label": {"no": 1.0}, "question_id": "201", "sent": "Is it overcast?"}]
    assert [_short(e) for e in _read("gqa", path=_json(tmp_path / "o.json", official))] == [
        ("s/029", "vqa", ("235.jpg",), {"question": "Is the sky dark?", "answer": "yes"})
    ]
    assert [_short(e) for e in _read("gqa", path=_json(tmp_path / "l.json", listed))] == [
        ("s/201", "vqa", ("n16.jpg",), {"question": "Is it overcast?", "answer": "no"})
    ]


def test_gqa_and_flickr_and_nlvr2_real_rows(bench: Path) -> None:
    datasets = bench / "e-bug__iglue/datasets"
    assert len(_read("gqa", path=datasets / "xGQA/annotations/few_shot/en/train_1.json")) > 20
    captions = _read("flickr30k", path=datasets / "xFlickrCO/annotations/en/test.jsonl")
    assert len(captions) == 2000 and captions[-1].images[0].startswith("COCO_val2014_")
    pairs = _read("nlvr2", path=datasets / "nlvr2/annotations/dev.jsonl")
    assert pairs[0].images == (f"{pairs[0].id[2:-2]}-img0.png", f"{pairs[0].id[2:-2]}-img1.png")
    assert set(Counter(e.texts["answer"] for e in pairs)) == {"yes", "no"}


def test_xvnli_real_rows(bench: Path) -> None:
    records = _read("xvnli", path=bench / "e-bug__iglue/datasets/XVNLI/annotations/en/test.jsonl")
    counts = Counter(r.reason if isinstance(r, Drop) else r.texts["answer"] for r in records)
    assert counts == {"yes": 394, "maybe": 381, "no": 375, "no gold label": 14}
    pairs = bench / "allenai__allennlp-models/test_fixtures/vision/visual_entailment/sample_pairs.jsonl"
    assert _read("xvnli", path=pairs, first_annotator=True)[0].images == ("2248275918.jpg",)


def test_xvnli_and_nlvr2_and_flickr30k(tmp_path: Path) -> None:
    pair = {"Flikr30kID": "75.jpg", "pairID": "p", "sentence1": "x", "sentence2": "He sits.", "gold_label": "neutral"}
    assert _short(_read("xvnli", path=_lines(tmp_path / "x.jsonl", [pair]))[0]) == (
        "s/p", "entailment", ("75.jpg",), {"hypothesis": "He sits.", "answer": "maybe"},
    )  # fmt: skip
    row = {"sentence": "Six bottles.", "label": "True", "identifier": "train-85-0-1", "directory": 12}
    assert _short(_read("nlvr2", path=_lines(tmp_path / "n.json", [row]))[0]) == (
        "s/train-85-0-1", "image_pair", ("12/train-85-0-img0.png", "12/train-85-0-img1.png"),
        {"statement": "Six bottles.", "answer": "yes"},
    )  # fmt: skip
    photo = {"sentences": ["One.", "Two."], "id": 7, "img_path": "7.jpg"}
    assert [e.id for e in _read("flickr30k", path=_lines(tmp_path / "f.jsonl", [photo]))] == ["s/7-0", "s/7-1"]


@pytest.fixture
def imagenet(tmp_path: Path) -> dict[str, Path]:
    for name in ("n01", "n02", "n03"):
        (tmp_path / "train" / name).mkdir(parents=True)
        for number in range(6):
            (tmp_path / "train" / name / f"{name}_{number}.JPEG").touch()
    babel = {"DE": [[0, 2], ["Schleie", "Hai"]], "SW": [[1], ["samaki"]], "XX": [[0], ["?"]], "NCI": [[0], ["?"]]}
    return {
        "folder": tmp_path / "train",
        "labels": _json(tmp_path / "babel.json", babel),
        "english": _json(tmp_path / "en.json", ["tench", "goldfish", "shark"]),
    }


def test_imagenet_uses_each_image_once_and_labels_in_their_languages(imagenet: dict[str, Path]) -> None:
    examples = _read("imagenet", passes=2, **imagenet)
    naming = [e for e in examples if e.task == "naming"]
    assert Counter(e.languages["answer"] for e in naming) == {"de": 4, "en": 6, "sw": 2}
    assert len({e.images for e in naming}) == len(naming)
    german = {"n01": "Schleie", "n03": "Hai"}
    for e in naming:
        if e.languages["answer"] == "de":
            assert e.texts["answer"] == german[e.images[0][:3]]
    presence = [e for e in examples if e.task == "presence"]
    for asked, named in zip(presence, naming, strict=True):
        true = asked.texts["question"] == named.texts["answer"]
        assert asked.images == named.images and asked.texts["answer"] in (
            ("ja", "ndiyo", "yes") if true else ("nein", "no")
        )
    drops = [r for r in _read("imagenet", passes=9, **imagenet) if isinstance(r, Drop)]
    assert Counter(d.reason for d in drops) == {"no image left": 6 * 9 - 18}


def test_imagenet_classes_must_match(imagenet: dict[str, Path]) -> None:
    _json(imagenet["english"], ["tench"])
    with pytest.raises(InputError, match=r"has 3 classes, but .* names 1"):
        _read("imagenet", **imagenet)


ROWS = [
    {"file": "a.jpg", "text": " A red boat. ", "lang": "en", "n": "1"},
    {"file": "b.jpg", "text": "Ein Hund", "lang": "German", "n": "2"},
]


def _write_table(path: Path) -> Path:
    match path.suffix:
        case ".jsonl":
            return _lines(path, ROWS)
        case ".json":
            return _json(path, ROWS)
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(ROWS), path)
        case suffix:
            with path.open("w", newline="", encoding="utf-8-sig") as file:
                writer = csv.DictWriter(file, list(ROWS[0]), delimiter="\t" if suffix == ".tsv" else ",")
                writer.writeheader()
                writer.writerows(ROWS)
    return path


@pytest.mark.parametrize("language", ["en", ""])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "parquet"])
def test_table_of_every_kind(tmp_path: Path, suffix: str, language: str) -> None:
    path = _write_table(tmp_path / f"own.{suffix}")
    options = {"columns": {"image": "file", "caption": "text", "id": "n"}, "task": "caption", "licence": "own"}
    examples = _read("table", path=path, language_column="lang", language=language, **options)
    assert [_short(e) for e in examples] == [
        ("s/1", "caption", ("a.jpg",), {"caption": "A red boat."}),
        ("s/2", "caption", ("b.jpg",), {"caption": "Ein Hund"}),
    ]  # fmt: skip
    assert [e.languages for e in examples] == [{"caption": "en"}, {"caption": "de"}]
    assert examples[0].licence == "own"


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_columns_in_upper_and_lower_case(tmp_path: Path, suffix: str) -> None:
    rows = [{"Image": "a.jpg", "CAPTION": "Eine Katze.", "Lang": "de", "note": ""}]
    path = tmp_path / f"own.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif suffix.startswith("json"):
        path.write_text(json.dumps(rows if suffix == "json" else rows[0]))
    else:
        separator = "," if suffix == "csv" else "\t"
        path.write_text("\n".join(separator.join(cells) for cells in (rows[0], rows[0].values())))
    options = {"path": path, "columns": {"image": "image", "caption": "caption"}, "task": "caption", "licence": "own"}
    (example,) = _read("table", language_column="lang", **options)
    assert (example.images, example.texts, example.languages) == (
        ("a.jpg",),
        {"caption": "Eine Katze."},
        {"caption": "de"},
    )


def test_two_columns_that_differ_in_case_are_not_guessed_between(tmp_path: Path) -> None:
    path = tmp_path / "own.csv"
    path.write_text("image,Caption,CAPTION\na.jpg,one,two\n")
    options = {"path": path, "columns": {"image": "image", "caption": "caption"}, "task": "caption", "licence": "own"}
    with pytest.raises(InputError, match="it lacks 'caption'; it has image, Caption, CAPTION"):
        _read("table", **options)
    (exact,) = _read("table", **options | {"columns": {"image": "image", "caption": "CAPTION"}})
    assert exact.texts == {"caption": "two"}


@pytest.mark.parametrize(("change", "message"), [
    ({"columns": {"caption": "text"}}, "must map 'image'"),
    ({"columns": {"image": "file"}}, "map no text"),
    ({"columns": {"image": "file", "caption": "txt"}}, "own.jsonl, record 1: bad row .it lacks 'txt'"),
    ({"language": "germn"}, "unknown language 'germn'"),
    ({"language_column": "n"}, "record 1: bad row .unknown language '1'"),
    ({"columns": {"image": "file", "caption": "text", "id": "no"}}, "'no' is missing or blank"),
])  # fmt: skip
def test_table_settings(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = _write_table(tmp_path / "own.jsonl")
    options = {"columns": {"image": "file", "caption": "text"}, "task": "caption", "licence": "own"} | change
    with pytest.raises(InputError, match=message):
        _read("table", path=path, **options)


@pytest.mark.parametrize(("name", "content", "message"), [
    ("own.csv", b"file,text\na.jpg,x,y\n", "record 1: bad row .line 2 has 3 cells, but the header names 2 columns"),
    ("own.csv", b"file,text\na.jpg,\xff\n", "own.csv, line 2: the byte 0xFF is not UTF-8; save the file as UTF-8"),
    ("own.parquet", b"PAR1 nothing", "damaged or not a Parquet file"),
    ("own.jsonl", b'{"file": "a.jpg", "te', "cut off"),
    ("own.jsonl", b"\x1f\x8b\x08", "own.jsonl, line 1: the byte 0x8B is not UTF-8; the file is compressed: unpack it"),
    ("own.jsonl.gz", b"", "must be .jsonl.*; unpack it"),
    ("own.xlsx", b"", "own.xlsx is a spreadsheet: save it as CSV in UTF-8"),
])  # fmt: skip
def test_damaged_tables(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        _read(
            "table", path=tmp_path / name, columns={"image": "file", "caption": "text"}, task="caption", licence="own"
        )


BAD_TEXTS = [
    ("", "blank"), ("\u200b \u200f", "no visible character"), ("a\0b", "NUL"), ("a\ud800b", "half a surrogate pair"),
    (3, "must be a text"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD_TEXTS)
def test_bad_texts_stop_or_are_counted(tmp_path: Path, text: Any, message: str) -> None:
    good = {"file": "a.jpg", "text": "x"}
    path = _lines(tmp_path / "own.jsonl", [good, {"file": "a.jpg", "text": text}, good])
    options = {"path": path, "columns": {"image": "file", "caption": "text"}, "task": "caption", "licence": "own"}
    with pytest.raises(InputError, match=f"(?s){message}.*bad_rows"):
        _read("table", **options)
    kinds = [type(record) for record in _read("table", bad_rows="drop", **options)]
    assert kinds == [Example, Drop, Example]


@pytest.mark.parametrize("field", ["file", "n"])
@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_bad_keys_and_ids_stop_or_are_counted(tmp_path: Path, field: str, text: str) -> None:
    rows = [{"file": "a.jpg", "text": "x", "n": str(n)} for n in range(3)]
    path = _lines(tmp_path / "own.jsonl", [rows[0], rows[1] | {field: text}, rows[2]])
    columns = {"image": "file", "caption": "text", "id": "n"}
    options = {"path": path, "columns": columns, "task": "caption", "licence": "own"}
    with pytest.raises(InputError, match=r"own\.jsonl, row with n=.*: unusable text \((image|id) contains .*bad_rows"):
        _read("table", **options)
    kinds = [type(record) for record in _read("table", bad_rows="drop", **options)]
    assert kinds == [Example, Drop, Example]


@pytest.mark.parametrize("value", [None, True, [], [1], {}, {"a": 1}, ""])
def test_image_ids_that_are_none(tmp_path: Path, value: Any) -> None:
    official = {"images": [{"id": 5, "file_name": "5.jpg"}], "annotations": [{"image_id": 5, "id": 1, "caption": "A."}]}
    for part, field in (("images", "id"), ("annotations", "image_id")):
        changed = official | {part: [official[part][0] | {field: value}]}
        (drop,) = _read("coco", bad_rows="drop", path=_json(tmp_path / "official.json", changed))
        assert drop.reason == "bad row" and "image_id" in drop.detail
    question = {"image_id": value, "question": "What?", "question_id": 1}
    files = {
        "questions": _json(tmp_path / "q.json", {"questions": [question]}),
        "annotations": _json(tmp_path / "a.json", {"annotations": [{"question_id": 1, "multiple_choice_answer": "x"}]}),
    }
    for image_key in ("{image_id:012d}.jpg", "{image_id}.jpg"):
        (drop,) = _read("vqav2", bad_rows="drop", **files, image_key=image_key)
        assert drop.reason == "bad row" and "image_id" in drop.detail


def test_unknown_split_of_karpathys_is_a_bad_row(tmp_path: Path) -> None:
    image = {"split": "trian", "filename": "a.jpg", "sentences": [{"raw": "A.", "sentid": 1}]}
    with pytest.raises(InputError, match="'split' must be one of train, restval, val, test, not 'trian'"):
        _read("coco", path=_json(tmp_path / "k.json", {"images": [image]}))


def test_images_that_are_missing_empty_or_damaged(tmp_path: Path) -> None:
    store = tmp_path / "images"
    store.mkdir()
    Image.new("RGB", (8, 8)).save(store / "good.png")
    (store / "empty.png").touch()
    (store / "broken.png").write_bytes((store / "good.png").read_bytes()[:40])
    names = ["good.png", "missing.png", "empty.png", "broken.png"]
    path = _lines(tmp_path / "own.jsonl", [{"file": name, "text": "x"} for name in names])
    options = {"path": path, "columns": {"image": "file", "caption": "text"}, "task": "caption", "licence": "own"}
    assert [type(r) for r in _read("table", "drop", **options)] == [Example] * 4
    found = _read("table", "drop", images=str(store), **options)
    assert [r.reason for r in found if isinstance(r, Drop)] == ["missing image"]
    found = _read("table", "drop", images=str(store), decode=True, **options)
    assert [r.reason for r in found if isinstance(r, Drop)] == ["missing image", "damaged image", "damaged image"]
    assert "the file is empty" in found[2].detail
    with pytest.raises(InputError, match=r"own.jsonl, record 2: missing image \(missing.png\)"):
        _read("table", images=str(store), **options)
    several = _lines(tmp_path / "several.jsonl", [{"file": n, "text": ["x", "y"], "no": f"n-{n}"} for n in names])
    with pytest.raises(InputError, match=r"several.jsonl, record 2: missing image \(missing.png\)"):
        _read("table", images=str(store), **{**options, "path": several})
    named = {**options, "path": several, "columns": {"image": "file", "caption": "text", "id": "no"}}
    with pytest.raises(InputError, match=r"several.jsonl, row with no=n-missing.png-0: missing image \(missing.png\)"):
        _read("table", images=str(store), **named)


def _good_file(reader: str, tmp_path: Path) -> Iterator[tuple[dict[str, Any], Path]]:
    match reader:
        case "coco":
            path = _json(tmp_path / "f.json", KARPATHY)
            yield {"path": path}, path
        case "vqav2":
            files = _vqa(tmp_path)
            yield dict(files), files["annotations"]
        case "aokvqa":
            path = _json(tmp_path / "f.json", [AOKVQA])
            yield {"path": path}, path
        case "llava":
            path = _json(tmp_path / "f.json", [_llava("What?", "Red.")])
            yield {"path": path, "task": "conversation"}, path
        case "gqa":
            path = _json(tmp_path / "f.json", {"1": {"question": "Q?", "imageId": "2", "answer": "yes"}})
            yield {"path": path}, path


@pytest.mark.parametrize("reader", ["coco", "vqav2", "aokvqa", "llava", "gqa"])
def test_truncated_files_name_the_file(tmp_path: Path, reader: str) -> None:
    for options, path in _good_file(reader, tmp_path):
        assert _read(reader, **options)
        path.write_text(path.read_text()[:-9])
        with pytest.raises(InputError, match=f"{path.name}, character"):
            _read(reader, bad_rows="drop", **options)
        path.unlink()
        with pytest.raises(InputError, match=f"cannot read .*{path.name}"):
            _read(reader, **options)


def test_every_reader_says_licence_download_and_record() -> None:
    assert len(READERS) == 15
    assert set(plugins.corpora) == {*READERS, "scenes"}
    for reader, module in plugins.corpora.items():
        assert "Licence:" in str(module.__doc__)
        assert reader in ("matching", "scenes", "table") or (
            "Download:" in str(module.__doc__) and "Raw record" in str(module.__doc__)
        )
