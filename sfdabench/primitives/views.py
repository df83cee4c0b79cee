"""Random views of a batch: the numbers are drawn on the CPU, the pixels computed on the device.

Images are float32 (B, C, H, W) on the 0..255 scale, and so is what comes back; the input is left
as it was. Every sample has a numpy generator of its own, so neither the other samples of the
batch nor the device change its view. The augmentations are those that BEAL, DPL and CBMT share
(fundus images of 512 x 512); every probability below is independent per sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Rngs = Sequence[np.random.Generator]
View = Callable[[Tensor, Rngs], Tensor]
PairedView = Callable[[Tensor, Tensor, Rngs], tuple[Tensor, Tensor]]

SALT, PEPPER = 0.0024, 0.0096  # code: 630 and 2517 positions of 512 x 512
ELASTIC_SIGMA = 0.08  # code: of the image's height
# code: U(-1, 1) noise, smoothed by 0.08 * 512 px, times 2 * 512. Its root mean square is 4.1 px
ELASTIC_RMS = 2 * (1 / 3) ** 0.5 / (2 * np.pi**0.5 * ELASTIC_SIGMA * 512)  # of the height
KNOTS = 25  # of the elastic field: two to a sigma
# self-ensembling's code: U(-1, 1) noise, smoothed by U(3.5, 4) of 200 px (ours: its middle),
# times alpha. Root mean square along an axis for alpha = 1, in halves of the image
FINE_SIGMA = 3.75 / 200
FINE_RMS = (1 / 3) ** 0.5 / (2 * np.pi**0.5 * 3.75) / 100
FINE_KNOTS = 107
OFFSET = 0.1  # code, in standard deviations


def identity(images: Tensor, rngs: Rngs) -> Tensor:
    """The images themselves: CBMT's weak view (its paper's flipping is not in its code)."""
    return images


def unlabelled(view: PairedView) -> View:
    """The view of images alone that a view of images and labels is."""

    def of_images(images: Tensor, rngs: Rngs) -> Tensor:
        height, width = images.shape[-2:]
        labels = torch.zeros(len(images), height, width, dtype=torch.uint8, device=images.device)
        return view(images, labels, rngs)[0]

    return of_images


def fundus_strong(images: Tensor, rngs: Rngs) -> Tensor:
    """CBMT's strong view: black dots, gamma, eraser. No geometry, so labels stay where they are."""
    return _eraser(_gamma(_black_dots(images, rngs), rngs), rngs)


def fundus_source(
    images: Tensor, labels: Tensor, rngs: Rngs, size: int | None = None
) -> tuple[Tensor, Tensor]:
    """CBMT's source training view, of images and their labels (B, H, W) uint8, 0 = background.

    size: side of the crop, which the images may exceed, as the reference crops from files as they
    are; the side of the images where None.

    Scale and crop, quarter turn, flips, elastic, then `fundus_strong`. Ours where the reference
    code is a quirk of its own: the quarter turn is drawn per sample (there the angle is drawn
    once a run, and a quarter of runs have none); labels are looked up (there they are
    interpolated, and cup next to background becomes rim); the image is interpolated once, for
    scale and elastic together, without antialiasing; a file smaller than the crop was enlarged
    to it (there it is padded).
    """
    images, labels = _quarter_turns(images, labels, rngs)
    images, labels = _warp(images, labels, rngs, size or images.shape[-1])
    return fundus_strong(images, rngs), labels


def light_source(images: Tensor, labels: Tensor, rngs: Rngs) -> tuple[Tensor, Tensor]:
    """Ours: quarter turns and flips, gamma within 2/3..3/2, noise of up to 6 grey levels."""
    images, labels = _quarter_turns(images, labels, rngs)
    images = _power(images, [1.5 ** rng.uniform(-1, 1) for rng in rngs])
    noise = [rng.uniform(0, 6) * rng.standard_normal(images.shape[1:], np.float32) for rng in rngs]
    return (images + _tensor(np.stack(noise), images)).clamp_(0, 255), labels


