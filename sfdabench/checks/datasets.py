"""What every data set must hold to, on its own phantom."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

from sfdabench.core.dataset import Dataset
from sfdabench.core.errors import DataFault
from sfdabench.evaluate.saved import read_mask
from sfdabench.prepare.verify import verify


def _tree(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
    }


def check_card_is_filled(entry: type[Dataset]) -> None:
    """A user must know how to obtain the data, and under which terms."""
    empty = [f.name for f in dataclasses.fields(entry.card) if not getattr(entry.card, f.name)]
    assert not empty, f"empty in the card: {empty}"
    assert entry.labels.get("background") == 0, "labels must name background as 0"
    assert entry.counts, "no official counts"


def check_reads_its_own_phantom(entry: type[Dataset]) -> None:
    """Images and labels of the declared type, shape and values; no fault anywhere."""
    dataset = entry()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        dataset.phantom(root, seed=0)
        report = verify(dataset, root)
        assert not report.faults, f"its phantom has faults: {report.faults[:2]}"
        cases = dataset.cases(root)
        assert cases == dataset.cases(root), "two scans differ"
        assert len({case.id for case in cases}) == len(cases), "ids are not unique"
        splits, known = {c.split for c in cases}, {s for c in entry.counts.values() for s in c}
        assert len(splits) > 1, "nothing to learn from, or nothing to score on"
        assert splits <= known, f"splits {sorted(splits - known)} have no official count"
        labelled = [case for case in cases if case.label]
        for case in (labelled[0], labelled[-1]):
            image, spacing = dataset.read_image(case)
            label = dataset.read_label(case)
            assert len(image) == len(entry.channels), f"{len(image)} channels"
            one, _ = dataset.read_image(case, entry.channels[-1:])
            assert np.array_equal(one, image[-1:]), "one channel alone is another image"
            assert image.dtype == np.float32, f"image is {image.dtype}, not float32"
            assert label.dtype == np.uint8, f"label is {label.dtype}, not uint8"
            assert image.shape[1:] == label.shape, f"image {image.shape}, label {label.shape}"
            assert spacing is None or len(spacing) == label.ndim, f"spacing {spacing}"
            raters = dataset.read_raters(case)
            assert raters.shape[1:] == label.shape, f"raters {raters.shape}, label {label.shape}"
            strange = set(np.unique(label)) - set(entry.labels.values())
            assert not strange, f"label values {sorted(strange)} are not in `labels`"


def check_writes_masks_that_overlay(entry: type[Dataset]) -> None:
    """What is written has the size of the file it was read from, and its axes in that order."""
    dataset = entry()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        dataset.phantom(root / "data", seed=0)
        case = next(case for case in dataset.cases(root / "data") if case.label)
        label = dataset.read_label(case)
        path = dataset.write_mask(case, label, root / "masks" / case.id)
        written, _ = read_mask(path)
        assert sorted(written.shape) == sorted(label.shape), f"{written.shape}, {label.shape}"
        assert np.count_nonzero(written) == np.count_nonzero(label), "another mask was written"


def check_phantom_is_seeded(entry: type[Dataset]) -> None:
    """Same seed, same bytes; another seed, other bytes."""
    trees = []
    for seed in (0, 0, 1):
        with tempfile.TemporaryDirectory() as folder:
            entry().phantom(Path(folder), seed=seed)
            trees.append(_tree(Path(folder)))
    assert trees[0] == trees[1], "the same seed drew other files"
    assert trees[0] != trees[2], "another seed drew the same files"


def check_missing_root_is_an_error(entry: type[Dataset]) -> None:
    """Never an empty list of cases."""
    with tempfile.TemporaryDirectory() as folder:
        for root in (Path(folder) / "absent", Path(folder)):
            message = ""
            try:
                entry().cases(root)
            except DataFault as error:
                message = str(error)
            assert str(root) in message, f"no error that names {root}, but '{message}'"
