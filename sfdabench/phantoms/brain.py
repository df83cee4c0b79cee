"""Synthetic gliomas in four MR modalities: one skull-stripped head per key.

The grades differ as they do in patients, in shape and texture and not in brightness alone: a
high-grade tumour has a necrotic core in an enhancing rim and wide oedema in the white matter, one
of low grade is a solid, diffuse, mostly non-enhancing core near the cortex with little around it.

Anatomy is drawn in millimetres, so that a coarse volume shows the head that a fine one shows.
Axes are (D, H, W): from inferior to superior, anterior to posterior, the patient's right to left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from sfdabench.core.seeding import generator

Range = tuple[float, float]
Point = tuple[float, float, float]
NECROSIS, OEDEMA, ENHANCING = 1, 2, 4  # BraTS 2018's values
REACH: Point = (74.0, 92.0, 77.0)  # mm from the middle that no head passes
SCALE: Range = (250.0, 1400.0)  # scanner units of white matter

# Signal of T1, T1ce, T2, FLAIR relative to white matter.
CSF = (0.30, 0.30, 2.10, 0.35)
GREY = (0.74, 0.76, 1.38, 1.22)
SWOLLEN = (0.66, 0.66, 1.85, 2.00)  # oedema
DEAD = (0.42, 0.40, 1.95, 1.10)  # necrosis
SOLID = (0.50, 0.50, 2.15, 1.55)  # tumour that does not enhance
LEAKY = (0.72, 1.75, 1.50, 1.60)  # enhancing tumour


@dataclass(frozen=True)
class Grade:
    """Look of the tumours of one grade. Ranges are uniform, lengths in mm.

    core: radius of what is not oedema. rim: thickness of the enhancing rim around necrosis, None
    for a solid core. nodule: probability of an enhancing nodule in a solid core. solid: share of
    living tumour in what does not enhance, the rest is necrosis. oedema: its reach beyond the core.
    outline: irregularity as a share of the radius. edge: softness of borders. contrast: 1 shows
    the full signal of the tumour's tissues, 0 that of the brain around it.
    place: its usual middle (z, y, |x|), x from the midline. spread: deviation from it.
    """

    core: Range
    rim: Range | None
    nodule: float
    solid: Range
    oedema: Range
    outline: float
    edge: float
    contrast: Range
    place: Point
    spread: Point


GRADES = {
    "HGG": Grade(
        core=(13, 24), rim=(3.5, 7), nodule=0.0, solid=(0, 0.6), oedema=(8, 22),
        outline=0.22, edge=1.5, contrast=(0.7, 1.0), place=(12, 16, 34), spread=(12, 20, 5),
    ),
    "LGG": Grade(
        core=(14, 28), rim=None, nodule=0.5, solid=(0.4, 1), oedema=(2, 8),
        outline=0.30, edge=4.0, contrast=(0.35, 0.65), place=(16, -34, 32), spread=(12, 12, 8),
    ),
}  # fmt: skip


def patient(
    grade: str,
    shape: tuple[int, int, int],
    *key: int | str,
    spacing: Point = (1.0, 1.0, 1.0),
) -> tuple[np.ndarray, np.ndarray]:
    """One head: T1, T1ce, T2, FLAIR float32 (4, *shape) and label uint8 (shape); key decides all.

    grade: "HGG" or "LGG". shape: (D, H, W). spacing: mm a step of them. Outside the brain images
    are exactly 0, inside at least 1.
    """
    look = GRADES[grade]
    name = ("phantom", "brain", grade, *key)
    rng = generator(*name)
    window, axes = _window(shape, spacing)
    focus = _focus(rng, look)
    warped, away = _warp(rng, axes, focus)
    brain, tissues, white = _anatomy(rng, axes, warped)
    label, lesions = _tumour(rng, look, axes, away, brain, tissues[0], white)

    images = np.zeros((4, *shape), np.float32)
    labels = np.zeros(shape, np.uint8)
    labels[window] = label
    for channel in range(4):
        signal = _signal(generator(*name, channel), channel, axes, tissues, lesions)
        images[channel][window] = np.maximum(signal, 1, out=signal) * brain
    return images, labels


def _window(
    shape: tuple[int, int, int], spacing: Point
) -> tuple[tuple[slice, ...], tuple[np.ndarray, ...]]:
    """The part of the volume that a head may fill, and its coordinates z, y, x in mm."""
    window, axes = [], []
    for length, step, reach in zip(shape, spacing, REACH, strict=True):
        at = ((np.arange(length) - (length - 1) / 2) * step).astype(np.float32)
        inside = np.flatnonzero(np.abs(at) <= reach)
        window.append(slice(int(inside[0]), int(inside[-1]) + 1))
        axes.append(at[window[-1]])
    z, y, x = axes
    return tuple(window), (z[:, None, None], y[None, :, None], x[None, None, :])


def _focus(rng: np.random.Generator, look: Grade) -> Point:
    """Middle of the tumour, in the right or the left hemisphere."""
    z, y, x = rng.normal(look.place, look.spread)
    side = rng.choice((-1.0, 1.0))
    return float(np.clip(z, -8, 38)), float(np.clip(y, -52, 52)), float(side * np.clip(x, 20, 44))


def _warp(
    rng: np.random.Generator, axes: Sequence[np.ndarray], focus: Point
) -> tuple[list[np.ndarray], np.ndarray]:
    """Anatomical coordinates of each voxel, and its distance to the focus, both in mm.

    The head is tilted and scaled, and a tumour pushes its surroundings aside.
    """
    z, y, x = axes
    turn, nod = rng.normal(0, 0.05, 2).astype(np.float32)
    x, y = x + turn * y, y - turn * x
    y, z = y + nod * z, z - nod * y
    away = np.sqrt(sum(((axis - at) ** 2 for axis, at in zip(axes, focus, strict=True)), start=0.0))
    push = np.float32(rng.uniform(3, 11)) * np.exp(away**2 / np.float32(-2 * 28**2))
    push /= np.maximum(away, 6)
    size = rng.uniform(0.94, 1.06, 3)
    warped = [
        (where - push * (axis - at)) / np.float32(scale)
        for where, axis, at, scale in zip((z, y, x), axes, focus, size, strict=True)
    ]
    return warped, away


def _anatomy(
    rng: np.random.Generator, axes: Sequence[np.ndarray], warped: Sequence[np.ndarray]
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Brain mask bool, the shares of CSF and of grey matter, and where white matter lets grow."""
    z, y, x = warped
    side = np.abs(x)
    cerebrum = _ball(warped, (8, 0, 0), (54, 82, 66))
    np.maximum(cerebrum, (-26 - z + 0.12 * y) / 40, out=cerebrum)  # flat below
    temporal = _ball((z, y, side), (-24, -14, 42), (22, 40, 21))
    cerebellum = _ball(warped, (-40, 46, 0), (26, 33, 47))
    stem = _ball(warped, (-44, 16, 0), (40, 13, 15))
    upper = np.minimum(cerebrum, temporal)
    lower = np.minimum(cerebellum, stem)
    depth = -60 * np.minimum(upper, lower)  # about mm below the surface
    folds = _field(rng, axes, 9)
    depth += 1.2 * folds
    brain = depth > 0

    crease = np.abs(folds)
    buried = np.maximum(depth - 10, 0) / 12  # folds fade into the depth
    sulcus = _inside(crease + buried - 0.15, 0.10)
    leaf = np.abs(z + 0.6 * y + 30) % 5  # of the cerebellum
    leaves = (cerebellum < upper) & (stem > 0)
    sulcus = np.where(leaves, 0.45 * (leaf < 1.2), sulcus)
    cleft = _inside(side + 8 * _inside(_ball(warped, (6, 0, 0), (24, 46, 30)), 0.2) - 1.6, 0.8)
    cleft *= z > -16
    csf = np.maximum(sulcus, cleft)
    np.maximum(csf, _ventricles(rng, warped), out=csf)
    np.maximum(csf, _inside(depth - 1.5, 1.0) * 0.7, out=csf)

    cortex = _inside(crease + buried - 0.70, 0.12)
    np.maximum(cortex, _inside(depth - 3.5, 1.0), out=cortex)
    np.maximum(cortex, _inside(side - 4.5, 1.0) * (cleft > 0.05), out=cortex)
    np.maximum(cortex, 0.65 * leaves, out=cortex)
    deep = _ball((z, y, side), (6, 14, 11), (11, 17, 8))  # thalamus
    np.minimum(deep, _ball((z, y, side), (6, -10, 23), (13, 22, 7)), out=deep)  # putamen
    np.minimum(deep, _ball((z, y, side), (12, -22, 14), (12, 12, 5)), out=deep)  # caudate
    np.maximum(cortex, 0.8 * _inside(deep, 0.2), out=cortex)
    grey = cortex * (1 - csf)
    return brain, (csf, grey), 1 - csf - grey


