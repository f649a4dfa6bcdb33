"""Prompts and decoding of every benchmark, as the paper's models were tested; a change here changes every score."""

from __future__ import annotations

from pathlib import Path

import pytest

from mblip.config import TrainRecipe, load_recipe
from mblip.errors import InputError
from mblip.evaluation.answerers.openai import OpenAIAnswerer
from mblip.evaluation.benchmarks import EVALUATED
from mblip.evaluation.prompts import load_prompts
from mblip.languages import find_language
from mblip.mixture.templates import load_templates, was_seen

SHORT = {"num_beams": 5, "max_new_tokens": 10, "min_new_tokens": 1, "length_penalty": -1.0}
CAPTION = {"num_beams": 5, "max_new_tokens": 50, "min_new_tokens": 1, "length_penalty": 1.0}
LONG = {"num_beams": 5, "max_new_tokens": 256, "min_new_tokens": 1, "length_penalty": 1.0, "repetition_penalty": 1.5}
PAIRS = 'Based on the two images, is it correct to say "{text}"? Yes or no? Answer in English:'
# name: prompt in the last of the languages, decoding, languages (the benchmark's own codes where they differ: iw, no)
GOLDEN = {
    "xgqa": ("Question: {text} Short answer in English:", SHORT, "bn de en id ko pt ru zh"),
    "xvnli": ('Is it guaranteed true that "{text}"? Yes, no, or maybe? Answer in English:', SHORT, "ar en es fr ru"),
    "marvl": (PAIRS, SHORT, "id sw ta tr zh"),
    "nlvr2": (PAIRS, SHORT, "en"),
    "maxm": ("Question: {text} Short answer in Chinese:", SHORT, "en fr hi iw ro th zh"),
    "vqa": ("Question: {text} Short answer in English:", SHORT, "en"),
    "xflickrco": ("Caption in Chinese: ", CAPTION, "de en es id ja ru tr zh"),
    "xm3600": (
        "Caption in Chinese: ",
        CAPTION,
        "ar bn cs da de el en es fa fi fil fr hi hr hu id it iw ja ko mi nl no pl pt quz ro ru sv sw te th tr uk vi zh",
    ),
    "coco": ("Caption in English: ", CAPTION, "en"),
    "chair_short": ("Caption in English:", LONG, "en"),
    "chair_long": ("Describe the image in English with as much detail as possible.", LONG, "en"),
    "babel_imagenet": ("Name the main object in Zulu:", SHORT, None),
    **{f"pope_{kind}": ("{text}", SHORT, "en") for kind in ("random", "popular", "adversarial")},
    **{
        f"pope_seem_{corpus}_{kind}": ("{text}", SHORT, "en")
        for corpus in ("aokvqa", "gqa")
        for kind in ("random", "popular", "adversarial")
    },
}


def test_every_benchmark_is_pinned() -> None:
    assert set(GOLDEN) == set(EVALUATED)
    assert len(GOLDEN) == 21


@pytest.mark.parametrize("name", GOLDEN)
def test_prompt_decoding_and_languages(name: str) -> None:
    prompt, decoding, languages = GOLDEN[name]
    benchmark = EVALUATED[name]
    assert dict(benchmark.decoding) == decoding
    assert languages is None or list(benchmark.languages) == languages.split()
    prompts = load_prompts("paper", [benchmark])
    assert len(prompts) == len(benchmark.languages)
    assert prompts[name, benchmark.languages[-1]] == prompt
    names = {prompts[name, code] for code in benchmark.languages}
    in_all = {
        prompt.replace(find_language(benchmark.languages[-1]).name, find_language(c).name) for c in benchmark.languages
    }
    assert names == (in_all if "{language}" in benchmark.prompt else {prompt})


def test_the_candidates() -> None:
    found = {name: benchmark.candidates for name, benchmark in EVALUATED.items() if benchmark.candidates}
    assert found.pop("xvnli") == ("yes", "no", "maybe")
    assert set(found) == {"marvl", "nlvr2", *(name for name in GOLDEN if name.startswith("pope"))}
    assert set(found.values()) == {("yes", "no")}


