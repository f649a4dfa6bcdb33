"""Rebuild the nano world's words and sprites from their sources.

    npm pack cldr-annotations-full@48.2.0 && tar xzf cldr-annotations-full-48.2.0.tgz
    apt-get install fonts-noto-color-emoji
    python tools/build_nano_data.py package /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf

Writes names.json.gz and sprites.zip into src/mblip/nano/data; the same sources give the same bytes. The concepts are
objects with one picture each; near-twins (dog and dog face, coloured books, medals) are left out, and so are names
that need a sentence.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import sys
import unicodedata
import zipfile
from pathlib import Path

from fontTools.ttLib import TTFont

from mblip.languages import LANGUAGES

EMOJI = (
    "🐒🦍🐕🐩🐺🦊🐈🦁🐅🐆🐎🦄🦓🦌🐂🐄🐖🐗🐏🐑🐐🐪🦙🦒🐘🦏🦛🐁🐹🐇🐿🦔🦇🐻🐨🐼🦥🦦🦘🐾🦃🐓🐤🐦🐧"
    "🕊🦅🦆🦢🦉🪶🦩🦚🦜🐸🐊🐢🦎🐍🐉🦕🦖🐋🐬🐟🐡🦈🐙🐚🐌🦋🐛🐜🐝🐞🦗🕷🦂💐🌹🌺🌻🌷🌱🌲🌳🌴🌵🍁🍄"
    "🍇🍈🍉🍊🍋🍌🍍🥭🍎🍐🍑🍒🍓🥝🍅🥥🥑🍆🥔🥕🌽🌶🥒🥦🧄🧅🥜🌰🍞🥐🥨🥞🧇🥓🍔🍟🍕🌭🥪🌮🌯🥚🍿🧈🧂"
    "🍣🥟🦀🦞🦐🦑🍨🍩🍪🎂🥧🍫🍬🍭🍮🍯🍼🍷🍺🧊🥄🔪🏺🌋🏟🧱🏠🏥🏭🏰⛪🕌⛲⛺🎡🎢🚂🚊🚌🚑🚒🚓🚕🚗🚚"
    "🚜🏎🏍🛵🚲🛴🛹🛑⚓⛵🛶🚤🚢✈🚁🛰🚀🛸🎃🎄🎈🎀🎁🏆⚽⚾🏀🏐🏈🎾🎳🏓🥊🛷🎯🪁🎮🎲🧸🎨👓👔👕👖🧣"
    "🧤🧥🧦👗👘👙👛🎒👟👠👑🎩🧢💄💍💎📣🔔🎤🎧📻🎷🎸🎺🎻🥁📱☎🔋🔌💻🖨🧮💾📺📷🕯💡🔦📜📰🔖💰🪙💳"
    "✉📦✏🖌🖍📅📎📏📐✂🗑🔑🔨🪓⛏🗡💣🛡🔧⚙🧲🪜🔬🔭💉💊🚪🪞🪟🛏🪑🚽🧹🪣🧼🪥🗿"
)
DATA = Path(__file__).parents[1] / "src" / "mblip" / "nano" / "data"


def clean(name: str) -> str:
    """The first of several synonyms, without explanations in brackets."""
    name = re.sub(r"\s*\([^)]*\)", "", unicodedata.normalize("NFC", name))
    return " ".join(re.split(r"[,،/;]", name)[0].split())


def names(annotations: Path) -> dict[str, dict[str, str]]:
    """Name by language and emoji, for every language that CLDR names at least one concept in."""
    found = {}
    for language in LANGUAGES.values():
        folders = (annotations / "annotations" / code for code in (language.bcp47, language.code))
        path = next((p / "annotations.json" for p in folders if p.is_dir()), None)
        if path is None:
            continue
        rows = json.loads(path.read_text(encoding="utf-8"))["annotations"]["annotations"]
        own = {emoji: clean(rows[emoji]["tts"][0]) for emoji in EMOJI if "tts" in rows.get(emoji, {})}
        repeated = {name for name in own.values() if list(own.values()).count(name) > 1}
        own = {emoji: name for emoji, name in own.items() if name and name not in repeated}
        if own:
            found[language.code] = own
    return found


def sprites(font: Path) -> bytes:
    """A ZIP of the font's own PNG strikes (136 x 128 pixels), one for each emoji."""
    table = TTFont(font)
    cmap, strike = table.getBestCmap(), table["CBDT"].strikeData[0]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for emoji in EMOJI:
            archive.writestr(zipfile.ZipInfo(f"{ord(emoji):x}.png"), strike[cmap[ord(emoji)]].imageData)
    return buffer.getvalue()


def main() -> None:
    """Write both files."""
    annotations, font = Path(sys.argv[1]), Path(sys.argv[2])
    DATA.mkdir(parents=True, exist_ok=True)
    payload = json.dumps(names(annotations), ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    (DATA / "names.json.gz").write_bytes(gzip.compress(payload.encode(), 9, mtime=0))
    (DATA / "sprites.zip").write_bytes(sprites(font))
    shutil.copy(annotations / "LICENSE", DATA / "LICENSE.unicode.txt")


if __name__ == "__main__":
    main()
