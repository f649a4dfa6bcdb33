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
    shown = [(title, _distinct(lines)) for title, lines in panels.items() if any(lines.values())]
    if not shown:
        return
    last = max(point[0] for _, lines in shown for points in lines.values() for point in points)
    parts = [part for place, (title, lines) in enumerate(shown) for part in _panel(place, title, lines, last)]
    height = len(shown) * (_HEIGHT + _GAP) + _TOP
    style = "font: 12px system-ui, sans-serif; background: white"
    with atomic_write(directory / CURVES, "w") as file:
        file.write(
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_LEFT + _WIDTH + 20} {height}" style="{style}" '
            f'role="img"><title>Curves of {escape(directory.resolve().name)} over its steps</title>\n'
            + "\n".join(parts)
            + "\n</svg>\n"
        )


Points = list[tuple[float, float]]


def _points(rows: Sequence[dict[str, float]], name: str) -> Points:
    return [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]


def _distinct(lines: dict[str, Points]) -> dict[str, Points]:
    """Lines that hold points; those that are the same are one, named after all of them."""
    names: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for name, points in lines.items():
        if points:
            names.setdefault(tuple(points), []).append(name)
    return {", ".join(found): list(points) for points, found in names.items()}


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from ``low`` or below to ``high`` or above, some four of them."""
    rough = (high - low or 1.0) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [step * number for number in range(math.floor(low / step), math.ceil(high / step - 1e-6) + 1)]


def _panel(place: int, title: str, lines: dict[str, Points], last: float) -> list[str]:
    top = _TOP + place * (_HEIGHT + _GAP)
    values = [value for points in lines.values() for _, value in points]
    ticks = _ticks(min(0.0, *values), max(values))
    low, span = ticks[0], ticks[-1] - ticks[0]

    def x(step: float) -> float:
        return _LEFT + _WIDTH * step / last

    def y(value: float) -> float:
        return top + _HEIGHT * (1 - (value - low) / span)

    parts = [f'<text x="{_LEFT}" y="{top - 10}" font-weight="600">{escape(title)}</text>']
    for tick in ticks:
        parts.append(f'<path d="M{_LEFT} {y(tick):.1f}h{_WIDTH}" stroke="#ddd" fill="none"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.6g}</text>')
    for tick in [tick for tick in _ticks(0, last) if tick <= last and tick.is_integer()]:
        label = f"step {tick:,.0f}" if tick == 0 else f"{tick:,.0f}"
        parts.append(f'<text x="{x(tick):.1f}" y="{top + _HEIGHT + 16}" text-anchor="middle">{label}</text>')
    right = float(_LEFT + _WIDTH)
    for number, (name, points) in reversed(list(enumerate(lines.items()))):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        if len(points) == 1:  # of which a line shows nothing
            [(step, value)] = points
            parts.append(f'<circle cx="{x(step):.1f}" cy="{y(value):.1f}" r="2.5" fill="{colour}"/>')
        if name:
            parts.append(
                f'<text x="{right:.1f}" y="{top - 10}" text-anchor="end" fill="{colour}">{escape(name)}</text>'
            )
            right -= 7 * len(name) + 16
    return parts
