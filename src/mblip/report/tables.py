"""The report as Markdown, CSV, LaTeX and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from mblip.evaluation.statistics import resource_group
from mblip.languages import find_language
from mblip.report.summary import Estimate, Report
from mblip.report.values import GROUPS, p_value, show_estimate
from mblip.report.verdict import verdicts

_COLUMNS = (
    "run", "model", "benchmark", "language", "language_name", "resources", "metric", "value", "low", "high", "n",
    "language_fidelity", "protocol", "variant", "data_sha256",
)  # fmt: skip
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def to_json(report: Report) -> dict[str, Any]:
    """All data of the report, for programs."""
    data = asdict(report)
    data["directories"] = {name: str(path) for name, path in report.directories.items()}
    for row, benchmark in zip(data["benchmarks"], report.benchmarks, strict=True):
        lower = benchmark.metric.higher_is_better is False
        row |= {"name": benchmark.name, "metric": benchmark.metric.name, "lower_is_better": lower}
        del row["about"]
    for row, test in zip(data["tests"], report.tests, strict=True):
        row["metric"] = test.metric.name
    data["verdicts"] = verdicts(report)
    return data


def to_csv(report: Report) -> str:
    """Every metric of every score, one per row; values are unrounded, ``accuracy`` in percent, others as fractions."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for benchmark in report.benchmarks:
        for run, result in benchmark.runs.items():
            for code, score in result.scores.items():
                for metric, value in score.metrics.items():
                    low, high = score.ci95.get(metric, ("", ""))
                    fidelity = "" if score.language_fidelity is None else score.language_fidelity
                    known = [score.fingerprint.get(name, "") for name in ("variant", "data_sha256")]
                    writer.writerow([
                        run, report.runs[run].model, benchmark.name, code, find_language(code).name,
                        resource_group(code), metric, value, low, high, score.n, fidelity, score.protocol, *known,
                    ])  # fmt: skip
    return buffer.getvalue()


def to_markdown(report: Report) -> str:
    """The tables, for a model card or an issue."""
    lines = [
        "# Evaluation",
        "",
        "95 % intervals in brackets: bootstrap over pictures, with all their questions and languages.",
        "",
    ]
    lines += [line for caution in report.cautions for line in (f"> {caution}", "")]
    lines += [line for sentence in verdicts(report) for line in (_cell(sentence), "")]
    for name, run in report.runs.items():
        lines.append(f"- {_cell(name)}: {_cell(run.model)} ({run.kind}, {run.protocol}, prompts {_cell(run.prompts)})")
    for benchmark in report.benchmarks:
        lines += ["", f"## {benchmark.name}", "", f"{benchmark.metric.title}.", ""]
        lines += _markdown_table(["", *benchmark.runs], _rows(report, benchmark.name))
    for test in report.tests:
        lines += ["", f"## {test.benchmark}: {_cell(test.second)} against {_cell(test.first)}", ""]
        rows = [
            [name, show_estimate(Estimate(found.difference, found.interval), test.metric, signed=True),
             p_value(found.p_value), p_value(test.adjusted[name]) if name in test.adjusted else ""]
            for name, found in test.rows.items()
        ]  # fmt: skip
        lines += _markdown_table(["", "difference", "p", "p, corrected (Holm)"], rows)
    if report.published:
        lines += ["", "## Published values", ""]
        rows = []
        held = {benchmark.name: benchmark for benchmark in report.benchmarks}
        for row in report.published:
            metric = held[row.benchmark].about.metric(row.metric)
            values = ["" if value is None else metric.show(value) for value in (row.english, row.others)]
            rows.append(
                [row.model, row.benchmark, *values, f"{row.source.title}, {row.source.url} ({row.source.settings})"]
            )
        lines += _markdown_table(["model", "benchmark", "English", "others", "source"], rows)
    return "\n".join(lines) + "\n"


def to_latex(report: Report) -> str:
    """One ``booktabs`` table per benchmark, with runs as rows and languages as columns, without intervals."""
    lines = ["% needs \\usepackage{booktabs}"]
    for benchmark in report.benchmarks:
        title = _latex(f"{benchmark.name}, {benchmark.metric.title}")
        columns = [*benchmark.languages, "others", "gap"]
        lines += [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{title}}}",
            f"\\begin{{tabular}}{{l{'r' * len(columns)}}}",
        ]
        lines += ["\\toprule", " & ".join(["run", *columns]) + r" \\", "\\midrule"]
        for run, result in benchmark.runs.items():
            cells = [_latex(run)]
            for code in benchmark.languages:
                score = result.scores.get(code)
                cells.append("--" if score is None else benchmark.metric.show(score.metrics[benchmark.metric.name]))
            for estimate in (result.means.get("without_english"), result.gap):
                cells.append("--" if estimate is None else benchmark.metric.show(estimate.value))
            lines.append(" & ".join(cells) + r" \\")
        lines += ["\\bottomrule", "\\end{tabular}", "\\end{table}", ""]
    return "\n".join(lines)


def _rows(report: Report, name: str) -> Iterator[list[str]]:
    benchmark = next(found for found in report.benchmarks if found.name == name)
    titles = {"all": "**all languages**", "without_english": "**without English**"}
    titles |= {group: f"**{title}**" for group, title in GROUPS.items()}
    for group, title in titles.items():
        cells = [show_estimate(result.means.get(group), benchmark.metric) for result in benchmark.runs.values()]
        if any(cells):
            yield [title, *cells]
    gaps = [show_estimate(result.gap, benchmark.metric) for result in benchmark.runs.values()]
    if any(gaps):
        yield ["**English minus the others**", *gaps]
    fidelity = ["" if r.fidelity is None else f"{r.fidelity:.1%}" for r in benchmark.runs.values()]
    if any(fidelity):
        yield ["**in the requested language**", *fidelity]
    for code in benchmark.languages:
        scores = [result.scores.get(code) for result in benchmark.runs.values()]
        yield [
            find_language(code).name,
            *(
                "" if s is None else show_estimate(
                    Estimate(s.metrics[benchmark.metric.name], s.ci95.get(benchmark.metric.name)), benchmark.metric
                )
                for s in scores
            ),
        ]  # fmt: skip


def _markdown_table(head: list[str], rows: Iterator[list[str]] | list[list[str]]) -> list[str]:
    lines = [f"| {' | '.join(map(_cell, head))} |", "|---" * len(head) + "|"]
    return lines + [f"| {' | '.join(map(_cell, row))} |" for row in rows]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
