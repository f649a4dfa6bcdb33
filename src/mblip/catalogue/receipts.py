"""Receipts beside downloaded files, so that nothing is downloaded, hashed or unpacked twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mblip.errors import InputError
from mblip.progress import size_text
from mblip.storage import sha256_file, write_json

_LARGE = 1 << 30  # bytes, which take more than a second to hash
State = Literal["complete", "missing", "damaged"]


@dataclass(frozen=True)
class Receipt:
    """Facts about a checked file.

    Attributes:
        bytes: Its size.
        mtime_ns: Its modification time; if that changes, the file is checked again.
        sha256: SHA-256 of its content.
        unpacked: Numbers of unpacked files and bytes, and names at the top; None if it is not unpacked.
    """

    bytes: int
    mtime_ns: int
    sha256: str
    unpacked: dict[str, Any] | None = None


def receipt_of(target: Path) -> Receipt | None:
    """The receipt of a file; None if there is no readable one."""
    try:
        return Receipt(**json.loads(_path(target).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_receipt(target: Path, sha256: str, unpacked: dict[str, Any] | None = None) -> Receipt:
    """Write the receipt of a file at its place, or of an archive that was removed after unpacking."""
    before = receipt_of(target)
    if target.exists():
        status = target.stat()
        receipt = Receipt(status.st_size, status.st_mtime_ns, sha256, unpacked)
    else:
        receipt = Receipt(before.bytes if before else 0, 0, sha256, unpacked)
    write_json(_path(target), asdict(receipt))
    return receipt


def look_at(
    target: Path, size: int | None, sha256: str, *, keep: bool = False, say: Callable[[str], None] = lambda text: None
) -> tuple[State, str]:
    """The state of a file, and the reason if it is damaged.

    Args:
        target: The file.
        size: Its size, if known.
        sha256: SHA-256 of its content, if known; a file with a receipt is not hashed again.
        keep: Write a receipt for a file that was hashed, so that it need not be hashed again.
        say: Called before a large file is hashed.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        status = target.stat()
    except (FileNotFoundError, NotADirectoryError):
        return "missing", ""
    except OSError as error:
        raise InputError(f"cannot read {target}: {error.strerror}") from error
    if target.is_dir():
        return "damaged", "it is a folder, not a file"
    if size is not None and status.st_size != size:
        return "damaged", f"it has {status.st_size:,} bytes instead of {size:,}"
    receipt = receipt_of(target)
    untouched = receipt is not None and (receipt.bytes, receipt.mtime_ns) == (status.st_size, status.st_mtime_ns)
    wanted = sha256.lower() or (receipt.sha256 if receipt else "")
    if not wanted or (untouched and receipt and receipt.sha256 == wanted):
        return "complete", ""
    if receipt and not sha256 and receipt.bytes != status.st_size:
        return "damaged", f"it has {status.st_size:,} bytes instead of the {receipt.bytes:,} that were downloaded"
    if status.st_size > _LARGE:
        say(f"checking {target}, {size_text(status.st_size)}")
    found = sha256_file(target)
    if found != wanted:
        return "damaged", f"its SHA-256 is {found} instead of {wanted}"
    if keep:
        with suppress(InputError):  # in a read-only folder it is hashed each time
            write_receipt(target, found, receipt.unpacked if receipt else None)
    return "complete", ""


def _path(target: Path) -> Path:
    return target.with_name(f".{target.name}.fetched.json")
