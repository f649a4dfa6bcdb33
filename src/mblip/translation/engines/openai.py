"""Any OpenAI-compatible endpoint (``/v1/chat/completions``), local or remote, one text a request."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from mblip.errors import InputError
from mblip.languages import LANGUAGES, find_language

LICENCE = "see the endpoint's terms"
_WAITS = (1.0, 5.0, 20.0)
_AGAIN = (408, 409, 429, 500, 502, 503, 504)


class OpenAIEngine:
    """A model behind an endpoint; see :func:`open_engine`."""

    def __init__(self, url: str, model: str, key_variable: str, requests: int, licence: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"the endpoint must be an http(s) address such as http://localhost:8000/v1, not {url!r}")
        self._url, self._model, self._requests = url.rstrip("/") + "/chat/completions", model, requests
        self._headers = {"Content-Type": "application/json"}
        if key_variable:
            if not os.environ.get(key_variable):
                raise InputError(f"the environment variable {key_variable} with the endpoint's key is not set")
            self._headers["Authorization"] = f"Bearer {os.environ[key_variable]}"
        self.name, self.licence = f"openai {model}", licence

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[str | None]:
        """See :class:`~mblip.translation.engines.base.Engine`.

        Raises:
            InputError: The endpoint refuses or does not answer.
        """
        names = [(LANGUAGES.get(code) or find_language(code)).name for code in (source, target)]
        with ThreadPoolExecutor(self._requests) as pool:
            return list(pool.map(lambda text: self._one(text, *names), texts))

    def _one(self, text: str, source: str, target: str) -> str | None:
        task = f"Translate the user's text from {source} to {target}. Reply with the translation alone."
        messages = [{"role": "system", "content": task}, {"role": "user", "content": text}]
        body = json.dumps({"model": self._model, "messages": messages, "temperature": 0}).encode()
        for wait in (*_WAITS, None):
            request = urllib.request.Request(self._url, body, self._headers)
            try:
                with urllib.request.urlopen(request, timeout=120) as response:
                    reply = json.load(response)
                content = reply["choices"][0]["message"]["content"]
                return content.strip() or None if isinstance(content, str) else None
            except urllib.error.HTTPError as error:
                if error.code not in _AGAIN or wait is None:
                    raise InputError(
                        f"{self._url} answered HTTP {error.code}; look at the model and the key"
                    ) from error
            except (OSError, ValueError, LookupError, TypeError) as error:
                if wait is None:
                    raise InputError(
                        f"{self._url} does not answer as an OpenAI-compatible endpoint: {error}"
                    ) from error
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")


def open_engine(
    url: str, model: str, key_variable: str = "", requests: int = 8, licence: str = LICENCE
) -> OpenAIEngine:
    """Open an endpoint.

    Args:
        url: Its base, such as ``http://localhost:8000/v1``.
        model: As the endpoint calls it.
        key_variable: Environment variable that holds its key; keys do not belong into recipes.
        requests: At a time.
        licence: Of the translations.

    Raises:
        InputError: Not an address, or the variable is not set.
    """
    return OpenAIEngine(url, model, key_variable, requests, licence)
