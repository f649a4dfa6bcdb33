"""Options of ``generate``: spelled out or in a ``generation_config``, with stop strings, and those that are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests import checkpoints, llava_checkpoints
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, GenerationConfig

from mblip import load_model
from mblip.errors import InputError
from mblip.inference.predictor import Predictor
from mblip.models.generation import Generator, Request

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8))
PROMPTS = ["what is in the house", "Caption in German:", "how many red dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llava_checkpoints.llava(tmp_path_factory.mktemp("llava") / "model", "clip", "llama")


@pytest.fixture(scope="module")
def model(folder: Path) -> Predictor:
    return load_model(folder)


def asked(model: Predictor, **generation: Any) -> list[str]:
    return model.generate([PICTURE] * len(PROMPTS), PROMPTS, **generation)


@pytest.mark.parametrize(
    "options", [{"max_new_tokens": 3}, {"max_new_tokens": 6, "num_beams": 3, "length_penalty": 2.0}]
)
def test_a_generation_config_counts_like_its_options(model: Predictor, options: dict[str, Any]) -> None:
    wanted = asked(model, **options)
    assert asked(model, generation_config=GenerationConfig(**options)) == wanted != asked(model, max_new_tokens=9)
    assert (
        asked(model, generation_config=GenerationConfig(num_beams=2, max_new_tokens=1), **{"num_beams": 1, **options})
        == wanted
    )


def test_answers_end_with_a_stop_string_as_in_stock_code(model: Predictor, folder: Path) -> None:
    whole = asked(model, max_new_tokens=9)
    stop = [text[len(text) // 2] for text in whole]
    found = asked(model, max_new_tokens=9, stop_strings=stop)
    assert all(text.startswith(cut) and len(cut) < len(text) for text, cut in zip(whole, found, strict=True))
    stock, processor = (
        AutoModelForImageTextToText.from_pretrained(folder).eval(),
        AutoProcessor.from_pretrained(folder, backend="pil"),
    )
    for prompt, cut in zip(PROMPTS, found, strict=True):
        inputs = processor(images=PICTURE, text=f"<image>\n{prompt}", return_tensors="pt")
        ids = stock.generate(
            **inputs, do_sample=False, max_new_tokens=9, stop_strings=stop, tokenizer=processor.tokenizer
        )
        assert processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip() == cut


def test_guesses_of_later_tokens_change_no_answer(model: Predictor) -> None:
    """Also where an image's keys and values are shared, which the generator does for a single prompt."""
    wanted = [asked(model, max_new_tokens=20)[number] for number in range(len(PROMPTS))]
    for prompt, answer in zip(PROMPTS, wanted, strict=True):
        assert model.generate([PICTURE], [prompt], max_new_tokens=20, prompt_lookup_num_tokens=2) == [answer]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_return_sequences": 2, "num_beams": 2}, "gives several answers per prompt: repeat the prompt"),
        (
            {"generation_config": GenerationConfig(num_return_sequences=2, num_beams=2)},
            "gives several answers per prompt",
        ),
        ({"return_dict_in_generate": True}, "gives more than the answers: leave it out"),
        ({"guidance_scale": 1.5}, "reads the prompt's words, .*: leave it out"),
    ],
)
def test_options_that_cannot_be_followed(model: Predictor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        asked(model, **options)
    neutral = {"num_return_sequences": 1, "return_dict_in_generate": False, "guidance_scale": 1.0, "max_new_tokens": 3}
    assert asked(model, **neutral) == asked(model, max_new_tokens=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0; write a whole number, 1 or more"),
        ({"num_beams": True}, "num_beams is True; write a whole number"),
        ({"temperature": -1.0}, "temperature is -1.0; write a number, 0 or more"),
        ({"temperature": 0, "do_sample": True}, "temperature is 0, which cannot be sampled with"),
        ({"temperature": float("nan")}, "temperature is nan; write a number"),
        ({"top_p": 2.0}, "top_p is 2.0; write a number above 0, at most 1"),
        ({"top_k": -1}, "top_k is -1; write a whole number, 0 or more"),
        ({"top_k": 1.5}, "top_k is 1.5; write a whole number"),
        ({"min_p": 7}, "min_p is 7; write a number from 0 to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0; write a number above 0"),
        ({"length_penalty": "x"}, "length_penalty is 'x'; write a number"),
        ({"no_repeat_ngram_size": -2}, "no_repeat_ngram_size is -2"),
        ({"min_new_tokens": "three"}, "min_new_tokens is 'three'"),
        ({"early_stopping": "maybe"}, "early_stopping is 'maybe'; write True, False or 'never'"),
        ({"generation_config": GenerationConfig(top_k=-3)}, "top_k is -3"),
    ],
)
def test_numbers_outside_their_range(model: Predictor, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        asked(model, **options)


def test_numbers_of_any_library_count(model: Predictor) -> None:
    numbers = {"num_beams": np.int64(2), "length_penalty": np.float32(0.5), "top_k": 0, "temperature": 0}
    assert asked(model, max_new_tokens=4, **numbers) == asked(model, max_new_tokens=4, num_beams=2, length_penalty=0.5)


def test_an_answer_that_the_chat_template_ends_has_ended(tmp_path: Path) -> None:
    """The template's end token is not among the model's: answers are counted to it, and not called cut off."""
    folder = llava_checkpoints.llava(tmp_path / "model", "clip", "llama")
    text = AutoTokenizer.from_pretrained(folder)
    end = next(word for word in ("▁dog", "▁cat") if word in text.get_vocab())
    text.add_special_tokens({"additional_special_tokens": [end]})
    text.chat_template = llava_checkpoints.CHAT.replace("'</s>' if", f"'{end}' if")
    text.save_pretrained(folder)
    model = load_model(folder)
    number = text.convert_tokens_to_ids(end)
    assert model.vlm.layout.end_token_id == number
    assert set(model.vlm.ends_for(None)) == {text.eos_token_id, number} != set(model.vlm.ends_for(False))
    requests = [Request(prompt, ("",), prompt) for prompt in PROMPTS]
    # Each answer is the end token alone, or never holds it.
    for bias, ended in ((100.0, True), (-100.0, False)):
        options: dict[str, Any] = {
            "sequence_bias": {(number,): bias, (text.eos_token_id,): -100.0},
            "max_new_tokens": 5,
        }
        for answer in Generator(model.vlm, lambda _: PICTURE, **options).counted(requests):
            assert answer.ended is ended
            assert answer.tokens == (1 if ended else 5)


@pytest.mark.parametrize("prompt", [None, 3, b"who", "who \udcff", "\ud83d"])
def test_prompts_that_are_no_texts(model: Predictor, prompt: Any) -> None:
    """A shell hands over bytes that are no UTF-8 as halves of surrogate pairs."""
    for ask in (model.generate, model.vlm.generate):
        with pytest.raises(
            InputError, match=r"the prompt .*(is not a text but of the type|contains bytes that are not UTF-8)"
        ):
            ask([PICTURE, PICTURE], ["who", prompt])
    with pytest.raises(InputError, match=r"the prompt .*(is not a text|not UTF-8)"):
        model.answer(PICTURE, prompt)


def test_a_blip2_follows_a_generation_config(tmp_path: Path) -> None:
    model = load_model(checkpoints.blip2(tmp_path / "model", "mt5"))
    wanted = asked(model, num_beams=3, max_new_tokens=4)
    assert asked(model, generation_config=GenerationConfig(num_beams=3, max_new_tokens=4)) == wanted
