"""``mblip caption``: pictures to words, one or ten thousand."""

from __future__ import annotations

import dataclasses
import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from mblip.errors import InputError

NOTICED = 8  # pictures that are looked at for whether a nano model can know them; one notice is enough
UNREADABLE = 1  # exit code: done, but some pictures could not be read


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(caption)


def caption(
    pictures: Annotated[
        list[str],
        typer.Argument(
            help="Picture files, folders (with all below), quoted patterns, or tables (.jsonl, .csv, .parquet) of paths.",
            metavar="PATH",
        ),
    ],
    language: Annotated[str, typer.Option(help="Languages of the captions, by any name or code, separated by commas.")],
    model: Annotated[str, typer.Option(help="Run directory, checkpoint directory or Hub id.")] = "",
    to: Annotated[Path | None, typer.Option(help="File for the captions: .jsonl, .csv or .parquet.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the file named with --to where a run stopped.")
    ] = False,
    column: Annotated[str, typer.Option(help="Column of a table that holds the paths of the pictures.")] = "image",
    beams: Annotated[int, typer.Option(min=1, help="Number of beams in the beam search.")] = 5,
    max_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of a caption, in tokens.")] = 50,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of captions generated together.")] = 32,
    quantization: Annotated[
        str, typer.Option(help="Quantization of the language model: auto, none, int8 or nf4.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead of columns.")] = False,
) -> None:
    """Caption pictures in one or more languages. Exit code 1: some could not be read."""
    from mblip.languages import LANGUAGES, find_languages

    codes = [found.code for found in find_languages(language)]
    if not codes:
        raise InputError("--language names no language; for example --language sw,de,ja")
    if unknown := [code for code in codes if code not in LANGUAGES]:
        raise InputError(f"no model here was trained on {unknown[0]!r}; mblip languages lists those that were")
    if resume and to is None:
        raise InputError("--resume goes on with a file: name it with --to")
    from mblip.inference.choosing import check_pictures, choose_model

    check_pictures(pictures)
    chosen = choose_model(model)
    from mblip.inference.captioning import CaptionFile, caption_pictures, find_pictures  # seconds: after the checks
    from mblip.models.locate import locate

    found = find_pictures(pictures, column)
    locate(chosen)  # what has to be downloaded shows its own bar
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from mblip.inference.choosing import open_model
    from mblip.inference.nano_notice import is_nano, nano_notice
    from mblip.processing.images import open_picture
    from mblip.storage import UnreadableImage, no_empty_folders

    console = Console(stderr=True, highlight=False)
    if not model:
        console.print(f"model: {chosen}, whose files are on this machine")
    columns = (TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    unreadable = 0
    # On a terminal that also shows the captions, a bar would only be in their way.
    quiet = not console.is_terminal or (not to and sys.stdout.isatty())
    with (
        no_empty_folders(to.parent if to else Path()),
        Progress(*columns, console=console, transient=True, disable=quiet) as progress,
    ):
        file = CaptionFile(to, chosen, resume) if to else None
        done = file.done if file else ()
        left = [picture for picture in found if any((picture, code) not in done for code in codes)]
        bar = progress.add_task("pictures", total=len(found), completed=len(found) - len(left))
        try:
            vlm = open_model(chosen, quantization) if left else None
            for picture in left[:NOTICED] if vlm and is_nano(vlm) else ():
                with suppress(UnreadableImage):  # which is said in its turn
                    if vlm and (notice := nano_notice(vlm, open_picture(picture))):
                        console.print(f"mblip: {picture}: {notice}", markup=False, soft_wrap=True)
                        break
            results = caption_pictures(
                vlm, chosen, left, codes, done, batch_size, num_beams=beams, max_new_tokens=max_tokens
            ) if vlm else iter(())  # fmt: skip
            for result in results:
                progress.advance(bar)
                if isinstance(result, Exception):
                    unreadable += 1
                    console.print(f"mblip: {result}", markup=False, soft_wrap=True)
                elif file:
                    file.add(result)
                else:
                    for row in result:
                        shown = dataclasses.asdict(row)
                        print(json.dumps(shown, ensure_ascii=False) if as_json else "\t".join(list(shown.values())[:3]))
        except BaseException:
            if file:
                file.close()
            raise
    if file:
        file.finish(found, codes)
        console.print(f"{file.path}: {len(found) - unreadable:,} pictures in {', '.join(codes)}", soft_wrap=True)
    if unreadable:
        console.print(f"mblip: {unreadable:,} of {len(found):,} pictures could not be read")
        raise typer.Exit(UNREADABLE)
