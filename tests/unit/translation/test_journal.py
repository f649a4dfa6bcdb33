"""Answers of an engine outlive the process that asked: nothing is asked twice, and every byte is as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.folders import hash_directory
from tests.killed import At, Commands
from tests.unit.endpoint_stub import endpoint

from mblip import endpoint as endpoint_module
from mblip.config import DataRecipe, load_recipe
from mblip.errors import InputError, RemoteError, ResourceError
from mblip.mixture import build_mix
from mblip.storage import read_jsonl
from mblip.translation import stage, translate_sources, translating
from mblip.translation.engines import Untranslated
from mblip.translation.journal import Journal

ROWS, AT_A_TIME = 120, 4


def _recipe(folder: Path, url: str, rows: int = ROWS, **translation: Any) -> Path:
    """A recipe over captions of one or two sentences, some of which the endpoint below refuses."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"image": f"{n}.jpg", "caption": f"Picture {n} shows a dog." + " A cat sleeps." * (n % 3 == 0)}
        for n in range(rows)
    ]
    (folder / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    section = {"engine": "openai", "options": {"url": url, "model": "m", "requests": AT_A_TIME}, **translation}
    recipe = {
        "title": "t", "bad_rows": "drop", "allocation": {"method": "uniform", "languages": ["sw", "id"]},
        "sources": [{"name": "s", "reader": "table", "options": {
            "path": str(folder / "t.jsonl"), "columns": {"image": "image", "caption": "caption"}, "task": "caption",
            "licence": "own"}}],
        "translation": section,
    }  # fmt: skip
    path = folder / "r.yaml"
    path.write_text(json.dumps(recipe))
    return path


def _translated(body: dict[str, Any], number: int = 0) -> Any:
    text = body["messages"][1]["content"]
    if "7 " in text:
        return 400, b'{"error": {"message": "The response was filtered."}}', {}
    return text.replace("Picture", "Picha").replace("shows a dog", "ina mbwa").replace("A cat sleeps", "Paka analala")


def _asked(body: dict[str, Any]) -> tuple[str, str]:
    return body["messages"][0]["content"], body["messages"][1]["content"]


def test_killed_at_many_points_nothing_is_asked_twice_but_what_was_in_flight(
    tmp_path: Path, commands: Commands
) -> None:
    draw = random.Random(5)
    commands.load("mblip.translation.stage")
    with endpoint(lambda body, number: _translated(body)) as stub:
        recipe = _recipe(tmp_path, stub.url)
        translate_sources(load_recipe(DataRecipe, recipe), tmp_path / "whole")
        needed = {_asked(body) for body in stub.requests}
        assert len(stub.requests) == len(needed) > ROWS
        stub.requests.clear()
        command = ["data", "translate", str(recipe), "--work", str(tmp_path / "work")]
        kills, answered = int(os.environ.get("MBLIP_KILLS", "6")), 0
        for number in range(kills):
            lines, share = draw.randint(2, len(needed) // kills), (1.0, 0.5, 0.0)[number % 3]
            commands.killed(At(append=".answers.jsonl", calls=lines, share=share), *command)
            [journal] = (tmp_path / "work").rglob("*.answers.jsonl")
            kept = journal.read_bytes().count(b"\n") - 1
            assert kept == answered + lines - (share < 1) - (number == 0)  # its first line is no answer
            answered = kept
        in_flight = kills * AT_A_TIME
        assert commands.run(*command).code == 0
        counts = Counter(_asked(body) for body in stub.requests)
    assert set(counts) == needed
    assert len(needed) < len(stub.requests) + 1 <= len(needed) + in_flight + 1
    assert hash_directory(tmp_path / "work") == hash_directory(tmp_path / "whole")
    assert not list((tmp_path / "work").rglob("*.answers.jsonl"))
    rows = list(read_jsonl(next((tmp_path / "work/translated/s").glob("exclusions-*.jsonl"))))
    assert {row["reason"] for row in rows} == {"refused by the endpoint"}
    assert all("The response was filtered." in row["detail"] for row in rows) and len(rows) == sum(
        "7 " in f"{n} " for n in range(ROWS)
    )


class _Stopped(Exception):
    """Stands for a stop."""


def _stop_after(answers: int, patch: pytest.MonkeyPatch) -> None:
    keep, count = Journal.keep, [0]

    def counted(self: Journal, *arguments: Any) -> None:
        keep(self, *arguments)
        count[0] += 1
        if count[0] == answers:
            raise _Stopped

    patch.setattr(Journal, "keep", counted)


def _stopped(recipe: DataRecipe, work: Path, answers: int = 30) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        _stop_after(answers, patch)
        with pytest.raises(_Stopped):
            translate_sources(recipe, work)
    [journal] = work.rglob("*.answers.jsonl")
    stage._translator.cache_clear()
    return journal


@pytest.mark.parametrize(("damage", "lost"), [
    (lambda data: data, 0), (lambda data: data + b'{"source": "en", "tar', 0), (lambda data: data[:-10], 1),
    (lambda data: data + b"\0\xff" * 100, 0), (lambda data: b"", 30), (lambda data: data[:5], 30),
    (lambda data: data.replace(b'"mblip": "', b'"mblip": "9.'), 30),
    (lambda data: data.replace(b"openai m", b"openai n", 1), 30),
    (lambda data: data.replace(b'"rows": [0', b'"rows": [1'), 30), (lambda data: data.split(b"\n", 1)[1], 30),
])  # fmt: skip
def test_torn_and_stale_journals(tmp_path: Path, damage: Any, lost: int) -> None:
    with endpoint(_translated) as stub:
        recipe = load_recipe(DataRecipe, _recipe(tmp_path, stub.url, 60))
        translate_sources(recipe, tmp_path / "whole")
        needed = len(stub.requests)
        stub.requests.clear()
        journal = _stopped(recipe, tmp_path / "work")
        sent = len(stub.requests)
        journal.write_bytes(damage(journal.read_bytes()))
        translate_sources(recipe, tmp_path / "work")
        assert len(stub.requests) - sent == needed - 30 + lost
    assert hash_directory(tmp_path / "work") == hash_directory(tmp_path / "whole")


def test_a_changed_recipe_never_takes_a_stale_journal(tmp_path: Path) -> None:
    with endpoint(_translated) as stub:
        recipe = load_recipe(DataRecipe, _recipe(tmp_path, stub.url, 60))
        journal = _stopped(recipe, tmp_path / "work")
        for change in ("translation.options.model=other", "seed=2", "translation.filters.repeats=9"):
            other = load_recipe(DataRecipe, tmp_path / "r.yaml", (change,))
            with pytest.raises(InputError, match="another recipe"):
                translate_sources(other, tmp_path / "work")
        assert journal.exists()
        # A tolerance is no other recipe.
        more = load_recipe(DataRecipe, tmp_path / "r.yaml", ("translation.max_failed=0.9",))
        sent = len(stub.requests)
        translate_sources(more, tmp_path / "work")
        assert len({_asked(body) for body in stub.requests}) == len(stub.requests) - sent + 30


def test_a_mix_on_the_way_keeps_answers_too(tmp_path: Path) -> None:
    with endpoint(_translated) as stub:
        recipe = load_recipe(DataRecipe, _recipe(tmp_path, stub.url, 60))
        whole = build_mix(recipe, tmp_path / "whole")
        needed = len(stub.requests)
        stub.requests.clear()
        with pytest.MonkeyPatch.context() as patch:
            _stop_after(20, patch)
            with pytest.raises(_Stopped):
                build_mix(recipe, tmp_path / "mix")
        stage._translator.cache_clear()
        sent = len(stub.requests)
        assert build_mix(recipe, tmp_path / "mix").shards == whole.shards
        assert len(stub.requests) - sent == needed - 20


def test_two_at_once_one_is_refused(tmp_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    def waiting(body: dict[str, Any], number: int) -> Any:
        entered.set()
        leave.wait(20)
        return _translated(body)

    with endpoint(waiting) as stub:
        recipe = load_recipe(DataRecipe, _recipe(tmp_path, stub.url, 8))
        first = threading.Thread(target=translate_sources, args=(recipe, tmp_path / "work"))
        first.start()
        assert entered.wait(20)
        with pytest.raises(InputError, match="another process is translating"):
            translate_sources(recipe, tmp_path / "work")
        leave.set()
        first.join(20)
    assert (tmp_path / "work/translated/s/manifest.json").is_file()


def test_too_many_failures_stop_the_stage_and_say_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "_WAITS", (0.001,))

    def half(body: dict[str, Any], number: int) -> Any:
        text = body["messages"][1]["content"]
        digit = next((character for character in text if character.isdigit()), "0")
        if digit in "12":
            return 400, b'{"error": "filtered"}', {}
        return "I'm sorry, but I can't." if digit == "3" else _translated(body)

    with endpoint(half) as stub:
        recipe = load_recipe(DataRecipe, _recipe(tmp_path, stub.url))
        with pytest.raises(
            InputError, match=r"of .* texts were not translated: .*refused by the endpoint.*max_failed.*kept"
        ):
            translate_sources(recipe, tmp_path / "work")
        sent = len(stub.requests)
        stage._translator.cache_clear()
        all_of_them = load_recipe(DataRecipe, tmp_path / "r.yaml", ("translation.max_failed=1",))
        manifest = translate_sources(all_of_them, tmp_path / "work")["s"]
        assert len({_asked(body) for body in stub.requests}) >= len(stub.requests) - AT_A_TIME and sent > 20
    assert set(manifest.drops) == {"refused by the endpoint", "refused"}
    assert manifest.rows + sum(manifest.drops.values()) == ROWS


def test_what_may_pass_is_asked_again_next_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_module, "_WAITS", (0.001,))
    down = [True]
    with endpoint(lambda body, n: (503, b"busy", {}) if down[0] and n > 10 else _translated(body)) as stub:
        recipe = load_recipe(DataRecipe, _recipe(tmp_path, stub.url, 60))
        with pytest.raises(
            RemoteError, match=r"failed 1\d times in a row.*HTTP 503: busy.*run the same command again later"
        ):
            translate_sources(recipe, tmp_path / "work")
        down[0] = False
        stage._translator.cache_clear()
        manifest = translate_sources(recipe, tmp_path / "work")["s"]
    assert set(manifest.drops) == {"refused by the endpoint"}


def test_results_no_file_can_hold(tmp_path: Path) -> None:
    body = b'{"choices": [{"message": {"content": "Picha \\ud83d ina mbwa."}, "finish_reason": "stop"}]}'
    with endpoint(lambda b, n: (200, body, {}) if "5 " in b["messages"][1]["content"] else _translated(b)) as stub:
        manifest = translate_sources(load_recipe(DataRecipe, _recipe(tmp_path, stub.url, 30)), tmp_path / "work")["s"]
    assert manifest.drops["broken answer"] == 3
    rows = list(read_jsonl(next((tmp_path / "work/translated/s").glob("exclusions-*.jsonl"))))
    assert any("half a surrogate pair at character 7" in row["detail"] for row in rows)


def test_a_language_that_the_engine_lacks_is_told_first(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "http://127.0.0.1:1/v1", 8, engine="lexicon", options={})
    text = recipe.read_text()
    recipe.write_text(text.replace('["sw", "id"]', '["ceb"]'))
    with pytest.raises(InputError, match=r"'lexicon' translates into none of the allocated languages \(ceb\)"):
        translate_sources(load_recipe(DataRecipe, recipe), tmp_path / "none")
    assert not (tmp_path / "none/translated").exists()
    recipe.write_text(text.replace('["sw", "id"]', '["ceb", "sw"]').replace("Picture", "dog face"))
    command = [sys.executable, "-m", "mblip", "data", "translate", str(recipe), "--work", str(tmp_path / "some")]
    said = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"COLUMNS": "400"}
    ).stderr
    assert "'lexicon' does not translate into Cebuano (4)" in said and "allocation.exclude_languages=[ceb]" in said


