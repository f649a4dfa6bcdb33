"""Export to lmms-eval: runs in its result format, and benchmarks as tasks that it can run.

The formats are those of its release 0.7 (``loggers/evaluation_tracker.py``, ``api/task.py``). No code of lmms-eval is
imported: a folder of tasks has a ``utils.py`` that imports the functions below, so prompts, pictures and scores are
this project's in both harnesses.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from mblip.evaluation.about import About, describe, read_about
from mblip.evaluation.benchmark import Benchmark, Item, Options, gold_texts
from mblip.evaluation.benchmarks import find_benchmark
from mblip.evaluation.metric import Metric
from mblip.evaluation.pictures import PictureSources
from mblip.evaluation.results import SCORES, read_items, read_predictions, read_run, read_scores
from mblip.evaluation.tasks import Task
from mblip.schema import Score
from mblip.storage import JsonlWriter, atomic_write, write_json

PREFIX = "mblip"
_NORMAL = 3.92  # width of a 95 % interval in standard errors
_PROBE = 50
_UTILS = (
    '"""Written by mblip tasks: prompts, pictures and scores are those of mblip.evaluation."""\n\n'
    "from mblip.report.lmms_eval import aggregate, process, prompt, target, visuals  # noqa: F401\n"
)


def task_name(benchmark: str, language: str) -> str:
    """The task's name in lmms-eval, such as ``mblip_xgqa_de``."""
    return f"{PREFIX}_{benchmark}_{language}"


def export_run(run: Path, to: Path) -> list[Path]:
    """Write a run in lmms-eval's layout: ``<model>/<date>_results.json`` and ``<date>_samples_<task>.jsonl``.

    ``accuracy`` is a fraction there, as in lmms-eval; standard errors come from the intervals, clustered on images.

    Args:
        run: Directory of ``mblip eval``.
        to: Output path of lmms-eval.

    Returns:
        The files.

    Raises:
        InputError: The run cannot be used, or the folder not be written.
    """
    held, scores = read_run(run), read_scores(run)
    about = read_about(run, dict.fromkeys(score.benchmark for score in scores))
    model = re.sub(r"[\"<>:/|\\?*\[\]]+", "__", held.model)
    date = datetime.fromtimestamp((run / SCORES).stat().st_mtime, UTC).strftime("%Y%m%d_%H%M%S")
    samples = {task_name(s.benchmark, s.language): _samples(run, s) for s in scores}
    files = []
    for name, rows in samples.items():
        files.append(to / model / f"{date}_samples_{name}.jsonl")
        with JsonlWriter(files[-1]) as writer:
            for row in rows:
                writer.write(row)
    by_name = {task_name(s.benchmark, s.language): s for s in scores}
    results = {
        "results": {name: _metrics(name, score, about[score.benchmark]) for name, score in by_name.items()},
        "group_subtasks": {name: [] for name in by_name},
        "configs": {name: _config(name, score) for name, score in by_name.items()},
        "versions": {name: score.fingerprint.get("versions", {}).get("mblip", "") for name, score in by_name.items()},
        "n-shot": dict.fromkeys(by_name, 0),
        "higher_is_better": {
            name: {key: _is_better(about[score.benchmark].metric(key)) for key in score.metrics}
            for name, score in by_name.items()
        },
        "n-samples": {
            name: {"original": score.fingerprint.get("items_in_data", score.n), "effective": score.n}
            for name, score in by_name.items()
        },
        "config": {"model": held.kind, "model_args": f"pretrained={held.model}", "limit": held.limit, **held.identity},
        "task_hashes": {
            name: _hash("".join(f"sample_{number}{row['doc_hash']}" for number, row in enumerate(rows)))
            for name, rows in samples.items()
        },
        "model_source": held.kind,
        "model_name": held.model,
        "model_name_sanitized": model,
        "date": date,
    }
    files.append(to / model / f"{date}_results.json")
    write_json(files[-1], results)
    return files


