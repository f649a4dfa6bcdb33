"""The reader of the released mix: texts as they are, parts by pictures and prompts, languages by names, files and lingua."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from mblip.config import DataRecipe, SourceSection, load_recipe
from mblip.corpora import EnglishStage, mblip_train, read_source, sample_source
from mblip.corpora.named_language import named_language
from mblip.corpora.released_parts import PARTS
from mblip.corpora.sampling import sampled_urls
from mblip.errors import InputError
from mblip.mixture import build_mix
from mblip.schema import Drop, Example, Instruction
from mblip.storage import ShardReader, read_drops

DOG = "COCO_train2014_000000000009.jpg"


def _row(context: Any, label: Any, image: Any = DOG) -> dict[str, Any]:
    return {"context": context, "label": label, "image_id": image}


# Each part with prompts in words of our own, in the order of the merged file.
ROWS: dict[str, list[dict[str, Any]]] = {
    "web_captions": [
        _row("A line of Swahili to caption this:", " Mbwa \u00a0mweusi\n", "w1.jpg"),
        _row("Eleza picha.", "Mwanamke aliyevaa nguo nyekundu amesimama ufukweni pamoja na watoto wake", "w2.jpg"),
    ],
    "coco_captions": [_row("Give a caption in German.", "Ein Hund am Strand"), _row("Eleza picha.", "Mbwa yuko hapa nje")],
    "llava_detail": [_row("Describe all details of this photo in French.", "Le chien court. " * 30)],
    "llava_conversation": [_row("Was macht der Hund? Answer in German.", "Er läuft am Strand, weil er Stöcke mag.")],
    "aokvqa_reasoning": [_row("Why is he wet? Explain your answer in English:", "He swam. So the answer is: water")],
    "aokvqa_explanation": [_row('Question: Why? Answer: "rain". Give the reason in English:', "The street is wet.")],
    "vqav2": [_row("Ni rangi gani? Short answer in English:", "red"), _row("How many? Brief answer in Thai:", "สอง")],
    "question_generation": [_row('Write a question in German that has the answer "two":', "Wie viele Hunde sind da?")],
    "web_matching": [_row('Does "ein Hund" fit the image? Yes or no, in German:', "ja", "w3.jpg")],
    "imagenet_naming": [_row("Name the thing in Irish:", "madra", "n01440764/n01440764_1.JPEG")],
    "imagenet_presence": [_row("Is there a tench here? Yes or no in Irish:", "tá", "n01440764/n01440764_2.JPEG")],
}  # fmt: skip


def _write(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def _read(path: Path, **options: Any) -> list[Example | Drop]:
    source = SourceSection(
        name="released", reader="mblip_train", options={"path": str(path), **options}, translate=False
    )
    return list(read_source(DataRecipe(title="t", sources=(source,), bad_rows="drop"), source))


def _all_rows() -> list[dict[str, Any]]:
    return [row for rows in ROWS.values() for row in rows]


def test_rows_keep_every_byte_and_come_to_their_parts(tmp_path: Path) -> None:
    assert [part.name for part in PARTS] == list(ROWS)
    records = _read(_write(tmp_path / "mix.json", _all_rows()), question_generation=True)
    told = [record.source for record in records]
    assert told == [f"released/{part}" for part, rows in ROWS.items() for _ in rows]
    for record, row in zip(records, _all_rows(), strict=True):
        assert isinstance(record, Example)
        assert record.texts == {"prompt": row["context"], "answer": row["label"]}
        assert record.images == (row["image_id"],)


def test_rows_in_any_order_come_to_the_same_parts_where_their_prompts_tell(tmp_path: Path) -> None:
    plain = [(part, row) for part, rows in ROWS.items() for row in rows if row["context"] != "Eleza picha."]
    random.Random(3).shuffle(plain)
    records = _read(_write(tmp_path / "mix.json", [row for _, row in plain]), question_generation=True)
    assert [record.source for record in records] == [f"released/{part}" for part, _ in plain]


def test_question_generation_is_dropped_with_its_reason_and_kept_on_request(tmp_path: Path) -> None:
    path = _write(tmp_path / "mix.json", _all_rows())
    drops = [record for record in _read(path) if isinstance(record, Drop)]
    assert [(drop.reason, drop.source) for drop in drops] == [("question generation", "released/question_generation")]
    assert "another row's answer" in drops[0].detail
    assert not any(isinstance(record, Drop) for record in _read(path, question_generation=True))
    single = _write(tmp_path / "vqav2_vqg_mt_mtlabels.json", [_row("Chochote kile", "Nini hii ni nini")])
    (drop,) = _read(single)
    assert isinstance(drop, Drop) and drop.reason == "question generation"


@pytest.mark.parametrize(
    "prompt",
    [
        'Generate a question in German whose answer is: two. Question:', 'Make up a German question with the answer "two".',
        'What is a German question for this image that has the answer "two"?', 'A question in German for the answer "two":',
        "Ask something: what question (in German) has the reply two?",
    ],
)  # fmt: skip
def test_what_asks_for_a_question_is_question_generation(prompt: str, tmp_path: Path) -> None:
    (drop,) = _read(_write(tmp_path / "m.json", [_row(prompt, "Wie viele Hunde?")]))
    assert isinstance(drop, Drop) and drop.reason == "question generation"


@pytest.mark.parametrize(
    "prompt",
    [
        "Give a short answer in German to the question: Wie viele Hunde? Answer:",
        "Answer the question with a short answer in German. สุนัขกี่ตัว",
        "What is the German answer to this question? Wie viele? Answer:", "Question: Was ist das? Short German answer:",
        "Write the answer to this question in German: Wie viele",
        "Give me a reply in German to the question with a word. Wie viele",
        "Provide a brief answer to the question in German. Question: Wie viele? Answer:",
    ],
)  # fmt: skip
def test_what_asks_for_the_answer_to_a_question_is_kept(prompt: str, tmp_path: Path) -> None:
    (kept,) = _read(_write(tmp_path / "m.json", [_row(prompt, "zwei")]))
    assert isinstance(kept, Example) and kept.source == "released/vqav2"
    assert kept.languages["answer"] == "de"


def test_counts_of_parts_win_over_what_prompts_tell(tmp_path: Path) -> None:
    path = _write(tmp_path / "mix.json", [_row("Caption in German:", "Hund")] * 3)
    parts = {"vqav2": 1, "question_generation": 1}
    records = _read(path, parts=parts)
    assert [(type(record), record.source) for record in records] == [
        (Example, "released/vqav2"), (Drop, "released/question_generation"), (Drop, "released"),
    ]  # fmt: skip
    assert isinstance(records[2], Drop) and "after the last row" in records[2].detail
    with pytest.raises(InputError, match="did you mean 'vqav2'"):
        _read(path, parts={"vqav": 1})


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("Caption the picture in Swahili.", "sw"), ("A brief German caption:", "de"), ("Title (in Haitian):", "ht"),
        ("Is the sign in Chinese? Short answer in English:", "en"), ("Is this Chinese food? Short English answer:", "en"),
        ("Give a short answer in Thai to what follows. Is the sign in Chinese?", "th"), ("Object, in former Hebrew:", "iw"),
        ("How would you call it in German?", "de"), ("Answer in Bengali: what is written in Urdu?", "bn"), ("Swahili:", "sw"),
        ("Is he eating Italian food?", ""), ("Describe this.", ""), ("Eleza picha kwa Kiswahili", ""),
        ('Is "a French flag" right? Yes or no, in Irish:', "ga"), ("Name it in Scottish Gaelic:", "gd"), ("in Farsi", "fa"),
    ],
)  # fmt: skip
def test_the_language_that_a_prompt_asks_for(prompt: str, code: str) -> None:
    assert named_language(prompt) == code


def test_languages_are_named_else_known_from_raw_files_else_detected_else_undetermined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        _row("Caption in Swahili.", "Mbwa", "1.jpg"),
        _row("Eleza.", "Mbwa", "2.jpg"),
        _row("Beschreibe das Bild.", "Eine Frau in einem roten Kleid steht mit ihren Kindern am Strand.", "3.jpg"),
        _row("…", "12", "4.jpg"),
    ]
    path = _write(tmp_path / "mix.json", rows)
    raw = _write(tmp_path / "raw.json", [_row("Swahili", "Mbwa", "2.jpg"), _row("Zulu", "Mbwa", "5.jpg")])

    def told(**options: Any) -> list[str]:
        return [record.languages["answer"] for record in _read(path, **options) if isinstance(record, Example)]

    assert told(raw=[str(raw)], detect=False) == ["sw", "sw", "und", "und"]
    assert told(detect=False) == ["sw", "und", "und", "und"]
    pytest.importorskip("lingua")
    assert told(raw=[str(raw)]) == ["sw", "sw", "de", "und"]
    monkeypatch.setattr(mblip_train, "has_detector", lambda: False)
    assert told() == ["sw", "und", "und", "und"]


def test_raw_files_give_languages_for_certain_and_texts_for_templates(tmp_path: Path) -> None:
    rows = [
        _row("Swahili", "Mbwa # mweusi", "1.jpg"),
        _row("former Hebrew # מה זה ### ?", "cat"),
        _row("Haitian ### yon chen # nwa", "no", "2.jpg"),
    ]
    records = _read(_write(tmp_path / "x_raw.json", rows))
    assert [(r.task, r.texts, r.languages) for r in records if isinstance(r, Example)] == [
        ("caption", {"caption": "Mbwa # mweusi"}, {"caption": "sw"}),
        ("vqa", {"question": "מה זה ### ?", "answer": "cat"}, {"answer": "en", "question": "iw"}),
        ("matching", {"caption": "yon chen # nwa", "answer": "no"}, {"answer": "en", "caption": "ht"}),
    ]


BAD = {
    "no object": (["x"], "it must be an object"),
    "no label": ([{"context": "a", "image_id": "1.jpg"}], "it lacks 'label'"),
    "a number": ([_row(7, "b")], "'context' must be a text"),
    "blank": ([_row("a", " \n")], "'label' is blank"),
    "NUL": ([_row("a\0 in German.", "b")], "NUL"),
    "half a pair": ([_row("a in German.", "\ud800b")], "surrogate"),
    "no picture": ([_row("a", "b", None)], "'image_id' must be a text"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_a_drop_with_its_reason_and_stops_no_other(kind: str, tmp_path: Path) -> None:
    rows, told = BAD[kind]
    good = _row("Caption in German.", "Hund", "1.jpg")
    records = _read(_write(tmp_path / "mix.json", [good, *rows, good]))
    assert [type(record) for record in records] == [Example, Drop, Example]
    assert isinstance(records[1], Drop) and told in records[1].detail


@pytest.mark.parametrize("cut", [0.99, 0.5, 0.01])
def test_a_file_that_is_cut_off_is_one_sentence(cut: float, tmp_path: Path) -> None:
    path = _write(tmp_path / "mix.json", _all_rows())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * cut)])
    with pytest.raises(InputError, match=r"mix\.json, character [\d,]+: .*download the file again"):
        _read(path)


def test_the_recipe_makes_a_mix_of_the_very_texts_with_counts_by_part(tmp_path: Path) -> None:
    path = _write(tmp_path / "mix.json", [*_all_rows(), _row("Caption in Croatian:", "pas", "w9.jpg")])
    recipe = load_recipe(DataRecipe, "released", (f"sources.released.options.path={path}",))
    manifest = build_mix(recipe, tmp_path / "mix")
    wanted = Counter({f"released/{part}": len(rows) for part, rows in ROWS.items() if part != "question_generation"})
    assert manifest.by_source == dict(sorted(wanted.items()))
    assert manifest.drops == {"language left out": 1, "question generation": 1}
    assert {drop.reason for drop in read_drops(tmp_path / "mix")} == set(manifest.drops)
    texts = {(row.images[0], row.prompt, row.answer) for row in ShardReader(tmp_path / "mix", Instruction)}
    generated = [tuple(row.values()) for row in ROWS["question_generation"]]
    rows = [(row["image_id"], row["context"], row["label"]) for row in _all_rows()]
    assert texts == {row for row in rows if (row[1], row[2], row[0]) not in generated}
    assert manifest.prompts == {}  # what others wrote is not known
    assert "CC-BY-NC-4.0 (translations)" in manifest.licences["released/vqav2"]
    card = (tmp_path / "mix" / "README.md").read_text(encoding="utf-8")
    assert "| released/imagenet_naming | 1 |" in card


def test_undetermined_languages_are_counted_and_named_unknown(tmp_path: Path) -> None:
    path = _write(tmp_path / "mix.json", [_row("…", "12", "4.jpg"), _row("Caption in German.", "Hund", "1.jpg")])
    recipe = load_recipe(DataRecipe, "released", (f"sources.released.options.path={path}",))
    manifest = build_mix(recipe, tmp_path / "mix")
    assert manifest.by_language == {"de": 1, "und": 1}
    card = (tmp_path / "mix" / "README.md").read_text(encoding="utf-8")
    assert "| und | unknown | 1 |" in card and "- 'und'" not in card
    only = load_recipe(DataRecipe, "released", (f"sources.released.options.path={path}", "allocation.languages=[de]"))
    assert build_mix(only, tmp_path / "de").drops == {"language left out": 1}


def test_web_pictures_have_their_addresses_from_the_list(tmp_path: Path) -> None:
    path = _write(tmp_path / "mix.json", _all_rows())
    listed = [{"jpg": f"w{n}.jpg", "url": f"https://example.org/{n}.jpg", "caption": "x"} for n in range(1, 9)]
    urls = _write(tmp_path / "urls_raw.json", [*listed, {"jpg": 3}, "x"])
    changes = f"sources.released.options.path={path}", f"sources.released.options.addresses={urls}"
    recipe = load_recipe(DataRecipe, "released", changes)
    sample_source(recipe, recipe.sources[0], tmp_path / "work")
    assert list(sampled_urls(recipe, tmp_path / "work")) == [
        (f"w{n}.jpg", f"https://example.org/{n}.jpg") for n in (1, 2, 3)
    ]
    assert EnglishStage(tmp_path / "work", "released").counts["naming"] == {"ga": 1}
    with pytest.raises(InputError, match="option addresses"):
        list(mblip_train.urls(None))
    with pytest.raises(InputError, match="has no row with 'jpg'"):
        list(mblip_train.urls(path))


def test_photos_of_coco_get_the_folder_that_the_store_has_them_in(tmp_path: Path) -> None:
    records = _read(_write(tmp_path / "m.json", [_row("Caption in German.", "Hund")]), coco_key="{split}/{name}")
    assert isinstance(records[0], Example) and records[0].images == (f"train2014/{DOG}",)


@pytest.mark.parametrize("image", ["../../etc/passwd", "/etc/passwd", "a/../../b.jpg"])
def test_a_picture_outside_its_folder_is_a_bad_row(tmp_path: Path, image: str) -> None:
    rows = [{"context": "Caption in Swahili.", "label": "Mbwa.", "image_id": name} for name in (image, "a..b.jpg")]
    path = tmp_path / "mix.json"
    path.write_text(json.dumps(rows))
    source = SourceSection(name="released", reader="mblip_train", options={"path": path}, translate=False)
    found = list(read_source(DataRecipe(title="t", sources=(source,), bad_rows="drop"), source))
    assert [getattr(record, "reason", "kept") for record in found] == ["bad row", "kept"]
