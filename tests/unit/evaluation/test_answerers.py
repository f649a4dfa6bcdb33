"""Models under evaluation: ours, a tiny LLaVA through its chat template, an endpoint on the loopback."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests import checkpoints
from tests.unit.evaluation.models import vipllava as build_vipllava

from mblip.errors import InputError, RemoteError
from mblip.evaluation.answerers import NoAnswer, RequestGroup, load_answerer, openai
from mblip.evaluation.benchmark import SHORT_ANSWER
from mblip.models.generation import Request
from mblip.models.scoring import score_candidates
from mblip.storage import UnreadableImage

PICTURES = {"r": Image.new("RGB", (50, 40), "red"), "b": Image.new("RGB", (40, 50), "blue")}
REQUESTS = [
    Request("1", ("r",), "what is on the house"),
    Request("2", ("b",), "how many"),
    Request("3", ("r", "b"), "is there a dog"),
    Request("4", ("b",), "what is on the house"),
]


def answers(answerer: Any, requests: list[Request] = REQUESTS) -> dict[str, Any]:
    found = list(answerer.answers([RequestGroup(requests, answerer.decoding(SHORT_ANSWER))], PICTURES.__getitem__))
    assert len(found) == len(requests)
    return {request.id: answer for request, answer in found}


@pytest.fixture(scope="module")
def vipllava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_vipllava(tmp_path_factory.mktemp("vipllava"))


def test_any_model_of_hugging_face_through_its_chat_template(vipllava: Path) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    answerer = load_answerer(str(vipllava), batch_size=3)
    assert answerer.kind == "huggingface" and len(answerer.identity["fingerprint"]) == 64
    found = answers(answerer)
    assert len(set(found.values())) == 4  # the picture and the question both matter
    # The same question in stock code, alone and unpadded.
    processor, model = (
        AutoProcessor.from_pretrained(vipllava, backend="pil"),
        AutoModelForImageTextToText.from_pretrained(vipllava),
    )
    inputs = processor(
        images=[PICTURES["r"]], text="USER: <image> what is on the house ASSISTANT:", return_tensors="pt"
    )
    with torch.no_grad():
        ids = model.generate(**inputs, **SHORT_ANSWER, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    assert found["1"] == processor.tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip()
    assert answers(load_answerer(str(vipllava), batch_size=1)) == found


def test_models_that_cannot_be_asked(vipllava: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot score candidates, only mblip's models can"):
        list(load_answerer(str(vipllava)).choices(REQUESTS, PICTURES.__getitem__, ("yes", "no")))
    with pytest.raises(InputError, match="unknown precision 'fp8'"):
        load_answerer(str(vipllava), dtype="fp8")
    with pytest.raises(InputError, match="quantise it first"):
        load_answerer(str(vipllava), quantization="int8")
    with pytest.raises(InputError, match="does not load as an image-text-to-text model"):
        load_answerer(str(checkpoints.llm(tmp_path / "llm", "llama")))
    with pytest.raises(InputError, match="there is no checkpoint folder"):
        load_answerer("./nowhere")
    silent = tmp_path / "silent"
    silent.mkdir()
    for path in vipllava.iterdir():
        if path.name != "chat_template.jinja":
            (silent / path.name).write_bytes(path.read_bytes())
    bare = load_answerer(str(silent))
    with pytest.raises(InputError, match=r"has no chat template and cannot use the prompt alone .* add chat_template"):
        answers(bare, REQUESTS[:1])
    assert "no chat template, so it takes one picture per prompt, not 2" in bare.refusal(
        REQUESTS[2], PICTURES.__getitem__
    )
    assert bare.refusal(REQUESTS[0], PICTURES.__getitem__) == ""


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_model_without_chat_template_gets_the_prompt_as_it_is(tmp_path: Path, family: str) -> None:
    """An InstructBLIP with random weights: its processor puts the image's tokens in, and reads the prompt a second time."""
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForImageTextToText,
        AutoProcessor,
        AutoTokenizer,
        InstructBlipConfig,
        InstructBlipForConditionalGeneration,
        InstructBlipProcessor,
    )
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    folder = tmp_path / "instructblip"
    text = AutoTokenizer.from_pretrained(checkpoints.llm(tmp_path / "llm", family))
    second = checkpoints.tokenizer("unigram-bos")
    processor = InstructBlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), text, second, 4)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = InstructBlipConfig(
        vision_config={**shape, "image_size": 32, "patch_size": 16},
        qformer_config={**shape, "encoder_hidden_size": 16, "vocab_size": len(second)},
        text_config=AutoConfig.from_pretrained(tmp_path / "llm"),
        num_query_tokens=4,
        image_token_index=text.convert_tokens_to_ids("<image>"),
    )
    torch.manual_seed(0)
    model = InstructBlipForConditionalGeneration(config).eval()
    model.language_model.resize_token_embeddings(len(text))
    checkpoints.randomize(model, 0)
    torch.nn.init.normal_(model.query_tokens)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    answerer = load_answerer(str(folder), batch_size=3)
    assert answerer.kind == "huggingface" and answerer.identity["chat template"] == "none, the prompt as it is"
    asked = [request for request in REQUESTS if len(request.images) == 1]
    found = answers(answerer, asked)
    # The same in stock code, alone.
    processor, model = (
        AutoProcessor.from_pretrained(folder, backend="pil"),
        AutoModelForImageTextToText.from_pretrained(folder),
    )
    for request in asked:
        inputs = processor(images=[PICTURES[request.images[0]]], text=[request.prompt], return_tensors="pt")
        with torch.no_grad():
            ids = model.generate(**inputs, **SHORT_ANSWER, do_sample=False)
        answer = processor.tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip()
        assert found[request.id] == (answer.removeprefix(request.prompt).strip() if family == "llama" else answer)
    assert len(set(found.values())) > 1


