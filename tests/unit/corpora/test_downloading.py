"""Fetching images from a server on this machine that misbehaves in every usual way."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mblip.corpora import downloading
from mblip.corpora.downloading import DownloadLimits, download_images
from mblip.errors import InputError
from mblip.storage import open_images


def _picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


class _Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        self.asked: list[tuple[str, float]] = []
        self.agents: set[str] = set()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.asked.append((self.path, time.monotonic()))
        self.server.agents.add(self.headers["User-Agent"])
        times = sum(path == self.path for path, _ in self.server.asked)
        kind = self.path.strip("/").partition("-")[0]
        status, headers, body = 200, {}, _picture(int(kind) % 256) if kind.isdecimal() else b""
        if kind == "gone":
            status = 404
        elif kind == "busy" and times == 1:
            status, headers = 503, {"Retry-After": "0"}
        elif kind == "busy":
            body = _picture(1)
        elif kind == "down":
            status = 500
        elif kind == "page":
            body = b"<html>"
        elif kind == "large":
            body = b"x" * 5000
        elif kind == "noai":
            headers, body = {"X-Robots-Tag": "otherbot: none, noai"}, _picture(2)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Server]:
    monkeypatch.setattr(downloading, "_WAITS", (0.01, 0.01))
    server = _Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


LIMITS = DownloadLimits(threads=4, delay=0.0, timeout=5.0, most_bytes=4000)


def _numbers(server: _Server, count: int) -> list[tuple[str, str]]:
    return [(f"{n:02d}/{n}.png", f"{server.base}/{n}") for n in range(count)]


def test_what_came_and_what_did_not(server: _Server, tmp_path: Path) -> None:
    kinds = ["7", "gone", "busy", "down", "page", "large", "noai"]
    images = [(f"{kind}.png", f"{server.base}/{kind}") for kind in kinds] + [("file.png", "file:///etc/passwd")]
    counts = download_images(images, tmp_path, tar=False, limits=LIMITS)
    assert counts == {
        "fetched": 2, "HTTP 404": 1, "HTTP 500": 1, "not an image": 1, "too large": 1, "opted out": 1,
        "not an http address": 1,
    }  # fmt: skip
    assert Counter(path for path, _ in server.asked) == {
        f"/{kind}": {"busy": 2, "down": 3}.get(kind, 1) for kind in kinds
    }
    assert all(agent.startswith("mblip/") for agent in server.agents)
    rows = [json.loads(line) for line in (tmp_path / "00000.jsonl").read_text().splitlines()]
    assert rows[0]["sha256"] == hashlib.sha256(_picture(7)).hexdigest() and rows[0]["bytes"] == len(_picture(7))
    assert open_images(tmp_path).get("7.png").size == (9, 7)
    assert "gone.png" not in open_images(tmp_path)


def test_tars_are_an_image_store_and_are_never_fetched_twice(server: _Server, tmp_path: Path) -> None:
    images = _numbers(server, 25)
    assert download_images([*images, images[3]], tmp_path, per_shard=10, limits=LIMITS) == {"fetched": 25}
    store = open_images(f"{tmp_path}/*.tar")
    assert [np.asarray(store.get(key))[0, 0, 0] for key, _ in images] == list(range(25))
    asked = len(server.asked)
    (tmp_path / "00001.jsonl").unlink()  # as if the run had been stopped in the second shard
    assert download_images(images, tmp_path, per_shard=10, limits=LIMITS) == {"fetched": 25}
    assert len(server.asked) == asked + 10


def test_one_request_at_a_time_to_a_host_and_a_pause_between(server: _Server, tmp_path: Path) -> None:
    download_images(_numbers(server, 6), tmp_path, limits=DownloadLimits(threads=6, delay=0.05))
    times = sorted(when for _, when in server.asked)
    assert min(b - a for a, b in itertools.pairwise(times)) > 0.045


def test_another_list_in_the_same_folder_is_refused(server: _Server, tmp_path: Path) -> None:
    download_images(_numbers(server, 3), tmp_path, limits=LIMITS)
    with pytest.raises(InputError, match="belongs to another list of images"):
        download_images(_numbers(server, 4), tmp_path, limits=LIMITS)


def test_sampled_examples_are_fetched(server: _Server, tmp_path: Path) -> None:
    from mblip.config import DataRecipe, SourceSection
    from mblip.corpora import sample_sources
    from mblip.corpora.sampling import sampled_urls

    rows = [{"caption": f"caption {n}", "url": f"{server.base}/{n}"} for n in range(5)] + [{"caption": "no url"}]
    (tmp_path / "ccs.json").write_text(json.dumps(rows))
    options = {"path": str(tmp_path / "ccs.json"), "most": 0}
    source = SourceSection(name="web", reader="web_capfilt", options=options)
    recipe = DataRecipe(title="t", sources=(source,), bad_rows="drop")
    stage = sample_sources(recipe, tmp_path / "work")["web"]
    assert (stage.manifest.rows, stage.manifest.drops) == (5, {"bad row": 1})
    assert download_images(sampled_urls(recipe, tmp_path / "work"), tmp_path / "images", limits=LIMITS) == {
        "fetched": 5
    }
    store = open_images(f"{tmp_path}/images/*.tar")
    assert all(key in store for (images,) in stage.reader.columns("images") for keys in images for key in keys)
