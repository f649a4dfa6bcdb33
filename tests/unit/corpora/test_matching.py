"""Matching examples: near captions at the asked ranks, by vectors from elsewhere and by real CLIP and SigLIP models."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mblip.config import DataRecipe, SourceSection
from mblip.corpora import read_source, sample_sources
from mblip.corpora.neighbours import embed, find_neighbours, match_captions
from mblip.errors import InputError
from mblip.schema import Example
from mblip.storage import open_images

ROWS = 400


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions of 400 images, every tenth saying the same."""
    folder = tmp_path_factory.mktemp("captions")
    (folder / "images").mkdir()
    rows = []
    for number in range(ROWS):
        Image.new("RGB", (20, 16), (number % 256, number // 2, 90)).save(folder / "images" / f"{number}.png")
        rows.append({"image": f"{number}.png", "text": "a common sight" if number % 10 == 0 else f"thing {number}"})
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"image": "image", "caption": "text"}
    options = {"path": str(folder / "own.jsonl"), "columns": columns, "task": "caption", "licence": "CC0-1.0"}
    source = SourceSection(name="own", reader="table", options=options)
    sample_sources(DataRecipe(title="t", sources=(source,)), folder / "work")
    return folder / "work/english/own"


def _read(**options: Any) -> list[Any]:
    options = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    source = SourceSection(name="m", reader="matching", options=options)
    return list(read_source(DataRecipe(title="t", sources=(source,)), source))


def _texts() -> list[str]:
    return ["a common sight" if number % 10 == 0 else f"thing {number}" for number in range(ROWS)]


def _circle() -> np.ndarray:
    """Vectors of which number n + k is the k-th nearest to number n on one side (a slowly turning pointer)."""
    angles = np.arange(ROWS) * 2e-3
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_neighbours_at_ranks_leave_out_equal_captions() -> None:
    texts = _texts()
    vectors = _circle()
    found = find_neighbours(vectors * 5, vectors, texts, [1, 2, 3, 300, 390])
    order = np.argsort(-(vectors @ vectors.T), axis=1, kind="stable")
    for row in range(ROWS):
        seen, others = {texts[row]}, []
        for number in order[row]:
            if texts[number] not in seen and texts.index(texts[number]) == number:
                seen.add(texts[number])
                others.append(number)
        similarity = vectors[row] @ vectors.T
        for column, rank in enumerate([1, 2, 3, 300]):
            assert similarity[found[row, column]] == pytest.approx(similarity[others[rank - 1]], abs=1e-6)
            assert texts[found[row, column]] != texts[row]
    assert (found[:, 4] == -1).all()  # only 361 different captions


def test_approximate_index_and_bad_input() -> None:
    vectors = _circle()
    exact = find_neighbours(vectors, vectors, _texts(), [1])
    near = find_neighbours(vectors, vectors, _texts(), [1], index="IVF4,Flat")
    assert np.mean(exact == near) > 0.8
    with pytest.raises(InputError, match="faiss knows no index 'Flatt'"):
        find_neighbours(vectors, vectors, _texts(), [1], index="Flatt")
    with pytest.raises(InputError, match="do not match"):
        find_neighbours(vectors[:-1], vectors, _texts(), [1])


def test_half_is_true_and_wrong_captions_come_equally_from_every_rank(captions: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", _circle())
    files = (tmp_path / "v.npy", tmp_path / "v.npy")
    found = match_captions(captions, tmp_path / "near.npy", ranks="3,10,30", vectors=files)
    texts = _texts()
    origin: Counter[str] = Counter()
    for seed in range(8):
        for example in _read(captions=captions, neighbours=tmp_path / "near.npy", seed=seed):
            row = int(example.id.partition("/")[2])
            assert example.images == (f"{row}.png",) and example.licence == "CC0-1.0"
            caption = example.texts["caption"]
            assert (example.texts["answer"] == "yes") == (caption == texts[row])
            ranks = [texts[number] for number in found[row]]
            origin[
                "true" if caption == texts[row] else str(ranks.index(caption)) if caption in ranks else "random"
            ] += 1
    assert origin.total() == 8 * ROWS
    assert 0.46 < origin["true"] / origin.total() < 0.54
    for kind in ("0", "1", "2", "random"):
        assert 0.2 < origin[kind] / (origin.total() - origin["true"]) < 0.3


def test_neighbours_as_the_original_finds_them() -> None:
    """By the distance of vectors as long as they come, each caption counting, the image's own too."""
    texts = _texts()
    lengths = 1 + 0.5 * np.sin(np.arange(ROWS))[:, None]
    images, vectors = _circle(), (_circle() * lengths).astype(np.float32)
    found = find_neighbours(images, vectors, texts, [1, 3, 10, 300], original=True)
    distances = ((images[:, None] - vectors[None]) ** 2).sum(-1)
    ranked = np.sort(distances, axis=1)
    for column, rank in enumerate([1, 3, 10, 300]):
        there = distances[np.arange(ROWS), found[:, column]]
        assert there == pytest.approx(ranked[:, rank - 1], abs=1e-5)
    own = [texts[number] == texts[row] for row in range(ROWS) for number in found[row]]
    assert any(own)
    ours = find_neighbours(images, vectors, texts, [1, 3, 10, 300])
    assert not any(number >= 0 and texts[number] == texts[row] for row in range(ROWS) for number in ours[row])
    assert not np.array_equal(found, ours)


def test_matching_as_the_original_draws_it(captions: Path, tmp_path: Path) -> None:
    near = np.tile(np.arange(ROWS, dtype=np.int32)[:, None], (1, 2))  # an image's own caption is at both ranks
    near[:, 1] = (near[:, 1] + 7) % ROWS
    np.save(tmp_path / "near.npy", near)
    texts, kinds = _texts(), Counter[str]()
    for seed in range(6):
        rows = _read(captions=captions, neighbours=tmp_path / "near.npy", seed=seed, draw="original")
        assert [row.texts["answer"] for row in rows] == ["yes"] * 125 + ["no"] * 125 + ["yes"] * 125 + ["no"] * 25
        for number, row in enumerate(rows):
            caption = row.texts["caption"]
            if row.texts["answer"] == "yes":
                assert caption == texts[number]
            else:
                kinds[
                    "own" if caption == texts[number] else "near" if caption == texts[near[number, 1]] else "random"
                ] += 1
    assert kinds.total() == 6 * 150
    assert all(0.25 < kinds[kind] / kinds.total() < 0.45 for kind in ("own", "near", "random"))
    with pytest.raises(InputError, match="draw"):
        _read(captions=captions, draw="originally")


def test_ranges(captions: Path, tmp_path: Path) -> None:
    assert len(_read(captions=captions, start=100, count=50)) == 50
    with pytest.raises(InputError, match="holds 400 examples, not 300 to 500"):
        _read(captions=captions, start=300, count=200)
    np.save(tmp_path / "near.npy", np.zeros((50, 2), np.int32))
    with pytest.raises(InputError, match="for another range"):
        _read(captions=captions, neighbours=tmp_path / "near.npy")
    assert _read(captions=captions, seed=1) == _read(captions=captions, seed=1) != _read(captions=captions, seed=2)
    assert all(isinstance(example, Example) for example in _read(captions=captions))


def _save_clip(folder: Path) -> None:
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(0)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    CLIPTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[]).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {"vocab_size": len(tokens), "max_position_embeddings": 20, "bos_token_id": 0, "eos_token_id": 1}
    vision = sizes | {"image_size": 16, "patch_size": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)


def _save_siglip(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    torch.manual_seed(0)
    vocab = {token: number for number, token in enumerate(["<pad>", "</s>", "<unk>", "thing", "a", "common", "sight"])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>").save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = sizes | {"vocab_size": len(vocab), "max_position_embeddings": 8, "projection_size": 16}
    SiglipModel(
        SiglipConfig(text_config=text, vision_config=sizes | {"image_size": 16, "patch_size": 8})
    ).save_pretrained(folder)


@pytest.mark.parametrize("save", [_save_clip, _save_siglip])
def test_real_models_embed_images_and_texts(captions: Path, tmp_path: Path, save: Any) -> None:
    save(tmp_path / "model")
    store = open_images(captions.parents[2] / "images")
    rows = [(f"{number}.png", text) for number, text in enumerate(_texts())][:150]
    images, texts = embed(str(tmp_path / "model"), rows, store, tmp_path / "vectors", device="cpu", batch=40)
    assert images.shape == texts.shape == (150, 8 if save is _save_clip else 16)
    alone = embed(str(tmp_path / "model"), rows[7:8], store, tmp_path / "alone", device="cpu")
    np.testing.assert_allclose(alone[0][0], images[7], atol=1e-5)
    np.testing.assert_allclose(alone[1][0], texts[7], atol=1e-5)
    assert np.abs(images[7] - images[90]).max() > 1e-4
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "vectors").iterdir()}
    embed(str(tmp_path / "model"), rows, store, tmp_path / "vectors", device="cpu")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "vectors").iterdir()} == before


