"""Compute reliable scores from answers: none missing, none twice, everything recorded in a fingerprint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from mblip import plugins
from mblip.errors import InputError
from mblip.evaluation.benchmark import Benchmark, Item, Options, Scored
from mblip.evaluation.json_files import take_language
from mblip.evaluation.metric import find_metric
from mblip.evaluation.metrics.fidelity import Detector, is_separable
from mblip.evaluation.predictions import match_answers, read_answers
from mblip.evaluation.statistics import bootstrap_interval
from mblip.languages import find_language
from mblip.replies import RULES
from mblip.schema import Score
from mblip.storage import sha256_file

# Libraries that the numbers depend on, besides this package and the segmenter.
_LIBRARIES = ("numpy",)
_MODEL_LIBRARIES = ("torch", "transformers")
_RESAMPLES = 2_000
_TRANSLATED = "_gmt"  # IGLUE's suffix for machine translations


def score_predictions(
    benchmark: Benchmark,
    data: Path,
    predictions: Path,
    language: str = "",
    variant: str = "",
    segmenter: str = "",
    allow_missing: bool = False,
) -> tuple[Score, Scored]:
    """Score a file of predictions.

    Args:
        benchmark: The benchmark.
        data: Its annotation file, or a folder with it.
        predictions: File in the benchmark's own form or of :class:`mblip.schema.Prediction` lines.
        language: Any code or name; by default the language in the path of the data, else English.
        variant: Variant of the metric; the benchmark's first by default.
        segmenter: Word segmenter for captions; the paper's for the language by default.
        allow_missing: Score only the items that have a prediction, instead of refusing; the fingerprint counts the
            others.

    Returns:
        The score with 95 % intervals clustered on images, and the values of each item that it is made of.

    Raises:
        InputError: A file cannot be used, an item has no prediction or two, a prediction belongs to no item, or the
            file is in another language.
    """
    code = _language(benchmark, data, language)
    options = Options(benchmark.choose_variant(variant), code, segmenter)
    path = benchmark.find(data, code)
    items = read_items(benchmark, path, code)
    answers = read_answers(predictions, benchmark, code)
    matched = match_answers(items, answers, benchmark, path, predictions, allow_missing)
    known = {"predictions_sha256": sha256_file(predictions), "replies": RULES, **matched.counts}
    fingerprint = {**describe_data(benchmark, path, code), **known}
    chosen = [item for item in items if item.id in matched.answers]
    return score_items(benchmark, chosen, matched.answers, options, fingerprint, "predictions")


def score_items(
    benchmark: Benchmark,
    items: Sequence[Item],
    answers: Mapping[str, str],
    options: Options,
    fingerprint: Mapping[str, Any],
    protocol: str,
    detector: Detector | None = None,
) -> tuple[Score, Scored]:
    """Score answers.

    Args:
        benchmark: The benchmark.
        items: The items to score.
        answers: Answers by item.
        options: Variant, language and segmenter.
        fingerprint: Facts about data and answers; variant, segmenter and versions are added.
        protocol: The protocol behind the answers.
        detector: Identifies the language of answers, if the benchmark asks for sentences.

    Returns:
        The score with 95 % intervals clustered on images, and the values of each item that it is made of.
    """
    texts = [answers[item.id] for item in items]
    scored = benchmark.score(items, texts, options)
    if options.segmenter and "segmenter" not in scored.notes:
        raise InputError(
            f"{benchmark.name} needs no segmentation, so segmenter {options.segmenter!r} has no effect; leave it out"
        )
    known = {"benchmark": benchmark.name, "language": options.language, "variant": options.variant}
    remarks = [notes["remark"] for notes in (fingerprint, scored.notes) if "remark" in notes]
    full = {
        **known,
        **fingerprint,
        **scored.notes,
        **({"remark": "; ".join(remarks)} if remarks else {}),
        "versions": _versions(_LIBRARIES if protocol == "predictions" else (*_LIBRARIES, *_MODEL_LIBRARIES))
        | plugins.benchmarks.versions(benchmark.name),
    }
    fidelity = scored.metrics.get("language_fidelity")
    if detector and benchmark.tells_language:
        full["language_detector"] = detector.name
        if is_separable(options.language, detector):
            found = np.array([detector.detect(text) == options.language for text in texts], dtype=np.float64)
            fidelity = float(found.mean())
            scored.per_item["language_fidelity"] = found
    score = Score(
        benchmark.name,
        options.language,
        scored.metrics,
        len(scored.items),
        full,
        _intervals(benchmark, scored),
        protocol,
    )
    score.language_fidelity = fidelity
    return score, scored


def describe_data(benchmark: Benchmark, path: Path, language: str, chosen_by: Path | None = None) -> dict[str, str]:
    """The name of annotations in a fingerprint, and their hash, of the files or of generated items."""
    if len(benchmark.parts) > 1:
        hashes = " ".join(map(sha256_file, benchmark.parts))
        return {
            "data": f"{path.name} to {benchmark.parts[-1].name}",
            "data_sha256": hashlib.sha256(hashes.encode()).hexdigest(),
        }
    if not benchmark.is_made:
        chosen = {"chosen_by": chosen_by.name, "chosen_by_sha256": sha256_file(chosen_by)} if chosen_by else {}
        return {"data": path.name, "data_sha256": sha256_file(path), **chosen}
    made = "\n".join(
        f"{item.id}\t{item.images[0]}\t{item.text}\t{item.gold}" for item in benchmark.read(path, language)
    )
    return {"data": "made", "data_sha256": hashlib.sha256(made.encode()).hexdigest()}


def read_items(benchmark: Benchmark, path: Path, language: str, chosen_by: Path | None = None) -> list[Item]:
    """The items of an annotation file, at least one and none twice; or those that another file chooses.

    Raises:
        InputError: There is no item, or one twice.
    """
    items = benchmark.read(path, language)
    _check_items(items, benchmark, path)
    if benchmark.choice and chosen_by:
        items = benchmark.choice.choose(items, chosen_by)
        _check_items(items, benchmark, chosen_by)
    return items


def _intervals(benchmark: Benchmark, scored: Scored) -> dict[str, tuple[float, float]]:
    """95 % intervals of the metrics that are means over items."""
    images = [item.images for item in scored.items]
    intervals = {}
    for name, values in scored.per_item.items():
        scale = find_metric(benchmark.metrics, name).scale
        low, high = bootstrap_interval(values, images, _RESAMPLES)
        intervals[name] = (scale * low, scale * high)
    return intervals


def _check_items(items: Sequence[Item], benchmark: Benchmark, path: Path) -> None:
    if not items:
        raise InputError(f"{path} holds no items of {benchmark.name}")
    seen: set[str] = set()
    for item in items:
        name = benchmark.normal_id(item.id)
        if name in seen:
            raise InputError(f"{path} holds item {item.id!r} twice; remove one")
        seen.add(name)


def _language(benchmark: Benchmark, data: Path, asked: str) -> str:
    """The requested mC4 code, which the data's path must not contradict; without one, the code in the path."""
    named = _language_in(data, benchmark)
    code = find_language(asked).code if asked else named or _language_of_rows(data) or "en"
    if named and data.is_file() and code != named:
        raise InputError(f"{data} is in {named!r} by its path, not in {code!r}; give the file of that language")
    return code


