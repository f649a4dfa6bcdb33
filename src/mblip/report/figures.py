"""The sections of the page that ``mblip report`` writes."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence

from mblip.evaluation.benchmarks import find_benchmark
from mblip.evaluation.statistics import resource_group
from mblip.languages import find_language
from mblip.report.markup import bar, colour, foreign, key, page, strip, table, ticks
from mblip.report.samples import SampleCard
from mblip.report.summary import BenchmarkSummary, Estimate, PairedTest, Report
from mblip.report.values import GROUPS, UNITS, p_value, show, show_estimate

_ROOM = 240  # characters of what was wanted


def draw_page(report: Report, cards: Sequence[SampleCard]) -> str:
    """The whole report as one HTML document that fetches nothing."""
    runs = list(report.runs)
    sections = [
        f"<h1>{_title(report)}</h1>",
        "<p class=note>Intervals are 95 %: pictures drawn anew with all their questions and languages. Every language "
        "weighs the same in a mean.</p>",
        *(f'<p class="caution">{html.escape(caution)}</p>' for caution in report.cautions),
        key(runs) if len(runs) > 1 else "",
        *_across_languages(report),
        *_alone(report),
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


def _several(report: Report) -> list[BenchmarkSummary]:
    """The benchmarks that have more than one language."""
    return [benchmark for benchmark in report.benchmarks if len(benchmark.languages) > 1]


def _across_languages(report: Report) -> Iterator[str]:
    benchmarks, runs = _several(report), list(report.runs)
    if not benchmarks:
        return
    yield "<h2>Means over languages</h2>"
    yield _means(benchmarks)
    yield "<h2>English and the others</h2>"
    yield "<p class=note>Upright bar: English. Dots: the other languages; thin line: their mean.</p>"
    yield from (_gap(benchmark, runs) for benchmark in benchmarks)
    yield "<h2>By language</h2><p class=note>Bars with their intervals; the upright line is English.</p>"
    yield from (_languages(benchmark, runs) for benchmark in benchmarks)


def _means(benchmarks: Sequence[BenchmarkSummary]) -> str:
    head = ["benchmark", "run", "English", "others", "gap", *GROUPS.values(), "in language", "languages"]
    rows = []
    for benchmark in benchmarks:
        unit = UNITS.get(benchmark.metric, benchmark.metric)
        name = f"<b>{benchmark.name}</b><br><small>{unit}</small>"
        for run, result in benchmark.runs.items():
            cells = [result.english, result.means.get("without_english"), result.gap]
            cells += [result.means.get(group) for group in GROUPS]
            shown = [_cell(cell, benchmark.metric) for cell in cells]
            if result.english_from not in ("", benchmark.name):
                shown[0] += f"<br><small>of {result.english_from}</small>"
            rows.append([name, html.escape(run), *shown, _share(result.fidelity), str(len(result.scores))])
            name = ""
    # No column of nothing, such as that of a group none of the languages is in.
    kept = [column for column in range(len(head)) if any(row[column] for row in rows)]
    return table(
        [head[column] for column in kept], [[row[column] for column in kept] for row in rows], range(2, len(kept))
    )


def _cell(estimate: Estimate | None, metric: str, signed: bool = False) -> str:
    """A value above its interval."""
    value, _, interval = show_estimate(estimate, metric, signed).partition(" [")
    return f"{value}<br><small>{interval.rstrip(']').replace(', ', ' to ')}</small>" if interval else value


def _axis(benchmark: BenchmarkSummary) -> list[float]:
    if benchmark.metric == "accuracy":
        return ticks(100)
    values = [0.0]
    for result in benchmark.runs.values():
        for score in result.scores.values():
            values += [score.metrics[benchmark.metric], *score.ci95.get(benchmark.metric, ())]
        values += [result.english.value] if result.english else []
    return ticks(max(values))


def _tick(value: float, metric: str) -> str:
    return f"{100 * value if metric == 'CIDEr' else value:g}"


def _gap(benchmark: BenchmarkSummary, runs: Sequence[str]) -> str:
    axis, metric, rows = _axis(benchmark), benchmark.metric, []
    for run, result in benchmark.runs.items():
        values = {code: score.metrics[metric] for code, score in result.scores.items() if code != "en"}
        dots = [(f"{find_language(code).name} {show(value, metric)}", value) for code, value in values.items()]
        mean = result.means.get("without_english")
        said = [f"English {show(result.english.value, metric)}" if result.english else "no English"]
        said += [f"others {show(mean.value, metric)}"] if mean else []
        if len(dots) > 1:
            ordered = sorted(dots, key=lambda dot: dot[1])
            said.append(f"from {ordered[0][0]} to {ordered[-1][0]}")
        english = result.english.value if result.english else None
        drawn = strip(english, mean.value if mean else None, dots, axis, runs.index(run))
        rows.append(
            f'<span class="name">{html.escape(run)}<br><small>{html.escape(", ".join(said))}</small></span>{drawn}'
        )
    marks = "".join(f"<span>{_tick(value, metric)}</span>" for value in axis)
    return (
        f"<h3>{benchmark.name}, {UNITS.get(metric, metric)}{_stand_in(benchmark)}</h3>"
        f'<div class="strip">{"".join(rows)}<span class="axis">{marks}</span></div>'
    )


def _stand_in(benchmark: BenchmarkSummary) -> str:
    others = {result.english_from for result in benchmark.runs.values()} - {"", benchmark.name}
    return f" (English: {', '.join(sorted(others))})" if others else ""


def _languages(benchmark: BenchmarkSummary, runs: Sequence[str]) -> str:
    axis, metric, groups = _axis(benchmark), benchmark.metric, []
    for code in benchmark.languages:
        bars = ""
        for run, result in benchmark.runs.items():
            score = result.scores.get(code)
            if score is None:
                bars += '<div class="bar"><span>not run</span><span></span></div>'
                continue
            value, english = score.metrics[metric], result.english.value if result.english else None
            reference = None if code == "en" else english
            drawn = bar(value, score.ci95.get(metric), reference, axis, runs.index(run))
            bars += f'<div class="bar">{drawn}<span>{show(value, metric)}</span></div>'
        groups.append(f'<div class="group"><span>{_name(code)}</span><div>{bars}</div></div>')
    better = "Lower is better. " if benchmark.lower_is_better else ""
    return (
        f"<h3>{benchmark.name}, {UNITS.get(metric, metric)}</h3><p class=note>{better}A mark every "
        f"{_tick(axis[1], metric)}, up to {_tick(axis[-1], metric)}.</p><div class=bars>{''.join(groups)}</div>"
    )


def _alone(report: Report) -> Iterator[str]:
    """Benchmarks of one language, with all their metrics; those with the same metrics share a table."""
    kinds: dict[tuple[str, ...], list[list[str]]] = {}
    several = _several(report)
    for benchmark in report.benchmarks:
        if benchmark in several:
            continue
        name = f"<b>{benchmark.name}</b>" + (
            "" if benchmark.languages == ("en",) else f" {_name(benchmark.languages[0])}"
        )
        for run, result in benchmark.runs.items():
            (score,) = result.scores.values()
            shown = [_cell(Estimate(value, score.ci95.get(key)), key) for key, value in score.metrics.items()]
            rows = kinds.setdefault(tuple(score.metrics), [])
            once = "" if any(row[0] == name for row in rows) else name
            rows.append([once, html.escape(run), *shown, f"{score.n:,}"])
    if kinds:
        yield "<h2>In one language</h2>"
    for metrics, rows in kinds.items():
        head = ["benchmark", "run", *(UNITS.get(name, name) for name in metrics), "items"]
        yield table(head, rows, range(2, len(head)))


def _fidelity(report: Report) -> Iterator[str]:
    told = [b for b in report.benchmarks if any(r.fidelity is not None for r in b.runs.values())]
    if not told:
        return
    yield "<h2>Language fidelity</h2><p class=note>Share of answers in the language that was asked for.</p>"
    runs, axis = list(report.runs), ticks(1)
    for benchmark in told:
        groups: list[str] = []
        unknown: dict[tuple[str, ...], list[str]] = {}
        for code in benchmark.languages:
            bars = ""
            for run, result in benchmark.runs.items():
                score = result.scores.get(code)
                share = score.language_fidelity if score else None
                if share is None:
                    said, drawn = "", f"<span>{'not run' if score is None else 'cannot be told'}</span>"
                else:
                    interval = score.ci95.get("language_fidelity") if score else None
                    said, drawn = f"{share:.1%}", bar(share, interval, None, axis, runs.index(run))
                bars += f'<div class="bar">{drawn}<span>{said}</span></div>'
            groups.append(f'<div class="group"><span>{_name(code)}</span><div>{bars}</div></div>')
        means = [
            f"{html.escape(run)} {_share(r.fidelity)}" for run, r in benchmark.runs.items() if r.fidelity is not None
        ]
        mean = f"<p class=note>Mean: {', '.join(means)}.</p>" if len(benchmark.languages) > 1 else ""
        yield f"<h3>{benchmark.name}</h3>{mean}<div class=bars>{''.join(groups)}</div>"
        for run, result in benchmark.runs.items():
            if result.fidelity_untold:
                unknown.setdefault(result.fidelity_untold, []).append(html.escape(run))
        for codes, names in unknown.items():
            listed = ", ".join(find_language(code).name for code in codes)
            yield (
                f"<p class=note>{', '.join(names)}: no detector tells {len(codes)} of the languages from their neighbours; "
                f"they are left out of the mean: {listed}.</p>"
            )


def _tests(report: Report) -> Iterator[str]:
    if not report.tests:
        return
    yield (
        "<h2>Is the difference real?</h2><p class=note>Second run minus first on the same items; two-sided p values of a "
        "paired bootstrap over pictures. The last column corrects for testing many languages (Holm).</p>"
    )
    alone: list[list[str]] = []
    for test in report.tests:
        if len(test.adjusted) == 1:
            (code,) = test.adjusted
            title = f"{test.benchmark}, {_name(code)}, {html.escape(test.second)}"
            alone.append([title, *_difference(test, code)])
            continue
        rows = []
        for name in test.rows:
            group = GROUPS.get(name) or {"all": "all languages", "without_english": "without English"}.get(name)
            corrected = p_value(test.adjusted[name]) if name in test.adjusted else ""
            rows.append([f"<b>{group}</b>" if group else _name(name), *_difference(test, name), corrected])
        yield f"<h3>{test.benchmark}: {html.escape(test.second)} against {html.escape(test.first)}</h3>"
        yield table(["", "difference", "p", "p, corrected"], rows, numbers=(1, 2, 3))
    if alone:
        yield f"<h3>In one language, against {html.escape(report.tests[0].first)}</h3>"
        yield table(["", "difference", "p"], alone, numbers=(1, 2))


def _difference(test: PairedTest, name: str) -> tuple[str, str]:
    found = test.rows[name]
    estimate = Estimate(found.difference, found.interval)
    return show_estimate(estimate, test.metric, signed=True), p_value(found.p_value)


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
            shown = [_cell(estimate, benchmark.metric) for estimate in estimates]
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
        asked = f": {foreign(row.text, row.language)}" if row.text else ""
        rows.append(f"<dt>{_name(row.language)}{asked}</dt>")
        for run, (answer, value) in row.answers.items():
            dot = f'<i style="background:{colour(runs.index(run))}"></i> ' if len(runs) > 1 else ""
            worth = "" if value is None else f' <span class="mark">{value:.2f}</span>'
            said = foreign(answer, spoken) if answer.strip() else "<em>nothing</em>"
            rows.append(f'<dd dir="{_direction(spoken)}"><span class="dot">{dot}</span><b>{said}</b>{worth}</dd>')
        wanted = " · ".join(foreign(text, spoken) for text in _first(row.gold))
        rows.append(f'<dd class="gold" dir="{_direction(spoken)}">{wanted}</dd>')
    return (
        f'<div class="card"><div class="pictures">{pictures}</div><small><b>{card.benchmark}</b>: beside each answer its '
        f"{card.metric}, below what was wanted</small><dl>{''.join(rows)}</dl></div>"
    )


def _first(texts: Sequence[str]) -> list[str]:
    """As many as a card has room for."""
    shown: list[str] = []
    for text in texts:
        if shown and sum(map(len, shown)) + len(text) > _ROOM:
            return [*shown, "…"]
        shown.append(text)
    return shown


def _direction(code: str) -> str:
    return find_language(code).direction


def _fingerprints(report: Report) -> Iterator[str]:
    for name, run in report.runs.items():
        identity = json.dumps(run.identity, ensure_ascii=False, indent=1)
        how = ", ".join(dict.fromkeys((run.model, run.kind, run.protocol, f"prompts {run.prompts}")))
        yield (
            f"<h3>{html.escape(name)}</h3><p>{html.escape(how)}</p><details><summary>the model</summary>"
            f"<pre>{html.escape(identity)}</pre></details>"
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
