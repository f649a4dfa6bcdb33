"""The data of a report: scores of runs side by side, with means, gaps and tests. The writers only format it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mblip.errors import InputError, counted
from mblip.evaluation.about import About, read_about
from mblip.evaluation.metric import Metric
from mblip.evaluation.results import ItemScore, Run, items_path, read_items, read_run, read_scores
from mblip.evaluation.statistics import (
    Comparison,
    Sample,
    english_gap,
    holm,
    language_groups,
    macro_averages,
    macro_intervals,
    paired_languages,
)
from mblip.languages import find_language
from mblip.report.published import Published, load_published
from mblip.schema import Score

# Scores of one benchmark and language that differ in any of these cannot be compared.
_MUST_AGREE = (
    "data_sha256", "sets", "chosen_by_sha256", "items_in_data", "variant", "segmenter", "normaliser", "prompts", "prompt",
    "pictures",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value in the metric's own unit, with its 95 % interval if the metric is a mean over items."""

    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class RunScores:
    """One run on one benchmark.

    Attributes:
        scores: Scores by mC4 code.
        means: Means by group of languages (:func:`~mblip.evaluation.statistics.language_groups`).
        english: The score in English.
        english_from: The benchmark of that score: this one, or the one that serves as its English part (NLVR2 for
            MaRVL).
        gap: English minus the mean of the other languages.
        fidelity: Mean share of answers in the requested language, over the languages that a detector can identify.
        fidelity_untold: Languages that no detector can identify.
    """

    scores: dict[str, Score]
    means: dict[str, Estimate]
    english: Estimate | None = None
    english_from: str = ""
    gap: Estimate | None = None
    fidelity: float | None = None
    fidelity_untold: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BenchmarkSummary:
    """One benchmark.

    Attributes:
        about: The runs' description of the benchmark.
        metric: The metric in the figures; tables have all.
        metrics: All metrics of its scores, by name.
        languages: English first, then by share of mC4.
        runs: Scores by name of the run, for runs that were evaluated on it.
    """

    about: About
    metric: Metric
    metrics: dict[str, Metric]
    languages: tuple[str, ...]
    runs: dict[str, RunScores]

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        return self.about.name

    @property
    def stand_ins(self) -> list[str]:
        """Other benchmarks that serve as its English part."""
        return sorted({result.english_from for result in self.runs.values()} - {"", self.name})


@dataclass(frozen=True, slots=True)
class PairedTest:
    """A test of two runs on one benchmark: ``rows`` by language and group, ``adjusted`` p values by language (Holm)."""

    benchmark: str
    metric: Metric
    first: str
    second: str
    rows: dict[str, Comparison]
    adjusted: dict[str, float]


@dataclass(frozen=True, slots=True)
class Report:
    """All data of a report.

    Attributes:
        runs: The runs by name.
        directories: Directories of the runs.
        benchmarks: Summaries in the order of evaluation.
        tests: Each further run against the first.
        published: Published values of other works on these benchmarks.
        cautions: Warnings about comparisons.
    """

    runs: dict[str, Run]
    directories: dict[str, Path]
    benchmarks: list[BenchmarkSummary]
    tests: list[PairedTest] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    cautions: list[str] = field(default_factory=list)


def summarize(directories: Sequence[Path]) -> Report:
    """Read runs of ``mblip eval`` and compare them.

    Args:
        directories: Directories of the runs; later ones are tested against the first.

    Raises:
        InputError: A directory is not such a run, is named twice, is damaged or has no score.
    """
    read = _read_runs(directories)
    names = _names(read)
    runs = {name: read[path] for name, path in names.items()}
    scores = {name: _read_scores(path) for name, path in names.items()}
    about = _read_about(names, scores)
    samples = {name: _samples(path, scores[name]) for name, path in names.items()}
    cautions = [
        f"{name} used only the first {counted(run.limit, 'image')} of each benchmark."
        for name, run in runs.items()
        if run.limit is not None
    ]
    cautions += _remarks(scores)
    benchmarks, tests = [], []
    for benchmark in about.values():
        by_run = {
            name: {score.language: score for score in held if score.benchmark == benchmark.name}
            for name, held in scores.items()
        }
        by_run = {name: held for name, held in by_run.items() if held}
        metric = _main_metric(benchmark, [score for held in by_run.values() for score in held.values()])
        results = {name: _summarize(benchmark, metric, held, samples[name]) for name, held in by_run.items()}
        every = {name: benchmark.metric(name) for held in by_run.values() for s in held.values() for name in s.metrics}
        languages = _order({code for held in by_run.values() for code in held})
        benchmarks.append(BenchmarkSummary(benchmark, metric, every, languages, results))
        first, *others = by_run
        for other in others:
            cautions += _differences(benchmark.name, (first, by_run[first]), (other, by_run[other]))
            found, caution = _test(benchmark.name, metric, (first, samples[first]), (other, samples[other]))
            cautions += caution
            tests += found
    published = [row for row in load_published() if row.benchmark in about]
    return Report(runs, names, benchmarks, tests, published, cautions)


