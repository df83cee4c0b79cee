"""Records and their weights -> the images, masks and features that figures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from sfdabench.confine import client
from sfdabench.core.progress import Progress
from sfdabench.core.task import Domain
from sfdabench.evaluate.score import region_masks
from sfdabench.present.export import planned, strict_masks, weights_of
from sfdabench.report.figures.grid import Picture
from sfdabench.report.figures.tsne import Features
from sfdabench.run.artefacts import left_by_maker
from sfdabench.run.grants import confined
from sfdabench.run.plan import Run
from sfdabench.run.stages import Stages

MARGIN = 0.15  # ours: of the outlined part's longer side
FINEST = 400  # ours: pixels across a tile; more is lost in print
MOST_PLANES = 300  # ours, a site: keeps t-SNE to seconds


def pictures(
    paths: Mapping[str, Path],
    cases: Sequence[str],
    data: Path | None,
    device: str,
    progress: Progress,
) -> tuple[list[Picture], list[str]]:
    """Those target test cases with the strict masks of each record, and the names of the classes.

    paths: label -> record with its weights beside it. Of a volume the axial plane with the
    largest reference area is shown.
    """
    runs = {label: planned(path, data, device, progress) for label, path in paths.items()}
    found: dict[str, dict[str, np.ndarray]] = {}
    for label, run in runs.items():
        found[label] = dict(strict_masks(run, paths[label], progress, cases))
    split, task = run.target_test, replace(run.task, regions={})
    shown = []
    for case in (next(c for c in split.cases if c.id == name) for name in cases):
        reference = region_masks(split.dataset.read_label(case), task)
        chosen = task.target.channels
        image, spacing = (
            split.dataset.read_image(case, chosen) if chosen else split.dataset.read_image(case)
        )
        shown.append(_picture(case.id, image, reference, found, spacing))
    return shown, list(task.classes)


def _picture(
    case: str,
    image: np.ndarray,
    reference: np.ndarray,
    found: Mapping[str, Mapping[str, np.ndarray]],
    spacing: Sequence[float] | None,
) -> Picture:
    """Cut image (C, *space) and masks (K, *space) to one plane and to what is outlined in it."""
    plane = None
    masks = {label: of_run[case] for label, of_run in found.items()}
    if reference.ndim == 4:
        plane = int(reference.any(axis=0).sum(axis=(1, 2)).argmax())
        image, reference = image[:, plane], reference[:, plane]
        masks = {label: mask[:, plane] for label, mask in masks.items()}
    outlined = np.any([reference.any(axis=0), *(m.any(axis=0) for m in masks.values())], axis=0)
    rows, columns = _window(outlined)
    return Picture(
        case,
        _shown(image[..., rows, columns], photograph=plane is None),
        reference[..., rows, columns],
        {label: mask[..., rows, columns] for label, mask in masks.items()},
        1.0 if spacing is None else spacing[-2] / spacing[-1],
        plane,
    )


def _window(outlined: np.ndarray) -> tuple[slice, slice]:
    """A square around all that is True in (H, W), as far as the plane goes; thinned for print."""
    if not outlined.any():
        outlined = np.ones_like(outlined)
    ends = [np.flatnonzero(outlined.any(axis=axis))[[0, -1]] for axis in (1, 0)]
    side = max(int(last - first + 1) for first, last in ends)
    half = side / 2 + max(MARGIN * side, 2)
    step = max(1, round(2 * half / FINEST))
    top, left = (
        slice(max(0, round(first + last + 1 - 2 * half) // 2),
              min(size, round(first + last + 1 + 2 * half) // 2), step)
        for (first, last), size in zip(ends, outlined.shape, strict=True)
    )  # fmt: skip
    return top, left


def _shown(image: np.ndarray, *, photograph: bool) -> np.ndarray:
    """(C, H, W) in the file's values -> 0..1: (H, W, 3) of RGB, else (H, W) of the last channel."""
    if photograph and len(image) == 3:
        return np.clip(image / 255, 0, 1).transpose(1, 2, 0)
    low, high = np.percentile(image[-1], (0.5, 99.5))
    return np.clip((image[-1] - low) / max(high - low, 1e-6), 0, 1)


def features(
    paths: Mapping[str, Path], data: Path | None, device: str, progress: Progress
) -> dict[str, Features]:
    """Label -> what each record's network gives just before its last non-linearity (paper §8).

    The planes are those of the test splits of every source site and of the target, at most
    MOST_PLANES a site, evenly spread.
    """
    runs = {
        label: planned(path, data, device, progress, source=True) for label, path in paths.items()
    }
    by_label = {}
    for label, run in runs.items():
        stages = Stages(run, progress)
        splits = [*zip(run.task.source, run.source_test, strict=True)]
        splits.append((run.task.target, run.target_test))
        folders = [stages.arrays(split, "target test").images_folder for _, split in splits]
        arrays = _features(run, weights_of(paths[label]), folders, stages.closed)
        counts = [(_site(domain), len(a)) for (domain, _), a in zip(splits, arrays, strict=True)]
        sites = [site for site, count in counts for _ in range(count)]
        by_label[label] = Features(np.concatenate(arrays), tuple(sites))
    return by_label


def _features(
    run: Run, weights: Mapping[str, Any], folders: Sequence[Path], closed: tuple[Path, ...]
) -> list[np.ndarray]:
    """Of each prepared split (planes, features) float32, from a process that reads images only."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "features.npz"
        arguments = {
            "stage": run.source.plain(),
            "splits": [str(path) for path in folders],
            "most": MOST_PLANES,
            "weights": dict(weights),
            "out": str(out),
            "device": run.device,
            "precision": run.precision,
        }
        grant = confined((*folders, Path(weights["weights"])), (Path(folder),), closed)
        client.call("sfdabench.run.predicting:features", arguments, grant)
        with np.load(left_by_maker(out), allow_pickle=False) as file:
            return [file[name] for name in file.files]


def _site(domain: Domain) -> str:
    return f"{domain.dataset} {domain.test}"
