"""What tests share: no network, few threads, and the things a machine may lack.

``bench`` (real benchmark files), ``java``, ``chromium`` and ``apertium`` skip a test where they are missing. Continuous
integration names them in ``MBLIP_REQUIRE`` (comma-separated), and then a missing one fails instead.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")
# Each httpx client would read all the certificates that browsers trust, which no server on this machine has.
os.environ["SSL_CERT_DIR"] = str(Path(__file__).parent)
# On one thread sums are always taken in the same order, which pinned losses and tight bounds depend on.
os.environ["OMP_NUM_THREADS"] = "1"


import pytest
from tests.killed import Commands


def _renew_threads() -> None:
    """A forked process makes torch's threads anew when they are first used, which fails if two of its threads do so."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


os.register_at_fork(after_in_child=_renew_threads)

# Folders of the files that take longest.
_LONG = ("e2e", "training", "translation", "evaluation", "inference")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first (``--no-loadscope-reorder`` keeps it so): at the end no process is left alone with one of them."""
    places = {folder: place for place, folder in enumerate(_LONG)}
    items.sort(key=lambda item: min(places.get(part, len(_LONG)) for part in item.nodeid.partition("::")[0].split("/")))


def _needs(what: str, found: str | None, remedy: str) -> str:
    if found:
        return found
    if what in os.environ.get("MBLIP_REQUIRE", "").split(","):
        pytest.fail(f"MBLIP_REQUIRE lists {what}, but it is missing: {remedy}")
    pytest.skip(f"needs {what}: {remedy}")


@pytest.fixture(scope="session")
def bench() -> Path:
    """The folder of real benchmark files."""
    folder = os.environ.get("MBLIP_BENCH", "")
    return Path(_needs("bench", folder if Path(folder or "-").is_dir() else None, "set MBLIP_BENCH to the folder"))


@pytest.fixture(scope="session")
def java() -> str:
    """The path of a Java runtime."""
    return _needs("java", shutil.which("java"), "install a Java runtime, such as Debian's default-jre-headless")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium that Playwright can drive (``executable_path``)."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return _needs("chromium", found, "install Chromium, such as Debian's chromium")


@pytest.fixture(scope="session")
def apertium() -> str:
    """The path of the rule-based translator Apertium."""
    return _needs(
        "apertium", shutil.which("apertium"), "install apertium and a language pair, such as apertium-eng-spa"
    )


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """Runs commands in milliseconds, and kills them at a place that is known."""
    with Commands() as started:
        yield started


@pytest.fixture
def language_table() -> Iterator[None]:
    """The table of languages is afterwards as it was: a test may add to it."""
    from mblip import languages

    trained, others = dict(languages.LANGUAGES), dict(languages.BENCHMARK_LANGUAGES)
    yield
    for held, before in ((languages.LANGUAGES, trained), (languages.BENCHMARK_LANGUAGES, others)):
        held.clear()
        held.update(before)
    languages._forget()
