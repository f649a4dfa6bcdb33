"""What decides an answer is in a model's identity or its decoding; a change of any of it is another run, and is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import checkpoints
from tests.unit.evaluation.models import vipllava as build_vipllava

from mblip.errors import InputError
from mblip.evaluation.answerers import Answerer, load_answerer
from mblip.evaluation.answerers.identity import asked_for, effective
from mblip.evaluation.benchmark import SHORT_ANSWER
from mblip.evaluation.keeping import keep_run
from mblip.evaluation.results import FORMAT, RUN, Run, read_run, write_run


@pytest.fixture(scope="module")
def vipllava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_vipllava(tmp_path_factory.mktemp("vipllava"))


def described(answerer: Answerer) -> Run:
    how = {"pope": {"decoding": answerer.decoding(SHORT_ANSWER)}}
    return Run("m", answerer.kind, answerer.identity, decoding=how)


def edit(file: str, **values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / file
        held = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**held, **values}))

    return change


def system_prompt(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text("You are a pirate. " + path.read_text())


def image_setting(folder: Path) -> None:
    path = folder / "processor_config.json"
    held = json.loads(path.read_text())
    held["image_processor"]["image_mean"] = [0.1, 0.2, 0.3]
    path.write_text(json.dumps(held))


def another_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    held = json.loads(path.read_text())
    held["normalizer"] = {"type": "Lowercase"}
    path.write_text(json.dumps(held))


OF_VIPLLAVA: dict[str, tuple[Callable[[Path], None], str]] = {
    "system prompt": (system_prompt, "chat template"),
    "repetition penalty": (
        edit("generation_config.json", repetition_penalty=1.3), "decoding of pope, decoding, repetition_penalty None, not 1.3"
    ),
    "no repeats": (edit("generation_config.json", no_repeat_ngram_size=2), "no_repeat_ngram_size None, not 2"),
    "suppressed tokens": (edit("generation_config.json", suppress_tokens=[5, 6]), "suppress_tokens None"),
    "picture": (image_setting, "image processor"),
    "tokeniser": (another_token, "tokenizer"),
    "patches of the prompt": (edit("processor_config.json", patch_size=8), "processor "),
    "layer that is read": (edit("config.json", vision_feature_layer=-2), "configuration"),
}  # fmt: skip


@pytest.mark.parametrize("what", OF_VIPLLAVA)
def test_what_decides_the_answers_of_a_model_of_hugging_face(vipllava: Path, tmp_path: Path, what: str) -> None:
    change, name = OF_VIPLLAVA[what]
    other = shutil.copytree(vipllava, tmp_path / "other")
    keep_run(tmp_path / "out", described(load_answerer(str(vipllava))))
    keep_run(tmp_path / "out", described(load_answerer(str(other))))  # the same in another folder is the same
    change(other)
    with pytest.raises(InputError, match=f"holds an evaluation with .*{name}.*; name another folder with --to"):
        keep_run(tmp_path / "out", described(load_answerer(str(other))))


def test_settings_that_decide_nothing_are_no_change(vipllava: Path, tmp_path: Path) -> None:
    other = shutil.copytree(vipllava, tmp_path / "other")
    keep_run(tmp_path / "out", described(load_answerer(str(vipllava))))
    edit("generation_config.json", transformers_version="4.0", temperature=0.3, do_sample=True, max_length=999)(other)
    edit("config.json", transformers_version="4.0")(other)
    keep_run(tmp_path / "out", described(load_answerer(str(other))))


@pytest.mark.parametrize(("dtype", "name"), [("bf16", "dtype"), ("", "")])
def test_precision_is_named(vipllava: Path, tmp_path: Path, dtype: str, name: str) -> None:
    keep_run(tmp_path, described(load_answerer(str(vipllava))))
    if not name:
        keep_run(tmp_path, described(load_answerer(str(vipllava), dtype=dtype)))
        return
    with pytest.raises(InputError, match=f"holds an evaluation with {name} 'float32', not 'bfloat16'"):
        keep_run(tmp_path, described(load_answerer(str(vipllava), dtype=dtype)))


def test_the_image_backend_is_named_and_chosen(vipllava: Path, tmp_path: Path) -> None:
    ours = load_answerer(str(checkpoints.blip2(tmp_path / "ours")))
    assert load_answerer(str(vipllava)).identity["image backend"] == "pil (CLIPImageProcessorPil)"
    assert ours.identity["image backend"] == "pil (BlipImageProcessorPil)"


@pytest.mark.parametrize(
    ("name", "value"), [("repetition_penalty", 1.5), ("no_repeat_ngram_size", 3), ("bad_words_ids", [[3]])]
)
def test_what_the_language_model_of_ours_would_decode_with_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    from mblip.models import load_vision_llm

    keep_run(tmp_path / "out", described(load_answerer("nano:nano-blip2-en")))
    vlm = load_vision_llm("nano:nano-blip2-en")
    setattr(vlm.language_model.generation_config, name, value)
    monkeypatch.setattr("mblip.evaluation.answerers.mblip.load_vision_llm", lambda *_, **__: vlm)
    with pytest.raises(InputError, match=f"decoding of pope, decoding, {name} None, not"):
        keep_run(tmp_path / "out", described(load_answerer("nano:nano-blip2-en")))


def test_parts_of_our_models_are_named(tmp_path: Path) -> None:
    folder = checkpoints.blip2(tmp_path / "a")
    keep_run(tmp_path / "out", described(load_answerer(str(folder))))
    path = next(
        folder / name for name in ("processor_config.json", "preprocessor_config.json") if (folder / name).exists()
    )
    text = path.read_text()
    for number, wrong in (("0.48145466", "0.5"), ("0.26862954", "0.3")):
        if number in text:
            path.write_text(text.replace(number, wrong))
            with pytest.raises(InputError, match="holds an evaluation with image processor"):
                keep_run(tmp_path / "out", described(load_answerer(str(folder))))
            break
    else:
        pytest.fail("no setting of the image processor was changed")


def test_an_inherited_setting_decodes_as_it_is_told(vipllava: Path, tmp_path: Path) -> None:
    """What a checkpoint inherits is written down, but not passed a second time; a benchmark's own wish wins."""
    from transformers import GenerationConfig

    config = GenerationConfig(repetition_penalty=1.3, do_sample=True, temperature=0.5, length_penalty=2.0, max_length=9)
    decoding = effective(config, SHORT_ANSWER)
    assert decoding == {**SHORT_ANSWER, "repetition_penalty": 1.3, "do_sample": False}
    assert asked_for(config, decoding) == {**SHORT_ANSWER, "do_sample": False}