def _names(runs: Mapping[Path, Run]) -> dict[str, Path]:
    """A short name for each run: its model's, and the folder of the run too where several runs are of one model."""
    models = dict(zip(runs, _shortened([Path(run.model or path).parts for path, run in runs.items()]), strict=True))
    folders = dict(zip(runs, _shortened([path.resolve().parts for path in runs]), strict=True))
    alike = Counter(models.values())
    return {model if alike[model] == 1 else f"{model} ({folders[path]})": path for path, model in models.items()}


def _shortened(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """The end of each path, as long as it takes to tell those that differ from each other."""
    depth = 1
    while len({path[-depth:] for path in paths}) < len(set(paths)):
        depth += 1
    return ["/".join(path[-depth:]) for path in paths]


def _read_runs(directories: Sequence[Path]) -> dict[Path, Run]:
    resolved = [Path(path).resolve() for path in directories]
    if len(set(resolved)) < len(resolved):
        twice = next(path for path in resolved if resolved.count(path) > 1)
        raise InputError(f"{twice} is named twice; name each run once")
    return {Path(path): read_run(Path(path)) for path in directories}


def _read_scores(directory: Path) -> list[Score]:
    scores = read_scores(directory)
    if not scores:
        raise InputError(f"{directory} holds no scores; run mblip eval on it again")
    for score in scores:
        where = f"{directory}: {score.benchmark} ({score.language})"
        find_language(score.language)
        if not score.metrics:
            raise InputError(f"{where} has no metrics; run mblip eval again")
        for name, value in score.metrics.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"{where} has {name} {value!r}, which is not a number; run mblip eval again")
    return scores


def _read_about(names: dict[str, Path], scores: dict[str, list[Score]]) -> dict[str, About]:
    """The runs' descriptions of their benchmarks, in the order of evaluation.

    Raises:
        InputError: Two runs have values of one metric in different units.
    """
    found: dict[str, About] = {}
    for run, path in names.items():
        for name, about in read_about(path, dict.fromkeys(score.benchmark for score in scores[run])).items():
            known = found.setdefault(name, about)
            for metric in about.metrics:
                if known.metric(metric.name).unit != metric.unit:
                    raise InputError(
                        f"{path} and another run have {metric.name} of {name} in different units; evaluate both with "
                        "one version of mblip"
                    )
    return found


Samples = dict[tuple[str, str], list[ItemScore]]


def _samples(directory: Path, scores: Sequence[Score]) -> Samples:
    samples = {(s.benchmark, s.language): read_items(directory, s.benchmark, s.language) for s in scores}
    for (benchmark, code), items in samples.items():
        if not items:
            raise InputError(
                f"{items_path(directory, benchmark, code)} holds no items; run mblip eval on {directory} again"
            )
    return samples


def _values(samples: Samples, benchmark: str, metric: Metric) -> dict[str, Sample]:
    """The values of a metric by language, in its own unit; empty if it is not a mean over items."""
    found = {}
    for (name, code), items in samples.items():
        if name == benchmark and all(metric.name in item.values for item in items):
            values = [metric.scale * item.values[metric.name] for item in items]
            found[code] = Sample(values, [(name, *item.images) for item in items])
    return found


