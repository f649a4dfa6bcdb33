"""Engines: a small NLLB-layout model through CTranslate2 and transformers, Apertium itself, a local endpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.endpoint_stub import completion, endpoint

from mblip import endpoint as endpoint_module
from mblip import plugins
from mblip.errors import InputError
from mblip.languages import LANGUAGES
from mblip.translation.engines import ENGINES, Untranslated, lacking, open_engine
from mblip.translation.engines.base import collect, stream

TEXTS = ["A dog.", "Two red cats sit on a mat", "a", "The quick brown fox jumps over the lazy dog, 3 times.", "Why?"]


def _save_model(folder: Path, kind: str) -> None:
    import torch
    from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

    torch.manual_seed(0)
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *"▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,?!'-"]
    tokenizer = NllbTokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[])
    config = M2M100Config(
        vocab_size=len(tokenizer), d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, max_position_embeddings=512,
        pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2, init_std=0.3, dropout=0.0,
    )  # fmt: skip
    M2M100ForConditionalGeneration(config).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def nllb(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A checkpoint in NLLB's layout, and the same converted for CTranslate2."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    folder = tmp_path_factory.mktemp("nllb")
    _save_model(folder / "hf", "nllb")
    converter = ctranslate2.converters.TransformersConverter(
        str(folder / "hf"), copy_files=["tokenizer.json", "tokenizer_config.json"]
    )
    converter.convert(str(folder / "ct2"))
    return str(folder / "hf"), str(folder / "ct2")


def test_ctranslate2_and_transformers_agree(nllb: tuple[str, str]) -> None:
    slow: Any = open_engine("transformers", {"model": nllb[0], "device": "cpu"})
    fast = open_engine("ctranslate2", {"model": nllb[1], "device": "cpu", "threads": 1})
    assert slow.name == "transformers hf (float32)" and fast.name == "ctranslate2 ct2 (float32)"
    assert slow.licence == fast.licence == "CC-BY-NC-4.0 (NLLB-200)"
    found = set()
    for language in ("de", "sw", "ja"):
        translations = slow.translate(TEXTS, "en", language)
        assert fast.translate(TEXTS, "en", language) == translations
        assert len(translations) == len(TEXTS)
        found.add(tuple(translations))
    assert len(found) == 3  # the target language is heard
    single = [slow.translate([text], "en", "de")[0] for text in TEXTS]
    assert single == slow.translate(TEXTS, "en", "de")


def test_batches_are_sorted_and_bounded(nllb: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    engine: Any = open_engine("transformers", {"model": nllb[0], "device": "cpu", "batch_tokens": 60})
    sizes: list[tuple[int, int]] = []
    generate = engine._generate

    def recording(rows: list[list[int]], forced: int | None) -> list[str | None]:
        sizes.append((len(rows), max(len(row) for row in rows)))
        return generate(rows, forced)

    monkeypatch.setattr(engine, "_generate", recording)
    assert engine.translate(TEXTS, "en", "de") == open_engine(
        "transformers", {"model": nllb[0], "device": "cpu", "sort": False}
    ).translate(TEXTS, "en", "de")
    assert len(sizes) > 1
    assert all(count * longest <= 60 or count == 1 for count, longest in sizes)
    assert [longest for _, longest in sizes] == sorted(longest for _, longest in sizes)


def test_codes_of_all_languages_are_nllbs_and_madlads(nllb: tuple[str, str]) -> None:
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

    from mblip.translation.engines.seq2seq import Vocabulary

    assert len(FAIRSEQ_LANGUAGE_CODES) == 202
    vocabulary = Vocabulary(nllb[0], "correct")
    assert Vocabulary(nllb[0], "original").token("zh") == "zho_Hant" != vocabulary.token("zh")
    for code, language in LANGUAGES.items():
        assert language.nllb in FAIRSEQ_LANGUAGE_CODES
        assert vocabulary.token(code) == language.nllb
        assert language.madlad == f"<2{language.madlad[2:-1]}>"
    assert len({language.madlad for language in LANGUAGES.values()}) == 96


def test_the_recipes_profile_reaches_the_engine(nllb: tuple[str, str]) -> None:
    from mblip.config import TranslationSection
    from mblip.translation import Translator

    section = TranslationSection(engine="transformers", options={"model": nllb[0], "device": "cpu"})
    plain: Any = Translator(section).engine
    assert plain._vocabulary.token("ku") == "kmr_Latn"
    original: Any = Translator(section, profile="original").engine
    assert original._vocabulary.token("ku") == "ckb_Arab"
    assert Translator(TranslationSection(), profile="original").engine.name.startswith("lexicon")


def save_madlad(folder: Path, embedding: str = "decoder.embed_tokens.weight", spread: float = 1.0) -> None:
    """A checkpoint in MADLAD's layout: words are embedded and predicted by different weights, and there is no shared.weight."""
    import json

    import torch
    from safetensors.torch import load_file, save_file
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    tags = ["<2en>", "<2de>", "<2sw>"]
    pieces = ["<unk>", "<s>", "</s>", *tags, *"▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,?"]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<s>", eos_token="</s>", unk_token="<unk>", extra_special_tokens=tags
    )
    fast.save_pretrained(folder)
    config = T5Config(
        vocab_size=len(fast), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=1, eos_token_id=2,
        decoder_start_token_id=0, feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        initializer_factor=spread,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    model.shared.weight.data.mul_(5.0)  # so that words are told from each other
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    words = weights.pop("shared.weight")
    weights = {name: held for name, held in weights.items() if "embed_tokens" not in name}
    weights |= {embedding: words.clone(), "lm_head.weight": torch.randn_like(words)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    held = json.loads((folder / "config.json").read_text())
    held.pop("scale_decoder_outputs", None)
    (folder / "config.json").write_text(json.dumps({**held, "tie_word_embeddings": False}))  # as Google's says


def test_madlad_marks_the_target_in_the_text(tmp_path: Path) -> None:
    save_madlad(tmp_path, spread=5.0)  # so that the tag is heard
    engine: Any = open_engine("transformers", {"model": str(tmp_path), "device": "cpu", "max_tokens": 20})
    assert engine.licence.startswith("Apache-2.0")
    row = engine._vocabulary.encode(["A dog."], "en", "sw")[0]
    assert engine._vocabulary.tokenizer.convert_ids_to_tokens(row)[0] == "<2sw>"
    assert engine.translate(["A dog."], "en", "ja") == [None]
    assert engine.translate(["A dog."], "en", "de") != engine.translate(["A dog."], "en", "sw")


@pytest.mark.parametrize("embedding", ["decoder.embed_tokens.weight", "encoder.embed_tokens.weight", "shared.weight"])
def test_a_t5_embeds_words_by_the_checkpoints_weights_wherever_they_stand(tmp_path: Path, embedding: str) -> None:
    from safetensors.torch import load_file

    save_madlad(tmp_path, embedding)
    weights = load_file(tmp_path / "model.safetensors")
    engine: Any = open_engine("transformers", {"model": str(tmp_path), "device": "cpu"})
    model = engine._model
    for part in (model.shared, model.encoder.embed_tokens, model.decoder.embed_tokens):
        assert part.weight.equal(weights[embedding])
    assert model.lm_head.weight.equal(weights["lm_head.weight"])


def test_words_that_were_loaded_as_the_output_head_are_mended(tmp_path: Path) -> None:
    """As transformers 5.17 loads Google's MADLAD, whichever half it gets wrong."""
    from torch import nn
    from transformers import T5ForConditionalGeneration

    from mblip.translation.engines.seq2seq import share_words

    save_madlad(tmp_path)
    for wrong in ("encoder", "decoder"):
        model: Any = T5ForConditionalGeneration.from_pretrained(tmp_path)
        share_words(model)
        words, head = model.shared.weight.clone(), model.lm_head.weight
        getattr(model, wrong).embed_tokens.weight = nn.Parameter(head.detach().clone())
        model.shared.weight = nn.Parameter(head.detach().clone())
        share_words(model)
        for part in (model.shared, model.encoder.embed_tokens, model.decoder.embed_tokens):
            assert part.weight.equal(words)
        assert model.lm_head.weight.equal(head)


def test_models_that_are_none(tmp_path: Path, nllb: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=r"not a CTranslate2 model .*mblip data engine nllb-1.3b --to"):
        open_engine("ctranslate2", {"model": nllb[0]})
    with pytest.raises(InputError, match="holds no tokeniser"):
        open_engine("transformers", {"model": str(tmp_path)})
    with pytest.raises(InputError, match="option 'beams'"):
        open_engine("ctranslate2", {"model": nllb[1], "beams": "many"})


def test_apertium_really_translates(apertium: str) -> None:
    engine: Any = open_engine("apertium", {})
    spanish = engine.translate(["A dog and a red apple.", "Two cats", "A dog\nand a cat"], "en", "es")
    assert spanish == ["Un perro y una manzana roja.", "Dos gatos", "Un perro y un gato"]
    assert engine.translate(["Hund"], "en", "de") == [None]  # no such pair
    assert engine.translate(["xyzzy qwrt plugh"], "en", "es") == [None]
    assert engine.translate(["A dog on the xyzzy"], "en", "es") == ["Un perro en el xyzzy"]
    assert engine.translate([], "en", "es") == []


@pytest.mark.parametrize(("at_a_time", "calls"), [(None, [64, 64, 2]), (100, [100, 30]), (1000, [130])])
def test_an_engine_says_how_many_texts_it_takes(at_a_time: int | None, calls: list[int]) -> None:
    class Counting:
        name, licence = "counting", ""

        def __init__(self) -> None:
            self.calls: list[int] = []
            if at_a_time:
                self.at_a_time = at_a_time

        def translate(self, texts: Sequence[str], source: str, target: str) -> list[str | None]:
            self.calls.append(len(texts))
            return [text.upper() for text in texts]

    engine: Any = Counting()
    texts = [f"text {number}" for number in range(130)]
    assert collect(stream(engine, texts, "en", "es"), 130) == [text.upper() for text in texts]
    assert engine.calls == calls


def test_apertium_directions() -> None:
    from mblip.translation.engines.apertium import _modes

    assert _modes("eng-spa eng-spa_US en-eo spa-arg cat-eng eo-en-bytecode") == {
        ("en", "es"): "eng-spa", ("en", "eo"): "en-eo", ("ca", "en"): "cat-eng",
    }  # fmt: skip


def test_apertium_that_is_not_installed() -> None:
    with pytest.raises(InputError, match="no program 'apertium-none'; apt-get install"):
        open_engine("apertium", {"program": "apertium-none"})


def test_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "_WAITS", (0.001, 0.001))
    monkeypatch.setenv("MY_KEY", "secret")
    lock = threading.Lock()
    first: set[str] = set()

    def answer(body: dict[str, Any], number: int) -> Any:
        text = body["messages"][1]["content"]
        with lock:
            again = text in first
            first.add(text)
        return f" {text.upper()} " if again or text == "two" else (429, b"", {})

    with endpoint(answer) as stub:
        options = {"url": stub.url, "model": "m", "key_variable": "MY_KEY", "extra_body": {"max_tokens": 9}}
        assert open_engine("openai", options).translate(["one", "two", "  "], "en", "sw") == ["ONE", "TWO", None]
    assert {(row["path"], row["headers"]["Authorization"], row["model"], row["temperature"], row["max_tokens"])
            for row in stub.requests} == {("/v1/chat/completions", "Bearer secret", "m", 0, 9)}  # fmt: skip
    assert "from English to Swahili" in stub.requests[0]["messages"][0]["content"]
    assert len(stub.requests) == 5


def test_endpoint_that_refuses_one_text_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "_WAITS", (0.001, 0.001))
    answers: dict[str, Any] = {
        "filtered": (400, b'{"error": {"message": "The response was filtered."}}', {}), "strange": (200, b'{"x": 1}', {}),
        "broken": b"", "down": (503, b"busy", {}), "key": (401, b"", {}), "cut": (200, completion("Moja mb", "length"), {}),
        "nasty": "I'm sorry, but I can't help with that.", "a big dog in the house": "The dog is in the house.",
    }  # fmt: skip
    with endpoint(lambda body, _: answers.get(body["messages"][1]["content"], "Sawa.")) as stub:
        engine: Any = open_engine("openai", {"url": stub.url, "model": "m"})
        texts = ["fine", "filtered", "strange", "broken", "down", "cut", "nasty", "a big dog in the house"]
        assert engine.translate(texts, "en", "sw") == [
            "Sawa.", Untranslated("refused by the endpoint", "HTTP 400: The response was filtered."),
            Untranslated("broken answer", '{"x": 1}', True),
            Untranslated("broken answer", "RemoteDisconnected: Remote end closed connection without response", True),
            Untranslated("no answer from the endpoint", "HTTP 503: busy", True), Untranslated("cut off", "Moja mb"),
            Untranslated("refused", "I'm sorry, but I can't help with that."),
            Untranslated("source language", "The dog is in the house."),
        ]  # fmt: skip
        with pytest.raises(InputError, match="answered HTTP 401"):
            engine.translate(["fine", "key"], "en", "sw")
        assert engine.translate(["fine"], "en", "sw") == ["Sawa."]
    with pytest.raises(InputError, match="variable MBLIP_NO_SUCH"):
        open_engine("openai", {"url": stub.url, "model": "m", "key_variable": "MBLIP_NO_SUCH"})
    with pytest.raises(InputError, match="must be an http"):
        open_engine("openai", {"url": "localhost:8000", "model": "m"})
    with pytest.raises(InputError, match="option 'extra_body'"):
        open_engine("openai", {"url": stub.url, "model": "m", "extra_body": [1]})