def anatomy_source(images: Tensor, labels: Tensor, rngs: Rngs) -> tuple[Tensor, Tensor]:
    """Ours, for bodies, whose left is not their right: small rotation, scale and shift, gamma
    within 2/3..3/2, noise of up to 8 grey levels. No flip, no quarter turn.
    """
    grid = _affine(
        [
            (rng.uniform(-12, 12), 1.12 ** rng.uniform(-1, 1), rng.uniform(-0.08, 0.08, 2))
            for rng in rngs
        ],
        images,
    )
    shown = F.grid_sample(images, grid, "bilinear", "border", align_corners=False)
    looked_up = F.grid_sample(labels.unsqueeze(1).float(), grid, "nearest", align_corners=False)
    shown = _power(shown, [1.5 ** rng.uniform(-1, 1) for rng in rngs])
    # uniform, which is three times cheaper to draw than normal
    noise = [rng.uniform(0, 28) * (rng.random(shown.shape[1:], np.float32) - 0.5) for rng in rngs]
    shown = (shown + _tensor(np.stack(noise), shown)).clamp_(0, 255)
    return shown, looked_up.squeeze(1).to(labels.dtype)


def spinal_cord_source(images: Tensor, labels: Tensor, rngs: Rngs) -> tuple[Tensor, Tensor]:
    """Self-ensembling's source training view, of images and their labels (B, H, W) uint8.

    Elastic (p .3), rotation, scale and shift; the image is standardised after them, so its mean
    and deviation stay (methods-cross-modality.md §6.2). Ours: the edge is repeated, one elastic
    field for both, labels looked up once.
    """
    grid = _fine_grid(images, rngs)
    shown = F.grid_sample(images, grid, "bilinear", "border", align_corners=False)
    looked_up = F.grid_sample(
        labels.unsqueeze(1).float(), grid, "nearest", "border", align_corners=False
    )
    before, after = (
        torch.std_mean(maps, dim=(2, 3), keepdim=True, correction=0) for maps in (images, shown)
    )
    shown = (shown - after[1]) * (before[0] / after[0].clamp(min=1e-6)) + before[1]
    return shown, looked_up.squeeze(1).to(labels.dtype)


def anatomy_pair(images: Tensor, maps: Tensor, rngs: Rngs) -> tuple[Tensor, Tensor]:
    """Self-ensembling's joint view of images and soft maps (B, K, H, W) of them, in 0..1.

    Elastic (p .3), rotation, scale and shift, the same for both, then an offset of the image
    only, which may leave 0..255 (methods-cross-modality.md §6.2, 6.3). Ours: one look-up for
    elastic and affine together; bilinear, and the edge repeated, so that classes that exclude
    each other still add up to 1; one elastic field for both, as the paper says (its code draws
    another for the map).
    """
    grid = _fine_grid(images, rngs)
    offsets = [rng.uniform(-OFFSET, OFFSET) for rng in rngs]
    both = F.grid_sample(
        torch.cat((images, maps), dim=1), grid, "bilinear", "border", align_corners=False
    )
    shown, moved = both.split((images.shape[1], maps.shape[1]), dim=1)
    # of a standardised image the deviation is 1 on the network's scale, as the paper's offset is
    deviation = images.std(dim=(2, 3), keepdim=True, correction=0)
    return shown + _per_sample(offsets, images) * deviation, moved


def _fine_grid(images: Tensor, rngs: Rngs) -> Tensor:
    """Where self-ensembling's elastic and affine transforms look each pixel up, (B, H, W, 2)."""
    turns, noises = [], []
    for rng in rngs:
        shift = rng.uniform(-0.06, 0.06, 2)  # code: 3 % of the image
        turns.append((rng.uniform(-4.6, 4.6), rng.uniform(0.98, 1.02), shift))  # code
        strength = (rng.random() < 0.3) * rng.uniform(28, 30)  # code: alpha
        noises.append(strength * rng.standard_normal((2, FINE_KNOTS, FINE_KNOTS), np.float32))
    rows, columns = (_gaussians(side, images, FINE_SIGMA, FINE_KNOTS) for side in images.shape[-2:])
    field = rows @ _tensor(np.stack(noises), images) @ columns.T
    return _affine(turns, images) + FINE_RMS * field.permute(0, 2, 3, 1)


def untouched(images: Tensor, labels: Tensor, rngs: Rngs) -> tuple[Tensor, Tensor]:
    """No augmentation."""
    return images, labels


VIEWS: Mapping[str, View] = {"identity": identity, "fundus_strong": fundus_strong}
SOURCE: Mapping[str, PairedView] = {
    "none": untouched,
    "fundus": fundus_source,
    "light": light_source,
    "anatomy": anatomy_source,
    "spinal_cord": spinal_cord_source,
}


