"""Evaluations of an endpoint as a whole: nothing that was answered is lost or asked twice, and one item stops no other."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests import evaluation_data as data
from tests.killed import At, Commands
from typer.testing import CliRunner

from mblip.cli.app import app
from mblip.config import EvalRecipe
from mblip.errors import InputError, RemoteError
from mblip.evaluation.answerers import openai
from mblip.evaluation.benchmarks import EVALUATED
from mblip.evaluation.evaluate import RuntimeOptions, evaluate
from mblip.evaluation.results import read_missing, read_predictions, read_run
from mblip.schema import Score

Behave = Callable[["Stub", str], None]


class Stub(BaseHTTPRequestHandler):
    """Says yes, unless ``behave`` says something else; counts what it is asked."""

    asked: Counter[str]
    bodies: list[dict[str, Any]]
    behave: Behave | None = None
    lock = threading.Lock()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"][-1]["text"]
        with self.lock:
            self.asked[question] += 1
            self.bodies.append(body)
        try:
            if type(self).behave:
                type(self).behave(self, question)
            else:
                self.say("yes")
        except (BrokenPipeError, ConnectionResetError):  # the client was killed
            self.close_connection = True

    def say(self, text: str | None, finish: str = "stop", **message: Any) -> None:
        choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
        self.send(200, json.dumps({"choices": [choice]}).encode())

    def send(self, status: int, content: bytes, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@pytest.fixture
def stub() -> Iterator[str]:
    Stub.asked, Stub.bodies, Stub.behave = Counter(), [], None
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mblip.endpoint._WAITS", (0.01, 0.02, 0.03))


def pope(root: Path, items: int) -> Path:
    """Questions about five pictures."""
    rows = [
        {
            "question_id": n,
            "image": f"COCO_val2014_{n % 5:012d}.jpg",
            "text": f"Is there a thing {n:04d}?",
            "label": "yes",
        }
        for n in range(items)
    ]
    path = root / "pope/coco_pope_random.json"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data.pictures(root, EVALUATED["pope_random"], "en")
    return root


def run(
    root: Path, url: str, to: str = "out", *, model: str = "m", allow_missing: bool = False, **machine: Any
) -> Score:
    recipe = EvalRecipe(title="test", benchmarks=("pope_random",))
    options = RuntimeOptions(endpoint=url, allow_missing=allow_missing, **{"batch_size": 4, **machine})
    (score,) = evaluate(model, recipe, root, root.parent / to, options)
    return score


def test_twenty_kills_lose_nothing_and_ask_nothing_twice(tmp_path: Path, stub: str, commands: Commands) -> None:
    items, kills, under_way = 300, 20, 8
    root, out = pope(tmp_path / "data", items), tmp_path / "out"
    draw = random.Random(0)
    commands.load("mblip.evaluation.runner")
    Stub.behave = lambda handler, question: handler.say("yes" if int(question[-5:-1]) % 2 else "no")
    command = [
        "eval", "m", "--suite", "pope_random", "--data", str(root), "--to", str(out), "--endpoint", stub,
        "--batch-size", str(under_way),
    ]  # fmt: skip
    path, held = out / "predictions/pope_random-en.jsonl", 0
    for kill in range(kills):
        rows, share = draw.randint(1, 20), (1.0, 0.5, 0.0)[kill % 3]
        commands.killed(At(append=path.name, calls=rows, share=share), *command)
        whole = [row for row in path.read_bytes().splitlines(keepends=True) if row.endswith(b"\n")]
        held += rows - (share < 1)
        assert len({json.loads(row)["id"] for row in whole}) == len(whole) == held, f"after kill {kill}"
    assert held < items, "the run ended before the last kill: it proves nothing"
    assert commands.run(*command).code == 0
    answers = read_predictions(out, "pope_random", "en")
    assert len(answers) == items == len(path.read_text().splitlines())
    assert all(row.answer == ("yes" if int(name) % 2 else "no") for name, row in answers.items())
    assert len(Stub.asked) == items
    assert sum(Stub.asked.values()) <= items + kills * under_way, "more was asked than what was under way"


def test_a_slow_request_holds_up_no_other(tmp_path: Path, stub: str) -> None:
    """The slow one is answered when all others have been, which never happens where they wait for it."""
    root, out = pope(tmp_path / "data", 60), tmp_path / "out"
    waited: list[bool] = []

    def one_slow(handler: Stub, question: str) -> None:
        if "0000" in question:
            path = out / "predictions/pope_random-en.jsonl"
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not (path.exists() and path.read_text().count("\n") == 59):
                time.sleep(0.01)
            waited.append(path.read_text().count("\n") == 59)
        handler.say("yes")

    Stub.behave = one_slow
    assert run(root, stub, batch_size=3).n == 60
    assert waited == [True]


def test_benchmarks_that_are_decoded_otherwise_do_not_wait_either(tmp_path: Path, stub: str) -> None:
    root, out = pope(tmp_path / "data", 6), tmp_path / "out"
    data.coco(root)
    data.pictures(root, EVALUATED["coco"], "en")
    seen: list[bool] = []

    def one_slow(handler: Stub, question: str) -> None:
        if "0000" in question:
            deadline = time.monotonic() + 30
            path = out / "predictions/coco-en.jsonl"
            while time.monotonic() < deadline and not path.exists():
                time.sleep(0.01)
            seen.append(path.exists())
        handler.say("yes")

    Stub.behave = one_slow
    recipe = EvalRecipe(title="test", benchmarks=("pope_random", "coco"))
    scores = evaluate("m", recipe, root, out, runtime=RuntimeOptions(endpoint=stub, batch_size=2))
    assert [score.n for score in scores] == [6, 1] and seen == [True]


def _reset(handler: Stub) -> None:
    handler.wfile.write(b"NONSENSE\r\n\r\n")
    handler.close_connection = True


FAILURES: dict[str, Callable[[Stub], None]] = {
    "a content filter's 400": lambda h: h.send(
        400, b'{"error": {"code": "content_filter", "message": "It was filtered."}}'
    ),
    "422": lambda h: h.send(422, b'{"detail": "the picture is too small"}'),
    "413 in words": lambda h: h.send(413, b"too large"),
    "500 every time": lambda h: h.send(500, b"oops"),
    "broken HTTP": _reset,
    "cut off": lambda h: h.send(200, b'{"choices": [{"mess', 4000),
    "no JSON": lambda h: h.send(200, b"<html>gateway</html>"),
    "deeply nested JSON": lambda h: h.send(200, b'{"choices": ' + b"[" * 200_000),
    "no choices": lambda h: h.send(200, b'{"choices": []}'),
    "an error with status 200": lambda h: h.send(200, b'{"error": {"message": "no room"}}'),
    "no text": lambda h: h.say(None, "content_filter"),
    "only reasoning": lambda h: h.say("<think>It could be that", "length"),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_one_item_without_an_answer_stops_no_other(tmp_path: Path, stub: str, kind: str) -> None:
    root = pope(tmp_path / "data", 12)

    def one_fails(handler: Stub, question: str) -> None:
        if "0003" in question:
            FAILURES[kind](handler)
        else:
            handler.say("yes")

    Stub.behave = one_fails
    with pytest.raises(
        InputError, match=r"1 item has no answer: pope_random \(en\) '3': .*same command.*--allow-missing"
    ):
        run(root, stub)
    out = tmp_path / "out"
    assert len(read_predictions(out, "pope_random", "en")) == 11, "all others are answered"
    assert list(read_missing(out, "pope_random", "en")) == ["3"]
    asked = Counter(Stub.asked)
    score = run(root, stub, allow_missing=True)
    assert (score.n, score.fingerprint["without_answer"]) == (11, 1)
    assert {question for question, count in Stub.asked.items() if count > asked[question]} == {"Is there a thing 0003?"}
    Stub.behave = None
    score = run(root, stub)  # mended, it goes on
    assert score.n == 12 and "without_answer" not in score.fingerprint and not read_missing(out, "pope_random", "en")


@pytest.mark.parametrize("answer", ["yes \ud800", "\0yes\0", "yes\r\n", "\u2028yes", "﻿yes", "yes" + "\\" * 999])
def test_strange_characters_in_an_answer_break_neither_scores_nor_the_rerun(
    tmp_path: Path, stub: str, answer: str
) -> None:
    root = pope(tmp_path / "data", 3)
    data.coco(root)
    data.pictures(root, EVALUATED["coco"], "en")
    Stub.behave = lambda handler, question: handler.say(answer)
    recipe = EvalRecipe(title="test", benchmarks=("pope_random", "coco"))
    first = evaluate("m", recipe, root, tmp_path / "out", runtime=RuntimeOptions(endpoint=stub))
    count = sum(Stub.asked.values())
    assert evaluate("m", recipe, root, tmp_path / "out", runtime=RuntimeOptions(endpoint=stub)) == first
    assert sum(Stub.asked.values()) == count == 4


def test_what_fails_for_everybody_stops_and_says_how_to_go_on(tmp_path: Path, stub: str) -> None:
    root = pope(tmp_path / "data", 30)
    answered = [0]

    def runs_out(handler: Stub, question: str) -> None:
        answered[0] += 1
        if answered[0] > 10:
            handler.send(401, b'{"error": {"message": "the key has expired"}}')
        else:
            handler.say("yes")

    Stub.behave = runs_out
    with pytest.raises(InputError, match=r"the key has expired.*then run the same command again"):
        run(root, stub)
    held = len(read_predictions(tmp_path / "out", "pope_random", "en"))
    assert held == 10
    assert sum(Stub.asked.values()) <= 10 + 4
    Stub.behave = None
    assert run(root, stub).n == 30
    assert sum(Stub.asked.values()) <= 30 + 4


def test_an_endpoint_that_answers_nobody_is_not_asked_everything(
    tmp_path: Path, stub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "_SILENT", 5)
    root = pope(tmp_path / "data", 60)
    Stub.behave = lambda handler, question: handler.say(None, "length")
    with pytest.raises(RemoteError, match=r"none of the first 5 requests had an answer.*turn its reasoning off"):
        run(root, stub)
    assert sum(Stub.asked.values()) < 20


def test_a_model_that_takes_one_picture_skips_the_benchmarks_of_two(
    tmp_path: Path, stub: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = pope(tmp_path / "data", 4)
    data.nlvr2(root)
    data.pictures(root, EVALUATED["nlvr2"], "en")

    def one_picture(handler: Stub, question: str) -> None:
        if "two images" in question:
            handler.send(400, b'{"error": {"message": "At most 1 image(s) may be provided"}}')
        else:
            handler.say("yes")

    Stub.behave = one_picture
    recipe = EvalRecipe(title="test", benchmarks=("nlvr2", "pope_random"))
    scores = evaluate("m", recipe, root, tmp_path / "out", runtime=RuntimeOptions(endpoint=stub))
    assert [score.benchmark for score in scores] == ["pope_random"]
    (line,) = caplog.messages
    assert line.startswith("nlvr2 (en) is skipped") and "At most 1 image(s)" in line


def test_retry_after_is_honoured(tmp_path: Path, stub: str) -> None:
    root = pope(tmp_path / "data", 2)
    times: list[float] = []

    def busy_once(handler: Stub, question: str) -> None:
        if "0001" in question:
            times.append(time.monotonic())
            if len(times) == 1:
                handler.send(429, b"{}", Retry_After="1")
                return
        handler.say("yes")

    Stub.behave = busy_once
    assert run(root, stub).n == 2
    assert times[1] - times[0] >= 1.0


def test_reasoning_is_taken_off_and_the_fingerprint_says_so(tmp_path: Path, stub: str) -> None:
    root = pope(tmp_path / "data", 6)
    replies = [
        "<think>\n\n</think>\n\nyes",
        "<think>no, no</think>yes",
        "[THINK]not[/THINK]yes",
        "yes<|im_end|>",
        "yes",
        "yes",
    ]
    Stub.behave = lambda handler, question: handler.say(replies[int(question[-5:-1])])
    score = run(root, stub)
    assert score.metrics["accuracy"] == 100 and "reasoning" in score.fingerprint["model"]["replies"]


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "extra field": ({"extra_body": {"top_k": 1}}, "extra body, top_k None, not 1"),
    "a field that decides the length": ({"extra_body": {"max_tokens": 99}}, "extra body, max_tokens None, not 99"),
    "a field taken away": ({"extra_body": {"temperature": None, "seed": 1}}, "extra body, seed None, not 1"),
    "the model's name": ({"model": "other"}, "model 'm', not 'other'"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_what_decides_answers_is_another_run(tmp_path: Path, stub: str, change: str) -> None:
    root = pope(tmp_path / "data", 3)
    run(root, stub)
    count = sum(Stub.asked.values())
    options, message = CHANGES[change]
    with pytest.raises(InputError, match=f"holds an evaluation with {message}; name another folder with --to"):
        run(root, stub, **options)
    assert sum(Stub.asked.values()) == count, "nothing was asked"
    assert run(root, stub).n == 3  # and the old one still goes on


def test_extra_fields_reach_the_endpoint(tmp_path: Path, stub: str) -> None:
    root = pope(tmp_path / "data", 2)
    arguments = [
        "eval",
        "m",
        "--suite",
        "pope_random",
        "--data",
        str(root),
        "--to",
        str(tmp_path / "out"),
        "--endpoint",
        stub,
    ]
    extra = '{"max_tokens": null, "max_completion_tokens": 500, "chat_template_kwargs": {"enable_thinking": false}}'
    done = CliRunner().invoke(app, [*arguments, "--extra-body", extra], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    body = Stub.bodies[0]
    assert "max_tokens" not in body and body["max_completion_tokens"] == 500 and body["temperature"] == 0
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert read_run(tmp_path / "out").decoding["pope_random"]["decoding"]["max_completion_tokens"] == 500
    for wrong, message in (
        ("{", "is not valid JSON"),
        ("[1]", "must be a JSON object"),
        ('{"messages": []}', "sets 'messages', which the evaluation sets itself"),
    ):
        with pytest.raises(InputError, match=message):
            CliRunner().invoke(app, [*arguments, "--extra-body", wrong], catch_exceptions=False)
    with pytest.raises(InputError, match="name one with --endpoint"):
        evaluate(
            "dummy",
            EvalRecipe(title="t", benchmarks=("pope_random",)),
            root,
            tmp_path / "d",
            runtime=RuntimeOptions(extra_body={"a": 1}),
        )
