"""Prepared arrays -> streams of images on a device, with labels or without."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sfdabench.core.streams import Clock, LabelledStream, Stream
from sfdabench.prepare.arrays import Prepared


def images(
    prepared: Prepared,
    name: str,
    device: str | torch.device,
    seed: int,
    clock: Clock | None = None,
    planes: np.ndarray | None = None,
) -> Stream:
    """Images of a split, without labels.

    planes: (N,) the positions of those wanted; all of them where None.
    """
    ids, pixels = prepared.plane_ids, prepared.images()
    return Stream(
        name=name,
        images=pixels if planes is None else np.stack([pixels[k] for k in planes]),
        ids=ids if planes is None else tuple(ids[k] for k in planes),
        device=torch.device(device),
        seed=seed,
        clock=clock or Clock(),
    )


def _joined(parts: Sequence[np.ndarray | list[np.ndarray]]) -> np.ndarray | list[np.ndarray]:
    """One array of all planes; a list where their sides differ."""
    if len(parts) == 1:
        return parts[0]
    if len({plane.shape for part in parts for plane in part}) == 1:
        return np.concatenate([np.asarray(part) for part in parts])
    return [plane for part in parts for plane in part]


def labelled(
    prepareds: Sequence[Prepared],
    name: str,
    device: str | torch.device,
    seed: int,
    clock: Clock,
    classes: Sequence[Sequence[int]],
    *,
    background: bool,
) -> LabelledStream:
    """Labelled planes of several splits, one after the other.

    classes: label values of each class. background: whether what belongs to no class has a
    channel of its own. Raises DataFault for a split whose labels are not there.
    """
    return LabelledStream(
        name=name,
        images=_joined([prepared.images() for prepared in prepareds]),
        ids=tuple(i for prepared in prepareds for i in prepared.plane_ids),
        device=torch.device(device),
        seed=seed,
        clock=clock,
        labels=_joined([prepared.labels() for prepared in prepareds]),
        size=prepareds[0].shape[-1],
        classes=tuple(tuple(values) for values in classes),
        background=background,
    )
