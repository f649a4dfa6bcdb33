"""Check that a recipe asks nothing of the run that it continues from which that run does not have."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from mblip.config import ModelSection
from mblip.errors import InputError
from mblip.models.checkpoint import fingerprint, read_json
from mblip.models.gguf_files import find_gguf
from mblip.models.locate import collection_of, find_language_model, find_local
from mblip.models.runs import DESCRIPTION

_LEFT_OUT = {"vision": "", "llm": "", "qformer": "keep"}  # null for all others


def check_continued(section: ModelSection) -> None:
    """Check a recipe's ``model`` with ``model.run``: no other field may ask for another model than that run.

    Recipes may name both a run and its own parts, so that ``model.run=runs/warmup`` is all that continues a warm-up.

    Raises:
        InputError: A field names another part than the run's, or a start that only a new model has.
    """
    if not section.run:
        return
    if section.qformer == "random":
        raise _contradiction(section, "qformer", section.qformer, "whose Q-Former is trained already")
    folder = find_local(section.run)
    if folder is None or not (folder / DESCRIPTION).is_file():
        return  # a complete checkpoint does not say what it was made of
    described = read_json(folder / DESCRIPTION)
    bases = described.get("bases")
    for part, base in bases.items() if isinstance(bases, dict) else ():
        named = getattr(section, part, "")
        if named and isinstance(base, dict) and not _is_base(part, named, base):
            raise _contradiction(section, part, named, f"which was trained on {base.get('id')}")
    eyes = described.get("eyes")
    eyes = eyes if eyes and isinstance(eyes, dict) else {"bridge": "qformer"}
    for field, wanted in section.eye_settings.items():
        if wanted is not None and wanted != eyes.get(field):
            own = f"whose own is {eyes[field]}" if field in eyes else "which has a Q-Former instead of an MLP"
            raise _contradiction(section, field, wanted, own)


def _is_base(part: str, name: str, base: dict[str, Any]) -> bool:
    """Whether a name in a recipe is a run's base: by its id, or as another path to the same weights."""
    found = find_language_model(name) if part == "llm" else find_local(name)
    known = str(found.resolve()) if found and not collection_of(name) else name.partition("@")[0]
    if known == base.get("id") or found is None or find_gguf(found):
        return bool(known == base.get("id"))
    with suppress(InputError):  # it has no weights, so that nothing was trained on it
        return fingerprint(found) == base.get("fingerprint")
    return False


def _contradiction(section: ModelSection, field: str, value: Any, own: str) -> InputError:
    without = _LEFT_OUT.get(field, "null")
    return InputError(
        f"model.{field} is {value}, but model.run continues {section.run}, {own}: leave model.{field} out "
        f"(model.{field}={without}), or build a new model without model.run"
    )
