"""What broken connections cost: files fetched from a server that cuts each of them at random places, to the byte.

    python -m benchmarks.downloads [FILES] [MEGABYTES] [BREAKS]

Run from the root of the repository. The server is that of the tests; every file is compared with what the server has.
"""

from __future__ import annotations

import hashlib
import random
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

from tests.unit.catalogue.server import serve

from mblip.catalogue.download import make_plan, run_plan
from mblip.catalogue.entries import DataSet, SetFile


def main(files: int = 20, megabytes: float = 8.0, breaks: int = 20) -> None:
    """Fetch so many files of about this size, with so many breaks each, closed and reset in turn."""
    rng = random.Random(0)
    with serve() as site, tempfile.TemporaryDirectory() as folder:
        entries, contents = [], {}
        for number in range(files):
            content = rng.randbytes(round(rng.uniform(0.5, 1.5) * megabytes * 1e6))
            cuts = sorted(rng.randrange(len(content)) for _ in range(breaks))
            lengths = [cuts[0], *(late - early for early, late in pairwise(cuts))]
            site.add(f"/{number}", content, breaks=lengths, reset=number % 2 == 1)
            entries.append(
                SetFile(url=f"{site.url}/{number}", bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            )
            contents[str(number)] = content
        began = time.perf_counter()
        run_plan(make_plan([DataSet(name="files", files=tuple(entries))], Path(folder)), jobs=4)
        seconds = time.perf_counter() - began
        right = sum((Path(folder) / name).read_bytes() == content for name, content in contents.items())
        for kind, odd in (("closed", 0), ("reset", 1)):
            pages = [page for path, page in site.pages.items() if int(path[1:]) % 2 == odd]
            ratios = [page.sent / len(page.content) for page in pages]
            left = sum(len(page.breaks) for page in pages)
            print(f"{kind}: {sum(p.sent for p in pages) / sum(len(p.content) for p in pages):.4f} times the size sent, "
                  f"at most {max(ratios):.4f} of one file; {left} breaks not reached")  # fmt: skip
        print(f"{right} of {files} files right, {sum(map(len, contents.values())) / 1e6:.0f} MB in {seconds:.1f} s")


if __name__ == "__main__":
    given = sys.argv[1:]
    main(*map(int, given[:1]), *map(float, given[1:2]), *map(int, given[2:3]))
