"""The curves of a run as one SVG file, without any plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from mblip.storage import atomic_write
from mblip.training.tracking import METRICS, read_log
from mblip.training.validation import VALIDATION

CURVES = "curves.svg"
_WIDTH, _HEIGHT, _LEFT, _TOP, _GAP = 720, 180, 64, 34, 58
_COLOURS = ("#0b7285", "#c2410c", "#6d28d9", "#15803d", "#a16207", "#be185d")


def draw_curves(directory: Path) -> None:
    """Write ``curves.svg`` of a run's loss (with validation), learning rates and speed; nothing where nothing is logged."""
    if not (directory / METRICS).exists():
        return
    rows = read_log(directory / METRICS)
    checked = read_log(directory / VALIDATION) if (directory / VALIDATION).exists() else []
    rates = sorted({name for row in rows for name in row if name.startswith("lr_")})
    panels = {
        "loss (nats a token)": {"training": _points(rows, "loss"), "validation": _points(checked, "loss")},
        "gradient norm": {"": _points(rows, "grad_norm")},
        "learning rate": {name.removeprefix("lr_"): _points(rows, name) for name in rates},
        "texts a second": {"": _points(rows, "examples_per_second")},
    }
    shown = [(title, {n: p for n, p in lines.items() if p}) for title, lines in panels.items()]
    shown = [(title, lines) for title, lines in shown if lines]
    if not shown:
        return
    last = max(point[0] for _, lines in shown for points in lines.values() for point in points)
    parts = [part for place, (title, lines) in enumerate(shown) for part in _panel(place, title, lines, last)]
    height = len(shown) * (_HEIGHT + _GAP) + _TOP
    style = "font: 12px system-ui, sans-serif; background: white"
    with atomic_write(directory / CURVES, "w") as file:
        file.write(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 20} {height}" style="{style}">\n'
            + "\n".join(parts)
            + "\n</svg>\n"
        )


Points = list[tuple[float, float]]


def _points(rows: Sequence[dict[str, float]], name: str) -> Points:
    return [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]


def _panel(place: int, title: str, lines: dict[str, Points], last: float) -> list[str]:
    top = _TOP + place * (_HEIGHT + _GAP)
    values = [value for points in lines.values() for _, value in points]
    low, high = min(0.0, *values), max(values)
    span = (high - low) or 1.0

    def at(step: float, value: float) -> str:
        return f"{_LEFT + _WIDTH * step / last:.1f},{top + _HEIGHT * (1 - (value - low) / span):.1f}"

    parts = [f'<text x="{_LEFT}" y="{top - 10}" font-weight="600">{escape(title)}</text>']
    for share in (0.0, 0.5, 1.0):
        y = top + _HEIGHT * (1 - share)
        parts.append(f'<path d="M{_LEFT} {y:.1f}h{_WIDTH}" stroke="#ddd" fill="none"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{low + share * span:.3g}</text>')
        x, anchor = _LEFT + _WIDTH * share, ("start", "middle", "end")[round(2 * share)]
        parts.append(f'<text x="{x:.1f}" y="{top + _HEIGHT + 16}" text-anchor="{anchor}">{last * share:,.0f}</text>')
    for number, (name, points) in enumerate(lines.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(at(step, value) for step, value in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if name:
            x = _LEFT + _WIDTH - 110 * (len(lines) - number)
            parts.append(f'<text x="{x}" y="{top - 10}" fill="{colour}">{escape(name)}</text>')
    return parts
