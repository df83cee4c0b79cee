"""A model and a split -> the masks that each protocol scores."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfdabench.core.head import Head
from sfdabench.core.protocol import Protocol
from sfdabench.core.streams import Clock, Stream
from sfdabench.evaluate.postprocess import STEPS
from sfdabench.evaluate.sealed import MaskSpec
from sfdabench.models.segmenter import PREDICTED_TOGETHER
from sfdabench.prepare.arrays import Prepared
from sfdabench.prepare.planes import Geometry
from sfdabench.primitives.views import identity


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode, and give each its own mode back afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def probabilities(
    model: nn.Module, stream: Stream, head: Head, batch: int, mode: str = "eval"
) -> Iterator[Tensor]:
    """One (K, S, S) probability map a plane, in the stream's order.

    mode "train" works on a copy, one image at a time: batch statistics and live dropout, drawn
    from the image's position, so that a repetition gives the same maps.
    """
    if mode == "train":
        model, batch = copy.deepcopy(model).train(), 1
    devices = [stream.device] if stream.device.type == "cuda" else []
    for chunk in stream.batches(batch, shuffle=False, plain=identity):
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if mode == "train":
                stack.enter_context(torch.random.fork_rng(devices))
                torch.manual_seed(int(chunk.index[0]))
            else:
                stack.enter_context(evaluating(model))
            maps = head.probabilities(model(chunk.plain))
        yield from maps


def _on_original_grid(probability: Tensor, geometry: Geometry) -> Tensor:
    """Bring (K, S, S) back to the box it was cut from, zero elsewhere: (K, H, W)."""
    top, left, height, width = geometry.box
    square = F.interpolate(
        probability[None], (height, width), mode="bilinear", align_corners=False
    )[0]
    rows, columns = geometry.shape[-2:]
    if (top, left, height, width) == (0, 0, rows, columns):
        return square
    frame = probability.new_zeros((len(probability), rows, columns))
    inner = square[:, max(-top, 0) : rows - top, max(-left, 0) : columns - left]
    top, left = max(top, 0), max(left, 0)
    frame[:, top : top + inner.shape[1], left : left + inner.shape[2]] = inner
    return frame


def _masks(
    probability: Tensor, place: Geometry, head: Head, classes: Sequence[str], protocol: Protocol
) -> np.ndarray:
    """(K, S, S) probabilities -> boolean (classes, H, W) in the geometry of the protocol."""
    if protocol.geometry == "original":
        probability = _on_original_grid(probability, place)
    thresholds = [protocol.threshold_of(name) for name in classes]
    threshold = probability.new_tensor(thresholds).view(-1, 1, 1)
    found = head.masks(probability[None], threshold)[0].cpu().numpy()
    for step in protocol.postprocess:
        found = np.stack([STEPS[step](mask) for mask in found])
    return found


def predict(
    model: nn.Module,
    stream: Stream,
    split: Prepared,
    spec: MaskSpec,
    batch: int = PREDICTED_TOGETHER,
) -> Iterator[dict[str, np.ndarray]]:
    """Case by case: protocol -> boolean (regions, *space), in the geometry that it scores."""
    # The stream's own clock must not move: predictions may be taken inside a method's epoch.
    stream = dataclasses.replace(stream, clock=Clock())
    classes = spec.classes
    regions = [[classes.index(name) for name in members] for members in spec.regions]
    modes = {protocol.mode for protocol in spec.protocols.values()}
    maps = {mode: probabilities(model, stream, spec.head, batch, mode) for mode in modes}
    for case in split.cases:
        place = case.geometry
        planes: dict[str, list[np.ndarray]] = {name: [] for name in spec.protocols}
        for _ in range(case.planes):
            by_mode = {mode: next(map_) for mode, map_ in maps.items()}
            for name, protocol in spec.protocols.items():
                of_classes = _masks(by_mode[protocol.mode], place, spec.head, classes, protocol)
                union = [of_classes[members].any(axis=0) for members in regions]
                planes[name].append(np.stack(union))
        yield {
            name: of_case[0] if len(place.shape) == 2 else np.stack(of_case, axis=1)
            for name, of_case in planes.items()
        }
