"""The server against one request at a time in stock parts: python benchmarks/serve.py [MODEL] [--requests N] [--memory N].

MODEL is anything that mblip loads; without one it is the model of benchmarks/evaluate.py, of middle size and with random
weights, whose captions are 20 tokens long. Every request has a picture of its own (no cache helps; scenes
of one or two objects, as the nano model has learnt to list) and asks for a caption with 5 beams in one of 8 languages, whose
prompts differ in length. A batch runs until its longest answer ends: where a badly trained model runs on in loops, its batches
gain little. Stock is transformers' Blip2ForConditionalGeneration and
Blip2Processor on the same files, called in a loop without HTTP in between, with its pictures in memory. The server is a process
of its own that must give the same answers; clients are on this machine and nothing else is contacted. Beside the clock, the
table gives processor time, which other work on the machine does not change (that of the clients is not the server's). On a
machine of few cores give the server and its clients the same: taskset -c 0, with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

os.environ["HF_HUB_OFFLINE"] = "1"

import httpx
import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from evaluate import build
from mblip.inference.predictor import GENERATION, load_model
from mblip.languages import LANGUAGES
from mblip.models.export import export
from mblip.nano.scenes import render, sample_scene
from mblip.nano.words import load_lexicon

CODES = ("sw", "de", "ja", "ar", "hi", "ru", "tr", "th")
CLIENTS = (1, 8, 32)
CAPTION = 20  # tokens of a random model's captions, which never end by themselves
Load = tuple[list[httpx.Response], list[float], float]


class Job:
    """What is asked: the same of both sides."""

    def __init__(self, random_weights: bool, asks: str) -> None:
        self.random_weights, self.asks = random_weights, asks
        self.tokens = CAPTION if random_weights else int(GENERATION["max_new_tokens"])

    def picture(self, number: int) -> Image.Image:
        """A scene of its own."""
        return render(sample_scene(np.random.default_rng(number), 1 + number % 2, sorted(load_lexicon().emoji)), 128)

    def prompt(self, number: int) -> str:
        """Of a length that differs with the number."""
        if self.random_weights:  # its words are w4 to w11999
            draw = np.random.default_rng(number)
            return " ".join(f"w{word}" for word in draw.integers(4, 12_000, 4 + number % 9))
        return self.asks.format(language=LANGUAGES[CODES[number % len(CODES)]].name)

    def body(self, number: int) -> dict[str, Any]:
        """The request."""
        file = io.BytesIO()
        self.picture(number).save(file, "PNG")
        url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": self.prompt(number)}]
        return {"messages": [{"role": "user", "content": parts}], "max_tokens": self.tokens}


def stock(folder: Path, job: Job, numbers: range) -> tuple[list[str], list[float], float]:
    """Answers, seconds of each request, processor seconds of all."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    start_first = getattr(model.config, "start_token", None) == "first"
    pictures = {number: job.picture(number) for number in numbers}
    generation = {**GENERATION, "max_new_tokens": job.tokens}
    answers, seconds, cpu = [], [], 0.0
    with torch.inference_mode():
        for number in (*numbers[:2], *numbers):  # the first two are asked once before, to warm up
            start, begun = time.perf_counter(), time.process_time()
            inputs = processor(images=pictures[number], text=job.prompt(number), return_tensors="pt")
            if start_first:  # as the card of an export says
                ids, count = inputs["input_ids"], model.config.num_query_tokens
                inputs["input_ids"] = ids[:, [count, *range(count), *range(count + 1, ids.shape[1])]]
            ids = model.generate(**inputs, **generation)
            if not model.config.text_config.is_encoder_decoder:
                ids = ids[:, inputs["input_ids"].shape[1] :]
            answers.append(processor.batch_decode(ids, skip_special_tokens=True)[0].strip())
            seconds.append(time.perf_counter() - start)
            cpu += time.process_time() - begun if len(seconds) > 2 else 0.0
    return answers[2:], seconds[2:], cpu


class Server:
    """``mblip serve`` in a process of its own, ended with the block."""

    def __init__(self, model: Path, *options: str) -> None:
        command = [sys.executable, "-m", "mblip", "serve", "--model", str(model), "--port", "0"]
        command += ["--quantization", "none", *options]  # int8 would not give the answers of stock fp32
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        assert self.process.stdout
        line = self.process.stdout.readline()
        self.url = line.removeprefix("listening on ").strip() + "/chat/completions"
        assert self.url.startswith("http://127.0.0.1:"), line
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        self.process.terminate()
        try:
            code = self.process.wait(120)
        finally:
            self.process.kill()
        assert kind is not None or code == 0, f"the server ended with {code}"

    def cpu_seconds(self) -> float:
        """Processor time since it was started."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> float:
        """What it holds now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


