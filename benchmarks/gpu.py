"""Everything a lent GPU should show, in one run: a JSON and a Markdown table, kept after every result.

    python benchmarks/gpu.py                               # one GPU of 80 GB or more, at most 8 minutes
    python benchmarks/gpu.py --minutes 4 --parts ceiling mt0_int8 --to found
    python benchmarks/gpu.py --small                       # the same path on shrunken models, on a CPU too

It needs the package's dependencies and nothing else: no network, no file beside the repository, and bitsandbytes only
for int8 and NF4. Weights are random and of the full sizes, made on the machine from the shapes that the package ships.

Parts, in the order in which they are worth most:

- ceiling: the rate of a large bf16 matrix product, of which the others' shares are counted;
- mt0_int8, mt0_bf16 (ViT-g, Q-Former, mT0-XL), bloomz_nf4, bloomz_bf16 (the same before BLOOMZ-7B1), llava_bf16 (SigLIP2
  So400m, MLP, Qwen3-4B): training steps against stock parts on the same weights and texts, as benchmarks/train_step.py
  compares them; the peak of micro-batches of the longest texts that a recipe allows, within 12 and 16 GiB where the paper
  promises that; and the figure of ``mblip plan`` beside that peak;
- answers: xGQA's and XM3600's shape against stock generation, as benchmarks/evaluate.py compares them.

The parts run one after the other in a process of their own (gpu_parts.py). One that fails is a row with its reason; its
process ends with it, and a fresh one takes the next part. What no longer fits the time is left out, and what is not done at
its end is stopped: a row then says so. The exit code is 0 where every part that was asked for has been measured, else 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PARTS = ("ceiling", "mt0_int8", "mt0_bf16", "answers", "bloomz_nf4", "llava_bf16", "bloomz_bf16")
TITLES = {
    "mt0_int8": "mT0-XL int8",
    "mt0_bf16": "mT0-XL bf16",
    "bloomz_nf4": "BLOOMZ-7B1 NF4",
    "bloomz_bf16": "BLOOMZ-7B1 bf16",
    "llava_bf16": "SigLIP2-so400m + Qwen3-4B bf16",
}
# GiB of the card that the paper's settings have to fit.
CAPS = {"mt0_int8": 12, "bloomz_nf4": 16}
SECONDS = {"ceiling": 15, "answers": 45}
"""Of the time that is left, what a part needs so that it is begun; 40 for the others."""
VALUES = (
    "unit", "mblip", "against", "against_what", "times", "flops_predict", "peak_gib", "peak_gib_against",
    "share_of_ceiling", "goal", "goal_met", "remark", "details",
)  # fmt: skip
"""Of every row; null where it is not measured or there is none."""


def rows() -> dict[str, dict[str, Any]]:
    """All rows, before anything is measured."""
    found: dict[str, dict[str, Any]] = {}

    def add(key: str, part: str, title: str, unit: str, goal: str | None = None) -> None:
        empty = dict.fromkeys(VALUES)
        found[key] = {"row": key, "part": part, "title": title, "status": "not begun", "reason": None, **empty}
        found[key] |= {"unit": unit, "goal": goal}

    for part in PARTS:
        if part == "ceiling":
            add(part, part, "bf16 matrix product", "TFLOP/s")
        elif part == "answers":
            add("xgqa", part, "xGQA's shape, mT0-XL bf16, 5 beams", "answers/s", "4 times stock")
            add("captions", part, "XM3600's shape, mT0-XL bf16, 5 beams", "captions/s", "2 times stock")
        else:
            what = TITLES[part]
            cap = CAPS.get(part)
            size = f", within {cap} GiB" if cap else ""
            add(f"{part}_memory", part, f"longest texts, {what}{size}", "GiB", f"{cap} GiB" if cap else None)
            add(f"{part}_plan", part, f"mblip plan, {what}", "GiB", "within 10 %")
            add(f"{part}_train_same", part, f"training, {what}, same precision and checkpointing", "texts/s")
            add(
                f"{part}_train_best", part, f"training, {what}, each side's fastest in the original's memory", "texts/s"
            )
    return found


class Report:
    """What was found so far, on disk after every event."""

    def __init__(self, folder: Path, parts: list[str], minutes: float, small: bool) -> None:
        self.folder = folder
        self.rows = rows()
        self.started = time.time()
        self.machine: dict[str, Any] = {}
        self.parts: dict[str, dict[str, Any]] = {
            part: {"status": "not begun", "reason": None, "seconds": None} for part in PARTS
        }
        for part in PARTS:
            if part not in parts:
                self.close(part, "skipped", "not among --parts")
        self.about = {"command": " ".join(sys.argv), "small": small, "minutes": minutes}
        folder.mkdir(parents=True, exist_ok=True)
        self.write()

    @property
    def left(self) -> list[str]:
        """Parts that have not been begun."""
        return [part for part, state in self.parts.items() if state["status"] == "not begun"]

    def take(self, event: dict[str, Any]) -> None:
        """An event of the worker: a machine, a part's begin or end, or a row's values."""
        if "machine" in event:
            self.machine = event["machine"]
        elif "row" in event:
            row = self.rows[event["row"]]
            row |= {"status": "measured", **{name: value for name, value in event.items() if name != "row"}}
        elif event["status"] == "begun":
            self.parts[event["part"]]["status"] = "begun"
        else:
            self.close(**event)
        self.write()

    def close(self, part: str, status: str, reason: str | None = None, seconds: float | None = None) -> None:
        """Set a part's end, and that of its rows without values."""
        self.parts[part] = {"status": status, "reason": reason, "seconds": seconds}
        for row in self.rows.values():
            if row["part"] == part and row["status"] == "not begun":
                row |= {"status": "skipped" if status == "skipped" else "failed", "reason": reason}

    def close_begun(self, status: str, reason: str) -> None:
        """Of the part that the worker left."""
        for part, state in self.parts.items():
            if state["status"] == "begun":
                self.close(part, status, reason)
        self.write()

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            **self.about,
            "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.started)),
            "seconds": round(time.time() - self.started, 1),
            "machine": self.machine,
            "parts": self.parts,
            "rows": list(self.rows.values()),
        }

    def write(self) -> None:
        """Both files, each whole or not at all."""
        data = self.as_json()
        for name, text in (("gpu.json", json.dumps(data, indent=2) + "\n"), ("gpu.md", table(data))):
            path = self.folder / f"{name}.new"
            path.write_text(text, encoding="utf-8")
            path.replace(self.folder / name)