def _summarize(benchmark: About, metric: Metric, scores: dict[str, Score], samples: Samples) -> RunScores:
    values = {code: score.metrics[metric.name] for code, score in scores.items()}
    drawn = _values(samples, benchmark.name, metric)
    intervals = macro_intervals(drawn) if set(drawn) == set(scores) else {}
    means = {name: Estimate(value, intervals.get(name)) for name, value in macro_averages(values).items()}
    source = benchmark.name if "en" in scores else benchmark.english
    english = _values(samples, source, metric).get("en") if source else None
    gap = None
    if english is not None and len(with_english := {**drawn, "en": english}) > 1 and set(with_english) >= set(scores):
        found = english_gap(with_english)
        gap = Estimate(found.difference, found.interval)
    stands = scores.get("en")
    best = _estimate(stands, metric) if stands else None
    if best is None and english is not None:
        best = Estimate(float(np.mean(np.asarray(english.values))), macro_intervals({"en": english})["all"])
    known = [score.language_fidelity for score in scores.values() if score.language_fidelity is not None]
    unknown = tuple(code for code, score in scores.items() if known and score.language_fidelity is None)
    return RunScores(
        {code: scores[code] for code in _order(scores)}, means, best, source if best else "", gap,
        sum(known) / len(known) if known else None, unknown,
    )  # fmt: skip


def _estimate(score: Score, metric: Metric) -> Estimate:
    return Estimate(score.metrics[metric.name], score.ci95.get(metric.name))


def _main_metric(benchmark: About, scores: Sequence[Score]) -> Metric:
    """The first declared metric that all scores have."""
    common = set.intersection(*(set(score.metrics) for score in scores))
    if not common:
        raise InputError(
            f"the scores of {benchmark.name} have no metric in common; evaluate them with one version of mblip"
        )
    return next((metric for metric in benchmark.metrics if metric.name in common), Metric(min(common)))


def _order(codes: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(codes, key=lambda code: (code != "en", -find_language(code).mc4_share, code)))


def _remarks(scores: dict[str, list[Score]]) -> list[str]:
    """Remarks stored with the scores of runs, such as that answers differ from the gold ones in spelling alone."""
    return [
        f"{score.benchmark} ({score.language}), {name}: {score.fingerprint['remark']}."
        for name, held in scores.items()
        for score in held
        if "remark" in score.fingerprint
    ]


def _differences(
    benchmark: str, first: tuple[str, dict[str, Score]], second: tuple[str, dict[str, Score]]
) -> list[str]:
    """The reasons why scores of two runs cannot be compared, one sentence per field."""
    (ours, mine), (theirs, other) = first, second
    found: dict[str, list[str]] = {}
    for code in mine.keys() & other.keys():
        for name in _MUST_AGREE:
            if mine[code].fingerprint.get(name) != other[code].fingerprint.get(name):
                found.setdefault(name, []).append(code)
        if mine[code].protocol != other[code].protocol:
            found.setdefault("protocol", []).append(code)
    return [
        f"{benchmark}: {ours} and {theirs} differ in {name} ({', '.join(sorted(codes))})."
        for name, codes in sorted(found.items())
    ]


def _test(
    benchmark: str, metric: Metric, first: tuple[str, Samples], second: tuple[str, Samples]
) -> tuple[list[PairedTest], list[str]]:
    """Test the second run against the first, in the languages where both have answered the same items."""
    (ours, mine), (theirs, other) = first, second
    values, against = _values(mine, benchmark, metric), _values(other, benchmark, metric)
    shared, cautions = [], []
    for code in _order(values.keys() & against.keys()):
        ids, ids_other = ([item.id for item in found[benchmark, code]] for found in (mine, other))
        if ids == ids_other:
            shared.append(code)
        else:
            cautions.append(f"{benchmark} ({code}): {ours} and {theirs} have different items, so they are not tested.")
    if not shared:
        return [], cautions or [f"{benchmark}: {metric.name} of {ours} and {theirs} cannot be tested item by item."]
    pairs = paired_languages({code: against[code] for code in shared}, {code: values[code].values for code in shared})
    groups = language_groups(shared)
    adjusted = holm({code: pairs[code].p_value for code in shared})
    rows = {name: pairs[name] for name in [*groups, *shared]}
    return [PairedTest(benchmark, metric, ours, theirs, rows, adjusted)], cautions
