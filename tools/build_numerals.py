"""Refresh numerals.csv, the words for 1 to 20, from CLDR's rules of spelling out.

Needs ``pip install unicode-rbnf`` (2.4.1, MIT licence).
With --check nothing is written and a difference is an error.
"""

from __future__ import annotations

import csv
import io
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import unicode_rbnf
from unicode_rbnf import RbnfEngine

from mblip.languages import LANGUAGES

TABLE = Path(__file__).parents[1] / "src" / "mblip" / "translation" / "numerals.csv"
RULES = Path(unicode_rbnf.__file__).parent / "rbnf"
FILES = {"no": "nb"}
# What the rules do not say: forms before a noun, of people and in other cases. A low line keeps two words together.
MORE = {
    ("ar", 1): "أحد إحدى", ("ar", 2): "اثنين اثنتين", ("ar", 3): "ثلاث",
    ("ar", 4): "أربع", ("ar", 5): "خمس", ("ar", 6): "ست", ("ar", 7): "سبع",
    ("ar", 8): "ثمان ثماني", ("ar", 9): "تسع", ("ar", 10): "عشر", ("ar", 11): "أحد_عشر إحدى_عشرة",
    ("ar", 12): "اثنا_عشر اثني_عشر اثنتا_عشرة اثنتي_عشرة",
    ("bg", 2): "двама", ("bg", 3): "трима", ("bg", 4): "четирима",
    ("cs", 2): "dvou dvěma oba", ("cs", 3): "tří třem třemi", ("cs", 4): "čtyř čtyřem čtyřmi",
    ("fr", 1): "premier première",
    ("ja", 1): "一 一つ ひとつ ひとり", ("ja", 2): "ふたつ ふたり 両",
    ("ja", 3): "みっつ", ("ja", 4): "よっつ", ("ja", 5): "いつつ",
    ("pl", 1): "pierwszy pierwsza pierwsze",
    ("ru", 2): "двое двоих оба обе вдвоём",
    ("ru", 3): "трое троих трёх трём втроём", ("ru", 4): "четверо четверых четырёх четырьмя",
    ("ru", 5): "пятеро", ("ru", 6): "шестеро", ("ru", 7): "семеро",
    ("sw", 1): "mmoja", ("sw", 2): "wawili viwili mawili miwili",
    ("tr", 2): "ikili",
    ("uk", 2): "двоє двох двом двома обидва", ("uk", 3): "троє трьох трьом трьома",
    ("uk", 4): "четверо чотирьох чотирьом", ("zh", 2): "兩 俩 双",
}  # fmt: skip
# Korean syllables that are numbers only within longer words, and otherwise "this", "day" and the like.
NOT = {("ko", 2): {"이"}, ("ko", 1): {"일"}, ("ko", 4): {"사"}, ("ko", 5): {"오"}}
MAX = 20


def rulesets(tag: str) -> list[str]:
    """The public rules of spelling out cardinals and ordinals; private ones make parts of words."""
    path = RULES / f"{tag.replace('-', '_')}.xml"
    names = []
    for element in ElementTree.parse(path).iter("ruleset"):
        name = element.get("type", "")
        if element.get("access") != "private" and name.startswith(("spellout-cardinal", "spellout-ordinal")):
            names.append(name)
    return names


def words() -> str:
    """The table as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["language", "number", "words"])
    for code, language in LANGUAGES.items():
        tag = FILES.get(code, language.bcp47)
        if tag not in RbnfEngine.get_supported_languages():
            continue
        engine, names = RbnfEngine.for_language(tag), rulesets(tag)
        for number in range(1, MAX + 1):
            forms = set(MORE.get((code, number), "").replace("_", "\u00a0").split(" ")) - {""}
            forms = {form.replace("\u00a0", " ") for form in forms}
            for name in names:
                form = engine.format_number(number, ruleset_names=[name]).text
                form = form.replace("\u00ad", "").replace("\u200b", "").strip()
                if "ERROR" not in form and not any(character.isdigit() for character in form):
                    forms.add(form)
            forms -= NOT.get((code, number), set())
            writer.writerow([code, number, "|".join(sorted(forms))])
    return text.getvalue()


if __name__ == "__main__":
    new = words()
    if "--check" not in sys.argv:
        TABLE.write_text(new, encoding="utf-8")
    elif new != TABLE.read_text(encoding="utf-8"):
        sys.exit(f"{TABLE.name} differs from CLDR; run python tools/build_numerals.py")
