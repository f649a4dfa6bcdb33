"""The basis of recipes: settings from YAML and dotted overrides, with readable errors."""

from __future__ import annotations

import logging
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from mblip.errors import InputError, nearest, shorten
from mblip.more_languages import AddedLanguage, add_languages, parse_languages

_logger = logging.getLogger(__name__)

LARGEST = 2**63 - 1
"""The largest whole number in a recipe."""


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

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
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

    @field_validator("*", mode="before")
    @classmethod
    def _check_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, int) and info.field_name:
            kinds = set(_plain_types(cls.model_fields[info.field_name].annotation))
            # pydantic would read true as 1, so that "optim.steps=true" would train one step.
            if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
                raise ValueError(f"input should be a number (got {_written(value)})")
            if int in kinds and abs(value) > LARGEST:  # torch and tokenizers hold whole numbers in 64 bits
                raise ValueError(
                    f"input should be {f'at most {LARGEST}' if value > 0 else f'at least -{LARGEST}'} (got {_written(value)})"
                )
        return value

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
    """YAML 1.2's plain values, and sections that name a field once.

    PyYAML reads YAML 1.1: ``no`` would be false, ``1e-3`` a text, ``017`` 15, ``1:30`` 90 and ``2026-01-01`` a date.
    """

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

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """An integer; a leading zero does not make it octal."""
        text = str(self.construct_scalar(node))
        return int(text, 0) if re.match(r"0[ox]", text) else int(text)

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        """A fraction, an infinity or no number."""
        return float(re.sub(r"\.(inf|nan)", r"\1", str(self.construct_scalar(node)).lower()))


class _Dumper(yaml.SafeDumper):
    """Quotes the texts that :class:`_Loader` would take for numbers, besides those of YAML 1.1."""


_TAG = "tag:yaml.org,2002:"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.removeprefix(_TAG) in ("null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})$"), list(_first))
_Loader.add_constructor(_TAG + "int", _Loader.construct_yaml_int)
_Loader.add_constructor(_TAG + "float", _Loader.construct_yaml_float)


def parse_yaml(text: str) -> Any:
    """Parse a YAML text; only true and false are booleans, and a section has no field twice."""
    return yaml.load(text, _Loader)


def dump_yaml(data: Any) -> str:
    """A text that :func:`parse_yaml` reads as the same data."""
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


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
    "too_long": "input should have at most {max_length} items",
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
        told = _TOLD.get(first["type"])
        message = told.format_map(first.get("ctx", {})) if told else first["msg"].lower()
        if first["input"] == "":  # FIELD= is empty text, which only a field of text takes
            message = "no value is given; where the field may be unset, write null"
        return f"field {field!r}: {message} (got {_written(first['input'])})"
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


def _written(value: Any) -> str:
    """A value for messages, with YAML's true, false and null."""
    if value is None or isinstance(value, bool):
        return str(value).lower().replace("none", "null")
    return shorten(repr(value))


def _plain_types(annotation: Any) -> Iterator[Any]:
    """The types in an annotation, without those of the items of a list."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from _plain_types(part)
    else:
        yield annotation


def _section_type(annotation: Any) -> Any:
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
