"""The curves of a run as one SVG picture."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import cycle
from pathlib import Path
from typing import Any

from mblip.storage import atomic_write
from mblip.training.logs import read_steps, read_validations
from mblip.training.tracking import METRICS
from mblip.training.validation import VALIDATION

CURVES = "curves.svg"
_COLOURS = ("#3b7dd8", "#c9650c", "#2f9e78", "#a24bb8", "#c2455b", "#7a808c")
_DASHES = ("-", "--", "-.", ":")
_INK = "#123456"  # replaced by the reader's text colour, for which matplotlib has no name
_STYLE: dict[str, Any] = {
    "font.size": 10, "axes.titlesize": 10, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.grid.axis": "y", "grid.alpha": 0.25,
    "legend.framealpha": 0,
    "legend.edgecolor": "none", "svg.fonttype": "none", "svg.hashsalt": "mblip",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), _INK),
}  # fmt: skip

Points = Sequence[tuple[float, float]]
"""Pairs of step and value."""


def draw_curves(directory: Path) -> None:
    """Write a run's loss (with validation), learning rates and speed to ``curves.svg``; nothing without log rows."""
    if not (directory / METRICS).exists():
        return
    rows = read_steps(directory / METRICS)
    checked = read_validations(directory / VALIDATION) if (directory / VALIDATION).exists() else []
    rates = sorted({name for row in rows for name in row.learning_rates})
    panels = {
        "Loss (nats per token)": {
            "training": _finite((row.step, row.loss) for row in rows),
            "validation": _finite((row.step, row.loss) for row in checked),
        },
        "Gradient norm": {"": _finite((row.step, row.grad_norm) for row in rows)},
        "Learning rate": {
            name: _finite((row.step, row.learning_rates.get(name, math.nan)) for row in rows) for name in rates
        },
        "Texts per second": {"": _finite((row.step, row.per_second.get("examples", math.nan)) for row in rows)},
    }
    shown = {title: _distinct(lines) for title, lines in panels.items() if any(lines.values())}
    if shown:
        with atomic_write(directory / CURVES, "w") as file:
            file.write(draw_lines(shown, f"Curves of {directory.resolve().name} over its steps"))


def draw_lines(panels: Mapping[str, Mapping[str, Points]], title: str) -> str:
    """Draw panels of named curves, one above the other, as an SVG element in the reader's light or dark colours."""
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    buffer = io.StringIO()
    last = max(step for lines in panels.values() for points in lines.values() for step, _ in points)
    with style.context(["default", _STYLE]):
        figure = Figure((5.5, 2.1 * len(panels)), layout="constrained")  # inches: text stays legible on a phone
        axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
        for axis, (name, lines) in zip(axes, panels.items(), strict=True):
            axis.set_title(name)
            for (label, points), colour, dash in zip(lines.items(), cycle(_COLOURS), cycle(_DASHES), strict=False):
                marker = "o" if len(points) == 1 else ""  # a line through one point would show nothing
                group = "-".join(re.findall(r"\w+", f"{name} {label}"))
                style_of = {"label": label, "color": colour, "linestyle": dash, "marker": marker, "gid": group}
                axis.plot(*zip(*points, strict=True), **style_of)
            if min(value for points in lines.values() for _, value in points) >= 0:
                axis.set_ylim(bottom=0)
            axis.yaxis.set_major_formatter("{x:g}")
            if any(lines):
                axis.legend(fontsize=9)
        axis.set(xlabel="step", xlim=(0, last))
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 2.5, 5, 10]))
        axis.xaxis.set_major_formatter("{x:,.0f}")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    return _accessible(buffer.getvalue(), panels)


def _accessible(svg: str, panels: Mapping[str, Mapping[str, Points]]) -> str:
    """The SVG element with a description in words, in the reader's colours and width."""
    said = "; ".join(
        f"{panel}{f', {label}' if label else ''}: from {points[0][1]:.4g} at step {points[0][0]:g} to "
        f"{points[-1][1]:.4g} at step {points[-1][0]:g}"
        for panel, lines in panels.items()
        for label, points in lines.items()
    )
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"<metadata>.*?</metadata>", lambda _: f"<desc>{escape(said)}</desc>", svg, flags=re.DOTALL)
    style = "color-scheme: light dark; max-width: 100%; height: auto"
    return svg.replace("<svg ", f'<svg role="img" style="{style}" ', 1).replace(_INK, "CanvasText")


def _finite(points: Iterable[tuple[float, float]]) -> Points:
    return [(step, value) for step, value in points if math.isfinite(value)]


def _distinct(lines: Mapping[str, Points]) -> dict[str, Points]:
    """Lines that have points; equal lines become one with all their names."""
    names: dict[tuple[tuple[float, float], ...], list[str]] = {}
    for name, points in lines.items():
        if points:
            names.setdefault(tuple(points), []).append(name)
    return {", ".join(found): points for points, found in names.items()}
