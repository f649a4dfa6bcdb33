"""Registries for plug-ins: corpora, translation engines, image schemes, benchmarks and more, each by name.

A package declares a function without arguments as an entry point of the group ``mblip.plugins``; the function registers
the package's plug-ins. It is called once, at the first look-up in a registry, and should not import slow modules: a
registry accepts the address of an object (``package.module`` or ``package.module:attribute``) as well as the object
itself, and imports it when it is used::

    from mblip import plugins

    def register() -> None:
        plugins.corpora.register("haiku", "mblip_haiku.corpus")

mblip's own nano world is registered in the same way (:mod:`mblip.nano.plugin`).
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module, metadata
from typing import Any

from mblip.errors import InputError, nearest, shorten

GROUP = "mblip.plugins"
OWN = "mblip"
"""The owner of mblip's own plug-ins."""

_PROGRAM = "this program"
_NAME = re.compile(r"[a-z0-9][a-z0-9_.+-]*(/[a-z0-9][a-z0-9_.+-]*)?")  # also safe as part of a file's name
_POINTS = "entry_points.txt"
_SAID = 150  # characters of a foreign error that are shown
_log = logging.getLogger(__name__)
_owner: ContextVar[str] = ContextVar("owner", default=_PROGRAM)
_lock = threading.RLock()
_state = "new"  # then "loading", then "loaded"
_broken: dict[str, str] = {}
"""By package, the reason why its plug-ins could not be loaded."""
_own_plugin_found = False


class Registry(Mapping[str, Any]):
    """Objects of one kind by name, from mblip, from other packages and from the running program.

    A name that cannot be resolved, because two packages claim it or its package is damaged, is an error only when it is
    used. mblip's own objects are registered when their package is imported (``mblip.corpora`` for corpora).

    Args:
        kind: Name of the kind in messages.
        needs: Attributes that each object must have.
    """

    def __init__(self, kind: str, *needs: str) -> None:
        self.kind, self._needs = kind, needs
        self._things: dict[str, dict[str, Any]] = {}
        self._warned: set[str] = set()
        _registries.append(self)

    def register(self, name: str, thing: Any, owner: str = "") -> None:
        """Add an object, or replace the one that the same package has registered under this name.

        Args:
            name: Lower-case letters, digits and ``_ . + -``; recipes have one slash.
            thing: The object, or its address as a string.
            owner: The package; by default that of the entry point.

        Raises:
            ValueError: The name has other characters.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot be the name of a {self.kind}: use lower-case letters, digits and _ . + -"
            )
        self._things.setdefault(name, {})[owner or _owner.get()] = thing

    def owners(self, name: str) -> list[str]:
        """The packages that have registered a name."""
        load_plugins()
        return list(self._things.get(name, ()))

    def versions(self, *names: str) -> dict[str, str]:
        """The versions of the other packages behind names, to record them in results; usually empty."""
        owners = [owner for name in names for owner in self.owners(name) if owner not in (OWN, _PROGRAM)]
        return {package: version for package, _, version in (owner.rpartition(" ") for owner in owners)}

    def __getitem__(self, name: str) -> Any:
        """The object of a name.

        Raises:
            KeyError: The name is not registered.
            InputError: Two packages have registered it, or the package's module cannot be imported or lacks an
                attribute.
        """
        load_plugins()
        owners = self._things[name]
        if len(owners) > 1:
            first, second, *_ = owners
            raise InputError(
                f"{first} and {second} both register the {self.kind} {name!r}: uninstall one of them, or ask its "
                "authors for another name"
            )
        [(owner, thing)] = owners.items()
        if isinstance(thing, str):
            with _told_of(owner, f"the {self.kind} {name!r} of {owner} cannot be imported"):
                thing = load(thing)
        if lacks := [needed for needed in self._needs if not hasattr(thing, needed)]:
            raise InputError(f"the {self.kind} {name!r} of {owner} has no {lacks[0]!r}; report it to its authors")
        owners[owner] = thing
        return thing

    def __iter__(self) -> Iterator[str]:
        load_plugins()
        return iter(list(self._things))

    def __len__(self) -> int:
        load_plugins()
        return len(self._things)

    def __contains__(self, name: object) -> bool:
        load_plugins()
        return name in self._things

    def usable(self) -> Iterator[tuple[str, Any]]:
        """Yield every usable object with its name; the log warns once about each other one."""
        for name in self:
            try:
                thing = self[name]
            except InputError as error:
                if name not in self._warned:
                    self._warned.add(name)
                    _log.warning("left out: %s", error)
                continue
            yield name, thing

    def hint(self, name: str) -> str:
        """The end of a message about an unknown name: the nearest names, and plug-ins that could not be loaded."""
        return nearest(name, self) + lacking()

    def _forget(self, owner: str) -> None:
        for name in [name for name, owners in self._things.items() if owners.pop(owner, None) and not owners]:
            del self._things[name]


def lacking() -> str:
    """The end of a message about missing plug-ins, also mblip's own; usually empty."""
    load_plugins()
    parts = [f"; the plug-in of {owner} could not be loaded ({why})" for owner, why in _broken.items()]
    if not _own_plugin_found:
        parts.append(
            "; the nano world, which comes with mblip, is missing, because mblip is not installed or an older version "
            "is: install it again (pip install --editable . in its folder)"
        )
    return "".join(parts)


