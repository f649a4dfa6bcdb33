"""That visitors of the demo who never fetch their answers, or upload many small files, take up no more than their share."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest

from mblip.inference.demo_gate import _PAGES
from mblip.inference.demo_sessions import Sessions
from mblip.inference.uploads import Uploads


def _queue(names: list[str], running: list[str]) -> SimpleNamespace:
    return SimpleNamespace(
        pending_messages_per_session=OrderedDict((name, object()) for name in names),
        pending_event_ids_session={name: {"x"} for name in names},
        event_ids_to_events={str(place): SimpleNamespace(session_hash=name) for place, name in enumerate(running)},
    )


def test_the_oldest_answers_that_nobody_fetched_are_forgotten() -> None:
    names = [f"s{number}" for number in range(1400)]
    queue = _queue(names, running=["s0", "s7"])
    sessions = Sessions(queue)
    assert sessions.make_room({"s1", "s9"})
    kept = list(queue.pending_messages_per_session)
    assert kept == ["s0", "s1", "s7", "s9", *names[401:]]  # at work, listened to, or among the newest
    assert set(queue.pending_event_ids_session) == set(kept)
    assert sessions.waits("s0") and sessions.waits("s1399") and not sessions.waits("s2")


@pytest.mark.parametrize(("running", "room"), [(0, True), (499, True), (500, False), (900, False)])
def test_so_many_questions_may_be_under_way(running: int, room: bool) -> None:
    names = [f"s{number}" for number in range(running)]
    queue = _queue(names, names)
    assert Sessions(queue).make_room(()) is room
    assert list(queue.pending_messages_per_session) == names


def test_many_small_uploads_do_not_fill_a_file_system(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, 64 * 64)
    names = [uploads.add("x.png", b"") for _ in range(4200)]
    assert sum(uploads.find(name) is not None for name in names) == 64 * 64
    assert len(list(tmp_path.iterdir())) == 64 * 64


def test_a_file_that_is_pushed_out_while_it_is_sent_is_sent_whole(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, 10)
    name = uploads.add("x.png", b"0123456789")
    opened = uploads.open(name)
    for _ in range(70):
        uploads.add("y", b"0123456789")
    assert opened and opened.read() == b"0123456789"
    opened.close()
    assert uploads.open(name) is None and uploads.find(name) is None


def test_links_in_the_folder_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("only here")
    folder = tmp_path / "folder"
    folder.mkdir()
    uploads = Uploads(folder, 100)
    uploads.keep_own()
    (folder / "link.png").symlink_to(tmp_path / "secret")
    (folder / "deep").symlink_to(tmp_path)
    for name in ("uploads/link.png", "link.png", "uploads/deep/secret", str(folder / "link.png")):
        assert uploads.open(name) is None
    name = uploads.add("x.png", b"picture")
    path = uploads.find(name)
    assert path
    path.unlink()
    path.symlink_to(tmp_path / "secret")
    assert uploads.open(name) is None


@pytest.mark.parametrize("folder", ["plain", "with blanks", "ünï", 'quoted "and" <marked> & more', "back\\slash"])
def test_the_folder_is_hidden_in_every_spelling(tmp_path: Path, folder: str) -> None:
    inside = tmp_path / folder
    uploads = Uploads(inside, 1)
    for said in (str(inside), json.dumps(str(inside)), json.dumps(str(inside), ensure_ascii=False), quote(str(inside))):
        shown = uploads.hide(b"before " + os.fsencode(said) + b"/x.png")
        assert b"uploads/x.png" in shown.replace(b'"', b"") and os.fsencode(tmp_path) not in shown


@pytest.mark.parametrize("kind", ["assets", "static", "svelte"])
def test_names_that_no_file_system_takes_are_no_page(kind: str) -> None:
    assert _PAGES.fullmatch(f"/{kind}/{'a' * 200}.js"[:205])
    for path in (f"/{kind}/{'a' * 256}", f"/{kind}{'/a' * 2000}", f"/{kind}/x/../y", f"/{kind}//x", f"/{kind}/.x"):
        assert not _PAGES.fullmatch(path)
