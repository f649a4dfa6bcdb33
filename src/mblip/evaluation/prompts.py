"""Sets of prompts: the paper's, the same with the original's language names, those of fine-tuning, or a user's own."""

from __future__ import annotations

from pathlib import Path
from string import Formatter

import yaml

from mblip.errors import InputError, check_readable, nearest
from mblip.evaluation.benchmark import Benchmark
from mblip.languages import find_language

PAPER, ORIGINAL, FINETUNED = "paper", "original", "finetuned"
_FIELDS = {"text", "language"}
# Benchmarks whose prompts after fine-tuning differ from the zero-shot prompts in the original.
_AFTER_FINE_TUNING = dict.fromkeys(
    ("marvl", "nlvr2"), 'Based on the two images, is it correct to say "{text}"? Yes or no?'
)
_SETS: dict[str, dict[str, str]] = {PAPER: {}, ORIGINAL: {}, FINETUNED: _AFTER_FINE_TUNING}


def load_prompts(name: str, benchmarks: list[Benchmark]) -> dict[tuple[str, str], str]:
    """The prompt of each benchmark in each of its languages, complete except for ``{text}``.

    Args:
        name: ``paper``; ``original`` for the paper's prompts with the original code's names of languages ("Farsi",
            "Portugese"); ``finetuned`` for models of the recipes ``finetune_...``; or a YAML file of prompts by
            benchmark, which may contain ``{text}`` and ``{language}``. Benchmarks that it lacks get the paper's
            prompts.
        benchmarks: The benchmarks.

    Raises:
        InputError: There is no such set or file, a benchmark or field is unknown, or a prompt lacks the question.
    """
    own = _SETS[name] if name in _SETS else _read(Path(name), benchmarks)
    prompts = {}
    for benchmark in benchmarks:
        template = own.get(benchmark.name, benchmark.prompt)
        for code in benchmark.languages:
            profile = find_language(code).in_profile("original" if name == ORIGINAL else "correct", benchmark.name)
            prompts[benchmark.name, code] = template.replace("{language}", profile.name)
    return prompts


def _read(path: Path, benchmarks: list[Benchmark]) -> dict[str, str]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        check_readable(path)
        raise InputError(
            f"no prompts {str(path)!r}: name paper, original, finetuned or a YAML file of your own"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    known = {benchmark.name: benchmark for benchmark in benchmarks}
    if not isinstance(data, dict) or not all(isinstance(text, str) for text in data.values()):
        raise InputError(f"{path} must have a prompt, a text, for each benchmark that it names")
    for name, template in data.items():
        if name not in known:
            raise InputError(f"{path} has a prompt for {name!r}, which is not evaluated{nearest(name, known)}")
        try:
            fields = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
        except ValueError as error:
            raise InputError(f"{path}, {name}: {error}; write {{{{ for a brace") from error
        if fields - _FIELDS:
            raise InputError(
                f"{path}, {name} has {{{min(fields - _FIELDS)}}}; a prompt may contain {{text}} and {{language}}"
            )
        if "{text}" in known[name].prompt and "text" not in fields:
            raise InputError(f"{path}, {name} lacks {{text}}, the question or statement")
    return data