def training_view(name: str, size: int | None) -> PairedView:
    """The view of this name, which gives images of this side; `fundus` crops them from larger ones.

    size: None for the side of the images that it is shown.
    """
    return partial(fundus_source, size=size) if name == "fundus" else SOURCE[name]


def _tensor(values: Any, like: Tensor) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32)).to(like.device)


def _per_sample(values: Sequence[float], like: Tensor) -> Tensor:
    """One number a sample, as (B, 1, 1, 1)."""
    return _tensor(values, like).view(-1, 1, 1, 1)


def _affine(turns: Sequence[tuple[float, float, np.ndarray]], like: Tensor) -> Tensor:
    """Angle in degrees, zoom, shift (x, y) in halves of the image -> grid (B, H, W, 2)."""
    matrices = []
    for angle, zoom, (shift_x, shift_y) in turns:
        radians = np.deg2rad(angle)
        cosine, sine = zoom * np.cos(radians), zoom * np.sin(radians)
        matrices.append([[cosine, -sine, shift_x], [sine, cosine, shift_y]])
    shape = [len(like), 1, *like.shape[-2:]]
    return F.affine_grid(_tensor(matrices, like), shape, align_corners=False)


def _black_dots(images: Tensor, rngs: Rngs) -> Tensor:
    """Salt (p .25), pepper (p .25) or nothing, at the same positions of all channels.

    Code: "salt" writes 1 on the 0..255 scale, not 255, so both are black dots.
    """
    area = images.shape[-2] * images.shape[-1]
    dots, values = [], []
    for sample, rng in enumerate(rngs):
        kind = rng.random()
        share, value = (SALT, 1.0) if kind < 0.25 else (PEPPER, 0.0)
        count = int(np.ceil(share * area)) if kind < 0.5 else 0
        dots.append(sample * area + rng.integers(area, size=count))
        values.append(value)
    where = torch.from_numpy(np.concatenate(dots)).to(images.device)
    mask = torch.zeros(len(rngs) * area, dtype=torch.bool, device=images.device)
    mask = mask.index_fill_(0, where, True).view(-1, 1, *images.shape[-2:])
    return torch.where(mask, _per_sample(values, images), images)


def _gamma(images: Tensor, rngs: Rngs) -> Tensor:
    """With p .5: 255 * (x / 255) ** (1 / g), g ~ U(.5, 3.5): mostly brightens.

    Not rounded; the reference looks whole grey levels up in a table of whole grey levels.
    """
    draws = [(rng.random() < 0.5, rng.uniform(0.5, 3.5)) for rng in rngs]
    return _power(images, [1 / g if on else 1.0 for on, g in draws])


def _power(images: Tensor, exponents: Sequence[float]) -> Tensor:
    """255 * (x / 255) ** exponent; an exponent of 1 leaves a sample exactly as it is."""
    exponent = _per_sample(exponents, images)
    changed = (images / 255).clamp_(0, 1).pow_(exponent).mul_(255)
    return torch.where(exponent == 1, images, changed)


def _eraser(images: Tensor, rngs: Rngs) -> Tensor:
    """With p .5 a box of one grey value, .02 to .06 of the area, ratio of its sides .3 to .6.

    Code: the size is drawn again with the place until it fits, so large boxes are rarer.
    """
    height, width = images.shape[-2:]
    boxes, values = [], []
    for rng in rngs:
        on = rng.random() < 0.5
        x, y, w, h = width, height, 0, 0
        while x + w > width or y + h > height or not w:
            area = rng.uniform(0.02, 0.06) * height * width
            ratio = rng.uniform(0.3, 0.6)
            w, h = int((area / ratio) ** 0.5), int((area * ratio) ** 0.5)
            x, y = int(rng.integers(width)), int(rng.integers(height))
        values.append(rng.uniform(0, 255))
        boxes.append((x, x + w, y, y + h if on else y))
    left, right, top, bottom = _tensor(boxes, images).T.reshape(4, -1, 1, 1, 1)
    columns = torch.arange(width, device=images.device)
    rows = torch.arange(height, device=images.device).view(-1, 1)
    inside = (left <= columns) & (columns < right) & (top <= rows) & (rows < bottom)
    return torch.where(inside, _per_sample(values, images), images)


