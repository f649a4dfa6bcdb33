"""Engines: a small NLLB-layout model through CTranslate2 and transformers, Apertium itself, a local endpoint."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from mblip.errors import InputError
from mblip.languages import LANGUAGES
from mblip.translation.engines import ENGINES, open_engine, openai

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
    slow = open_engine("transformers", {"model": nllb[0], "device": "cpu"})
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
    engine = open_engine("transformers", {"model": nllb[0], "device": "cpu", "batch_tokens": 60})
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
    assert Translator(section).engine._vocabulary.token("ku") == "kmr_Latn"
    assert Translator(section, profile="original").engine._vocabulary.token("ku") == "ckb_Arab"
    assert Translator(TranslationSection(), profile="original").engine.name.startswith("lexicon")


def test_madlad_marks_the_target_in_the_text(tmp_path: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    pieces = [
        "<pad>",
        "</s>",
        "<unk>",
        "<2en>",
        "<2de>",
        "<2sw>",
        *"▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,?",
    ]
    tokenizer = Tokenizer(models.Unigram([(piece, -1.0) for piece in pieces], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens=["<2en>", "<2de>", "<2sw>"],
    )  # fmt: skip
    fast.save_pretrained(tmp_path)
    config = T5Config(
        vocab_size=len(fast), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0, initializer_factor=5.0,
    )  # fmt: skip
    T5ForConditionalGeneration(config).eval().save_pretrained(tmp_path)
    engine = open_engine("transformers", {"model": str(tmp_path), "device": "cpu"})
    assert engine.licence.startswith("Apache-2.0")
    row = engine._vocabulary.encode(["A dog."], "en", "sw")[0]
    assert fast.convert_ids_to_tokens(row)[0] == "<2sw>"
    assert engine.translate(["A dog."], "en", "ja") == [None]
    assert engine.translate(["A dog."], "en", "de") != engine.translate(["A dog."], "en", "sw")


def test_models_that_are_none(tmp_path: Path, nllb: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=r"no CTranslate2 model .*ct2-transformers-converter"):
        open_engine("ctranslate2", {"model": nllb[0]})
    with pytest.raises(InputError, match="holds no tokeniser"):
        open_engine("transformers", {"model": str(tmp_path)})
    with pytest.raises(InputError, match="option 'beams'"):
        open_engine("ctranslate2", {"model": nllb[1], "beams": "many"})


def test_apertium_really_translates(apertium: str) -> None:
    engine = open_engine("apertium", {})
    spanish = engine.translate(["A dog and a red apple.", "Two cats", "A dog\nand a cat"], "en", "es")
    assert spanish == ["Un perro y una manzana roja.", "Dos gatos", "Un perro y un gato"]
    assert engine.translate(["Hund"], "en", "de") == [None]  # no such pair
    assert engine.translate(["xyzzy qwrt plugh"], "en", "es") == [None]
    assert engine.translate(["A dog on the xyzzy"], "en", "es") == ["Un perro en el xyzzy"]
    assert engine.translate([], "en", "es") == []


def test_apertium_directions() -> None:
    from mblip.translation.engines.apertium import _modes

    assert _modes("eng-spa eng-spa_US en-eo spa-arg cat-eng eo-en-bytecode") == {
        ("en", "es"): "eng-spa", ("en", "eo"): "en-eo", ("ca", "en"): "cat-eng",
    }  # fmt: skip


def test_apertium_that_is_not_installed() -> None:
    with pytest.raises(InputError, match="no program 'apertium-none'; apt-get install"):
        open_engine("apertium", {"program": "apertium-none"})


class _Endpoint(BaseHTTPRequestHandler):
    requests: ClassVar[list[dict]] = []
    fail = 0

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append(body | {"path": self.path, "key": self.headers["Authorization"]})
        text = body["messages"][1]["content"]
        if type(self).fail:
            type(self).fail -= 1
            self.send_error(429)
            return
        if text == "refuse":
            self.send_error(401)
            return
        reply = {"choices": [{"message": {"content": f" {text.upper()} "}}]} if text != "strange" else {"x": 1}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(openai, "_WAITS", (0.0, 0.0))
    monkeypatch.setattr(_Endpoint, "requests", [])
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def test_endpoint(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    engine = open_engine("openai", {"url": endpoint, "model": "m", "key_variable": "MY_KEY"})
    monkeypatch.setattr(_Endpoint, "fail", 2)
    assert engine.translate(["one", "two", "  "], "en", "sw") == ["ONE", "TWO", None]
    sent = _Endpoint.requests
    assert {(row["path"], row["key"], row["model"], row["temperature"]) for row in sent} == {
        ("/v1/chat/completions", "Bearer secret", "m", 0)
    }
    assert "from English to Swahili" in sent[0]["messages"][0]["content"]
    assert len(sent) == 5


def test_endpoint_that_refuses(endpoint: str) -> None:
    engine = open_engine("openai", {"url": endpoint, "model": "m"})
    with pytest.raises(InputError, match="answered HTTP 401"):
        engine.translate(["refuse"], "en", "sw")
    with pytest.raises(InputError, match="does not answer as an OpenAI-compatible endpoint"):
        engine.translate(["strange"], "en", "sw")
    with pytest.raises(InputError, match="variable MBLIP_NO_SUCH"):
        open_engine("openai", {"url": endpoint, "model": "m", "key_variable": "MBLIP_NO_SUCH"})
    with pytest.raises(InputError, match="must be an http"):
        open_engine("openai", {"url": "localhost:8000", "model": "m"})


def test_every_engine_is_tested() -> None:
    assert ENGINES == ("apertium", "ctranslate2", "lexicon", "openai", "transformers")
