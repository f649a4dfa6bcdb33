"""Find a checkpoint by its name: the one place that resolves names of models."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from mblip import plugins
from mblip.errors import InputError, MblipError, RemoteError, ResourceError, guess, is_scarcity, nearest, shorten
from mblip.models.gguf import convert_gguf
from mblip.models.gguf_files import find_gguf
from mblip.more_languages import add_languages

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?", re.ASCII)
_COLLECTION = re.compile(r"([a-z][a-z0-9+.-]+):(?!/)")
_ADAPTER = "adapter_config.json"  # the settings of a LoRA in the format of PEFT
_OUR_FOLDERS = ("runs", "exported")
_FILE_ENDINGS = (
    ".json",
    ".yaml",
    ".yml",
    ".gguf",
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".tar",
    ".zip",
    ".gz",
)
_FEW = 30

DESCRIPTIONS = ("mblip.json", "config.json")
"""A run's description, and a stock checkpoint's configuration; the first one found counts."""


def locate(name: str | Path, weights: bool = True) -> Path:
    """The folder of a checkpoint.

    Args:
        name: ``nano:NAME`` (shipped with the package; plug-ins register such collections too), a folder, or a Hub id,
            ``org/name`` or ``org/name@revision``, which is downloaded unless the local cache has it.
        weights: Whether to fetch a Hub checkpoint's weights too, or only its configuration and tokeniser.

    Raises:
        InputError: There is no such checkpoint, or it is not in the cache and the Hub cannot be reached.
    """
    return find_local(name) or _from_hub(str(name), weights)


def locate_language_model(name: str | Path, weights: bool = True) -> Path:
    """As :func:`locate`, of a language model, which may also be a GGUF file or the folder of one.

    Raises:
        InputError: As there, or the GGUF file cannot be read.
    """
    found = find_language_model(name)
    file = found and find_gguf(found)
    if found and not _holds_model(found) and (found / _ADAPTER).is_file():
        raise no_model(found)
    return convert_gguf(file, weights) if file else found or _from_hub(str(name), weights)


def find_language_model(name: str | Path) -> Path | None:
    """As :func:`find_local`, of a language model, which may also be a GGUF file or the folder of one.

    Raises:
        InputError: As there.
    """
    with suppress(RuntimeError, OSError, ValueError):  # find_local says it
        path = Path(name).expanduser()
        if path.is_file() and find_gguf(path):
            return path
    return find_local(name)


def find_local(name: str | Path) -> Path | None:
    """The folder of a checkpoint on this machine; None for one that only the Hub may have.

    Imports nothing heavy and uses no network, so that a missing path is reported at once.

    Raises:
        InputError: The name is a path or a shipped checkpoint, and it does not exist.
    """
    if not isinstance(name, str | Path):
        raise InputError(f"a checkpoint must be a text or a Path, not {shorten(repr(name))}")
    text = str(name)
    if collection := collection_of(text):
        return _shipped(collection, text.partition(":")[2])
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:  # ~nobody
        raise InputError(f"there is no checkpoint folder {text!r}: {error}") from error
    if is_folder(path):
        return path
    if exists(path):
        if path.suffix.lower() == ".gguf":
            raise InputError(f"{path} is a GGUF file, which holds only a language model: name it in model.llm, or llm=")
        raise InputError(f"{path} is a file; name the folder that holds the checkpoint")
    if isinstance(name, Path) or is_path(text):
        missing = plugins.lacking() if _COLLECTION.match(text) else ""
        raise InputError(f"there is no checkpoint folder {shorten(text)!r}{_beside(path)}{missing}")
    return None


def collection_of(name: str) -> str:
    """The registered collection in a checkpoint's name, such as ``nano`` in ``nano:nano-mlm``; mostly empty."""
    found = _COLLECTION.match(name)
    return found[1] if found and found[1] in plugins.checkpoints else ""


def find_model(name: str | Path) -> Path | None:
    """Like :func:`find_local`, for a complete vision-language model: a run, or a checkpoint with its configuration.

    Raises:
        InputError: There is none, or the folder holds no model; the message names the runs below it.
    """
    text = str(name)
    folder = find_local(name)
    if folder is None:
        if "/" in text:
            return None
        runs = [str(path) for path in _runs_below(Path("runs")) if text in path.parts]
        hint = f"; did you mean {runs[0]!r}?" if runs else "; a run or checkpoint is named by its path,"
        raise InputError(f"there is no folder {shorten(text)!r}{hint} and a model of the Hub as ORG/NAME")
    if _holds_model(folder):
        return folder
    if runs := [str(path) for path in _runs_below(folder)]:
        raise InputError(f"{folder} is not a model{nearest(text, runs)}")
    if (folder / "manifest.json").is_file():
        raise InputError(f"{folder} is a mix, which trains a model (data.mix={folder}): name a run or a checkpoint")
    if (folder / "recipe.yaml").is_file():
        raise InputError(
            f"the run {folder} is not finished (it has no mblip.json): continue it with mblip train, then try again"
        )
    raise no_model(folder)


