"""The token that a text begins with, before the images or after them."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests import checkpoints

from mblip.config import TrainRecipe, load_recipe
from mblip.errors import InputError
from mblip.models import load_vision_llm, save_run
from mblip.models.export import export_model
from mblip.models.prepare import prepare_model
from mblip.nano.scenes import Scene, render

PICTURES = [render(Scene.from_key(f"{name}@0#1")) for name in ("fox", "tulip")]
PROMPTS = ["what is red", "two dog", "is there a cat"]


def recipe(llm: Path | str, *overrides: str) -> TrainRecipe:
    fields = (f"model.llm={llm}", "model.fit_words=[]", "parts.llm=frozen", *overrides)
    return load_recipe(TrainRecipe, "nano/align", fields)


@pytest.mark.parametrize("family", ["llama", "gemma3", "bloom"])
def test_it_stands_first_where_the_recipe_says_so(family: str, tmp_path: Path) -> None:
    llm = checkpoints.llm(tmp_path / "llm", family)
    usual, first = (prepare_model(recipe(llm, *more)).layout for more in ((), ("model.start_token=first",)))
    image, starts = [usual.image_token_id] * usual.queries, int(family != "bloom")
    for counts in ([1], [2], [0]):
        row = usual.tokenizer(PROMPTS[0])["input_ids"]
        assert usual.prompts(PROMPTS[:1], counts)["input_ids"].tolist() == [image * counts[0] + row]
        wanted = row[:starts] + image * counts[0] + row[starts:]
        assert first.prompts(PROMPTS[:1], counts)["input_ids"].tolist() == [wanted]
        rows = first.pairs(PROMPTS[:1], ["Hund"], counts)
        assert rows["input_ids"][0, : len(wanted)].tolist() == wanted
        assert (rows["labels"][0, : len(wanted)] == -100).all()


def test_a_run_keeps_it_and_the_speedups_agree_with_the_plain_path(tmp_path: Path) -> None:
    llm = checkpoints.llm(tmp_path / "llm", "llama")
    both = {}
    for name in ("after_images", "first"):
        vlm = prepare_model(recipe(llm, f"model.start_token={name}", "speedups=[packed_rows,shared_prefix]"))
        assert {"packed_rows", "shared_prefix"} <= set(vlm.speedups)
        batch = vlm.layout.pairs(PROMPTS, ["Hund", "rot Haus", "ja"], [1, 1, 1])
        batch |= {"pixel_values": vlm.pixels(PICTURES), "image_index": torch.tensor([[0], [0], [1]])}
        packed = vlm(batch)["loss"].item()
        vlm.speedups.clear() if hasattr(vlm.speedups, "clear") else setattr(vlm, "speedups", ())
        both[name] = vlm(batch)["loss"].item()
        assert packed == pytest.approx(both[name], abs=1e-5)
        save_run(vlm, tmp_path / name)
        again = load_vision_llm(tmp_path / name, dtype=torch.float32)
        assert again(batch)["loss"].item() == pytest.approx(both[name], abs=1e-5)
        rows = again.layout.prompts(PROMPTS, [1, 1, 1])["input_ids"]
        assert torch.equal(rows, vlm.layout.prompts(PROMPTS, [1, 1, 1])["input_ids"])
        images, asked = [PICTURES[0]] * 3, {"max_new_tokens": 5, "do_sample": False}
        assert again.generate(images, PROMPTS, **asked) == vlm.eval().generate(images, PROMPTS, **asked)
    assert both["first"] != pytest.approx(both["after_images"], abs=1e-3)
    export_model(tmp_path / "first", tmp_path / "exported")
    assert json.loads((tmp_path / "exported" / "config.json").read_text())["start_token"] == "first"
    assert torch.equal(load_vision_llm(tmp_path / "exported").layout.prompts(PROMPTS, [1, 1, 1])["input_ids"], rows)
    card = (tmp_path / "exported" / "README.md").read_text()
    assert 'ids = inputs["input_ids"]' in card and "before the image" in card


def test_the_card_of_an_export_gives_stock_code_the_same_rows(tmp_path: Path) -> None:
    from transformers import AutoProcessor

    vlm = prepare_model(recipe(checkpoints.llm(tmp_path / "llm", "llama"), "model.start_token=first"))
    save_run(vlm, tmp_path / "run")
    export_model(tmp_path / "run", tmp_path / "exported")
    processor = AutoProcessor.from_pretrained(tmp_path / "exported", backend="pil")
    card = (tmp_path / "exported" / "README.md").read_text()
    told = [line for line in card.splitlines() if line.startswith(("ids =", 'inputs["input_ids"]'))]
    inputs = processor(images=PICTURES[0], text=PROMPTS[0], return_tensors="pt")
    exec("\n".join(["import torch", *told]), {"inputs": inputs})
    assert torch.equal(inputs["input_ids"], vlm.layout.prompts(PROMPTS[:1], [1])["input_ids"])


def test_it_is_refused_where_it_means_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model.start_token is for decoder-only models"):
        prepare_model(recipe(checkpoints.llm(tmp_path / "mt5", "mt5"), "model.start_token=first"))


@pytest.mark.parametrize(
    ("family", "overrides"), [("llama", ("model.start_token=first",)), ("llama", ()), ("t5", ())], ids=str
)
def test_the_code_of_a_card_prints_the_answer_alone(
    family: str, overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = prepare_model(recipe(checkpoints.llm(tmp_path / "llm", family), *overrides))
    save_run(vlm, tmp_path / "run")
    export_model(tmp_path / "run", tmp_path / "exported")
    monkeypatch.chdir(tmp_path / "exported")
    PICTURES[0].save("photo.jpg")
    code = Path("README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]
    prompt = code.partition('text="')[2].partition('"')[0]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    with Image.open("photo.jpg") as photo:
        [answer] = vlm.generate([photo], [prompt], num_beams=5, max_new_tokens=50)
    assert prompt and printed.getvalue().strip() == answer.strip()
