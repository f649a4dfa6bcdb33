"""Rows a second and peak memory of allocation, templates and mixing, at two sizes.

    python benchmarks/data_mix.py --rows 500000 5000000 --workers 2

The rows are synthetic: 1.85 texts an image in four tasks, words of the nano lexicon, all 85 languages it names. Making the
English shards is not timed; everything from there to the finished, checked manifest is, lexicon look-ups included.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mblip.config import DataRecipe, SourceSection, load_recipe
from mblip.corpora.sampling import _hash, stage_folder
from mblip.mixture import build_mix
from mblip.nano.words import load_lexicon
from mblip.schema import Example
from mblip.storage import ShardWriter, sha256_file, write_manifest

TEXTS_PER_IMAGE = 1.85


def recipe() -> DataRecipe:
    nano = load_recipe(DataRecipe, "nano_scenes")
    source = SourceSection(name="synthetic", reader="scenes", options={"scenes": 1})
    return nano.model_copy(
        update={"sources": (source,), "translation": nano.translation.model_copy(update={"held_out": 0})}
    )


def make_stage(work: Path, rows: int) -> None:
    """English shards of so many rows."""
    concepts, draw, plan = load_lexicon().concepts, random.Random(0), recipe()
    folder = stage_folder(work, "synthetic")
    images = int(rows / TEXTS_PER_IMAGE)
    with ShardWriter(folder, Example, stem="part") as shards:
        for row in range(rows):
            task = ("caption", "naming", "presence", "count")[row % 4]
            word = concepts[draw.randrange(len(concepts))]
            texts = {
                "caption": {"caption": f"{word}, {concepts[draw.randrange(len(concepts))]}"},
                "naming": {"answer": word},
                "presence": {"question": word, "answer": "yes" if row % 8 else "no"},
                "count": {"question": word, "answer": str(row % 5)},
            }[task]
            key = f"images/{draw.randrange(images):08d}.jpg"
            languages = dict.fromkeys(texts, "en")
            shards.write(Example(f"synthetic/{row}", "synthetic", task, (key,), texts, languages, "CC0-1.0"))
    (folder / "exclusions-00000.jsonl").touch()
    licences = {"synthetic": "CC0-1.0"}
    write_manifest(folder, Example, seed=plan.seed, recipe_hash=_hash(plan, plan.sources[0]), licences=licences)


def measure(rows: int, workers: int, work: Path, folder: Path) -> None:
    started = time.perf_counter()
    manifest = build_mix(recipe(), folder, work=work, workers=workers)
    seconds = time.perf_counter() - started
    processor = _processor_seconds()
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024 if workers > 1 else 0.0
    print(json.dumps({
        "rows": rows, "workers": workers, "instructions": manifest.rows, "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds), "rows_per_processor_second": round(rows / processor),
        "peak_mib_parent": round(own), "peak_mib_worker": round(child), "peak_mib_sum": round(own + workers * child),
        "sha256": sha256_file(folder / "manifest.json")[:16],
    }))  # fmt: skip


def _processor_seconds() -> float:
    """Of this process and its workers, start-up included: what a busy machine does not change."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[500_000, 5_000_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[2])
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        rows, workers, work, folder = arguments.measure
        measure(int(rows), int(workers), Path(work), Path(folder))
        return
    results = []
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory() as scratch:
            make_stage(Path(scratch) / "work", rows)
            for workers in arguments.workers:
                places = [f"{scratch}/work", f"{scratch}/mix{workers}"]
                # A process of its own, so that its peak memory is that of the mix alone.
                command = [sys.executable, __file__, "--measure", str(rows), str(workers), *places]
                line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                print(line, end="", flush=True)
                results.append(json.loads(line))
    first, last = results[0], results[-1]
    if last["rows"] > first["rows"] and last["workers"] == first["workers"]:
        grown = (last["peak_mib_sum"] - first["peak_mib_sum"]) * 2**20 / (last["rows"] - first["rows"])
        print(f"memory beyond a constant: {grown:.1f} bytes a row over all processes")


if __name__ == "__main__":
    main()
