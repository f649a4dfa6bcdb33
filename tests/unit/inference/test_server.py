"""The server as its clients see it: the openai package, curl, and many at once."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from tests.serving import NAME, chat, data_url, png, serving

from mblip.inference.predictor import Predictor, for_people
from mblip.inference.server import Settings, create_app
from mblip.inference.server.batching import Batcher, Busy
from mblip.models.generation import Answer, Generator
from mblip.models.vision_llm import VisionLLM

PATH = "/v1/chat/completions"
# As the server decodes: like for people, who do not read texts that run in circles.
BEAMS = for_people({"max_new_tokens": 8})


@pytest.fixture
def client(server: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)


def test_the_openai_client_gets_an_answer(client: openai.OpenAI, tiny: Predictor) -> None:
    assert [model.id for model in client.models.list()] == [NAME]
    answer = client.chat.completions.create(**chat("Caption in German:", png()))
    assert answer.choices[0].message.content == tiny.generate([png()], ["Caption in German:"], **BEAMS)[0]
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage and answer.usage.prompt_tokens > tiny.vlm.container.tokens_per_image
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_the_openai_client_reads_a_stream(client: openai.OpenAI, tiny: Predictor) -> None:
    request = chat("what is red", png(1), stream=True, stream_options={"include_usage": True})
    chunks = list(client.chat.completions.create(**request))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    greedy = {**BEAMS, "num_beams": 1}
    assert "".join(pieces) == tiny.generate([png(1)], ["what is red"], **greedy)[0]
    assert sum(map(bool, pieces)) > 1
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] in ("stop", "length")
    assert chunks[-1].usage and chunks[-1].usage.completion_tokens > 0
    beams = client.chat.completions.create(**chat("what is red", png(1), stream=True), extra_body={"num_beams": 5})
    told = [chunk.choices[0].delta.content or "" for chunk in beams]
    assert "".join(told) == tiny.generate([png(1)], ["what is red"], **BEAMS)[0]


def test_the_openai_client_finds_the_model(client: openai.OpenAI, tiny: Predictor) -> None:
    assert client.models.retrieve(NAME).id == NAME
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
        client.models.retrieve("gpt")
    with serving(create_app(tiny, "/runs/mine", Settings())) as address:  # a folder's name has slashes
        named = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        assert named.models.retrieve("/runs/mine").id == "/runs/mine"


def test_what_was_generated_is_counted(client: openai.OpenAI, tiny: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    end = tiny.vlm.layout.end_token_id

    def ids(model: Any, prompts: list[str], *_: Any, streamer: Any = None, **__: Any) -> torch.Tensor:
        # As transformers: the start token, two words that decode to the text of one piece or none, end, padding.
        rows = {"ended": [0, 20, 20, end, 0], "cut": [0, 20, 21, 22, 23], "at once": [0, end, 0, 0, 0]}
        row = torch.tensor([rows[prompts[0]]])
        if streamer:
            for token in row[0, : 4 if prompts[0] == "ended" else 5]:
                streamer.put(token.view(1))
            streamer.end()
        return row.repeat(len(prompts), 1)

    monkeypatch.setattr(VisionLLM, "generate_ids", ids)
    for prompt, reason, tokens in (("ended", "stop", 3), ("cut", "length", 4), ("at once", "stop", 1)):
        answer = client.chat.completions.create(**chat(prompt))
        assert answer.choices[0].finish_reason == reason
        assert answer.usage and answer.usage.completion_tokens == tokens
    for prompt, reason, tokens in (("ended", "stop", 3), ("cut", "length", 4)):
        request = chat(prompt, stream=True, stream_options={"include_usage": True})
        chunks = list(client.chat.completions.create(**request))
        assert chunks[-2].choices[0].finish_reason == reason
        assert chunks[-1].usage and chunks[-1].usage.completion_tokens == tokens


def test_sampling_and_several_answers(client: openai.OpenAI) -> None:
    def sample(seed: int) -> list[str | None]:
        request = chat("what is", png(2), n=4, temperature=1.5, seed=seed)
        return [choice.message.content for choice in client.chat.completions.create(**request).choices]

    assert sample(3) == sample(3)
    assert len(set(sample(3))) > 1
    streamed = list(client.chat.completions.create(**chat("what is", png(2), n=2, stream=True, temperature=1.0)))
    assert {choice.index for chunk in streamed for choice in chunk.choices} == {0, 1}


def test_several_pictures_and_none(client: openai.OpenAI, tiny: Predictor) -> None:
    two = client.chat.completions.create(**chat("what is", png(1), png(2)))
    assert two.choices[0].message.content == tiny.generate([[png(1), png(2)]], ["what is"], **BEAMS)[0]
    same = client.chat.completions.create(**chat("what is", png(1), png(1)))
    assert same.choices[0].message.content == tiny.generate([[png(1), png(1)]], ["what is"], **BEAMS)[0]
    text = client.chat.completions.create(**chat("what is"))
    assert text.choices[0].message.content == tiny.generate([[]], ["what is"], **BEAMS)[0]


def test_the_openai_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
        client.chat.completions.create(**chat("x", model="gpt"))
    with pytest.raises(openai.BadRequestError, match="messages: one message"):
        client.chat.completions.create(model=NAME, messages=[{"role": "system", "content": "be brief"}])
    with pytest.raises(openai.BadRequestError, match="no system message, no earlier turns"):
        client.chat.completions.create(
            model=NAME, messages=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "what is it"}]
        )
    remedy = "put instructions into its text, and send the last question alone, with its pictures"
    for roles in (["system"], ["developer", "user"], ["user", "assistant", "user"]):
        with pytest.raises(openai.BadRequestError, match=rf"- messages(\.0\.role)?: one message of .*{remedy}"):
            client.chat.completions.create(model=NAME, messages=[{"role": role, "content": "x"} for role in roles])
    with pytest.raises(openai.BadRequestError, match="reasoning_effort: this server cannot do that; leave it out"):
        client.chat.completions.create(**chat("x"), reasoning_effort="low")
    with pytest.raises(openai.BadRequestError, match="presence_penalty: this server cannot do that; leave it out"):
        client.chat.completions.create(**chat("x"), presence_penalty=0.6)
    with pytest.raises(openai.BadRequestError, match="the picture cannot be used"):
        client.chat.completions.create(**chat("x", b"no picture"))
    with pytest.raises(openai.BadRequestError, match="tools"):
        client.chat.completions.create(**chat("x"), tools=[{"type": "function", "function": {"name": "f"}}])


def test_what_clients_send_unasked_changes_nothing(client: openai.OpenAI, tiny: Predictor) -> None:
    unasked: Any = {
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "top_p": 1.0,
        "n": 1,
        "stop": None,
        "logprobs": False,
    }
    answer = client.chat.completions.create(**chat("what is", png(1)), **unasked)
    assert answer.choices[0].message.content == tiny.generate([[png(1)]], ["what is"], **BEAMS)[0]


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl(server: str, tiny: Predictor, tmp_path: Path) -> None:
    def curl(*arguments: str) -> str:
        return subprocess.run(["curl", "-sS", *arguments], capture_output=True, text=True, check=True).stdout

    assert json.loads(curl(f"{server}/health")) == {"status": "ok", "precision": "float32"}
    (tmp_path / "body.json").write_text(json.dumps(chat("what is", png(4))))
    plain = curl(f"{server}{PATH}", "-H", "Content-Type: application/json", "-d", f"@{tmp_path}/body.json")
    expected = tiny.generate([png(4)], ["what is"], **BEAMS)[0]
    assert json.loads(plain)["choices"][0]["message"]["content"] == expected
    (tmp_path / "photo.png").write_bytes(png(4))
    asked = chat("what is")
    asked["messages"][0]["content"].append({"type": "image_url", "image_url": {"url": "upload:photo"}})
    upload = curl(f"{server}{PATH}", "-F", f"request={json.dumps(asked)}", "-F", f"photo=@{tmp_path}/photo.png")
    assert json.loads(upload)["choices"][0]["message"]["content"] == expected
    events = curl("-N", f"{server}{PATH}", "--json", json.dumps(chat("what is", png(4), stream=True)))
    assert events.rstrip().endswith("data: [DONE]")
    assert "mblip_requests_total" in curl(f"{server}/metrics")


def test_batched_answers_are_single_answers(tiny: Predictor) -> None:
    prompts = [
        "Caption in German:", "Question: what is the red house on? Short answer in English:", "dog", "собака ist",
        "犬 と 猫", "कुत्ता", "how many " * 12, "x",
    ] * 2  # fmt: skip
    pictures = [png(number % 3, 20 + number) for number in range(len(prompts))]
    alone = [tiny.generate([p], [text], **BEAMS)[0] for p, text in zip(pictures, prompts, strict=True)]
    with serving(create_app(tiny, NAME, Settings(wait=0.3, batch_size=16))) as address, ThreadPoolExecutor(16) as pool:

        def ask(pair: tuple[str, bytes]) -> str:
            reply = httpx.post(f"{address}{PATH}", json=chat(pair[0], pair[1]), timeout=120)
            assert reply.status_code == 200, reply.text
            return str(reply.json()["choices"][0]["message"]["content"])

        together = list(pool.map(ask, zip(prompts, pictures, strict=True)))
        metrics = httpx.get(f"{address}/metrics").text
    assert together == alone
    assert len(set(alone)) > 3
    batches = int(float(metrics.split("mblip_batch_size_count ")[1].split()[0]))
    assert batches < len(prompts) / 2


class Gate:
    """Holds the model back until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open, self.entered = threading.Event(), threading.Event()
        counted = Generator.counted

        def held(generator: Generator, requests: Any) -> list[Answer]:
            self.entered.set()
            assert self.open.wait(60)
            return counted(generator, requests)

        monkeypatch.setattr(Generator, "counted", held)


