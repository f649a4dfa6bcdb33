from pathlib import Path

import pytest
import torch
from tests import checkpoints

from mblip.errors import InputError
from mblip.models.build import build_model
from mblip.models.containers.blip2_eyes import new_image_processor
from mblip.models.vision_llm import VisionLLM
from mblip.nano.scenes import Scene, sample_scene
from mblip.nano.vision import pixels
from mblip.nano.words import load_lexicon
from mblip.training.loop import Batch
from mblip.training.projection import fit_projection, list_places


@pytest.fixture(scope="module")
def vlm() -> VisionLLM:
    return build_model("nano:nano-blip2-en", "nano:nano-mlm", projection="random", seed=3, dtype=torch.float32)


def _batches(vlm: VisionLLM, scenes: list[Scene], answers: list[str]) -> list[Batch]:
    batches = []
    for start in range(0, len(scenes), 200):
        part = slice(start, start + 200)
        texts = answers[part]
        batch = vlm.layout.pairs(["Caption in English:"] * len(texts), texts, [1] * len(texts))
        images = pixels(scenes[part], new_image_processor(64))
        batches.append({**batch, "pixel_values": images, "image_index": torch.arange(len(texts))[:, None]})
    return batches


def test_the_fit_is_the_least_squares_map_from_each_query_to_its_token(vlm: VisionLLM) -> None:
    """Against torch's own solver."""
    import numpy as np

    lexicon, rng = load_lexicon(), np.random.default_rng(0)
    scenes = [sample_scene(rng, 1 + i % 3, lexicon.concepts[:40]) for i in range(600)]
    answers = [", ".join(scene.cells) for scene in scenes]
    batches = _batches(vlm, scenes, answers)
    explained = fit_projection(vlm, batches)
    assert 0.7 < explained < 1

    with torch.no_grad():
        seen = torch.cat(
            [vlm.container.bridge_states(vlm.container.vision_states(batch["pixel_values"])) for batch in batches]
        )
        table = vlm.model.get_input_embeddings().weight.double()
        rows = vlm.tokenizer(answers, add_special_tokens=False)["input_ids"]
        words = torch.cat([table[row] for row in rows])
        states = torch.cat([seen[i, : len(row)] for i, row in enumerate(rows)]).double()
    source, target = states - states.mean(0), words - words.mean(0)
    ridge = (1e-3 * source.var(0, correction=0).mean() * len(source)).sqrt() * torch.eye(
        source.shape[1], dtype=torch.float64
    )
    padded = (
        torch.cat([source, ridge]),
        torch.cat([target, torch.zeros(len(ridge), target.shape[1], dtype=torch.float64)]),
    )
    wanted = torch.linalg.lstsq(*padded).solution
    projection = vlm.model.language_projection
    assert torch.allclose(projection.weight.T.double(), wanted, atol=1e-4)
    assert torch.allclose(projection(states.float()).mean(0).double(), words.mean(0), atol=1e-4)


def test_an_answer_longer_than_the_queries_is_told(vlm: VisionLLM) -> None:
    scene = Scene.from_key("fox@0#1")
    with pytest.raises(InputError, match="an answer has 9 words and commas, but there are 8 queries"):
        fit_projection(vlm, _batches(vlm, [scene], [", ".join(["fox"] * 5)]))


def test_a_word_of_several_tokens_stands_for_their_mean() -> None:
    """And a token that ends in a comma belongs to its word; the comma's query is told nothing."""
    pieces = {1: "red", 2: " app", 3: "le", 4: ",", 5: " -", 6: " -,", 7: " fox"}
    rows = [[0, 1, 2, 3, 4, 5, 4, 7], [0, 1, 6, 6, 7, 4, 5, 0], [0, 7, 0, 0, 0, 0, 0, 0]]
    labels = torch.tensor(rows)
    places = list_places(labels, labels > 0, pieces.__getitem__)
    assert places.tolist() == [[0, 0, 0, 0, 1, 2, 3, 4], [0, 0, 0, 2, 4, 5, 6, 0], [0, 0, 0, 0, 0, 0, 0, 0]]


def test_the_fit_aims_at_what_the_language_model_reads(tmp_path: Path) -> None:
    """The mean of a word's embeddings, with the factor that Gemma gives them."""
    vlm = build_model("nano:nano-blip2-en", checkpoints.llm(tmp_path / "llm", "gemma3"), seed=3, dtype=torch.float32)
    scenes = [Scene.from_key(f"fox@{i % 4}#{i}") for i in range(64)]
    fit_projection(vlm, _batches(vlm, scenes, ["red dog and cat"] * 64))
    ids = vlm.tokenizer("red dog and cat", add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        seen = vlm.container.encode_images(_batches(vlm, scenes, ["a"] * 64)[0]["pixel_values"])[:, 0]
        wanted = vlm.llm.embeddings(ids)[0].mean(0)
    assert ids.shape[1] > 1
    torch.testing.assert_close(seen, wanted.expand_as(seen), rtol=1e-3, atol=1e-3)


def test_no_texts_to_fit_to(vlm: VisionLLM) -> None:
    with pytest.raises(InputError, match="no texts of these tasks"):
        fit_projection(vlm, [])
