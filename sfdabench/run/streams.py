"""Prepared arrays of a run as a stream of images on its device."""

from __future__ import annotations

import numpy as np
import torch

from sfdabench.core.streams import Clock, Stream
from sfdabench.prepare.arrays import Prepared
from sfdabench.run.plan import Run


def stream(
    run: Run,
    split: Prepared,
    name: str,
    clock: Clock | None = None,
    planes: np.ndarray | None = None,
) -> Stream:
    """Images of a split, without labels.

    planes: (N,) the positions of those wanted; all of them where None.
    """
    ids, images = split.plane_ids, split.images()
    return Stream(
        name=name,
        images=images if planes is None else images[planes],
        ids=ids if planes is None else tuple(ids[k] for k in planes),
        device=torch.device(run.device),
        seed=run.seed,
        clock=clock or Clock(),
    )
