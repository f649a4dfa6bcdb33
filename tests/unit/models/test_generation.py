"""The one generator: batches, windows, cache, streaming, candidates."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import checkpoints

from mblip.errors import InputError
from mblip.models import VisionLLM, load_vision_llm
from mblip.models.generation import Generator, Request
from mblip.models.scoring import score_candidates
from mblip.storage import UnreadableImage

PICTURES = {str(i): np.random.default_rng(i).integers(0, 255, (40, 30, 3), dtype=np.uint8) for i in range(6)}
# Unequal in length, some pictures twice, one request with two pictures.
REQUESTS = [
    Request("a", ("0",), "Question: what is in the house? Short answer in English:"),
    Request("b", ("1",), "Caption in German:"),
    Request("c", ("0",), "Caption"),
    Request("d", ("2", "3"), "Question: is the red dog on the blue tree? answer in English:"),
    Request("e", ("1",), "Question: how many cat"),
    Request("f", ("4",), ""),
]
FAMILIES = ["mt5", "t5", "bloom", "opt", "llama", "qwen3", "gemma3", "cohere"]


@pytest.fixture(scope="module", params=FAMILIES)
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VisionLLM:
    return load_vision_llm(
        checkpoints.blip2(tmp_path_factory.mktemp(request.param) / "model", request.param), dtype="fp32"
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, VisionLLM]:
    made = {}
    for family in ("mt5", "llama"):
        path = checkpoints.blip2(tmp_path_factory.mktemp(family) / "model", family)
        made[family] = load_vision_llm(path, dtype="fp32")
    return made


def generator(vlm: VisionLLM, **options: Any) -> Generator:
    return Generator(vlm, PICTURES.__getitem__, **{"max_new_tokens": 6, **options})


def single(vlm: VisionLLM, request: Request, **generation: Any) -> list[int]:
    features = vlm.encode([PICTURES[key] for key in request.images])
    index = torch.arange(len(request.images))[None]
    return vlm.generate_ids([request.prompt], features, index, max_new_tokens=6, **generation)[0].tolist()


@pytest.mark.parametrize(
    "generation",
    [{}, {"num_beams": 5}, {"repetition_penalty": 1.5}, {"num_beams": 3, "length_penalty": -1.0, "min_new_tokens": 1}],
    ids=["greedy", "beams", "penalty", "short"],
)
def test_a_batch_gives_the_tokens_of_one_by_one(vlm: VisionLLM, generation: dict[str, Any]) -> None:
    keys = list(PICTURES)
    features = vlm.encode(list(PICTURES.values()))
    width = max(len(r.images) for r in REQUESTS)
    index = torch.tensor([[keys.index(k) for k in r.images] + [-1] * (width - len(r.images)) for r in REQUESTS])
    ids = vlm.generate_ids([r.prompt for r in REQUESTS], features, index, max_new_tokens=6, **generation)
    padding = vlm.layout.pad_token_id
    for request, row in zip(REQUESTS, ids.tolist(), strict=True):
        alone = single(vlm, request, **generation)
        assert row[: len(alone)] == alone
        assert set(row[len(alone) :]) <= {padding, vlm.tokenizer.eos_token_id}
    texts = [vlm.decode(torch.tensor([single(vlm, request, **generation)]))[0] for request in REQUESTS]
    assert generator(vlm, **generation).texts(REQUESTS) == texts
    assert len(set(texts)) > 3, "the answers must differ, or nothing is compared"


def test_padding_with_the_end_token_is_no_repetition(tmp_path: Path) -> None:
    vlm = load_vision_llm(checkpoints.blip2(tmp_path / "model", "llama"), dtype="fp32")
    vlm.tokenizer.pad_token = vlm.tokenizer.eos_token
    with torch.no_grad():
        vlm.language_model.lm_head.weight[vlm.tokenizer.eos_token_id] *= 2
    # No token may come twice: if padding counted, a padded row could not end.
    options = {"no_repeat_ngram_size": 1, "max_new_tokens": 8}
    alone = [generator(vlm, **options).texts([request])[0] for request in REQUESTS]
    assert generator(vlm, **options).texts(REQUESTS) == alone


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("family", ["mt5", "llama"])
def test_every_request_comes_once_whatever_the_batch(two: dict[str, VisionLLM], family: str, batch_size: int) -> None:
    vlm = two[family]
    wanted = generator(vlm).texts(REQUESTS)
    repeated = [*REQUESTS, REQUESTS[0], REQUESTS[4]]
    assert generator(vlm, batch_size=batch_size, cached_images=2).texts(repeated) == [*wanted, wanted[0], wanted[4]]
    came = list(generator(vlm, batch_size=batch_size).answers(repeated))
    assert sorted(request.id for request, _ in came) == sorted(request.id for request in repeated)
    assert {request.id: text for request, text in came} == dict(zip("abcdef", wanted, strict=True))
    assert generator(vlm).texts([]) == []


@pytest.mark.parametrize("cached_images", [2, 3, 4096])
def test_each_image_is_encoded_once(two: dict[str, VisionLLM], cached_images: int) -> None:
    opened: list[str] = []

    def open_image(key: str) -> Any:
        opened.append(key)
        return PICTURES[key]

    # Twelve prompts on four pictures, the pictures in turn.
    requests = [Request(str(i), (str(i % 4),), "Caption " + "the " * (i % 5)) for i in range(12)]
    made = Generator(two["mt5"], open_image, batch_size=4, cached_images=cached_images, max_new_tokens=2)
    made.texts(requests)
    assert sorted(opened) == ["0", "1", "2", "3"]
    assert len(made._encoded) == min(4, cached_images)
    kept = [request for request in requests if request.images[0] in made._encoded]
    gone = [request for request in requests if request not in kept]
    made.texts(kept)
    assert len(opened) == 4
    made.texts(gone)
    assert len(opened) == 4 + 4 - min(4, cached_images)


def test_a_batch_may_need_more_images_than_are_kept(two: dict[str, VisionLLM]) -> None:
    vlm = two["mt5"]
    pair = [Request("p", ("0", "1", "2"), "Caption")]
    assert generator(vlm, cached_images=1).texts(pair) == generator(vlm).texts(pair)


def test_padding_is_little_within_a_batch(two: dict[str, VisionLLM], monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = two["mt5"]
    lengths: list[list[int]] = []
    real = vlm.layout.prompts

    def spy(prompts: Any, images: Any) -> Any:
        lengths.append([len(prompt) for prompt in prompts])
        return real(prompts, images)

    monkeypatch.setattr(vlm.layout, "prompts", spy)
    generator(vlm, batch_size=4, max_new_tokens=1).texts(
        [Request(str(i), (str(i % 3),), "the " * (1 + i * 7 % 12)) for i in range(12)]
    )
    assert [length for batch in lengths for length in batch] == sorted((4 * i for i in range(1, 13)), reverse=True)


def test_an_unreadable_image_comes_out_and_the_rest_can_go_on(two: dict[str, VisionLLM]) -> None:
    def open_image(key: str) -> Any:
        if key == "4":
            raise UnreadableImage(key, "it is not there")
        return PICTURES[key]

    made = Generator(two["mt5"], open_image, batch_size=1, max_new_tokens=4)
    done: dict[str, str] = {}
    with pytest.raises(UnreadableImage, match="not there"):
        for request, text in made.answers(REQUESTS):
            done[request.id] = text
    rest = [request for request in REQUESTS if request.id not in done and "4" not in request.images]
    done |= {request.id: text for request, text in made.answers(rest)}
    assert sorted(done) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("generation", [{}, {"num_beams": 4}, {"repetition_penalty": 1.5}], ids=str)
def test_streamed_pieces_joined_are_the_answer(vlm: VisionLLM, generation: dict[str, Any]) -> None:
    made = generator(vlm, **{"max_new_tokens": 24, **generation})
    several = 0
    for request, text in zip(REQUESTS, made.texts(REQUESTS), strict=True):
        pieces = list(made.stream(request))
        assert "".join(pieces) == text
        assert all(pieces)
        several += len(pieces) > 1
    assert several if "num_beams" not in generation else several == 0


def test_a_closed_stream_stops_generating(two: dict[str, VisionLLM]) -> None:
    vlm = two["llama"]
    made = generator(vlm, max_new_tokens=100_000, min_new_tokens=100_000)
    pieces = made.stream(REQUESTS[0])
    next(pieces)
    pieces.close()  # returns only when the thread has ended


def test_an_error_of_the_generating_thread_reaches_the_reader(two: dict[str, VisionLLM]) -> None:
    with pytest.raises(InputError, match="no_such_option"):
        list(generator(two["mt5"], no_such_option=1).stream(REQUESTS[0]))


def test_several_answers_a_prompt_are_refused(two: dict[str, VisionLLM]) -> None:
    with pytest.raises(InputError, match="repeat the prompt"):
        generator(two["mt5"], num_return_sequences=2, num_beams=2).texts(REQUESTS)


ANSWERS = ["yes", "no", "", "the red dog on the house", "maybe, not in the blue tree"]


def test_candidates_equal_the_whole_forward_of_each(vlm: VisionLLM) -> None:
    scores = dict(generator(vlm, batch_size=7).candidates(REQUESTS, ANSWERS))
    assert list(scores) != REQUESTS, "batches are formed by length"
    for request in REQUESTS:
        features = vlm.encode([PICTURES[key] for key in request.images])
        for answer, score in zip(ANSWERS, scores[request], strict=True):
            batch: dict[str, Any] = vlm.layout.pairs([request.prompt], [answer], [len(request.images)])
            batch |= {"image_features": features, "image_index": torch.arange(len(request.images))[None]}
            with torch.no_grad():
                assert score == pytest.approx(-float(vlm(batch)["loss_sum"]), rel=1e-4)
    flat = [score for row in scores.values() for score in row]
    assert len({round(score, 2) for score in flat}) > 25
    assert all(math.isfinite(score) and score < 0 for score in flat)
    first = REQUESTS[0]
    alone = score_candidates(vlm, PICTURES["0"], first.prompt, ANSWERS)
    assert alone == pytest.approx(scores[first], rel=1e-4)


@pytest.mark.parametrize("family", ["mt5", "llama"])
def test_candidates_read_image_and_prompt_once(
    two: dict[str, VisionLLM], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = two[family]
    read: list[int] = []
    layer = vlm.language_model.encoder.block[0] if family == "mt5" else vlm.language_model.model.layers[0]
    handle = layer.register_forward_pre_hook(
        lambda _, args, kwargs: read.append((args[0] if args else kwargs["hidden_states"]).shape[:2].numel()),
        with_kwargs=True,
    )
    prompt = vlm.layout.prompts([REQUESTS[0].prompt], [1])["input_ids"].shape[1]
    score_candidates(vlm, PICTURES["0"], REQUESTS[0].prompt, ANSWERS)
    handle.remove()
    assert read[0] == prompt
    answers = max(len(row) for row in vlm.layout.targets([REQUESTS[0].prompt] * 5, ANSWERS)) - 1
    assert read[1:] == ([] if family == "mt5" else [5 * answers])


@pytest.mark.parametrize("family", ["llama", "bloom", "gemma3"])
def test_candidates_of_a_model_that_ignores_what_it_has_read_are_refused(family: str, tmp_path: Path) -> None:
    """It would score every answer as if there were neither picture nor prompt."""
    vlm = load_vision_llm(checkpoints.blip2(tmp_path / "model", family), dtype="fp32")
    base = vlm.language_model.base_model
    real = base.forward

    def forgets(position_ids: Any = None, past_key_values: Any = None, cache: Any = None, **inputs: Any) -> Any:
        inputs |= {} if position_ids is None else {"position_ids": position_ids}
        return real(**{**inputs, "attention_mask": inputs["attention_mask"][:, -inputs["inputs_embeds"].shape[1] :]})

    base.forward = forgets
    with pytest.raises(InputError, match="keeps no keys and values"):
        score_candidates(vlm, PICTURES["0"], "how many", ANSWERS)


def test_one_picture_object_is_encoded_once(two: dict[str, VisionLLM], monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = two["mt5"]
    encoded: list[int] = []
    real = vlm.encode_images

    def spy(pixel_values: torch.Tensor) -> torch.Tensor:
        encoded.append(len(pixel_values))
        return real(pixel_values)

    monkeypatch.setattr(vlm, "encode_images", spy)
    prompts = ["Caption", "what is in the house", "who"]
    together = vlm.generate([PICTURES["0"]] * 3, prompts, max_new_tokens=4)
    assert sum(encoded) == 1
    assert together == [vlm.generate([PICTURES["0"]], [prompt], max_new_tokens=4)[0] for prompt in prompts]
