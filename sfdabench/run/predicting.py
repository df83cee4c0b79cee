"""Predicting with stored weights, in a confined process that holds no label and no method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from sfdabench.confine.channel import Channel, Closed
from sfdabench.core.errors import BadInput
from sfdabench.core.files import atomic
from sfdabench.core.stage import Stage
from sfdabench.evaluate.predict import evaluating, predict
from sfdabench.evaluate.sealed import MaskSpec, seal
from sfdabench.models.composites import rebuild
from sfdabench.models.segmenter import Precision, Segmenter
from sfdabench.models.weights import from_bytes, sha256
from sfdabench.prepare import streams
from sfdabench.prepare.arrays import Prepared
from sfdabench.primitives.views import identity
from sfdabench.run.making import initial_network

GRID = 32  # ours: logits are averaged to this size a side before they are embedded


def masks(
    channel: Channel,
    stage: Mapping[str, Any],
    images: str,
    cases: list[int] | None,
    spec: Mapping[str, Any],
    device: str,
    precision: Precision,
) -> None:
    """Predict with one file of weights after the other, until the channel closes (a job).

    stage: whose network the weights fill. images: prepared folder of the test images; cases: the
    positions of those that are predicted, all of them where None. Each request is {"weights":
    file, "composite": how the model is rebuilt, "sha256": content hash or None, "out": file}; each
    answer says on how many threads the masks in `out` were predicted.
    """
    value, wanted = Stage.read(stage), MaskSpec.read(spec)
    split = Prepared.read(Path(images))
    split = split if cases is None else split.subset(cases)
    while True:
        try:
            request = channel.receive()
        except Closed:
            return
        model = _model(value, request, device, precision)
        test = streams.images(split, "target test", device=device, seed=value.seed)
        seal(Path(request["out"]), predict(model, test, split, wanted))
        channel.send({"threads": torch.get_num_threads()})


def features(
    channel: Channel,
    stage: Mapping[str, Any],
    splits: list[str],
    most: int,
    weights: Mapping[str, Any],
    out: str,
    device: str,
    precision: Precision,
) -> None:
    """Write the averaged logits of planes of several splits, an array each (a job).

    splits: prepared folders of images. most: planes of a split, evenly spread. weights: a request
    of `masks`. out: an .npz file of arrays (planes, K · GRID²) float32, in the order of splits.
    """
    value = Stage.read(stage)
    model = _model(value, weights, device, precision)
    prepared = [Prepared.read(Path(folder)) for folder in splits]
    arrays = [_logits(model, split, value.seed, most, device) for split in prepared]
    with atomic(Path(out), "wb") as file:
        np.savez(file, *arrays)


def _model(
    stage: Stage, request: Mapping[str, Any], device: str, precision: Precision
) -> Segmenter:
    """A fresh network, filled from a file. Raises BadInput where the file is not what is named."""
    path = Path(request["weights"])
    state, _ = from_bytes(path.read_bytes(), path)
    if request["sha256"] is not None and sha256(state) != request["sha256"]:
        raise BadInput(f"{path}: does not have its recorded hash; run it again")
    network = initial_network(stage, None)
    model = rebuild(network, request["composite"], state, path, precision)
    return model.to(device).eval()


def _logits(model: Segmenter, prepared: Prepared, seed: int, most: int, device: str) -> np.ndarray:
    count = prepared.planes
    planes = np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))
    images = streams.images(prepared, "figure", device, seed, planes=planes)
    maps = []
    with torch.inference_mode(), evaluating(model):
        for batch in images.batches(8, shuffle=False, plain=identity):
            maps.append(F.adaptive_avg_pool2d(model(batch.plain), GRID).flatten(1).cpu())
    return torch.cat(maps).numpy()
