"""The quickstart's report: one offline HTML page and the same figures as Markdown."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path
from typing import Any

from mblip.languages import LANGUAGES
from mblip.nano.scenes import Scene, render
from mblip.storage import atomic_write

LIMITS = (
    "What these figures can say: the pictures are known objects in new scenes, one picture a concept, and the language "
    "model has read the same words as text, one vocabulary piece a name, its word vectors started from the dictionary. "
    "They show that the method works end to end, not how a model sees photographs."
)
_NAMES = {
    "naming_exact": "naming, exact",
    "naming_exact_never_shown": "naming, pairs never shown",
    "two_object_caption": "captions of two objects",
    "presence": "presence (yes/no)",
    "counting": "counting",
    "language_fidelity": "language fidelity",
}
_STYLE = """
:root{color-scheme:light dark;--bar:#3b6fd4;--soft:#8884;--held:#d98a2b}
body{font:16px/1.5 system-ui,"Noto Sans",sans-serif;max-width:70rem;margin:auto;padding:1rem}
h1{margin-bottom:0}h2{margin-top:2.5rem}
.figures{display:flex;flex-wrap:wrap;gap:.8rem}.figure{border:1px solid var(--soft);border-radius:.6rem;padding:.7rem 1rem}
.figure b{display:block;font-size:1.7rem}.figure small{opacity:.75}
.scroll{overflow-x:auto}table{border-collapse:collapse}td,th{padding:.25rem .7rem;text-align:left;white-space:nowrap}
td.n{text-align:right;font-variant-numeric:tabular-nums}tr+tr td{border-top:1px solid var(--soft)}
.says{white-space:normal;min-width:14rem}
.samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(10.5rem,1fr));gap:1rem}
.samples figure{margin:0}.samples img{width:100%;border-radius:.5rem;image-rendering:auto}
.samples figcaption{font-size:.9rem;overflow-wrap:anywhere}.wrong{color:#c33}
.bars{columns:3 17rem;column-gap:2rem}.bar{display:grid;grid-template-columns:7.5rem 1fr 3rem;gap:.4rem;font-size:.82rem;
align-items:center;break-inside:avoid}.track{background:var(--soft);height:.8rem;border-radius:.3rem;position:relative}
.track *{position:absolute}.track i{left:0;height:.35rem;border-radius:.3rem;background:var(--bar)}
.track u{top:.14rem;height:.08rem;background:currentColor}.track .held{margin-top:.42rem}.track i.held{background:var(--held)}
svg{max-width:100%;height:auto}.note{opacity:.8}
"""


def write_report(report: dict[str, Any], directory: Path, samples: list[dict[str, Any]]) -> None:
    """Write ``report.html`` and ``report.md`` beside ``report.json``."""
    with atomic_write(directory / "report.html", "w") as file:
        file.write(_page(report, samples))
    with atomic_write(directory / "report.md", "w") as file:
        file.write(_markdown(report))


def _page(report: dict[str, Any], samples: list[dict[str, Any]]) -> str:
    headline = report["headline"]
    minutes, memory = report["seconds"] / 60, report["peak_memory_mib"] / 1024
    sections = [
        "<h1>A nano mBLIP, end to end</h1>",
        f"<p>{headline['languages']} languages, {report['mix']['rows']:,} instructions, {minutes:.1f} minutes, "
        f"{memory:.2f} GiB at most.</p><p class=note>{LIMITS}</p>",
        f"<div class=figures>{''.join(_figure(name, headline[name]) for name in _NAMES if name in headline)}</div>",
        f"<h2>What it says</h2><div class=samples>{''.join(map(_sample, samples))}</div>",
        "<h2>Ablations</h2><p>Exact match on new scenes, mean over languages, 95 % interval over scenes and seeds.</p>",
        f"<div class=scroll>{_ablations(report['ablations'], report['setting'])}</div>",
        "<h2>English and the others</h2><p>Naming in English (line) against the mean of the other languages (bar).</p>",
        _gap(report["ablations"]),
        "<h2>By language</h2><p>Naming: pairs shown with a picture (upper bar) and never shown (lower); "
        "the line in a bar is its 95 % interval.</p>",
        f"<div class=bars>{''.join(_bar(code, row) for code, row in report['languages'].items())}</div>",
        "<h2>Loss of the alignment</h2>",
        _curve(report["curve"]),
        "<h2>The mix</h2>",
        f"<div class=scroll>{_counts(report['mix'])}</div>",
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>A nano mBLIP, end to end</title><style>{_STYLE}</style>{''.join(sections)}</html>\n"
    )


def _figure(name: str, figure: dict[str, Any]) -> str:
    low, high = figure["ci95"]
    return (
        f"<div class=figure><b>{figure['value']:.1%}</b>{_NAMES[name]}<br>"
        f"<small>95 % interval {low:.1%} to {high:.1%}</small></div>"
    )


def _sample(sample: dict[str, Any]) -> str:
    buffer = io.BytesIO()
    render(Scene.from_key(sample["image"]), 160).save(buffer, "PNG")
    picture = base64.b64encode(buffer.getvalue()).decode()
    language = LANGUAGES[sample["language"]]
    right = sample["answer"] == sample["reference"]
    shown = f"<bdi lang={language.bcp47}>{html.escape(sample['answer'])}</bdi>"
    wanted = "" if right else f"<br>expected <bdi lang={language.bcp47}>{html.escape(sample['reference'])}</bdi>"
    return (
        f"<figure><img alt='{html.escape(sample['image'], quote=True)}' src='data:image/png;base64,{picture}'>"
        f"<figcaption><small>{html.escape(sample['prompt'])}</small><br><b class={'right' if right else 'wrong'}>{shown}</b>"
        f"{wanted}</figcaption></figure>"
    )


def _ablations(ablations: dict[str, Any], headline: str) -> str:
    head = (
        "<tr><th>setting<th>naming<th>never shown<th>two objects<th>in language<th>seeds"
        "<th>what it is, and what the paper says</tr>"
    )
    rows = []
    for name, result in ablations.items():
        # The interval below its value, so that the whole table fits a page.
        cells = "".join(f"<td class=n>{_interval(figure, '<br><small>{}</small>')}" for figure in _columns(result))
        mark = "<br><small>the figures above</small>" if name == headline else ""
        rows.append(
            f"<tr><td>{name}{mark}{cells}<td class=n>{result['seeds']}<td class=says>{html.escape(result['says'])}"
            f"<br><small>{html.escape(result['claim'])}</small></tr>"
        )
    return f"<table>{head}{''.join(rows)}</table>"


def _columns(result: dict[str, Any]) -> list[dict[str, Any] | None]:
    """The figures that all settings were asked for."""
    names = ("naming_exact", "naming_exact_never_shown", "two_object_caption", "language_fidelity")
    return [result["headline"].get(name) for name in names]


def _interval(figure: dict[str, Any] | None, interval: str = " ({})") -> str:
    if figure is None:
        return "not asked"
    low, high = figure["ci95"]
    return f"{figure['value']:.1%}" + interval.format(f"{low:.1%} to {high:.1%}")


def _gap(ablations: dict[str, Any]) -> str:
    rows: list[str] = []
    for name, result in ablations.items():
        named = {code: row["naming_exact"]["value"] for code, row in result["languages"].items()}
        english = named.pop("en")
        others = named.values()
        mean = sum(others) / len(others)
        y = 34 * len(rows)
        rows.append(
            f"<text x=0 y={y + 20} font-size=13 fill=currentColor>{name}</text>"
            f"<rect x=150 y={y + 8} width={400 * mean:.1f} height=16 rx=3 fill=#3b6fd4 />"
            f"<line x1={150 + 400 * english:.1f} x2={150 + 400 * english:.1f} y1={y + 3} y2={y + 29} stroke=#d98a2b "
            f"stroke-width=3 /><text x=560 y={y + 20} font-size=12 fill=currentColor>{english:.0%} / {mean:.0%}</text>"
        )
    return f"<svg viewBox='0 0 640 {34 * len(rows) + 6}' width=640 role=img>{''.join(rows)}</svg>"


def _bar(code: str, row: dict[str, Any]) -> str:
    shown, held = row["naming_exact"], row.get("naming_exact_never_shown")
    bars = _track("shown", shown) + ("" if held is None else _track("held", held))
    name = html.escape(LANGUAGES[code].name)
    return f"<div class=bar><span>{name}</span><span class=track>{bars}</span><span>{shown['value']:.0%}</span></div>"


def _track(kind: str, figure: dict[str, Any]) -> str:
    """A bar and, as a line in it, its interval."""
    low, high = (100 * bound for bound in figure["ci95"])
    return (
        f"<i class={kind} style='width:{100 * figure['value']:.0f}%'></i>"
        f"<u class={kind} style='left:{low:.0f}%;width:{high - low:.0f}%'></u>"
    )


def _curve(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "<p>Nothing was trained.</p>"
    top = max(row["loss"] for row in rows)
    last = rows[-1]["step"]
    points = " ".join(f"{40 + 560 * row['step'] / last:.1f},{190 - 170 * row['loss'] / top:.1f}" for row in rows)
    return (
        "<svg viewBox='0 0 620 220' width=620 role=img><polyline fill=none stroke=#3b6fd4 stroke-width=2 "
        f"points='{points}'/><line x1=40 y1=190 x2=600 y2=190 stroke=currentColor />"
        f"<text x=0 y=24 font-size=12 fill=currentColor>{top:.2f}</text><text x=0 y=194 font-size=12 fill=currentColor>0</text>"
        f"<text x=520 y=210 font-size=12 fill=currentColor>step {last}</text></svg>"
    )


def _counts(mix: dict[str, Any]) -> str:
    tasks = "".join(f"<tr><td>{html.escape(task)}<td class=n>{count:,}</tr>" for task, count in mix["tasks"].items())
    drops = "".join(
        f"<tr><td>left out: {html.escape(why)}<td class=n>{count:,}</tr>" for why, count in mix["drops"].items()
    )
    return f"<table>{tasks}{drops}</table>"


def _markdown(report: dict[str, Any]) -> str:
    lines = ["# A nano mBLIP, end to end", "", LIMITS, "", "| figure | value | 95 % interval |", "|---|---|---|"]
    for name, title in _NAMES.items():
        if figure := report["headline"].get(name):
            low, high = figure["ci95"]
            lines.append(f"| {title} | {figure['value']:.1%} | {low:.1%} to {high:.1%} |")
    lines += ["", "| setting | naming | never shown | two objects | in language | seeds |", "|---|---|---|---|---|---|"]
    for name, result in report["ablations"].items():
        cells = [_interval(figure) for figure in _columns(result)]
        mark = " (the figures above)" if name == report["setting"] else ""
        lines.append(f"| {name}{mark} | {' | '.join(cells)} | {result['seeds']} |")
    lines += [
        "",
        "| language | " + " | ".join(sorted(report["tasks"])) + " |",
        "|---" * (len(report["tasks"]) + 1) + "|",
    ]
    for code, row in report["languages"].items():
        tasks = row["tasks"]
        cells = [f"{tasks[task]['value']:.0%}" if task in tasks else "" for task in sorted(report["tasks"])]
        lines.append(f"| {LANGUAGES[code].name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
