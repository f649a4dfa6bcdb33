"""Parallel texts: two files with corresponding lines, the usual form of OPUS and other machine translation corpora.

Licence: that of the corpus. Download: https://opus.nlpl.eu, in Moses format, where each corpus names its licence.
Raw record: line N of ``path`` and line N of ``target_path``, such as ``Tatoeba.en-sw.en`` and ``Tatoeba.en-sw.sw``,
plain or ``.gz``. It becomes a ``translation`` example without a picture. Parallel texts keep an LLM's languages while
it learns to see (arXiv 2603.29467, 2503.22577).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from mblip.corpora.json_stream import Text, make_examples
from mblip.errors import InputError, check_readable
from mblip.languages import find_trainable
from mblip.schema import Drop, Example
from mblip.storage import reading_text

NO_PICTURES = True


def read(
    source: str,
    path: Path,
    target_path: Path,
    language: str,
    licence: str,
    source_language: str = "en",
    both: bool = False,
    max_characters: int = 1000,
) -> Iterator[Example | Drop]:
    """Yield the pairs of two files.

    Args:
        source: First part of the ids; the second is the line's number.
        path: File of source lines.
        target_path: File of their translations, line by line.
        language: Language of the translations, by any name or code.
        licence: SPDX identifier or your own words.
        source_language: Language of ``path``.
        both: Also make an example in the opposite direction.
        max_characters: Pairs with a longer side are left out, as they are unsplit paragraphs.

    Raises:
        InputError: A file cannot be read, is not UTF-8, or has more lines than the other.
    """
    codes = {"source": find_trainable(source_language), "target": find_trainable(language)}
    if codes["source"] == codes["target"]:
        raise InputError(f"source {source!r}: source_language and language are both {codes['source']!r}")

    def make(numbered: tuple[int, tuple[str | None, str | None]]) -> Iterator[Text | Drop]:
        number, (first, second) = numbered
        if first is None or second is None:
            shorter = path if first is None else target_path
            raise InputError(
                f"{shorter} ends at line {number - 1}, but the other file continues: the lines do not correspond"
            )
        texts = {"source": first.strip(), "target": second.strip()}
        if not all(texts.values()):
            yield Drop(f"{source}/{number}", source, "blank line", "", "translation")
        elif max(map(len, texts.values())) > max_characters:
            yield Drop(f"{source}/{number}", source, "long line", f"over {max_characters} characters", "translation")
        else:
            yield Text(str(number), "translation", (), texts, codes)
            if both:
                turned = {"source": texts["target"], "target": texts["source"]}
                yield Text(
                    f"{number}-back", "translation", (), turned, {"source": codes["target"], "target": codes["source"]}
                )

    pairs = enumerate(zip_longest(_lines(path), _lines(target_path)), start=1)
    return make_examples(source, licence, path, pairs, make)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a file; only a line feed ends a line, so that the files of a pair stay aligned."""
    if path.suffix != ".gz":
        with reading_text(path), path.open(encoding="utf-8-sig", newline="\n") as file:
            yield from file
        return
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="\n") as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        check_readable(path)
        raise InputError(f"{path} cannot be read ({error}); get the file again") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} does not hold UTF-8 text; convert it") from error
