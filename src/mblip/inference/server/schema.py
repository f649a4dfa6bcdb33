"""Requests and responses of the OpenAI chat API, as far as a single-turn vision-LLM can serve them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

MAX_TOKENS = 512
MAX_CHARACTERS = 32_000
MAX_IMAGES = 8
MAX_ANSWERS = 8
_ONE_TURN = (
    "one message of the user is answered: no system message, no earlier turns; put instructions into its text, and "
    "send the last question alone, with its pictures"
)
# Fields that clients send by default, with the values that have no effect. Other values are refused instead of ignored.
IDLE: dict[str, tuple[Any, ...]] = {
    "best_of": (1,),
    "chat_template_kwargs": ({},),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "stop": ([], ""),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_k": (0, -1),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
}
# Fields that never change an answer: names, labels, hints for caches.
WITHOUT_EFFECT = frozenset(
    {"cache_control", "metadata", "name", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user"}
)
# Place of a part's type in pydantic's path: messages, number, content, number, type.
_TAG = 4
# Equivalent parts of OpenAI's other API.
_SAME_PART = {"input_text": "text", "input_image": "image_url"}


class _Strict(BaseModel):
    # An unknown field is refused instead of ignored.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_idle(cls, data: Any) -> Any:
        """Drop fields that are null or set to a value without effect."""
        return (
            {key: value for key, value in data.items() if not _is_idle(key, value)} if isinstance(data, dict) else data
        )


def _is_idle(key: str, value: Any) -> bool:
    return value is None or key in WITHOUT_EFFECT or any(_same(value, idle) for idle in IDLE.get(key, ()))


def _same(value: Any, idle: Any) -> bool:
    # True == 1 in Python, not in JSON.
    return value == idle and isinstance(value, bool) == isinstance(idle, bool)


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("contains half of a surrogate pair, which is not a character") from error
    return text


class TextPart(_Strict):
    """Words of the prompt."""

    type: Literal["text"]
    text: str = Field(max_length=MAX_CHARACTERS)

    _text = field_validator("text")(_encodable)


class ImageAddress(_Strict):
    """The address of a picture."""

    url: str = Field(description="data:...;base64,... or upload:NAME of a multipart request or, if allowed, http(s)")
    detail: Literal["auto", "low", "high", "original"] = Field(
        default="auto", description="without effect: pictures have one size"
    )

    _url = field_validator("url")(_encodable)


class ImagePart(_Strict):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageAddress

    @field_validator("image_url", mode="before")
    @classmethod
    def _address(cls, address: Any) -> Any:
        return {"url": address} if isinstance(address, str) else address


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Strict):
    """The user's message, with text and pictures; a system message must be empty."""

    role: Literal["user", "system", "developer"]
    content: list[Part] = Field(max_length=64)

    @model_validator(mode="before")
    @classmethod
    def _without_empty_calls(cls, data: Any) -> Any:
        empty = ("annotations", "tool_calls")
        return (
            {key: value for key, value in data.items() if key not in empty or value} if isinstance(data, dict) else data
        )

    @field_validator("content", mode="before")
    @classmethod
    def _parts(cls, content: Any) -> Any:
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        if not isinstance(content, list):
            raise ValueError("write a text, or a list of parts of the types 'text' and 'image_url'")
        return [_known_part(part) for part in content]

    @model_validator(mode="after")
    def _says_something(self) -> Message:
        if self.role == "user" and not self.images and not self.prompt.strip():
            raise ValueError("its content is empty; write a text, or send a picture")
        return self

    @property
    def prompt(self) -> str:
        """All its words."""
        return "\n".join(part.text for part in self.content if isinstance(part, TextPart))

    @property
    def images(self) -> dict[int, str]:
        """The addresses of its pictures, by the number of the part."""
        return {n: part.image_url.url for n, part in enumerate(self.content) if isinstance(part, ImagePart)}


def _known_part(part: Any) -> Any:
    if not isinstance(part, dict) or part.get("type") not in _SAME_PART:
        return part
    part = {**part, "type": _SAME_PART[part["type"]]}
    detail = part.pop("detail", None)  # in that API it is beside the address
    if detail is not None and isinstance(part.get("image_url"), str):
        part["image_url"] = {"url": part["image_url"], "detail": detail}
    return part


class StreamOptions(_Strict):
    """Options for the end of a stream."""

    include_usage: bool = False
    include_obfuscation: bool = Field(default=False, description="without effect")


