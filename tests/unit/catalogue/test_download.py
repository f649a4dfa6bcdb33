"""``mblip data download`` against a local server: plan, consent, several files at once, unpacking, reruns, kill -9."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.unit.catalogue.server import Page, Site, serve
from tests.unit.catalogue.test_unpacking import make_tar, make_zip
from typer.testing import CliRunner

from mblip.catalogue.answers import Patience
from mblip.catalogue.download import make_plan, run_plan
from mblip.catalogue.entries import read_catalogue
from mblip.catalogue.receipts import receipt_of
from mblip.cli.app import app
from mblip.errors import InputError

FAST = Patience(tries=4, first_wait=0.002, longest_wait=0.01, timeout=5.0)
CONTENT = random.Random(0).randbytes(300_000)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as found:
        yield found


def catalogue(tmp_path: Path, **sets: Any) -> Path:
    path = tmp_path / "catalogue.yaml"
    path.write_text(yaml.safe_dump(sets), encoding="utf-8")
    return path


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["data", "download", *map(str, arguments)])


def stated(site: Site, path: str, content: bytes, to: str = "", **how: Any) -> dict[str, Any]:
    site.add(path, content, **how)
    return {"url": site.url + path, "path": to or path[1:], "bytes": len(content), "sha256": sha(content)}


def test_files_come_verified_and_a_rerun_does_nothing(site: Site, tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "z", {"train/a.jpg": b"1", "train/b.jpg": b"2"}).read_bytes()
    files = [stated(site, "/a.json", CONTENT, "deep/a.json"), stated(site, "/p.zip", archive, "images/p.zip")]
    site.add("/unstated", b"abc")
    files.append({"url": f"{site.url}/unstated"})
    own = catalogue(tmp_path, mine={"files": files, "licence": "CC0", "notes": "of mine"})
    to = tmp_path / "data"

    refused = run("mine", "--to", to, "--catalogue", own)
    assert isinstance(refused.exception, InputError) and "add --yes to fetch it" in str(refused.exception)
    assert (
        "licence: CC0" in refused.output
        and "deep/a.json: 300 kB" in refused.output
        and "note: of mine" in refused.output
    )
    assert "unstated: 3 bytes" in refused.output and not to.exists()

    done = run("mine", "--to", to, "--catalogue", own, "--yes")
    assert done.exit_code == 0, done.output
    assert (to / "deep/a.json").read_bytes() == CONTENT and (to / "images/train/b.jpg").read_bytes() == b"2"
    assert (to / "unstated").read_bytes() == b"abc"
    visible = {path.relative_to(to).as_posix() for path in to.rglob("*") if path.is_file() and path.name[0] != "."}
    assert visible == {"deep/a.json", "images/p.zip", "images/train/a.jpg", "images/train/b.jpg", "unstated"}
    sent = sum(page.sent for page in site.pages.values())

    again = run("mine", "--to", to, "--catalogue", own)  # nothing to ask
    assert again.exit_code == 0 and "everything is there" in again.output
    assert sum(page.sent for page in site.pages.values()) == sent

    (to / "deep/a.json").write_bytes(CONTENT[:-1])
    (to / "images/train/a.jpg").unlink()
    (to / "images/train/b.jpg").unlink()
    (to / "images/train").rmdir()
    mended = run("mine", "--to", to, "--catalogue", own, "--yes")
    assert "again, because it has 299,999 bytes instead of 300,000" in mended.output
    assert "images/p.zip: there, to be unpacked" in mended.output
    assert (to / "deep/a.json").read_bytes() == CONTENT and (to / "images/train/a.jpg").read_bytes() == b"1"


def test_a_changed_byte_is_found(site: Site, tmp_path: Path) -> None:
    own = catalogue(tmp_path, mine={"files": [stated(site, "/a", CONTENT)]})
    run("mine", "--to", tmp_path / "data", "--catalogue", own, "--yes")
    path = tmp_path / "data/a"
    path.write_bytes(b"x" + CONTENT[1:])
    os.utime(path, (1, 1))
    assert "its SHA-256 is" in run("mine", "--to", tmp_path / "data", "--catalogue", own, "--yes").output
    assert path.read_bytes() == CONTENT


def test_what_fails_does_not_stop_the_others(site: Site, tmp_path: Path) -> None:
    bad = make_tar(tmp_path / "b", {"../x": b"1"}).read_bytes()
    files = [stated(site, "/a", CONTENT), stated(site, "/bad.tar", bad), {"url": f"{site.url}/none", "path": "none"}]
    files.append({**stated(site, "/wrong", CONTENT), "sha256": "0" * 64})
    own = catalogue(tmp_path, mine={"files": files})
    done = run("mine", "--to", tmp_path / "data", "--catalogue", own, "--yes")
    assert isinstance(done.exception, InputError) and "3 of 4 files could not be downloaded" in str(done.exception)
    assert "leaves its folder by '..'" in str(done.exception) and "2 more failed" in str(done.exception)
    assert (tmp_path / "data/a").read_bytes() == CONTENT and not (tmp_path / "x").exists()
    assert not (tmp_path / "data/wrong").exists() and not (tmp_path / "data/none").exists()


def test_several_at_once(site: Site, tmp_path: Path) -> None:
    def slow(page: Page) -> None:
        time.sleep(0.05)

    files = [stated(site, f"/{number}", CONTENT, hook=slow) for number in range(8)]
    own = catalogue(tmp_path, mine={"files": files})
    plan = make_plan(read_catalogue(own).values(), tmp_path / "data")
    told: list[tuple[int, int | None]] = []
    run_plan(plan, jobs=4, patience=FAST, progress=lambda stage, done, total: told.append((done, total)))
    assert site.busiest == 4
    assert told[0] == (0, 2_400_000) and told[-1] == (2_400_000, 2_400_000)


def test_only_one_process_writes_a_file(site: Site, tmp_path: Path) -> None:
    from mblip.storage import exclusive_lock

    own = catalogue(tmp_path, mine={"files": [stated(site, "/a", CONTENT), stated(site, "/b", CONTENT)]})
    plan = make_plan(read_catalogue(own).values(), tmp_path / "data")
    with (
        exclusive_lock(tmp_path / "data/a", "downloading"),
        pytest.raises(InputError, match="another process is downloading there"),
    ):
        run_plan(plan, patience=FAST)
    assert (tmp_path / "data/b").exists() and not (tmp_path / "data/a").exists()
    run_plan(plan, patience=FAST)
    assert (tmp_path / "data/a").read_bytes() == CONTENT
    assert not [path for path in (tmp_path / "data").iterdir() if "lock" in path.name or "part" in path.name]


def test_archives_can_be_removed(site: Site, tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "t", {"x": b"1"}, "w:gz").read_bytes()
    own = catalogue(tmp_path, mine={"files": [{**stated(site, "/a.tgz", archive), "unpack": "inside"}]})
    to = tmp_path / "data"
    assert run("mine", "--to", to, "--catalogue", own, "--yes", "--remove-archives").exit_code == 0
    assert (to / "inside/x").read_bytes() == b"1" and not (to / "a.tgz").exists()
    assert "everything is there" in run("mine", "--to", to, "--catalogue", own).output
    receipt = receipt_of(to / "a.tgz")
    assert receipt and receipt.unpacked and receipt.unpacked["files"] == 1


def test_files_that_must_be_asked_for(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "z", {"x": b"1"}).read_bytes()
    files = [{"path": "got.zip", "bytes": len(archive), "sha256": sha(archive)}, {"path": "photos"}]
    own = catalogue(tmp_path, mine={"files": files, "ask": "by the form https://example.org/form"})
    to = tmp_path / "data"
    first = run("mine", "--to", to, "--catalogue", own, "--yes")
    assert "https://example.org/form" in first.output and f"put it at {to}/got.zip" in first.output
    assert isinstance(first.exception, InputError) and f"{to}/got.zip, {to}/photos must be obtained" in str(
        first.exception
    )
    (to / "photos").mkdir(parents=True)
    (to / "photos/.DS_Store").touch()  # an empty folder holds no photos
    (to / "got.zip").write_bytes(archive)
    empty = run("mine", "--to", to, "--catalogue", own, "--yes")
    assert f"{to}/photos must be obtained" in str(empty.exception)
    (to / "photos/1.jpg").touch()
    second = run("mine", "--to", to, "--catalogue", own, "--yes")
    assert second.exit_code == 0 and (to / "x").read_bytes() == b"1"
    assert "everything is there" in run("mine", "--to", to, "--catalogue", own).output


def test_what_no_catalogue_has_is_asked_for_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of a suite come from their publishers: nothing was fetched, so that is no success."""
    monkeypatch.chdir(tmp_path)
    first = run("m3exam", "--yes")
    assert isinstance(first.exception, InputError) and "and 4 more must be obtained by hand" in str(first.exception)
    assert "by hand from https://huggingface.co/datasets/floschne/multimodal-m3exam" in first.output
    assert first.output.count("put it at data/m3exam/data/") == 9
    table = {"path": "mine/{code}.csv", "task": "caption", "languages": ["sw", "de"], "images": ["mine/pictures", "p"]}
    Path("own.yaml").write_text(yaml.safe_dump({"title": "own", "kind": "eval", "tables": [table]}))
    lacking = run("own.yaml", "--to", "d")
    assert "put it at d/mine/pictures or d/p\n" in lacking.output and "which no catalogue has" in lacking.output
    Path("d/mine").mkdir(parents=True)
    for name in ("sw.csv", "de.csv", "pictures.tar"):
        (Path("d/mine") / name).touch()
    there = run("own.yaml", "--to", "d")
    assert there.exit_code == 0 and there.output == "nothing to download for own.yaml\n"
    # The photos of Multi30K are in the catalogue.
    assert "https://forms.illinois.edu/sec/229675" in run("multi30k").output
    source = {"name": "mine", "reader": "table", "options": {"path": "no/mine.csv", "task": "text", "licence": "CC0"}}
    Path("data.yaml").write_text(yaml.safe_dump({"title": "own", "sources": [source]}))
    assert "no/mine.csv must be obtained by hand" in str(run("data.yaml", "--to", "d").exception)
    Path("no").mkdir()
    Path("no/mine.csv").touch()
    assert run("data.yaml", "--to", "d").exit_code == 0


