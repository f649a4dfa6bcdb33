"""Where a model's frozen weights come from, so that a run stores only what it has trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mblip.models.checkpoint import fingerprint
from mblip.models.locate import NANO, revision_of


@dataclass(frozen=True)
class Base:
    """A checkpoint that a run stands on.

    Attributes:
        id: As it was named; folders by their absolute path.
        revision: Commit of a Hub checkpoint.
        fingerprint: See :func:`~mblip.models.checkpoint.fingerprint`.
    """

    id: str
    revision: str | None
    fingerprint: str

    @classmethod
    def of(cls, name: str | Path, folder: Path) -> Base:
        """The base that ``name`` was located as."""
        local = Path(name).expanduser().is_dir() and not str(name).startswith(NANO)
        shown = str(folder.resolve()) if local else str(name).partition("@")[0]
        return cls(shown, revision_of(folder), fingerprint(folder))

    @property
    def name(self) -> str:
        """What locates the same checkpoint again."""
        return f"{self.id}@{self.revision}" if self.revision else self.id


@dataclass
class Origin:
    """Base checkpoints (``vision`` and ``llm``, or one whole ``model``) and adapters merged into the LLM, in order."""

    bases: dict[str, Base]
    adapters: list[Path] = field(default_factory=list)