def _ventricles(rng: np.random.Generator, warped: Sequence[np.ndarray]) -> np.ndarray:
    """Share of ventricle: two bodies with horns that part to front and back, and a third slit."""
    z, y, x = warped
    side = np.abs(x)
    wide = rng.uniform(3.5, 7.5)
    off = 4 + wide + 0.0045 * (y - 2) ** 2
    drop = 16 - 0.006 * (y + 2) ** 2
    body = _ball((z - drop, y, side - off), (0, 2, 0), (8, 42, wide))
    third = _ball((z, y, side), (2, 8, 0), (12, 14, 0.4 * wide))
    fourth = _ball((z, y, side), (-34, 30, 0), (9, 5, 7))
    return _inside(np.minimum(np.minimum(body, third), fourth), 0.15)


def _tumour(
    rng: np.random.Generator,
    look: Grade,
    axes: Sequence[np.ndarray],
    away: np.ndarray,
    brain: np.ndarray,
    csf: np.ndarray,
    white: np.ndarray,
) -> tuple[np.ndarray, list[tuple[np.ndarray, Sequence[float]]]]:
    """Label uint8, and (share, signal) of each lesion in the order in which they are laid."""
    radius = rng.uniform(*look.core)
    lumps, fingers = (np.clip(_field(rng, axes, cell), -1.5, 1.2) for cell in (16, 12))
    core = away - radius * (1 + look.outline * lumps)
    reach = radius + rng.uniform(*look.oedema)
    swelling = away - reach * (1 + look.outline * fingers) + 7 * (1 - white)
    np.minimum(swelling, core, out=swelling)
    if look.rim is not None:
        inner = core + rng.uniform(*look.rim) * (1 + 0.35 * fingers)
        enhancing = np.maximum(core, -inner)
    elif rng.random() < look.nodule:
        spot = radius * rng.uniform(0.15, 0.35)
        enhancing = np.maximum(core, away - spot - 4 * (1 + fingers))
    else:
        enhancing = np.full_like(core, 99)

    free = brain & (csf < 0.5)
    label = np.zeros(brain.shape, np.uint8)
    label[free & (swelling < 0)] = OEDEMA
    label[brain & (core < 0)] = NECROSIS
    label[brain & (enhancing < 0)] = ENHANCING
    contrast = np.float32(rng.uniform(*look.contrast))
    texture = 1 + 0.15 * lumps * fingers
    solid = rng.uniform(*look.solid)
    kernel = [solid * living + (1 - solid) * dead for living, dead in zip(SOLID, DEAD, strict=True)]
    foci = _inside(rng.uniform(2.0, 3.5) - _field(rng, axes, 7), 0.3)  # old and benign: no tumour
    return label, [
        (0.8 * foci * np.maximum(white, 0), SWOLLEN),
        (contrast * _inside(swelling, 2 * look.edge) * (1 - csf), SWOLLEN),
        (contrast * _inside(core, look.edge) * texture, kernel),
        (contrast * rng.uniform(0.7, 1) * _inside(enhancing, 0.7 * look.edge), LEAKY),
    ]


