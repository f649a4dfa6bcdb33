"""Opening a large mix for training: python benchmarks/open_mix.py [--rows N] [--folder DIR] [--in-memory].

Writes a mix of so many made-up rows (two texts a picture, texts as long as captions), opens it as training does, and draws
batches of 256 texts. Prints seconds and the process' own memory (anonymous pages: those of a mapped file go when memory is
short), first where the mix is still to be unpacked, then where it is. Each is measured in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mblip.config import MixSection
from mblip.processing.grouping import GroupedBatches, Mix
from mblip.processing.rows import COLUMNS
from mblip.schema import Instruction
from mblip.storage import write_manifest, write_shard

ROWS = 100_000  # of one shard


def anonymous() -> tuple[int, int]:
    """MiB of this process that no file backs: now, and resident at the peak, mapped pages included."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    fields = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in status if line.endswith("kB")}
    return fields["RssAnon"], fields["VmHWM"]


def write(folder: Path, rows: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    words = np.array([f"word{number}" for number in range(5000)])
    rng = np.random.default_rng(0)
    captions = pa.array([" ".join(row) for row in words[rng.integers(0, len(words), (ROWS, 11))]])
    for shard, start in enumerate(range(0, rows, ROWS)):
        numbers = pa.array(np.arange(start, min(start + ROWS, rows)))
        pictures = pc.utf8_lpad(pc.divide(numbers, 2).cast(pa.string()), 12, "0")
        pictures = pc.binary_join_element_wise(pictures, ".jpg", "")
        alike = {
            "source": "web_capfilt",
            "task": "caption",
            "prompt": "Write a short Swahili caption for this picture:",
            "prompt_language": "en",
            "answer_language": "sw",
        }
        columns = {name: pa.repeat(value, len(numbers)) for name, value in alike.items()} | {
            "id": pc.binary_join_element_wise("web_capfilt", numbers.cast(pa.string()), "/"),
            "images": pa.ListArray.from_arrays(np.arange(len(numbers) + 1, dtype=np.int32), pictures),
            "answer": captions.take(pa.array(rng.permutation(ROWS)[: len(numbers)])),
        }
        table = pa.table({name: columns[name] for name in COLUMNS})
        write_shard(folder / f"mix-{shard:05d}.parquet", table, Instruction)
    write_manifest(folder, Instruction, seed=0, recipe_hash="", licences={"web_capfilt": "none"})


def measure(folder: Path, in_memory: bool) -> None:
    before, _ = anonymous()
    begun = time.perf_counter()
    mix = Mix(MixSection(mix=str(folder)), 10**12 if in_memory else 0)
    opened = time.perf_counter() - begun
    held, peak = anonymous()
    batches = GroupedBatches(mix, 1, 256)
    begun = time.perf_counter()
    mix.take(batches.rows(0))
    first = time.perf_counter() - begun
    begun = time.perf_counter()
    for step in range(1, 101):
        mix.take(batches.rows(step * 37 % batches.steps_per_epoch))
    each = (time.perf_counter() - begun) / 100
    drawn, highest = anonymous()
    found = {"seconds": opened, "anonymous_mib": held - before, "first_batch_s": first, "batch_ms": each * 1e3}
    found |= {"anonymous_mib_with_an_order": drawn - before, "peak_rss_mib": max(peak, highest)}
    print(json.dumps({name: round(value, 2) for name, value in found.items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--folder", type=Path, default=Path("runs/open_mix"))
    parser.add_argument("--in-memory", action="store_true")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.folder, options.in_memory)
        return
    if not (options.folder / "manifest.json").is_file():
        begun = time.perf_counter()
        write(options.folder, options.rows)
        print(f"written in {time.perf_counter() - begun:.0f} s")
    again = [sys.executable, __file__, "--measure", "--folder", str(options.folder)]
    for kind in ("in memory",) if options.in_memory else ("unpacking", "unpacked"):
        print(kind, end=": ", flush=True)
        subprocess.run([*again, *(["--in-memory"] if options.in_memory else [])], check=True)


if __name__ == "__main__":
    main()
