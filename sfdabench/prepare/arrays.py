"""One split of a data set as arrays of one size: made once, keyed by content, memory-mapped."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from sfdabench.core.dataset import Case, Dataset
from sfdabench.core.errors import BadInput, DataFault
from sfdabench.core.fields import plain
from sfdabench.core.files import ANEW, held, read_typed, regular, remove, sha256_file
from sfdabench.core.in_use import note
from sfdabench.prepare.index import DataFile, ImagesIndex, LabelsIndex
from sfdabench.prepare.planes import Geometry
from sfdabench.prepare.preparation import Preparation
from sfdabench.prepare.writer import Writer

VERSION = 4
Report = Callable[[str], None]
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class PreparedCase:
    """One case of a split, and where it lies in the files.

    planes: their number, one for a photograph. side: of each, in pixels. spacing: mm a step of the
    original grid, None where unknown. packed: bytes of its compressed label map, 0 without labels.
    first_pixel, first_byte: where it begins, in pixels of one channel of images.bin and labels.bin,
    in bytes of originals.bin.
    """

    id: str
    planes: int
    side: int
    geometry: Geometry
    spacing: tuple[float, ...] | None
    packed: int
    first_pixel: int
    first_byte: int


@dataclass(frozen=True)
class Prepared:
    """Arrays of one split; images and labels lie in different folders, each with an index.

    labels_folder: None where the cases have no labels, or where they are not granted.
    dtype: of the images. shape: (C, S, S), S the side that networks work on.
    """

    images_folder: Path
    labels_folder: Path | None
    cases: tuple[PreparedCase, ...]
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def open(
        cls, images_folder: Path, labels_folder: Path | None = None, cure: str = ANEW
    ) -> Prepared:
        """The arrays in these folders, every file checked against its index.

        Raises BadInput naming the file and the `cure` where an index or a file is not what was
        written, or where the labels are those of other images.
        """
        prepared, files = _described(images_folder, labels_folder, cure)
        for path, written in files.items():
            if regular(path, cure).st_size != written.bytes:
                raise BadInput(f"{path}: it does not have its recorded length; {cure}")
            try:
                content = sha256_file(path)
            except OSError as error:
                raise BadInput(f"{path}: cannot be read ({error.strerror}); {cure}") from error
            if content != written.sha256:
                raise BadInput(f"{path}: it does not have its recorded hash; {cure}")
        return prepared

    @classmethod
    def read(cls, images_folder: Path, labels_folder: Path | None = None) -> Prepared:
        """The arrays in these folders, whose files the caller has checked already; see `open`."""
        return _described(images_folder, labels_folder, ANEW)[0]

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folder of the images, and that of the labels where there is one."""
        return (self.images_folder, *([self.labels_folder] if self.labels_folder else []))

    @property
    def ids(self) -> tuple[str, ...]:
        """The names of the cases."""
        return tuple(case.id for case in self.cases)

    @property
    def planes(self) -> int:
        """The number of planes of all cases."""
        return sum(case.planes for case in self.cases)

    @property
    def plane_ids(self) -> tuple[str, ...]:
        """One name a plane: that of the case, numbered where the case is a volume."""
        return tuple(
            case.id if len(case.geometry.shape) == 2 else f"{case.id}/{k}"
            for case in self.cases
            for k in range(case.planes)
        )

    def subset(self, indices: Sequence[int]) -> Prepared:
        """The cases at these positions, in this order; the files stay as they are."""
        return replace(self, cases=tuple(self.cases[i] for i in indices))

    def images(self) -> np.ndarray | list[np.ndarray]:
        """(planes, C, S, S) uint8 or float16; memory-mapped where the cases lie in a row.

        A list of planes where cases have planes of different sides.
        """
        return self._planes(self.images_folder / "images.bin", self.dtype, self.shape[:1])

    def labels(self) -> np.ndarray | list[np.ndarray]:
        """(planes, S, S) uint8 label maps of `images`, memory-mapped or a list as they are.

        Raises DataFault where there are no labels, or none were granted.
        """
        return self._planes(self._labels_folder() / "labels.bin", "uint8", ())

    def case_labels(self, case: int) -> np.ndarray:
        """Label map of one case on the network's grid: (S, S), or (planes, S, S) for a volume.

        Raises DataFault as `labels` does.
        """
        planes = np.asarray(self.subset([case]).labels())
        return planes[0] if len(self.cases[case].geometry.shape) == 2 else planes

    def original(self, case: int) -> np.ndarray:
        """Label map uint8 (*space) of one case on the authors' grid.

        Raises DataFault as `labels` does.
        """
        chosen = self.cases[case]
        with (self._labels_folder() / "originals.bin").open("rb") as file:
            file.seek(chosen.first_byte)
            data = zlib.decompress(file.read(chosen.packed))
        return np.frombuffer(data, np.uint8).reshape(chosen.geometry.shape)

    def _labels_folder(self) -> Path:
        if self.labels_folder is None:
            raise DataFault(
                f"{self.images_folder.name}: no labels are in reach; the cases have none, or this "
                "process may not see them"
            )
        return self.labels_folder

    def _planes(
        self, path: Path, dtype: str, channels: tuple[int, ...]
    ) -> np.ndarray | list[np.ndarray]:
        """The planes of these cases, out of a file that may hold more."""
        every, depth = np.memmap(path, dtype, "r"), math.prod(channels)

        def planes(first: PreparedCase, number: int) -> np.ndarray:
            start, length = first.first_pixel * depth, number * depth * first.side**2
            return every[start : start + length].reshape(number, *channels, first.side, first.side)

        in_a_row = all(
            after.side == before.side
            and after.first_pixel == before.first_pixel + before.planes * before.side**2
            for before, after in pairwise(self.cases)
        )
        if self.cases and in_a_row:
            return planes(self.cases[0], self.planes)
        parts = [planes(case, case.planes) for case in self.cases]
        if not parts:
            return np.empty((0, *channels, self.shape[-1], self.shape[-1]), dtype)
        if len({part.shape[-1] for part in parts}) == 1:
            return np.concatenate(parts)
        return [plane for part in parts for plane in part]


