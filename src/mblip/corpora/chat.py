"""Chats without pictures, in the usual form of instruction data for language models: JSON lines with ``messages``.

Licence: that of the data. Download: from its own page. Raw record::

    {"messages": [{"role": "user", "content": "Habari?"}, {"role": "assistant", "content": "Nzuri."}]}

(ShareGPT's ``conversations`` with ``from`` and ``value`` are read too.) Each reply becomes a ``text`` example: the
messages before it are the prompt, and the reply is the answer, both unchanged. They preserve the language model's
abilities with text while it learns to see (arXiv 2503.22577).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mblip.corpora.json_stream import (
    BadRow,
    Row,
    Text,
    common_language,
    make_examples,
    take,
    take_id,
    take_language,
    take_plain,
    take_text,
)
from mblip.corpora.rows import read_rows
from mblip.schema import Drop, Example

NO_PICTURES = True
_SPEAKERS = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}


def read(
    source: str,
    path: Path,
    licence: str,
    language: str = "en",
    language_column: str = "",
    max_characters: int = 2000,
) -> Iterator[Example | Drop]:
    """Yield the replies of a file.

    Args:
        source: First part of the ids; the second is the row's ``id`` or number, and the reply's position.
        path: ``.jsonl``, ``.json`` with a list, or ``.parquet``.
        licence: SPDX identifier or your own words.
        language: Language of all chats, by any name or code. If it is not English, set the source's ``translate`` to
            false.
        language_column: Field with each chat's language, to use instead of ``language``, which may then be empty.
        max_characters: Replies whose prompt or answer is longer are left out, because training would cut them.

    Raises:
        InputError: The file cannot be read, or the language is unknown.
    """
    code = common_language(language, language_column)

    def make(numbered: tuple[int, Row | BadRow]) -> Iterator[Text | Drop]:
        position, row = numbered
        if isinstance(row, BadRow):
            raise row
        own = take_language(row, language_column) if language_column else code
        name = take_id(row, "id") if isinstance(row, dict) and row.get("id") not in (None, "") else str(position)
        said: list[str] = []
        last = ""
        messages = _messages(row)
        for number, (speaker, text) in enumerate(messages):
            if speaker == "assistant":
                if last != "user":
                    raise BadRow("a reply by the assistant must follow a message by the user")
                prompt, place = "\n".join(said), f"{name}-{number}"
                if max(len(prompt), len(text)) > max_characters:
                    yield Drop(f"{source}/{place}", source, "long text", f"over {max_characters} characters", "text")
                else:
                    yield Text(place, "text", (), {"prompt": prompt, "answer": text}, own)
            said.append(text)
            last = speaker
        if "assistant" not in (speaker for speaker, _ in messages):
            raise BadRow("it has no reply by the assistant")

    return make_examples(source, licence, path, enumerate(read_rows(path), start=1), make)


def _messages(row: Row) -> list[tuple[str, str]]:
    field, role, content = ("messages", "role", "content")
    if isinstance(row, dict) and "messages" not in row and "conversations" in row:
        field, role, content = ("conversations", "from", "value")
    found = []
    for message in take(row, field, list):
        speaker = take_text(message, role)
        if speaker not in _SPEAKERS:
            raise BadRow(f"{role!r} must be one of {', '.join(_SPEAKERS)}, not {speaker!r}")
        found.append((_SPEAKERS[speaker], _content(message, content)))
    return found


def _content(message: Any, name: str) -> str:
    """The text of a message, which may have parts."""
    parts = message.get(name) if isinstance(message, dict) else None
    if not isinstance(parts, list):
        return take_plain(message, name)
    if other := next((part for part in parts if not isinstance(part, dict) or part.get("type") != "text"), None):
        raise BadRow(f"a chat without pictures must only have parts of type 'text', not {str(other)[:80]!r}")
    return "\n".join(take_plain(part, "text") for part in parts)
