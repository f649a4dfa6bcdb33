"""Check prompts before they are read; imports nothing heavy."""

from __future__ import annotations

from typing import Any

from mblip.errors import InputError


def check_text(text: Any, name: str = "prompt") -> None:
    """Check that a prompt is a text that UTF-8 can encode, as tokenisers ask for.

    Args:
        text: The prompt, or another text.
        name: The name of the text in messages.

    Raises:
        InputError: It is not.
    """
    if not isinstance(text, str):
        raise InputError(f"the {name} {text!r:.100} is not a text but of the type {type(text).__name__}: give a text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the {name} {text!r:.100} contains bytes that are not UTF-8, or half a surrogate pair: write it again"
        ) from error