def write_tasks(tasks: Sequence[Task], to: Path) -> list[Path]:
    """Write benchmarks as a folder for ``lmms_eval --include_path``.

    Args:
        tasks: The tasks; their items and the paths of their pictures are written to the files.
        to: The folder.

    Returns:
        The task files.

    Raises:
        InputError: The folder cannot be written.
    """
    files = []
    for task in tasks:
        name = task_name(task.benchmark.name, task.language)
        data = (to / f"{name}.jsonl").resolve()
        with JsonlWriter(data) as writer:
            for item in task.items:
                writer.write({
                    "id": item.id, "benchmark": task.benchmark.name, "language": task.language,
                    "images": list(item.images), "places": [str(Path(place).resolve()) for place in task.pictures.places],
                    "text": item.text, "prompt": task.ask(item).prompt, "gold": json.dumps(item.gold, ensure_ascii=False),
                })  # fmt: skip
        probe = task.items[:_PROBE]
        options = Options(task.benchmark.choose_variant(""), task.language, "")
        about = describe(task.benchmark)
        metrics = task.benchmark.score(probe, [""] * len(probe), options).metrics
        config = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "output_type": "generate_until",
            "generation_kwargs": dict(task.benchmark.decoding),
            "metric_list": [{"metric": name, "higher_is_better": _is_better(about.metric(name))} for name in metrics],
            "metadata": [{"version": 1.0}],
        }
        functions = {
            "doc_to_visual": "visuals",
            "doc_to_text": "prompt",
            "doc_to_target": "target",
            "process_results": "process",
        }
        lines = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
        lines = re.sub(
            r"^- metric: \S+$", r"\g<0>\n  aggregation: !function utils.aggregate", lines, flags=re.MULTILINE
        )
        lines += "".join(f"{key}: !function utils.{value}\n" for key, value in functions.items())
        files.append(to / f"{name}.yaml")
        with atomic_write(files[-1], "w") as file:
            file.write(lines)
    with atomic_write(to / "utils.py", "w") as file:
        file.write(_UTILS)
    return files


def visuals(doc: dict[str, Any]) -> list[Image.Image]:
    """The pictures of a document, upright, in RGB.

    Raises:
        UnreadableImage: One is missing or damaged.
    """
    return [_pictures(tuple(doc["places"])).get(key) for key in doc["images"]]


def prompt(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """The paper's prompt, without the text that lmms-eval would add for a model."""
    return str(doc["prompt"])


def target(doc: dict[str, Any]) -> str:
    """The reference answer, for lmms-eval's log and comparison of runs."""
    return _target(gold_texts(json.loads(doc["gold"])))


def process(doc: dict[str, Any], results: Sequence[str]) -> dict[str, Any]:
    """An answer with its item, under the name of every metric, because scores need all answers."""
    benchmark = find_benchmark(doc["benchmark"])
    item = _item(doc)
    names = benchmark.score([item], [""], _options(benchmark, doc["language"])).metrics
    kept = {name: doc[name] for name in ("id", "benchmark", "language", "images", "text", "gold")}
    return {name: {**kept, "metric": name, "answer": results[0]} for name in names}


def aggregate(results: Sequence[dict[str, Any]]) -> float:
    """A metric over all answers, as in ``mblip eval``, except that ``accuracy`` is a fraction, as in lmms-eval."""
    first = results[0]
    benchmark = find_benchmark(first["benchmark"])
    ordered = sorted(results, key=lambda row: str(row["id"]))
    scored = benchmark.score(
        [_item(row) for row in ordered], [row["answer"] for row in ordered], _options(benchmark, first["language"])
    )
    return scored.metrics[first["metric"]] / describe(benchmark).metric(first["metric"]).scale


def _target(golds: Sequence[str]) -> str:
    """The reference as a text; a single one is unchanged, because lmms-eval compares it with a baseline's answers."""
    return golds[0] if len(golds) == 1 else str(list(golds))


def _is_better(metric: Metric) -> bool:
    """Whether higher is better; lmms-eval has no metric where neither is better."""
    return metric.higher_is_better is not False


def _options(benchmark: Benchmark, language: str) -> Options:
    return Options(benchmark.choose_variant(""), language, "")


def _item(doc: dict[str, Any]) -> Item:
    gold = json.loads(doc["gold"])
    return Item(doc["id"], tuple(doc["images"]), doc["text"], tuple(gold) if isinstance(gold, list) else gold)


@lru_cache(maxsize=64)
def _pictures(places: tuple[str, ...]) -> PictureSources:
    return PictureSources(places)


def _samples(run: Path, score: Score) -> list[dict[str, Any]]:
    said = read_predictions(run, score.benchmark, score.language)
    rows = []
    for number, item in enumerate(read_items(run, score.benchmark, score.language)):
        answer = said[item.id]
        doc = {"id": item.id, "images": list(item.images), "text": item.text, "gold": list(item.gold)}
        rows.append({
            "doc_id": number, "target": _target(item.gold), "filtered_resps": answer.answer, "token_counts": [None],
            "doc_hash": _hash(json.dumps(doc, indent=2, ensure_ascii=False)), "input": answer.prompt, **item.values,
        })  # fmt: skip
    return rows


def _metrics(name: str, score: Score, about: About) -> dict[str, Any]:
    found: dict[str, Any] = {"alias": name}
    for metric, value in score.metrics.items():
        scale = about.metric(metric).scale
        found[f"{metric},none"] = value / scale
        interval = score.ci95.get(metric)
        found[f"{metric}_stderr,none"] = (interval[1] - interval[0]) / scale / _NORMAL if interval else "N/A"
    return found


def _config(name: str, score: Score) -> dict[str, Any]:
    decoding = score.fingerprint.get("decoding", {})
    return {"task": name, "output_type": "generate_until", "generation_kwargs": decoding, "metadata": score.fingerprint}


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
