"""One split of a data set as arrays of one size: made once, keyed by content, memory-mapped."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sfdabench.core.dataset import Case, Dataset
from sfdabench.core.errors import BadInput, DataFault
from sfdabench.core.fields import plain
from sfdabench.core.files import atomic, held, sha256_file
from sfdabench.prepare.planes import Geometry, Preparation, cut_planes

VERSION = 2
MOST_WORKERS = 8
Report = Callable[[str], None]
T = TypeVar("T")
Advance = Callable[[int, int], None]


@dataclass(frozen=True)
class Prepared:
    """Arrays of one split in `folder`; labels lie in files of their own.

    ids, counts, geometry, spacing: of each case; counts are its planes, one for a photograph.
    dtype, shape: of a plane of the images, (C, S, S). packed: bytes of each original label map.
    """

    folder: Path
    ids: tuple[str, ...]
    counts: tuple[int, ...]
    geometry: tuple[Geometry, ...]
    spacing: tuple[tuple[float, ...] | None, ...]
    labelled: bool
    dtype: str
    shape: tuple[int, ...]
    packed: tuple[int, ...]

    @property
    def label_files(self) -> tuple[Path, ...]:
        """What a label-free method must not open."""
        return (self.folder / "labels.bin", self.folder / "originals.bin")

    @property
    def plane_ids(self) -> tuple[str, ...]:
        """One name a plane: that of the case, numbered where the case has several."""
        return tuple(
            name if len(place.shape) == 2 else f"{name}/{k}"
            for name, count, place in zip(self.ids, self.counts, self.geometry, strict=True)
            for k in range(count)
        )

    def images(self) -> np.ndarray:
        """(planes, C, S, S) uint8 or float16, memory-mapped."""
        path = self.folder / "images.bin"
        return np.memmap(path, self.dtype, "r", shape=(sum(self.counts), *self.shape))

    def labels(self) -> np.ndarray:
        """(planes, S, S) uint8 label maps on the network's grid, memory-mapped."""
        self._require_labels()
        shape = (sum(self.counts), *self.shape[1:])
        return np.memmap(self.folder / "labels.bin", np.uint8, "r", shape=shape)

    def case_labels(self, case: int) -> np.ndarray:
        """Label map of one case on the network's grid: (S, S), or (planes, S, S) for a volume."""
        start = sum(self.counts[:case])
        planes = self.labels()[start : start + self.counts[case]]
        return planes[0] if len(self.geometry[case].shape) == 2 else planes

    def original(self, case: int) -> np.ndarray:
        """Label map uint8 (*space) of one case on the authors' grid."""
        self._require_labels()
        ends = list(accumulate(self.packed))
        with (self.folder / "originals.bin").open("rb") as file:
            file.seek(ends[case] - self.packed[case])
            data = zlib.decompress(file.read(self.packed[case]))
        return np.frombuffer(data, np.uint8).reshape(self.geometry[case].shape)

    def _require_labels(self) -> None:
        if not self.labelled:
            raise DataFault(f"{self.folder.name}: made from cases without labels")


def prepare(
    dataset: Dataset,
    name: str,
    cases: Sequence[Case],
    how: Preparation,
    *,
    content: str,
    cache: Path,
    report: Report,
    advance: Advance = lambda done, total: None,
) -> Prepared:
    """Arrays of these cases, from the cache where they are whole, else read and written.

    content: their manifest hash. Several cases are read at a time and written in order, so that
    memory holds a few cases whatever their number; a killed call goes on where it stopped.
    Raises DataFault for an empty split and for any file that cannot be read, BadInput where the
    disk cannot hold the arrays.
    """
    if not cases:
        raise DataFault(f"{name}: this split holds no case")
    key = {"version": VERSION, "content": content, "ids": [c.id for c in cases], "how": plain(how)}
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    split = re.sub(r"[^\w-]+", "_", cases[0].split)
    folder = cache / "prepared" / f"{name}-{split}-{how.size}px-{digest}"
    with held(folder, report):
        if folder.exists():
            fault = _fault(folder)
            if fault is None:
                return _open(folder)
            report(f"cache {folder.name}: {fault}; made anew")
            shutil.rmtree(folder)
        work = folder.with_name(f".{folder.name}.work")
        writer = _Writer(work, len(cases), all(case.label for case in cases))
        try:
            writer.write(dataset, cases, how, report, advance)
        except DataFault:  # the mended file has another content hash, so nothing would go on here
            shutil.rmtree(work)
            raise
        work.rename(folder)
        return _open(folder)


