"""``mblip score``: every layout it reads, and everything it refuses."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from tests import evaluation_data
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.errors import InputError
from mblip.evaluation import json_files as raw
from mblip.evaluation.benchmarks import BENCHMARKS, captions, find_benchmark
from mblip.evaluation.prompts import load_prompts
from mblip.evaluation.scoring import score_predictions
from mblip.evaluation.tasks import load_tasks
from mblip.schema import Prediction

XGQA = {
    "1": {"question": "Ist der Bus schwarz?", "imageId": "n1", "answer": "no"},
    "2": {"question": "Was liegt dort?", "imageId": "n1", "answer": "ball"},
    "3": {"question": "Wo ist der Hund?", "imageId": "n2", "answer": "left"},
}
GQA = [
    {"question_id": number, "img_id": row["imageId"], "sent": row["question"], "label": {row["answer"]: 1.0}}
    for number, row in XGQA.items()
]
XGQA_ANSWERS = {"1": "no", "2": "The ball", "3": "right"}
XVNLI = [
    {"gold_label": label, "sentence2": "Il lit.", "pairID": f"7.jpg#{number}", "Flikr30kID": "7.jpg"}
    for number, label in enumerate(["entailment", "contradiction", "neutral", "-"])
]
MARVL = [
    {"id": f"sw-{n}", "language": "sw", "concept": "81-Dawati", "caption": "Kuna madawati", "left_img": "81-5.jpg",
     "right_img": "81-Dawati/81-n-1.jpg", "label": n == 0}
    for n in range(2)
]  # fmt: skip
NLVR2 = [
    {"identifier": f"dev-850-{n}-0", "sentence": "There are six bottles.", "label": label}
    for n, label in enumerate(["True", "False"])
]
MAXM = {
    "dataset": "maxm",
    "annotations": [
        {"image_id": "0a", "image_url": "u", "qa_pairs": [
            {"question_id": "q1", "question": "Qui ?", "answers": ["x"], "processed_answers": ["chat", "un chat"],
             "is_collection": False, "method": "new"}]}
    ],
}  # fmt: skip
VQA = {
    "annotations": [
        {"question_id": 5, "image_id": 9, "answers": [{"answer": "net", "answer_id": n} for n in range(10)]},
        {"question_id": 6, "image_id": 9, "answers": [{"answer": str(n // 5), "answer_id": n} for n in range(10)]},
    ]
}
POPE = [
    {
        "question_id": n,
        "image": "COCO_val2014_000000000007.jpg",
        "text": f"Is there a {name} in the image?",
        "label": label,
    }
    for n, (name, label) in enumerate([("dog", "yes"), ("cat", "no")], start=1)
]
CHAIR = [
    {"image": "COCO_val2014_000000000007.jpg", "objects": ["dog"]},
    {"image": "COCO_val2014_000000000008.jpg", "objects": ["cat", "person"]},
]
COCO = {
    "images": [{"id": 7, "file_name": "COCO_val2014_000000000007.jpg"}, {"id": 8, "file_name": "b.jpg"}],
    "annotations": [
        {"image_id": 7, "id": 1, "caption": "A dog runs on the beach."},
        {"image_id": 7, "id": 2, "caption": "A brown dog is running."},
        {"image_id": 8, "id": 3, "caption": "A man holds a small cat."},
    ],
}
COCO_RESULTS = [{"image_id": 7, "caption": "a dog is running"}, {"image_id": 8, "caption": "a man with a cat"}]
XFLICKRCO: list[dict[str, Any]] = [
    {"sentences": ["Ein Hund läuft."], "id": "1007129816", "img_path": "1007129816.jpg"},
    {"sentences": ["Ein Mann hält eine Katze."], "id": 414071, "img_path": "COCO_val2014_000000414071.jpg"},
]
XM3600 = [
    {"image/key": key, "image/locale": "en", **{code: {"caption": [f"{code} {key}", "x"]} for code in codes}}
    for key, codes in (("00aa", ["sw", "he"]), ("00bb", ["sw"]))
]


def write(path: Path, data: Any, kind: str = "json") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "lines":
        text = "".join(json.dumps(row) + "\n" for row in data)
    elif kind == "concatenated":
        text = "\n".join(json.dumps(row, indent=2) for row in data)
    else:
        text = json.dumps(data, indent=2)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def score(tmp_path: Path) -> Any:
    """Score data and predictions given as values; returns metrics and n."""

    def run(
        name: str, data: Any, predictions: Any, kind: str = "json", answers_kind: str = "json", **options: Any
    ) -> tuple[dict[str, float], int]:
        paths = (
            write(tmp_path / "data.json", data, kind),
            write(tmp_path / "predictions.json", predictions, answers_kind),
        )
        result, _ = score_predictions(find_benchmark(name), *paths, **options)
        return result.metrics, result.n

    return run


def xgqa_answers(answers: dict[str, str] = XGQA_ANSWERS) -> list[dict[str, str]]:
    return [{"questionId": number, "prediction": answer} for number, answer in answers.items()]


@pytest.mark.parametrize("data", [XGQA, GQA])
def test_xgqa_in_both_layouts_and_variants(score: Any, data: Any) -> None:
    assert score("xgqa", data, xgqa_answers())[0]["accuracy"] == pytest.approx(100 / 3)
    assert score("xgqa", data, xgqa_answers(), variant="mblip")[0]["accuracy"] == pytest.approx(200 / 3)
    assert score("xgqa", data, XGQA_ANSWERS)[1] == 3  # an object {id: answer}


def test_xgqa_is_scored_over_the_questions_of_the_data(score: Any) -> None:
    assert score("xgqa", XGQA, xgqa_answers({**XGQA_ANSWERS, "99": "no"}))[1] == 3
    with pytest.raises(InputError, match=r"no prediction for 1 of the 3 items .* such as '3'.*--allow-missing"):
        score("xgqa", XGQA, xgqa_answers({"1": "no", "2": "ball"}))
    metrics, n = score("xgqa", XGQA, xgqa_answers({"1": "no", "2": "ball"}), allow_missing=True)
    assert (metrics["accuracy"], n) == (100, 2)


def test_xvnli_over_decided_and_over_all_rows(score: Any) -> None:
    answers = [
        {"id": "7.jpg#0", "answer": "Yes."}, {"id": "7.jpg#1", "answer": "contradiction"}, {"id": "7.jpg#2", "answer": "no"}
    ]  # fmt: skip
    metrics, n = score("xvnli", XVNLI, answers, "lines", "lines")
    assert (metrics["accuracy"], n) == (pytest.approx(200 / 3), 3)
    metrics, n = score("xvnli", XVNLI, [*answers, {"id": "7.jpg#3", "answer": "-"}], "lines", variant="iglue")
    assert (metrics["accuracy"], n) == (50, 4)  # "-" is no answer that could be right
    with pytest.raises(InputError, match="record 1 has the gold_label 'maybe'"):
        score("xvnli", [{**XVNLI[0], "gold_label": "maybe"}], answers)


def test_marvl_and_nlvr2(score: Any, tmp_path: Path) -> None:
    answers = [{"id": "sw-0", "answer": "yes"}, {"id": "sw-1", "answer": "True"}]
    assert score("marvl", MARVL, answers, "lines", language="sw") == (
        {"accuracy": 50.0, "relaxed": 0.5, "unparsed": 0.0}, 2
    )  # fmt: skip
    assert score("marvl", NLVR2, [{"identifier": r["identifier"], "answer": "no"} for r in NLVR2], "lines")[1] == 2
    with pytest.raises(InputError, match="record 1 is in 'sw', not in 'id'"):
        score("marvl", MARVL, answers, "lines", language="id")
    with pytest.raises(InputError, match="has the label 'maybe'; it should be yes or no, true or false, 1 or 0"):
        score("marvl", [{**MARVL[0], "label": "maybe"}], answers, "lines", language="sw")
    path = write(tmp_path / "marvl-sw.jsonl", MARVL, "lines")
    assert BENCHMARKS["marvl"].read(path, "sw")[0].images == (
        "sw/images/81-Dawati/81-5.jpg", "sw/images/81-Dawati/81-n-1.jpg"
    )  # fmt: skip


def test_maxm(score: Any) -> None:
    assert score("maxm", MAXM, [{"question_id": "q1", "answer": " Un chat"}], language="fr")[0] == {"accuracy": 100.0}


@pytest.mark.parametrize(
    ("variant", "accuracy"), [("official_2021", 100.0), ("official_pre2021", 100.0), ("mblip", 100.0), ("", 100.0)]
)
def test_vqa_variants(score: Any, variant: str, accuracy: float) -> None:
    answers = [{"question_id": 5, "answer": "net"}, {"question_id": 6, "answer": "1"}]
    assert score("vqa", VQA, answers, variant=variant) == ({"accuracy": accuracy}, 2)


def test_vqa_wants_the_annotations(score: Any) -> None:
    with pytest.raises(InputError, match="give the file of annotations"):
        score("vqa", {"questions": []}, [])
    with pytest.raises(InputError, match="no variant 'official'; did you mean 'official_2021'"):
        score("vqa", VQA, [], variant="official")


@pytest.mark.parametrize("kind", ["lines", "json"])
def test_pope_by_order_and_by_id(score: Any, kind: str) -> None:
    answers = [{"question": row["text"], "answer": "Yes, there is."} for row in POPE]
    metrics, n = score("pope", POPE, answers, kind, "lines")
    assert (metrics["accuracy"], metrics["yes_ratio"], n) == (50, 1, 2)
    ours = [{"id": str(row["question_id"]), "answer": row["label"]} for row in reversed(POPE)]
    assert score("pope", POPE, ours, kind)[0]["accuracy"] == 100
    with pytest.raises(InputError, match="record 1 answers 'Is there a cat"):
        score("pope", POPE, answers[::-1], kind, "lines")
    with pytest.raises(InputError, match="1 prediction without identifiers"):
        score("pope", POPE, answers[:1], kind, "lines")
    with pytest.raises(InputError, match="record 1 has the label 'maybe'"):
        score("pope", [{**POPE[0], "label": "maybe"}], answers, kind)


@pytest.mark.parametrize("kind", ["json", "lines", "concatenated"])
def test_chair_reads_every_form_of_captions(score: Any, kind: str) -> None:
    captions = [{"image_id": 7, "caption": "Two dogs."}, {"image_id": 8, "text": "A cat and a car.", "question_id": 3}]
    assert score("chair", CHAIR, captions, "lines", kind)[0]["chair_i"] == pytest.approx(1 / 3)
    metrics, n = score("chair", CHAIR, captions[:1], "lines", kind)  # the data are a look-up table
    assert (metrics["chair_s"], n) == (0, 1)


def test_chair_reads_lisaanne(score: Any) -> None:
    own = {"overall": {}, "imgToEval": {"7": {"caption": "Two dogs.", "image_id": 7}, "8": {"caption": "A car."}}}
    assert score("chair", CHAIR, own, "lines")[0]["chair_s"] == 0.5


def test_captions_of_coco(score: Any) -> None:
    metrics, n = score("captions", COCO, COCO_RESULTS)
    assert n == 2
    assert list(metrics) == ["Bleu_1", "Bleu_2", "Bleu_3", "Bleu_4", "ROUGE_L", "CIDEr"]
    assert metrics["Bleu_1"] == pytest.approx(8 / 9 * math.exp(1 - 11 / 9))  # 9 words against 5 + 6


def test_images_of_xflickrco_by_any_name(score: Any) -> None:
    by_name = [{"image_id": row["img_path"], "caption": row["sentences"][0]} for row in XFLICKRCO]
    by_number = [{"image_id": row["id"], "caption": row["sentences"][0]} for row in XFLICKRCO]
    expected = score("captions", XFLICKRCO, by_name, "lines", language="de")
    assert score("captions", XFLICKRCO, by_number, "lines", language="German") == expected
    assert expected[0]["CIDEr"] > 5


def test_xm3600_takes_the_images_of_the_language(score: Any) -> None:
    assert score("captions", XM3600, {"00aa": "sw 00aa", "00bb": "sw 00bb"}, "lines", language="sw")[1] == 2
    assert score("captions", XM3600, {"00aa": "he 00aa"}, "lines", language="iw")[1] == 1
    with pytest.raises(InputError, match="no captions in 'de'; its languages are sw, he"):
        score("captions", XM3600, {"00aa": "x"}, "lines", language="de")


def test_the_file_of_36_languages_is_read_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation_data.xm3600(tmp_path)
    path = tmp_path / "xm3600/captions.jsonl"
    reads: list[Path] = []
    read = raw.read_values
    monkeypatch.setattr(raw, "read_values", lambda path: reads.append(path) or read(path))
    with raw.files_kept():
        found = [captions.read(path, code)[0].gold for code in ("sw", "iw", "sw")]
    assert found[0] == found[2] == ("Mbwa kwenye nyasi.",) and found[1] == ("כלב על הדשא.",)
    assert len(reads) == 1
    path.write_text(path.read_text().replace("Mbwa kwenye", "Mbwa wawili kwenye"))
    with raw.files_kept():
        os.utime(path, ns=(1, 1))
        assert captions.read(path, "sw")[0].gold == ("Mbwa wawili kwenye nyasi.",)
        assert len(reads) == 2
    assert captions.read(path, "sw") and len(reads) == 3, "nothing is kept for good"
    for code in ("sw", "iw"):
        evaluation_data.pictures(tmp_path, captions.XM3600, code)
    reads.clear()
    load_tasks([captions.XM3600], tmp_path, ("sw", "iw"))
    assert reads == [path]


def test_our_own_predictions(score: Any) -> None:
    rows = [
        {
            "id": row.id,
            "benchmark": row.benchmark,
            "language": row.language,
            "images": [],
            "prompt": "p",
            "answer": row.answer,
        }
        for row in (Prediction(number, "xgqa", "de", (), "p", answer) for number, answer in XGQA_ANSWERS.items())
    ]
    assert score("xgqa", XGQA, rows, answers_kind="lines", language="de")[1] == 3
    with pytest.raises(InputError, match="record 1 is in 'de', not in 'en'"):
        score("xgqa", XGQA, rows, answers_kind="lines", language="en")


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([*COCO_RESULTS, {"image_id": 9, "caption": "x"}], r"record 3 is for '9', which is not in .*data\.json"),
        (COCO_RESULTS[:1], "no prediction for 1 of the 2 items"),
        ([*COCO_RESULTS, COCO_RESULTS[0]], "record 3 is a second prediction for '7'"),
        ([{"image_id": 7}], "record 1 needs a text in one of the fields prediction, .*caption, text, answer"),
        ([{"image_id": 7, "caption": None}], r"record 1 has no answer \(1 such row\)"),
        ([{"image_id": 7, "caption": ["x"]}], "needs a text as answer"),
        ([{"image_id": True, "caption": "x"}], "an identifier is a text or an integer"),
        ([{"caption": "x"}], "1 prediction without identifiers"),
        ([{"caption": "x"}, COCO_RESULTS[0]], "record 1 names no item"),
        ([], "holds no predictions"),
        ([3], "record 1 is a number, not an object"),
        ([[]], "record 1 is a list, not an object"),
    ],
)
def test_predictions_that_are_refused(score: Any, predictions: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score("captions", COCO, predictions)


def test_predictions_for_other_data_are_refused_even_where_some_may_be_missing(score: Any) -> None:
    with pytest.raises(InputError, match="record 1 is for '9'"):
        score("captions", COCO, [{"image_id": 9, "caption": "x"}], allow_missing=True)
    with pytest.raises(InputError, match="no prediction for any item"):
        score("xgqa", XGQA, {"99": "x"}, allow_missing=True)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ([XFLICKRCO[0]] * 2, "lines", "holds item '1007129816.jpg' twice"),
        ([{"img_path": "a.jpg"}], "lines", "record 1 lacks 'sentences', which should be a list"),
        ([{"img_path": "a.jpg", "sentences": []}], "lines", "must be a list of captions"),
        ({"annotations": []}, "json", "holds no items"),
    ],
)
def test_data_that_are_refused(score: Any, data: Any, kind: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        score("captions", data, COCO_RESULTS, kind)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"image_id": 7, "caption": "a do', "line 1 is cut off"),
        ('[{"image_id": 7,\n "caption": "a dog"},', "line 2 is cut off"),
        ('{"image_id": 7, "caption": "x"}\n{"image_id" 8}\n', "line 2 is not valid JSON"),
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("[" * 100_000, "is not valid JSON|cut off"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, message: str) -> None:
    data, predictions = write(tmp_path / "data.json", COCO), tmp_path / "predictions.json"
    predictions.write_text(text)
    with pytest.raises(InputError, match=message):
        score_predictions(BENCHMARKS["captions"], data, predictions)
    predictions.write_bytes(b'[{"image_id": 7, "caption": "\xff"}]')
    with pytest.raises(InputError, match="line 1: the byte 0xFF is not UTF-8; save the file as UTF-8"):
        score_predictions(BENCHMARKS["captions"], data, predictions)
    with pytest.raises(InputError, match="cannot read"):
        score_predictions(BENCHMARKS["captions"], data, tmp_path / "none.json")


@pytest.mark.parametrize(
    ("text", "message"), [("[" * 100_000, "data.json"), (f"[{'9' * 5000}]", "data.json holds a number with thousands")]
)
def test_broken_data(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "data.json").write_text(text)
    for name in ("xgqa", "marvl"):
        with pytest.raises(InputError, match=message):
            score_predictions(BENCHMARKS[name], tmp_path / "data.json", write(tmp_path / "p.json", XGQA_ANSWERS))


def test_the_language_is_read_from_the_path_and_must_not_contradict_it(tmp_path: Path) -> None:
    data = write(tmp_path / "xFlickrCO/de/test.jsonl", XFLICKRCO, "lines")
    answers = write(tmp_path / "p.json", {row["img_path"]: row["sentences"][0] for row in XFLICKRCO})
    assert score_predictions(BENCHMARKS["captions"], data, answers)[0].language == "de"
    assert score_predictions(BENCHMARKS["captions"], tmp_path, answers, "de")[0].n == 2  # found below a root
    with pytest.raises(InputError, match="is in 'de' by its path, not in 'ja'"):
        score_predictions(BENCHMARKS["captions"], data, answers, "ja")
    with pytest.raises(InputError, match=r"holds no captions annotations in 'tr': looked for tr/test.jsonl"):
        score_predictions(BENCHMARKS["captions"], tmp_path, answers, "tr")
    with pytest.raises(InputError, match="unknown language 'xx'"):
        score_predictions(BENCHMARKS["captions"], data, answers, "xx")


@pytest.mark.parametrize(
    ("name", "file", "language"),
    [
        ("xvnli", "en/dev-ar_gmt.jsonl", "ar"),  # translated from English
        ("captions", "de/test_gmt.jsonl", "en"),  # German captions in English
        ("marvl", "few_shot/marvl-sw_train4.jsonl", "sw"),  # by its rows
    ],
)
def test_the_language_of_translations_and_of_rows(tmp_path: Path, name: str, file: str, language: str) -> None:
    rows = {"xvnli": XVNLI, "captions": XFLICKRCO, "marvl": MARVL}[name]
    data = write(tmp_path / file, rows, "lines")
    ids = [row.get("pairID") or row.get("img_path") or row["id"] for row in rows]
    answers = write(tmp_path / "p.json", dict.fromkeys(ids, "no"))
    assert score_predictions(BENCHMARKS[name], data, answers)[0].language == language
    assert score_predictions(BENCHMARKS[name], data, answers, language)[0].language == language


def test_the_language_is_read_from_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "ja/test.jsonl", XFLICKRCO, "lines")
    answers = write(tmp_path / "p.json", {row["img_path"]: row["sentences"][0] for row in XFLICKRCO})
    monkeypatch.chdir(tmp_path / "ja")
    assert score_predictions(BENCHMARKS["captions"], Path("test.jsonl"), answers)[0].language == "ja"


def test_a_question_or_an_answer_that_stands_twice_is_refused(tmp_path: Path) -> None:
    twice = tmp_path / "twice.json"
    twice.write_text('{"1": "no", "2": "ball", "3": "left", "1": "yes"}')
    with pytest.raises(InputError, match=r"twice\.json has the name '1' twice in one object"):
        score_predictions(BENCHMARKS["xgqa"], write(tmp_path / "d.json", XGQA), twice)
    twice.write_text('{"1": {"question": "a", "imageId": "n", "answer": "no"}, "1": {}}')
    with pytest.raises(InputError, match=r"twice\.json has the name '1' twice in one object"):
        score_predictions(BENCHMARKS["xgqa"], twice, write(tmp_path / "p.json", XGQA_ANSWERS))


def test_rows_that_name_their_item_in_another_field_are_not_taken_by_order(score: Any) -> None:
    captions = [{"file": row["img_path"], "caption": row["sentences"][0]} for row in reversed(XFLICKRCO)]
    with pytest.raises(
        InputError, match=r"record 1 does not name its item in any of the fields .*; rename .* file, caption"
    ):
        score("captions", XFLICKRCO, captions, "lines", language="de")
    assert score("chair", CHAIR, [{"image": CHAIR[0]["image"], "caption": "A dog."}], "lines")[1] == 1


@pytest.mark.parametrize("field", ["question", "prompt"])
def test_answers_to_another_split_of_the_same_numbers_are_refused(score: Any, field: str) -> None:
    answers = [{"question_id": row["question_id"], field: f"{row['text']} Yes or no?", "answer": "no"} for row in POPE]
    assert score("pope", POPE, answers)[1] == 2
    with pytest.raises(
        InputError, match=r"record 1 answers 'Is there a dog .*has the question 'Is there a car in the image"
    ):
        score("pope", [{**POPE[0], "text": "Is there a car in the image?"}, POPE[1]], answers)


def test_a_segmenter_where_nothing_is_cut_and_an_object_outside_the_set_are_refused(score: Any) -> None:
    with pytest.raises(InputError, match="xgqa needs no segmentation, so segmenter 'spacy' has no effect"):
        score("xgqa", XGQA, XGQA_ANSWERS, segmenter="spacy")
    with pytest.raises(InputError, match="record 1 has the object 'puppy', which is not one of COCO's 80"):
        score("chair", [{**CHAIR[0], "objects": ["dog", "puppy"]}], [{"image_id": 7, "caption": "A dog."}], "lines")


def test_a_score_names_everything_it_depends_on(tmp_path: Path) -> None:
    data, answers = write(tmp_path / "d.json", XGQA), write(tmp_path / "p.json", XGQA_ANSWERS)
    result, scored = score_predictions(BENCHMARKS["xgqa"], data, answers, "de", "mblip")
    fingerprint = result.fingerprint
    assert len(fingerprint["data_sha256"]) == len(fingerprint["predictions_sha256"]) == 64
    assert fingerprint["variant"] == "mblip"
    # Whose words asked for these predictions, and how they were decoded, nobody knows.
    assert result.protocol == "predictions" and not {"prompt", "decoding"} & set(fingerprint)
    assert fingerprint["items_in_data"] == 3 and "numpy" in fingerprint["versions"]
    assert scored.per_item["accuracy"].tolist() == [1, 1, 0]
    low, high = result.ci95["accuracy"]
    assert 0 <= low < 200 / 3 < high <= 100


def test_prompts_are_those_of_the_paper() -> None:
    def prompt(name: str, text: str, language: str) -> str:
        benchmark = BENCHMARKS[name]
        return load_prompts("paper", [benchmark])[name, language].format(text=text)

    assert prompt("xgqa", "Wo?", "de") == "Question: Wo? Short answer in English:"
    assert prompt("xvnli", "Il lit.", "fr") == (
        'Is it guaranteed true that "Il lit."? Yes, no, or maybe? Answer in English:'
    )
    assert prompt("marvl", "Kuna", "sw") == (
        'Based on the two images, is it correct to say "Kuna"? Yes or no? Answer in English:'
    )
    assert prompt("maxm", "Qui ?", "fr") == "Question: Qui ? Short answer in French:"
    assert prompt("vqa", "Who?", "en") == "Question: Who? Short answer in English:"
    assert prompt("pope_random", "Is there a dog?", "en") == "Is there a dog?"
    assert prompt("xm3600", "", "sw") == "Caption in Swahili: "
    assert prompt("chair", "", "en") == "Describe the image in English with as much detail as possible."


def test_the_registry() -> None:
    assert len(BENCHMARKS) == 24
    assert len(BENCHMARKS["xm3600"].languages) == 36
    assert {name: BENCHMARKS[name].variants for name in ("xgqa", "xvnli", "vqa")} == {
        "xgqa": ("iglue", "mblip"),
        "xvnli": ("mblip", "iglue"),
        "vqa": ("official_2021", "official_pre2021", "mblip"),
    }
    with pytest.raises(InputError, match="unknown benchmark 'xgq'; did you mean 'xgqa'"):
        find_benchmark("xgq")


def test_the_command_line(tmp_path: Path) -> None:
    data, answers = write(tmp_path / "d.json", XGQA), write(tmp_path / "p.json", XGQA_ANSWERS)
    command = ["score", "xgqa", "--data", str(data), "--predictions", str(answers)]
    result = CliRunner().invoke(app, [*command, "--variant", "mblip", "--json"])
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    assert list(printed) == ["metrics", "n", "fingerprint"]
    assert (printed["metrics"]["accuracy"], printed["n"]) == (pytest.approx(200 / 3), 3)
    shown = CliRunner().invoke(app, command).stdout
    assert "accuracy" in shown and "33.33 %" in shown
    with pytest.raises(InputError, match=r"there is no none\.json"):
        CliRunner().invoke(app, [*command[:-1], "none.json"], catch_exceptions=False)


def test_a_root_with_several_files_that_may_be_meant_is_refused(tmp_path: Path) -> None:
    evaluation_data.vqa(tmp_path)
    annotations = tmp_path / "vqa/v2_mscoco_val2014_annotations.json"
    train = annotations.with_name("v2_mscoco_train2014_annotations.json")
    train.write_text(annotations.read_text())
    assert BENCHMARKS["vqa"].find(tmp_path, "en") == annotations
    annotations.rename(annotations.with_name("other_annotations.json"))
    with pytest.raises(InputError, match=r"2 files that may be the vqa .*: other_annotations.json, v2_mscoco_train"):
        BENCHMARKS["vqa"].find(tmp_path, "en")
    train.unlink()
    assert BENCHMARKS["vqa"].find(tmp_path, "en").name == "other_annotations.json"
    evaluation_data.pope(tmp_path, {"coco_pope_random": "1.jpg"})
    assert BENCHMARKS["pope"].find(tmp_path, "en").name == "coco_pope_random.json"
    evaluation_data.pope(tmp_path, {"coco_pope_popular": "1.jpg"})
    with pytest.raises(InputError, match=r"2 files that may be the pope .*: coco_pope_popular.json, coco_pope_r"):
        BENCHMARKS["pope"].find(tmp_path, "en")


def test_captions_of_a_root_are_not_those_of_xvnli(tmp_path: Path) -> None:
    evaluation_data.xvnli(tmp_path, "es")
    evaluation_data.xflickrco(tmp_path, "es")
    assert BENCHMARKS["captions"].find(tmp_path, "es").parts[-4] == "xFlickrCO"


def test_doubled_blanks_make_no_other_question(score: Any) -> None:
    asked = [{**POPE[0], "text": "Is there  a dog in the image? "}, POPE[1]]
    answers = [{"question": " ".join(str(row["text"]).split()), "answer": "no"} for row in asked]
    assert score("pope", asked, answers, "lines", "lines")[1] == 2
    assert score("pope", POPE, [{**answers[0], "question": asked[0]["text"]}, answers[1]], "lines", "lines")[1] == 2


def test_a_row_in_an_unknown_language_is_named(score: Any, tmp_path: Path) -> None:
    data = [MARVL[0], {**MARVL[1], "language": "swahilli"}]
    with pytest.raises(InputError, match=r"record 2: unknown language 'swahilli'; did you mean 'sw' .Swahili."):
        score("marvl", data, {"sw-0": "yes", "sw-1": "no"}, "lines", language="sw")
    with pytest.raises(InputError, match=r"record 1: unknown language 'swahilli'"):
        score("marvl", [data[1], data[0]], {"sw-0": "yes", "sw-1": "no"}, "lines")
    ours = [{"benchmark": "marvl", "id": "sw-0", "language": "xx", "answer": "yes"}]
    with pytest.raises(InputError, match=r"record 1: unknown language 'xx'"):
        score("marvl", MARVL, ours, "lines", "lines", language="sw")


def test_a_caption_that_is_no_object_makes_no_smaller_denominator(score: Any) -> None:
    captions = {"7": {"caption": "A dog."}, "8": "A cat."}
    with pytest.raises(InputError, match=r"imgToEval 2 is a text, not an object"):
        score("chair", CHAIR, {"overall": {}, "imgToEval": captions}, "lines")


@pytest.mark.parametrize(("images", "message"), [(5, "has 5 for 'images'"), ([5], "image 1 is a number")])
def test_images_of_coco_that_are_no_list_of_objects(score: Any, images: Any, message: str) -> None:
    data = {"images": images, "annotations": [{"image_id": 1, "caption": "A dog."}]}
    with pytest.raises(InputError, match=message):
        score("captions", data, [{"image_id": 1, "caption": "A dog."}])


def test_data_that_do_not_exist(tmp_path: Path) -> None:
    predictions = write(tmp_path / "p.json", XGQA_ANSWERS)
    with pytest.raises(InputError, match=r"none\.json does not exist; give the annotation file"):
        score_predictions(BENCHMARKS["xgqa"], tmp_path / "none.json", predictions)


def test_pope_as_the_original_mblip_reads_it(score: Any) -> None:
    """Exact match after cleaning: an answer in a sentence is wrong there and right in POPE's own reading."""
    answers = [{"question_id": 1, "answer": "Yes, there is a dog."}, {"question_id": 2, "answer": "No."}]
    assert score("pope", POPE, answers, variant="mblip")[0] == {"accuracy": 50.0, "relaxed": 1.0, "unparsed": 0.5}
    assert score("pope", POPE, answers)[0]["accuracy"] == 100
