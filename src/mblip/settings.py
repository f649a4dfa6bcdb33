"""The basis of recipes: settings from YAML and dotted overrides, with readable errors."""

from __future__ import annotations

import logging
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mblip.errors import InputError, nearest, shorten
from mblip.more_languages import AddedLanguage, add_languages, parse_languages

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """The fields of a section by their effect on the identity of a run; every field is in one of these.

    Attributes:
        decides: Fields whose value decides the result; another value is another run.
        whether: Fields for which only counts whether they are set.
        content: Folders, whose content counts and not the path.
        free: Fields that change nothing, or only the rounding, and may change within a run.
    """

    decides: tuple[str, ...] = ()
    whether: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    free: tuple[str, ...] = ()

    @classmethod
    def of(cls, decides: str = "", *, whether: str = "", content: str = "", free: str = "") -> Identity:
        """An identity from names that are separated by blanks."""
        return cls(*(tuple(names.split()) for names in (decides, whether, content, free)))


class Section(BaseModel):
    """Part of a recipe; unknown fields are errors, so that typos are noticed.

    A field that was renamed has its first name as ``serialization_alias``. Recipes may still use that name, and hashes
    keep it, so that older mixes and runs are found.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    identity: ClassVar[Identity | None] = None  # None: every field decides

    @model_validator(mode="before")
    @classmethod
    def _read_first_names(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        renamed = {
            field.serialization_alias: name for name, field in cls.model_fields.items() if field.serialization_alias
        }
        for first in renamed.keys() & data.keys():
            _logger.warning("the recipe field %r is now named %r; its former name is still read", first, renamed[first])
        return {renamed.get(key, key): value for key, value in data.items()}  # of both, the one given later counts

    @property
    def own_identity(self) -> Identity | None:
        """The identity of the class, unless it depends on the values."""
        return self.identity


class Recipe(Section):
    """The complete description of a run; ``title`` and ``paper`` name it and the section of the paper it follows."""

    trained_by: ClassVar[str] = ""
    """For kinds that ``mblip train`` runs: the address ``module:function`` of ``train(recipe, directory, on_log)``."""

    title: str
    paper: str = ""
    more_languages: tuple[AddedLanguage, ...] = Field(
        default=(), description="languages beyond the 96: the path of a CSV file, or a list of code, name, script, ..."
    )
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _know_languages(cls, data: Any) -> Any:
        """Add the recipe's languages to the table before the fields that use them, in worker processes too."""
        if isinstance(data, dict) and data.get("more_languages"):
            added = parse_languages(data["more_languages"], "more_languages")
            add_languages(added, "more_languages")
            return {**data, "more_languages": added}
        return data


def decisive(section: Section, *, defaults: bool = True) -> dict[str, Any]:
    """The settings that decide a run, as plain values (see :class:`Identity`).

    Args:
        section: A recipe, or a part of one.
        defaults: Include settings with their default value.
    """
    identity, found = section.own_identity or Identity(), dict[str, Any]()
    plain = section.model_dump(mode="json", by_alias=True)
    for name, field in type(section).model_fields.items():
        value, hashed = getattr(section, name), field.serialization_alias or name
        if name in (*identity.free, *identity.content):
            continue
        whether = name in identity.whether
        if not defaults and (value == field.default or (whether and bool(value) == bool(field.default))):
            continue
        if isinstance(value, Section):
            if inner := decisive(value, defaults=defaults):
                found[hashed] = inner
        else:
            found[hashed] = bool(value) if whether else plain[hashed]
    return found


def contents(section: Section, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield dotted field and path of the folders whose content counts, if they are set."""
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from contents(value, f"{prefix}{name}.")
        elif section.identity and name in section.identity.content and value:
            yield f"{prefix}{name}", value


class _Loader(yaml.SafeLoader):
    """YAML whose only booleans are true and false (``no`` is Norwegian), and whose sections name a field once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See PyYAML, which keeps the last of two equal keys."""
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"two fields have the name {key.value!r}; remove one", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or first in "tTfF"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse_yaml(text: str) -> Any:
    """Parse a YAML text; only true and false are booleans, and a section has no field twice."""
    return yaml.load(text, _Loader)


def override_field(data: dict[str, Any], keys: list[str], text: str, override: str) -> None:
    """Set the field at a path of section names, or of a list's items by name or number, to a YAML value.

    Raises:
        InputError: A part of the path is not a section, a list has no such item (the message names the nearest), or the
            value is not YAML.
    """
    parent = ""
    for key in keys[:-1]:
        if isinstance(data, list):
            named = {str(item["name"]): item for item in data if isinstance(item, dict) and "name" in item}
            items = {str(number): item for number, item in enumerate(data)} | named
            if key not in items:
                message = nearest(key, named) if named else f"; it has {len(data)}, numbered from 0"
                raise InputError(f"override {override!r}: {parent!r} has no item {key!r}{message}")
            data = items[key]
        else:
            data = data.setdefault(key, {})
        if not isinstance(data, dict | list):
            raise InputError(f"override {override!r}: {key!r} is not a section of the recipe")
        parent = key
    if not isinstance(data, dict):
        raise InputError(f"override {override!r}: {parent!r} is a list; set a field of one of its items, or all of it")
    try:
        data[keys[-1]] = parse_yaml(text) if text else ""
    except yaml.YAMLError as error:
        raise InputError(f"override {override!r}: the value is not readable YAML") from error


# Messages in terms of YAML, where pydantic's are about Python.
_TOLD = {
    "tuple_type": "input should be a list, such as [a, b]",
    "list_type": "input should be a list, such as [a, b]",
    "model_type": "input should be a section with its own fields",
    "dict_type": "input should be a section with its own fields",
}


def explain(kind: type[BaseModel], error: ValidationError) -> str:
    """A message about the first error: the field's path, and the nearest valid name if it is unknown."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    field = ".".join(location)
    if first["type"] == "missing":
        return f"field {field!r} is missing"
    if first["type"] != "extra_forbidden":
        if first["type"] == "value_error":  # our own message, which may have capitals
            said = str(first["msg"].removeprefix("Value error, "))
            return f"field {field!r}: {said}" if location else said
        message = _TOLD.get(first["type"], first["msg"].lower())
        if first["input"] == "":  # FIELD= is empty text, which only a field of text takes
            message = "no value is given; where the field may be unset, write null"
        return f"field {field!r}: {message} (got {shorten(repr(first['input']))})"
    section: Any = kind
    for part in location[:-1]:
        if part.isdigit():  # an item of a list of sections
            continue
        fields = getattr(section, "model_fields", {})
        section = _section_type(fields[part].annotation) if part in fields else None
    known = getattr(section, "model_fields", {})
    return f"unknown field {field!r}{nearest(location[-1], known)}"


# A field that only one kind of recipe has, and the verbs for that kind.
_VERBS = {
    "sources": "mblip data plan, sample, translate and mix",
    "benchmarks": "mblip eval",
    "optim": "mblip train and mblip plan",
}


def another_kind(kind: type[BaseModel], data: dict[str, Any]) -> str:
    """The end of a message about a recipe of the wrong kind; empty if it has the field that identifies its kind."""
    own = _VERBS.keys() & kind.model_fields.keys()
    found = [field for field in _VERBS if field in data]
    return (
        f" is a recipe for {_VERBS[found[0]]}, not for what was asked"
        if own and found and not own & data.keys()
        else ""
    )


def _section_type(annotation: Any) -> Any:
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