def test_a_full_queue_answers_429_and_recovers(tiny: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    settings = Settings(batch_size=1, queue=2, wait=0)
    with serving(create_app(tiny, NAME, settings)) as address, ThreadPoolExecutor(3) as pool:

        def ask() -> httpx.Response:
            return httpx.post(f"{address}{PATH}", json=chat("x", png()), timeout=120)

        running = pool.submit(ask)
        assert gate.entered.wait(60)
        waiting = [pool.submit(ask) for _ in range(2)]
        _until(lambda: "mblip_waiting 2.0" in httpx.get(f"{address}/metrics").text)
        refused = ask()
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        streamed = httpx.post(f"{address}{PATH}", json=chat("x", stream=True), timeout=60)
        assert streamed.status_code == 429
        gate.open.set()
        assert [future.result().status_code for future in [running, *waiting]] == [200] * 3
        assert ask().status_code == 200


def test_who_hangs_up_leaves_the_queue(tiny: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    with serving(create_app(tiny, NAME, Settings(batch_size=1, wait=0))) as address, ThreadPoolExecutor(1) as pool:
        running = pool.submit(httpx.post, f"{address}{PATH}", json=chat("x", png()), timeout=120)
        assert gate.entered.wait(60)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}{PATH}", json=chat("y", png()), timeout=1)
        _until(lambda: "mblip_waiting 0.0" in httpx.get(f"{address}/metrics").text)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}{PATH}", json=chat("z", png(), stream=True, num_beams=5), timeout=1)
        _until(lambda: "mblip_waiting 0.0" in httpx.get(f"{address}/metrics").text)
        gate.open.set()
        assert running.result().status_code == 200


