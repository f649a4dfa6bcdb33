"""Keep one model with one setting per run directory: the setting is written first and compared at every rerun."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mblip.errors import InputError
from mblip.evaluation.about import write_about
from mblip.evaluation.benchmark import Benchmark
from mblip.evaluation.results import (
    FORMAT,
    MISSING,
    PREDICTIONS,
    RUN,
    SCORES,
    Run,
    read_run,
    read_scores,
    write_run,
    write_scores,
)
from mblip.languages import LANGUAGES
from mblip.more_languages import carried
from mblip.schema import Score
from mblip.storage import no_empty_folders

_ELSEWHERE = "name another folder with --to"
_LONGEST = 80


@contextmanager
def begun(directory: Path) -> Iterator[None]:
    """Remove the files of an evaluation that stops before its first answer, as there is nothing to continue."""
    there = (directory / RUN).exists()
    with no_empty_folders(directory / MISSING), no_empty_folders(directory / PREDICTIONS):
        try:
            yield
        except BaseException:
            files = [*(directory / PREDICTIONS).glob("*.jsonl")]
            if not there and not any(path.stat().st_size for path in files):
                for path in (*files, *(directory / MISSING).glob("*.jsonl"), directory / RUN):
                    path.unlink(missing_ok=True)
            raise


def keep_run(directory: Path, run: Run) -> None:
    """Write the description of a run; an existing description must be the same.

    Raises:
        InputError: Another model, setting or decoding, or an older version that did not record everything, made the
            directory's content; the message names the difference.
    """
    if (directory / RUN).exists():
        held = read_run(directory)
        if held.format != FORMAT:
            raise InputError(
                f"{directory} holds an evaluation by an older version, which did not record everything that affects an "
                f"answer (chat template, processor, effective decoding), so it cannot be continued; {_ELSEWHERE}"
            )
        shared = run.decoding.keys() & held.decoding.keys()
        for name in (
            field.name for field in dataclasses.fields(Run) if field.name not in ("decoding", "more_languages")
        ):
            _compare(directory, name, getattr(held, name), getattr(run, name))
        for benchmark in sorted(shared):
            _compare(directory, f"decoding of {benchmark}", held.decoding[benchmark], run.decoding[benchmark])
        run = dataclasses.replace(run, decoding={**held.decoding, **run.decoding})
    # Reading the description has added its languages to those of this process.
    write_run(directory, dataclasses.replace(run, more_languages=carried(LANGUAGES)))


def keep_scores(directory: Path, scores: list[Score], benchmarks: Iterable[Benchmark]) -> list[Score]:
    """Add scores and the descriptions of their benchmarks to the directory."""
    write_about(directory, benchmarks)
    held = read_scores(directory) if (directory / SCORES).exists() else []
    by_task = {(score.benchmark, score.language): score for score in [*held, *scores]}
    write_scores(directory, list(by_task.values()))
    return scores


def _compare(directory: Path, name: str, before: Any, now: Any) -> None:
    found = _difference(name, before, now)
    if found:
        what, before, now = found
        raise InputError(
            f"{directory} holds an evaluation with {what} {_short(before)}, not {_short(now)}; {_ELSEWHERE}"
        )


def _difference(name: str, before: Any, now: Any) -> tuple[str, Any, Any] | None:
    """The innermost name under which two values differ, and both."""
    if before == now:
        return None
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            if found := _difference(str(key), before.get(key), now.get(key)):
                what, old, new = found
                return (what if name in ("identity", key) else f"{name}, {what}"), old, new
    return name, before, now


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
