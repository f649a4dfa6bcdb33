"""Save an engine's answers as they come, so that a stopped translation requests nothing twice.

Each part has one hidden file beside its shard, which is removed when the part is complete. Its first line identifies
the recipe, engine and version; for others, the journal is empty.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mblip.storage import JsonlAppender, read_jsonl
from mblip.translation.engines import Result, Untranslated


class Journal:
    """The answers of one part, in memory and in a file to which each is written at once.

    Args:
        path: The file; an unfinished last line of a killed run is removed.
        identity: Everything that decides an answer.

    Raises:
        InputError: The file cannot be read or written.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._path = path
        self._found: dict[tuple[str, str], dict[str, Result]] = {}
        header = json.loads(json.dumps(identity))
        self._file = JsonlAppender(path)
        lines = iter(read_jsonl(path))
        if next(lines, None) != header:
            self._file.close()
            path.unlink()
            self._file = JsonlAppender(path)
            self._file.append(header)
            return
        for line in lines:
            reason = line.get("reason")
            result = Untranslated(reason, line.get("detail", "")) if reason else line["result"]
            self._found.setdefault((line["source"], line["target"]), {})[line["text"]] = result

    def answers(self, source: str, target: str) -> Mapping[str, Result]:
        """The saved answers in one direction (mC4 codes), by text."""
        return self._found.get((source, target), {})

    def keep(self, source: str, target: str, text: str, result: Result) -> None:
        """Save an answer, unless another try may give a better one.

        Raises:
            ResourceError: The disk is full or missing; earlier answers are kept.
        """
        line: dict[str, Any] = {"source": source, "target": target, "text": text}
        if isinstance(result, Untranslated):
            if result.passing:
                return
            line |= {"reason": result.reason, "detail": result.detail}
        else:
            line["result"] = result
        self._file.append(line)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._file.close()
