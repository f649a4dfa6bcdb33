"""``mblip caption``: caption pictures, one or ten thousand."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mblip.errors import InputError, counted

if TYPE_CHECKING:
    from mblip.inference.caption_file import Caption
    from mblip.inference.caption_plan import Output, Plan
    from mblip.inference.finding import Found
    from mblip.storage import UnreadableImage

Executor = Literal["local", "slurm", "ray"]
NOTICED = 8  # pictures that are checked for a notice; one notice is enough
UNREADABLE = 1  # exit code: done, but some pictures could not be read


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(caption)


def caption(
    pictures: Annotated[
        list[str],
        typer.Argument(
            help="Picture files, folders (with subfolders), tars, quoted patterns, lists (.txt) or tables (.csv, .tsv, .json, "
            ".jsonl, .parquet) of paths, Parquet with pictures in its cells.",
            metavar="PATH",
        ),
    ],
    language: Annotated[str, typer.Option(help="Languages of the captions, by any name or code, separated by commas.")],
    model: Annotated[
        str,
        typer.Option(
            help="Run, checkpoint folder or Hub id; by default the published mT0-XL, if it is on this machine."
        ),
    ] = "",
    to: Annotated[
        Path | None,
        typer.Option(
            help="File for the captions: .jsonl, .csv or .parquet. With --executor, also a folder, for one .jsonl per task."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the file named with --to where an earlier run stopped.")
    ] = False,
    encoding: Annotated[str, typer.Option(help="Encoding of a .csv file: utf-8, or utf-8-sig for Excel.")] = "utf-8",
    column: Annotated[str, typer.Option(help="Column of a table that holds the pictures or their paths.")] = "image",
    beams: Annotated[int, typer.Option(min=1, help="Number of beams in the beam search.")] = 5,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of a caption, in tokens.")] = 50,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of captions generated together.")] = 32,
    quantization: Annotated[
        str, typer.Option(help="Quantization of the language model: auto, none, int8 or nf4.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line instead of columns.")] = False,
    executor: Annotated[
        Executor | None,
        typer.Option(help="Split the work into tasks: processes on this machine, or jobs of Slurm or Ray."),
    ] = None,
    tasks: Annotated[
        int | None,
        typer.Option(min=1, help="Number of tasks for --executor; by default one per GPU, or one without GPUs."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE for --executor: workers (local), partition, time, gpus_per_task, mem_per_cpu_gb, ..."
        ),
    ] = None,
) -> None:
    """Caption pictures in one or more languages. The exit code is 1 if some could not be read."""
    from mblip.executors import executor_settings, parse_options
    from mblip.languages import LANGUAGES, find_languages
    from mblip.models.locate import know_languages, locate

    know_languages(model)
    codes = [found.code for found in find_languages(language)]
    if not codes:
        raise InputError("--language names no language; for example --language sw,de,ja")
    if unknown := [code for code in codes if code not in LANGUAGES]:
        raise InputError(
            f"no model was trained on {unknown[0]!r}; mblip languages lists the languages, and MBLIP_LANGUAGES names a "
            "file of further ones"
        )
    if executor is None and (tasks or option):
        raise InputError("--tasks and --option are for --executor local, slurm or ray")
    if executor and to is None:
        raise InputError("--executor writes a file or a folder: name it with --to")
    if executor in ("slurm", "ray") and not tasks:
        raise InputError(f"--executor {executor} needs --tasks N")
    settings = executor_settings(executor, parse_options(option or ())) if executor else {}
    if resume and to is None:
        raise InputError("--resume continues a file: name it with --to")
    from mblip.inference.resolve import check_pictures, choose_model

    check_pictures(pictures)
    chosen = choose_model(model)
    from mblip.inference.finding import find_pictures
    from mblip.inference.trained_languages import read_languages, warn_of_languages

    found = find_pictures(pictures, column)
    folder = locate(chosen)  # a download shows its own bar
    if warning := warn_of_languages(read_languages(folder), codes):
        print(f"mblip: warning: {warning}", file=sys.stderr)
    if executor and to:  # without importing torch, which takes seconds; the tasks import it
        from mblip.inference.caption_plan import Output, make_plan
        from mblip.inference.resolve import gpus

        output = Output(to, encoding)
        with output.held():
            plan, same = make_plan(
                output, found, model=chosen, languages=codes, sources=pictures, tasks=tasks or gpus(), resume=resume,
                generation={"num_beams": beams, "max_new_tokens": max_tokens}, quantization=quantization,
                batch_size=batch_size, encoding=encoding,
            )  # fmt: skip
            _run_tasks(executor, settings, output, plan, found, same)
        return
    from mblip.cli._progress import ProgressBars
    from mblip.inference.caption_file import CaptionFile, SkippedList
    from mblip.inference.captioning import caption_pictures
    from mblip.inference.notices import notice_for
    from mblip.inference.resolve import open_model
    from mblip.processing.images import open_picture
    from mblip.storage import UnreadableImage, exclusive_lock, no_empty_folders

    total, unreadable = len(found.pictures) + len(found.skipped), 0
    with ExitStack() as stack:
        if to:
            stack.enter_context(no_empty_folders(to.parent))
            stack.enter_context(exclusive_lock(to, "writing captions"))
        file = CaptionFile(to, chosen, resume, encoding) if to else None
        skipped = SkippedList(to) if to else None
        # On a terminal that also shows the captions, a bar would be in their way.
        progress = stack.enter_context(ProgressBars("pictures", bar=bool(to) or not sys.stdout.isatty()))
        if not model:
            progress.say(f"model: {chosen}, whose files are on this machine")
        done = file.done if file else ()
        left = [one for one in found.pictures if any((str(one), code) not in done for code in codes)]
        results: Iterator[list[Caption] | UnreadableImage] = iter(())
        try:
            if left:
                predictor = open_model(chosen, quantization)
                notice = notice_for(predictor.vlm)
                for picture in left[:NOTICED] if notice else ():
                    with suppress(UnreadableImage):  # reported when its turn comes
                        if notice and isinstance(picture, str) and (message := notice(open_picture(picture))):
                            progress.say(f"mblip: {picture}: {message}")
                            break
                results = caption_pictures(
                    predictor, chosen, left, codes, done, batch_size,
                    num_beams=beams, max_new_tokens=max_tokens,
                )  # fmt: skip
            if left_out := found.left_out():
                progress.say(f"mblip: {left_out}")
            unusable = chain((UnreadableImage(*each) for each in found.skipped), results)
            before = len(found.pictures) - len(left)
            progress("", before, total)
            for count, result in enumerate(unusable, start=before + 1):
                if isinstance(result, UnreadableImage):
                    unreadable += 1
                    problem = found.name_place(result)
                    progress.say(f"mblip: {problem}")
                    if skipped:
                        skipped.add(problem.key, problem.reason)
                elif file:
                    file.add(result)
                else:
                    for row in result:
                        shown = dataclasses.asdict(row)
                        print(
                            json.dumps(shown, ensure_ascii=False) if as_json else _in_columns(list(shown.values())[:3])
                        )
                progress("", count, total)
        except BaseException:
            if file and skipped:
                file.close()
                skipped.close()
            raise
        if file and skipped:
            file.finish()
            listed = f"; those skipped are listed in {skipped.path}" if skipped.finish() else ""
            progress.say(f"{file.path}: {counted(total - unreadable, 'picture')} in {', '.join(codes)}{listed}")
        if unreadable:
            progress.say(f"mblip: {unreadable:,} of {counted(total, 'picture')} could not be read")
            raise typer.Exit(UNREADABLE)


def _in_columns(values: list[str]) -> str:
    """One line with tabs; control characters, as names of files may have, are written as escapes."""
    return "\t".join(re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: repr(found[0])[1:-1], value) for value in values)


def _run_tasks(executor: str, settings: dict[str, Any], output: Output, plan: Plan, found: Found, same: bool) -> None:
    """Run the tasks of a plan on the executor, and merge their captions when all are done."""
    from mblip.cli._progress import ProgressBars
    from mblip.executors import run_job
    from mblip.inference.caption_plan import planned_skipped
    from mblip.inference.caption_tasks import caption_job, merge

    job = caption_job(plan)
    left = {shard.number for shard in job.missing()}
    before = sum(stop - start for start, stop in map(plan.bounds, set(range(plan.tasks)) - left))

    with ProgressBars("tasks" if executor == "slurm" else "pictures") as progress:

        def tell(stage: str, done: int, total: int | None) -> None:
            progress("", *((done, total) if stage else (before + done, plan.pictures)))

        if left_out := found.left_out():
            progress.say(f"mblip: {left_out}")
        if not same:
            progress.say(
                "mblip: the pictures have changed since the tasks were planned; the planned ones are captioned, and "
                "--resume adds the others to a finished file"
            )
        if not run_job(executor, job, settings, tell):
            progress.say(
                f"{len(job.missing())} tasks are submitted; the same command waits for them and writes {output.to}"
            )
            return
        known = len(planned_skipped(plan.folder))
        skipped = merge(output, plan, found.name_place)
        for problem in skipped:
            progress.say(f"mblip: {problem}")
        total = plan.pictures + known
        listed = f"; those skipped are listed in {output.skipped}" if skipped else ""
        progress.say(f"{output.to}: {counted(total - len(skipped), 'picture')} in {', '.join(plan.languages)}{listed}")
        if skipped:
            progress.say(f"mblip: {len(skipped):,} of {counted(total, 'picture')} could not be read")
            raise typer.Exit(UNREADABLE)
