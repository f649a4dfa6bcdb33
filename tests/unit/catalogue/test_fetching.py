"""Fetching one file from a server that breaks off, lies, refuses, redirects and changes its mind."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import random
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from tests.unit.catalogue.server import Page, Site, old_date, serve

from mblip.catalogue.answers import Patience, open_client
from mblip.catalogue.fetching import Fetcher, ask_size
from mblip.catalogue.names import shown
from mblip.errors import InputError

FAST = Patience(tries=5, first_wait=0.002, longest_wait=0.01, longest_retry_after=1.0, timeout=5.0)
CONTENT = random.Random(0).randbytes(600_000)
OTHER = random.Random(1).randbytes(600_000)


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def site() -> Iterator[Site]:
    with serve() as found:
        yield found


def fetch(site: Site, target: Path, path: str = "/a", **options: Any) -> str:
    with open_client(FAST) as client:
        return Fetcher(client, site.url + path, target, patience=options.pop("patience", FAST), **options).run()


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_whole_and_alone(site: Site, tmp_path: Path) -> None:
    page = site.add("/a", CONTENT)
    told: list[tuple[int, int | None]] = []
    assert fetch(site, tmp_path / "a", tell=lambda have, total: told.append((have, total))) == sha(CONTENT)
    assert (tmp_path / "a").read_bytes() == CONTENT and leftovers(tmp_path) == ["a"]
    assert told[-1] == (600_000, 600_000) and [have for have, _ in told] == sorted(have for have, _ in told)
    assert page.requests[0]["accept-encoding"] == "identity" and "mblip/" in page.requests[0]["user-agent"]
    site.add("/empty")
    assert fetch(site, tmp_path / "empty", "/empty") == sha(b"") and (tmp_path / "empty").read_bytes() == b""


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("how", [{}, {"etag": "", "modified": old_date()}, {"length": "chunked"}])
def test_breaks_are_gone_on_from_by_range(site: Site, tmp_path: Path, how: dict[str, Any], reset: bool) -> None:
    """What came before the connection was closed or reset is never fetched again, to the byte."""
    page = site.add("/a", CONTENT, breaks=[100_000, 0, 1, 200_000], reset=reset, **how)
    assert fetch(site, tmp_path / "a") == sha(CONTENT)
    assert leftovers(tmp_path) == ["a"]
    assert len(page.requests) >= 5 and page.requests[-1]["range"].startswith("bytes=")
    assert page.requests[-1]["if-range"]
    assert page.sent == len(CONTENT)


def test_twenty_random_breaks_cost_nothing(site: Site, tmp_path: Path) -> None:
    rng = random.Random(3)
    for number in range(4):
        content = rng.randbytes(rng.randint(200_000, 2_000_000))
        cuts = sorted(rng.randrange(len(content)) for _ in range(20))
        breaks = [cuts[0], *(late - early for early, late in itertools.pairwise(cuts))]
        page = site.add(f"/{number}", content, breaks=breaks)
        assert fetch(site, tmp_path / str(number), f"/{number}") == sha(content)
        assert (tmp_path / str(number)).read_bytes() == content
        assert not page.breaks and page.sent <= 1.05 * len(content)


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"conditions": False},
        {"etag": "weak"},
        {"etag": ""},
        {"etag": "", "modified": old_date(), "conditions": False},
    ],
)
def test_a_file_that_changes_between_tries_is_never_glued(site: Site, tmp_path: Path, how: dict[str, Any]) -> None:
    """Where the server honours no condition, or names no version that can be relied on, all of it is fetched again."""

    def change(page: Page) -> None:
        if len(page.requests) == 2:
            page.content = OTHER
            page.modified = page.modified and formatdate(1_600_000_000, usegmt=True)

    site.add("/a", CONTENT, breaks=[300_000], hook=change, **how)
    assert fetch(site, tmp_path / "a") == sha(OTHER)
    assert (tmp_path / "a").read_bytes() == OTHER


def test_without_a_version_the_checksum_tells_that_two_were_glued(site: Site, tmp_path: Path) -> None:
    def change(page: Page) -> None:
        if len(page.requests) == 2:
            page.content = OTHER

    page = site.add("/a", CONTENT, breaks=[300_000], hook=change, etag="")
    said: list[str] = []
    assert fetch(site, tmp_path / "a", sha256=sha(OTHER), say=said.append) == sha(OTHER)
    assert page.requests[1]["range"] == "bytes=300000-" and "joined from different versions" in said[0]


def test_a_date_of_this_second_is_no_version(site: Site, tmp_path: Path) -> None:
    now = formatdate(usegmt=True)
    page = site.add("/a", CONTENT, breaks=[300_000], etag="", modified=now, headers={})
    assert fetch(site, tmp_path / "a") == sha(CONTENT)
    assert "range" not in page.requests[1] or page.requests[1]["if-range"] == now


def test_a_server_without_ranges_sends_all_of_it_again(site: Site, tmp_path: Path) -> None:
    page = site.add("/a", CONTENT, breaks=[300_000, 500_000], ranges=False)
    assert fetch(site, tmp_path / "a") == sha(CONTENT)
    assert (tmp_path / "a").read_bytes() == CONTENT and page.sent == 300_000 + 500_000 + 600_000


def test_a_killed_process_leaves_what_the_next_goes_on_from(site: Site, tmp_path: Path) -> None:
    page = site.add("/a", CONTENT, breaks=[250_000])
    stop = threading.Event()

    def tell(have: int, total: int | None) -> None:
        if have >= 250_000:
            stop.set()

    with pytest.raises(InputError, match="was stopped; run the same command again"):
        fetch(site, tmp_path / "a", tell=tell, stop=stop)
    assert leftovers(tmp_path) == [".a.part", ".a.part.json"]
    assert (tmp_path / ".a.part").read_bytes() == CONTENT[:250_000]
    assert fetch(site, tmp_path / "a") == sha(CONTENT)
    assert page.sent == len(CONTENT) and leftovers(tmp_path) == ["a"]
    # The same where the note of the version is lost or damaged: without it nothing can be told of the part.
    (tmp_path / ".a.part").write_bytes(OTHER[:250_000])
    (tmp_path / ".a.part.json").write_text("{")
    assert fetch(site, tmp_path / "a") == sha(CONTENT)
    # A part that was whole when the process died is checked, not fetched.
    (tmp_path / ".a.part").write_bytes(CONTENT)
    sent = page.sent
    assert fetch(site, tmp_path / "a", size=len(CONTENT), sha256=sha(CONTENT)) == sha(CONTENT)
    assert page.sent == sent


def test_lengths_that_lie(site: Site, tmp_path: Path) -> None:
    size, digest = len(CONTENT), sha(CONTENT)
    for told in (size + 1000, 10 * size):  # where size and checksum are stated, they are what counts
        site.add("/a", CONTENT, length=told)
        assert fetch(site, tmp_path / "a", size=size, sha256=digest) == digest
        assert (tmp_path / "a").read_bytes() == CONTENT
    (tmp_path / "a").unlink()
    # One that promises more, sends nothing and keeps the connection: the checksum says that nothing is lacking.
    began = time.monotonic()
    site.add("/a", CONTENT, length=size + 1000, stalls=3.0)
    assert fetch(site, tmp_path / "a", size=size, sha256=digest) == digest
    assert time.monotonic() - began < 2.5
    (tmp_path / "a").unlink()
    site.add("/a", CONTENT, length=size - 1000)
    with pytest.raises(InputError, match=r"failed after 5 tries .*ended after 599,000 of 600,000"):
        fetch(site, tmp_path / "a", size=size, sha256=digest)
    (tmp_path / ".a.part").unlink()
    site.add("/a", CONTENT, length=size + 1000)  # an answer that ends early, and a server that then admits it
    assert fetch(site, tmp_path / "a") == digest
    (tmp_path / "a").unlink()
    site.add("/a", CONTENT, length=size + 1000, ranges=False)
    with pytest.raises(InputError, match="failed after 5 tries without progress"):
        fetch(site, tmp_path / "a")
    site.add("/a", CONTENT, length="none")
    with pytest.raises(InputError, match=r"has the SHA-256 \w+ instead of 0000"):
        fetch(site, tmp_path / "b", size=size, sha256="0" * 64)
    site.add("/a", CONTENT)
    with pytest.raises(InputError, match="gives 600,000 bytes, but the catalogue 599,999"):
        fetch(site, tmp_path / "c", size=size - 1)
    assert not (tmp_path / "b").exists() and not (tmp_path / "c").exists()


@pytest.mark.parametrize("how", [{}, {"etag": ""}, {"reset": True}])
def test_an_answer_without_a_length_that_breaks_off_is_noticed(site: Site, tmp_path: Path, how: dict[str, Any]) -> None:
    said: list[str] = []
    site.add("/a", CONTENT, length="none", breaks=[100_000], **how)
    assert fetch(site, tmp_path / "a", say=said.append) == sha(CONTENT)
    assert (tmp_path / "a").read_bytes() == CONTENT and leftovers(tmp_path) == ["a"] and not said
    (tmp_path / "a").unlink()
    site.add("/a", CONTENT, length="none", breaks=[100_000] * 20, etag="")  # never whole, and no version to go on from
    with pytest.raises(
        InputError, match=r"failed after 5 tries without progress .*ended after 100,000 bytes, but the server has more"
    ):
        fetch(site, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_an_end_that_cannot_be_checked_is_told(site: Site, tmp_path: Path) -> None:
    said: list[str] = []
    site.add("/a", CONTENT, length="none", ranges=False)
    assert fetch(site, tmp_path / "a", say=said.append) == sha(CONTENT)
    assert said == [
        "a: its server gives no length and no range, so nothing shows whether all of it came; check the file"
    ]
    said.clear()
    (tmp_path / "a").unlink()
    for how in ({"length": "chunked"}, {}):  # their end is certain
        site.add("/a", CONTENT, ranges=False, **how)
        fetch(site, tmp_path / "a", say=said.append)
    site.add("/a", CONTENT, length="none", ranges=False)
    fetch(site, tmp_path / "a", size=len(CONTENT), say=said.append)
    assert not said


def test_a_flood_ends_where_the_stated_size_ends(site: Site, tmp_path: Path) -> None:
    page = site.add("/a", CONTENT * 20, length="chunked")
    with pytest.raises(InputError, match="has the SHA-256"):
        fetch(site, tmp_path / "a", size=1000, sha256=sha(CONTENT[:999]))
    assert page.sent < 10_000_000 and leftovers(tmp_path) == []


def test_busy_servers_are_waited_for(site: Site, tmp_path: Path) -> None:
    page = site.add(
        "/a", CONTENT, answers=[(429, {"Retry-After": "0"}), (503, {}), (500, {}), (429, {"Retry-After": "soon"})]
    )
    assert fetch(site, tmp_path / "a") == sha(CONTENT) and len(page.requests) == 5
    site.add("/b", CONTENT, answers=[(503, {})] * 5)
    with pytest.raises(
        InputError, match=r"/b failed after 5 tries without progress \(HTTP 503\); the received part is kept"
    ):
        fetch(site, tmp_path / "b", "/b")
    site.add("/c", CONTENT, answers=[(429, {"Retry-After": "86400"})])
    with pytest.raises(InputError, match="asks you to wait 1,440 minutes"):
        fetch(site, tmp_path / "c", "/c")
    dated = formatdate(86400 + 10**9 * 3, usegmt=True)
    site.add("/d", CONTENT, answers=[(503, {"Retry-After": dated})])
    with pytest.raises(InputError, match="asks you to wait"):
        fetch(site, tmp_path / "d", "/d")


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "requires a login"), (403, "is not open to everybody"), (404, "is not there"), (410, "is gone")],
)
def test_refusals_are_told_at_once(site: Site, tmp_path: Path, status: int, said: str) -> None:
    page = site.add("/a", CONTENT, answers=[(status, {})] * 9)
    with pytest.raises(InputError, match=f"{said}.*put the file at its path yourself"):
        fetch(site, tmp_path / "a")
    assert len(page.requests) == 1 and not (tmp_path / "a").exists()


def test_redirects(site: Site, tmp_path: Path) -> None:
    page = site.add("/real", CONTENT, breaks=[100_000])
    site.add("/a", location="/b")
    site.add("/b", location=f"{site.url.replace('127.0.0.1', 'localhost')}/real?key=hidden")
    assert fetch(site, tmp_path / "a") == sha(CONTENT)
    assert page.requests[-1]["range"] == "bytes=100000-"
    site.add("/round", location="/round")
    with pytest.raises(InputError, match="redirects more than 10 times"):
        fetch(site, tmp_path / "x", "/round")
    for location in ("file:///etc/passwd", "ftp://example.org/a", "https://[", "http://h:99999/"):
        site.add("/odd", location=location)
        with pytest.raises(InputError, match="redirects to something that is not a web address"):
            fetch(site, tmp_path / "x", "/odd")


def test_https_never_leads_to_http() -> None:
    from mblip.catalogue.answers import _next

    assert _next("http://a.example/x", "https://b.example/y", "") == "https://b.example/y"
    with pytest.raises(
        InputError, match=r"https://a.example/x\?... redirects from https to http://b.example/y\?..., which others"
    ):
        _next("https://a.example/x", "http://user:pass@b.example/y?token=secret", "https://u:p@a.example/x?sig=secret")


def test_passwords_go_to_their_host_alone_and_are_never_shown(site: Site, tmp_path: Path) -> None:
    page, other = site.add("/a", CONTENT, location=""), site.add("/real", CONTENT)
    login = site.url.replace("http://", "http://me:s%40cret@")
    with open_client(FAST) as client:
        Fetcher(client, f"{login}/a?key=abc", tmp_path / "a", patience=FAST).run()
        assert page.requests[0]["authorization"] == "Basic bWU6c0BjcmV0"
        page.location = site.url.replace("127.0.0.1", "localhost") + "/real"
        Fetcher(client, f"{login}/a?key=abc", tmp_path / "b", patience=FAST).run()
        assert "authorization" in page.requests[-1] and "authorization" not in other.requests[-1]
        page.location, page.answers = "", [(404, {})]
        with pytest.raises(InputError) as caught:
            Fetcher(client, f"{login}/a?key=abc", tmp_path / "c", patience=FAST).run()
    assert "s%40cret" not in str(caught.value) and "abc" not in str(caught.value) and "/a?..." in str(caught.value)
    assert shown("https://me:pw@[::1]:80/x?y=z#f") == "https://[::1]:80/x?..."


def test_nobody_answers(tmp_path: Path) -> None:
    with open_client(FAST) as client, pytest.raises(InputError, match="failed after 4 tries without progress"):
        Fetcher(client, "http://127.0.0.1:9/a", tmp_path / "a", patience=FAST).run()


def test_numbers_that_no_machine_holds(site: Site, tmp_path: Path) -> None:
    page = site.add("/a", CONTENT, breaks=[1000], answers=[(503, {"Retry-After": "9" * 400}), (429, {})])
    with pytest.raises(InputError, match="asks you to wait inf minutes"):
        fetch(site, tmp_path / "a")
    page.headers = {"Content-Range": f"bytes 0-1/{'9' * 5000}"}
    assert fetch(site, tmp_path / "a") == sha(CONTENT)
    page.answers = [(416, {"Content-Range": f"bytes */{'9' * 5000}"}), (206, {"Content-Range": "bytes 7-8/9"})]
    assert fetch(site, tmp_path / "a") == sha(CONTENT)
    page.answers = [(429, {"Retry-After": "Fri, 31 Dec 99999 23:59:59 GMT"})]
    assert fetch(site, tmp_path / "a") == sha(CONTENT)


def test_sizes_are_asked_for(site: Site) -> None:
    site.add("/a", CONTENT)
    site.add("/b", location="/a")
    site.add("/c", CONTENT, length="chunked")
    with open_client(FAST) as client:
        assert [ask_size(client, site.url + path, FAST) for path in ("/a", "/b", "/c", "/none")] == [
            600_000,
            600_000,
            None,
            None,
        ]


def test_a_packed_answer_is_unpacked_but_a_packed_file_is_not(site: Site, tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT, mtime=0)
    site.add("/a", packed, headers={"Content-Encoding": "gzip"})
    assert fetch(site, tmp_path / "a.json") == sha(CONTENT)
    assert fetch(site, tmp_path / "a.tar.gz") == sha(packed)


@pytest.mark.parametrize("how", [{}, {"sha256": sha(CONTENT)}, {"size": len(CONTENT)}])
def test_a_packed_answer_that_breaks_begins_anew(site: Site, tmp_path: Path, how: dict[str, Any]) -> None:
    """What has come is counted in bytes of the file, and ranges in bytes of the packed answer."""
    packed = gzip.compress(CONTENT, mtime=0)
    page = site.add("/a", packed, headers={"Content-Encoding": "gzip"}, breaks=[len(packed) // 2, len(packed) // 3])
    assert fetch(site, tmp_path / "a.json", **how) == sha(CONTENT)
    assert not any("range" in request for request in page.requests) and len(page.requests) == 3


def test_a_packed_answer_that_is_cut_off_is_not_whole(site: Site, tmp_path: Path) -> None:
    site.add("/a", gzip.compress(CONTENT)[:-50], headers={"Content-Encoding": "gzip"})
    with pytest.raises(InputError, match="the compressed response ended after"):
        fetch(site, tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()
    site.add("/a", gzip.compress(CONTENT[:1000]) + gzip.compress(CONTENT[1000:]), headers={"Content-Encoding": "gzip"})
    assert fetch(site, tmp_path / "a.json") == sha(CONTENT)  # two streams are one file


@pytest.mark.parametrize("encoding", ["br", "zstd", "foo", "gzip, gzip"])
def test_other_encodings_are_refused_and_not_kept_as_the_file(site: Site, tmp_path: Path, encoding: str) -> None:
    site.add("/a", CONTENT, headers={"Content-Encoding": encoding})
    with pytest.raises(InputError, match=f"comes compressed as '{encoding}', although it was requested uncompressed"):
        fetch(site, tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()
    site.add("/a", CONTENT, headers={"Content-Encoding": "gzip"})
    with pytest.raises(InputError, match="is not the gzip that the server announced"):
        fetch(site, tmp_path / "a.json")