async def load(url: str, bodies: Sequence[dict[str, Any]], clients: int) -> Load:
    """Replies in order, seconds of each, seconds of all."""
    waiting = list(enumerate(bodies))[::-1]
    replies: dict[int, tuple[httpx.Response, float]] = {}
    limits = httpx.Limits(max_connections=clients)

    async def client(session: httpx.AsyncClient) -> None:
        while waiting:
            place, request = waiting.pop()
            start = time.perf_counter()
            reply = await session.post(url, json=request)
            replies[place] = reply, time.perf_counter() - start

    begun = time.perf_counter()
    async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    total = time.perf_counter() - begun
    found = [replies[place] for place in range(len(bodies))]
    return [reply for reply, _ in found], [seconds for _, seconds in found], total


def statuses(replies: Sequence[httpx.Response]) -> Counter[int]:
    return Counter(reply.status_code for reply in replies)


def text(reply: httpx.Response) -> str:
    return str(reply.json()["choices"][0]["message"]["content"])


def row(name: str, seconds: list[float], total: float, cpu: float) -> tuple[float, float]:
    p50, p95, p99 = (1000 * float(np.percentile(seconds, share)) for share in (50, 95, 99))
    rates = len(seconds) / total, len(seconds) / cpu
    print(f"{name:<22}{rates[0]:>8.2f}{rates[1]:>12.2f}{p50:>9.0f}{p95:>9.0f}{p99:>9.0f}", flush=True)
    return rates


def speed(folder: Path, job: Job, server: Server, requests: int, numbers: Sequence[int]) -> None:
    bodies = [job.body(number) for number in range(requests)]
    print(f"{'':<22}{'per s':>8}{'per CPU s':>12}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}")
    answers, seconds, cpu = stock(folder, job, range(requests))
    text_config = AutoConfig.from_pretrained(folder).text_config
    answers_may_differ = not text_config.is_encoder_decoder
    base = row("stock, one by one", seconds, sum(seconds), cpu)
    asyncio.run(load(server.url, [job.body(10**6)], 1))
    for clients in numbers:
        before = server.cpu_seconds()
        replies, seconds, total = asyncio.run(load(server.url, bodies, clients))
        assert statuses(replies) == {200: requests}
        rates = row(f"server, {clients} clients", seconds, total, server.cpu_seconds() - before)
        differing = sum(text(reply) != answer for reply, answer in zip(replies, answers, strict=True))
        print(f"{differing} of {requests} answers differ from stock", flush=True)
        # In decoder-only models stock's repetition penalty counts the prompt's tokens too; and the server ends loops.
        assert not differing or answers_may_differ, "the answers must be equal"
    print(
        f"at {numbers[-1]} clients {rates[0] / base[0]:.2f} times by the clock, {rates[1] / base[1]:.2f} by processor time"
    )


def memory(job: Job, server: Server, requests: int) -> None:
    held, counts = [], Counter[int]()
    for start in range(0, requests, 250):
        part = [job.body(10_000 + number) for number in range(start, min(requests, start + 250))]
        counts += statuses(asyncio.run(load(server.url, part, 32))[0])
        held.append(f"{server.memory_mib():.0f}")
    print(f"{requests} requests of 32 clients: {dict(counts)}; MiB after each 250: {' '.join(held)}", flush=True)
    assert counts == {200: requests}


def capacity(job: Job, server: Server) -> None:
    bodies = [job.body(number) for number in range(128)]
    replies, _, _ = asyncio.run(load(server.url, bodies, 64))
    counts = statuses(replies)
    waits = [
        int(reply.headers["retry-after"]) for reply in replies if reply.status_code == httpx.codes.TOO_MANY_REQUESTS
    ]
    recovered = statuses(asyncio.run(load(server.url, bodies[:4], 4))[0])
    wait = statistics.median(waits or [0])
    print(f"64 clients on a queue of 8: {dict(counts)}, Retry-After {wait} s; then 4 clients: {dict(recovered)}")
    assert set(counts) == {200, 429}
    assert recovered == {200: 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "model", nargs="?", default="", help="that mblip loads; the random one of middle size by default"
    )
    parser.add_argument("--requests", type=int, default=96, help="at each number of clients; 0: no timing")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS, help="so many ask at a time")
    parser.add_argument(
        "--asks", default="Objects in {language}:", help="the prompt, one that the model was trained on"
    )
    parser.add_argument("--memory", type=int, default=2000, help="requests over which memory is watched; 0: none")
    options = parser.parse_args()
    job = Job(not options.model, options.asks)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "stock"
        if options.model:
            export(load_model(options.model, dtype="fp32", merge=True).vlm, folder)
        else:
            random_model = build(False, "cpu")
            random_model.model.save_pretrained(folder)
            random_model.processor.save_pretrained(folder)
        with Server(folder) as server:
            if options.requests:
                speed(folder, job, server, options.requests, options.clients)
            if options.memory:
                memory(job, server, options.memory)
        with Server(folder, "--queue", "8", "--batch-size", "4") as server:
            capacity(job, server)


if __name__ == "__main__":
    main()