def test_what_makes_its_own_items_needs_no_download(tmp_path: Path) -> None:
    for name in ("scenes", "nano_scenes"):
        done = run(name, "--to", tmp_path)
        assert done.exit_code == 0 and done.output == f"nothing to download for {name}\n"


def test_a_place_that_is_taken_is_told_before_anything_is_fetched(site: Site, tmp_path: Path) -> None:
    own = catalogue(tmp_path, mine={"files": [stated(site, "/a", CONTENT, "x/a")]})
    (tmp_path / "one/x/a").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    (tmp_path / "two/x").touch()
    said = ["x/a is a folder, where a file must be put", "two/x is a file, where a folder must be made"]
    for name, why in zip(("one", "two"), said, strict=True):
        done = run("mine", "--to", tmp_path / name, "--catalogue", own, "--yes")
        assert isinstance(done.exception, InputError) and why in str(done.exception)
    assert not site.pages["/a"].sent


def test_the_disk_is_looked_at_first(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = catalogue(tmp_path, mine={"files": [stated(site, "/a", CONTENT)]})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    done = run("mine", "--to", tmp_path / "data", "--catalogue", own, "--yes")
    assert "has 1,000 bytes free, but 300,000 must be downloaded" in str(done.exception)
    assert not site.pages["/a"].sent


def _start(own: Path, to: Path, limit: int = 0) -> subprocess.Popen[str]:
    program = (
        "import resource, sys\nfrom mblip.cli.app import main\n"
        + (f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n" if limit else "")
        + "main()"
    )
    command = [
        sys.executable,
        "-c",
        program,
        "data",
        "download",
        "mine",
        "--to",
        str(to),
        "--catalogue",
        str(own),
        "--yes",
    ]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(site: Site, tmp_path: Path) -> None:
    own = catalogue(tmp_path, mine={"files": [stated(site, "/a", CONTENT)]})
    process = _start(own, tmp_path / "data", limit=100_000)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and "cannot write" in said and "File too large; the received part is kept" in said
    assert "Traceback" not in said and not (tmp_path / "data/a").exists()
    assert (tmp_path / "data/.a.part").stat().st_size == 100_000
    assert run("mine", "--to", tmp_path / "data", "--catalogue", own, "--yes").exit_code == 0
    assert (tmp_path / "data/a").read_bytes() == CONTENT
    assert site.pages["/a"].requests[-1]["range"] == "bytes=100000-"


def test_kill_9_and_the_same_command_again(site: Site, tmp_path: Path) -> None:
    """Killed in the middle of a file, twice; what had come is not fetched again, and no half file is ever under its name."""
    contents = {f"/{number}": random.Random(number).randbytes(1_000_000) for number in range(3)}
    files = [stated(site, path, content) for path, content in contents.items()]
    own = catalogue(tmp_path, mine={"files": files})
    for cuts in ([300_000], [200_000]):
        waits = []
        for page in site.pages.values():
            page.breaks = [*cuts]  # then the connection is cut, and the next answer is held back until the kill
            seen = len([request for request in page.requests if request["method"] == "GET"])

            def hold(page: Page, seen: int = seen) -> None:
                if len(page.requests) > seen + 1 and not page.breaks:
                    time.sleep(30 if page.hook else 0)

            page.hook = hold
            waits.append(page)
        process = _start(own, tmp_path / "data")
        deadline = time.monotonic() + 50
        while any(page.breaks for page in waits) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not [path for path in (tmp_path / "data").iterdir() if path.name[0] != "."]
        for page in site.pages.values():
            page.hook = None
    assert run("mine", "--to", tmp_path / "data", "--catalogue", own, "--yes").exit_code == 0
    for path, content in contents.items():
        assert (tmp_path / "data" / path[1:]).read_bytes() == content
        assert site.pages[path].sent <= 1.05 * len(content)


def test_passwords_are_never_printed(site: Site, tmp_path: Path) -> None:
    address = site.url.replace("http://", "http://user:hunter2@")
    own = catalogue(tmp_path, mine={"files": [{"url": f"{address}/none?token=sesame", "path": "a"}]})
    done = run("mine", "--to", tmp_path / "data", "--catalogue", own, "--yes")
    told = done.output + str(done.exception)
    assert "is not there" in told and "hunter2" not in told and "sesame" not in told
    for path in (tmp_path / "data").rglob("*"):
        assert path.is_dir() or b"sesame" not in path.read_bytes()