def prepare(
    dataset: Dataset,
    name: str,
    cases: Sequence[Case],
    how: Preparation,
    *,
    content: str,
    code: Mapping[str, str],
    cache: Path,
    report: Report,
    advance: Advance = lambda done, total: None,
) -> Prepared:
    """Arrays of these cases, from the cache where they are whole, else read and written.

    content: their manifest hash. code: what the code that makes them is, such as `core.code` says
    it. Several cases are read at a time and written in order, so that memory holds a few cases
    whatever their number; a killed call goes on where it stopped.
    Raises DataFault for an empty split and for any file that cannot be read, BadInput where the
    disk cannot hold the arrays.
    """
    if not cases:
        raise DataFault(f"{name}: this split holds no case")
    inputs = {
        "version": VERSION,
        "dataset": name,
        "content": content,
        "code": dict(code),
        "ids": [case.id for case in cases],
        "how": plain(how),
    }
    key = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    split = re.sub(r"[^\w-]+", "_", cases[0].split)
    store, folder = cache / "prepared", f"{name}-{split}-{how.size}px-{key[:16]}"
    images, work = store / "images" / folder, store / f".{folder}.work"
    labels = store / "labels" / folder if all(case.label for case in cases) else None
    with held(store / folder, report):
        note(store / folder)
        if os.path.lexists(images) or (labels and os.path.lexists(labels)):
            try:
                prepared = _keyed(images, labels, key)
            except BadInput as fault:
                report(f"cache {fault}")
            else:
                remove(work)  # of a process that was killed when all was in place
                return prepared
            remove(images)
            if labels:
                remove(labels)
        try:
            Writer(work, cases, key, report, labelled=labels is not None).write(
                dataset, how, advance
            )
        except DataFault:  # the mended file has another content hash, so nothing would go on here
            remove(work)
            raise
        if labels:
            labels.parent.mkdir(exist_ok=True)
            (work / "labels").rename(labels)
        images.parent.mkdir(exist_ok=True)
        (work / "images").rename(images)
        remove(work)
        return _described(images, labels, ANEW)[0]


def _keyed(images: Path, labels: Path | None, key: str) -> Prepared:
    """The cached arrays. Raises BadInput where they are not whole, or were made of other things."""
    cure = "made anew"
    prepared = Prepared.open(images, labels, cure)
    if read_typed(images / "index.json", ImagesIndex).key != key:
        raise BadInput(f"{images / 'index.json'}: it is that of other arrays; {cure}")
    return prepared


def _described(
    images_folder: Path, labels_folder: Path | None, cure: str
) -> tuple[Prepared, dict[Path, DataFile]]:
    """What the indices say, and what they say of each file, which is not opened."""
    images = read_typed(images_folder / "index.json", ImagesIndex, cure)
    files = {images_folder / "images.bin": images.images}
    packed = [0] * len(images.cases)
    if labels_folder is not None:
        path = labels_folder / "index.json"
        labels = read_typed(path, LabelsIndex, cure)
        if not labels.belongs_to(images):
            raise BadInput(f"{path}: these are not the labels of {images_folder}; {cure}")
        files[labels_folder / "labels.bin"] = labels.labels
        files[labels_folder / "originals.bin"] = labels.originals
        packed = [case.packed for case in labels.cases]
    cases, pixel, byte = [], 0, 0
    for case, length in zip(images.cases, packed, strict=True):
        geometry = Geometry(case.shape, case.box)
        cases.append(
            PreparedCase(
                *(case.id, case.planes, case.side, geometry),
                *(case.spacing, length, pixel, byte),
            )
        )
        pixel, byte = pixel + case.planes * case.side**2, byte + length
    prepared = Prepared(images_folder, labels_folder, tuple(cases), images.dtype, images.shape)
    return prepared, files