def _signal(
    rng: np.random.Generator,
    channel: int,
    axes: Sequence[np.ndarray],
    tissues: tuple[np.ndarray, np.ndarray],
    lesions: Sequence[tuple[np.ndarray, Sequence[float]]],
) -> np.ndarray:
    """Scanner units of one modality: tissue, bias field, noise, in an arbitrary scale."""
    csf, grey = tissues
    tones = rng.normal(1, 0.05, 6)
    signal = 1 + grey * np.float32(tones[0] * GREY[channel] - 1)
    signal += csf * np.float32(tones[1] * CSF[channel] - 1)
    for (share, tone), vary in zip(lesions, tones[2:], strict=True):
        signal += share * (np.float32(vary * tone[channel]) - signal)
    signal *= 1 + np.float32(rng.uniform(0.03, 0.10)) * _field(rng, axes, 70)
    noise, scale = rng.uniform(0.03, 0.08), np.exp(rng.uniform(*np.log(SCALE)))
    signal += np.float32(noise) * rng.standard_normal(signal.shape, np.float32)
    signal *= np.float32(scale)
    return signal


def _ball(at: Sequence[np.ndarray], centre: Point, radii: Point) -> np.ndarray:
    """Distance to an ellipsoid in radii, negative inside."""
    parts = [
        (axis - np.float32(middle)) * np.float32(1 / radius)
        for axis, middle, radius in zip(at, centre, radii, strict=True)
    ]
    total = np.square(parts[0])
    for part in parts[1:]:
        total += np.square(part)
    return np.sqrt(total) - 1


def _inside(distance: np.ndarray, softness: float) -> np.ndarray:
    """1 inside, 0 outside, half on the border; a ramp, as exponentials would cost the most."""
    share = distance * np.float32(-0.5 / softness)
    share += 0.5
    return np.clip(share, 0, 1, out=share)


def _field(rng: np.random.Generator, axes: Sequence[np.ndarray], cell: float) -> np.ndarray:
    """A smooth random field of about unit variance with details of `cell` mm.

    Drawn on a coarse grid that covers every head, so that the voxels' size does not change it.
    """
    knots = [np.arange(-reach - cell, reach + 2 * cell, cell) for reach in REACH]
    coarse = rng.standard_normal([len(k) for k in knots], np.float32)
    with threadpool_limits(1, "blas"):  # more threads add up in another order: another phantom
        for axis in (2, 1, 0):  # the largest product last
            weights = _weights(axes[axis].ravel(), knots[axis], cell)
            coarse = np.moveaxis(np.tensordot(weights, coarse, (1, axis)), 0, axis)
    return np.ascontiguousarray(coarse)


def _weights(at: np.ndarray, knots: np.ndarray, cell: float) -> np.ndarray:
    """Quadratic B-splines of the knots at each position, rows of unit norm, float32."""
    off = np.abs(at[:, None] - knots) / cell
    spline = np.where(off < 0.5, 0.75 - off**2, np.maximum(1.5 - off, 0) ** 2 / 2)
    return (spline / np.linalg.norm(spline, axis=1, keepdims=True)).astype(np.float32)
