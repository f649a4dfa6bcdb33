"""Export a mix in the layouts of other trainers.

``llava``: one JSON list in LLaVA's layout. ``chat``: JSON lines with ``messages``, ``<image>`` marks and ``images``, as
ms-swift and LLaMA-Factory read them. ``trl``: JSON lines with typed message contents and ``images``, which TRL reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mblip.errors import InputError, nearest
from mblip.schema import Instruction
from mblip.storage import ShardReader, atomic_write, read_manifest

Row = dict[str, Any]


def export_mix(folder: Path, layout: str, to: Path) -> int:
    """Write a mix in another layout; returns the number of rows.

    Raises:
        InputError: There is no such layout, or no finished mix.
    """
    if layout not in LAYOUTS:
        raise InputError(f"there is no export layout {layout!r}{nearest(layout, LAYOUTS)}")
    rows = read_manifest(folder).rows
    LAYOUTS[layout](ShardReader(folder, Instruction), to)
    return rows


def _llava(instructions: Iterable[Instruction], to: Path) -> None:
    with atomic_write(to, "w") as file:
        for number, row in enumerate(instructions):
            marks = "<image>\n" * len(row.images)
            turns = [{"from": "human", "value": marks + row.prompt}, {"from": "gpt", "value": row.answer}]
            # LLaVA's layout has the name of one image per row; several are a list.
            image: Row = {"image": row.images[0] if len(row.images) == 1 else list(row.images)} if row.images else {}
            text = json.dumps({"id": row.id} | image | {"conversations": turns}, ensure_ascii=False)
            file.write(("[\n" if number == 0 else ",\n") + text)
        file.write("\n]\n")


def _lines(make: Callable[[Instruction], Row]) -> Callable[[Iterable[Instruction], Path], None]:
    def write(instructions: Iterable[Instruction], to: Path) -> None:
        with atomic_write(to, "w") as file:
            for row in instructions:
                file.write(json.dumps(make(row), ensure_ascii=False) + "\n")

    return write


def _chat(row: Instruction) -> Row:
    messages = [
        {"role": "user", "content": "<image>" * len(row.images) + row.prompt},
        {"role": "assistant", "content": row.answer},
    ]
    return {"messages": messages, "images": list(row.images)}


def _trl(row: Instruction) -> Row:
    question = [*({"type": "image", "text": None} for _ in row.images), {"type": "text", "text": row.prompt}]
    messages = [
        {"role": "user", "content": question},
        {"role": "assistant", "content": [{"type": "text", "text": row.answer}]},
    ]
    return {"messages": messages, "images": list(row.images)}


LAYOUTS: dict[str, Callable[[Iterable[Instruction], Path], None]] = {
    "llava": _llava,
    "chat": _lines(_chat),
    "trl": _lines(_trl),
}
