"""What every data set must hold to, on its own phantom."""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sfdabench.checks import gather
from sfdabench.core.dataset import Case, Dataset
from sfdabench.core.errors import DataFault
from sfdabench.evaluate.saved import read_mask
from sfdabench.prepare.verify import verify


class _Drawn:
    """A phantom in a folder that is removed with this object; `changes` are attributes for it."""

    def __init__(
        self, entry: type[Dataset], seed: int, changes: Mapping[str, Any] | None = None
    ) -> None:
        self.root = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self.root)
        dataset = entry()
        for name, value in (changes or {}).items():
            setattr(dataset, name, value)
        dataset.phantom(self.root, seed=seed)


_shared: dict[type[Dataset], _Drawn] = {}


def phantom_of(entry: type[Dataset]) -> Path:
    """The phantom of seed 0, drawn once for all contracts of an entry, which only read it."""
    if entry not in _shared:
        _shared.clear()  # one at a time: they take room
        _shared[entry] = _Drawn(entry, seed=0)
    return _shared[entry].root


def _files(root: Path) -> dict[str, bytes]:
    """Relative path -> content."""
    paths = (p for p in sorted(root.rglob("*")) if p.is_file())
    return {str(p.relative_to(root)): p.read_bytes() for p in paths}


def _drawn_files(
    entry: type[Dataset], seed: int, changes: Mapping[str, Any] | None = None
) -> dict[str, bytes]:
    """The files of a phantom that is drawn for this, by relative path."""
    drawn = _Drawn(entry, seed, changes)
    return _files(drawn.root)


def check_card_is_filled(entry: type[Dataset]) -> Iterator[str]:
    """A user must know how to obtain the data, and under which terms."""
    empty = [f.name for f in dataclasses.fields(entry.card) if not getattr(entry.card, f.name)]
    if empty:
        yield f"empty in the card: {empty}"
    if entry.labels.get("background") != 0:
        yield "labels must name background as 0"
    if not entry.counts:
        yield "no official counts"


def check_reads_its_own_phantom(entry: type[Dataset]) -> Iterator[str]:
    """Images and labels of the declared type, shape and values; no fault anywhere."""
    dataset, root = entry(), phantom_of(entry)
    report = verify(dataset, root)
    for fault in report.faults:
        yield f"a fault in its phantom: {fault}"
    cases = dataset.cases(root)
    if cases != dataset.cases(root):
        yield "two scans differ"
    if len({case.id for case in cases}) != len(cases):
        yield "ids are not unique"
    splits, known = {c.split for c in cases}, {s for c in entry.counts.values() for s in c}
    if len(splits) < 2:
        yield "nothing to learn from, or nothing to score on"
    if strange := splits - known:
        yield f"splits {sorted(strange)} have no official count"
    labelled = [case for case in cases if case.label]
    if not labelled:
        yield "no case has a label"
        return
    for case in (labelled[0], labelled[-1]):
        yield from gather(_wrong_arrays(dataset, case), case.id)


def _wrong_arrays(dataset: Dataset, case: Case) -> Iterator[str]:
    image, spacing = dataset.read_image(case)
    label = dataset.read_label(case)
    if len(image) != len(dataset.channels):
        yield f"{len(image)} channels, not {len(dataset.channels)}"
    last, _ = dataset.read_image(case, dataset.channels[-1:])
    if not np.array_equal(last, image[-1:]):
        yield "one channel alone is another image"
    if image.dtype != np.float32:
        yield f"image is {image.dtype}, not float32"
    if label.dtype != np.uint8:
        yield f"label is {label.dtype}, not uint8"
    if image.shape[1:] != label.shape:
        yield f"image {image.shape}, label {label.shape}"
    if spacing is not None and len(spacing) != label.ndim:
        yield f"spacing {spacing} for {label.ndim} dimensions"
    raters = dataset.read_raters(case)
    if raters.shape[1:] != label.shape:
        yield f"raters {raters.shape}, label {label.shape}"
    if strange := set(np.unique(label).tolist()) - set(dataset.labels.values()):
        yield f"label values {sorted(strange)} are not in `labels`"


def check_writes_masks_that_overlay(entry: type[Dataset]) -> Iterator[str]:
    """What is written has the size of the file it was read from, and its axes in that order."""
    dataset = entry()
    case = next(case for case in dataset.cases(phantom_of(entry)) if case.label)
    label = dataset.read_label(case)
    with tempfile.TemporaryDirectory() as folder:
        path = dataset.write_mask(case, label, Path(folder) / "masks" / case.id)
        written, _ = read_mask(path)
    if sorted(written.shape) != sorted(label.shape):
        yield f"the mask is {written.shape}, the label {label.shape}"
    if np.count_nonzero(written) != np.count_nonzero(label):
        yield "another mask was written"


def check_phantom_is_seeded(entry: type[Dataset]) -> Iterator[str]:
    """Same seed, same bytes, also after a file was read; another seed, other bytes.

    The second is seen on a phantom of the `smoke` attributes: one file that differs is enough.
    """
    dataset, root = entry(), phantom_of(entry)
    files = _files(root)
    dataset.read_image(dataset.cases(root)[0])  # some libraries then write other headers
    if _drawn_files(entry, 0) != files:
        yield "the same seed drew other files"
    if _drawn_files(entry, 1, entry.smoke) == _drawn_files(entry, 0, entry.smoke):
        yield "another seed drew the same files"


def check_missing_root_is_an_error(entry: type[Dataset]) -> Iterator[str]:
    """Never an empty list of cases."""
    with tempfile.TemporaryDirectory() as folder:
        for root in (Path(folder) / "absent", Path(folder)):
            try:
                cases = entry().cases(root)
            except DataFault as error:
                if str(root) not in str(error):
                    yield f"the error does not name {root}: '{error}'"
            else:
                yield f"no error for {root}, but {len(cases)} cases"
