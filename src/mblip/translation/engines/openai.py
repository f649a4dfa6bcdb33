"""Any OpenAI-compatible endpoint (``/v1/chat/completions``), local or remote, with one text per request.

Text that a chat model adds around a translation is removed (:mod:`mblip.replies`). Refusals, answers in English and
cut-off replies are counted by kind. A failed request loses only its own text (:mod:`mblip.endpoint`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Any

from mblip.endpoint import Endpoint, RequestFailed, one_line
from mblip.languages import LANGUAGES, find_language
from mblip.replies import translation_in
from mblip.translation.engines.base import Result, Untranslated, collect

LICENCE = "see the endpoint's terms"


class OpenAIEngine:
    """A model behind an endpoint; see :func:`open_engine`."""

    def __init__(
        self,
        url: str,
        model: str,
        key_variable: str,
        requests: int,
        licence: str,
        extra_body: Mapping[str, Any],
        timeout: float,
    ) -> None:
        self._endpoint = Endpoint(url, key_variable, extra_body=extra_body, timeout=timeout)
        self._model, self._requests = model, requests
        self.name, self.licence = f"openai {model}", licence

    def translate(self, texts: Sequence[str], source: str, target: str) -> list[Result]:
        """See :class:`~mblip.translation.engines.base.Engine`.

        Raises:
            InputError: Every request fails: the key, the address or the model is wrong.
            RemoteError: The endpoint does not answer any more.
        """
        return collect(self.stream(texts, source, target), len(texts))

    def stream(
        self, texts: Sequence[str], source: str, target: str, done: Container[int] = ()
    ) -> Iterator[tuple[int, Result]]:
        """Request each text that is not done; each result is yielded as soon as it arrives.

        Raises:
            InputError, RemoteError: As in :meth:`translate`.
        """
        self._endpoint.open()
        waiting = (number for number in range(len(texts)) if number not in done)
        with ThreadPoolExecutor(self._requests) as pool:
            under_way: dict[Future[Result], int] = {}
            try:
                while True:
                    for number in islice(waiting, self._requests - len(under_way)):
                        under_way[pool.submit(self._one, texts[number], source, target)] = number
                    if not under_way:
                        return
                    for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                        yield under_way.pop(future), future.result()
            finally:
                if under_way:  # the caller has stopped, or a request raised
                    self._endpoint.close()

    def _one(self, text: str, source: str, target: str) -> Result:
        names = [(LANGUAGES.get(code) or find_language(code)).name for code in (source, target)]
        task = f"Translate the user's text from {names[0]} to {names[1]}. Reply with the translation alone."
        messages = [{"role": "system", "content": task}, {"role": "user", "content": text}]
        try:
            reply = self._endpoint.chat({"model": self._model, "messages": messages, "temperature": 0})
        except RequestFailed as failure:
            return Untranslated(failure.kind, failure.said, failure.passing)
        found, problem = translation_in(reply, text, target)
        return Untranslated(problem, one_line(found)) if problem else found or None


def open_engine(
    url: str,
    model: str,
    key_variable: str = "",
    requests: int = 8,
    licence: str = LICENCE,
    extra_body: dict[str, Any] | None = None,
    timeout: float = 300.0,
) -> OpenAIEngine:
    """Open an endpoint.

    Args:
        url: Base address, such as ``http://localhost:8000/v1``.
        model: Name of the model at the endpoint.
        key_variable: Environment variable with the key; keys must not be in recipes.
        requests: Number of parallel requests.
        licence: Licence of the translations.
        extra_body: Additional fields of every request, such as ``{max_tokens: 512}`` or ``{chat_template_kwargs:
            {enable_thinking: false}}``; they override this engine's own.
        timeout: Seconds for one try.

    Raises:
        InputError: The address is invalid, or the variable is not set.
    """
    return OpenAIEngine(url, model, key_variable, requests, licence, extra_body or {}, timeout)