def test_what_cannot_be_matched(captions: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="name a model and an image store"):
        match_captions(captions, tmp_path / "near.npy")
    with pytest.raises(InputError, match="integers from 1"):
        match_captions(captions, tmp_path / "near.npy", ranks="3,x")
    with pytest.raises(InputError, match="not a CLIP or SigLIP checkpoint"):
        match_captions(captions, tmp_path / "near.npy", model=str(tmp_path), store=str(tmp_path))
    (tmp_path / "v.npy").write_text("no")
    with pytest.raises(InputError, match="not a readable"):
        match_captions(captions, tmp_path / "near.npy", vectors=(tmp_path / "v.npy", tmp_path / "v.npy"))
    assert not (tmp_path / "near.npy").exists()


def test_images_that_were_not_fetched_have_no_neighbours(captions: Path, tmp_path: Path) -> None:
    """A fifth of the web's addresses is dead; that must not stop the others."""
    _save_clip(tmp_path / "model")
    images = tmp_path / "images"
    images.mkdir()
    for number in range(0, ROWS, 2):
        (images / f"{number}.png").write_bytes((captions.parents[2] / "images" / f"{number}.png").read_bytes())
    (images / "0.png").write_bytes(b"")
    options: dict[str, Any] = {"model": str(tmp_path / "model"), "ranks": "1,2"}
    found = match_captions(captions, tmp_path / "near.npy", store=str(images), **options)
    assert (found[1::2] == -1).all() and (found[0] == -1).all() and (found[2::2] >= 0).all()
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"none of the 400 images can be read, such as '0\.png'"):
        match_captions(captions, tmp_path / "none.npy", store=str(tmp_path / "nothing"), **options)
    assert not (tmp_path / "none.npy").exists()