def table(data: dict[str, Any]) -> str:
    """One Markdown table with every row."""
    machine = data["machine"]
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in machine.get("versions", {}).items())
    sizes = "**shrunken sizes: no figure here says anything of speed or memory**; " if data["small"] else ""
    lines = [
        f"`{data['command']}`: {sizes}{machine.get('device', 'no device yet')}, {machine.get('memory_gib') or '?'} GiB; "
        f"{versions or 'no versions yet'}; {data['began']}, {data['seconds']:.0f} s.",
        "",
        "| What | mblip | against | unit | times | by FLOPs | peak GiB, mblip and against | of the ceiling | goal | result |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        peaks = [number(row["peak_gib"]), number(row["peak_gib_against"])]
        against = number(row["against"]) + (f" ({row['against_what']})" if row["against_what"] else "")
        share = "" if row["share_of_ceiling"] is None else f"{row['share_of_ceiling']:.0%}"
        result = {None: row["status"], True: "met", False: "missed"}[row["goal_met"]]
        said = "; ".join(filter(None, [result, row["remark"], row["reason"]]))
        cells = [
            row["title"], number(row["mblip"]), against, row["unit"], number(row["times"]), number(row["flops_predict"]),
            " / ".join(filter(None, peaks)), share, row["goal"] or "", said,
        ]  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def number(value: float | None) -> str:
    """To two places; empty for none."""
    return "" if value is None else f"{value:,.2f}"


def run(report: Report, until: float, small: bool) -> None:
    """Workers, each for the parts that are left, until all are closed."""
    while report.left:
        before = report.left
        reader, writer = os.pipe()
        command = [sys.executable, str(HERE / "gpu_parts.py"), "--events", str(writer), "--until", str(until)]
        command += ["--small"] if small else []
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent / "src"), *sys.path[1:]])}
        environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        process = subprocess.Popen([*command, "--parts", *before], pass_fds=[writer], env=environment)
        os.close(writer)
        late = threading.Event()

        def stop(process: subprocess.Popen[bytes] = process, late: threading.Event = late) -> None:
            late.set()
            process.kill()

        timer = threading.Timer(max(0.0, until - time.time()), stop)
        timer.start()
        try:
            with os.fdopen(reader, encoding="utf-8") as events:
                for line in events:
                    # A killed worker may leave half a line.
                    if line.endswith("\n"):
                        report.take(json.loads(line))
        finally:
            timer.cancel()
            process.kill()
            code = process.wait()
        if late.is_set():
            report.close_begun("stopped", "the time was used up")
            for part in report.left:
                report.close(part, "skipped", "no time was left")
            report.write()
            return
        report.close_begun("failed", f"its process ended with code {code}")
        if report.left == before:  # before any part: what is missing is missing for all
            for part in before:
                report.close(part, "failed", f"the process of the parts could not start (code {code}); see its output")
            report.write()


def main(words: list[str] | None = None) -> int:
    summary = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument(
        "--minutes", type=float, default=8, help="in all; what is not done then is stopped (default: 8)"
    )
    parser.add_argument("--to", type=Path, default=Path("runs/gpu"), help="folder of gpu.json and gpu.md")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--small", action="store_true", help="shrunken sizes, on a CPU too: only shows that all runs")
    arguments = parser.parse_args(words)
    if arguments.minutes <= 0:
        parser.error(f"--minutes {arguments.minutes:g} leaves no time; give a number above 0")
    report = Report(arguments.to, arguments.parts, arguments.minutes, arguments.small)
    run(report, report.started + 60 * arguments.minutes, arguments.small)
    print((arguments.to / "gpu.md").read_text(encoding="utf-8"))
    print(f"kept in {arguments.to / 'gpu.json'} and {arguments.to / 'gpu.md'}")
    return int(any(report.parts[part]["status"] != "measured" for part in arguments.parts))


if __name__ == "__main__":
    sys.exit(main())