class _Writer:
    """Appends prepared cases to the files of `work`, each with a line in its log.

    The log is the truth: on a restart the files are cut to what it says is there.
    """

    def __init__(self, work: Path, total: int, labelled: bool) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.total, self.log = work, total, work / "log.jsonl"
        names = ("images.bin", "labels.bin", "originals.bin") if labelled else ("images.bin",)
        self.paths = [work / name for name in names]
        self.entries: list[dict[str, Any]] = []
        if self.log.exists():
            for line in self.log.read_text(encoding="utf-8").splitlines():
                try:
                    self.entries.append(json.loads(line))
                except json.JSONDecodeError:
                    break  # the line that the kill cut short
        for i, path in enumerate(self.paths):
            path.touch()
            os.truncate(path, self._length(i))
        with atomic(self.log) as file:
            file.writelines(json.dumps(entry) + "\n" for entry in self.entries)

    def _length(self, i: int) -> int:
        return sum(entry["bytes"][i] for entry in self.entries)

    def write(
        self,
        dataset: Dataset,
        cases: Sequence[Case],
        how: Preparation,
        report: Report,
        advance: Advance,
    ) -> None:
        """Prepare what is missing, and close with the index."""
        if self.entries:
            report(f"{self.work.name}: goes on after {len(self.entries)} of {self.total} cases")
        todo = cases[len(self.entries) :]
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(path.open("ab")) for path in self.paths]
            log = stack.enter_context(self.log.open("a", encoding="utf-8"))
            ready = _ahead(lambda case: self._pack(dataset, case, how), todo)
            for i, (entry, parts) in enumerate(ready):
                if i == 0:
                    self._check_disk(entry, len(todo))
                if self.entries and entry["kind"] != self.entries[0]["kind"]:
                    raise DataFault(
                        f"{entry['id']}: {entry['kind'][1]} channels, the cases before it "
                        f"{self.entries[0]['kind'][1]}"
                    )
                for file, data in zip(files, parts, strict=True):
                    file.write(data)
                    file.flush()
                log.write(json.dumps(entry) + "\n")
                log.flush()
                self.entries.append(entry)
                advance(len(self.entries), self.total)
        self._close()

    def _pack(
        self, dataset: Dataset, case: Case, how: Preparation
    ) -> tuple[dict[str, Any], list[bytes]]:
        """A case's line in the log, and what each file gets."""
        planes = cut_planes(dataset, case, how)
        parts = [planes.images.tobytes()]
        if len(self.paths) > 1:
            assert planes.labels is not None
            assert planes.original is not None
            parts += [planes.labels.tobytes(), zlib.compress(planes.original.tobytes(), 1)]
        entry = {
            "id": case.id,
            "kind": [planes.images.dtype.name, *planes.images.shape[1:]],
            "planes": len(planes.images),
            "shape": planes.geometry.shape,
            "box": planes.geometry.box,
            "spacing": planes.spacing,
            "bytes": [len(part) for part in parts],
        }
        return entry, parts

    def _check_disk(self, first: Mapping[str, Any], number: int) -> None:
        """Raise BadInput where this number of cases like the first one would not fit."""
        need = 1.2 * sum(first["bytes"]) * number
        free = shutil.disk_usage(self.work).free
        if need > free:
            raise BadInput(
                f"{self.work.parent}: preparing {number} cases takes about "
                f"{need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; make room, or point "
                "SFDABENCH_CACHE to a larger disk"
            )

    def _close(self) -> None:
        hashes = {path.name: sha256_file(path) for path in self.paths}
        index = {"cases": self.entries, "labelled": len(self.paths) > 1, "sha256": hashes}
        (self.work / "index.json").write_text(json.dumps(index), encoding="utf-8")
        self.log.unlink()


def _ahead(function: Callable[[Case], T], cases: Sequence[Case]) -> Iterator[T]:
    """`map` in order, with a few cases in the works: threads, since decoding frees the lock."""
    workers = min(os.cpu_count() or 1, MOST_WORKERS)
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for case in cases:
                waiting.append(pool.submit(function, case))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _fault(folder: Path) -> str | None:
    """Why a cached folder cannot be trusted, None where every file has its recorded hash."""
    try:
        hashes = json.loads((folder / "index.json").read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError):
        return "its index cannot be read"
    for name, expected in hashes.items():
        if not (folder / name).exists() or sha256_file(folder / name) != expected:
            return f"{name} does not have its recorded hash"
    return None


def _open(folder: Path) -> Prepared:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    cases = index["cases"]
    dtype, *shape = cases[0]["kind"]
    return Prepared(
        folder,
        tuple(case["id"] for case in cases),
        tuple(case["planes"] for case in cases),
        tuple(Geometry(tuple(case["shape"]), tuple(case["box"])) for case in cases),
        tuple(None if case["spacing"] is None else tuple(case["spacing"]) for case in cases),
        index["labelled"],
        dtype,
        tuple(shape),
        tuple(case["bytes"][-1] for case in cases),
    )
