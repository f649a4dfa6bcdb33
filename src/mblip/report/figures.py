"""The sections of the page that ``mblip report`` writes."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence

from mblip.evaluation.benchmarks import find_benchmark
from mblip.evaluation.statistics import resource_group
from mblip.languages import find_language
from mblip.report.markup import bar, colour, foreign, key, page, strip, table
from mblip.report.samples import SampleCard
from mblip.report.summary import BenchmarkSummary, Estimate, Report
from mblip.report.values import GROUPS, UNITS, p_value, show, show_estimate


def draw_page(report: Report, cards: Sequence[SampleCard]) -> str:
    """The whole report as one HTML document that fetches nothing."""
    runs = list(report.runs)
    sections = [
        f"<h1>{_title(report)}</h1>",
        "<p class=note>Intervals are 95 %: pictures drawn anew with all their questions and languages. Every language "
        "weighs the same in a mean.</p>",
        *(f'<p class="caution">{html.escape(caution)}</p>' for caution in report.cautions),
        key(runs) if len(runs) > 1 else "",
        "<h2>Means over languages</h2>",
        _means(report),
        "<h2>English and the others</h2>",
        *(_gap(benchmark, runs) for benchmark in report.benchmarks),
        "<h2>By language</h2>",
        *(_languages(benchmark, runs) for benchmark in report.benchmarks),
        *_fidelity(report),
        *_tests(report),
        *_published(report),
        *_samples(cards, runs),
        "<h2>What each score depends on</h2>",
        *_fingerprints(report),
    ]
    return page(_plain_title(report), sections)


def _plain_title(report: Report) -> str:
    return f"Evaluation of {' and '.join(report.runs) if len(report.runs) < 3 else f'{len(report.runs)} runs'}"


def _title(report: Report) -> str:
    return html.escape(_plain_title(report))


def _name(code: str) -> str:
    return html.escape(find_language(code).name)


def _means(report: Report) -> str:
    head = [
        "benchmark",
        "run",
        "metric",
        "English",
        "others",
        "gap",
        *(title for name, title in GROUPS.items()),
        "languages",
    ]
    rows = []
    for benchmark in report.benchmarks:
        for run, result in benchmark.runs.items():
            cells = [result.english, result.means.get("without_english"), result.gap]
            cells += [result.means.get(name) for name in GROUPS]
            others = (
                "" if result.english_from in ("", benchmark.name) else f"<br><small>of {result.english_from}</small>"
            )
            shown = [show_estimate(cell, benchmark.metric) for cell in cells]
            unit = UNITS.get(benchmark.metric, benchmark.metric)
            rows.append(
                [benchmark.name, html.escape(run), unit, shown[0] + others, *shown[1:], str(len(result.scores))]
            )
    return table(head, rows, numbers=range(3, len(head)))


def _most(benchmark: BenchmarkSummary) -> float:
    """The end of the axis."""
    if benchmark.metric == "accuracy":
        return 100.0
    values = [1e-9]
    for result in benchmark.runs.values():
        for score in result.scores.values():
            values += [score.metrics[benchmark.metric], *score.ci95.get(benchmark.metric, ())]
        values += [result.english.value] if result.english else []
    return 1.05 * max(values)


def _gap(benchmark: BenchmarkSummary, runs: Sequence[str]) -> str:
    most = _most(benchmark)
    rows = []
    for run, result in benchmark.runs.items():
        values = {code: score.metrics[benchmark.metric] for code, score in result.scores.items() if code != "en"}
        dots = [
            (f"{find_language(code).name} {show(value, benchmark.metric)}", value) for code, value in values.items()
        ]
        mean = result.means.get("without_english")
        said = [f"English {show(result.english.value, benchmark.metric)}" if result.english else "no English"]
        said += [f"others {show(mean.value, benchmark.metric)}"] if mean else []
        drawn = strip(
            result.english.value if result.english else None, mean.value if mean else None, dots, most, runs.index(run)
        )
        rows.append(
            f'<div class="strip"><span class="name">{html.escape(run)}<br><small>{", ".join(said)}</small></span>{drawn}'
            f'<span class="axis"><span>0</span><span>{show(most, benchmark.metric)}</span></span></div>'
        )
    return (
        f"<h3>{benchmark.name}</h3><p class=note>Upright bar: English{_stand_in(benchmark)}. Dots: the other languages; "
        f"thin line: their mean. {UNITS.get(benchmark.metric, benchmark.metric)}.</p>{''.join(rows)}"
    )


def _stand_in(benchmark: BenchmarkSummary) -> str:
    others = {result.english_from for result in benchmark.runs.values()} - {"", benchmark.name}
    return f" (of {', '.join(sorted(others))})" if others else ""


def _languages(benchmark: BenchmarkSummary, runs: Sequence[str]) -> str:
    most = _most(benchmark)
    rows = []
    for code in benchmark.languages:
        name = f"<span>{_name(code)}</span>"
        for run, result in benchmark.runs.items():
            score = result.scores.get(code)
            if score is None:
                rows.append(f'<div class="bar">{name}<span class="track"></span><span>not run</span></div>')
            else:
                value = score.metrics[benchmark.metric]
                drawn = bar(
                    value, score.ci95.get(benchmark.metric), result.english.value if result.english else None, most,
                    runs.index(run),
                )  # fmt: skip
                rows.append(f'<div class="bar">{name}{drawn}<span>{show(value, benchmark.metric)}</span></div>')
            name = "<span></span>"
    better = "lower is better" if benchmark.lower_is_better else "higher is better"
    return (
        f"<h3>{benchmark.name}</h3><p class=note>{UNITS.get(benchmark.metric, benchmark.metric)}, {better}; the upright "
        f"line is English.</p><div class=bars>{''.join(rows)}</div>"
    )


def _fidelity(report: Report) -> Iterator[str]:
    told = [b for b in report.benchmarks if any(r.fidelity is not None for r in b.runs.values())]
    if not told:
        return
    yield "<h2>Language fidelity</h2><p class=note>Share of answers in the language that was asked for.</p>"
    for benchmark in told:
        rows = []
        for code in benchmark.languages:
            cells = []
            for result in benchmark.runs.values():
                score = result.scores.get(code)
                share = score.language_fidelity if score else None
                cells.append("not run" if score is None else "cannot be told" if share is None else f"{share:.1%}")
            rows.append([_name(code), *cells])
        shares = [result.fidelity for result in benchmark.runs.values()]
        rows.append(["<b>mean</b>", *("" if share is None else f"<b>{share:.1%}</b>" for share in shares)])
        yield f"<h3>{benchmark.name}</h3>" + table(
            ["language", *map(html.escape, benchmark.runs)], rows, numbers=range(1, 1 + len(shares))
        )
        for run, result in benchmark.runs.items():
            if result.fidelity_untold:
                names = ", ".join(find_language(code).name for code in result.fidelity_untold)
                yield (
                    f"<p class=note>{html.escape(run)}: no detector tells {len(result.fidelity_untold)} of the languages "
                    f"from their neighbours; they are left out of the mean: {names}.</p>"
                )


def _tests(report: Report) -> Iterator[str]:
    if not report.tests:
        return
    yield (
        "<h2>Is the difference real?</h2><p class=note>Second run minus first on the same items; two-sided p values of a "
        "paired bootstrap over pictures. The last column corrects for testing many languages (Holm).</p>"
    )
    for test in report.tests:
        rows = []
        for name, found in test.rows.items():
            title = GROUPS.get(name) or {"all": "all languages", "without_english": "without English"}.get(name)
            rows.append([
                f"<b>{title}</b>" if title else _name(name),
                show_estimate(Estimate(found.difference, found.interval), test.metric, signed=True),
                p_value(found.p_value),
                p_value(test.adjusted[name]) if name in test.adjusted else "",
            ])  # fmt: skip
        yield f"<h3>{test.benchmark}: {html.escape(test.second)} against {html.escape(test.first)}</h3>"
        yield table(["", "difference", "p", "p, corrected"], rows, numbers=(1, 2, 3))


def _published(report: Report) -> Iterator[str]:
    if not report.published:
        return
    sources = list(dict.fromkeys(row.source for row in report.published))
    yield (
        "<h2>Beside published values</h2><p class=note>Printed by others, with other prompts, decoding or questions: read "
        "how below before you compare.</p>"
    )
    for benchmark in report.benchmarks:
        theirs = [row for row in report.published if row.benchmark == benchmark.name and row.metric == benchmark.metric]
        if not theirs:
            continue
        rows = []
        for run, result in benchmark.runs.items():
            estimates = (result.english, result.means.get("without_english"))
            shown = [show_estimate(estimate, benchmark.metric) for estimate in estimates]
            rows.append([f"<b>{html.escape(run)}</b>", *shown, _share(result.fidelity), "this report"])
        for row in theirs:
            shown = ["" if value is None else show(value, benchmark.metric) for value in (row.english, row.others)]
            number = f"[{sources.index(row.source) + 1}]"
            rows.append([html.escape(row.model), *shown, _share(row.language_fidelity), number])
        yield f"<h3>{benchmark.name}</h3>"
        yield table(["model", "English", "others", "in language", "source"], rows, numbers=(1, 2, 3))
    for place, source in enumerate(sources, start=1):
        yield f'<p class="note">[{place}] {html.escape(f"{source.title} ({source.url}): {source.settings}.")}</p>'


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _samples(cards: Sequence[SampleCard], runs: Sequence[str]) -> Iterator[str]:
    if not cards:
        return
    yield "<h2>What the models said</h2><p class=note>Pictures at even steps through the data; nobody has chosen them.</p>"
    yield f'<div class="cards">{"".join(_card(card, runs) for card in cards)}</div>'


def _card(card: SampleCard, runs: Sequence[str]) -> str:
    pictures = "".join(
        f'<img alt="{html.escape(name, quote=True)}" src="{url}">'
        if url
        else f'<span class="none">{html.escape(name)}<br>name its folder with --data or --images</span>'
        for name, url in zip(card.images, card.pictures, strict=True)
    )
    benchmark = find_benchmark(card.benchmark)
    # Short answers are asked for in English; captions, MaXM's answers and what is said of scenes in the language itself.
    own = "{language}" in benchmark.prompt or not benchmark.files
    rows = []
    for row in card.rows:
        spoken = row.language if own else "en"
        asked = f" {foreign(row.text, row.language)}" if row.text else ""
        rows.append(f"<dt>{_name(row.language)}:{asked}</dt>")
        for run, (answer, value) in row.answers.items():
            dot = f'<i style="background:{colour(runs.index(run))}"></i> ' if len(runs) > 1 else ""
            worth = "" if value is None else f' <span class="mark">{value:.2f}</span>'
            said = foreign(answer, spoken) if answer.strip() else "<em>nothing</em>"
            rows.append(f'<dd dir="{_direction(spoken)}"><span class="dot">{dot}</span><b>{said}</b>{worth}</dd>')
        wanted = " · ".join(foreign(text, spoken) for text in row.gold[:3])
        rows.append(f'<dd class="gold" dir="{_direction(spoken)}">{wanted}</dd>')
    return (
        f'<div class="card"><div class="pictures">{pictures}</div><small>{card.benchmark}; under each answer what was '
        f"wanted</small><dl>{''.join(rows)}</dl></div>"
    )


def _direction(code: str) -> str:
    return find_language(code).direction


def _fingerprints(report: Report) -> Iterator[str]:
    for name, run in report.runs.items():
        identity = json.dumps(run.identity, ensure_ascii=False, indent=1)
        yield (
            f"<h3>{html.escape(name)}</h3><p>{html.escape(run.model)}, {run.kind}, {run.protocol}, prompts "
            f"{html.escape(run.prompts)}</p><details><summary>the model</summary><pre>{html.escape(identity)}</pre></details>"
        )
    for benchmark in report.benchmarks:
        for name, result in benchmark.runs.items():
            entries = []
            for code, score in result.scores.items():
                metrics = ", ".join(f"{metric} {show(value, metric)}" for metric, value in score.metrics.items())
                text = json.dumps(score.fingerprint, ensure_ascii=False, indent=1)
                entries.append(
                    f"<details><summary>{_name(code)} ({resource_group(code)}-resource): {metrics}; n {score.n:,}"
                    f"</summary><pre>{html.escape(text)}</pre></details>"
                )
            yield f"<details><summary><b>{benchmark.name}</b>, {html.escape(name)}</summary>{''.join(entries)}</details>"
