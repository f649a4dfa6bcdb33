"""Docstrings begin with the thing that acts, and the tool that measures readability counts as it says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.scripts import load_script

ROOT = Path(__file__).parents[2]
OPENING = re.compile(r"(Of|What|That|Who|Whoever|Where|Whose|In what)\b")


TOOL = load_script(ROOT / "tools" / "readability.py")


def _docstrings(source: str) -> Iterator[str]:
    """Docstrings of modules, classes and functions, and the strings below a name that document it."""
    for node in ast.walk(ast.parse(source)):
        for child in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            if (
                isinstance(child, ast.Expr)
                and isinstance(child.value, ast.Constant)
                and isinstance(child.value.value, str)
            ):
                yield child.value.value


def _first_words(docstring: str) -> Iterator[str]:
    """The beginnings of a docstring and of the arguments and errors that it describes."""
    yield docstring.strip()
    for line in docstring.splitlines()[1:]:
        entry = re.match(r"\s+\*{0,2}\w+: (.*)", line)
        if entry:
            yield entry[1]


def test_no_docstring_begins_with_what_or_of() -> None:
    found = [
        (path.relative_to(ROOT).as_posix(), beginning)
        for path in sorted((ROOT / "src").rglob("*.py"))
        for docstring in _docstrings(path.read_text(encoding="utf-8"))
        for beginning in _first_words(docstring)
    ]
    assert len(found) > 3000
    assert [place for place in found if OPENING.match(place[1])] == []


def test_a_docstring_that_begins_so_is_found() -> None:
    source = 'A = 1\n"""What it is."""\ndef f(a):\n    """Do it.\n\n    Args:\n        a: Of the model.\n    """\n'
    beginnings = [first for docstring in _docstrings(source) for first in _first_words(docstring)]
    assert [first for first in beginnings if OPENING.match(first)] == ["What it is.", "Of the model."]


@pytest.mark.parametrize(
    ("sentence", "wrong"),
    [
        ("Of the CPU nothing is said.", True),
        ("What stands nowhere was not measured.", True),
        ("Three objects it cannot list.", True),
        ("Beside it lies the adapter.", True),
        ("What is it called?", False),
        ("The log has no figures for the CPU.", False),
        ("The checkpoints that it was made from.", False),
        ("If it is missing, nothing is done.", False),
        ("With several processes, each has a share.", False),
    ],
)
def test_inversions_are_counted(sentence: str, wrong: bool) -> None:
    assert TOOL.begins_wrong(sentence) == wrong


def test_texts_are_read_by_kind() -> None:
    source = (
        '"""A module. It has two sentences."""\n'
        "# A comment\n# of two lines.\n"
        "def f(a):\n"
        '    """Do it.\n\n    Args:\n        a: The number, see :mod:`mblip.x`.\n    """\n'
        '    raise ValueError(f"the number {a} is " "too large")  # noqa: E501\n'
    )
    assert [text for _, text in TOOL.docstrings(source)] == [
        "A module. It has two sentences.", "Do it.", "The number, see :mod:`mblip.x`.",
    ]  # fmt: skip
    assert TOOL.sentences("A module. It has two sentences.") == ["A module.", "It has two sentences."]
    assert TOOL.sentences("The number, see :mod:`mblip.x`.") == ["The number, see x."]
    assert [text for _, text in TOOL.comments(source)] == ["A comment of two lines."]
    assert [text for _, text in TOOL.messages(source)] == ["the number X is too large"]
    page = "# Title\n\nOne line\nand another.\n\n```\ncode here now\n```\n\n- An item.\n\n| a cell of it | b |\n|---|---|\n"
    assert [text for _, text in TOOL.pages(page)] == ["One line and another.", "An item.", "a cell of it"]
