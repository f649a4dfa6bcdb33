"""Sample pictures with the answers of each run, in their scripts."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mblip.evaluation.pictures import PictureSources, find_pictures
from mblip.evaluation.results import read_items, read_predictions
from mblip.languages import find_language
from mblip.report.summary import Report
from mblip.storage import UnreadableImage

LANGUAGES_SHOWN = 8
_ROOM = 240  # characters of a reference answer
_WIDTH = 320  # pixels; a picture takes about 20 kB in the page


@dataclass(frozen=True, slots=True)
class Answer:
    """A question in one language, and the answers of the runs.

    Attributes:
        language: mC4 code.
        text: The question or statement; empty for captions.
        gold: Reference answers, as many as fit on a card.
        answers: The answer and its score, by run.
    """

    language: str
    text: str
    gold: tuple[str, ...]
    answers: dict[str, tuple[str, float | None]]


@dataclass(frozen=True, slots=True)
class SampleCard:
    """One picture, or pair of pictures.

    Attributes:
        benchmark: Name of the benchmark.
        metric: Metric of the answers' scores.
        images: Keys of the pictures.
        pictures: The pictures as JPEG data URLs; None for missing ones.
        rows: One row per language.
        own_language: Whether answers are in the language of their row, and not all in English.
    """

    benchmark: str
    metric: str
    images: tuple[str, ...]
    pictures: tuple[str | None, ...]
    rows: list[Answer]
    own_language: bool = True


def choose_samples(
    report: Report, cards: int = 4, root: Path | None = None, images: Sequence[str] = ()
) -> list[SampleCard]:
    """Samples of every benchmark: pictures at even steps through its files, so that they are not hand-picked.

    Args:
        report: The runs.
        cards: Number of pictures of each benchmark.
        root: Folder of the benchmarks' pictures; None if they are missing.
        images: Image stores to search first.

    Raises:
        InputError: A store does not exist, or a file of a run is damaged.
    """
    found = []
    for benchmark in report.benchmarks:
        pictures = find_pictures(benchmark.about.images, root, images)
        runs = [name for name in report.runs if name in benchmark.runs]
        languages = _many_scripts([code for code in benchmark.languages if code in benchmark.runs[runs[0]].scores])
        first = report.directories[runs[0]]
        items = {code: read_items(first, benchmark.name, code) for code in languages}
        said = {
            (run, code): read_predictions(report.directories[run], benchmark.name, code)
            for run in runs
            for code in languages
            if code in benchmark.runs[run].scores
        }
        worth = {
            (run, code): {
                item.id: item.values.get(benchmark.metric.name)
                for item in read_items(report.directories[run], benchmark.name, code)
            }
            for run, code in said
        }
        for keys in _spread(list(dict.fromkeys(item.images for code in languages for item in items[code])), cards):
            rows = []
            for code in languages:
                item = next((item for item in items[code] if item.images == keys), None)
                if item is not None:
                    answers = {
                        run: (said[run, code][item.id].answer, worth[run, code].get(item.id))
                        for run in runs
                        if (run, code) in said and item.id in said[run, code]
                    }
                    rows.append(Answer(code, item.text, _fitting(item.gold), answers))
            urls = tuple(_data_url(key, pictures) for key in keys)
            found.append(
                SampleCard(benchmark.name, benchmark.metric.name, keys, urls, rows, benchmark.about.own_language)
            )
    return found


def _fitting(texts: Sequence[str]) -> tuple[str, ...]:
    shown: list[str] = []
    for text in texts:
        if shown and sum(map(len, shown)) + len(text) > _ROOM:
            return (*shown, "…")
        shown.append(text)
    return tuple(shown)


def _many_scripts(languages: Sequence[str]) -> list[str]:
    """Up to :data:`LANGUAGES_SHOWN` languages, one of every script before a second of any script."""
    seen: dict[str, int] = {}
    rank = {}
    for place, code in enumerate(languages):
        script = find_language(code).script
        seen[script] = seen.get(script, 0) + 1
        rank[code] = (seen[script], place)
    chosen = sorted(languages, key=lambda code: rank[code])[:LANGUAGES_SHOWN]
    return sorted(chosen, key=list(languages).index)


def _spread(keys: list[tuple[str, ...]], count: int) -> list[tuple[str, ...]]:
    count = min(count, len(keys))
    return [keys[number * len(keys) // count] for number in range(count)]


def _data_url(key: str, pictures: PictureSources) -> str | None:
    try:
        picture = pictures.get(key)
    except UnreadableImage:
        return None
    picture.thumbnail((_WIDTH, _WIDTH))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
