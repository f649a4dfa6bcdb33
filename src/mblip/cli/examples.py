"""``mblip examples``: sample pictures to try the commands on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(examples)


def examples(
    to: Annotated[Path, typer.Option(help="Folder for the pictures.", file_okay=False)] = Path("pictures"),
) -> None:
    """Draw sample pictures: emoji scenes that nano models know."""
    import tempfile

    from mblip import plugins
    from mblip.errors import InputError, cannot_write

    with tempfile.TemporaryDirectory() as folder:
        drawn = [path for _, draw in plugins.demo_pictures.usable() for path in draw(Path(folder))]
        pictures = {to / path.name: path.read_bytes() for path in drawn}
    for target, picture in pictures.items():
        if target.exists() and target.read_bytes() != picture:
            raise InputError(f"{target} is another picture: name another folder with --to, or move it away")
    try:
        to.mkdir(parents=True, exist_ok=True)
        for target, picture in pictures.items():
            target.write_bytes(picture)
    except OSError as error:
        raise cannot_write(f"the pictures to {to}", error) from error
    for target in pictures:
        print(target)
