r"""Make tables of your own out of Tux Paint's stamps: pictures with captions that people wrote in up to 80 languages.

    apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb stamps
    python examples/stamps.py stamps --to runs/stamps
    mblip eval MODEL --table runs/stamps/sw.csv --images stamps --task caption --language sw --to runs/stamps-sw
    mblip train finetune_own model.run=MODEL data.source.options.path=runs/stamps/sw.csv data.images=stamps \
        data.source.options.language=sw data.source.translate=false data.replay= --to runs/mine

A stamp is ``NAME.png`` beside ``NAME.txt``: a first line in English, then lines such as ``pt_BR.utf8=Um sapo.`` The script
writes ``captions.csv`` with all languages, and a table for each, such as ``sw.csv``. Many stamps are photographs, cut out. They
are GPL-2 and stay where they are.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from mblip.errors import InputError, MblipError
from mblip.languages import find_language
from mblip.storage import atomic_write


def main() -> None:
    """Read the stamps, write the tables, say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what the package was unpacked to")
    parser.add_argument("--to", type=Path, required=True, help="folder for the tables")
    asked = parser.parse_args()
    unknown: Counter[str] = Counter()
    rows = [row for file in sorted(asked.folder.rglob("*.txt")) for row in read_stamp(asked.folder, file, unknown)]
    if not rows:
        raise InputError(
            f"{asked.folder} holds no stamps (NAME.png beside NAME.txt): unpack the package there with dpkg -x"
        )
    asked.to.mkdir(parents=True, exist_ok=True)
    write_table(asked.to / "captions.csv", ("image", "caption", "language"), rows)
    languages = Counter(language for _, _, language in rows)
    for code in languages:
        own = [(image, caption) for image, caption, language in rows if language == code]
        write_table(asked.to / f"{code}.csv", ("image", "caption"), own)
    print(f"{len(rows):,} captions of {len({image for image, _, _ in rows}):,} pictures in {len(languages)} languages")
    if unknown:
        print(
            "left out, of no language and script that mblip knows: "
            + ", ".join(f"{name} ({n})" for name, n in unknown.most_common())
        )


def read_stamp(folder: Path, file: Path, unknown: Counter[str]) -> Iterator[tuple[str, str, str]]:
    """Picture, caption and language code of a stamp's lines, each caption of a language once."""
    picture = file.with_suffix(".png")
    if not picture.is_file():
        return
    seen = set()
    first, *others = file.read_text(encoding="utf-8-sig").splitlines() or [""]
    for line in [f"en.utf8={first}", *others]:
        name, _, caption = line.partition("=")
        caption, locale = caption.strip(), name.strip().removesuffix(".utf8")
        if not caption or (locale != "en" and caption == first.strip()):  # not translated
            continue
        try:
            code = find_language(locale).code  # which reads pt_BR and ca@valencia
        except InputError:  # none of the table's, or in another script, as sr@latin
            unknown[locale] += 1
            continue
        if (caption, code) not in seen:
            seen.add((caption, code))
            yield picture.relative_to(folder).as_posix(), caption, code


def write_table(path: Path, head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """A CSV file, whole or absent."""
    with atomic_write(path, "w") as file:
        csv.writer(file).writerows([head, *rows])


if __name__ == "__main__":
    try:
        main()
    except MblipError as error:
        sys.exit(str(error))
