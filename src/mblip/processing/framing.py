"""Frames: how prompts with images inside the text are written, as LLaVA's plain prompt or with a chat template.

BLIP-2 puts its image tokens first and needs no frame. A LLaVA reads one text with ``<image>`` for every image:
``<image>``, a line break and the prompt; or the same as a user's turn of a chat, followed by the beginning of the
answer.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

from jinja2 import TemplateError

from mblip.errors import InputError

# Markers that no template changes and no tokeniser merges with their neighbours.
_PROMPT, _ANSWER = "QzPromptzQ", "QzAnswerzQ"
# Whatever a template, which is a program of others, may end in.
_OF_TEMPLATES = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
_MANY = 8  # tokens after an answer in which its end token is searched


class Frame(Protocol):
    """The way a prompt is written."""

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the tokeniser should add special tokens, such as a start token; not if the text has them."""
        ...

    @property
    def separator(self) -> str | None:
        """The text between the written prompt and the answer; None if the tokeniser decides."""
        ...

    @property
    def end_token_id(self) -> int | None:
        """The token that ends an answer; None for the model's end token."""
        ...

    def write(self, prompt: str, images: int) -> str:
        """The text with one ``<image>`` per image."""
        ...


class PlainFrame:
    """``<image>``, a line break and the prompt, which is LLaVA's prompt without a conversation.

    Args:
        image_token: The placeholder as text.
    """

    adds_special_tokens = True
    separator = None
    end_token_id = None

    def __init__(self, image_token: str) -> None:
        self.image_token = image_token

    def write(self, prompt: str, images: int) -> str:
        """See :class:`Frame`; each image is on its own line."""
        return f"{self.image_token}\n" * images + prompt


class ChatFrame:
    """A user's turn in a chat template, and the beginning of the answer.

    A template that supports images (LLaVA's own) gets them as parts of the turn; a language model's template gets the
    text of :class:`PlainFrame`. Thinking is turned off in templates that support it (``enable_thinking``).

    Args:
        tokenizer: The language model's tokeniser.
        template: The chat template, in Jinja.
        image_token: The placeholder as text.

    Raises:
        InputError: The template does not show the user's text exactly once.
    """

    def __init__(self, tokenizer: Any, template: str, image_token: str) -> None:
        self.tokenizer, self.template, self.image_token = tokenizer, template, image_token
        self._plain = PlainFrame(image_token)

    @cached_property
    def takes_parts(self) -> bool:
        """Whether the template gets images and text as parts.

        Raises:
            InputError: It shows them neither as parts nor as one text.
        """
        reason = ""
        for parts in (True, False):
            try:
                shown = self._render([self._turn(_PROMPT, 1, parts)])
            except _OF_TEMPLATES as error:
                reason = " ".join(str(error).split())[:120]
                continue
            if shown.count(self.image_token) == 1 == shown.count(_PROMPT) and shown.index(
                self.image_token
            ) < shown.index(_PROMPT):
                return parts
        raise InputError(
            f"the chat template does not show what a user says with an image ({self.image_token}) before it"
            f"{f' ({reason})' if reason else ''}: correct the template, or turn it off (chat=False, or "
            '"chat_prompts": false in config.json)'
        )

    @cached_property
    def adds_special_tokens(self) -> bool:
        """As in the stock processor: False if the template itself begins with the start token."""
        start = self.tokenizer.bos_token
        return not (start and self.write(_PROMPT, 1).startswith(start))

    @cached_property
    def _ending(self) -> tuple[str, str]:
        """The template's text before an answer (after the generation prompt) and after it (to the end of the turn)."""
        turns = [self._turn(_PROMPT, 1, self.takes_parts), self._answer()]
        asked = self.write(_PROMPT, 1)
        whole = self._render(turns, begins_answer=False)
        before, found, after = whole.partition(_ANSWER)
        if not found or not before.startswith(asked):
            return "", after
        return before[len(asked) :], after

    @property
    def separator(self) -> str | None:
        """The template's text between the generation prompt and the answer."""
        return self._ending[0]

    @cached_property
    def end_token_id(self) -> int | None:
        """The special token that the template puts after an answer; None if there is none."""
        ids = self.tokenizer(self._ending[1], add_special_tokens=False)["input_ids"][:_MANY]
        special = {*self.tokenizer.all_special_ids}
        special |= {number for number, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return next((number for number in ids if number in special), None)

    def write(self, prompt: str, images: int) -> str:
        """See :class:`Frame`."""
        return self._render([self._turn(prompt, images, self.takes_parts)])

    def _turn(self, prompt: str, images: int, parts: bool) -> dict[str, Any]:
        if parts:
            return {"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": prompt}]}
        return {"role": "user", "content": self._plain.write(prompt, images)}

    def _answer(self) -> dict[str, Any]:
        return {"role": "assistant", "content": [{"type": "text", "text": _ANSWER}] if self.takes_parts else _ANSWER}

    def _render(self, turns: list[dict[str, Any]], begins_answer: bool = True) -> str:
        written: str = self.tokenizer.apply_chat_template(
            turns,
            chat_template=self.template,
            tokenize=False,
            add_generation_prompt=begins_answer,
            enable_thinking=False,
        )
        return written


# For stock code: joins the parts of a turn into one text, and turns thinking off by default.
_FROM_PARTS = (
    "{%- if enable_thinking is not defined %}{%- set enable_thinking = false %}{%- endif %}"
    "{%- set said = namespace(turns=[]) %}{%- for message in messages %}"
    "{%- if message.content is string or not message.content %}{%- set said.turns = said.turns + [message] %}"
    "{%- else %}{%- set whole = namespace(text='') %}{%- for part in message.content if part.type == 'image' %}"
    "{%- set whole.text = whole.text + 'IMAGE_TOKEN\\n' %}{%- endfor %}"
    "{%- for part in message.content if part.type == 'text' %}{%- set whole.text = whole.text + part.text %}{%- endfor "
    "%}{%- set said.turns = said.turns + [dict(message, content=whole.text)] %}{%- endif %}{%- endfor %}"
    "{%- set messages = said.turns %}"
)


def template_with_images(template: str, image_token: str) -> str:
    """Extend a language model's chat template to accept images as parts of a turn, as stock processors pass them."""
    return _FROM_PARTS.replace("IMAGE_TOKEN", image_token) + template
