"""Two runs in one sentence: the better one first, where and by how much."""

from __future__ import annotations

import pytest

from mblip.evaluation.metric import Metric
from mblip.evaluation.statistics import Comparison
from mblip.report.summary import PairedTest, Report
from mblip.report.verdict import verdicts

PERCENT = Metric("accuracy", "%", True, decimals=1)


def said(metric: Metric, rows: dict[str, Comparison], adjusted: dict[str, float]) -> str:
    (sentence,) = verdicts(Report({}, {}, [], [PairedTest("xgqa", metric, "old", "new", rows, adjusted)]))
    return sentence


def row(difference: float, low: float, high: float) -> Comparison:
    return Comparison(difference, (low, high), 0.01)


def test_the_better_run_comes_first_with_where_and_how_much() -> None:
    rows = {
        "all": row(4.6, 2.7, 6.4),
        "de": row(9, 7, 11),
        "sw": row(3, 1, 5),
        "ja": row(-2, -3, -1),
        "en": row(1, -1, 3),
    }
    assert said(PERCENT, rows, {"de": 0.001, "sw": 0.04, "ja": 0.02, "en": 0.6}) == (
        "xgqa, accuracy: new is better than old by 4.6 points on the mean of 4 languages (95 % interval 2.7 to 6.4); "
        "new is better in German and Swahili and worse in Japanese."
    )


@pytest.mark.parametrize(
    ("higher", "leader"),
    [(True, "old is better than new"), (False, "new is better than old"), (None, "old is higher than new")],
)
def test_less_may_be_better(higher: bool | None, leader: str) -> None:
    metric = Metric("CHAIR", "%", higher, decimals=1)
    rows = {"all": row(-4, -6, -2), "de": row(-4, -6, -2), "sw": row(-4, -6, -2)}
    sentence = said(metric, rows, {"de": 0.01, "sw": 0.2})
    assert f"{leader} by 4.0 points on the mean of 2 languages (95 % interval 2.0 to 6.0)" in sentence
    assert "in German and" in sentence and "Swahili" not in sentence


def test_what_cannot_be_told_apart_is_not_called_better() -> None:
    rows = {"all": row(-0.3, -1.1, 0.5), "de": row(-0.3, -1.1, 0.5), "sw": row(-0.3, -1.1, 0.5)}
    assert said(PERCENT, rows, {"de": 0.4, "sw": 0.4}) == (
        "xgqa, accuracy: old and new cannot be told apart on the mean of 2 languages (difference 0.3 points, 95 % interval "
        "-0.5 to 1.1); no single language differs for certain."
    )


def test_one_language_and_a_metric_without_unit() -> None:
    metric = Metric("CIDEr", "", True, decimals=3)
    assert said(metric, {"de": row(0.25, 0.1, 0.4)}, {"de": 0.01}) == (
        "xgqa, CIDEr: new is better than old by 0.250 in German (95 % interval 0.100 to 0.400)."
    )


def test_many_languages_are_counted() -> None:
    codes = ["de", "sw", "ja", "fr", "es", "it", "ru"]
    rows = {"all": row(5, 4, 6), **{code: row(5 + n, 4, 6) for n, code in enumerate(codes)}}
    sentence = said(PERCENT, rows, dict.fromkeys(codes, 0.001))
    assert "better in Russian, Italian, Spanish, French, Japanese and 2 more and worse in no language" in sentence
