"""What an engine has answered, kept as it comes, so that a stopped translation asks for nothing twice.

One file a part, beside its shard and hidden; whoever opened it removes it when the part is whole. Its first line says what
the answers belong to: opened for another recipe, engine or version, it holds nothing.
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
    """The answers of one part, in memory and in a file to which each is handed at once.

    Args:
        path: The file; a last line that a killed run left unfinished is removed.
        identity: Of everything that decides an answer.

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
        """What is known in one direction (mC4 codes), by text."""
        return self._found.get((source, target), {})

    def keep(self, source: str, target: str, text: str, result: Result) -> None:
        """Keep an answer, unless another try may give a better one.

        Raises:
            ResourceError: The disk is full or gone; what was kept before stays.
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
