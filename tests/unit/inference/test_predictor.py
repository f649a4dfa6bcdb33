"""Captions and answers: what goes in, what comes out, and how the model is asked."""

from __future__ import annotations

import inspect
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests import checkpoints

import mblip
from mblip.errors import InputError
from mblip.inference import predictor
from mblip.inference.language_id import language_of
from mblip.inference.loops import NoLoops
from mblip.inference.predictor import GENERATION, Predictor, load_model
from mblip.inference.prompts import is_a_prompt, prompts_from, templates_of_run
from mblip.mixture import load_templates
from mblip.models.vision_llm import VisionLLM
from mblip.storage import UnreadableImage


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load_model(checkpoints.blip2(tmp_path_factory.mktemp("blip2"), "mt5"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    paths = [folder / f"{number}.png" for number in range(3)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return paths


def test_lists_in_lists_out(model: Predictor, pictures: list[Path]) -> None:
    short = {"num_beams": 2, "max_new_tokens": 5}
    table = model.caption(pictures, language=["sw", "de"], **short)
    assert [len(row) for row in table] == [2, 2, 2]
    assert model.caption(pictures, language="sw", **short) == [row[0] for row in table]
    assert model.caption(pictures[1], language=["sw", "de"], **short) == table[1]
    assert model.caption(str(pictures[2]), language="Kiswahili", **short) == table[2][0]
    assert len({text for row in table for text in row}) > 1
    assert model.caption([], language="de") == []


def test_every_kind_of_picture_gives_the_same_answer(model: Predictor, pictures: list[Path]) -> None:
    with Image.open(pictures[0]) as opened:
        image = opened.convert("RGB")
    kinds: list[Any] = [pictures[0], str(pictures[0]), pictures[0].read_bytes(), image, np.asarray(image)]
    assert len(set(model.caption(kinds, language="de", max_new_tokens=6))) == 1
    assert model.caption(np.stack([np.asarray(image)] * 2), language="de", max_new_tokens=6) == (
        model.caption(kinds[:2], language="de", max_new_tokens=6)
    )


def test_arrays_of_every_layout(model: Predictor) -> None:
    grey = np.eye(30, dtype=np.uint8) * 255
    opaque = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    layouts = [
        grey,
        grey[..., None],
        grey > 0,
        opaque[..., :3] > 0,
        grey.astype(np.int64),
        opaque[..., :3],
        opaque,
        np.asfortranarray(grey),
    ]
    assert all((model.vlm.pixels([array]) == model.vlm.pixels([grey])).all() for array in layouts)


def test_a_turned_picture_is_turned_upright(model: Predictor, pictures: list[Path]) -> None:
    with Image.open(pictures[0]) as opened:
        turned = opened.convert("RGB").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # show it turned by 90 degrees clockwise
    file = io.BytesIO()
    turned.save(file, "PNG", exif=exif)
    with Image.open(io.BytesIO(file.getvalue())) as opened:
        as_object = model.caption(opened, language="de", max_new_tokens=6)
    assert as_object == model.caption(file.getvalue(), language="de", max_new_tokens=6)
    assert as_object == model.caption(pictures[0], language="de", max_new_tokens=6)


@pytest.mark.parametrize("size", [(50, 40), (32, 32), (7, 300), (1, 1)])
def test_a_shrunken_picture_has_the_same_pixel_values(model: Predictor, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (*size, 3), np.uint8)
    image = Image.fromarray(pixels)
    assert model.shrink(image).size == (checkpoints.SIDE, checkpoints.SIDE)
    assert (model.vlm.pixels([image]) == model.vlm.pixels([model.shrink(image)])).all()


def test_the_defaults_are_the_papers(model: Predictor, pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def generate(vlm: object, images: object, prompts: list[str], **generation: Any) -> list[str]:
        assert [type(one) for one in generation.pop("logits_processor")] == [NoLoops]
        asked.append((prompts, generation))
        return ["x" for _ in prompts]

    monkeypatch.setattr(predictor, "answer_prompts", generate)
    model.caption(pictures[0], "sw")
    model.answer(pictures[0], "Was ist das für ein Tier?", "de", num_beams=1)
    assert asked[0] == (["Caption in Swahili:"], GENERATION)
    assert (GENERATION["num_beams"], GENERATION["repetition_penalty"]) == (5, 1.5)
    assert asked[1] == (["Question: Was ist das für ein Tier? Short answer in German:"], {**GENERATION, "num_beams": 1})


def test_questions_and_pictures_go_in_pairs_or_one_with_all(model: Predictor, pictures: list[Path]) -> None:
    questions = ["what is red", "how many dog"]
    assert len(model.answer(pictures[0], questions, "en", max_new_tokens=4)) == 2
    assert len(model.answer(pictures, "what is red", "en", max_new_tokens=4)) == 3
    assert model.answer(pictures[:2], questions, "en", max_new_tokens=4) == [
        model.answer(picture, question, "en", max_new_tokens=4)
        for picture, question in zip(pictures, questions, strict=False)
    ]
    with pytest.raises(InputError, match="2 questions for 3 pictures"):
        model.answer(pictures, questions, "en")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"", "empty"),
        (b"no picture", "not a readable image"),
        ("missing.png", "No such file"),
        ("a\0b.png", "cannot be used"),
        (7, "not a path, bytes, PIL image or array"),
        (None, "not a path, bytes, PIL image or array"),
        ("", "its name is empty"),
        (Image.new("RGB", (0, 5)), "no pixels: its size is 0x5"),
        (np.zeros((4, 4, 7), np.uint8), "shape"),
        (np.full((4, 4, 3), 0.5, np.float32), "integers from 0 to 255"),
        (np.full((4, 4, 3), 0.5, np.float32), r"convert values from 0 to 1 by \(255 \* array\).astype\('uint8'\)"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.full((4, 4, 3), 300, np.int32), "integers from 0 to 255"),
    ],
)
def test_a_picture_that_cannot_be_used_is_said(model: Predictor, bad: object, says: str) -> None:
    with pytest.raises(UnreadableImage, match=says):
        model.caption(bad, language="de")  # type: ignore[call-overload]


WRONG: dict[str, tuple[Callable[[Any, Path], Any], str]] = {
    "no language": (lambda m, p: m.caption(p, language=None), "a language must be a text .* not None"),
    "a set of languages": (lambda m, p: m.caption(p, language={"en"}), "not {'en'}"),
    "several languages of an answer": (lambda m, p: m.answer(p, "what", ["en"]), r"not \['en'\]"),
    "no question": (lambda m, p: m.answer(p, ""), "the question is empty"),
    "a blank question": (lambda m, p: m.answer(p, ["what", " \n"], "en"), "the question is empty"),
    "a book": (lambda m, p: m.answer(p, "why " * 2000, "en"), r"the prompt has \d+ tokens; at most 1024 are read"),
    "one prompt": (lambda m, p: m.generate([p], "x"), "prompts and images are lists"),
    "one picture": (lambda m, p: m.generate(str(p), ["x"]), "prompts and images are lists"),
    "a book to choose by": (
        lambda m, p: m.score_candidates(p, "why " * 2000, ["a"]),
        r"the prompt has \d+ tokens; at most 1024",
    ),
    "one candidate": (lambda m, p: m.score_candidates(p, "what", "yes"), "give a list of texts"),
    "a candidate that is none": (lambda m, p: m.score_candidates(p, "what", [None]), "the answer None is not a text"),
    "a prompt that is none": (lambda m, p: m.score_candidates(p, 3, ["a"]), "the prompt 3 is not a text"),
    "several prompts": (lambda m, p: m.score_candidates(p, ["x"], ["a"]), "is not a text but of the type list"),
    "no beam": (lambda m, p: m.caption(p, num_beams=0), "num_beams is 0; write a whole number, 1 or more"),
    "beams as a text": (lambda m, p: m.caption(p, num_beams="5"), "num_beams is '5'"),
    "beams as a fraction": (lambda m, p: m.caption(p, num_beams=2.0), "num_beams is 2.0"),
    "half a token": (lambda m, p: m.caption(p, max_new_tokens=2.5), "max_new_tokens is 2.5"),
    "true tokens": (lambda m, p: m.caption(p, max_new_tokens=True), "max_new_tokens is True"),
    "a typo": (lambda m, p: m.caption(p, max_new_token=3), "no option 'max_new_token'; did you mean 'max_new_tokens'"),
    "no configuration": (lambda m, p: m.caption(p, generation_config={"a": 1}), "no GenerationConfig"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments_are_refused_in_one_sentence(model: Predictor, pictures: list[Path], name: str) -> None:
    call, says = WRONG[name]
    with pytest.raises(InputError, match=says):
        call(model, pictures[0])


def test_nothing_to_score_and_nothing_to_see(model: Predictor, pictures: list[Path]) -> None:
    assert model.score_candidates(pictures[0], "what", []) == []
    assert len(model.score_candidates([], "what", ["yes", "no"])) == 2
    assert model.vlm.generate([[]], ["what"], max_new_tokens=3) == model.generate([[]], ["what"], max_new_tokens=3)
    unset = model.generate(pictures[:1], ["what"], num_beams=None, max_new_tokens=None)
    assert unset == model.generate(pictures[:1], ["what"])


WRONG_MODELS: list[tuple[Any, dict[str, Any], str]] = [
    (None, {}, "a checkpoint must be a text or a Path, not None"),
    (3, {}, "not 3"),
    ("a" * 200, {}, "neither a folder nor a checkpoint"),
    ("nano:nano-blip2-en", {"quantization": "int4"}, "quantization 'int4' is unknown; use none, int8, nf4"),
    ("nano:nano-blip2-en", {"device_map": "nope"}, "torch finds no device 'nope' on this machine; there are cpu"),
    ("nano:nano-blip2-en", {"device_map": "cuda:99"}, "torch finds no device 'cuda:99'"),
    ("nano:nano-blip2-en", {"device_map": {"": "nope"}}, "torch finds no device 'nope'"),
    ("nano:nano-blip2-en", {"device_map": {}}, "device_map names no device for some parameters: .*query_tokens"),
]


@pytest.mark.parametrize(("name", "options", "says"), WRONG_MODELS)
def test_wrong_arguments_of_loading(name: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_model(name, **options)


def test_a_mistyped_language_names_the_nearest(model: Predictor, pictures: list[Path]) -> None:
    with pytest.raises(InputError, match=r"did you mean 'sw' \(Swahili\)\?"):
        model.caption(pictures[0], "Kiswahilli")


@pytest.mark.parametrize(
    ("question", "code"),
    [
        ("¿Qué hay en la mesa?", "es"),
        ("Was ist auf dem Bild?", "de"),
        ("Nini kiko mezani?", "sw"),
        ("机の上に何がありますか", "ja"),
        ("What is on the table?", "en"),
        ("Что на столе?", "ru"),
    ],
)
def test_the_language_of_a_question_is_told(question: str, code: str) -> None:
    assert language_of(question) == code


@pytest.mark.parametrize("question", ["dog", "12", "", "Apa yang ada di meja?"])
def test_a_language_that_cannot_be_told_is_asked_for(question: str) -> None:
    with pytest.raises(InputError, match="name the language of the answer"):
        language_of(question)


def test_prompts_are_those_of_the_models_training() -> None:
    paper, nano = prompts_from(("paper",)), prompts_from(("nano",))
    assert paper.for_caption("Swahili") == "Write a short Swahili caption for this picture:"
    assert nano.for_caption("Swahili") == "Objects in Swahili:"
    assert paper.for_question("What is {it}?", "German") == "What is {it}? Answer in German with a word or two:"
    for names in (("paper",), ("nano",), ("paper", "benchmarks"), ("paper", "llava"), ("published",)):
        rows = load_templates(names).english()
        known = {
            name: {template.prompt for task, template in rows if task == name}
            for name in ("caption", "vqa", "presence")
        }
        assert prompts_from(names).caption in known["caption"], names
        assert prompts_from(names).question in (known["vqa"] or known["presence"]), names
    assert nano.for_question("dog?", "German") == "Question: dog? Answer in German:"
    assert nano.for_question("How many dog?", "German") == "How many dog?"
    assert prompts_from(("benchmarks",)).for_question("A?", "Thai") == "Question: A? Short answer in Thai:"
    # Fine-tuned with prompts that name no language: captions are asked for as in the alignment before.
    tuned = prompts_from(("paper", "llava", "finetuned"))
    assert (tuned.caption, tuned.question) == (paper.caption, "Question: {question} Short answer in {language}:")
    assert prompts_from(("finetuned",)).caption == "Caption the image."
    seen = ["Caption the image.", "Say it in {language}: {question}"]
    assert (
        prompts_from(("paper", "finetuned"), seen).caption == "Caption the image."
    )  # the alignment's were not trained on
    with pytest.raises(InputError, match="no template file"):
        prompts_from(("gone.yaml",))


@pytest.mark.parametrize(
    ("question", "prompt"),
    [
        ("Name the object in Swahili:", "Name the object in Swahili:"),
        ("name the object in kiswahili", "Name the object in Swahili:"),
        ("Left object in zh-Hant-TW:", "Left object in Chinese:"),
        ("How many objects?", "How many objects?"),
        ("How many   dogs", "How many dogs?"),
        ("Is this right: fox, owl? Answer in Deutsch:", "Is this right: fox, owl? Answer in German:"),
        ("Question: fox? Answer in Thai:", "Question: fox? Answer in Thai:"),
        ("Name the object in Klingon:", ""),
        ("What is {this}?", ""),
        ("fox?", ""),
    ],
)
def test_a_prompt_of_the_training_is_asked_as_it_is(question: str, prompt: str) -> None:
    nano = prompts_from(("nano",))
    assert nano.own_prompt(question) == prompt
    if prompt:
        assert nano.for_question(question, "German") == prompt
        assert is_a_prompt(question)


def test_an_ordinary_question_is_no_prompt() -> None:
    questions = ["What is this?", "Was ist das?", "What is the man doing?", "Which colour is the bus in the picture?"]
    assert [question for question in questions if is_a_prompt(question)] == []


def test_a_prompt_needs_no_language(model: Predictor, pictures: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(predictor, "answer_prompts", lambda vlm, images, prompts, **_: asked.extend(prompts) or ["x"])
    model.answer(pictures[0], "Caption in kiswahili")
    assert asked == ["Caption in Swahili:"]


def test_a_model_prints_as_one_line(model: Predictor) -> None:
    assert re.fullmatch(
        r"Predictor\(VisionLLM\(\w+, [\d,.]+ M parameters, \d+ image tokens, \w+ on cpu\)\)", repr(model)
    )


def test_people_are_kept_from_loops_and_the_bare_model_is_not(
    model: Predictor, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        VisionLLM,
        "generate_ids",
        lambda self, prompts, *_, **options: seen.append(options.get("logits_processor", ())) or stop(),
    )

    def stop() -> None:
        raise StopIteration

    for ask in (
        lambda: model.caption(pictures[0], "sw"),
        lambda: model.answer(pictures[0], "what?", "de"),
        lambda: model.generate([pictures[0]], ["Caption in German:"]),
    ):
        with pytest.raises((StopIteration, RuntimeError)):
            ask()
    assert [[type(one) for one in found] for found in seen] == [[NoLoops], [NoLoops], []]


def test_a_run_says_which_templates_it_was_trained_on(tmp_path: Path) -> None:
    run, mix = tmp_path / "run", tmp_path / "mix"
    run.mkdir()
    mix.mkdir()
    assert templates_of_run(run) == ("benchmarks",)
    (run / "recipe.yaml").write_text(
        "{title: t, paper: p, kind: train, stage: align, model: {vision: v, llm: l}, optim: {lr: 1.0e-3},"
        " data: {mix: elsewhere/mix, images: i}}"
    )
    assert templates_of_run(run) == ("benchmarks",)
    (mix / "recipe.yaml").write_text("{title: t, paper: p, kind: data, sources: [], templates: [nano]}")
    assert templates_of_run(run) == ("nano",)


def test_what_the_original_published_is_asked_in_the_words_of_its_training(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["mBLIP"], "model_type": "blip-2"}')
    assert templates_of_run(tmp_path) == ("published",)
    prompts = prompts_from(("published",))
    assert prompts.for_caption("Swahili") == "Caption the image in Swahili."
    assert prompts.for_question("Nini hiki?", "Swahili") == "Nini hiki? Short Swahili answer:"
    for other in ('{"architectures": ["Blip2ForConditionalGeneration"]}', "[]", "{", '{"architectures": null}'):
        (tmp_path / "config.json").write_text(other)
        assert templates_of_run(tmp_path) == ("benchmarks",)


def test_an_exported_model_keeps_its_prompts(tmp_path: Path) -> None:
    folder = checkpoints.blip2(tmp_path / "stock", "mt5")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "prompt_templates": ["nano"]}))
    assert load_model(folder).prompts == prompts_from(("nano",))


PUBLIC = {
    "load_model": "name, *, quantization, dtype, device_map, merge",
    "Predictor": "vlm, templates",
    "Predictor.caption": "self, images, language, **generation",
    "Predictor.answer": "self, images, question, language, **generation",
    "Predictor.generate": "self, images, prompts, **generation",
    "Predictor.score_candidates": "self, images, prompt, answers",
    "build_model": "vision, llm, qformer, projection, *, seed, quantization, dtype, device_map, bridge, vision_feature_layer, "
    "vision_feature_select_strategy",
    "VisionLLM": "model, processor",
    "VisionLLM.forward": "self, batch, per_text",
    "VisionLLM.generate": "self, images, prompts, **generation",
    "VisionLLM.generate_ids": "self, prompts, image_features, image_index, *, image_keys, prefixes, **generation",
    "VisionLLM.encode": "self, images",
    **dict.fromkeys(("MblipError", "InputError", "RemoteError", "ResourceError", "TrainingError"), "message, rest"),
}


def test_the_public_interface_is_what_people_were_promised() -> None:
    assert {name.partition(".")[0] for name in PUBLIC} == set(mblip.__all__) - {"__version__"}
    for name, wanted in PUBLIC.items():
        found: Any = mblip
        for part in name.split("."):
            found = getattr(found, part)
        names, named = [], False
        for parameter in inspect.signature(found).parameters.values():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY and not named:
                names.append("*")
                named = True
            names.append(("**" if parameter.kind is inspect.Parameter.VAR_KEYWORD else "") + parameter.name)
        assert ", ".join(names) == wanted, name
    assert mblip.load_model is load_model
    with pytest.raises(AttributeError):
        _ = mblip.nothing
