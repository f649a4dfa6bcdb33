"""A model behind an OpenAI-compatible API (``/v1/chat/completions``), pictures as data URLs."""

from __future__ import annotations

import base64
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from mblip.errors import InputError
from mblip.evaluation.answerers.base import NoAnswer, OpenImage
from mblip.models.generation import Request

KEY_VARIABLE = "OPENAI_API_KEY"
_TIMEOUT = 300
_WAITS: tuple[float, ...] = (1.0, 5.0, 20.0)
_AGAIN = (408, 409, 429, 500, 502, 503, 504)
_JPEG_QUALITY = 95


class OpenAIAnswerer:
    """See :class:`~mblip.evaluation.answerers.base.Answerer`.

    Args:
        endpoint: Base of the API.
        model: As the endpoint calls it.
        under_way: Requests at a time.

    Raises:
        InputError: The endpoint is not an http(s) address.
    """

    kind = "openai"

    def __init__(self, endpoint: str, model: str, under_way: int) -> None:
        if not endpoint.startswith(("http://", "https://")):
            raise InputError(f"the endpoint must be an address such as http://localhost:8000/v1, not {endpoint!r}")
        self.model = model
        self.identity: dict[str, Any] = {"endpoint": endpoint.rstrip("/"), "images": f"JPEG, quality {_JPEG_QUALITY}"}
        self._url = endpoint.rstrip("/") + "/chat/completions"
        self._under_way = under_way
        self._headers = {"Content-Type": "application/json"}
        if os.environ.get(KEY_VARIABLE):
            self._headers["Authorization"] = f"Bearer {os.environ[KEY_VARIABLE]}"

    def decoding(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Greedy, as long as the benchmark allows; the API knows no beams."""
        return {"temperature": 0, "max_tokens": wanted["max_new_tokens"]}

    def answers(
        self, requests: Sequence[Request], open_image: OpenImage, decoding: Mapping[str, Any]
    ) -> Iterator[tuple[Request, str | NoAnswer]]:
        """See the protocol.

        Raises:
            InputError: The endpoint refuses or does not answer.
        """
        waiting = iter(requests)
        with ThreadPoolExecutor(self._under_way) as pool:
            # In blocks, so that no more pictures are opened than are under way.
            while block := list(islice(waiting, 4 * self._under_way)):
                yield from zip(block, pool.map(lambda r: self._one(r, open_image, decoding), block), strict=True)

    def choices(
        self, requests: Sequence[Request], open_image: OpenImage, candidates: Sequence[str]
    ) -> Iterator[tuple[Request, str]]:
        """Refused: the API does not score given answers."""
        raise InputError(f"{self._url} cannot score candidates, which only mblip's models can; use generation")

    def _one(self, request: Request, open_image: OpenImage, decoding: Mapping[str, Any]) -> str | NoAnswer:
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": _data_url(open_image(key))}} for key in request.images
        ]
        content.append({"type": "text", "text": request.prompt})
        body = {"model": self.model, "messages": [{"role": "user", "content": content}], **decoding}
        reply = self._post(json.dumps(body).encode())
        try:
            choice = reply["choices"][0]
            message, reason = choice["message"], choice.get("finish_reason")
            text = message["content"]
            if text is None:
                text = message.get("refusal")  # what the model said instead
        except (LookupError, TypeError, AttributeError) as error:
            raise self._strange(reply) from error
        if not isinstance(text, str | None):
            raise self._strange(reply)
        if text is None or (not text and reason in ("length", "content_filter")):
            spent = f" within {decoding['max_tokens']} tokens; turn its reasoning off" if reason == "length" else ""
            return NoAnswer(f"{self._url} gave no text (finish_reason {reason!r}){spent}")
        return text.strip()

    def _strange(self, reply: Any) -> InputError:
        return InputError(f"{self._url} does not reply as an OpenAI-compatible endpoint: {reply!r:.200}")

    def _post(self, body: bytes) -> Any:
        for wait in (*_WAITS, None):
            try:
                with urllib.request.urlopen(
                    urllib.request.Request(self._url, body, self._headers), timeout=_TIMEOUT
                ) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                if error.code not in _AGAIN or wait is None:
                    said = error.read(300).decode(errors="replace")
                    raise InputError(f"{self._url} answered HTTP {error.code}: {' '.join(said.split())}") from error
            except (OSError, ValueError) as error:
                if wait is None:
                    raise InputError(
                        f"{self._url} does not answer ({error}); the same command goes on later"
                    ) from error
            time.sleep(wait or 0)
        raise AssertionError("the last try returns or raises")


def _data_url(picture: Any) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
