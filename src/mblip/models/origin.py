"""Where a model's frozen weights come from, so that a run stores only what it has trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mblip.models.checkpoint import fingerprint
from mblip.models.locate import collection_of, revision_of


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
        path = Path(name).expanduser()
        local = path.exists() and not collection_of(str(name))
        shown = str(path.resolve()) if local else str(name).partition("@")[0]
        return cls(shown, revision_of(folder), fingerprint(folder))

    @property
    def name(self) -> str:
        """What locates the same checkpoint again."""
        return f"{self.id}@{self.revision}" if self.revision else self.id


@dataclass
class Origin:
    """How a run describes its model.

    Attributes:
        bases: Checkpoints: ``vision`` and ``llm``, or one whole ``model``.
        adapters: Folders of the adapters that are merged into the language model, in order.
        attached: Folder of the adapter that the model was loaded with and that is not merged.
    """

    bases: dict[str, Base]
    adapters: list[Path] = field(default_factory=list)
    attached: Path | None = None

    def merged(self) -> Origin | None:
        """After the adapter was merged; None where it lies nowhere, since no run could then describe the model."""
        return Origin(self.bases, [*self.adapters, self.attached]) if self.attached else None