@pytest.mark.parametrize("family", ["t5", "bloom"])
def test_our_models_answer_alike_in_any_batch_and_choose_candidates(tmp_path: Path, family: str) -> None:
    folder = checkpoints.blip2(tmp_path / family, family)
    answerer = load_answerer(str(folder), batch_size=4, dtype="fp32")
    assert answerer.kind == "mblip" and answerer.identity["dtype"] == "float32"
    found = answers(answerer)
    assert answers(load_answerer(str(folder), batch_size=1, dtype="fp32")) == found
    from mblip.models import load_vision_llm

    vlm = load_vision_llm(folder, dtype="fp32")
    assert found["3"] == vlm.generate([[PICTURES["r"], PICTURES["b"]]], ["is there a dog"], **SHORT_ANSWER)[0]
    candidates = ("yes", "no", "maybe")
    for request, choice in answerer.choices(REQUESTS, PICTURES.__getitem__, candidates):
        scores = score_candidates(vlm, [PICTURES[key] for key in request.images], request.prompt, candidates)
        assert choice == candidates[scores.index(max(scores))]


class Endpoint(BaseHTTPRequestHandler):
    """Answers with what it was asked; says "busy" the first time, and refuses a prompt about secrets."""

    seen: list[dict[str, Any]]
    busy: list[int]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append({**body, "authorization": self.headers.get("Authorization"), "path": self.path})
        content = body["messages"][0]["content"]
        pictures = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        sizes = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size for url in pictures]
        reply: dict[str, Any]
        status, reply = 200, {"choices": [{"message": {"content": f" {sizes} {content[-1]['text']} "}}]}
        if "secret" in content[-1]["text"]:
            status, reply = 401, {"error": "no such key"}
        elif "strange" in content[-1]["text"]:
            reply = {"choices": []}
        elif "reply" in content[-1]["text"]:
            reply = {"choices": [json.loads(content[-1]["text"].removeprefix("reply"))]}
        elif self.busy:
            status, reply = self.busy.pop(), {}
        text = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr("mblip.endpoint._WAITS", (0.01, 0.02))
    Endpoint.seen, Endpoint.busy = [], []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_an_openai_compatible_endpoint(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(openai.KEY_VARIABLE, "key")
    Endpoint.busy = [503, 429]
    answerer = load_answerer("some-model", endpoint=endpoint, batch_size=2)
    found = answers(answerer)
    assert found == {
        "1": "[(50, 40)] what is on the house",
        "2": "[(40, 50)] how many",
        "3": "[(50, 40), (40, 50)] is there a dog",
        "4": "[(40, 50)] what is on the house",
    }
    assert len(Endpoint.seen) == 4 + 2
    body = Endpoint.seen[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("some-model", 0, 10)
    assert (body["authorization"], body["path"]) == ("Bearer key", "/v1/chat/completions")
    with pytest.raises(InputError, match="cannot score candidates"):
        list(answerer.choices(REQUESTS, PICTURES.__getitem__, ("yes", "no")))


def test_endpoints_that_refuse_or_are_none(endpoint: str) -> None:
    answerer = load_answerer("m", endpoint=endpoint)
    with pytest.raises(InputError, match=r"answered HTTP 401: .*no such key"):
        answers(answerer, [Request("1", (), "secret")])
    with pytest.raises(RemoteError, match=r"cannot be reached.*run the same command again later"):
        answers(load_answerer("m", endpoint="http://127.0.0.1:9/v1"), REQUESTS[:1])
    with pytest.raises(InputError, match="must be an http"):
        load_answerer("m", endpoint="localhost:8000")


@pytest.mark.parametrize(("choice", "answer"), [
    ({"message": {"content": None}, "finish_reason": "content_filter"}, "gave no text (finish_reason 'content_filter')"),
    ({"message": {"content": None}}, "gave no text (finish_reason None)"),
    ({"message": {"content": ""}, "finish_reason": "length"}, "within 10 tokens; turn its reasoning off"),
    ({"message": {"content": ""}, "finish_reason": "stop"}, None),
    ({"message": {"content": None, "refusal": "I cannot say."}, "finish_reason": "stop"}, "I cannot say."),
    ({"message": {"content": "two do"}, "finish_reason": "length"}, "two do"),
])  # fmt: skip
def test_a_reply_without_text_is_no_empty_answer(endpoint: str, choice: dict[str, Any], answer: str | None) -> None:
    found = answers(load_answerer("m", endpoint=endpoint), [Request("1", (), "reply" + json.dumps(choice))])["1"]
    if isinstance(found, NoAnswer):
        assert answer and answer in found.why
    else:
        assert found == (answer or "")


@pytest.mark.parametrize("content", [2, {"text": "two"}, True])
def test_content_of_another_kind_is_no_answer(endpoint: str, content: Any) -> None:
    reply = "reply" + json.dumps({"message": {"content": content}})
    found = answers(load_answerer("m", endpoint=endpoint), [Request("1", (), reply)])["1"]
    assert isinstance(found, NoAnswer) and "broken answer" in found.why


def test_an_unreadable_picture_comes_out_of_every_kind(endpoint: str, vipllava: Path, tmp_path: Path) -> None:
    def broken(key: str) -> Image.Image:
        raise UnreadableImage(key, "the file is empty")

    ours = checkpoints.blip2(tmp_path / "t5")
    for answerer in (load_answerer("dummy"), load_answerer(str(vipllava)), load_answerer(str(ours))):
        with pytest.raises(UnreadableImage, match="'r' cannot be used"):
            list(answerer.answers([RequestGroup(REQUESTS[:1], answerer.decoding(SHORT_ANSWER))], broken))
    # Requests to an endpoint are under way together: one without a picture must not end the others.
    answerer = load_answerer("m", endpoint=endpoint)
    ((_, found),) = answerer.answers([RequestGroup(REQUESTS[:1], answerer.decoding(SHORT_ANSWER))], broken)
    assert isinstance(found, NoAnswer) and "'r' cannot be used" in found.why


def test_a_processor_that_raises_ends_in_one_sentence_or_leaves_an_item_out(
    vipllava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (
        ValueError("bad\nsize"),
        TypeError("no"),
        KeyError("x"),
        IndexError(),
        RuntimeError("sizes must match"),
    ):
        answerer: Any = load_answerer(str(vipllava), batch_size=2)

        def broken(*_: Any, error: Exception = error, **__: Any) -> Any:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(answerer, "_inputs", broken)
            with pytest.raises(InputError, match=f"cannot be asked .*{type(error).__name__}") as told:
                answers(answerer, REQUESTS[:1])
            assert "\n" not in str(told.value)
            assert f"does not take 2 pictures per prompt: {type(error).__name__}" in answerer.refusal(
                REQUESTS[2], PICTURES.__getitem__
            )
    answerer = load_answerer(str(vipllava), batch_size=2)
    whole = answerer._inputs

    def one_broken(batch: Any, pictures: Any) -> Any:
        if any(request.id == "2" for request in batch):
            raise ValueError("absolute aspect ratio must be smaller than 200")
        return whole(batch, pictures)

    monkeypatch.setattr(answerer, "_inputs", one_broken)
    found = answers(answerer)
    assert isinstance(found["2"], NoAnswer) and "aspect ratio" in found["2"].why
    assert all(isinstance(found[name], str) for name in "134")
