"""What a stage left in the cache: its weights, a card that describes them, and sealed masks.

Only reading weights needs torch.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from sfdabench.core.errors import BadInput, RunFailed
from sfdabench.core.files import ANEW, read_typed, sha256_file, write_hashed
from sfdabench.core.in_use import note
from sfdabench.core.stage import SHORT, Stage
from sfdabench.core.weights_file import content_hash

if TYPE_CHECKING:
    from torch import Tensor

CARD, WEIGHTS, ONLINE = "card.json", "weights.safetensors", "online.zip"
PICTURES = "pictures.npz"  # what a method showed, such as translated images
EPOCH = "epoch.safetensors"  # in a work folder: the weights of the epoch that is audited now
IMPORTED = "imported"  # a kind of stage, and the folder of the cache where such models lie apart
BROUGHT_ANEW = "import the model again with `sfdabench source import`"


class Point(BaseModel):
    """Where the masks of one audited epoch are; an epoch that moved no weight shares a file."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    stage: int
    epoch: int
    file: str


class Card(BaseModel):
    """The description of an artefact; written last, with a hash of itself.

    key, stage: the stage that it is of, as `Stage.plain` gives it.
    sha256: the content hash of the weights. composite: how the model is rebuilt around the
        network (`models.composites.describe`); None for a plain segmenter.
    files: every other file of the folder -> its hash.
    curves, notes: what the maker logged. seconds, threads: of making it.
    lock: what closed all other files to the process that made it; None for an imported model.
    protocols, points: what was sealed of each epoch, for the audit.
    task: the task that an imported model was imported for. size: of its images, in pixels.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    key: str
    stage: dict[str, Any]
    sha256: str
    composite: dict[str, Any] | None = None
    files: dict[str, str]
    curves: dict[str, list[float]] = {}
    notes: dict[str, float] = {}
    seconds: float = 0.0
    threads: int | None = None
    lock: Literal["landlock", "audit hook"] | None = None
    memory_format: str | None = None
    protocols: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    task: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class Artefact:
    """A finished stage in its folder."""

    folder: Path
    card: Card

    @property
    def stage(self) -> Stage:
        """The stage that it is of."""
        return Stage.read(self.card.stage)

    @property
    def online(self) -> Path:
        """The masks that a method predicted while it learnt, once."""
        return self.folder / ONLINE

    @property
    def pictures(self) -> Path:
        """The images that the method showed, by kind; most methods show none."""
        return self.folder / PICTURES

    @property
    def sealed(self) -> tuple[Path, ...]:
        """The masks of each audited epoch, in order."""
        return tuple(self.folder / point.file for point in self.card.points)

    @property
    def epochs(self) -> list[int]:
        """The running number of each audited epoch over all loops, from 0."""
        numbers, before = [], 0
        for i, point in enumerate(self.card.points):
            last = self.card.points[i - 1] if i else point
            if point.stage != last.stage:
                before += last.epoch + 1  # the last epoch of a loop is always audited
            numbers.append(before + point.epoch)
        return numbers

    def weights(self) -> bytes:
        """Read the file of the weights. Raises BadInput where it lacks the hash of the card."""
        path = self.folder / WEIGHTS
        data = path.read_bytes()
        if content_hash(data, path) != self.card.sha256:
            raise BadInput(f"{path}: does not have its recorded hash; delete {self.folder}")
        return data

    def state(self) -> dict[str, Tensor]:
        """Read the weights by name. Raises BadInput where they lack the hash of the card."""
        from sfdabench.models.weights import from_bytes

        return from_bytes(self.weights(), self.folder / WEIGHTS)[0]


def left_by_maker(path: Path) -> Path:
    """Return the path of a file that a confined process left.

    Raises RunFailed where it is missing, a link, or anything else than a file of its own.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError as error:
        raise RunFailed(f"{path}: the process that was to write it left nothing") from error
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise RunFailed(f"{path}: the process that was to write it left something else than a file")
    return path


