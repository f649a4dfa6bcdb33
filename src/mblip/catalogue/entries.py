"""The catalogue: the files of each data set, with addresses and licences.

A catalogue file maps names to data sets::

    my_photos:
      licence: CC BY 4.0
      notes: taken in 2024
      files:
        - {url: "https://example.org/photos.zip", path: photos/photos.zip, bytes: 1048576, sha256: 9f86d0...}
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from mblip.catalogue.names import unsafe
from mblip.errors import InputError, nearest, quoted
from mblip.settings import Section, explain, parse_yaml
from mblip.storage import reading_text

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""Endings of files that are unpacked."""

_HUB = "hf://"
_HUB_PATH = re.compile(
    r"(?P<kind>datasets/)?(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>.+))?"
)
Size = Annotated[int, Field(ge=0)]


class HubAddress(Section):
    """A file of the Hub, or a complete checkpoint if ``file`` is empty."""

    repository: str
    is_dataset: bool = False
    revision: str = ""
    file: str = ""

    @property
    def page(self) -> str:
        """Address of its page."""
        return f"https://huggingface.co/{'datasets/' if self.is_dataset else ''}{self.repository}"


class SetFile(Section):
    """One file of a data set.

    Sizes and checksums are from a named source. Unknown ones are left out, and the file is then checked against the
    length that its server gives.
    """

    url: str = Field(
        default="",
        description="http(s), or hf://[datasets/]ORG/NAME[@REVISION][/FILE]; empty for a file that you must request",
    )
    path: str = Field(default="", description="path below --to; by default the last part of the address")
    bytes: Size | None = Field(default=None, description="exact size")
    about_bytes: Size | None = Field(default=None, description="rounded size from a page; shown, never checked")
    sha256: str = Field(default="", pattern=r"^([0-9a-fA-F]{64})?$")
    unpack: bool | str | None = Field(
        default=None,
        description="false: do not unpack the archive; or a folder beside it to unpack into; by default it is unpacked "
        "in the folder that it is in",
    )
    unpacked_bytes: Size | None = Field(default=None, description="maximum size of the unpacked files, if known")
    holds: tuple[str, ...] = Field(default=(), description="paths in the archive that recipes use, below its folder")
    inner: bool = Field(
        default=False, description="archives inside the archive are unpacked too, each into a folder of its name"
    )

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, url: str) -> str:
        if url.startswith(_HUB):
            if not _HUB_PATH.fullmatch(url.removeprefix(_HUB)):
                raise ValueError("the address must read hf://[datasets/]ORG/NAME[@REVISION][/FILE]")
        elif url:
            try:
                parts = urlsplit(url)
                fits = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
            except ValueError:
                fits = False
            if not fits:
                raise ValueError("the address must begin with http://, https:// or hf:// and name a host")
        return url

    @model_validator(mode="after")
    def _safe_path(self) -> SetFile:
        folder = self.unpack if isinstance(self.unpack, str) else ""
        for path in filter(None, (self.target if not self.is_checkpoint else "", folder, *self.holds)):
            if problem := unsafe(path):
                raise ValueError(f"the path {quoted(path)} {problem}; name one below the data folder")
        if not self.is_checkpoint and not self.target:
            raise ValueError("a file needs a 'path', because its address ends without a name")
        return self

    @property
    def hub(self) -> HubAddress | None:
        """Its address on the Hub, if it has one."""
        found = _HUB_PATH.fullmatch(self.url.removeprefix(_HUB)) if self.url.startswith(_HUB) else None
        if found is None:
            return None
        return HubAddress(
            repository=found["repository"], is_dataset=bool(found["kind"]), revision=found["revision"] or "",
            file=found["file"] or "",
        )  # fmt: skip

    @property
    def is_checkpoint(self) -> bool:
        """Whether it is a complete repository, which is stored in the Hub's cache for all recipes."""
        return self.hub is not None and not self.hub.file

    @property
    def target(self) -> str:
        """Path below the data folder."""
        path = self.path or unquote(urlsplit(self.url).path.rpartition("/")[2])
        if unsafe(path):
            return path  # the check of the entry refuses it
        return "/".join(part for part in path.split("/") if part not in ("", "."))

    @property
    def folder(self) -> str | None:
        """Folder below the data folder that it is unpacked into; None if it is not unpacked."""
        if self.unpack is False or self.is_checkpoint:
            return None
        if self.unpack is None and not self.target.lower().endswith(ARCHIVES):
            return None
        parent = self.target.rpartition("/")[0]
        inside = self.unpack if isinstance(self.unpack, str) else ""
        return "/".join(filter(None, (parent, inside))) or "."

    @property
    def gives(self) -> list[str]:
        """Paths below the data folder that readers use once it is downloaded."""
        if self.folder is None:
            return [self.target]
        if isinstance(self.unpack, str) and not self.holds:
            return [self.folder]
        return [name if self.folder == "." else f"{self.folder}/{name}" for name in self.holds]


