"""Write the tables of docs/reference/benchmarks.md and metrics.md that say what the benchmarks themselves declare.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. A test compares the pages with what this makes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from mblip.evaluation.benchmark import Benchmark
from mblip.evaluation.benchmarks import BENCHMARKS, EVALUATED, MADE
from mblip.evaluation.metric import Metric

PAGES = [Path(__file__).parents[1] / "docs" / "reference" / name for name in ("benchmarks.md", "metrics.md")]
_SHOWN = 10  # languages
_BETTER = {True: "higher", False: "lower", None: "neither"}


def benchmarks() -> str:
    """What a model can be asked, where its files are, and what is measured."""
    rows = []
    for benchmark in _evaluated():
        metrics = ", ".join(metric.name for metric in benchmark.metrics)
        stands = f"; English: `{benchmark.english}`" if benchmark.english else ""
        fidelity = ", language fidelity" if benchmark.tells_language else ""
        rows.append(
            [
                f"`{benchmark.name}`",
                _languages(benchmark) + stands,
                _code(dict.fromkeys(n.replace("{code}", "xx") for n in (*benchmark.files, *benchmark.english_files)))
                or "none; made from seeds",
                _code(benchmark.images[:2]),
                metrics + fidelity,
            ]
        )
    return _table(["name", "languages", "annotations", "pictures below the root", "metrics"], rows)


def prompts() -> str:
    """How a model is asked; benchmarks that are asked alike share a row."""
    names: dict[tuple[str, str], list[str]] = {}
    for benchmark in _evaluated():
        decoding = ", ".join(f"{name} {value}" for name, value in benchmark.decoding.items())
        names.setdefault((benchmark.prompt, decoding), []).append(benchmark.name)
    rows = [[_families(found), f"`{prompt}`", decoding] for (prompt, decoding), found in names.items()]
    return _table(["asked", "prompt", "decoding"], rows)


def metrics() -> str:
    """Every metric with its unit, and the benchmarks that have it."""
    names: dict[Metric, list[str]] = {}
    for benchmark in (*BENCHMARKS.values(), *MADE.values()):
        for metric in benchmark.metrics:
            names.setdefault(metric, []).append(benchmark.name)
    rows = [
        [
            f"`{m.name}`",
            "percent" if m.unit == "%" else "",
            m.title.partition(", ")[2],
            _BETTER[m.higher_is_better],
            _code(found),
        ]
        for m, found in names.items()
    ]
    return _table(["metric", "in scores", "in reports", "better", "benchmarks"], rows)


def predictions() -> str:
    """What ``mblip score`` reads besides the fields of all benchmarks, and in which ways it scores."""
    names: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for benchmark in BENCHMARKS.values():
        variants = benchmark.variants if benchmark.variants != ("default",) else ()
        names.setdefault((benchmark.id_keys, benchmark.answer_keys, variants), []).append(benchmark.name)
    rows = [[_families(found), *map(_code, keys)] for keys, found in names.items()]
    return _table(["benchmarks", "fields of the item", "fields of the answer", "variants, the default first"], rows)


TABLES = {"benchmarks": benchmarks, "prompts": prompts, "metrics": metrics, "predictions": predictions}


def filled(page: str) -> str:
    """A page with its tables made anew."""
    return re.sub(
        r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
        lambda m: f"{m[1]}\n{TABLES[m[2]]()}\n{m[3]}",
        page,
        flags=re.DOTALL,
    )


def main() -> None:
    for path in PAGES:
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")


def _evaluated() -> list[Benchmark]:
    return [*EVALUATED.values(), *MADE.values()]


def _languages(benchmark: Benchmark) -> str:
    codes = benchmark.languages
    return " ".join(codes) if len(codes) <= _SHOWN else str(len(codes))


def _families(names: Sequence[str]) -> str:
    """Names as code; three or more that begin with the same word are one pattern."""
    stems = Counter(name.partition("_")[0] for name in names)
    return _code(dict.fromkeys(f"{stem}*" if stems[stem := n.partition("_")[0]] > 2 else n for n in names))


def _code(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