def _quarter_turns(images: Tensor, labels: Tensor, rngs: Rngs) -> tuple[Tensor, Tensor]:
    """Flips along each axis (p .5) and a turn by 90, 180, 270 or 360 degrees (p .5), exactly.

    Together with the flips such a turn is a transposition in a quarter of the samples. Images
    that are not square keep their frame: they are flipped only.
    """
    square = images.shape[-1] == images.shape[-2]
    turned = []
    for image, label, rng in zip(images, labels, rngs, strict=True):
        across, down, transposed = rng.random(3) < (0.5, 0.5, 0.25)
        axes = [axis for axis, on in ((-1, across), (-2, down)) if on]
        pair = image.flip(axes), label.flip(axes)
        turned.append((pair[0].mT, pair[1].mT) if transposed and square else pair)
    new_images, new_labels = zip(*turned, strict=True)
    return torch.stack(new_images), torch.stack(new_labels)


def _warp(images: Tensor, labels: Tensor, rngs: Rngs, size: int) -> tuple[Tensor, Tensor]:
    """Scale (p .5), crop and elastic deformation (p .5) in one look-up per pixel.

    What comes from outside the frame is black and background.
    """
    height, width = images.shape[-2:]
    frames, noises, chosen = [], [], []
    for sample, rng in enumerate(rngs):
        scaled, elastic = rng.random(2) < 0.5
        sides = [int(side * rng.uniform(0.5, 1.5)) if scaled else side for side in (width, height)]
        frame = _crop(rng, sides[0], sides[1], size)
        noise = rng.standard_normal((2, KNOTS, KNOTS), np.float32)
        if scaled or elastic or (height, width) != (size, size):
            chosen.append(sample)
            frames.append((*frame, sides[0] / width, sides[1] / height))
            noises.append(noise * elastic)
    if not chosen:
        return images, labels
    left, top, scale_x, scale_y = _tensor(frames, images).T.reshape(4, -1, 1, 1)
    # A sum of Gaussians with random weights: the field of noise smoothed pixel by pixel has the
    # same (normal) distribution and covariance, and costs 300 times more.
    gaussians = _gaussians(size, images)
    field = gaussians @ _tensor(np.stack(noises), images) @ gaussians.T
    shift_x, shift_y = (ELASTIC_RMS * size * field).unbind(1)
    x = torch.arange(size, device=images.device) + 0.5
    y = x.view(-1, 1)
    grid = torch.stack(
        (
            (x + shift_x + left) * (2 / (scale_x * width)) - 1,
            (y + shift_y + top) * (2 / (scale_y * height)) - 1,
        ),
        dim=-1,
    )
    rows = torch.tensor(chosen, device=images.device)
    warped = F.grid_sample(images[rows], grid, mode="bilinear", align_corners=False)
    looked_up = F.grid_sample(
        labels[rows].unsqueeze(1).float(), grid, mode="nearest", align_corners=False
    )
    moved = looked_up.squeeze(1).to(labels.dtype)
    if len(chosen) == len(images):
        return warped, moved
    return images.index_copy(0, rows, warped), labels.index_copy(0, rows, moved)


def _crop(rng: np.random.Generator, width: int, height: int, size: int) -> tuple[float, float]:
    """Left and top of a crop of `size` from an image whose sides, scaled, are these.

    Code: where one is too short, all four sides are padded by half of what is missing plus 5 px
    at 512 (that share of the frame here).
    """
    missing = max(size - width, size - height)
    pad = missing // 2 + round(5 * size / 512) if missing > 0 else 0
    left = rng.integers(max(width + 2 * pad - size, 0) + 1) - pad
    top = rng.integers(max(height + 2 * pad - size, 0) + 1) - pad
    return float(left), float(top)


def _gaussians(size: int, like: Tensor, sigma: float = ELASTIC_SIGMA, count: int = KNOTS) -> Tensor:
    """(size, count): value of each knot's Gaussian at each pixel; unit variance for unit noise.

    Code: the noise ends at the frame, so the variance falls to one half at its edges.
    sigma: as a share of `size`.
    """
    spacing = 1 / sigma / count  # in sigmas
    knots = (np.arange(count) + 0.5) * spacing
    pixels = (np.arange(size) + 0.5) / (size * sigma)
    values = np.exp(-((pixels[:, None] - knots) ** 2) / 2)
    return _tensor(values * (spacing / np.pi**0.5) ** 0.5, like)