class DataSet(Section):
    """A data set, a benchmark or a checkpoint."""

    name: str = ""
    title: str = ""
    licence: str = ""
    page: str = Field(default="", description="web page of its authors")
    ask: str = Field(default="", description="what must be requested, and where")
    needs: tuple[str, ...] = Field(
        default=(), description="data sets that are downloaded with it, such as its pictures"
    )
    benchmarks: tuple[str, ...] = Field(default=(), description="benchmarks that use it, by name or family")
    files: tuple[SetFile, ...] = ()
    notes: str = ""

    @model_validator(mode="after")
    def _names_something(self) -> DataSet:
        if not (self.files or self.needs):
            raise ValueError(
                "it names neither 'files' nor 'needs'; a file that must be asked for has a 'path' and no 'url'"
            )
        return self

    @property
    def bytes(self) -> int | None:
        """Size of all files, as far as it is known; None if nothing is known."""
        known = [size for file in self.files if (size := file.bytes or file.about_bytes) is not None]
        return sum(known) if known else None

    @property
    def is_exact(self) -> bool:
        """Whether the exact size of every file is known."""
        return all(file.bytes is not None for file in self.files)

    @cached_property
    def by_hand(self) -> list[SetFile]:
        """The files that the user must request."""
        return [file for file in self.files if not file.url]


def load_catalogue(extra: Path | None = None) -> dict[str, DataSet]:
    """Load the shipped data sets, and those of a user's own file, which replace shipped ones of the same name.

    Raises:
        InputError: The file cannot be read, or an entry is invalid; the message names the entry and the field.
    """
    sets = dict(_shipped())
    if extra:
        sets.update(read_catalogue(extra))
    for entry in sets.values():
        for need in entry.needs:
            if need not in sets:
                raise InputError(f"data set {entry.name!r} needs {need!r}, which no catalogue has{nearest(need, sets)}")
    return sets


@cache
def _shipped() -> Mapping[str, DataSet]:
    root = Path(str(resources.files("mblip.catalogue"))) / "sets"
    return {name: entry for path in sorted(root.glob("*.yaml")) for name, entry in read_catalogue(path).items()}


def read_catalogue(path: Path) -> dict[str, DataSet]:
    """The data sets of one catalogue file.

    Raises:
        InputError: As in :func:`load_catalogue`.
    """
    try:
        with reading_text(path):
            content = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError(f"{path} is not readable YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path} must map names of data sets to their files, as in 'NAME: {{files: [...]}}'")
    found = {}
    for name, fields in content.items():
        if not isinstance(fields, Mapping):
            raise InputError(
                f"{path}: {quoted(name)} must be a data set, {{files: [...], licence: ...}}, not {quoted(fields)}"
            )
        try:
            entry = DataSet.model_validate({**fields, "name": str(name)})
        except ValidationError as error:
            raise InputError(f"{path}: data set {quoted(str(name))}: {explain(DataSet, error)}") from error
        _check_targets(entry.files, f"{path}: data set {quoted(str(name))}")
        found[str(name)] = entry
    return found


def _check_targets(files: Iterable[SetFile], where: str) -> None:
    seen: dict[str, str] = {}
    for file in files:
        if file.is_checkpoint:
            continue
        if seen.setdefault(file.target, file.url) != file.url:
            raise InputError(f"{where} has two files for one path {quoted(file.target)}; give each its own path")
    for path in seen:
        if inside := next((other for other in seen if other.startswith(f"{path}/")), ""):
            raise InputError(
                f"{where} has a file at {quoted(path)} and another inside it, {quoted(inside)}; give it another path"
            )
