"""What was fetched, kept beside each file, so that nothing is fetched, hashed or unpacked twice."""

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
    """What is known of a file that was checked.

    Attributes:
        bytes: Its size.
        mtime_ns: When it was last changed; another time, and it is looked at again.
        sha256: Of its content.
        unpacked: Files and bytes that came out of it, and the names at its top; None where it is not unpacked.
    """

    bytes: int
    mtime_ns: int
    sha256: str
    unpacked: dict[str, Any] | None = None


def receipt_of(target: Path) -> Receipt | None:
    """The receipt of a file; None where there is none that can be read."""
    try:
        return Receipt(**json.loads(_path(target).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def write_receipt(target: Path, sha256: str, unpacked: dict[str, Any] | None = None) -> Receipt:
    """Write the receipt of a file that lies at its place, or whose archive was removed after it had been unpacked."""
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
    """Whether a file is there and as it must be, and if not, why.

    Args:
        target: The file.
        size: Its size, where that is stated.
        sha256: Of its content, where that is stated; a file with a receipt is not hashed again.
        keep: Write a receipt of a file that had to be hashed, so that it need not be again.
        say: Is told before a large file is hashed.

    Raises:
        InputError: It cannot be read.
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
        return "damaged", f"it has {status.st_size:,} bytes instead of the {receipt.bytes:,} that were fetched"
    if status.st_size > _LARGE:
        say(f"checking {target}, {size_text(status.st_size)}")
    found = sha256_file(target)
    if found != wanted:
        return "damaged", f"its SHA-256 is {found} instead of {wanted}"
    if keep:
        with suppress(InputError):  # a folder that may only be read: it is hashed each time
            write_receipt(target, found, receipt.unpacked if receipt else None)
    return "complete", ""


def _path(target: Path) -> Path:
    return target.with_name(f".{target.name}.fetched.json")