def test_another_benchmark_joins_and_a_changed_decoding_does_not(tmp_path: Path) -> None:
    run = Run("m", "mblip", {"dtype": "float32"}, decoding={"pope": {"decoding": {"num_beams": 5}}})
    keep_run(tmp_path, run)
    keep_run(tmp_path, Run("m", "mblip", {"dtype": "float32"}, decoding={"xgqa": {"decoding": {"num_beams": 5}}}))
    assert read_run(tmp_path).decoding.keys() == {"pope", "xgqa"}
    with pytest.raises(InputError, match="decoding of xgqa, decoding, num_beams 5, not 1"):
        keep_run(tmp_path, Run("m", "mblip", {"dtype": "float32"}, decoding={"xgqa": {"decoding": {"num_beams": 1}}}))


def test_a_run_of_before_is_read_but_not_continued(tmp_path: Path) -> None:
    write_run(tmp_path, Run("m", "mblip", {}))
    data = json.loads((tmp_path / RUN).read_text())
    del data["decoding"]
    (tmp_path / RUN).write_text(json.dumps({**data, "format": 1}))
    assert read_run(tmp_path).format == 1 != FORMAT
    with pytest.raises(
        InputError,
        match=r"by an older version, which did not record everything that affects an answer .* cannot be continued; name",
    ):
        keep_run(tmp_path, Run("m", "mblip", {}))
