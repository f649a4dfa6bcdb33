"""What decoder-only models of the original count as the answer: penalties see nothing else, and it follows glued or apart.

Small weights are made here; nothing of the original is needed. What was equal to the original's own code on equal small
weights is in docs/differences.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import checkpoints
from torch import Tensor

from mblip.config import ModelSection, OptimSection, TrainRecipe
from mblip.errors import InputError
from mblip.models import VisionLLM, build_model, load_vision_llm, save_run
from mblip.models.export import export
from mblip.models.generation import Generator, Request
from mblip.models.language_model import CausalLanguageModel
from mblip.models.prepare import prepare_model
from mblip.models.runs import read_description
from mblip.models.scoring import score_candidates

PICTURES = {str(i): np.random.default_rng(i).integers(0, 255, (40, 30, 3), dtype=np.uint8) for i in range(3)}
# Words of the prompts are likely answers too, so that a penalty on the prompt is seen.
REQUESTS = [
    Request("a", ("0",), "Question: what is in the house? Short answer in English:"),
    Request("b", ("1",), "Caption in German:"),
    Request("c", ("2",), "a dog a dog and the red house and the red tree is"),
    Request("d", ("0", "1"), "is there a dog and a cat"),
    Request("e", ("1",), ""),
]
DECODERS = ["bloom", "llama", "opt", "qwen3", "gemma3"]


@pytest.fixture(scope="module", params=DECODERS)
def decoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VisionLLM:
    return load_vision_llm(
        checkpoints.blip2(tmp_path_factory.mktemp(request.param) / "model", request.param), dtype="fp32"
    )


def embedded(vlm: VisionLLM, request: Request) -> tuple[Tensor, Tensor]:
    batch = vlm.layout.prompts([request.prompt], [len(request.images)])
    index = torch.arange(len(request.images))[None]
    features = vlm.encode([PICTURES[key] for key in request.images])
    return vlm.embed(batch["input_ids"], features, index), batch["attention_mask"]


def causal(vlm: VisionLLM) -> CausalLanguageModel:
    assert isinstance(vlm.llm, CausalLanguageModel)
    return vlm.llm


def by_hand(vlm: VisionLLM, request: Request, penalty: float, tokens: int) -> list[int]:
    """Greedy decoding written out: a token of the answer so far has its logit divided, or multiplied where negative."""
    rows, mask = embedded(vlm, request)
    ends = vlm.language_model.generation_config.eos_token_id
    answer: list[int] = []
    with torch.no_grad():
        while len(answer) < tokens:
            logits = vlm.llm.logits(causal(vlm).hidden_states(rows, mask)[0, -1:])[0]
            for token in set(answer):
                logits[token] = logits[token] / penalty if logits[token] > 0 else logits[token] * penalty
            answer.append(int(logits.argmax()))
            if answer[-1] in np.atleast_1d(ends):
                break
            rows = torch.cat([rows, vlm.model.get_input_embeddings()(torch.tensor([[answer[-1]]]))], 1)
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return answer


def answers(vlm: VisionLLM, requests: list[Request], **generation: Any) -> dict[str, str]:
    made = Generator(vlm, PICTURES.__getitem__, max_new_tokens=8, **generation)
    return dict(zip([request.id for request in requests], made.texts(requests), strict=True))


@pytest.mark.parametrize("penalty", [1.0, 1.3, 1.5, 5.0, 0.7])
def test_a_penalty_counts_the_answer_alone(decoder: VisionLLM, penalty: float) -> None:
    together = answers(decoder, REQUESTS, repetition_penalty=penalty)
    for request in REQUESTS:
        wanted = decoder.decode(torch.tensor([by_hand(decoder, request, penalty, 8)]))[0]
        assert together[request.id] == wanted == answers(decoder, [request], repetition_penalty=penalty)[request.id]
    assert len(set(together.values())) > 3


@pytest.mark.parametrize(
    "generation",
    [{"num_beams": 5, "repetition_penalty": 1.5}, {"no_repeat_ngram_size": 2}, {"num_beams": 3, "min_new_tokens": 3},
     {"num_beams": 5, "repetition_penalty": 1.5, "length_penalty": -1.0}],
    ids=str,
)  # fmt: skip
def test_batches_equal_singles_and_streams(decoder: VisionLLM, generation: dict[str, Any]) -> None:
    together = answers(decoder, REQUESTS, **generation)
    for request in REQUESTS:
        assert answers(decoder, [request], **generation)[request.id] == together[request.id]
    pieces = Generator(decoder, PICTURES.__getitem__, max_new_tokens=8, **generation).stream(REQUESTS[0])
    assert "".join(pieces) == together["a"]


@pytest.mark.parametrize("family", ["bloom", "llama", "gemma3"])
def test_the_stock_class_counts_the_prompt_too(family: str, tmp_path: Path) -> None:
    """Where this fails one day, the stock class has changed, and docs/differences.md is to say so."""
    decoder = load_vision_llm(checkpoints.blip2(tmp_path / "model", family), dtype="fp32")
    differ = 0
    for request in REQUESTS[:3]:
        batch = decoder.layout.prompts([request.prompt], [1])
        pixels = decoder.pixels([PICTURES[key] for key in request.images])
        with torch.no_grad():
            ids = decoder.model.generate(
                pixel_values=pixels, **batch, repetition_penalty=5.0, max_new_tokens=8, do_sample=False
            )[:, batch["input_ids"].shape[1] :]
        differ += decoder.decode(ids)[0] != answers(decoder, [request], repetition_penalty=5.0)[request.id]
    assert differ


def targets(vlm: VisionLLM) -> list[int]:
    return vlm.layout.targets(["a:"], ["dog"])[0]


def apart(vlm: VisionLLM) -> list[int]:
    return [*vlm.tokenizer(" dog", add_special_tokens=False)["input_ids"], vlm.layout.end_token_id]


def glued(vlm: VisionLLM) -> list[int]:
    return [*vlm.tokenizer("dog", add_special_tokens=False)["input_ids"], vlm.layout.end_token_id]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return checkpoints.published(tmp_path / "published", "bloom")


@pytest.fixture
def parts(tmp_path: Path) -> tuple[Path, Path]:
    return checkpoints.blip2(tmp_path / "eyes", "t5"), checkpoints.llm(tmp_path / "llm", "bloom")


def test_the_published_checkpoint_has_its_answers_glued(published: Path, tmp_path: Path) -> None:
    vlm = load_vision_llm(published, dtype="fp32")
    assert vlm.layout.separator == ""
    assert targets(vlm) == glued(vlm) != apart(vlm)
    save_run(vlm, tmp_path / "run")
    export(vlm, tmp_path / "stock")
    assert json.loads((tmp_path / "run" / "mblip.json").read_text())["answer_separator"] == ""
    assert json.loads((tmp_path / "stock" / "config.json").read_text())["answer_separator"] == ""
    for folder in (tmp_path / "run", tmp_path / "stock"):
        again = load_vision_llm(folder, dtype="fp32")
        assert targets(again) == glued(again)


def test_choices_and_losses_are_those_of_glued_answers(published: Path) -> None:
    """What is scored is what was trained: the log-probability of the prompt's tokens followed by the answer's own."""
    vlm = load_vision_llm(published, dtype="fp32")
    rows, _ = embedded(vlm, REQUESTS[0])
    scores = score_candidates(vlm, PICTURES["0"], REQUESTS[0].prompt, ["yes", "no"])
    for answer, score in zip(["yes", "no"], scores, strict=True):
        ids = [*vlm.tokenizer(answer, add_special_tokens=False)["input_ids"], vlm.layout.end_token_id]
        words = vlm.model.get_input_embeddings()(torch.tensor([ids[:-1]]))
        with torch.no_grad():
            mask = torch.ones(1, rows.shape[1] + len(ids) - 1).long()
            states = causal(vlm).hidden_states(torch.cat([rows, words], 1), mask)
            logits = vlm.llm.logits(states[0, rows.shape[1] - 1 :])
        wanted = float(logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum())
        assert score == pytest.approx(wanted, rel=1e-4)
    vlm.model.config.answer_separator = " "
    vlm.__dict__.pop("_without_template", None)  # made once, with the separator of then
    assert score_candidates(vlm, PICTURES["0"], REQUESTS[0].prompt, ["yes", "no"]) != pytest.approx(scores, rel=1e-3)


def test_a_new_alignment_keeps_the_blank(parts: tuple[Path, Path], tmp_path: Path) -> None:
    vlm = build_model(*parts, dtype="fp32")
    assert vlm.layout.separator == " "
    assert targets(vlm) == apart(vlm)
    save_run(vlm, tmp_path / "run")
    assert read_description(tmp_path / "run").answer_separator == " "
    assert targets(load_vision_llm(tmp_path / "run")) == apart(vlm)


def test_a_run_that_does_not_say_was_trained_here_with_a_blank(published: Path, tmp_path: Path) -> None:
    """Also on the published checkpoint, which is not itself so."""
    save_run(load_vision_llm(published, dtype="fp32"), tmp_path / "run")
    file = tmp_path / "run" / "mblip.json"
    told = json.loads(file.read_text())
    del told["answer_separator"]
    file.write_text(json.dumps(told))
    vlm = load_vision_llm(tmp_path / "run")
    assert targets(vlm) == apart(vlm)


@pytest.mark.parametrize("separator", ["", " "])
def test_a_recipe_may_name_it(separator: str, parts: tuple[Path, Path], tmp_path: Path) -> None:
    section = ModelSection(vision=str(parts[0]), llm=str(parts[1]), answer_separator=separator)
    vlm = prepare_model(
        TrainRecipe(
            title="trial",
            stage="align",
            precision="fp32",
            model=section,
            optim=OptimSection(steps=1, global_batch=1, micro_batch=1, lr=1e-4),
        )
    )
    assert targets(vlm) == (apart(vlm) if separator else glued(vlm))
    save_run(vlm, tmp_path / "run")
    assert load_vision_llm(tmp_path / "run").layout.separator == separator


def test_an_encoder_decoder_has_none(tmp_path: Path) -> None:
    vlm = load_vision_llm(checkpoints.published(tmp_path / "model", "mt5"), dtype="fp32")
    save_run(vlm, tmp_path / "run")
    assert read_description(tmp_path / "run").answer_separator is None
    assert targets(vlm) == glued(vlm)
    section = ModelSection(run=str(tmp_path / "run"), answer_separator=" ")
    with pytest.raises(InputError, match="is for decoder-only models"):
        prepare_model(
            TrainRecipe(
                title="trial",
                stage="finetune",
                precision="fp32",
                model=section,
                optim=OptimSection(steps=1, global_batch=1, micro_batch=1, lr=1e-4),
            )
        )


@pytest.mark.parametrize("value", ["\n", 1, ["a"], "::", True])
def test_a_damaged_separator_is_told(value: Any, published: Path, tmp_path: Path) -> None:
    save_run(load_vision_llm(published, dtype="fp32"), tmp_path / "run")
    file = tmp_path / "run" / "mblip.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "answer_separator": value}))
    with pytest.raises(InputError, match="answer_separator"):
        load_vision_llm(tmp_path / "run")
