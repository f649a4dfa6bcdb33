"""Balancing captions by noun phrases, found by a real spaCy tagger and parser trained here."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mblip.config import DataRecipe, SourceSection
from mblip.corpora import read_source, web_capfilt
from mblip.corpora.web_capfilt import _draw, load_pipeline, noun_phrases, url_key
from mblip.errors import InputError
from mblip.schema import Example

NOUNS = ["dog", "cat", "boat", "house", "tree", "woman", "man", "car"]
COLOURS = ["red", "green", "old", "small"]
# Word, tag, universal tag, dependency, head within "the COLOUR NOUN on a NOUN".
PATTERN = [
    ("the", "DT", "DET", "det", 2), ("?", "JJ", "ADJ", "amod", 2), ("?", "NN", "NOUN", "ROOT", 2),
    ("on", "IN", "ADP", "prep", 2), ("a", "DT", "DET", "det", 5), ("?", "NN", "NOUN", "pobj", 3),
]  # fmt: skip


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> str:
    spacy = pytest.importorskip("spacy")
    from spacy.tokens import Doc
    from spacy.training import Example as Training

    spacy.util.fix_random_seed(1)
    nlp = spacy.blank("en")
    for name in ("tok2vec", "tagger", "parser"):
        nlp.add_pipe(name)
    draw = random.Random(0)
    examples = []
    for _ in range(150):
        words = [word for word, *_ in PATTERN]
        words[1], words[2], words[5] = draw.choice(COLOURS), draw.choice(NOUNS), draw.choice(NOUNS)
        annotations = {
            "tags": [tag for _, tag, *_ in PATTERN], "deps": [p[3] for p in PATTERN], "heads": [p[4] for p in PATTERN],
            "sent_starts": [True] + [False] * 5,
        }  # fmt: skip
        examples.append(Training.from_dict(Doc(nlp.vocab, words=words), annotations))
    nlp.initialize(lambda: examples)
    for _ in range(4):
        for start in range(0, len(examples), 25):
            nlp.update(examples[start : start + 25])
    ruler = nlp.add_pipe("attribute_ruler")
    for _, tag, pos, _, _ in PATTERN:
        ruler.add([[{"TAG": tag}]], {"POS": pos})
    folder = tmp_path_factory.mktemp("spacy") / "tiny"
    nlp.to_disk(folder)
    return str(folder)


def test_noun_phrases_without_stop_words(pipeline: str) -> None:
    nlp = load_pipeline(pipeline)
    assert noun_phrases(nlp("the Red dog on a boat")) == {"red dog", "boat"}
    assert noun_phrases(nlp("")) == set()


def _read(path: Path, **options: Any) -> list[Any]:
    source = SourceSection(name="web", reader="web_capfilt", options={"path": str(path)} | options)
    return list(read_source(DataRecipe(title="t", sources=(source,)), source))


def test_frequent_phrases_are_cut_down_and_rare_ones_left_out(pipeline: str, tmp_path: Path) -> None:
    captions = ["the red dog on a boat"] * 200 + ["the old cat on a tree"] * 12 + ["the small house on a car"] * 9
    random.Random(1).shuffle(captions)
    path = tmp_path / "ccs.json"
    path.write_text(json.dumps([{"caption": c, "url": f"http://x.org/{n}"} for n, c in enumerate(captions)]))
    examples = _read(path, pipeline=pipeline, seed=5)
    counts = Counter(example.texts["caption"] for example in examples)
    # "red dog" and "boat" draw 30 captions each, from the same 200; "old cat" and "tree" take all their 12.
    assert 30 <= counts["the red dog on a boat"] <= 60
    assert counts["the old cat on a tree"] == 12
    assert counts["the small house on a car"] == 0
    assert all(captions[int(e.id.partition("/")[2]) - 1] == e.texts["caption"] for e in examples)
    assert _read(path, pipeline=pipeline, seed=5) == examples
    assert _read(path, pipeline=pipeline, seed=6) != examples
    assert len(_read(path, most=0)) == 221


def test_stopped_balancing_keeps_the_phrases_and_every_process_draws_the_same(
    pipeline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(3)
    captions = [f"the {draw.choice(COLOURS)} {draw.choice(NOUNS)} on a {draw.choice(NOUNS)}" for _ in range(900)]
    path = tmp_path / "ccs.json"
    path.write_text(json.dumps([{"caption": c, "url": f"http://x.org/{n}"} for n, c in enumerate(captions)]))
    monkeypatch.setattr(web_capfilt, "_BLOCK", 250)
    whole = web_capfilt.balance(path, pipeline, 10, 3, 1, 0)
    assert 0 < whole.sum() < 500
    parsed: list[int] = []
    find = web_capfilt._phrases

    def stopped(documents: Any, first: int) -> Any:
        parsed.append(first)
        if len(parsed) == 3:
            raise KeyboardInterrupt
        return find(documents, first)

    monkeypatch.setattr(web_capfilt, "_phrases", stopped)
    with pytest.raises(KeyboardInterrupt):
        web_capfilt.balance(path, pipeline, 10, 3, 1, 0, tmp_path / "scratch")
    again = web_capfilt.balance(path, pipeline, 10, 3, 1, 0, tmp_path / "scratch")
    assert parsed == [0, 250, 500, 500, 750] and (again == whole).all()
    code = "import sys; from pathlib import Path; from mblip.corpora.web_capfilt import balance; "
    code += "print(balance(Path(sys.argv[1]), sys.argv[2], 10, 3, 1, 0).nonzero()[0].tolist())"
    command = [sys.executable, "-c", code, str(path), pipeline]
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    other = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    assert json.loads(other) == whole.nonzero()[0].tolist()


def test_draw_takes_most_of_each_phrase_and_none_of_rare_ones() -> None:
    draw = random.Random(0)
    pairs = [
        (phrase, caption)
        for phrase, count in ((11, 9), (12, 10), (13, 500))
        for caption in draw.sample(range(1000), count)
    ]
    draw.shuffle(pairs)
    array = np.array(pairs, np.uint64)
    chosen = set(_draw(array, 10, 30, np.random.default_rng(0)).tolist())
    by_phrase = {phrase: {c for p, c in pairs if p == phrase} for phrase in (11, 12, 13)}
    assert by_phrase[12] <= chosen
    assert len(chosen - by_phrase[12]) <= 30 and chosen <= by_phrase[12] | by_phrase[13]
    spread = [len(_draw(array, 10, 30, np.random.default_rng(seed))) for seed in range(5)]
    assert spread == [40] * 5


def test_image_keys(tmp_path: Path) -> None:
    path = tmp_path / "ccs.json"
    path.write_text(
        json.dumps([{"caption": "a", "url": "http://x.org/é.jpg"}, {"caption": "b", "url": "u", "jpg": "7.jpg"}])
    )
    first, second = _read(path, most=0)
    assert isinstance(first, Example) and first.images == (url_key("http://x.org/é.jpg"),)
    assert first.images[0][:2] == first.images[0][3:5] and len(first.images[0]) == 23
    assert second.images == ("7.jpg",)


def test_missing_or_unfit_pipeline_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "ccs.json"
    path.write_text("[]")
    with pytest.raises(InputError, match="no spaCy pipeline 'en_core_web_none'; run python -m spacy download"):
        _read(path, pipeline="en_core_web_none")
    spacy = pytest.importorskip("spacy")
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(InputError, match="has no parser"):
        _read(path, pipeline=str(tmp_path / "blank"))
