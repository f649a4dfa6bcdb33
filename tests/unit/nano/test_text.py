import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mblip.config import load_recipe
from mblip.nano.recipe_kinds import PhaseSection, TextRecipe
from mblip.nano.text import (
    PROMPTS,
    TextWorld,
    build_language_model,
    build_tokenizer,
    encode_pairs,
    sample_candidates,
    text_loss,
)
from mblip.nano.words import load_lexicon
from mblip.training.run import train

LOG = Path(__file__).parents[2] / "golden" / "nano_mlm.jsonl"


@pytest.mark.parametrize("vocabulary", ["names", "subword"])
def test_every_text_survives_the_tokeniser(vocabulary: str) -> None:
    world = TextWorld(("en", "de", "th", "sw", "zh"))
    tokenizer = build_tokenizer(world, vocabulary, 600)
    rng = np.random.default_rng(0)
    phase = PhaseSection(steps=1, tasks={"naming": 1}, max_objects=4)
    for task in PROMPTS:
        for _ in range(30):
            for text in world.draw(rng, task, phase):
                assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert tokenizer.decode(tokenizer("Ünseen 字 word")["input_ids"], skip_special_tokens=True) == "Ünseen 字 word"


def test_with_names_each_name_is_one_piece() -> None:
    world = TextWorld(("en", "th"))
    tokenizer = build_tokenizer(world, "names", 0)
    for concept in load_lexicon().concepts:
        assert len(tokenizer(concept, add_special_tokens=False)["input_ids"]) == 1


def test_candidates_hold_every_target() -> None:
    world = TextWorld(("en", "de"))
    tokenizer = build_tokenizer(world, "names", 0)
    rng = np.random.default_rng(0)
    phase = PhaseSection(steps=1, tasks={"naming": 1}, max_objects=3)
    batch = encode_pairs(tokenizer, [world.draw(rng, "caption", phase) for _ in range(20)])
    wanted = batch["labels"][batch["labels"] != -100]
    sample_candidates(batch, rng, len(tokenizer), 64)
    assert torch.equal(batch["candidates"][batch["targets"]], wanted)


def test_a_phase_can_keep_to_some_languages() -> None:
    world = TextWorld(("en", "de", "th"))
    rng = np.random.default_rng(0)
    alone = PhaseSection(steps=1, tasks={"presence": 1}, languages=("en",), english_share=0.0)
    pairs = [world.draw(rng, task, alone) for task in ("presence", "caption", "naming") for _ in range(20)]
    english = {load_lexicon().name(concept, "en") for concept in load_lexicon().concepts} | {"yes", "no"}
    assert all(set(answer.split(", ")) <= english for _, answer in pairs)
    assert all("German" not in source and "Thai" not in source for source, _ in pairs)


def test_an_untrained_model_finds_a_word_among_those_told() -> None:
    world = TextWorld(("en",))
    tokenizer = build_tokenizer(world, "names", 0)
    recipe = TextRecipe(title="t", languages=("en",), phases=(PhaseSection(steps=1, tasks={"naming": 1}),))
    model = build_language_model(recipe, world, tokenizer).eval()
    a, b, c, d, e = (
        tokenizer(concept, add_special_tokens=False)["input_ids"][0] for concept in load_lexicon().concepts[:5]
    )
    states = model.encoder.block[0].layer[0].layer_norm(model.shared(torch.tensor([a, b, c, d, e, b])))
    attention = model.encoder.block[0].layer[0].SelfAttention
    width = model.config.d_kv
    for head in range(1, model.config.num_heads, 2):
        rows = slice(head * width, (head + 1) * width)
        scores = (states @ attention.q.weight[rows].T) @ (states @ attention.k.weight[rows].T).T
        assert int(scores[-1, :5].argmax()) == 1
        assert scores[-1, 1] > scores[-1, [0, 2, 3, 4]].max() + 2


def test_a_tiny_model_learns_its_words(tmp_path: Path) -> None:
    recipe = TextRecipe(
        title="t", languages=("en", "de"), width=32, feed_forward=64, encoder_layers=1, decoder_layers=1, batch=64,
        phases=(PhaseSection(steps=150, tasks={"naming": 1}, languages=("en",)),), lr=1e-2, word_lr=1e-2, warmup_steps=5,
        log_every=10,
    )  # fmt: skip
    last = train(recipe, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert last["loss"] < 0.8 * rows[0]["loss"]
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert train(recipe, tmp_path) == last  # finished: nothing is done again


@pytest.mark.slow
def test_the_shipped_recipe_meets_its_log(tmp_path: Path) -> None:
    recipe = load_recipe(TextRecipe, "nano/mlm")
    logged = [json.loads(line) for line in LOG.read_text().splitlines()]
    rows: list[dict[str, float]] = []

    class Enough(Exception):
        pass

    def told(row: Any) -> None:
        rows.append(row)
        if row["step"] >= logged[-1]["step"]:
            raise Enough

    from mblip.nano.text import train_text

    with pytest.raises(Enough):
        train_text(recipe, tmp_path, told)
    assert [row["step"] for row in rows] == [row["step"] for row in logged]
    for row, expected in zip(rows, logged, strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=0.02)


def test_the_loss_over_all_pieces_is_the_stock_one(tmp_path: Path) -> None:
    world = TextWorld(("en", "de"))
    tokenizer = build_tokenizer(world, "names", 0)
    recipe = TextRecipe(
        title="t", languages=("en", "de"), width=32, phases=(PhaseSection(steps=1, tasks={"naming": 1}),)
    )
    model = build_language_model(recipe, world, tokenizer).eval()
    rng = np.random.default_rng(1)
    batch = encode_pairs(tokenizer, [world.draw(rng, "naming", recipe.phases[0]) for _ in range(8)])
    ours = text_loss(model, batch)
    stock = model(**batch).loss
    assert float((ours["loss_sum"] / ours["tokens"]).detach()) == pytest.approx(float(stock.detach()), rel=1e-5)
