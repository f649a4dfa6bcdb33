"""What stands around a prompt where images stand inside the text: the plain prompt of LLaVA, or a chat template's turns.

BLIP-2 puts its image tokens before everything else and needs none of this. A LLaVA reads one line of text that holds
``<image>`` for every image: ``<image>``, a line break and the prompt; or the same as the turn of a user, followed by what
begins the answer.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Protocol

from jinja2 import TemplateError

from mblip.errors import InputError

# Letters that no template changes and no tokeniser merges with what stands around them.
_PROMPT, _ANSWER = "QzPromptzQ", "QzAnswerzQ"
# Whatever a template, which is a program of others, may end in.
_OF_TEMPLATES = (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
_MANY = 8  # tokens after an answer, among which the one that ends it is looked for


class Frame(Protocol):
    """How a prompt is written."""

    @property
    def adds_special_tokens(self) -> bool:
        """Whether the tokeniser is to add its own, such as a start token: not where the text has them."""
        ...

    @property
    def separator(self) -> str | None:
        """What stands between the written prompt and the answer; None where only the tokeniser tells."""
        ...

    @property
    def end_token_id(self) -> int | None:
        """What ends the answer; None for what ends the model's texts."""
        ...

    def write(self, prompt: str, images: int) -> str:
        """The text with ``<image>`` once for each image."""
        ...


class PlainFrame:
    """``<image>``, a line break, the prompt: as LLaVA's prompts are written without a conversation around them.

    Args:
        image_token: The placeholder as text.
    """

    adds_special_tokens = True
    separator = None
    end_token_id = None

    def __init__(self, image_token: str) -> None:
        self.image_token = image_token

    def write(self, prompt: str, images: int) -> str:
        """See :class:`Frame`; each image has a line of its own."""
        return f"{self.image_token}\n" * images + prompt


class ChatFrame:
    """The turn of a user in a chat template, and what begins the answer.

    A template that knows images (LLaVA's own) is given them as parts of the turn; one of a language model is given the text
    of :class:`PlainFrame`. Templates of models that may think aloud are told not to (``enable_thinking``).

    Args:
        tokenizer: The language model's own.
        template: In Jinja.
        image_token: The placeholder as text.

    Raises:
        InputError: The template does not show what a user says, or not once.
    """

    def __init__(self, tokenizer: Any, template: str, image_token: str) -> None:
        self.tokenizer, self.template, self.image_token = tokenizer, template, image_token
        self._plain = PlainFrame(image_token)

    @cached_property
    def takes_parts(self) -> bool:
        """Whether images and text are given to the template as parts.

        Raises:
            InputError: It shows them neither so nor as one text.
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
            f"{f' ({reason})' if reason else ''}: mend the template, or do without it (chat=False, or "
            '"chat_prompts": false in config.json)'
        )

    @cached_property
    def adds_special_tokens(self) -> bool:
        """As the stock processor decides: not where the template itself begins with the start token."""
        start = self.tokenizer.bos_token
        return not (start and self.write(_PROMPT, 1).startswith(start))

    @cached_property
    def _ending(self) -> tuple[str, str]:
        """What stands before and after an answer, as far as the template tells: after what begins it, and to its end."""
        turns = [self._turn(_PROMPT, 1, self.takes_parts), self._answer()]
        asked = self.write(_PROMPT, 1)
        whole = self._render(turns, begins_answer=False)
        before, found, after = whole.partition(_ANSWER)
        if not found or not before.startswith(asked):
            return "", after
        return before[len(asked) :], after

    @property
    def separator(self) -> str | None:
        """What the template puts between the beginning of an answer and its text."""
        return self._ending[0]

    @cached_property
    def end_token_id(self) -> int | None:
        """The special token that the template puts after an answer; None where it puts none."""
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


# For stock code: parts of a turn become one text, and a model that may think aloud does not unless asked to.
_FROM_PARTS = (
    "{%- if enable_thinking is not defined %}{%- set enable_thinking = false %}{%- endif %}"
    "{%- set said = namespace(turns=[]) %}"
    "{%- for message in messages %}"
    "{%- if message.content is string or not message.content %}{%- set said.turns = said.turns + [message] %}"
    "{%- else %}"
    "{%- set whole = namespace(text='') %}"
    "{%- for part in message.content if part.type == 'image' %}"
    "{%- set whole.text = whole.text + 'IMAGE_TOKEN\\n' %}{%- endfor %}"
    "{%- for part in message.content if part.type == 'text' %}{%- set whole.text = whole.text + part.text %}{%- endfor %}"
    "{%- set said.turns = said.turns + [dict(message, content=whole.text)] %}"
    "{%- endif %}"
    "{%- endfor %}"
    "{%- set messages = said.turns %}"
)


def template_with_images(template: str, image_token: str) -> str:
    """A language model's chat template that also takes images as parts of a turn, as stock processors give them."""
    return _FROM_PARTS.replace("IMAGE_TOKEN", image_token) + template
