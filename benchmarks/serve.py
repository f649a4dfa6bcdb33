"""The server against one request at a time in stock parts: python benchmarks/serve.py [MODEL] [--requests N] [--memory N].

Every request has a picture of its own (no cache helps) and asks for a caption in one of 8 languages with 5 beams. Stock is
transformers' Blip2ForConditionalGeneration and Blip2Processor on the exported model, called in a loop without HTTP in between.
The server is a process of its own; clients are on this machine and nothing else is contacted. Beside the clock, the table
gives processor time, which other work on the machine does not change.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import numpy as np
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from mblip.inference.predictor import GENERATION, load_model
from mblip.languages import LANGUAGES
from mblip.models.export import export
from mblip.nano.scenes import render, sample_scene
from mblip.nano.words import load_lexicon

CODES = ("sw", "de", "ja", "ar", "hi", "ru", "tr", "th")
CLIENTS = (1, 8, 32)


def picture(number: int) -> Image.Image:
    return render(sample_scene(np.random.default_rng(number), 1 + number % 3, sorted(load_lexicon().emoji)), 128)


def prompt(number: int) -> str:
    return f"Caption in {LANGUAGES[CODES[number % len(CODES)]].name}:"


def body(number: int) -> dict[str, object]:
    file = io.BytesIO()
    picture(number).save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt(number)}]
    return {"messages": [{"role": "user", "content": parts}]}


def stock(folder: Path, numbers: range) -> tuple[list[str], list[float], float]:
    """Answers, seconds of each request, processor seconds of all."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(folder)
    pictures = {number: picture(number) for number in numbers}
    answers, seconds = [], []
    begun = time.process_time()
    with torch.inference_mode():
        for number in numbers:
            start = time.perf_counter()
            inputs = processor(images=pictures[number], text=prompt(number), return_tensors="pt")
            ids = model.generate(**inputs, **GENERATION)
            answers.append(processor.batch_decode(ids, skip_special_tokens=True)[0].strip())
            seconds.append(time.perf_counter() - start)
    return answers, seconds, time.process_time() - begun


class Server:
    """``mblip serve`` in a process of its own."""

    def __init__(self, model: str, *options: str) -> None:
        command = [sys.executable, "-m", "mblip", "serve", "--model", model, "--port", "0", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.url = self.process.stdout.readline().removeprefix("listening on ").strip() + "/chat/completions"

    def cpu_seconds(self) -> float:
        """Processor time since it was started."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> float:
        """What it holds now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def stop(self) -> int:
        """Its exit code after SIGTERM."""
        self.process.terminate()
        return self.process.wait()


async def load(
    url: str, bodies: list[dict[str, object]], clients: int
) -> tuple[list[httpx.Response], list[float], float]:
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
    async with httpx.AsyncClient(timeout=600, limits=limits) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    total = time.perf_counter() - begun
    return (
        [replies[place][0] for place in range(len(bodies))],
        [replies[place][1] for place in range(len(bodies))],
        total,
    )


def text(reply: httpx.Response) -> str:
    return str(reply.json()["choices"][0]["message"]["content"])


def row(name: str, seconds: list[float], total: float, cpu: float) -> None:
    p50, p95, p99 = (1000 * float(np.percentile(seconds, share)) for share in (50, 95, 99))
    count = len(seconds)
    print(f"{name:<22}{count / total:>8.1f}{count / cpu:>12.1f}{p50:>9.0f}{p95:>9.0f}{p99:>9.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="runs/quickstart/multilingual-1")
    parser.add_argument("--requests", type=int, default=128, help="at each number of clients")
    parser.add_argument(
        "--memory", type=int, default=2000, help="requests after which memory is read again; 0 for none"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "stock"
        export(load_model(options.model, dtype="fp32", merge=True), folder)
        bodies = [body(number) for number in range(options.requests)]
        print(f"{'':<22}{'per s':>8}{'per CPU s':>12}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}")
        stock(folder, range(4))
        answers, seconds, cpu = stock(folder, range(options.requests))
        row("stock, one by one", seconds, sum(seconds), cpu)
        server = Server(str(folder))
        for clients in CLIENTS:
            before = server.cpu_seconds()
            replies, seconds, total = asyncio.run(load(server.url, bodies, clients))
            assert [reply.status_code for reply in replies] == [200] * len(bodies)
            row(f"server, {clients} clients", seconds, total, server.cpu_seconds() - before)
            differing = sum(text(reply) != answer for reply, answer in zip(replies, answers, strict=True))
            assert not differing, f"{differing} answers differ from stock"
        if options.memory:
            at_first = server.memory_mib()
            statuses: Counter[int] = Counter()
            for start in range(0, options.memory, 200):
                part = [body(10_000 + start + number) for number in range(min(200, options.memory - start))]
                replies, _, _ = asyncio.run(load(server.url, part, 32))
                statuses.update(reply.status_code for reply in replies)
            print(f"{options.memory} more requests: {dict(statuses)}, {at_first:.0f} -> {server.memory_mib():.0f} MiB")
        assert server.stop() == 0
        small = Server(str(folder), "--queue", "8", "--batch-size", "4")
        replies, _, _ = asyncio.run(load(small.url, bodies, 64))
        counts = Counter(reply.status_code for reply in replies)
        waits = [int(reply.headers["retry-after"]) for reply in replies if reply.status_code == 429]
        again, _, _ = asyncio.run(load(small.url, bodies[:4], 4))
        recovered = Counter(reply.status_code for reply in again)
        wait = statistics.median(waits or [0])
        print(f"64 clients on a queue of 8: {dict(counts)}, Retry-After {wait} s; then {dict(recovered)}")
        assert set(counts) == {200, 429}
        assert set(recovered) == {200}
        assert small.stop() == 0
    print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
