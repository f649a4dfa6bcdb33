"""The checkpoints that a model's frozen weights come from, so that a run stores only its trained weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mblip.models.checkpoint import fingerprint
from mblip.models.locate import collection_of, revision_of


@dataclass(frozen=True)
class Base:
    """A base checkpoint of a run.

    Attributes:
        id: Name of the checkpoint; a folder's absolute path.
        revision: Commit of a Hub checkpoint.
        fingerprint: See :func:`~mblip.models.checkpoint.fingerprint`.
    """

    id: str
    revision: str | None
    fingerprint: str

    @classmethod
    def of(cls, name: str | Path, folder: Path) -> Base:
        """The base for a checkpoint's name and its folder."""
        path = Path(name).expanduser()
        local = path.exists() and not collection_of(str(name))
        shown = str(path.resolve()) if local else str(name).partition("@")[0]
        return cls(shown, revision_of(folder), fingerprint(folder))

    @property
    def shown(self) -> str:
        """The id without the folders of this machine, for what others read."""
        return Path(self.id).name if Path(self.id).is_absolute() else self.id

    @property
    def name(self) -> str:
        """A name that locates the same checkpoint again."""
        return f"{self.id}@{self.revision}" if self.revision else self.id


@dataclass
class Origin:
    """The checkpoints and adapters that make up a run's model.

    Attributes:
        bases: Checkpoints: ``vision`` and ``llm``, or one complete ``model``.
        adapters: Folders of the adapters that are merged into the language model, in order.
        attached: Folder of the adapter that the model was loaded with, if it is not merged.
    """

    bases: dict[str, Base]
    adapters: list[Path] = field(default_factory=list)
    attached: Path | None = None

    def merged(self) -> Origin | None:
        """The origin after merging the adapter; None if the adapter is not saved, so that no run can name it."""
        return Origin(self.bases, [*self.adapters, self.attached]) if self.attached else None