def load(address: str) -> Any:
    """The module or attribute at an address: ``package.module`` or ``package.module:attribute``."""
    module, _, attribute = address.partition(":")
    found: Any = import_module(module)
    return getattr(found, attribute) if attribute else found


def load_plugins() -> None:
    """Load the plug-ins of all packages once; those that fail are left out with a warning."""
    global _state, _own_plugin_found
    if _state == "loaded":
        return
    with _lock:
        if _state != "new":  # loaded in the meantime, or a plug-in makes a look-up while it registers
            return
        _state = "loading"
        try:
            packages = {_package(found): found for found in metadata.distributions() if _has_plugins(found)}
            for owner in sorted(packages, key=lambda owner: (owner != OWN, owner)):
                _register_all(owner, packages[owner])
            _own_plugin_found = OWN in packages
            _state = "loaded"
        finally:
            if _state == "loading":
                _state = "new"


def _has_plugins(found: metadata.Distribution) -> bool:
    """Whether an installed package has plug-ins; of two installations of a package, the first on the path counts."""
    try:
        text = found.read_text(_POINTS) or ""
    except (OSError, UnicodeDecodeError):  # unreadable, so it has no plug-ins for us
        return False
    if GROUP not in text:
        return False
    try:
        return metadata.distribution(found.name).read_text(_POINTS) == text
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        _log.warning("the plug-ins of a package are left out, because its metadata is damaged (%s)", error)
        return False


def _register_all(owner: str, package: metadata.Distribution) -> None:
    """Call the functions of one package; if one fails, the complete package is left out."""
    token = _owner.set(owner)
    try:
        with _told_of(owner, ""):
            for point in package.entry_points.select(group=GROUP):
                point.load()()
    except InputError as error:
        for registry in _registries:
            registry._forget(owner)
        _broken[owner] = str(error)
        _log.warning("the plug-in of %s could not be loaded and is left out: %s", owner, error)
    finally:
        _owner.reset(token)


@contextmanager
def _told_of(owner: str, what: str) -> Iterator[None]:
    """Turn errors of another package into one sentence that names it; our own errors are unchanged."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if owner not in (OWN, _PROGRAM):
            said = shorten(" ".join(str(error).split()).replace("'", '"'), _SAID)
            reason = f"{type(error).__name__}: {said}" if said else type(error).__name__
            remedy = f"; update or uninstall {owner.partition(' ')[0]}"
            raise InputError(f"{what} ({reason}){remedy}" if what else reason) from error
        raise


def _package(found: metadata.Distribution) -> str:
    """Name and version of an installed package."""
    return OWN if found.name == OWN else f"{found.name} {found.version}"


_registries: list[Registry] = []

corpora = Registry("corpus", "read")
"""Modules with ``read(source, ...)``, which yields examples; see ``mblip.corpora``."""

engines = Registry("translation engine", "open_engine", "LICENCE")
"""Modules with ``open_engine(...)`` and ``LICENCE``; see ``mblip.translation.engines``."""

image_schemes = Registry("image scheme", "__call__")
"""By the part before the colon: functions ``open(name, as_stored)`` that open the image store of the part after it."""

benchmarks = Registry("benchmark", "name", "score", "metrics")
"""Instances of :class:`~mblip.evaluation.benchmark.Benchmark`."""

recipe_kinds = Registry("kind of training recipe", "trained_by")
"""Subclasses of :class:`~mblip.settings.Recipe` by their field ``kind``."""

recipes = Registry("recipe", "is_file")
"""Paths of YAML files by ``folder/name``."""

templates = Registry("template file", "is_file")
"""Paths of YAML files (``mblip.mixture.templates``)."""

checkpoints = Registry("collection of checkpoints", "is_dir")
"""By the part of a model's name before the colon: folders of checkpoint folders."""

notices = Registry("notice", "__call__")
"""Functions from a loaded model to its notices about pictures (``mblip.inference.notices``)."""

demo_pictures = Registry("set of demo pictures", "__call__")
"""Functions that write example pictures for ``mblip demo`` into a folder and return their paths."""

reports = Registry("kind of report", "wrote", "rewrite")
"""Modules with ``wrote(directory)``, whether a folder is theirs, and ``rewrite(directory)``, for ``mblip report``."""