def test_a_generation_that_nobody_waits_for_is_stopped(tiny: Predictor) -> None:
    async def scenario() -> None:
        batcher = Batcher(tiny.vlm, wait=0)
        long = {"num_beams": 1, "max_new_tokens": 100_000, "min_new_tokens": 100_000}
        for asked in (batcher.answer("x", [], long, 1, None), _all(batcher.stream("x", [], long, 1, None))):
            task = asyncio.ensure_future(asked)
            await asyncio.sleep(1)
            task.cancel()
            await asyncio.wait([task])
        quick = await asyncio.wait_for(batcher.answer("x", [], {"num_beams": 1, "max_new_tokens": 2}, 1, None), 60)
        assert len(quick) == 1
        await batcher.close()

    asyncio.run(scenario())


def test_closing_answers_what_waits(tiny: Predictor) -> None:
    async def scenario() -> None:
        batcher = Batcher(tiny.vlm, wait=30, batch_size=2)
        settings = {"num_beams": 1, "max_new_tokens": 3}
        asked = [asyncio.ensure_future(batcher.answer(f"x{i}", [], settings, 1, None)) for i in range(3)]
        await asyncio.sleep(0.1)
        await batcher.close()
        assert len(await asyncio.gather(*asked)) == 3
        with pytest.raises(Busy):
            await batcher.answer("late", [], settings, 1, None)

    asyncio.run(scenario())


