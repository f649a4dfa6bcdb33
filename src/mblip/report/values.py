"""Format numbers, the same way in every form of the report."""

from __future__ import annotations

from mblip.evaluation.metric import Metric
from mblip.report.summary import Estimate

GROUPS = {"high": "high-resource", "mid": "mid-resource", "low": "low-resource"}
_LEAST_P = 0.001


def show_estimate(estimate: Estimate | None, metric: Metric, signed: bool = False) -> str:
    """A value with its interval in brackets, or nothing."""
    if estimate is None:
        return ""
    sign = "+" if signed and estimate.value > 0 else ""
    if estimate.interval is None:
        return sign + metric.show(estimate.value)
    low, high = (metric.show(edge) for edge in estimate.interval)
    return f"{sign}{metric.show(estimate.value)} [{low}, {high}]"


def show_share(value: float | None) -> str:
    """A share in percent, or nothing."""
    return "" if value is None else f"{value:.1%}"


def p_value(value: float) -> str:
    """A p value with as many digits as the number of draws supports."""
    return f"< {_LEAST_P}" if value < _LEAST_P else f"{value:.3f}"
