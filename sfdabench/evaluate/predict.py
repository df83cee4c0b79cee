"""A model and a split -> the masks that each protocol scores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfdabench.core.context import Stream
from sfdabench.core.files import atomic
from sfdabench.core.protocol import Protocol
from sfdabench.prepare.arrays import Geometry
from sfdabench.primitives.views import identity

Masks = Mapping[str, Sequence[np.ndarray]]


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


def probabilities(model: nn.Module, stream: Stream, head: str, batch: int) -> Iterator[Tensor]:
    """One (K, S, S) probability map an image, in the stream's order, under eval mode."""
    with evaluating(model), torch.inference_mode():
        for chunk in stream.batches(batch, shuffle=False, plain=identity):
            logits = model(chunk.plain)
            yield from (logits.sigmoid() if head == "sigmoid" else logits.softmax(dim=1))


def _on_original_grid(probability: Tensor, geometry: Geometry) -> Tensor:
    """Bring (K, S, S) back to the square it was cut from, zero elsewhere: (K, H, W)."""
    top, left, side = geometry.box
    square = F.interpolate(probability[None], (side, side), mode="bilinear", align_corners=False)[0]
    if geometry.shape == (side, side):
        return square
    frame = probability.new_zeros((len(probability), *geometry.shape))
    frame[:, top : top + side, left : left + side] = square
    return frame


def predict(
    model: nn.Module,
    stream: Stream,
    geometry: Sequence[Geometry],
    head: str,
    protocols: Mapping[str, Protocol],
    batch: int = 8,
) -> dict[str, list[np.ndarray]]:
    """Protocol -> one boolean array (K, H, W) a case, in the geometry that the protocol scores."""
    masks: dict[str, list[np.ndarray]] = {name: [] for name in protocols}
    # The stream's own clock must not move: predictions may be taken inside a method's epoch.
    clock, stream.clock = stream.clock, type(stream.clock)()
    try:
        maps = probabilities(model, stream, head, batch)
        for probability, place in zip(maps, geometry, strict=True):
            for name, protocol in protocols.items():
                shown = (
                    _on_original_grid(probability, place)
                    if protocol.geometry == "original"
                    else probability
                )
                if head == "sigmoid":
                    chosen = shown > protocol.threshold
                else:
                    winner = shown.argmax(dim=0)  # channel 0 is background
                    chosen = torch.stack([winner == k for k in range(1, len(shown))])
                masks[name].append(chosen.cpu().numpy())
    finally:
        stream.clock = clock
    return masks


def seal(path: Path, masks: Masks) -> None:
    """Keep masks on disk, packed to bits, to be scored when adaptation is over."""
    arrays = {}
    for name, cases in masks.items():
        for i, mask in enumerate(cases):
            arrays[f"{name}/{i}/bits"] = np.packbits(mask)
            arrays[f"{name}/{i}/shape"] = np.array(mask.shape)
    with atomic(path, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def unseal(path: Path) -> dict[str, list[np.ndarray]]:
    """Undo: the masks that `seal` was given."""
    masks: dict[str, list[np.ndarray]] = {}
    with np.load(path) as file:
        for key in file.files:
            name, _, part = key.split("/")
            if part == "shape":
                continue
            shape = tuple(file[key.removesuffix("bits") + "shape"])
            bits = np.unpackbits(file[key], count=int(np.prod(shape)))
            masks.setdefault(name, []).append(bits.astype(bool).reshape(shape))
    return masks
