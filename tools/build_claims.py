"""Write docs/claims.md from docs/claims.yaml; ``--check`` only says whether the page is the one that would be written."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

DOCS = Path(__file__).parents[1] / "docs"
SOURCE = DOCS / "claims.yaml"
PAGE = DOCS / "claims.md"
STATUSES = {
    "full": "measured at full size",
    "mini": "measured at mini size",
    "nano": "measured at nano size",
    "procedure": "procedure only",
}
INTRODUCTION = """---
hide: [navigation, toc]
---

# Claims

`python tools/build_claims.py` makes this page from `docs/claims.yaml`; change the claims there.

This page lists each claim of the paper (P), *mBLIP: Efficient Bootstrapping of Multilingual Vision-LLMs*
([arXiv 2307.06930](https://arxiv.org/abs/2307.06930)), and of this project (M), with the code that implements it, the
command that runs it, the test that checks it, and the measured result. The [log](log.md) has full accounts;
[another page](differences.md) lists the deliberate differences from the original code.

| Status | Meaning | Claims |
|---|---|---:|
"""
MEANINGS = {
    "full": "the real shape or real data, or a property that has no size, such as a metric; no full-size weights were run",
    "mini": "random weights of small or middle size, or made-up data",
    "nano": "the nano models that `make quickstart` trains",
    "procedure": "it can be run, but its result has not been measured here",
}


def load() -> dict[str, Any]:
    """Read the claims: ``groups`` with their claims, and ``places`` of the paper."""
    return dict(yaml.safe_load(SOURCE.read_text(encoding="utf-8")))


def page(claims: Mapping[str, Any]) -> str:
    """The whole page."""
    found = Counter(claim["status"] for group in claims["groups"] for claim in group["claims"])
    parts = [INTRODUCTION]
    parts += [f"| {name} | {MEANINGS[status]} | {found[status]} |\n" for status, name in STATUSES.items()]
    for group in claims["groups"]:
        parts.append(f"\n## {group['title']}\n\n")
        parts += _table(["Claim", "Implemented by", "Status and measured result"], map(_row, group["claims"]))
    parts.append(f"\n## Places of the paper\n\n{_places(claims['places'])}")
    return "".join(parts)


def _row(claim: Mapping[str, Any]) -> list[str]:
    place = f" *{claim['place'].capitalize()}.*" if "place" in claim else ""
    done = [f"`{text}`" for text in claim["code"]]
    done += [f"{name} `{claim[name]}`" for name in ("recipe", "command", "test") if name in claim]
    status = f"**{STATUSES[claim['status']].capitalize()}.** {claim.get('measured', '')}".rstrip()
    if "link" in claim:
        status += f" [Account]({claim['link']})" + (f", {claim['date']}" if "date" in claim else "")
    name = f'<span id="{claim["id"].lower()}">**{claim["id"]}**</span>'
    return [f"{name} {claim['claim']}{place}", "<br>".join(done), status]


def _places(places: Mapping[str, Any]) -> str:
    known = places["sections"]
    rows = [["Abstract", places["abstract"]], *([f"Section {number}", state] for number, state in known.items())]
    left = places["sections_in_all"] - len(known)
    rows.append([f"The other {left} of {places['sections_in_all']} sections", places["sections_left"]])
    rows.append(["Appendix", places["appendix"]])
    for kind in ("figure", "table"):
        states: dict[str, list[str]] = {}
        for number, state in places[f"{kind}s"].items():
            states.setdefault(state, []).append(str(number))
        for state, numbers in states.items():
            rows.append([f"{kind.capitalize()}{'s' * (len(numbers) > 1)} {', '.join(numbers)}", state])
    return "".join(_table(["Place", "State"], rows))


def _table(head: list[str], rows: Iterable[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |\n" for line in lines]


def main() -> None:
    made = page(load())
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(made, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != made:
        sys.exit("docs/claims.md is not what docs/claims.yaml says: run python tools/build_claims.py")


if __name__ == "__main__":
    main()
