"""The generator behind samples, evaluation, command line and server: each image is encoded once, batches pad little.

Requests name their images by key. Requests about one image run together, so it is encoded once. Encoded images are kept
in a cache of limited size. Among the images that fit the cache, requests run in order of length.
"""

from __future__ import annotations

import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Generator as Generator_
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from mblip.models.language_model import eval_mode
from mblip.models.scoring import score_answers
from mblip.models.speedups.shared_prefix import Prefixes, bytes_per_token
from mblip.models.tokens import listed
from mblip.models.vision_llm import VisionLLM, check_prompts
from mblip.processing.images import Picture


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt about images.

    Attributes:
        id: The caller's own identifier; not used here.
        images: Keys of one or more images, in the order in which the model sees them.
        prompt: The text.
    """

    id: str
    images: tuple[str, ...]
    prompt: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A generated answer.

    Attributes:
        text: The text, without special tokens, stripped.
        tokens: Number of generated tokens, the end token included.
        ended: Whether the model gave the end token; else the answer reached its length, or the generation was stopped.
    """

    text: str
    tokens: int
    ended: bool


class Generator:
    """Answers requests.

    Args:
        model: The vision-LLM.
        open_image: Returns the picture of a key. Its exceptions (``UnreadableImage``) end the iterator; the images
            encoded so far stay in the cache.
        batch_size: Number of texts that are generated together.
        image_batch: Number of images that are encoded together.
        cached_images: Number of encoded images that are kept, the most recently used ones.
        prefix_bytes: Bytes of keys and values of images that are kept for later questions about them, if the language
            model can continue from them (:mod:`mblip.models.speedups.shared_prefix`).
        **generation: Options of transformers' ``generate``, such as ``num_beams=5``.
    """

    def __init__(
        self,
        model: VisionLLM,
        open_image: Callable[[str], Picture],
        *,
        batch_size: int = 64,
        image_batch: int = 32,
        cached_images: int = 4096,
        prefix_bytes: int = 1 << 30,
        **generation: Any,
    ) -> None:
        self.model = model
        self.open_image = open_image
        self.batch_size = batch_size
        self.image_batch = image_batch
        self.cached_images = cached_images
        self.generation = generation
        self.prefixes = Prefixes(prefix_bytes) if "shared_prefix" in model.speedups else None
        self._encoded: OrderedDict[str, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[Request, str]]:
        """Yield every request with its answer, without special tokens, a batch at a time in no fixed order."""
        for place, answer in self._answers(requests):
            yield requests[place], answer.text

    def texts(self, requests: Sequence[Request]) -> list[str]:
        """The answers in the order of the requests."""
        return [answer.text for answer in self.counted(requests)]

    def counted(self, requests: Sequence[Request]) -> list[Answer]:
        """The answers in the order of the requests, with token counts."""
        found = dict(self._answers(requests))
        return [found[place] for place in range(len(requests))]

    def candidates(self, requests: Sequence[Request], answers: Sequence[str]) -> Iterator[tuple[Request, list[float]]]:
        """Yield every request with the log-probability of each answer (natural, summed, end token included).

        Images and prompt are read once for all answers: every answer starts from an encoder-decoder's encoder states, or
        from the keys and values of a decoder-only model.
        """
        for places in self._batches(requests, max(1, self.batch_size // max(1, len(answers)))):
            batch = [requests[place] for place in places]
            features, index = self._features(batch)
            prompts = [request.prompt for request in batch]
            with eval_mode(self.model):
                seen: dict[str, Any] = {"image_keys": [request.images for request in batch], "prefixes": self.prefixes}
                scores = score_answers(self.model, prompts, features, index, answers, self.batch_size, **seen)
            yield from zip(batch, scores.tolist(), strict=True)

    def stream(self, request: Request) -> Generator_[str, None, Answer]:
        """Yield the answer in pieces as they are generated, and return the complete answer, which is the pieces joined.

        With beam search the answer is known only at the end and is the only piece. Closing the iterator stops the
        generation.
        """
        if self.generation.get("num_beams", 1) > 1:
            (whole,) = self.counted([request])
            if whole.text:
                yield whole.text
            return whole
        features, index = self._features([request])
        pieces = _Pieces(self.model.decode)
        wishes = {"streamer": pieces, "stopping_criteria": StoppingCriteriaList([_Stop(pieces.abandoned)])}

        options = {**self.generation, **wishes}
        with ThreadPoolExecutor(1, "mblip-stream") as thread:
            seen: dict[str, Any] = {"image_keys": [request.images], "prefixes": self.prefixes}
            answer = thread.submit(self.model.generate_ids, [request.prompt], features, index, **seen, **options)
            answer.add_done_callback(lambda _: pieces.close())
            try:
                yield from pieces
            finally:
                pieces.abandoned.set()
            return self._counted(answer.result())[0]  # raises what the thread raised

    def _answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        for places in self._batches(requests, self.batch_size):
            batch = [requests[place] for place in places]
            features, index = self._features(batch)
            ids = self.model.generate_ids(
                [request.prompt for request in batch], features, index,
                image_keys=[request.images for request in batch], prefixes=self.prefixes, **self.generation,
            )  # fmt: skip
            yield from zip(places, self._counted(ids), strict=True)

    def _counted(self, ids: Tensor) -> list[Answer]:
        named = self.generation.get("eos_token_id")
        ends = set(listed(named) if named is not None else self.model.ends_for(self.generation.get("chat")))
        found = []
        for row, text in zip(ids.tolist(), self.model.decode(ids), strict=True):
            made = row[1:] if self.model.is_encoder_decoder else row  # after the decoder's start token
            end = next((place for place, token in enumerate(made) if token in ends), None)
            found.append(Answer(text, len(made) if end is None else end + 1, end is not None))
        return found

    def _batches(self, requests: Sequence[Request], size: int) -> Iterator[list[int]]:
        """Yield the indices of requests that run together.

        Requests about one image are in one window, which has no more images than the caches hold. Within a window the
        longest requests come first, so that a batch that does not fit the memory fails at once.
        """
        if not requests:
            return
        rows = self.model.tokenizer([request.prompt for request in requests])["input_ids"]
        image = self.model.container.tokens_per_image
        lengths = [len(row) + image * len(request.images) for request, row in zip(requests, rows, strict=True)]
        by_image: dict[tuple[str, ...], list[int]] = {}
        for place, request in enumerate(requests):
            by_image.setdefault(request.images, []).append(place)
        most = self.cached_images
        # If images have several texts each: the images whose keys and values can be kept, but enough to fill a batch.
        shared = most
        if self.prefixes is not None and len(requests) >= 2 * len(by_image):
            shared = max(1, self.prefixes.limit // (image * bytes_per_token(self.model.llm)))
        windows: list[list[int]] = [[]]
        images: set[str] = set()
        for keys, places in by_image.items():
            images.update(keys)
            if windows[-1] and (len(images) > most or (len(images) > shared and len(windows[-1]) >= size)):
                windows.append([])
                images = set(keys)
            windows[-1] += places
        for window in windows:
            window.sort(key=lengths.__getitem__, reverse=True)
            yield from (window[start : start + size] for start in range(0, len(window), size))

    def _features(self, requests: Sequence[Request]) -> tuple[Tensor, Tensor]:
        """Encoded images [images, queries, width] and their rows for each request [requests, images of a request]."""
        keys = list(dict.fromkeys(key for request in requests for key in request.images))
        row = {key: number for number, key in enumerate(keys)}
        width = max(len(request.images) for request in requests)
        index = [[row[key] for key in r.images] + [-1] * (width - len(r.images)) for r in requests]
        return self._encode(keys), torch.tensor(index, dtype=torch.long, device=self.model.device).view(
            len(requests), width
        )

    def _encode(self, keys: Sequence[str]) -> Tensor:
        dtype = self.model.llm.dtype
        with self._lock:
            missing = [key for key in keys if key not in self._encoded]
            for start in range(0, len(missing), self.image_batch):
                part = missing[start : start + self.image_batch]
                encoded = self.model.encode([self.open_image(key) for key in part]).to(dtype)
                # Each row is copied, because a view of it would keep the batch in memory.
                self._encoded.update((key, row.clone()) for key, row in zip(part, encoded, strict=True))
            for key in keys:
                self._encoded.move_to_end(key)
            found = [self._encoded[key] for key in keys]
            while len(self._encoded) > self.cached_images:
                self._encoded.popitem(last=False)
        if not found:  # texts without an image
            shape = (0, self.model.container.tokens_per_image, self.model.llm.hidden_size)
            return torch.empty(shape, dtype=dtype, device=self.model.device)
        return torch.stack(found)


def answer_prompts(
    model: VisionLLM, images: Sequence[Picture | Sequence[Picture]], prompts: Sequence[str], **generation: Any
) -> list[str]:
    """Like :meth:`VisionLLM.generate` for any number of prompts, in batches; each picture object is encoded once.

    Raises:
        InputError: The numbers of images and prompts differ, or a picture cannot be read.
    """
    check_prompts(images, prompts)
    keys: dict[int, Picture] = {}
    requests = []
    for number, (entry, prompt) in enumerate(zip(images, prompts, strict=True)):
        group: list[Any] = list(entry) if isinstance(entry, list | tuple) else [entry]
        keys.update((id(picture), picture) for picture in group)
        requests.append(Request(str(number), tuple(str(id(picture)) for picture in group), prompt))
    return Generator(model, lambda key: keys[int(key)], **generation).texts(requests)


class _Stop(StoppingCriteria):  # type: ignore[misc]
    """Ends the generation when the flag is set."""

    def __init__(self, flag: threading.Event) -> None:
        self.flag = flag

    def __call__(self, input_ids: Tensor, scores: Tensor, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), self.flag.is_set(), dtype=torch.bool, device=input_ids.device)


class _Pieces(BaseStreamer):  # type: ignore[misc]
    """Takes token ids from the generating thread and gives text to the reading thread.

    A piece is held back while it may still change: the bytes of an unfinished character, and white space at the end, which
    the complete answer does not have.
    """

    def __init__(self, decode: Callable[[Tensor], list[str]]) -> None:
        self.abandoned = threading.Event()
        self._decode = decode
        self._ids: list[int] = []
        self._told = ""
        self._queue: queue.Queue[str | None] = queue.Queue()
        # The first value is the prompt, or the decoder's start token.
        self._first = True

    def put(self, value: Tensor) -> None:
        """Take the next token."""
        if self._first:
            self._first = False
            return
        self._ids += value.flatten().tolist()
        self._tell(self._text().rstrip("\ufffd").rstrip())

    def end(self) -> None:
        """Give the text that was held back."""
        self._tell(self._text())

    def close(self) -> None:
        """End the reader's iteration."""
        self._queue.put(None)

    def _text(self) -> str:
        return self._decode(torch.tensor([self._ids]))[0] if self._ids else ""

    def _tell(self, text: str) -> None:
        if text.startswith(self._told) and len(text) > len(self._told):
            self._queue.put(text[len(self._told) :])
            self._told = text

    def __iter__(self) -> Iterator[str]:
        while (piece := self._queue.get()) is not None:
            yield piece
