"""Measure which words a language model knows without a picture: an upper bound for naming what it sees.

A model that never read the Yoruba word for a fox cannot name a fox in Yoruba, however well it sees. So the language
model is asked for the same words in text, with greedy decoding as for pictures: the prompt gives three words of the
language with their English names, then asks for a fourth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mblip.languages import LANGUAGES
from mblip.models.checkpoint import fingerprint
from mblip.models.locate import locate_language_model
from mblip.models.reading import load_language_model
from mblip.nano.benchmark import SceneItem, load_items
from mblip.nano.scenes import Scene
from mblip.nano.scores import with_interval
from mblip.nano.words import load_lexicon
from mblip.storage import write_json

LINE = "The word for {concept} in {language} is {word}."
EXAMPLES = 3
BATCH = 64
_LONGEST = 16  # tokens of an answer


def ask_words(
    llm: str, languages: Sequence[str], file: Path, scenes: int, held_out: float, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """The share of words that a language model knows, by language, with its interval; ``all`` is the mean over languages.

    It asks for the words of the pairs never shown; in a language without such pairs (English), for those shown.

    Args:
        llm: The language model, as in ``model.llm``.
        languages: mC4 codes of the languages to ask in.
        file: File of the answers; words answered there are not asked for again.
        scenes: Number of words in each language.
        held_out: See :func:`~mblip.nano.benchmark.load_items`.
        say: Called with progress messages.

    Raises:
        InputError: The language model cannot be loaded.
    """
    asked: dict[str, list[SceneItem]] = {}
    for language in languages:
        items = load_items([language], scenes, ("naming_never_shown",), held_out)
        asked[language] = items or load_items([language], scenes, ("naming",), held_out)
    folder = locate_language_model(llm)
    model_id = fingerprint(folder)
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    held: dict[str, str] = kept["answers"] if kept.get("llm") == model_id else {}
    prompts = dict.fromkeys(write_prompt(item) for items in asked.values() for item in items)
    missing = sorted((prompt for prompt in prompts if prompt not in held), key=len)  # less padding
    if missing:
        model, tokenizer = load_language_model(folder, "bf16")
    for start in range(0, len(missing), BATCH):
        say(f"asking {Path(llm).name} for words alone, {start} of {len(missing)}")
        batch = missing[start : start + BATCH]
        held |= dict(zip(batch, _complete(model.eval(), tokenizer, batch), strict=True))
        write_json(file, {"llm": model_id, "answers": held})
    rights = {code: [held[write_prompt(item)] == item.reference for item in items] for code, items in asked.items()}
    rng = np.random.default_rng(0)
    cells = {code: np.array([row], dtype=float) for code, row in rights.items()}
    found = {code: with_interval([cell], rng) for code, cell in cells.items()}
    return {"all": with_interval(list(cells.values()), rng), **found}


def write_prompt(item: SceneItem) -> str:
    """Three examples and the question in the item's language; no example is the word that is asked for."""
    lexicon, name = load_lexicon(), LANGUAGES[item.language].name
    asked = Scene.from_key(item.image).concepts[0]
    named = [c for c in lexicon.concepts if lexicon.name(c, item.language) and c != asked]
    rng = np.random.default_rng([len(asked), list(LANGUAGES).index(item.language)])
    chosen = [named[number] for number in rng.choice(len(named), EXAMPLES, replace=False)]
    lines = [LINE.format(concept=c, language=name, word=lexicon.name(c, item.language)) for c in chosen]
    return "\n".join([*lines, LINE.format(concept=asked, language=name, word="").rstrip(" .")])


def _complete(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[str]:
    """Complete each prompt up to the end of the line, without the full stop."""
    tokenizer.padding_side = "left"
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    rows = tokenizer(list(prompts), return_tensors="pt", padding=True)
    with torch.no_grad():
        ids = model.generate(
            input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], max_new_tokens=_LONGEST,
            do_sample=False, num_beams=1, pad_token_id=pad,
        )  # fmt: skip
    new = ids if model.config.is_encoder_decoder else ids[:, rows["input_ids"].shape[1] :]
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    return [text.strip().split("\n")[0].strip().rstrip(".。").strip() for text in texts]
