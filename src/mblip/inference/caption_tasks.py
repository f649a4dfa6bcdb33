"""Run the tasks of a caption plan, one by one, on any machine, and merge their captions.

A task that was killed continues from its rows. A task that is marked as finished is never repeated.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from mblip.errors import InputError, counted
from mblip.executors import Job, Place
from mblip.inference import finding
from mblip.inference.caption_file import Caption, CaptionFile, SkippedList
from mblip.inference.caption_plan import Output, Plan, Shard, Wanted, pictures_of, planned_skipped, read_plan
from mblip.storage import UnreadableImage, exclusive_lock, read_jsonl, read_records, write_json
from mblip.storage.locks import BusyError

_PATIENCE = 600.0  # seconds without a new row, after which the holder of a task counts as hung


def caption_job(plan: Plan) -> Job[Shard]:
    """The tasks of a plan, for :func:`mblip.executors.run_job`."""
    return Job("mblip-caption", caption_shard, plan.shards, _is_done, plan.folder / "logs")


def caption_shard(shard: Shard, place: Place) -> None:
    """Caption the pictures of a task that have no captions yet, unless it is done.

    Args:
        shard: The task.
        place: Its slot chooses one of the visible GPUs.

    Raises:
        InputError: The plan or the model cannot be used.
        ResourceError: The disk is full; all rows are kept.
    """
    with _alone(shard):
        if shard.mark.exists():
            return
        plan = read_plan(shard.folder)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(contextlib.chdir(plan.here))
            except OSError as error:
                raise InputError(
                    f"this machine has no access to {plan.here}, where relative paths start: {error.strerror}"
                ) from error
            file = CaptionFile(shard.rows, plan.model, resume=True)
            skipped = SkippedList(shard.rows)
            stack.callback(skipped.close)
            stack.callback(file.close)
            wanted = list(pictures_of(plan, shard))
            done = _Done(file, wanted)
            left = [
                each.picture for each in wanted if any((str(each.picture), code) not in done for code in plan.languages)
            ]
            count, refused = len(wanted) - len(left), 0
            place.tell(count)
            for result in _caption(plan, left, done, place) if left else ():
                if isinstance(result, list):
                    file.add(result)
                else:
                    skipped.add(result.key, result.reason)
                    refused += 1
                count += 1
                place.tell(count)
            file.finish()
            skipped.finish()
        write_json(shard.mark, {"pictures": len(wanted), "skipped": refused})


def merge(
    output: Output, plan: Plan, name_place: Callable[[UnreadableImage], UnreadableImage] = lambda problem: problem
) -> list[UnreadableImage]:
    """Merge the captions of all tasks in the order of the pictures; returns pictures without captions, with reasons.

    A kill at any moment loses nothing: the file appears complete, and the tasks' files are removed after that.

    Args:
        output: The file or folder for the captions.
        plan: The plan, all of whose tasks are finished.
        name_place: Adds to a reason where the picture is named; see :meth:`~mblip.inference.finding.Found.name_place`.

    Raises:
        InputError: A task's file is damaged.
        ResourceError: The disk is full or missing.
    """
    skipped = SkippedList(output.skipped_of)
    left_out = planned_skipped(plan.folder)
    whole = None
    if output.is_file:
        merged = output.folder / f"merged{output.to.suffix}"
        for rest in output.folder.glob("merged*"):
            rest.unlink()
        if output.to.exists():  # captions are added to it
            shutil.copyfile(output.to, merged)
        whole = CaptionFile(merged, plan.model, merged.exists(), output.encoding)
    try:
        for shard in plan.shards:
            left_out += check_shard(plan, shard)
            for _, rows in groupby(_in_order(plan, shard), attrgetter("image")) if whole else ():
                if whole and (new := [row for row in rows if (row.image, row.language) not in whole.done]):
                    whole.add(new)
        if whole:
            whole.finish()
        problems = [name_place(UnreadableImage(*each)) for each in left_out]
        for problem in problems:
            skipped.add(problem.key, problem.reason)
    except BaseException:
        if whole:
            whole.close()
        skipped.close()
        raise
    skipped.finish()
    if output.is_file:
        merged.replace(output.to)
        # Renamed first, because a kill while files are removed would leave an incomplete plan.
        gone = output.folder.with_name(f".{output.folder.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        output.folder.rename(gone)
        shutil.rmtree(gone)
    return problems


def check_shard(plan: Plan, shard: Shard) -> list[tuple[str, str]]:
    """Check that a finished task has each picture once in each language; returns unreadable pictures, with reasons.

    Raises:
        InputError: A caption is missing, or there are two.
    """
    skipped = [(row["image"], row["reason"]) for row in read_jsonl(shard.skipped)] if shard.skipped.exists() else []
    without = {name for name, _ in skipped}
    lacking = {
        (str(each.picture), code)
        for each in pictures_of(plan, shard)
        if str(each.picture) not in without
        for code in plan.languages
        if code not in each.done
    }
    for row in read_records(shard.rows, Caption):
        pair = row.image, row.language
        if pair not in lacking and row.image not in without:
            raise InputError(
                f"{shard.rows} has {pair} twice, or from another plan; delete it and {shard.mark} and run it again"
            )
        lacking.discard(pair)
    if lacking:
        raise InputError(
            f"{shard.rows} lacks {counted(len(lacking), 'caption')}, such as {min(lacking)}; delete {shard.mark} and run "
            "it again"
        )
    return skipped


def _caption(plan: Plan, left: Sequence[finding.Place], done: Any, place: Place) -> Iterator[Any]:
    """Caption pictures with a model that this process loads."""
    import torch

    from mblip.inference.captioning import caption_pictures
    from mblip.inference.resolve import open_model
    from mblip.machine import limit_threads
    from mblip.models.locate import know_languages
    from mblip.more_languages import VARIABLE, add_from_environment

    if plan.more_languages:
        os.environ[VARIABLE] = plan.more_languages
    add_from_environment()
    know_languages(plan.model)
    if torch.cuda.is_available():
        torch.cuda.set_device(place.slot % torch.cuda.device_count())
    predictor = open_model(plan.model, plan.quantization)
    limit_threads(place.beside)
    yield from caption_pictures(
        predictor, plan.model, left, plan.languages, done, plan.batch_size, **plan.generation
    )  # fmt: skip


class _Done:
    """Pairs of picture and language that a task can skip, because its file or the plan has them."""

    def __init__(self, file: CaptionFile, wanted: Sequence[Wanted]) -> None:
        self._file = file
        self._before = {(str(each.picture), code) for each in wanted for code in each.done}

    def __contains__(self, pair: object) -> bool:
        return pair in self._before or pair in self._file.done


@contextlib.contextmanager
def _alone(shard: Shard) -> Iterator[None]:
    """Lock a task; wait for another holder, such as a process on a lost node, as long as its rows grow."""
    size, until = -1, 0.0
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(exclusive_lock(shard.mark, "captioning"))
                break
            except BusyError:
                grown = shard.rows.stat().st_size if shard.rows.exists() else 0
                if grown != size:
                    size, until = grown, time.monotonic() + _PATIENCE
                if time.monotonic() > until:
                    raise
                time.sleep(1)
        yield


def _in_order(plan: Plan, shard: Shard) -> Iterator[Caption]:
    """The rows of a task in the order of pictures and languages; only a picture in two attempts needs sorting."""
    place = {str(each.picture): number for number, each in enumerate(pictures_of(plan, shard))}
    code = {language: number for number, language in enumerate(plan.languages)}

    def key(row: Caption) -> tuple[int, int]:
        return place[row.image], code[row.language]

    before = (-1, -1)
    for row in read_records(shard.rows, Caption):
        if key(row) < before:
            yield from sorted(read_records(shard.rows, Caption), key=key)
            return
        before = key(row)
    yield from read_records(shard.rows, Caption)


def _is_done(shard: Shard) -> bool:
    return shard.mark.exists()
