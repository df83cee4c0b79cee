"""What one stage may read, as a value that goes to the process that makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sfdabench.confine.grant import Grant
from sfdabench.evaluate.sealed import MaskSpec
from sfdabench.prepare.arrays import Prepared

Role = str


@dataclass(frozen=True)
class Granted:
    """A prepared split: the folder of its images, and of its labels where the role grants them."""

    images: Path
    labels: Path | None = None

    def read(self) -> Prepared:
        """Return its arrays. Raises BadInput where an index is not what was written."""
        return Prepared.read(self.images, self.labels)

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders that it consists of."""
        return (self.images,) if self.labels is None else (self.images, self.labels)


@dataclass(frozen=True)
class Grants:
    """What one stage may read.

    splits: role -> prepared splits, by the roles of `Stage.sees`.
    backbone: the file of pretrained weights.
    test: the test images that the model of each audited epoch predicts, in another process than
        the one that makes the stage. None where no epoch is audited.
    spec: the masks that are predicted of them, then or by a method that learns online.
    closed: folders and files that no process of the stage may read, unless they are granted.
    """

    splits: Mapping[Role, tuple[Granted, ...]] = field(default_factory=dict)
    backbone: Path | None = None
    test: Granted | None = None
    spec: MaskSpec | None = None
    closed: tuple[Path, ...] = ()

    @property
    def audited(self) -> bool:
        """Whether the model of each audited epoch predicts the test images."""
        return self.test is not None

    @property
    def read_by_maker(self) -> tuple[Path, ...]:
        """The files and folders that the process which makes the stage may read."""
        splits = [split for role in self.splits.values() for split in role]
        folders = [folder for split in splits for folder in split.folders]
        return (*folders, *([] if self.backbone is None else [self.backbone]))

    def plain(self) -> dict[str, Any]:
        """Return what the maker is told, as JSON types; `read` reads it."""
        return {
            "splits": {
                role: [[str(f) for f in split.folders] for split in splits]
                for role, splits in self.splits.items()
            },
            "backbone": None if self.backbone is None else str(self.backbone),
            "spec": None if self.spec is None else self.spec.plain(),
            "audited": self.audited,
        }


@dataclass(frozen=True)
class Told:
    """What the process that makes a stage is told of its grants."""

    splits: Mapping[Role, tuple[Granted, ...]]
    backbone: Path | None
    spec: MaskSpec | None
    audited: bool

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Told:
        """Return what `Grants.plain` described."""
        backbone, spec = values["backbone"], values["spec"]
        return cls(
            splits={
                role: tuple(Granted(*map(Path, folders)) for folders in splits)
                for role, splits in values["splits"].items()
            },
            backbone=None if backbone is None else Path(backbone),
            spec=None if spec is None else MaskSpec.read(spec),
            audited=values["audited"],
        )


def confined(read: tuple[Path, ...], write: tuple[Path, ...], closed: tuple[Path, ...]) -> Grant:
    """Return the grant of a process that reads and writes this; that itself is not closed."""
    granted = {*read, *write}
    return Grant(read, write, tuple(path for path in closed if path not in granted))
