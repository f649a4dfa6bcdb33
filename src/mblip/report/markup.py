"""Pieces of the offline page: escaped text in its own script and direction, tables, bars with whiskers, strips of dots."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from mblip.languages import find_language

COLOURS = ("#3b6fd4", "#d98a2b", "#2f9e78", "#a24bb8", "#c2455b", "#6b7280")

STYLE = """
:root{color-scheme:light dark;--soft:#8883}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,"Noto Sans","Noto Sans CJK SC","Noto Sans Arabic","Noto Sans Devanagari",sans-serif;
max-width:75rem;margin:auto;padding:1rem}
h1{margin-bottom:0}h2{margin-top:2.8rem}h3{margin:1.6rem 0 .4rem}.note,small{opacity:.78}.caution{border-left:4px solid #d98a2b;
padding-left:.8rem}
.scroll{overflow-x:auto;margin-bottom:1.2rem}
table{border-collapse:collapse}td,th{padding:.25rem .7rem;text-align:start;white-space:nowrap;
vertical-align:top;line-height:1.35}.n{text-align:right;font-variant-numeric:tabular-nums}td{border-top:1px solid var(--soft)}
.key{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem}
.key i,.dot i{display:inline-block;width:.8rem;height:.8rem;border-radius:50%}
.bars{columns:2 22rem;column-gap:2.5rem}
.group{display:grid;grid-template-columns:7rem 1fr;gap:0 .5rem;font-size:.85rem;break-inside:avoid;padding:.12rem 0}
.bar{display:grid;grid-template-columns:1fr 4.2rem;gap:0 .5rem;align-items:center;min-height:1.25rem}
.bar span:last-child{text-align:right;font-variant-numeric:tabular-nums}
.track{height:.6rem;position:relative;
background:linear-gradient(90deg,var(--soft) 1px,#0000 1px) 0 0/calc(100%/var(--steps)) 100%,var(--soft)}
.track b{position:absolute;inset:0 auto 0 0;border-radius:0 .3rem .3rem 0}
.track s{position:absolute;top:.24rem;height:.12rem;background:currentColor}
.track u{position:absolute;top:-.12rem;bottom:-.12rem;width:.16rem;background:currentColor}
.strip{display:grid;grid-template-columns:minmax(6rem,16rem) 1fr;gap:.2rem .8rem;align-items:center;margin:.5rem 0}
.strip .name{overflow-wrap:anywhere;font-size:.9rem}
.line{position:relative;height:2.1rem;background:linear-gradient(var(--soft),var(--soft)) 0 50%/100% 2px no-repeat,
linear-gradient(90deg,var(--soft) 1px,#0000 1px) 0 0/calc(100%/var(--steps)) 100%}
.line *{position:absolute;transform:translateX(-50%)}.line i{top:.7rem;width:.7rem;height:.7rem;border-radius:50%;opacity:.7}
.line b{top:.15rem;height:1.8rem;width:.22rem}.line u{top:.42rem;height:1.26rem;width:.12rem;background:currentColor}
.axis{display:flex;justify-content:space-between;font-size:.75rem;opacity:.78;grid-column:2}
.axis span{width:0;display:flex;justify-content:center}.axis span:first-child{justify-content:start}
.axis span:last-child{justify-content:end}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr));gap:1.2rem;align-items:start}
.card{border:1px solid var(--soft);border-radius:.7rem;padding:.8rem;overflow-wrap:anywhere}
.card .pictures{display:flex;gap:.4rem}.card img{flex:1 1 0;min-width:0;max-height:14rem;object-fit:contain;border-radius:.4rem}
.card .none{flex:1;border:1px dashed;border-radius:.4rem;padding:1.4rem .6rem;text-align:center;opacity:.7;font-size:.85rem}
.note{overflow-wrap:anywhere}
.card dl{margin:.6rem 0 0}.card dt{font-size:.8rem;opacity:.78;margin-top:.6rem}.card dd{margin:0}.card .gold{font-size:.85rem;
opacity:.78}.mark{font-size:.75rem;opacity:.8;white-space:nowrap}
details{margin:.3rem 0}summary{cursor:pointer}pre{white-space:pre-wrap;overflow-wrap:anywhere;font-size:.8rem}
@media(max-width:40rem){.strip{grid-template-columns:1fr}.axis{grid-column:1}
thead,td:empty{display:none}tr{display:flex;flex-wrap:wrap;column-gap:1.1rem}td{display:block;flex:1 0 100%;padding:.1rem 0;
border:0;white-space:normal;overflow-wrap:anywhere}td:first-child:not(:empty){border-top:1px solid var(--soft);margin-top:.4rem}
td.n{flex:0 0 auto;min-width:4.2rem;text-align:start}
td.n::before{content:attr(data-of);display:block;font-size:.75rem;opacity:.78}}
"""


def page(title: str, sections: Sequence[str]) -> str:
    """A whole document that fetches nothing."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )


def foreign(text: str, language: str, tag: str = "bdi") -> str:
    """Text in a language (mC4 code), or in whatever a model answered: browsers choose direction and glyphs for it."""
    return f'<{tag} lang="{find_language(language).bcp47}" dir="auto">{html.escape(text)}</{tag}>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table; where the page is narrow, a row is a paragraph in which every number has its title above it.

    Args:
        head: Titles, plain text.
        rows: Cells, markup already.
        numbers: Columns that are set right.
    """
    names = [html.escape(title) for title in head]
    kinds = {column: f' class="n" data-of="{names[column]}"' for column in numbers}
    titles = "".join(
        f'<th scope="col"{" class=n" if column in kinds else ""}>{name}</th>' for column, name in enumerate(names)
    )
    body = ""
    for row in rows:
        cells = (f"<td{kinds.get(column, '')}>{cell}</td>" for column, cell in enumerate(row))
        body += f"<tr>{''.join(cells)}</tr>"
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def key(names: Sequence[str]) -> str:
    """Which colour is which run."""
    entries = (
        f'<span><i style="background:{colour(n)}"></i> {html.escape(name)}</span>' for n, name in enumerate(names)
    )
    return f'<p class="key">{"".join(entries)}</p>'


def colour(number: int) -> str:
    """Of the run of that number; they begin anew after the last."""
    return COLOURS[number % len(COLOURS)]


def ticks(largest: float) -> list[float]:
    """Round values from 0 to the first that is not below the largest one drawn."""
    largest = largest if largest > 0 else 1.0
    least = largest / 4
    power = 10.0 ** math.floor(math.log10(least))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power > least * (1 - 1e-9))
    return [step * number for number in range(math.ceil(largest / step - 1e-9) + 1)]


def bar(
    value: float, interval: tuple[float, float] | None, reference: float | None, axis: Sequence[float], run: int
) -> str:
    """A bar from 0, its interval as a whisker, and a reference as an upright line."""
    whisker, most = "", axis[-1]
    if interval:
        low, high = (_percent(edge, most) for edge in interval)
        whisker = f'<s style="left:{low:.2f}%;width:{high - low:.2f}%"></s>'
    line = "" if reference is None else f'<u style="left:{_percent(reference, most):.2f}%"></u>'
    filled = f'<b style="width:{_percent(value, most):.2f}%;background:{colour(run)}"></b>'
    return f'<span class="track" style="--steps:{len(axis) - 1}">{filled}{whisker}{line}</span>'


def strip(
    english: float | None, mean: float | None, dots: Sequence[tuple[str, float]], axis: Sequence[float], run: int
) -> str:
    """English as a bar, every other language as a dot that tells its name, their mean as a thin line."""
    fill, most = colour(run), axis[-1]
    marks = [
        f'<i style="left:{_percent(value, most):.2f}%;background:{fill}" title="{html.escape(title, quote=True)}"></i>'
        for title, value in dots
    ]
    if mean is not None:
        marks.append(f'<u style="left:{_percent(mean, most):.2f}%" title="mean of the others"></u>')
    if english is not None:
        marks.append(f'<b style="left:{_percent(english, most):.2f}%;background:{fill}" title="English"></b>')
    return f'<span class="line" style="--steps:{len(axis) - 1}">{"".join(marks)}</span>'


def _percent(value: float, most: float) -> float:
    return 100 * min(1.0, max(0.0, value / most))
