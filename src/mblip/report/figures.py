"""The content of ``mblip report``'s page, section by section, for ``templates/report.html.j2``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from mblip.evaluation.metric import Metric
from mblip.languages import find_language
from mblip.report.published import Source
from mblip.report.render import Bar, Table, TableCell, render, ticks
from mblip.report.samples import SampleCard
from mblip.report.summary import BenchmarkSummary, Estimate, PairedTest, Report, RunScores
from mblip.report.values import GROUPS, p_value, show_estimate, show_share
from mblip.report.verdict import verdicts
from mblip.schema import Score

UNFOLDED = 4
"""Languages of a sample card that are shown at once; a click shows the others."""
FOLDED = 6
"""Rows of a test beyond which a click shows them: its sentence stands at the top of the page."""


def draw_page(report: Report, cards: Sequence[SampleCard]) -> str:
    """The complete report as one HTML document without external files."""
    runs = list(report.runs)
    several = [benchmark for benchmark in report.benchmarks if len(benchmark.languages) > 1]
    sources = list(dict.fromkeys(row.source for row in report.published))
    return render(
        "report.html.j2",
        title=f"Evaluation of {' and '.join(runs) if len(runs) < 3 else f'{len(runs)} runs'}",
        report=report,
        runs=runs,
        several=[
            (benchmark, _axis(benchmark), _strips(benchmark), _groups(benchmark, _language_bar))
            for benchmark in several
        ],
        means=_means(several),
        alone=list(_alone(report)),
        fidelity=[
            (benchmark, _groups(benchmark, _fidelity_bar), _untold(benchmark))
            for benchmark in report.benchmarks
            if any(result.fidelity is not None for result in benchmark.runs.values())
        ],
        share_axis=ticks(1),
        verdicts=verdicts(report),
        tests=list(_tests(report)),
        published=list(_published(report, sources)),
        sources=sources,
        cards=cards,
        unfolded=UNFOLDED,
        folded=FOLDED,
    )


def _means(benchmarks: Sequence[BenchmarkSummary]) -> Table:
    head = ["benchmark", "run", "English", "others", "gap", *GROUPS.values(), "in language", "languages"]
    rows = []
    for benchmark in benchmarks:
        name = TableCell(benchmark.name, benchmark.metric.title, strong=True)
        for run, result in benchmark.runs.items():
            estimates = [
                result.english,
                result.means.get("without_english"),
                result.gap,
                *map(result.means.get, GROUPS),
            ]
            english, *others = (_cell(estimate, benchmark.metric) for estimate in estimates)
            if result.english_from not in ("", benchmark.name):
                english = english._replace(small=f"{english.small} of {result.english_from}".strip())
            fidelity, count = TableCell(show_share(result.fidelity)), TableCell(str(len(result.scores)))
            rows.append([name, TableCell(run), english, *others, fidelity, count])
            name = TableCell("")
    # Drop empty columns, such as that of a group without languages.
    kept = [column for column in range(len(head)) if any(row[column].text for row in rows)]
    return Table([head[column] for column in kept], [[row[column] for column in kept] for row in rows])


def _cell(estimate: Estimate | None, metric: Metric) -> TableCell:
    """A value above its interval."""
    value, _, interval = show_estimate(estimate, metric).partition(" [")
    return TableCell(value, interval.rstrip("]").replace(", ", " to "))


def _axis(benchmark: BenchmarkSummary) -> list[float]:
    metric = benchmark.metric
    if metric.unit == "%":
        return ticks(100)
    values = [0.0]
    for result in benchmark.runs.values():
        for score in result.scores.values():
            values += [score.metrics[metric.name], *score.ci95.get(metric.name, ())]
        values += [result.english.value] if result.english else []
    return ticks(max(values))


class _Strip(NamedTuple):
    """One run on a line: English as a vertical bar, the other languages as dots, their mean as a thin line."""

    run: str
    said: str
    english: Estimate | None
    mean: Estimate | None
    dots: list[tuple[str, float]]


def _strips(benchmark: BenchmarkSummary) -> Iterator[_Strip]:
    metric = benchmark.metric
    for run, result in benchmark.runs.items():
        values = {code: score.metrics[metric.name] for code, score in result.scores.items() if code != "en"}
        dots = [(f"{find_language(code).name} {metric.show(value)}", value) for code, value in values.items()]
        english, mean = result.english, result.means.get("without_english")
        said = [f"English {metric.show(english.value)}" if english else "no English"]
        said += [f"others {metric.show(mean.value)}"] if mean else []
        if len(dots) > 1:
            ordered = sorted(dots, key=lambda dot: dot[1])
            said.append(f"from {ordered[0][0]} to {ordered[-1][0]}")
        yield _Strip(run, ", ".join(said), english, mean, dots)


def _groups(
    benchmark: BenchmarkSummary, bar: Callable[[BenchmarkSummary, RunScores, Score], Bar]
) -> Iterator[tuple[str, list[tuple[str, Bar]]]]:
    """The bars of every language, with their runs."""
    for code in benchmark.languages:
        held = ((run, result, result.scores.get(code)) for run, result in benchmark.runs.items())
        bars = [
            (run, Bar("not run") if score is None else bar(benchmark, result, score)) for run, result, score in held
        ]
        yield find_language(code).name, bars


def _language_bar(benchmark: BenchmarkSummary, result: RunScores, score: Score) -> Bar:
    metric, value = benchmark.metric, score.metrics[benchmark.metric.name]
    reference = result.english.value if result.english and score.language != "en" else None
    return Bar(metric.show(value), value, score.ci95.get(metric.name), reference)


def _fidelity_bar(benchmark: BenchmarkSummary, result: RunScores, score: Score) -> Bar:
    share = score.language_fidelity
    label = "unknown" if share is None else show_share(share)
    return Bar(label, share, score.ci95.get("language_fidelity"))


def _alone(report: Report) -> Iterator[Table]:
    """Benchmarks of one language, with all their metrics; those with the same metrics share a table."""
    kinds: dict[tuple[Metric, ...], list[list[TableCell]]] = {}
    for benchmark in report.benchmarks:
        if len(benchmark.languages) > 1:
            continue
        (code,) = benchmark.languages
        name = TableCell(benchmark.name, "" if code == "en" else find_language(code).name, strong=True)
        for run, result in benchmark.runs.items():
            (score,) = result.scores.values()
            values = {benchmark.metrics[key]: (value, score.ci95.get(key)) for key, value in score.metrics.items()}
            shown = [_cell(Estimate(*value), metric) for metric, value in values.items()]
            rows = kinds.setdefault(tuple(values), [])
            once = TableCell("") if any(row[0] == name for row in rows) else name
            rows.append([once, TableCell(run), *shown, TableCell(f"{score.n:,}")])
    for metrics, rows in kinds.items():
        yield Table(["benchmark", "run", *(metric.title for metric in metrics), "items"], rows)


def _untold(benchmark: BenchmarkSummary) -> list[tuple[list[str], list[str]]]:
    """Runs, with the languages for which no detector can judge the answers."""
    found: dict[tuple[str, ...], list[str]] = {}
    for run, result in benchmark.runs.items():
        if result.fidelity_untold:
            found.setdefault(result.fidelity_untold, []).append(run)
    return [(runs, [find_language(code).name for code in codes]) for codes, runs in found.items()]


def _tests(report: Report) -> Iterator[tuple[str, Table]]:
    alone = []
    for test in report.tests:
        if len(test.adjusted) == 1:
            (code,) = test.adjusted
            title = f"{test.benchmark}, {find_language(code).name}, {test.second}"
            alone.append([TableCell(title), *_difference(test, code)])
            continue
        rows = []
        for name in test.rows:
            group = GROUPS.get(name) or {"all": "all languages", "without_english": "without English"}.get(name)
            title_cell = TableCell(group, strong=True) if group else TableCell(find_language(name).name)
            corrected = p_value(test.adjusted[name]) if name in test.adjusted else ""
            rows.append([title_cell, *_difference(test, name), TableCell(corrected)])
        heading = f"{test.benchmark}: {test.second} against {test.first}"
        yield heading, Table(["", "difference", "p", "p, corrected"], rows, (1, 2, 3))
    if alone:
        yield f"In one language, against {report.tests[0].first}", Table(["", "difference", "p"], alone, (1, 2))


def _difference(test: PairedTest, name: str) -> tuple[TableCell, TableCell]:
    found = test.rows[name]
    estimate = Estimate(found.difference, found.interval)
    return TableCell(show_estimate(estimate, test.metric, signed=True)), TableCell(p_value(found.p_value))


def _published(report: Report, sources: Sequence[Source]) -> Iterator[tuple[str, Table]]:
    head = ["model", "English", "others", "in language", "source"]
    for benchmark in report.benchmarks:
        metric = benchmark.metric
        theirs = [row for row in report.published if (row.benchmark, row.metric) == (benchmark.name, metric.name)]
        if not theirs:
            continue
        rows = []
        for run, result in benchmark.runs.items():
            shown = [_cell(estimate, metric) for estimate in (result.english, result.means.get("without_english"))]
            rows.append(
                [TableCell(run, strong=True), *shown, TableCell(show_share(result.fidelity)), TableCell("this report")]
            )
        for row in theirs:
            values = ["" if value is None else metric.show(value) for value in (row.english, row.others)]
            number = f"[{sources.index(row.source) + 1}]"
            rows.append([TableCell(text) for text in (row.model, *values, show_share(row.language_fidelity), number)])
        yield benchmark.name, Table(head, rows, (1, 2, 3))
