import torch

from mblip.models.build import build_model
from mblip.nano.scenes import sample_scene
from mblip.nano.words import load_lexicon
from mblip.training.projection import fit_projection
from mblip.training.vision import image_processor, pixels


def test_the_fit_is_the_least_squares_map_to_the_words_of_a_picture() -> None:
    """Against torch's own solver; and what is projected is nearer to the words than from random weights."""
    import numpy as np

    vlm = build_model("nano:nano-blip2-en", "nano:nano-mlm", projection="random", seed=3, dtype=torch.float32)
    lexicon, rng = load_lexicon(), np.random.default_rng(0)
    scenes = [sample_scene(rng, 1 + i % 2, lexicon.concepts[:12]) for i in range(600)]
    answers = [", ".join(scene.concepts) for scene in scenes]
    batches = []
    for start in range(0, 600, 200):
        part = slice(start, start + 200)
        batch = vlm.layout.pairs(["Caption in English:"] * 200, answers[part], [1] * 200)
        images = pixels(scenes[part], image_processor())
        batches.append({**batch, "pixel_values": images, "image_index": torch.arange(200)[:, None]})

    def losses() -> float:
        with torch.no_grad():
            return float(sum(float(vlm(batch)["loss"]) for batch in batches))

    random = losses()
    explained = fit_projection(vlm, batches)
    assert 0.5 < explained < 1 and losses() < random

    with torch.no_grad():
        seen = torch.cat([vlm.query_states(b["pixel_values"]) for b in batches]).mean(1).double()
        table = vlm.model.get_input_embeddings().weight.double()
        rows = vlm.tokenizer(answers, add_special_tokens=False)["input_ids"]
        words = torch.stack([table[row].sum(0) for row in rows]) / vlm.num_query_tokens
    source, target = seen - seen.mean(0), words - words.mean(0)
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
    assert torch.allclose(projection(seen.float()).mean(0).double(), words.mean(0), atol=1e-4)
