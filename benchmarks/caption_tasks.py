"""``mblip caption`` in one process and in tasks on this machine: seconds, and whether the files are the same bytes.

python benchmarks/caption_tasks.py MODEL [--pictures 1000] [--tasks 1 4]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 4])
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, rng = Path(folder), np.random.default_rng(0)
        (root / "photos").mkdir()
        for number in range(chosen.pictures):
            pixels = rng.integers(0, 256, (60, 80, 3), np.uint8)
            Image.fromarray(pixels).resize((640, 480)).save(root / "photos" / f"{number:06}.jpg")
        expected = None
        for tasks in [None, *chosen.tasks]:
            to = root / f"{tasks or 'one'}.csv"
            command = [sys.executable, "-m", "mblip", "caption", str(root / "photos"), "--language", "sw,de,ja"]
            command += ["--model", chosen.model, "--to", str(to), "--beams", "1", "--max-tokens", "20"]
            began, busy = time.monotonic(), os.times()
            command += ["--executor", "local", "--tasks", str(tasks)] if tasks else []
            subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
            took, spent = time.monotonic() - began, os.times()
            processor = spent.children_user + spent.children_system - busy.children_user - busy.children_system
            expected = expected or to.read_bytes()
            same = "the same file" if to.read_bytes() == expected else "ANOTHER FILE"
            load = os.getloadavg()[0]
            print(
                f"{tasks or 'no'} tasks: {took:.1f} s, {processor:.1f} s of processor time, {same}, load {load:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