def no_model(folder: Path) -> InputError:
    """The error for a folder without ``config.json`` and ``mblip.json``."""
    if (folder / _ADAPTER).is_file():
        return InputError(
            f"{folder} holds a LoRA adapter without its model: merge it into the model with peft (merge_and_unload), save "
            "that, and name its folder"
        )
    return InputError(f"{folder} holds neither a model (config.json) nor a run (mblip.json)")


def know_languages(name: str | Path) -> None:
    """Register the languages beyond the 96 that a model on this machine was trained in.

    Does nothing for a model that is not on this machine yet.

    Raises:
        InputError: The model's list is damaged, or clashes with languages that are registered already.
    """
    try:
        folder = find_model(name) if str(name) else None
    except InputError:  # loading the model reports it later
        return
    for file in DESCRIPTIONS:
        path = (folder or Path()) / file
        if folder is None or not path.is_file():
            continue
        try:
            rows = json.loads(path.read_text(encoding="utf-8")).get("more_languages") or []
        except (OSError, ValueError, AttributeError):  # loading the model reports it later
            return
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InputError(f"{path}: more_languages is not a list of languages; copy the model again")
        add_languages(rows, str(path))


def is_path(text: str) -> bool:
    """Whether a name that is not on this machine must be a path, because it is no ``ORG/NAME`` of the Hub."""
    name = text.partition("@")[0]
    if not _HUB_ID.fullmatch(text) or text.startswith((".", "/", "~")):  # backslashes, blanks, C:, two slashes
        return True
    parent, slash, _ = name.partition("/")
    inside = bool(slash) and (parent in _OUR_FOLDERS or is_folder(Path(parent)))
    return inside or name.endswith(_FILE_ENDINGS)


def is_folder(path: Path) -> bool:
    """Whether a folder exists; False if the system refuses the name."""
    with suppress(OSError, ValueError):  # too long, or a NUL
        return path.is_dir()
    return False


def exists(path: Path) -> bool:
    """Whether a path exists; False if the system refuses the name."""
    with suppress(OSError, ValueError):
        return path.exists()
    return False


def _beside(path: Path) -> str:
    """The end of a message that names what is near a missing folder."""
    if not is_folder(path.parent):
        return f"; there is no {path.parent} either" if str(path.parent) not in ("", ".", "/") else ""
    with suppress(OSError):  # no permission to read the folder
        beside = [other for other in sorted(path.parent.iterdir()) if not other.name.startswith(".")]
        models = [str(other) for other in beside if _holds_model(other)][:_FEW]
        folders = [str(other) for other in beside if is_folder(other)]
        return nearest(str(path), models) if models else guess(str(path), folders)
    return ""


def _holds_model(folder: Path) -> bool:
    return exists(folder / "mblip.json") or exists(folder / "config.json")


def _runs_below(folder: Path) -> list[Path]:
    return sorted(file.parent for depth in ("*", "*/*") for file in folder.glob(f"{depth}/mblip.json"))


def revision_of(folder: Path) -> str | None:
    """The commit of a folder in the Hub's cache; None for any other folder."""
    return folder.name if folder.parent.name == "snapshots" else None


def _shipped(collection: str, name: str) -> Path:
    bases: Path = plugins.checkpoints[collection]
    known = sorted(path.name for path in bases.iterdir() if path.is_dir())
    if name not in known:
        raise InputError(f"no checkpoint {collection}:{name} is shipped with the package{nearest(name, known)}")
    return bases / name


def _from_hub(name: str, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError
    from tqdm.auto import tqdm

    from mblip.catalogue.hub import not_given, wanted_files

    repository, _, revision = name.partition("@")
    wanted: dict[str, Any] = {"repo_id": repository, "revision": revision or None}
    # tqdm's own bar shows only on a terminal. The command line turns the Hub's bar off together with transformers'.
    bar: dict[str, Any] = {"tqdm_class": tqdm}
    try:
        return Path(snapshot_download(**wanted, **bar, allow_patterns=wanted_files(repository, revision, weights)))
    except not_given() as error:
        try:
            return Path(snapshot_download(**wanted, local_files_only=True))
        except (LocalEntryNotFoundError, OSError, ValueError):  # ValueError: no name that the Hub could have
            raise _refusal(name, error) from error


def _refusal(name: str, error: Exception) -> MblipError:
    from huggingface_hub import constants

    if isinstance(error, OSError) and is_scarcity(error):
        return ResourceError(
            f"cannot keep {name!r} in the Hugging Face cache: {error.strerror}; free the space, or move it with HF_HOME"
        )
    status = getattr(getattr(error, "response", None), "status_code", 0)
    mistaken = constants.HF_HUB_OFFLINE or isinstance(error, ValueError) or status in (400, 401, 403, 404)
    return (InputError if mistaken else RemoteError)(
        f"{name!r} is neither a folder nor a checkpoint in the local Hugging Face cache, and the Hub does not "
        f"give it ({type(error).__name__}): check the spelling and the connection, or name a folder"
    )
