"""Two compared runs in one sentence: which is better, by how much, and in which languages."""

from __future__ import annotations

from collections.abc import Sequence

from mblip.languages import find_language
from mblip.report.summary import PairedTest, Report

LEVEL = 0.05
"""Differences count as real below this p value, corrected for the number of languages."""
_NAMED = 5


def verdicts(report: Report) -> list[str]:
    """One sentence for each test, in the order of the tests."""
    return [_sentence(test) for test in report.tests]


def _sentence(test: PairedTest) -> str:
    """Names the run with the better mean first; ``higher`` stands for ``better`` where a metric has no direction."""
    direction = -1 if test.metric.higher_is_better is False else 1
    more, less = ("higher", "lower") if test.metric.higher_is_better is None else ("better", "worse")
    overall = test.rows["all"] if "all" in test.rows else test.rows[next(iter(test.adjusted))]
    second_leads = direction * overall.difference >= 0
    leader, other = (test.second, test.first) if second_leads else (test.first, test.second)
    lead = direction if second_leads else -direction
    edges = sorted(lead * edge for edge in overall.interval)
    points = " points" if test.metric.unit == "%" else ""
    # Signed in the leader's favour, whichever way the metric runs.
    size = test.metric.show(abs(overall.difference))
    interval = f"95 % interval {test.metric.show(edges[0])} to {test.metric.show(edges[1])}"
    title, count = f"{test.benchmark}, {test.metric.name}", len(test.adjusted)
    over = f" on the mean of {count} languages" if count > 1 else f" in {find_language(next(iter(test.adjusted))).name}"
    if edges[0] > 0:
        said = f"{title}: {leader} is {more} than {other} by {size}{points}{over} ({interval})"
    else:
        said = f"{title}: {leader} and {other} cannot be told apart{over} (difference {size}{points}, {interval})"
    if count == 1:
        return f"{said}."
    real = {code: lead * test.rows[code].difference for code, p in test.adjusted.items() if p < LEVEL}
    ahead = sorted((code for code in real if real[code] > 0), key=lambda code: -real[code])
    behind = sorted((code for code in real if real[code] < 0), key=lambda code: real[code])
    if not real:
        return f"{said}; no single language differs for certain."
    return f"{said}; {leader} is {more} in {_listed(ahead)} and {less} in {_listed(behind)}."


def _listed(codes: Sequence[str]) -> str:
    names = [find_language(code).name for code in codes]
    if not names:
        return "no language"
    shown, left = names[:_NAMED], len(names) - _NAMED
    if left > 0:
        return f"{', '.join(shown)} and {left} more"
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))
