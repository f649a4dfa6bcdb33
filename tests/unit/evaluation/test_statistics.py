"""Intervals, tests and means over languages."""

from typing import Any

import numpy as np
import pytest

from mblip.evaluation.statistics import (
    Comparison,
    Sample,
    bootstrap_interval,
    holm,
    language_groups,
    macro_averages,
    macro_intervals,
    paired_languages,
    resource_group,
)


def test_an_interval_of_separate_items_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(0).random(2000) < 0.3
    low, high = bootstrap_interval(values, range(2000), 2000)
    half = 1.96 * np.sqrt(values.mean() * (1 - values.mean()) / 2000)
    assert low == pytest.approx(values.mean() - half, abs=0.003)
    assert high == pytest.approx(values.mean() + half, abs=0.003)


def test_items_of_one_picture_widen_the_interval() -> None:
    pictures = np.random.default_rng(0).random(100) < 0.5
    values = np.repeat(pictures, 24)  # all questions of a picture right or wrong together
    clustered = bootstrap_interval(values, np.repeat(np.arange(100), 24).tolist(), 1000)
    apart = bootstrap_interval(values, range(2400), 1000)
    assert (clustered[1] - clustered[0]) / (apart[1] - apart[0]) == pytest.approx(np.sqrt(24), rel=0.15)


def test_an_interval_covers_the_truth_about_95_times_in_100() -> None:
    rng, covered = np.random.default_rng(1), 0
    for _ in range(200):
        pictures = np.repeat(rng.random(60), 5)
        values = rng.random(300) < pictures
        low, high = bootstrap_interval(values, np.repeat(np.arange(60), 5).tolist(), 300)
        covered += low <= 0.5 <= high
    assert 0.9 <= covered / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.arange(50) % 3 == 0
    assert bootstrap_interval(values, range(50), 500) == bootstrap_interval(values, range(50), 500)
    assert bootstrap_interval(values, range(50), 500) != bootstrap_interval(values, range(50), 500, seed=1)


def _compared(first: Any, second: Any, draws: int, seed: int = 0) -> Comparison:
    sample = Sample(first, range(len(first)))
    return paired_languages({"de": sample}, {"de": second}, draws, seed)["de"]


def test_paired_runs() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(500) < 0.6
    same = _compared(first, first, 1000)
    assert (same.difference, same.p_value) == (0, 1)
    worse = first & (rng.random(500) < 0.8)
    better = _compared(first, worse, 1000)
    assert better.difference == pytest.approx(first.mean() - worse.mean())
    assert better.interval[0] > 0 and better.p_value < 0.01


def test_p_values_without_a_difference_are_spread_evenly() -> None:
    rng = np.random.default_rng(2)
    values = [_compared(rng.random(200) < 0.5, rng.random(200) < 0.5, 300, seed).p_value for seed in range(150)]
    assert 0.4 < np.mean(values) < 0.6
    assert np.mean(np.array(values) < 0.05) < 0.12


def test_unequal_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="3 items against 2"):
        _compared([1, 2, 3], [1, 2], 10)
    with pytest.raises(ValueError, match="2 scores with 3 images"):
        bootstrap_interval([1, 0], range(3))


def test_macro_averages() -> None:
    scores = {"en": 60.0, "de": 50.0, "sw": 30.0, "quz": 10.0}
    assert [resource_group(code) for code in scores] == ["high", "high", "low", "low"]
    assert macro_averages(scores) == {"all": 37.5, "without_english": 30.0, "low": 20.0, "high": 50.0}


def test_groups_name_their_languages() -> None:
    assert language_groups(["en", "de", "sw"]) == {
        "all": ["en", "de", "sw"], "without_english": ["de", "sw"], "low": ["sw"], "high": ["de"]
    }  # fmt: skip
    assert language_groups(["en"]) == {"all": ["en"]}


def test_the_interval_of_one_language_is_that_of_its_own_bootstrap() -> None:
    values = np.random.default_rng(0).random(400) < 0.4
    images = np.repeat(np.arange(100), 4).tolist()
    alone = bootstrap_interval(values, images, 4000)
    assert macro_intervals({"de": Sample(values, images)}, 4000)["all"] == pytest.approx(alone, abs=0.006)


def test_pictures_that_all_languages_share_do_not_make_means_over_languages_more_certain() -> None:
    hard = np.random.default_rng(1).random(200) < 0.5  # a picture is right in every language or in none
    shared = {code: Sample(hard, range(200)) for code in ("de", "fr", "ru", "zh")}
    apart = {code: Sample(hard, range(k * 200, k * 200 + 200)) for k, code in enumerate(shared)}
    (low, high), (inner_low, inner_high) = (macro_intervals(found)["all"] for found in (shared, apart))
    assert (high - low) / (inner_high - inner_low) == pytest.approx(2, rel=0.15)


def test_runs_are_compared_by_language_and_in_the_means() -> None:
    rng = np.random.default_rng(3)
    first = {code: rng.random(300) < 0.6 for code in ("en", "de", "sw")}
    second = {**first, "sw": first["sw"] & (rng.random(300) < 0.5)}
    found = paired_languages({code: Sample(values, range(300)) for code, values in first.items()}, second)
    assert (found["en"].difference, found["en"].p_value) == (0, 1)
    assert found["sw"].p_value < 0.01 and found["low"].difference == pytest.approx(found["sw"].difference)
    assert found["all"].difference == pytest.approx(found["sw"].difference / 3)
    assert found["without_english"].interval[0] > 0
    with pytest.raises(ValueError, match="against"):
        paired_languages({"de": Sample([1], ["a"])}, {"fr": [1]})
    with pytest.raises(ValueError, match="de: 1 items against 2"):
        paired_languages({"de": Sample([1], ["a"])}, {"de": [1, 0]})


def test_languages_with_few_pictures_of_their_own_have_whole_intervals() -> None:
    # In MaRVL no two languages share a picture: of two a language, many draws hold none of one or of another.
    samples = {code: Sample([1, 0], [(code, 0), (code, 1)]) for code in ("id", "sw", "ta")}
    found = paired_languages(samples, {code: [0, 0] for code in samples})
    assert {"id", "sw", "ta", "all", "low"} <= set(found)
    for comparison in found.values():
        assert comparison.difference == 0.5 and comparison.interval == pytest.approx((0, 1), abs=0.2)
        assert 0 < comparison.p_value <= 1
    # A draw without any of a group's pictures says nothing of the group, not 0.
    right = {code: Sample([1, 1], sample.images) for code, sample in samples.items()}
    assert macro_intervals(right)["low"] == (1, 1)


def test_holm() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({}) == {}
