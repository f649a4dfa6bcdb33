# ruff: noqa: E501
"""Requests as clients really send them: what asks for nothing is taken, and what cannot be done names the part."""

from __future__ import annotations

import base64
import gzip
import json
import re
import textwrap
from typing import Any

import httpx
import openai
import pytest
from tests.serving import NAME, data_url, png

from mblip.errors import InputError
from mblip.inference.predictor import Predictor

PATH = "/v1/chat/completions"
B64 = base64.b64encode(png()).decode()
TEXT = {"type": "text", "text": "what is red"}
IMAGE = {"type": "image_url", "image_url": {"url": data_url(png())}}


def message(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts), **fields}], "max_tokens": 4, "num_beams": 1}


ASKED = message(IMAGE, TEXT)


def send(server: str, body: Any) -> httpx.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(f"{server}{PATH}", content=data, headers={"Content-Type": "application/json"}, timeout=60)


@pytest.fixture(scope="module")
def expected(server: str) -> str:
    return str(send(server, ASKED).json()["choices"][0]["message"]["content"])


NOTHING: dict[str, dict[str, Any]] = {
    name: {**ASKED, **dict(fields)}  # type: ignore[call-overload]
    for name, fields in {
        **{f"{field} null": {field: None} for field in (
            "n", "stream", "temperature", "top_p", "seed", "stop", "model", "user", "tools", "audio", "prediction", "logit_bias",
            "max_completion_tokens", "some_field_of_tomorrow",
        )},
        "every null": dict.fromkeys(("stream_options", "function_call", "functions", "response_format", "top_k", "length_penalty")),
        "no tools": {"tools": [], "tool_choice": "none", "parallel_tool_calls": True},
        "automatic tools": {"tools": [], "tool_choice": "auto", "functions": [], "function_call": "auto"},
        "text": {"response_format": {"type": "text"}, "modalities": ["text"], "verbosity": "medium"},
        "empty": {"stop": [], "logit_bias": {}, "metadata": {}, "chat_template_kwargs": {}},
        "zeros": {"top_logprobs": 0, "frequency_penalty": 0.0, "presence_penalty": 0, "min_p": 0.0, "top_k": -1},
        "false": {"store": False, "logprobs": False, "echo": False},
        "labels": {"user": "me", "metadata": {"run": "7"}, "safety_identifier": "x", "prompt_cache_key": "y"},
        "defaults": {"service_tier": "auto", "reasoning_effort": "none", "best_of": 1, "n": 1, "top_p": 1.0},
        "stream options without a stream": {"stream_options": {"include_usage": None}},
    }.items()
}  # fmt: skip
NOTHING |= {
    "detail null": message({"type": "image_url", "image_url": {"url": data_url(png()), "detail": None}}, TEXT),
    "detail original": message({"type": "image_url", "image_url": {"url": data_url(png()), "detail": "original"}}, TEXT),
    "a plain address": message({"type": "image_url", "image_url": data_url(png())}, TEXT),
    "parts of the other API": message(
        {"type": "input_image", "image_url": data_url(png()), "detail": "auto"}, {"type": "input_text", "text": "what is red"}
    ),
    "a name": message(IMAGE, TEXT, name="user-1"),
    "hints for caches": message({**IMAGE, "cache_control": {"type": "ephemeral"}}, {**TEXT, "cache_control": None}),
    "fields of other roles": message(IMAGE, TEXT, tool_calls=[], function_call=None, refusal=None, audio=None, annotations=[]),
    "an empty system message": {
        **ASKED, "messages": [{"role": "system", "content": " "}, {"role": "developer", "content": []}, *ASKED["messages"]]
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NOTHING)
def test_what_asks_for_nothing_changes_nothing(server: str, expected: str, name: str) -> None:
    reply = send(server, NOTHING[name])
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"] == expected


URLS = {
    "line breaks": "data:image/png;base64," + base64.encodebytes(png()).decode(),
    "line breaks of mail": "data:image/png;base64,\r\n" + "\r\n".join(textwrap.wrap(B64, 76)) + "\r\n",
    "blanks": "data:image/png;base64, " + " ".join(textwrap.wrap(B64, 40)),
    "url-safe": "data:image/png;base64," + base64.urlsafe_b64encode(png()).decode(),
    "unpadded": "data:image/png;base64," + B64.rstrip("="),
    "url-safe, unpadded": "data:image/png;base64," + base64.urlsafe_b64encode(png()).decode().rstrip("="),
    "too much padding": "data:image/png;base64," + B64.rstrip("=") + "====",
    "percent": "data:image/png;base64," + B64.replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
    "no type": "data:;base64," + B64,
    "octets": "data:application/octet-stream;base64," + B64,
    "another type": "data:image/jpeg;base64," + B64,
    "upper case": "DATA:image/PNG;BASE64," + B64,
    "a blank before base64": "data:image/png; base64," + B64,
    "blanks around": "\n " + data_url(png()) + "\n",
    "a name": "data:image/png;name=a photo.png;charset=utf-8;base64," + B64,
}


@pytest.mark.parametrize("name", URLS)
def test_base64_as_it_is_written_elsewhere(server: str, expected: str, name: str) -> None:
    reply = send(server, message({"type": "image_url", "image_url": {"url": URLS[name]}}, TEXT))
    assert reply.status_code == 200, reply.text
    assert reply.json()["choices"][0]["message"]["content"] == expected


def test_a_byte_order_mark_is_no_part_of_the_request(server: str, expected: str) -> None:
    reply = send(server, b"\xef\xbb\xbf" + json.dumps(ASKED).encode())
    assert reply.json()["choices"][0]["message"]["content"] == expected


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "detail": (
        message(TEXT, {"type": "image_url", "image_url": {"url": "x", "detail": 7}}),
        "messages.0.content.1.image_url.detail", "must be 'auto'",
    ),
    "type of a part": (message(TEXT, {"type": "audio"}), "messages.0.content.1", "the type of a part is 'text' or 'image_url'"),
    "no type": (message({"text": "x"}), "messages.0.content.0", "the type of a part is"),
    "no text": (message({"type": "text"}), "messages.0.content.0.text", "is missing"),
    "no address": (message(TEXT, {"type": "image_url"}), "messages.0.content.1.image_url", "is missing"),
    "a text of null": (message({"type": "text", "text": None}), "messages.0.content.0.text", "is missing"),
    "a text of the other API": (message({"type": "input_text", "text": None}), "messages.0.content.0.text", "is missing"),
    "a text of a number": (message({"type": "text", "text": 3}), "messages.0.content.0.text", "must be a text"),
    "an address of null": (message({"type": "image_url", "image_url": None}), "messages.0.content.0.image_url", "is missing"),
    "an address of a number": (
        message({"type": "image_url", "image_url": {"url": 3}}), "messages.0.content.0.image_url.url", "must be a text"
    ),
    "a typo in a text": (message(IMAGE, {**TEXT, "txt": 1}), "messages.0.content.1.txt", "no such field"),
    "a typo in a picture": (message({**IMAGE, "img": 1}, TEXT), "messages.0.content.0.img", "no such field"),
    "a typo in an address": (
        message({"type": "image_url", "image_url": {"url": "x", "src": 1}}), "messages.0.content.0.image_url.src", "no such field"
    ),
    "words as parts": (message("what is red"), "messages.0.content.0", "must be a JSON object"),
    "words as a message": ({"messages": ["what is red"]}, "messages.0", "must be a JSON object"),
    "no message": ({"messages": []}, "messages", "at least one item"),
    "many messages": ({"messages": [{"role": "system", "content": ""}] * 9 + ASKED["messages"]}, "messages", "has 10 items; 8 at most"),
    "no words": ({"messages": [{"role": "user", "content": ""}]}, "messages.0", "content is empty"),
    "blank words": (message({"type": "text", "text": " \n"}), "messages.0", "content is empty"),
    "too many words": ({"messages": [{"role": "user", "content": "a" * 32_001}]}, "messages.0.content", "more than 32000 characters"),
    "stream": ({**ASKED, "stream": "yes"}, "stream", "must be true or false"),
    "half an answer": ({**ASKED, "n": 1.5}, "n", "must be a whole number"),
    "no answer": ({**ASKED, "n": 0}, "n", "must be at least 1"),
    "base64": (
        message(TEXT, {"type": "image_url", "image_url": {"url": "data:image/png;base64,*"}}),
        "messages.0.content.1", "not valid base64",
    ),
    "picture": (
        message(IMAGE, IMAGE, {"type": "image_url", "image_url": {"url": data_url(b"text")}}),
        "messages.0.content.2", "the picture cannot be used",
    ),
    "content": ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content", "write a text, or a list of parts"),
    "tools": ({**ASKED, "tools": [{"type": "function"}]}, "tools", r"cannot do that; leave it out \(or null or \[\]\)"),
    "format": ({**ASKED, "response_format": {"type": "json_object"}}, "response_format", r'null or {"type": "text"}'),
    "store": ({**ASKED, "store": True}, "store", r"leave it out \(or null or false\)"),
    "penalty": ({**ASKED, "presence_penalty": 1}, "presence_penalty", "cannot do that"),
    "a typo": ({**ASKED, "temprature": 1}, "temprature", "no such field"),
    "after a system message": (
        {"messages": [{"role": "system", "content": ""}, {"role": "user", "content": [{"type": "video"}]}]},
        "messages.1.content.0", "the type of a part is",
    ),
    "seed": ({**ASKED, "seed": 2**63}, "seed", "less than"),
    "negative seed": ({**ASKED, "seed": -(2**63) - 1}, "seed", "at least"),
    "huge seed": ({**ASKED, "seed": 10**40}, "seed", "less than"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_refusal_names_the_part(server: str, name: str) -> None:
    body, place, why = WRONG[name]
    reply = send(server, body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == place
    assert error["message"].startswith(f"{place}: ")
    assert re.search(why, error["message"]), error["message"]
    assert len(error["message"]) < 400


@pytest.mark.parametrize(
    "path", ["/v1/responses", "/v1/completions", "/v1/embeddings", "/v1/chat/completion", "/chat/completions"]
)
def test_an_api_that_is_not_served_is_told_what_is(server: str, path: str) -> None:
    reply = httpx.post(f"{server}{path}", json={"model": "x", "input": "x"})
    assert reply.status_code == 404
    assert reply.json()["error"]["message"] == f"nothing is served at {path}; questions go to POST /v1/chat/completions"


def test_a_request_is_an_object(server: str) -> None:
    for body in (b"null", b"[]", b"3", b'"x"'):
        error = send(server, body).json()["error"]
        assert (error["message"], error["param"]) == ("the request: must be a JSON object", None)


def test_what_is_read_may_be_asked_for_without_its_body(server: str) -> None:
    for path in ("/health", "/metrics", "/v1/models", f"/v1/models/{NAME}"):
        head, whole = httpx.head(f"{server}{path}"), httpx.get(f"{server}{path}")
        assert (head.status_code, head.text) == (200, ""), path
        assert head.headers["content-type"] == whole.headers["content-type"]
    assert httpx.head(f"{server}/v1/models/other").status_code == 404


def test_other_methods_are_told_the_right_one(server: str) -> None:
    for method, path, right in (("GET", PATH, "POST"), ("PUT", PATH, "POST"), ("POST", "/health", "GET")):
        reply = httpx.request(method, f"{server}{path}")
        assert reply.status_code == 405
        assert right in reply.headers["allow"]
        assert re.fullmatch(rf"{method} is not answered at {path}, only .*{right}.*", reply.json()["error"]["message"])


def test_a_compressed_body_is_refused_as_such(server: str, expected: str) -> None:
    body, kind = json.dumps(ASKED).encode(), {"Content-Type": "application/json"}
    reply = httpx.post(f"{server}{PATH}", content=gzip.compress(body), headers={**kind, "Content-Encoding": "gzip"})
    assert reply.status_code == 415
    assert "'gzip'" in reply.json()["error"]["message"]
    reply = httpx.post(f"{server}{PATH}", content=body, headers={**kind, "Content-Encoding": "identity"}, timeout=60)
    assert reply.json()["choices"][0]["message"]["content"] == expected


def test_a_body_in_chunks_is_refused_with_the_same_code(server: str) -> None:
    large = b" " * (21 << 20)
    for content in (large, iter([large])):
        reply = httpx.post(f"{server}{PATH}", content=content, headers={"Content-Type": "application/json"}, timeout=60)
        assert (reply.status_code, reply.json()["error"]["code"]) == (413, "request_too_large")


def test_seeds_of_64_bits_are_taken(server: str) -> None:
    for seed in (0, -1, 2**63 - 1, -(2**63)):
        assert send(server, {**ASKED, "temperature": 1, "seed": seed}).status_code == 200


def test_max_tokens_are_cut_to_the_models_room(server: str, monkeypatch: pytest.MonkeyPatch, tiny: Predictor) -> None:
    from mblip.inference.server import app

    for asked, clamped in ((4, None), (512, None), (513, 512), (10**30, 512)):
        usage = send(server, {**ASKED, "max_tokens": asked, "repetition_penalty": 9}).json()["usage"]
        assert usage.get("max_tokens_clamped_to") == clamped
    config = tiny.vlm.model.config.get_text_config()
    with monkeypatch.context() as patched:
        patched.setattr(config, "is_encoder_decoder", False)
        patched.setattr(config, "max_position_embeddings", 40, raising=False)
        assert app.room_for_answer(tiny, 33) == 7
        with pytest.raises(InputError, match="have 40 tokens; the language model has 40 positions"):
            app.room_for_answer(tiny, 40)
    client = openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)
    chunks = list(
        client.chat.completions.create(
            model=NAME, messages=ASKED["messages"], max_tokens=9999, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].usage
    assert chunks[-1].usage.model_extra
    assert chunks[-1].usage.model_extra["max_tokens_clamped_to"] == 512
