"""The tutorial and the how-to guides, run literally: from an empty folder, with only the package, page by page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.literal import SHELL, Reader, blocks, comes_after

DOCS = Path(__file__).parents[2] / "docs"
PAGES = [DOCS / "tutorial.md", *sorted((DOCS / "howto").glob("*.md"))]
# A page that each of these comes after is run for them.
SLOW = [DOCS / "tutorial.md", DOCS / "howto/align.md", DOCS / "howto/finetune.md"]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    if not shutil.which("bash") or not shutil.which("curl"):
        pytest.skip("needs bash and curl")
    made = Reader(tmp_path_factory.mktemp("pages") / "short", short=True)
    yield made
    made.close()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, reader: Reader) -> None:
    """Trainings are cut to two steps and mixes to few scenes; all else is as it stands there."""
    reader.read(page, timeout=1200)


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=lambda page: page.stem)
def test_a_page_that_trains_does_what_it_says_with_nothing_cut(page: Path, tmp_path: Path) -> None:
    whole = Reader(tmp_path / "whole", short=False)
    try:
        whole.read(page, timeout=3600)
    finally:
        whole.close()


def test_most_of_what_pages_show_is_run() -> None:
    commands = [
        block for page in PAGES for block in blocks(page) if block.language in (*SHELL, "python") and not block.title
    ]
    run = [block for block in commands if not block.not_run]
    assert len(PAGES) >= 18
    assert len(run) >= 40
    silent = [page.name for page in PAGES if not any(block.page == page for block in run)]
    assert silent == []


def test_a_page_that_goes_on_from_another_says_so_to_its_reader() -> None:
    for page in PAGES:
        if before := comes_after(page):
            assert before.is_file()
            text = page.read_text(encoding="utf-8")
            assert (
                f"({before.name if before.parent == page.parent else '../' + before.name})" in text.partition("```")[0]
            )


def test_a_command_that_fails_is_found(tmp_path: Path, reader: Reader) -> None:
    page = tmp_path / "broken.md"
    page.write_text("# T\n\n```bash\ncd /\nmblip examples --to /dev/null/x | cat\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError, match=r"(?s)broken.md ended with 2:.*cannot write the pictures"):
        reader.read(page, timeout=60)
