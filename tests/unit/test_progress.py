"""Progress of long jobs where standard error is no terminal: lines now and then, with rate and time left."""

from __future__ import annotations

import io

from rich.console import Console

from mblip.cli._progress import EVERY, FIRST, ProgressBars
from mblip.progress import size_text


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _run(steps: list[tuple[float, int]], total: int | None, stage: str = "", **options: bool) -> list[str]:
    clock, out = _Clock(), io.StringIO()
    with ProgressBars("pictures", console=Console(file=out, width=40), clock=clock, **options) as progress:
        for clock.now, done in steps:
            progress(stage, done, total)
    return out.getvalue().splitlines()


def test_a_short_job_says_nothing() -> None:
    assert _run([(0, 0), (FIRST - 1, 100)], 100) == []


def test_a_long_job_says_rate_and_time_left_now_and_then() -> None:
    seconds = [(float(second), 2 * second) for second in range(0, 3601)]
    lines = _run(seconds, 7200)
    assert lines[0] == "20 of 7,200 pictures, 2/s, 0:59:50 left"
    assert lines[-1] == "7,200 of 7,200 pictures, 2/s, 0:00:00 left"
    assert len(lines) == 2 + int((3600 - FIRST) // EVERY)


def test_what_an_earlier_run_had_done_is_no_rate() -> None:
    assert _run([(0, 900), (20, 910)], 1000) == ["910 of 1,000 pictures, 0.5/s, 0:03:00 left"]


def test_stages_and_unknown_totals() -> None:
    assert _run([(0, 0), (20, 4000)], None, "translate") == ["translate: 4,000 pictures, 200/s"]


def test_the_other_processes_are_quiet() -> None:
    assert _run([(0, 0), (20, 4000)], None, quiet=True) == []


def test_a_job_that_stands_still_has_no_time_left_to_tell() -> None:
    assert _run([(0, 5), (20, 5), (30, 6)], 10) == ["6 of 10 pictures, 0.0333/s, 0:02:00 left"]


def test_a_terminal_has_a_bar_and_no_lines() -> None:
    clock, out = _Clock(), io.StringIO()
    with ProgressBars("pictures", console=Console(file=out, width=100, force_terminal=True), clock=clock) as progress:
        progress("", 0, 100)
        clock.now = 50
        progress("", 100, 100)
        progress.say("[a] was left out")
    assert "100/100" in out.getvalue() and "[a] was left out" in out.getvalue()
    assert "pictures," not in out.getvalue()


def test_bytes_are_told_in_the_unit_of_people() -> None:
    assert [size_text(number) for number in (0, 999, 1500, 6_645_013_297, 147_897_477_120)] == [
        "0 bytes", "999 bytes", "1.5 kB", "6.65 GB", "148 GB",
    ]  # fmt: skip
    out = io.StringIO()
    seconds = iter([0.0, 0.0, 20.0])
    console = Console(file=out, force_terminal=False, width=200)
    progress = ProgressBars("bytes", in_bytes=True, console=console, clock=lambda: next(seconds))
    progress("fetching", 0, 4_000_000_000)
    progress("fetching", 1_000_000_000, 4_000_000_000)
    assert out.getvalue() == "fetching: 1 GB of 4 GB, 50 MB/s, 0:01:00 left\n"
