"""The quickstart's report: one offline HTML page and the same figures as Markdown."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mblip.errors import counted
from mblip.languages import LANGUAGES
from mblip.nano.plugin import FOLDER
from mblip.nano.scenes import Scene
from mblip.nano.scenes import render as render_scene
from mblip.report.render import Bar, Table, TableCell, render, ticks
from mblip.storage import atomic_write
from mblip.training.curves import draw_lines

_TITLE = "A nano mBLIP, end to end"
LIMITS = (
    "These figures have limits. The scenes are new, but the objects in them are known, with one drawing per object, and the "
    "language model has read the same words as text, one token per name, with word vectors initialised from the dictionary. "
    "The figures show that the method works end to end, not how well a model understands photographs."
)
_MINI_TITLE = "A small mBLIP around {llm}"
MINI_LIMITS = (
    "These figures have limits. The scenes are new, but the objects in them are known, with one drawing per object. The "
    "language model is a real one, trained on other text, and splits names into several tokens. The table also gives the "
    "share of the same words that it knows from text alone, after three examples: for pairs never shown, no alignment can be "
    "expected to name many more. The figures do not show how well a model understands photographs."
)
_NAMES = {
    "naming_exact": "naming, exact",
    "naming_exact_never_shown": "naming, pairs never shown",
    "two_object_caption": "captions of two objects",
    "presence": "presence (yes/no)",
    "counting": "counting",
    "language_fidelity": "language fidelity",
}
# The tasks of all settings.
_COLUMNS = {
    "naming_exact": "naming",
    "naming_exact_never_shown": "never shown",
    "two_object_caption": "two objects",
    "language_fidelity": "in language",
}


_SHOWN, _HELD = "pairs shown with a picture", "pairs never shown"
_ALONE = "the language model alone, asked in text"
_Group = tuple[str, list[tuple[str, Bar]]]


def write_report(report: dict[str, Any], directory: Path, samples: list[dict[str, Any]]) -> None:
    """Write ``report.html`` and ``report.md`` beside ``report.json``."""
    with atomic_write(directory / "report.html", "w") as file:
        file.write(_page(report, samples))
    with atomic_write(directory / "report.md", "w") as file:
        file.write(_markdown(report))


def _page(report: dict[str, Any], samples: list[dict[str, Any]]) -> str:
    headline, mix = report["headline"], report["mix"]
    minutes, memory = report["seconds"] / 60, report["peak_memory_mib"] / 1024
    size = (
        f"{counted(headline['languages'], 'language')}, {counted(mix['rows'], 'instruction')}, {minutes:.1f} minutes, "
        f"{memory:.2f} GiB at most."
    )
    counts = {**mix["tasks"], **{f"left out: {why}": count for why, count in mix["drops"].items()}}
    return render(
        "quickstart.html.j2",
        FOLDER / "pages",
        title=_title(report),
        size=size,
        limits=MINI_LIMITS if "llm" in report else LIMITS,
        figures=_figures(report),
        runs=[_SHOWN, _HELD, *([_ALONE] if "llm" in report else [])],
        samples=samples,
        picture=_picture,
        ablations=_ablations(report["ablations"], report["setting"]),
        gap=list(_gap(report["ablations"])),
        languages=_languages(report["languages"], report.get("llm_alone", {})),
        axis=ticks(1),
        curve=_curve(report["curve"]),
        mix=Table(
            ["task", "instructions"],
            [[TableCell(name), TableCell(f"{count:,}")] for name, count in counts.items()],
            (1,),
        ),
    )


def _title(report: dict[str, Any]) -> str:
    return _MINI_TITLE.format(llm=report["llm"]) if "llm" in report else _TITLE


def _figures(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The headline's figures by title, and what the language model knows alone."""
    headline = report["headline"]
    found = [(title, *_interval(headline[name])) for name, title in _NAMES.items() if name in headline]
    if "llm_alone" in report:
        found.append((_ALONE, *_interval(report["llm_alone"]["all"])))
    return found