def root(cache: Path) -> Path:
    """The folder of what can be made again."""
    return cache / "stages"


def imported_root(cache: Path) -> Path:
    """The folder of models that the user brought, which are so known without their cards."""
    return cache / IMPORTED


def roots(cache: Path) -> tuple[Path, Path]:
    """The folders of all artefacts."""
    return root(cache), imported_root(cache)


def place(cache: Path, stage: Stage) -> Path:
    """Where the artefact of a stage is, or will be."""
    folder = imported_root(cache) if stage.kind == IMPORTED else root(cache)
    return folder / stage.folder_name


def exists(cache: Path, stage: Stage) -> bool:
    """Whether the card of a stage is there; it is written last."""
    return (place(cache, stage) / CARD).is_file()


def write_card(folder: Path, card: Card) -> Artefact:
    """Write the card of an artefact, after everything else of it; its lock is held."""
    note(folder)
    write_hashed(folder / CARD, card.model_dump(mode="json"))
    return Artefact(folder, card)


def read_card(folder: Path) -> Artefact:
    """Read the artefact in a folder.

    Raises BadInput where its card cannot be read, or is that of another stage.
    """
    cure = BROUGHT_ANEW if folder.parent.name == IMPORTED else ANEW
    card = read_typed(folder / CARD, Card, cure)
    try:
        stage = Stage.read(card.stage)
    except (KeyError, TypeError) as error:
        raise BadInput(f"{folder / CARD}: not the card of a stage ({error}); {cure}") from error
    if stage.key != card.key or card.key[:SHORT] != folder.name[-SHORT:]:
        raise BadInput(f"{folder / CARD}: the card of another stage; {cure}")
    return Artefact(folder, card)


def check(artefact: Artefact) -> None:
    """Raise BadInput where a file is missing or does not have the hash in the card."""
    for name in (WEIGHTS, *(point.file for point in artefact.card.points)):
        if name not in artefact.card.files:
            raise BadInput(f"{artefact.folder / CARD}: has no hash of {name}")
    for name, expected in artefact.card.files.items():
        path = artefact.folder / name
        if not path.is_file() or sha256_file(path) != expected:
            raise BadInput(f"{path}: does not have its recorded hash")


def touch(artefact: Artefact) -> None:
    """Note that the artefact is in use, now and for `cache clear --older-than`.

    Its lock is held.
    """
    note(artefact.folder)
    with contextlib.suppress(OSError):  # the cache may be somebody else's, to be read only
        os.utime(artefact.folder)


def files(folder: Path) -> list[Path]:
    """Return every file below a folder, sorted; the card is left out."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CARD)


def hashes(folder: Path) -> dict[str, str]:
    """Return the hash of every file below a folder, by path; the card is left out."""
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files(folder)}


@dataclass(frozen=True)
class Shelf:
    """All artefacts of a cache whose cards can be read, by name.

    faults: the folder of each other one -> a line that names the file, the fault and the cure.
    """

    artefacts: tuple[Artefact, ...]
    faults: Mapping[Path, str]


def read_all(cache: Path) -> Shelf:
    """Read the cards of all artefacts.

    A folder of a stage without a card is unfinished; an imported model without one has lost it.
    """
    folders = [path.parent for path in root(cache).glob(f"*/{CARD}")]
    folders += [path for path in imported_root(cache).glob("[!.]*") if path.is_dir()]
    whole: list[Artefact] = []
    faults: dict[Path, str] = {}
    for folder in sorted(folders, key=lambda path: path.name):
        try:
            artefact = read_card(folder)
            if artefact.stage.kind == IMPORTED and folder.parent == root(cache):
                raise BadInput(
                    f"{folder}: a model that an earlier version imported, which is not used from "
                    f"there; import {folder / WEIGHTS} with `sfdabench source import`, then clear "
                    f"{folder.name}"
                )
            whole.append(artefact)
        except BadInput as fault:
            faults[folder] = str(fault)
    return Shelf(tuple(whole), faults)
