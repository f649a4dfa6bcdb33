"""``mblip report``: write one offline page about runs, and the same figures for papers and programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mblip.report.figures import draw_page
from mblip.report.samples import choose_samples
from mblip.report.summary import Report, summarize
from mblip.report.tables import to_csv, to_json, to_latex, to_markdown
from mblip.storage import atomic_write, write_json

NAME = "report"


def report_runs(
    runs: Sequence[Path], to: Path, cards: int = 4, root: Path | None = None, images: Sequence[str] = ()
) -> Report:
    """Write ``report.html``, ``.md``, ``.csv``, ``.tex`` and ``.json``.

    Everything is read before anything is written.

    Args:
        runs: Directories of ``mblip eval``; later ones are tested against the first.
        to: Folder of the report.
        cards: Number of sample pictures of each benchmark.
        root: Folder of the benchmarks' pictures; None if they are missing.
        images: Image stores to search first.

    Raises:
        InputError: A run cannot be used, or the folder cannot be written.
    """
    report = summarize(runs)
    html = draw_page(report, choose_samples(report, cards, root, images))
    texts = {"html": html, "md": to_markdown(report), "csv": to_csv(report), "tex": to_latex(report)}
    write_json(to / f"{NAME}.json", to_json(report))
    for suffix, text in texts.items():
        with atomic_write(to / f"{NAME}.{suffix}", "w") as file:
            file.write(text)
    return report