def test_progress_is_told_while_a_part_is_under_way(tmp_path: Path) -> None:
    told: list[tuple[str, int, int | None]] = []
    with endpoint(_translated) as stub:
        recipe = load_recipe(DataRecipe, _recipe(tmp_path, stub.url, 40))
        translate_sources(recipe, tmp_path / "work", progress=lambda *said: told.append(said))
    counts = [done for what, done, total in told if what == "translating" and total == 40]
    assert counts[0] == 0 and counts[-1] == 40 and counts == sorted(counts) and len(set(counts)) > 20


def test_the_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    results = {"a": "b", "c": None, "d\n": "e\u2028\0f", "g": Untranslated("cut off", "x"), "": ""}
    with Journal(path, {"x": 1}) as journal:
        for text, result in results.items():
            journal.keep("en", "sw", text, result)
        journal.keep("en", "sw", "later", Untranslated("no answer", "", True))
    with Journal(path, {"x": 1}) as journal:
        assert journal.answers("en", "sw") == results and journal.answers("sw", "en") == {}
    with Journal(path, {"x": 2}) as journal:
        assert journal.answers("en", "sw") == {}


@pytest.mark.parametrize("room", [0, 1, 5, 12, 30])
def test_a_full_disk_is_one_sentence(tmp_path: Path, room: int) -> None:
    path = tmp_path / "a.jsonl"
    with Journal(path, {"x": 1}) as journal:
        journal.keep("en", "sw", "a", "b")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, before[1]))
        try:
            with pytest.raises(
                ResourceError, match=r"cannot write .*a\.jsonl: File too large; everything before is kept"
            ):
                journal.keep("en", "sw", "c", "d" * 50)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    with Journal(path, {"x": 1}) as journal:
        assert journal.answers("en", "sw") == {"a": "b"}
        journal.keep("en", "sw", "c", "d")
    with Journal(path, {"x": 1}) as journal:
        assert journal.answers("en", "sw") == {"a": "b", "c": "d"}


def test_three_rows_of_which_one_is_refused_go_on() -> None:
    assert translating._LEAST_FAILURES > 3
