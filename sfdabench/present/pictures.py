"""Records and their weights -> the images, masks and features that figures show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from sfdabench.core import registry
from sfdabench.core.progress import Progress
from sfdabench.core.task import Domain
from sfdabench.evaluate.predict import evaluating, predict
from sfdabench.evaluate.score import region_masks
from sfdabench.models.segmenter import Segmenter
from sfdabench.prepare import streams
from sfdabench.prepare.arrays import Prepared
from sfdabench.present.export import deployed, planned
from sfdabench.primitives.views import identity
from sfdabench.report.figures.grid import Picture
from sfdabench.report.figures.tsne import Features
from sfdabench.run.plan import Run

MARGIN = 0.15  # ours: of the outlined part's longer side
FINEST = 400  # ours: pixels across a tile; more is lost in print
MOST_PLANES = 300  # ours, a site: keeps t-SNE to seconds
GRID = 32  # ours: logits are averaged to this size a side before they are embedded


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
        model = deployed(run, paths[label])
        found[label] = _masks(run, model, cases, progress)
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


def _masks(
    run: Run, model: Segmenter, cases: Sequence[str], progress: Progress
) -> dict[str, np.ndarray]:
    """Case -> boolean (K, *space) of protocol `strict`; predicts these cases only."""
    whole, task = (
        run.target_test.arrays(run.cache, progress, "target test"),
        replace(run.task, regions={}),
    )
    wanted = [i for i, name in enumerate(whole.ids) if name in cases]
    part = whole.subset(wanted)
    strict = {"strict": registry.load("protocols", "strict")}
    images = streams.images(part, "figure", run.device, run.seed)
    predicted = predict(model, images, part, task, strict)
    return {name: masks["strict"] for name, masks in zip(part.ids, predicted, strict=True)}


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
    found = {}
    for label, run in runs.items():
        model = deployed(run, paths[label])
        splits = [*zip(run.task.source, run.source_test, strict=True)]
        vectors, sites = [], []
        for domain, split in [*splits, (run.task.target, run.target_test)]:
            part = _logits(run, model, split.arrays(run.cache, progress, "target test"))
            vectors.append(part)
            sites += [_site(domain)] * len(part)
        found[label] = Features(np.concatenate(vectors), tuple(sites))
    return found


def _site(domain: Domain) -> str:
    return f"{domain.dataset} {domain.test}"


def _logits(run: Run, model: Segmenter, prepared: Prepared) -> np.ndarray:
    """(planes, K · GRID²) float32."""
    count = prepared.planes
    planes = np.unique(np.linspace(0, count - 1, min(count, MOST_PLANES)).round().astype(int))
    images = streams.images(prepared, "figure", run.device, run.seed, planes=planes)
    maps = []
    with torch.inference_mode(), evaluating(model):
        for batch in images.batches(8, shuffle=False, plain=identity):
            maps.append(F.adaptive_avg_pool2d(model(batch.plain), GRID).flatten(1).cpu())
    return torch.cat(maps).numpy()
