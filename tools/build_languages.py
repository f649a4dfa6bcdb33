"""Refresh the CLDR columns of languages.csv (own name, script, direction) from babel; run after a babel upgrade.

The other columns are kept by hand. With --check nothing is written and a difference is an error.
"""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path

from babel import Locale
from babel.core import get_global

TABLE = Path(__file__).parents[1] / "src" / "mblip" / "languages.csv"
# Not in CLDR, or there only with a country.
OWN_NAMES = {"sm": "Gagana Samoa", "quz": "Runasimi"}
SCRIPTS = {"quz": "Latn"}


def own_name(tag: str) -> str:
    return OWN_NAMES.get(tag) or str(Locale.parse(tag).get_display_name(tag))


def script(tag: str) -> str:
    return SCRIPTS.get(tag) or get_global("likely_subtags")[tag].split("_")[1]


def refreshed() -> str:
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["own_name"] = own_name(row["bcp47"])
        row["script"] = script(row["bcp47"])
        row["direction"] = "rtl" if row["script"] in ("Arab", "Hebr") else "ltr"
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    new = refreshed()
    if "--check" not in sys.argv:
        TABLE.write_text(new, encoding="utf-8")
    elif new != TABLE.read_text(encoding="utf-8"):
        sys.exit(f"{TABLE.name} differs from CLDR; run python tools/build_languages.py")
