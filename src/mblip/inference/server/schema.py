"""Requests and responses of the OpenAI chat API, as far as a vision-LLM of one turn can serve them."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

MAX_TOKENS = 512
MAX_CHARACTERS = 32_000
MAX_IMAGES = 8
MAX_ANSWERS = 8
_ONE_TURN = (
    "one message of the user is answered: no system message, no earlier turns; put instructions into its text, and send "
    "the last question alone, with its pictures"
)


class _Strict(BaseModel):
    # A field that this server does not know would change nothing: better said than ignored.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair, which is no character") from error
    return text


class TextPart(_Strict):
    """Words of the prompt."""

    type: Literal["text"]
    text: str = Field(max_length=MAX_CHARACTERS)

    _text = field_validator("text")(_encodable)


class ImageAddress(_Strict):
    """Where a picture is."""

    url: str = Field(
        description="data:image/...;base64,... or upload:NAME of a multipart request or, if allowed, http(s)"
    )
    detail: Literal["auto", "low", "high"] = Field(default="auto", description="without effect: pictures have one size")

    _url = field_validator("url")(_encodable)


class ImagePart(_Strict):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageAddress


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Strict):
    """What the user says and shows."""

    role: Literal["user"] = Field(description="there is one turn: no system message, no earlier answers")
    content: (
        Annotated[str, Field(max_length=MAX_CHARACTERS)] | Annotated[list[Part], Field(min_length=1, max_length=64)]
    )

    @field_validator("role", mode="before")
    @classmethod
    def _role(cls, role: Any) -> Any:
        if role in ("system", "developer", "assistant"):
            raise ValueError(_ONE_TURN)
        return role

    @field_validator("content")
    @classmethod
    def _content(cls, content: str | list[Part]) -> str | list[Part]:
        return _encodable(content) if isinstance(content, str) else content

    @property
    def prompt(self) -> str:
        """All its words."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> list[str]:
        """The addresses of its pictures."""
        parts = [] if isinstance(self.content, str) else self.content
        return [part.image_url.url for part in parts if isinstance(part, ImagePart)]


class StreamOptions(_Strict):
    """What a stream ends with."""

    include_usage: bool = False


class ChatRequest(_Strict):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=1)
    model: str | None = Field(default=None, max_length=1000)
    max_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS, description="50 by default")
    max_completion_tokens: int | None = Field(default=None, ge=1, le=MAX_TOKENS, description="the same")
    temperature: float | None = Field(default=None, ge=0, le=2, description="above 0: sample instead of beam search")
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=2**63, description="of the sampling; such a request runs alone")
    n: int = Field(default=1, ge=1, le=MAX_ANSWERS, description="above 1: sampled, at temperature 1 by default")
    stream: bool = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(default=None, max_length=1000, description="without effect")
    # What many clients send unasked, at the values that ask for nothing; others are refused.
    frequency_penalty: float | None = Field(default=None, ge=0, le=0, description="0 alone: see repetition_penalty")
    presence_penalty: float | None = Field(default=None, ge=0, le=0, description="0 alone: see repetition_penalty")
    logprobs: Literal[False] | None = None
    stop: None = None
    num_beams: int | None = Field(default=None, ge=1, le=10, description="5 by default; 1 for streams and sampling")
    repetition_penalty: float | None = Field(default=None, ge=0.1, le=10, description="1.5 by default")
    length_penalty: float | None = Field(default=None, ge=-10, le=10)

    @field_validator("messages", mode="before")
    @classmethod
    def _one_turn(cls, messages: Any) -> Any:
        if isinstance(messages, list) and len(messages) > 1:
            raise ValueError(_ONE_TURN)
        return messages

    def generation(self) -> dict[str, Any]:
        """The settings for transformers' ``generate``."""
        temperature = 1.0 if self.temperature is None and self.n > 1 else self.temperature
        greedy = self.stream or bool(temperature)
        settings: dict[str, Any] = {
            "num_beams": self.num_beams or (1 if greedy else 5),
            "repetition_penalty": 1.5 if self.repetition_penalty is None else self.repetition_penalty,
            "max_new_tokens": self.max_completion_tokens or self.max_tokens or 50,
        }
        if self.length_penalty is not None and settings["num_beams"] > 1:
            settings["length_penalty"] = self.length_penalty
        if temperature:
            # transformers refuses a temperature that rounds the largest logit difference to infinity
            settings |= {
                "do_sample": True,
                "temperature": max(temperature, 0.01),
                "top_p": self.top_p or 1.0,
                "top_k": 0,
            }
        return settings


class Completion:
    """The objects of one answer, complete or in chunks."""

    def __init__(self, model: str) -> None:
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, texts: list[str], reasons: list[str], usage: dict[str, int]) -> dict[str, Any]:
        """``chat.completion``."""
        choices = [
            {
                "index": place,
                "message": {"role": "assistant", "content": text},
                "finish_reason": reason,
                "logprobs": None,
            }
            for place, (text, reason) in enumerate(zip(texts, reasons, strict=True))
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage}

    def chunk(self, delta: dict[str, str], reason: str | None = None, index: int = 0) -> dict[str, Any]:
        """``chat.completion.chunk``."""
        choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": None}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def usage(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk, where it was asked for."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}
