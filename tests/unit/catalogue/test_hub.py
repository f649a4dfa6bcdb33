"""Files and checkpoints of the Hub: its own client against a small Hub on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from mblip.catalogue.entries import HubAddress
from mblip.catalogue.hub import refused

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "datasets/o/data": {"deep/list.json": b"[" + b"1," * 50_000 + b"1]"},
    "o/model": {
        "config.json": b"{}",
        "model.safetensors": b"w" * 1000,
        "pytorch_model.bin": b"p" * 1000,
        "README.md": b"r",
    },
}


class Hub(BaseHTTPRequestHandler):
    """As much of the Hub's interface as its client needs for public files."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def answer(self, body: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/"):
            _kind, _, rest = path.removeprefix("api/").partition("/")
            name = next((n for n in FILES if n.removeprefix("datasets/") == "/".join(rest.split("/")[:2])), "")
            files = [
                {"rfilename": file, "type": "file", "path": file, "size": len(content), "oid": "0" * 40}
                for file, content in FILES.get(name, {}).items()
            ]
            told = {"id": rest, "sha": COMMIT, "siblings": files, "private": False, "gated": False}
            self.send(json.dumps(files if "/tree/" in path else told).encode(), body, json=True)
            return
        name, _, rest = path.partition("/resolve/")
        content = FILES.get(name, {}).get(rest.partition("/")[2])
        if content is None:
            self.send(
                b"", body, status=404, headers={"X-Error-Code": "EntryNotFound" if name in FILES else "RepoNotFound"}
            )
            return
        etag = hashlib.sha256(content).hexdigest()
        self.send(content, body, headers={"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def send(
        self, content: bytes, body: bool, status: int = 200, json: bool = False, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if json else "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def run(hub: str, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, because the client reads its settings when it is imported."""
    environment = {**os.environ, "HF_ENDPOINT": hub, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
    environment["HF_HUB_DISABLE_XET"] = "1"
    command = [sys.executable, "-m", "mblip", "data", "download", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_files_and_checkpoints(hub: str, tmp_path: Path) -> None:
    content = FILES["datasets/o/data"]["deep/list.json"]
    own = tmp_path / "own.yaml"
    file = {"url": "hf://datasets/o/data/deep/list.json", "path": "mine/list.json"}
    stated = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    own.write_text(yaml.safe_dump({"mine": {"files": [{**file, **stated}], "licence": "CC0"}}))
    to = tmp_path / "data"
    done = run(hub, tmp_path, "mine", "o/model", "--to", str(to), "--catalogue", str(own), "--yes")
    assert done.returncode == 0, done.stderr
    assert (to / "mine/list.json").read_bytes() == content
    assert {path.name for path in (to / "mine").iterdir()} == {"list.json", ".list.json.fetched.json"}
    assert "checkpoint, into the cache of the Hub" in done.stdout and "from hf://o/model" in done.stdout
    fetched = {path.name for path in (tmp_path / "hf/hub/models--o--model/snapshots" / COMMIT).iterdir()}
    assert fetched == {"config.json", "model.safetensors"}  # never both formats of the weights
    again = run(hub, tmp_path, "mine", "o/model", "--to", str(to), "--catalogue", str(own))
    assert again.returncode == 0 and "everything is there" in again.stdout, again.stderr

    own.write_text(
        yaml.safe_dump({"mine": {"files": [{**file, "path": "b", "bytes": 3}, {**file, "url": file["url"] + "x"}]}})
    )
    wrong = run(hub, tmp_path, "mine", "--to", str(to / "other"), "--catalogue", str(own), "--yes")
    assert wrong.returncode == 2 and "Traceback" not in wrong.stderr
    assert "it has 100,003 bytes instead of 3; it has changed there" in wrong.stderr
    assert "the Hub has no deep/list.jsonx" in wrong.stderr and not (to / "other/b").exists()


def test_what_the_hub_refuses() -> None:
    GatedRepoError = type("GatedRepoError", (OSError,), {})
    address = HubAddress(repository="o/model")
    assert "must be requested: accept its terms" in str(refused(address, GatedRepoError()))
    told = str(refused(address, OSError("no route to host\nmore")))
    assert "no route to host)" in told and "HF_HUB_OFFLINE" in told