class ChatRequest(_Strict):
    """``POST /v1/chat/completions``."""

    messages: list[Message] = Field(min_length=1, max_length=8)
    model: str | None = Field(default=None, max_length=1000)
    max_tokens: int | None = Field(default=None, ge=1, description="50 by default; reduced to the model's limit")
    max_completion_tokens: int | None = Field(default=None, ge=1, description="the same")
    temperature: float | None = Field(default=None, ge=0, le=2, description="above 0: sample instead of beam search")
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(
        default=None, ge=-(2**63), lt=2**63, description="seed of the sampling; such a request is not batched"
    )
    n: int = Field(default=1, ge=1, le=MAX_ANSWERS, description="above 1: sampled, at temperature 1 by default")
    stream: bool = False
    stream_options: StreamOptions | None = None
    num_beams: int | None = Field(default=None, ge=1, le=10, description="5 by default; 1 for streams and sampling")
    repetition_penalty: float | None = Field(default=None, ge=0.1, le=10, description="1.5 by default")
    length_penalty: float | None = Field(default=None, ge=-10, le=10)

    @field_validator("messages", mode="before")
    @classmethod
    def _one_turn(cls, messages: Any) -> Any:
        if isinstance(messages, list):
            roles = [
                message.get("role") if isinstance(message, dict) else None
                for message in messages
                if not _empty(message)
            ]
            if len(roles) > 1 or roles[:1] in (["system"], ["developer"], ["assistant"]):
                raise ValueError(_ONE_TURN)
            if messages and not roles:
                raise ValueError("add a message with the role 'user': there are only empty system messages")
        return messages

    @property
    def place(self) -> int:
        """Index of the user's message among the messages."""
        return next(n for n, message in enumerate(self.messages) if message.role == "user")

    @property
    def asked_tokens(self) -> int:
        """The requested maximum length of the answer, in tokens."""
        return self.max_completion_tokens or self.max_tokens or 50

    def generation(self, room: int) -> dict[str, Any]:
        """Options of transformers' ``generate`` for an answer of at most ``room`` tokens."""
        temperature = 1.0 if self.temperature is None and self.n > 1 else self.temperature
        greedy = self.stream or bool(temperature)
        settings: dict[str, Any] = {
            "num_beams": self.num_beams or (1 if greedy else 5),
            "repetition_penalty": 1.5 if self.repetition_penalty is None else self.repetition_penalty,
            "max_new_tokens": min(self.asked_tokens, room),
        }
        if self.length_penalty is not None and settings["num_beams"] > 1:
            settings["length_penalty"] = self.length_penalty
        if temperature:
            # transformers refuses a temperature at which the largest logit difference overflows
            settings |= {
                "do_sample": True,
                "temperature": max(temperature, 0.01),
                "top_p": self.top_p or 1.0,
                "top_k": 0,
            }
        return settings


def _empty(message: Any) -> bool:
    """Whether a message is an empty system message."""
    if not isinstance(message, dict) or message.get("role") not in ("system", "developer"):
        return False
    content = message.get("content")
    texts = (
        [part.get("text") if isinstance(part, dict) else part for part in content]
        if isinstance(content, list)
        else [content]
    )
    return all(text is None or (isinstance(text, str) and not text.strip()) for text in texts)


def explain(error: ValidationError, sent: Any) -> tuple[str, str | None]:
    """The message for the client, and the place of the error in its request."""
    first = error.errors(include_url=False)[0]
    steps = list(first["loc"])
    if "content" in steps and len(steps) > _TAG:
        del steps[_TAG]  # pydantic's path also has the type that a part was parsed as, which is not a key
    place, here = [], sent
    for last, step in enumerate(steps, 1 - len(steps)):
        if step in here if isinstance(here, Mapping) else isinstance(here, list) and step in range(len(here)):
            here = here[step]
        elif last < 0 or first["type"] not in ("missing", "extra_forbidden"):
            continue
        place.append(str(step)[:100])
    path = ".".join(place)
    return f"{path or 'the request'}: {_why(first, place[-1] if place else '')}", path or None


# Messages in terms of JSON, where pydantic's are about Python.
_TOLD = {
    "missing": "is missing",
    "dict_type": "must be a JSON object",
    "model_type": "must be a JSON object",
    "model_attributes_type": "must be a JSON object",
    "list_type": "must be a list",
    "too_short": "must have at least one item",
    "too_long": "has {actual_length} items; {max_length} at most are read",
    "string_too_long": "has more than {max_length} characters",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be greater than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "literal_error": "must be {expected}",
}


def _why(error: Any, field: str) -> str:
    if error["type"] == "extra_forbidden":
        if field not in IDLE:
            return "this server has no such field"
        idle = " or ".join(json.dumps(value) for value in (None, *IDLE[field]))
        return f"this server cannot do that; leave it out (or {idle})"
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return "the type of a part is 'text' or 'image_url'"
    if told := _TOLD.get(error["type"]):
        return told.format_map(error.get("ctx", {}))
    return str(error["msg"]).removeprefix("Value error, ")


class Completion:
    """The objects of one answer, complete or in chunks."""

    def __init__(self, model: str, notice: str | None = None) -> None:
        """Begin a completion.

        Args:
            model: Name of the model for clients.
            notice: A notice for the reader of the answer, in the field ``notice``.
        """
        self._head: dict[str, Any] = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        if notice:
            self._head["notice"] = notice

    def whole(self, texts: list[str], reasons: list[str], usage: dict[str, int]) -> dict[str, Any]:
        """The object ``chat.completion``."""
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
        """The object ``chat.completion.chunk``."""
        choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": None}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice]}

    def usage(self, usage: dict[str, int]) -> dict[str, Any]:
        """The last chunk with token counts, if it was requested."""
        return {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage}
