"""How numbers are written, the same in every form of the report."""

from __future__ import annotations

from mblip.report.summary import Estimate

GROUPS = {"high": "high-resource", "mid": "mid-resource", "low": "low-resource"}
UNITS = {"accuracy": "accuracy, %", "CIDEr": "CIDEr, x 100"}
_LEAST_P = 0.001


def show(value: float, metric: str) -> str:
    """A value as papers print it: accuracy in percent and CIDEr times 100 with one decimal, others as fractions."""
    if metric == "accuracy":
        return f"{value:.1f}"
    return f"{100 * value:.1f}" if metric == "CIDEr" else f"{value:.3f}"


def show_estimate(estimate: Estimate | None, metric: str, signed: bool = False) -> str:
    """A value with its interval in brackets, or nothing."""
    if estimate is None:
        return ""
    sign = "+" if signed and estimate.value > 0 else ""
    if estimate.interval is None:
        return sign + show(estimate.value, metric)
    low, high = (show(edge, metric) for edge in estimate.interval)
    return f"{sign}{show(estimate.value, metric)} [{low}, {high}]"


def p_value(value: float) -> str:
    """A p value with as many digits as the draws can tell."""
    return f"< {_LEAST_P}" if value < _LEAST_P else f"{value:.3f}"
