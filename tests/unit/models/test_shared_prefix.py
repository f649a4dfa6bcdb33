"""Keys and values of an image are made once for all questions about it, and the answers are those of the plain path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import checkpoints, llava_checkpoints
from torch import Tensor

from mblip.models import VisionLLM, load_vision_llm
from mblip.models.generation import Generator, Request
from mblip.models.speedups import shared_prefix, speed_up
from mblip.models.speedups.shared_prefix import Prefixes

PICTURES = {
    name: np.random.default_rng(seed).integers(0, 255, (40, 30, 3), dtype=np.uint8) for seed, name in enumerate("abc")
}
PROMPTS = ["what is in the house", "Caption in German:", "how many red dog and two cat in the tree", "", "who"]
IMAGES = [("a",), ("b",), ("a", "c"), ()]
REQUESTS = [Request(f"{i}-{p}", images, prompt) for i, images in enumerate(IMAGES) for p, prompt in enumerate(PROMPTS)]
WAYS: list[dict[str, Any]] = [{"num_beams": 5}, {}, {"num_beams": 3, "repetition_penalty": 1.5}]


def model(folder: Path, family: str, container: str = "llava", **changes: Any) -> VisionLLM:
    made = (
        llava_checkpoints.llava(folder, "siglip", family, **changes)
        if container == "llava"
        else checkpoints.blip2(folder, family, **changes)
    )
    return load_vision_llm(made, dtype="fp32")


def counting(vlm: VisionLLM) -> list[int]:
    """Tokens that the language model reads."""
    read: list[int] = []

    def note(_: Any, given: tuple[Any, ...], options: dict[str, Any]) -> None:
        words: Any = options.get("inputs_embeds")
        words = options.get("input_ids") if words is None else words
        read.append(words.shape[0] * words.shape[1])

    llm: Any = vlm.llm
    llm.base.register_forward_pre_hook(note, with_kwargs=True)
    return read


def answers(vlm: VisionLLM, **options: Any) -> list[str]:
    return Generator(vlm, PICTURES.__getitem__, max_new_tokens=8, **options).texts(REQUESTS)


@pytest.mark.parametrize(
    ("family", "container"),
    [
        ("llama", "llava"),
        ("qwen3", "llava"),
        ("mistral", "llava"),
        ("bloom", "blip2"),
        ("opt", "blip2"),
        ("gemma", "blip2"),
    ],
)
@pytest.mark.parametrize("way", range(len(WAYS)), ids=["beams", "greedy", "penalty"])
def test_answers_are_those_of_the_plain_path(family: str, container: str, way: int, tmp_path: Path) -> None:
    """One image, two, and none, in batches that mix them and prompts of all lengths."""
    vlm = model(tmp_path / "model", family, container)
    assert "shared_prefix" in vlm.speedups
    shared = [answers(vlm, batch_size=size, **WAYS[way]) for size in (3, 64)]
    speed_up(vlm, ())
    plain = answers(vlm, **WAYS[way])
    assert shared == [plain, plain]
    assert len(set(plain)) > 4


@pytest.mark.parametrize(("family", "container"), [("llama", "llava"), ("bloom", "blip2")])
def test_scores_of_given_answers_are_those_of_the_plain_path(family: str, container: str, tmp_path: Path) -> None:
    vlm = model(tmp_path / "model", family, container)
    read = counting(vlm)
    scores: list[Any] = []
    for names in (("shared_prefix",), ()):
        speed_up(vlm, names)
        read.clear()
        generator = Generator(vlm, PICTURES.__getitem__, batch_size=12)
        asked = [request for request in REQUESTS if request.images or request.prompt]  # BLOOM makes no token of nothing
        found = generator.candidates(asked, ("yes", "a red dog", "no"))
        scores.append({request.id: each for request, each in found})
        scores.append(sum(read))
    shared, few, plain, many = scores
    assert few < many
    for key, each in plain.items():
        assert shared[key] == pytest.approx(each, abs=1e-4), key


@pytest.mark.parametrize("beams", [1, 5])
def test_an_image_is_read_once_within_a_batch_and_between_batches(beams: int, tmp_path: Path) -> None:
    """And the words of a question once for all its beams."""
    vlm = model(tmp_path / "model", "llama")
    read = counting(vlm)
    generator = Generator(vlm, PICTURES.__getitem__, batch_size=4, num_beams=beams, max_new_tokens=1)
    requests = [Request(str(n), ("a",), "a dog" + " red" * n) for n in range(12)]
    generator.texts(requests)
    words = 12 * 16  # at most, of a text with its padding
    head = llava_checkpoints.PATCHES + 1  # the start token stands before the image
    assert head < sum(read) <= head + words
    assert read.count(head) == 1
    read.clear()
    generator.texts(requests)
    assert read.count(head) == 0
    assert generator.prefixes is not None
    assert len(generator.prefixes) == 1


def test_prefixes_stay_within_their_bytes() -> None:
    layers = [(torch.zeros(2, 4, 8), torch.zeros(2, 4, 8))]
    store = Prefixes(2 * 512)
    for key in "abc":
        store.put(key, layers)
        store.get("a")
    assert len(store) == 2
    assert store.get("a") is not None
    assert store.get("b") is None
    assert store.get("c") is not None


def test_windows_hold_no_more_images_than_their_prefixes(tmp_path: Path) -> None:
    """Else the questions about an image would lie so far apart that it was dropped in between."""
    vlm = model(tmp_path / "model", "llama")
    one = llava_checkpoints.PATCHES * shared_prefix.bytes_per_token(vlm.llm)
    generator = Generator(vlm, PICTURES.__getitem__, batch_size=2, prefix_bytes=one + one // 2)
    requests = [Request(str(n), (key,), "who " * n) for n in range(4) for key in "abc"]
    order = [requests[place].images for batch in generator._batches(requests, 2) for place in batch]
    assert [key for place, key in enumerate(order) if place == 0 or order[place - 1] != key] == [("a",), ("b",), ("c",)]
    # One text an image: nothing would be shared, and batches stay full.
    assert [len(batch) for batch in generator._batches([Request("", (key,), "who") for key in "abc"], 3)] == [3]
    pairs = [Request("", (key,), "who") for key in "aabbcc"]
    assert [len(batch) for batch in generator._batches(pairs, 6)] == [6]


def test_a_window_that_is_too_short_is_left_to_the_plain_path(tmp_path: Path) -> None:
    """Within a window padding would count; the answers are right all the same."""
    vlm = model(tmp_path / "model", "gemma3")  # its window is 16 tokens
    assert "shared_prefix" in vlm.speedups
    assert not shared_prefix.fits(vlm.llm, 17)
    assert shared_prefix.fits(vlm.llm, 16)
    shared = answers(vlm)
    speed_up(vlm, ())
    assert answers(vlm) == shared


@pytest.mark.parametrize("family", ["gemma3", "mistral"])
@pytest.mark.parametrize("way", range(len(WAYS)), ids=["beams", "greedy", "penalty"])
def test_questions_of_one_length_share_whatever_the_window(family: str, way: int, tmp_path: Path) -> None:
    """No padding stands between an image and its questions; an image of 16 tokens, a window of as many."""
    vlm = model(tmp_path / "model", family, sliding_window=16)
    read = counting(vlm)
    prompts = ["what is the red dog", "what is the blue cat", "what is in the house"]
    assert bool(vlm.layout.prompts(prompts, [1, 1, 1])["attention_mask"].all())
    asked = [Request(f"{n}-{key}", tuple(key), p) for n, p in enumerate(prompts) for key in ("a", "b", "ac", "a")]
    found: list[list[str]] = []
    tokens = []
    for names in (("shared_prefix",), ()):
        speed_up(vlm, names)
        read.clear()
        for size in (1, 4, 12):
            generator = Generator(vlm, PICTURES.__getitem__, batch_size=size, max_new_tokens=8, **WAYS[way])
            found.append(generator.texts(asked))
        tokens.append(sum(read))
    assert all(texts == found[0] for texts in found)
    assert len(set(found[0])) > 4
    assert (
        tokens[1] - tokens[0] >= 3 * 9 * llava_checkpoints.PATCHES
    )  # three images or pairs for twelve questions, three times


def test_a_model_whose_layers_keep_something_else_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = model(tmp_path / "model", "llama")
    honest = shared_prefix._Shared.update

    def forgetful(self: Any, keys: Tensor, values: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        self._keys[:, :, : self.prefix] = 0
        return honest(self, keys, values, *args, **options)

    monkeypatch.setattr(shared_prefix._Shared, "update", forgetful)
    assert "continues differently from a prefix" in speed_up(vlm)["shared_prefix"]
    assert "shared_prefix" not in vlm.speedups