def _columns(ablations: dict[str, Any]) -> dict[str, str]:
    """The columns that some setting was asked for."""
    asked = {name for result in ablations.values() for name in result["headline"]}
    return {name: title for name, title in _COLUMNS.items() if name in asked}


def _picture(key: str) -> str:
    """A scene as a data URL."""
    buffer = io.BytesIO()
    render_scene(Scene.from_key(key), 160).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _interval(figure: dict[str, Any] | None) -> tuple[str, str]:
    """A share and its interval."""
    if figure is None:
        return "not asked", ""
    low, high = figure["ci95"]
    return f"{figure['value']:.1%}", f"{low:.1%} to {high:.1%}"


def _ablations(ablations: dict[str, Any], headline: str) -> Table:
    columns = _columns(ablations)
    head = ["setting", *columns.values(), "seeds", "what it is, and what the paper says"]
    rows = []
    for name, result in ablations.items():
        # The interval is below its value, so that the table fits a page.
        figures = [TableCell(*_interval(result["headline"].get(column))) for column in columns]
        setting = TableCell(name, "the figures above" if name == headline else "")
        rows.append([setting, *figures, TableCell(str(result["seeds"])), TableCell(result["says"], result["claim"])])
    return Table(head, rows, range(1, len(head) - 1))


def _gap(ablations: dict[str, Any]) -> Iterator[_Group]:
    """English against the mean of the other languages; nothing where there are no others."""
    for name, result in ablations.items():
        named = {code: row["naming_exact"]["value"] for code, row in result["languages"].items()}
        english = named.pop("en")
        if not named:
            continue
        mean = sum(named.values()) / len(named)
        yield name, [(_SHOWN, Bar(f"{english:.0%} / {mean:.0%}", mean, None, english))]


def _languages(languages: dict[str, Any], alone: dict[str, Any]) -> Iterator[_Group]:
    for code, row in languages.items():
        figures = {_SHOWN: row["naming_exact"], _HELD: row.get("naming_exact_never_shown"), _ALONE: alone.get(code)}
        bars = [(name, Bar(f"{f['value']:.0%}", f["value"], f["ci95"])) for name, f in figures.items() if f is not None]
        yield LANGUAGES[code].name, bars


def _curve(rows: Sequence[dict[str, Any]]) -> str:
    """The loss as an SVG element for HTML, without name spaces; empty if nothing was trained."""
    if not rows:
        return ""
    points = [(row["step"], row["loss"]) for row in rows]
    svg = draw_lines({"Loss (nats per token)": {"": points}}, "Loss of the alignment over its steps")
    return re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)


def _markdown(report: dict[str, Any]) -> str:
    limits, columns = MINI_LIMITS if "llm" in report else LIMITS, _columns(report["ablations"])
    lines = [f"# {_title(report)}", "", limits, "", "| figure | value | 95 % interval |", "|---|---|---|"]
    lines += [f"| {title} | {value} | {interval} |" for title, value, interval in _figures(report)]
    lines += ["", f"| setting | {' | '.join(columns.values())} | seeds |", "|---" * (len(columns) + 2) + "|"]
    for name, result in report["ablations"].items():
        figures = [_interval(result["headline"].get(column)) for column in columns]
        cells = [f"{value} ({interval})" if interval else value for value, interval in figures]
        mark = " (the figures above)" if name == report["setting"] else ""
        lines.append(f"| {name}{mark} | {' | '.join(cells)} | {result['seeds']} |")
    alone = report.get("llm_alone", {})
    head = ["language", *sorted(report["tasks"]), *([_ALONE] if alone else [])]
    lines += ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for code, row in report["languages"].items():
        tasks = row["tasks"]
        cells = [f"{tasks[task]['value']:.0%}" if task in tasks else "" for task in sorted(report["tasks"])]
        cells += [f"{alone[code]['value']:.0%}"] if alone else []
        lines.append(f"| {LANGUAGES[code].name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