def test_one_slow_request_holds_up_no_other() -> None:
    def answer(body: dict[str, Any], _: int) -> str:
        if body["messages"][1]["content"] == "0":
            time.sleep(1.0)
        return body["messages"][1]["content"] + "!"

    with endpoint(answer) as stub:
        engine: Any = open_engine("openai", {"url": stub.url, "model": "m", "requests": 2})
        found = list(engine.stream([str(n) for n in range(12)], "en", "sw", {3, 4}))
    assert found[-1] == (0, "0!") and sorted(found) == [(n, f"{n}!") for n in range(12) if n not in (3, 4)]


def test_a_row_too_long_costs_itself_alone(nllb: tuple[str, str]) -> None:
    long = "shop " * 400
    slow: Any = open_engine("transformers", {"model": nllb[0], "device": "cpu", "max_tokens": 8})
    fast = open_engine("ctranslate2", {"model": nllb[1], "device": "cpu", "threads": 1, "max_tokens": 8})
    for engine in (slow, fast):
        alone = engine.translate(["A dog.", "Why?"], "en", "de")
        found = engine.translate(["A dog.", long, "Why?", long + "s"], "en", "de")
        assert [found[0], found[2]] == alone
        assert all(isinstance(row, Untranslated) and row.reason == "no translation" for row in (found[1], found[3]))
        assert all("512" in getattr(row, "detail", "") for row in (found[1], found[3]))