def test_the_originals_names_of_languages() -> None:
    prompts = load_prompts("original", [EVALUATED["xm3600"], EVALUATED["xflickrco"]])
    assert {code: prompts["xm3600", code] for code in ("bn", "fa", "pt", "uk", "sw")} == {
        "bn": "Caption in Bengali: ", "fa": "Caption in Farsi: ", "pt": "Caption in Portugese: ",
        "uk": "Caption in Ukranian: ", "sw": "Caption in Swahili: ",
    }  # fmt: skip
    assert prompts["xflickrco", "ja"] == "Caption in Japanese: "


def test_what_was_fine_tuned_is_asked_as_it_was_trained() -> None:
    """The recipes finetune_..., whose templates, pictures and lengths are the original's."""
    prompts = load_prompts("finetuned", list(EVALUATED.values()))
    changed = {
        key: text for key, text in prompts.items() if text != load_prompts("paper", list(EVALUATED.values()))[key]
    }
    two = 'Based on the two images, is it correct to say "{text}"? Yes or no?'
    assert changed == {("nlvr2", "en"): two, **{("marvl", code): two for code in ("id", "sw", "ta", "tr", "zh")}}
    trained = [(task, template.prompt) for task, template in load_templates(("finetuned",)).english()]
    assert trained == [
        ("caption", "Caption the image."),
        ("caption", "Short image caption: "),
        ("caption", "Briefly describe the image."),
        ("caption", "Write a short image description."),
        ("caption", "Summarize the image."),
        ("vqa", "Question: {question} Short answer in {language}:"),
        ("entailment", 'Is it guaranteed true that "{hypothesis}"? Yes, no, or maybe? Answer in {language}:'),
        ("image_pair", 'Based on the two images, is it correct to say "{statement}"? Yes or no?'),
    ]
    rows = [prompt for _, prompt in trained]
    for name in ("xgqa", "xvnli", "marvl", "nlvr2"):
        code = EVALUATED[name].languages[0]
        assert was_seen(prompts[name, code], {"prompts": rows, "complete": True}), name
    recipes = {
        name: load_recipe(TrainRecipe, f"finetune_{name}").data for name in ("gqa", "xvnli", "nlvr2", "flickr30k")
    }
    assert {data.templates for data in recipes.values()} == {("finetuned",)}
    crops = {name: data.crop_scale for name, data in recipes.items()}
    assert crops == {"gqa": (0.5, 1.0), "xvnli": (0.5, 1.0), "nlvr2": (1.0, 1.0), "flickr30k": (0.5, 1.0)}
    lengths = {name: (data.max_prompt_tokens, data.max_answer_tokens) for name, data in recipes.items()}
    assert lengths == {"gqa": (256, 256), "xvnli": (256, 256), "nlvr2": (256, 256), "flickr30k": (128, 128)}
    assert all(data.end_cut_answers for data in recipes.values())


def test_prompts_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "prompts.yaml"
    benchmarks = [EVALUATED["xgqa"], EVALUATED["xm3600"]]
    path.write_text("xgqa: '{text} {{one word}}'\n")
    prompts = load_prompts(str(path), benchmarks)
    assert prompts["xgqa", "de"].format(text="Wo {ist} es?") == "Wo {ist} es? {one word}"
    assert prompts["xm3600", "de"] == "Caption in German: "
    for text, message in (
        ("xgq: '{text}'", "has a prompt for 'xgq', which is not evaluated; did you mean 'xgqa'"),
        ("xgqa: '{question}'", r"has \{question\}; a prompt may contain"),
        ("xgqa: What?", r"xgqa lacks \{text\}"),
        ("xgqa: '{text'", "write {{ for a brace"),
        ("xgqa: [1]", "must have a prompt, a text"),
        ("[", "is not readable YAML"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            load_prompts(str(path), benchmarks)
    with pytest.raises(InputError, match="no prompts 'papers': name paper, original, finetuned or a YAML file"):
        load_prompts("papers", benchmarks)


def test_an_endpoint_is_asked_greedily_for_as_many_tokens() -> None:
    assert OpenAIAnswerer("http://localhost:1/v1", "m", 1).decoding(LONG) == {"temperature": 0, "max_tokens": 256}


def test_the_original_calls_hebrew_hebrew_where_its_evaluation_files_do() -> None:
    """Its training prompts say "former Hebrew", those of XM3600 and MaXM do not."""
    prompts = load_prompts("original", [EVALUATED["xm3600"], EVALUATED["maxm"]])
    assert prompts["xm3600", "iw"] == "Caption in Hebrew: "
    assert prompts["maxm", "iw"] == "Question: {text} Short answer in Hebrew:"