def test_one_failing_job_does_not_take_the_others_along(tiny: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Generator.counted

    def failing(generator: Generator, requests: Any) -> list[Answer]:
        if any(request.prompt == "bad" for request in requests):
            raise RuntimeError("secret of the inside")
        return counted(generator, requests)

    monkeypatch.setattr(Generator, "counted", failing)
    with serving(create_app(tiny, NAME, Settings(wait=0.5))) as address, ThreadPoolExecutor(3) as pool:

        def ask(prompt: str) -> httpx.Response:
            return httpx.post(f"{address}{PATH}", json=chat(prompt, png()), timeout=60)

        good, bad, fine = pool.map(ask, ["good", "bad", "fine"])
    assert (good.status_code, bad.status_code, fine.status_code) == (200, 500, 200)
    assert bad.json()["error"]["message"] == "the server failed to answer"
    assert "secret" not in bad.text


def test_keys(tiny: Predictor) -> None:
    with serving(create_app(tiny, NAME, Settings(keys=("first", "second ключ")))) as address:
        assert httpx.get(f"{address}/health").status_code == 200
        for key, status in (("first", 200), ("second ключ", 200), ("third", 401), ("first second", 401)):
            header = {b"Authorization": f"Bearer {key}".encode()}
            assert httpx.get(f"{address}/v1/models", headers=header).status_code == status
        assert httpx.get(f"{address}/metrics").status_code == 401
        refused = httpx.post(f"{address}{PATH}", json=chat("x"))
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0).models.list()


def test_requests_have_a_size(server: str) -> None:
    big = json.dumps(chat("x", b"\0" * (4 << 20)))
    told = httpx.post(f"{server}{PATH}", content=big, headers={"Content-Type": "application/json"})
    assert told.status_code == 413

    def pieces() -> Any:
        for start in range(0, len(big), 1 << 16):
            yield big[start : start + (1 << 16)].encode()

    untold = httpx.post(f"{server}{PATH}", content=pieces(), headers={"Content-Type": "application/json"})
    assert untold.status_code == 413


def test_an_answer_depends_on_the_picture_not_on_its_name(server: str) -> None:
    def ask(*pictures: bytes) -> str:
        return str(httpx.post(f"{server}{PATH}", json=chat("what is", *pictures), timeout=60).json()["choices"])

    assert len({ask(png(number)) for number in range(4)}) > 1
    assert ask(png(1)) == ask(png(1))
    assert data_url(png(1)) != data_url(png(2))


async def _all(pieces: Any) -> list[Any]:
    return [piece async for piece in pieces]


def _until(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)