def test_an_output_that_reaches_the_limit_is_cut_off(nllb: tuple[str, str]) -> None:
    slow: Any = open_engine("transformers", {"model": nllb[0], "device": "cpu", "max_tokens": 5})
    fast = open_engine("ctranslate2", {"model": nllb[1], "device": "cpu", "threads": 1, "max_tokens": 5})
    for engine in (slow, fast):
        [found] = engine.translate(["The quick brown fox jumps over the lazy dog."], "en", "de")
        assert isinstance(found, Untranslated) and found.reason == "cut off"
    decode, end = slow._vocabulary.decode, slow._vocabulary.tokenizer.eos_token_id
    assert (
        decode([end, 10, 11, end], 4, 4) == decode([10, 11, end], 4, 4) == decode([end, 10, 11, end, 1], 4, 4) == "fg"
    )
    assert decode([end], 4, 4) is None
    assert decode([end, *[10] * 300], 4, 300) == "f" * 300  # a loop, which the filters see


def test_batches_do_not_depend_on_what_is_done(nllb: tuple[str, str]) -> None:
    texts = [f"{'word ' * (n % 7)}number {n}" for n in range(40)]
    for name, model in zip(("transformers", "ctranslate2"), nllb, strict=True):
        engine: Any = open_engine(name, {"model": model, "device": "cpu", "max_tokens": 6, "batch_tokens": 200})
        whole = list(engine.stream(texts, "en", "de"))
        assert sorted(number for number, _ in whole) == list(range(40))
        done = {number for number, _ in whole[:25]}
        rest = list(engine.stream(texts, "en", "de", done))
        assert whole[-len(rest) :] == rest and {n for n, _ in rest} | done == set(range(40)) and len(rest) < 40


