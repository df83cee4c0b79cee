"""Writes prepared arrays case by case, so that a killed preparation goes on where it stopped."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TextIO, TypeVar

from pydantic import ValidationError

from sfdabench.core.dataset import Case, Dataset
from sfdabench.core.errors import BadInput, DataFault
from sfdabench.core.files import atomic, hashed, remove, remove_leftovers, unhashed, write_hashed
from sfdabench.prepare.index import (
    CaseImages,
    CaseLabels,
    DataFile,
    ImagesIndex,
    LabelsIndex,
    LoggedCase,
)
from sfdabench.prepare.planes import cut_planes
from sfdabench.prepare.preparation import Preparation

MOST_WORKERS = 8
SYNC_EVERY = 1.0  # ours: seconds of work that a kill may lose; a sync may cost more than a case
Report = Callable[[str], None]
Advance = Callable[[int, int], None]
T = TypeVar("T")


class Writer:
    """Appends prepared cases to the files of a work folder, each with a line in its log.

    The work folder gets `images/` and, where the cases are labelled, `labels/`, as `Prepared`
    reads them. A line of the log counts as far as the files hold the bytes whose hashes it has:
    what a killed process or a lost disk block left beyond that is cut off and made again.
    """

    def __init__(
        self, work: Path, cases: Sequence[Case], key: str, report: Report, *, labelled: bool
    ) -> None:
        self.work, self.cases, self.key, self.report = work, cases, key, report
        self.labelled, self.log = labelled, work / "log.jsonl"
        self.paths = [work / "images" / "images.bin"]
        if labelled:
            self.paths += [work / "labels" / name for name in ("labels.bin", "originals.bin")]
        self.written: list[LoggedCase] = []
        self.contents = [hashlib.sha256() for _ in self.paths]
        self.lengths = [0 for _ in self.paths]

    def write(self, dataset: Dataset, how: Preparation, advance: Advance) -> None:
        """Prepare what is missing, and close with an index of each folder.

        Raises DataFault for a case that cannot be prepared, BadInput where the disk is too small.
        """
        self._resume()
        todo = self.cases[len(self.written) :]
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(path.open("ab")) for path in self.paths]
            log = stack.enter_context(self.log.open("a", encoding="utf-8"))
            ready = _ahead(lambda case: self._pack(dataset, case, how), todo)
            pending: list[LoggedCase] = []
            synced = time.monotonic()
            try:
                for i, (entry, parts) in enumerate(ready):
                    if i == 0:
                        self._check_disk(entry, len(todo))
                    self._check_kind(entry)
                    for file, data in zip(files, parts, strict=True):
                        file.write(data)
                    pending.append(entry)
                    self._count(entry, parts)
                    if time.monotonic() - synced > SYNC_EVERY:
                        _settle(files, log, pending)
                        synced = time.monotonic()
                    advance(len(self.written), len(self.cases))
            finally:
                _settle(files, log, pending)
        self._close()

    def _resume(self) -> None:
        """Take up the cases that are logged and really there, and cut off all else."""
        for path in (*self.paths, self.log):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.with_name("index.json"))
            if not path.is_file():
                remove(path)
                path.touch()
        remove_leftovers(self.log)
        lines = self.log.read_bytes().decode(errors="replace").splitlines()
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(path.open("rb")) for path in self.paths]
            for case, line in zip(self.cases, lines, strict=False):
                entry = _logged(line)
                if entry is None or entry.images.id != case.id:
                    break  # such as the line that the kill cut short
                parts = [f.read(p.bytes) for f, p in zip(files, entry.parts, strict=True)]
                if [_sha256(part) for part in parts] != [part.sha256 for part in entry.parts]:
                    self.report(f"{self.work.name}: case {case.id} is not as it was written")
                    break
                self._count(entry, parts)
        for path, length in zip(self.paths, self.lengths, strict=True):
            os.truncate(path, length)
        with atomic(self.log) as file:
            file.writelines(_line(entry) for entry in self.written)
        if self.written:
            done, total = len(self.written), len(self.cases)
            self.report(f"{self.work.name}: goes on after {done} of {total} cases")

    def _count(self, entry: LoggedCase, parts: Sequence[bytes]) -> None:
        """Add what is written to the lengths and hashes of the whole files."""
        self.written.append(entry)
        for i, data in enumerate(parts):
            self.contents[i].update(data)
            self.lengths[i] += len(data)

    def _pack(
        self, dataset: Dataset, case: Case, how: Preparation
    ) -> tuple[LoggedCase, list[bytes]]:
        """A case's line in the log, and what each file gets."""
        planes = cut_planes(dataset, case, how)
        parts, count, spacing = [planes.images.tobytes()], len(planes.images), planes.spacing
        if self.labelled:
            assert planes.labels is not None
            assert planes.original is not None
            parts += [planes.labels.tobytes(), zlib.compress(planes.original.tobytes(), 1)]
        try:
            entry = LoggedCase(
                images=CaseImages(
                    id=case.id,
                    planes=count,
                    side=planes.images.shape[-1],
                    raters=planes.raters,
                    shape=planes.geometry.shape,
                    box=planes.geometry.box,
                    spacing=None if spacing is None else tuple(float(step) for step in spacing),
                ),
                labels=CaseLabels(
                    id=case.id, planes=count, side=planes.images.shape[-1], packed=len(parts[-1])
                )
                if self.labelled
                else None,
                dtype=planes.images.dtype.name,  # type: ignore[arg-type]
                shape=(planes.images.shape[1], how.size, how.size),
                parts=tuple(DataFile(bytes=len(part), sha256=_sha256(part)) for part in parts),
            )
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DataFault(
                f"{case.image[0]}: its {where} cannot be right: {first['msg']}"
            ) from error
        return entry, parts

    def _check_kind(self, entry: LoggedCase) -> None:
        """Raise DataFault where a case has other channels than those before it."""
        first = self.written[0] if self.written else entry
        if (entry.dtype, entry.shape) != (first.dtype, first.shape):
            raise DataFault(
                f"{entry.images.id}: {entry.shape[0]} channels, the cases before it "
                f"{first.shape[0]}"
            )

    def _check_disk(self, first: LoggedCase, number: int) -> None:
        """Raise BadInput where this number of cases like the first one would not fit."""
        need = 1.2 * sum(part.bytes for part in first.parts) * number
        free = shutil.disk_usage(self.work).free
        if need > free:
            raise BadInput(
                f"{self.work.parent}: preparing {number} cases takes about "
                f"{need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; make room, or point "
                "SFDABENCH_CACHE to a larger disk"
            )

    def _close(self) -> None:
        """Write an index into each folder; hashes are of what was handed over to be written."""
        images, *labels = (
            DataFile(bytes=length, sha256=content.hexdigest())
            for length, content in zip(self.lengths, self.contents, strict=True)
        )
        first = self.written[0]
        index: ImagesIndex | LabelsIndex = ImagesIndex(
            key=self.key,
            dtype=first.dtype,
            shape=first.shape,
            cases=tuple(entry.images for entry in self.written),
            images=images,
        )
        write_hashed(self.work / "images" / "index.json", index.model_dump(mode="json"))
        if self.labelled:
            index = LabelsIndex(
                key=self.key,
                shape=first.shape[1:],
                cases=tuple(entry.labels for entry in self.written if entry.labels),
                labels=labels[0],
                originals=labels[1],
            )
            write_hashed(self.work / "labels" / "index.json", index.model_dump(mode="json"))


def _settle(files: Sequence[BinaryIO], log: TextIO, pending: list[LoggedCase]) -> None:
    """Log the pending cases, once their bytes are on the disk."""
    for file in files:
        file.flush()
        os.fsync(file.fileno())
    log.writelines(_line(entry) for entry in pending)
    log.flush()
    pending.clear()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _line(entry: LoggedCase) -> str:
    return f"{hashed(entry.model_dump(mode='json'))}\n"


def _logged(line: str) -> LoggedCase | None:
    """The entry in a line of the log; None where it is not one that was written whole."""
    try:
        return LoggedCase.model_validate(unhashed(line))
    except ValueError:  # pydantic's error is one as well
        return None


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