def _language_in(data: Path, benchmark: Benchmark) -> str:
    """The language at the end of a path (``de/test.jsonl``, ``marvl-id.jsonl``, ``..._bn.json``), or empty."""
    spelled: Mapping[str, str] = {
        spelling: code
        for code in benchmark.languages
        for spelling in (code, find_language(code).bcp47, find_language(code).code_in(benchmark.name))
    }
    folder, stem = data.absolute().parent.name, data.stem.removesuffix(_TRANSLATED).removesuffix("_test")
    # IGLUE's machine translations are in the folder of their source language.
    words = [*([folder] if not data.stem.endswith(_TRANSLATED) else ()), *re.split(r"[-_.]", stem)[-1:]]
    found = [spelled[word] for word in words if word in spelled]
    return found[-1] if found else ""


def _language_of_rows(data: Path) -> str:
    """The language in the rows of a file, as MaRVL has it."""
    try:
        with data.open(encoding="utf-8-sig") as file:
            row = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):  # a folder or another layout; read_items reports errors
        return ""
    names = isinstance(row, dict) and isinstance(row.get("language"), str)
    return take_language(row, f"{data}, record 1") if names else ""


def _versions(libraries: Sequence[str]) -> dict[str, str]:
    versions = {}
    for library in ("mblip", *libraries):
        try:
            versions[library] = version(library)
        except PackageNotFoundError:  # running from a source tree
            continue
    return versions