def test_languages_that_an_engine_lacks(nllb: tuple[str, str], apertium: str) -> None:
    for name, model in zip(("transformers", "ctranslate2"), nllb, strict=True):
        assert lacking(name, {"model": model}, ["de", "sw"]) == []
        assert lacking(name, {}, ["de"]) == []  # opening it says what is missing
    assert lacking("lexicon", {}, ["de", "ceb", "sw"]) == ["ceb"]
    assert lacking("apertium", {}, ["es", "sw"]) == ["sw"]
    assert lacking("openai", {"url": "http://x", "model": "m"}, ["sw"]) == []


_SCRIPT = """#!/bin/sh
if [ "$1" = -l ]; then echo eng-spa; exit; fi
while IFS= read -r line; do
  case "$line" in
    *hang*) sleep 1000 | cat;;
    *fail*) echo "no such rule" >&2; exit 3;;
    *swallow*) ;;
    *) echo "es $line";;
  esac
done
"""


def test_apertium_that_hangs_or_fails_on_one_text(tmp_path: Path) -> None:
    program = tmp_path / "apertium-slow"
    program.write_text(_SCRIPT)
    program.chmod(0o755)
    engine: Any = open_engine("apertium", {"program": str(program), "timeout": 0.5})
    started = time.monotonic()
    found = engine.translate(["one", "hang up", "two", "fail it", "three", "swallow"], "en", "es")
    assert time.monotonic() - started < 8
    assert found == [
        "es one", Untranslated("no translation", "no answer within 0.5 s"), "es two",
        Untranslated("no translation", "no such rule"), "es three", None,
    ]  # fmt: skip


def test_every_engine_is_tested() -> None:
    assert ENGINES == ("apertium", "ctranslate2", "openai", "transformers")
    assert set(plugins.engines) == {*ENGINES, "lexicon"}  # whose tests are with the nano world's
