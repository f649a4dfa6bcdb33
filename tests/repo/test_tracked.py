"""What is in version control: no traces of a machine, no binary that nobody listed."""

from __future__ import annotations

import re
import subprocess
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_BYTES = 32 * 2**20
# Path pattern: what it is. Everything else must be text.
BINARIES = {
    r"src/mblip/nano/data/names\.json\.gz": "CLDR names, made by tools/build_nano_data.py",
    r"src/mblip/nano/data/sprites\.zip": "emoji pictures, made by tools/build_nano_data.py",
    r"src/mblip/nano/bases/[\w-]+/model\.safetensors": "base models, made by the recipes in recipes/nano",
    r"docs/images/[\w-]+\.png": "pictures of the pages, made by examples/five_scripts.py and tools/build_screenshots.py",
}
# Spelt so that this file does not match itself.
TRACES = re.compile(
    "|".join(
        [
            r"(?<![\w.])/(?:work|root|home|Users|mnt|data)" + r"/\w",
            r"(?:pypi|pythonhosted|npmjs|registry\.npm|download\.pytorch|conda\.anaconda)\.(?:org|com)",
            r"https?://(?:localhost|127\.0\.0\.1):3\d{3}",
            r"BEGIN (?:RSA |EC |OPENSSH )?PRIVATE " + "KEY",
        ]
    )
)


@lru_cache(maxsize=1)
def tracked() -> dict[str, bytes]:
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return {name: (ROOT / name).read_bytes() for name in listed if name and (ROOT / name).is_file()}


def is_binary(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return b"\0" in data


def test_files_were_found() -> None:
    assert len(tracked()) > 50
    assert "pyproject.toml" in tracked()


def test_no_trace_of_a_machine_or_a_registry() -> None:
    texts = {name: data.decode() for name, data in tracked().items() if not is_binary(data)}
    found = {name: match.group() for name, text in texts.items() if (match := TRACES.search(text))}
    assert found == {}


def test_traces_would_be_seen() -> None:
    for text in ("see /wo" + "rk/x", "cd /ro" + "ot/a", "https://files.pythonhosted" + ".org/x"):
        assert TRACES.search(text)
    for text in ("docs/work/x", "./data/coco", "a/home/b", "https://arxiv.org/abs/2307.06930"):
        assert not TRACES.search(text)


def test_every_binary_is_listed() -> None:
    binaries = [name for name, data in tracked().items() if is_binary(data)]
    assert len(binaries) >= 2
    assert [name for name in binaries if not any(re.fullmatch(pattern, name) for pattern in BINARIES)] == []


def test_nothing_is_too_large() -> None:
    assert {name: len(data) for name, data in tracked().items() if len(data) > MAX_BYTES} == {}


def test_text_ends_well() -> None:
    bad = []
    for name, data in tracked().items():
        if data and not is_binary(data) and "/LICENSE." not in name and not name.startswith("tests/fixtures/"):
            lines = data.decode().split("\n")
            if b"\r" in data or lines[-1] or any(line != line.rstrip() for line in lines):
                bad.append(name)
    assert bad == []


def test_nothing_that_is_made_is_tracked() -> None:
    made = re.compile(r"(^|/)(__pycache__|site|dist|runs|\.venv|\.mypy_cache|\.ruff_cache)(/|$)|\.pyc$|\.egg-info")
    assert [name for name in tracked() if made.search(name)] == []
