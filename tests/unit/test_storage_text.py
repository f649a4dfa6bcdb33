"""Files in other encodings than UTF-8: named as what they are, by every reader of text."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mblip.corpora.json_stream import stream_rows
from mblip.corpora.table import read as read_table
from mblip.errors import InputError
from mblip.mixture.exclusion import evaluation_images
from mblip.mixture.templates import load_templates
from mblip.storage import check_text, not_utf8, read_jsonl


def _table(path: Path) -> list[Any]:
    return list(read_table("s", path, "caption", "own", {"image": "file", "caption": "text"}))


READERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "own.jsonl": (lambda path: list(read_jsonl(path)), '{"file": "a.jpg", "text": "Tea"}\n'),
    "own.json": (lambda path: list(stream_rows(path)), '[{"file": "a.jpg", "text": "Tea"}]'),
    "own.csv": (_table, "file,text\na.jpg,Tea\n"),
    "own.tsv": (_table, "file\ttext\na.jpg\tTea\n"),
    "own.txt": (lambda path: evaluation_images((str(path),)), "a.jpg\n"),
    "own.yaml": (lambda path: load_templates((str(path),)), "caption: [{prompt: Tell, answer: '{caption}'}]\n"),
}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "gzip", "utf-8", "utf-8-sig"])
@pytest.mark.parametrize("name", READERS)
def test_the_encoding_is_named(tmp_path: Path, name: str, encoding: str) -> None:
    (read, text), path = READERS[name], tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if encoding == "gzip" else text.encode(encoding))
    if encoding.startswith("utf-8"):
        assert read(path)
        return
    kind = {"gzip": "compressed: unpack it"}.get(encoding, f"in {encoding[:6].upper()}: save the file as UTF-8")
    with pytest.raises(InputError, match=rf"{name}(, line 1: the byte 0x\w\w)? is not UTF-8; the file is {kind}"):
        read(path)


def test_the_line_of_the_first_wrong_byte_in_files_of_many_blocks(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    line = json.dumps({"a": "\u00e9" * 9}, ensure_ascii=False).encode()
    path.write_bytes((line + b"\n") * 100_000 + b'{"a": "\xe9"}\n')
    with pytest.raises(InputError, match=r"x\.jsonl, line 100001: the byte 0xE9 is not UTF-8; save the file as UTF-8"):
        list(read_jsonl(path))


def test_a_character_cut_off_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"file,text\na.jpg,\xc3")
    assert "x.csv, line 2: the byte 0xC3 is not UTF-8; save" in str(not_utf8(path))


@pytest.mark.parametrize("content", [b"", b"a", b"\0", b"a,\0\0", b"caf\xc3\xa9", b"a\nb\n"])
def test_short_and_odd_files_pass(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    check_text(path)
