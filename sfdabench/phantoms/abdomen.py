"""Synthetic abdomens: one patient per key, seen by MR (T2-SPIR, T1 in and out of phase) or CT.

Liver, spleen and kidneys lie among things of like grey (stomach, bowel, muscle, vessels), so that
grey alone tells no organ. The order of the organs' greys differs between MR and CT, as it does in
patients: kidneys and spleen outshine the liver on T2-SPIR; on CT they hardly differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from sfdabench.core.seeding import generator

Range = tuple[float, float]
Point = Sequence[float] | np.ndarray  # x to the patient's left, y to the back, z to the head, in mm
Coordinates = tuple[np.ndarray, np.ndarray, np.ndarray]

# The first five are the values of the label map.
AIR, LIVER, RIGHT_KIDNEY, LEFT_KIDNEY, SPLEEN, SKIN, FAT, MUSCLE, BONE, MARROW = range(10)
LUNG, AORTA, VEIN, STOMACH, WALL, GAS, BILE, FLUID, LESION = range(10, 19)
GREY = np.array(  # ours: plausible, T2-SPIR | T1 | CT without contrast agent | what the agent adds
    (
        (0, 0, -1000, 0),  # air
        (230, 430, 56, 52),  # liver
        (560, 290, 36, 110),  # kidneys
        (560, 290, 36, 110),
        (500, 300, 48, 66),  # spleen
        (170, 330, -10, 0),  # skin
        (75, 720, -102, 0),  # fat
        (150, 330, 56, 8),  # muscle
        (30, 50, 520, 0),  # bone
        (150, 480, 190, 10),  # marrow
        (25, 20, -850, 10),  # lung
        (50, 210, 42, 120),  # aorta
        (140, 230, 42, 95),  # vein
        (380, 200, 32, 0),  # what the stomach holds
        (290, 300, 42, 34),  # wall of stomach and bowel, pancreas
        (10, 10, -950, 0),  # gas
        (900, 150, 8, 0),  # bile
        (850, 130, 6, 0),  # fluid
        (480, 250, 30, 14),  # lesion
    ),
    float,
)
FAT_SHARE = np.zeros(len(GREY))
FAT_SHARE[[FAT, MARROW]] = 1, 0.5


@dataclass(frozen=True)
class Grid:
    """Slices, side of a slice in pixels, and ranges of their steps in mm."""

    name: str
    slices: tuple[int, int]
    side: int
    pixel: Range
    thickness: Range


@dataclass(frozen=True)
class Look:
    """What a scanner makes of tissue.

    column: of GREY. spread: how a tissue's grey varies from patient to patient, as a share of it;
    texture: within a patient. fat_sign: -1 takes the signal of fat from that of water, as T1 out
    of phase does. blur: Gaussian sigma in px within a slice. noise: standard deviation.
    phase: share of the contrast agent's effect that is there. bias: standard deviation of the log
    of the coil's sensitivity. scale: of a magnitude image, whose unit is arbitrary.
    hounsfield: CT, with streaks from bone in place of coils and magnitudes.
    """

    name: str
    column: int
    spread: float
    noise: Range
    blur: Range = (0.5, 0.8)
    texture: float = 0.05
    fat_sign: int = 1
    phase: Range = (0.0, 0.0)
    bias: float = 0.16
    scale: Range = (0.35, 2.2)
    hounsfield: bool = False


@dataclass(frozen=True)
class Patient:
    """Anatomy on one grid: tissue and label uint8 (D, H, W), spacing (D, H, W) in mm.

    label: 1 liver, 2 right kidney, 3 left kidney, 4 spleen. fatty: share of fat in the liver.
    """

    tissue: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float]
    fatty: float


MR_GRID = Grid("mr", slices=(18, 20), side=96, pixel=(3.8, 4.1), thickness=(10.0, 11.5))
CT_GRID = Grid("ct", slices=(20, 22), side=104, pixel=(3.5, 3.8), thickness=(9.0, 10.0))

T2SPIR = Look("t2spir", column=0, spread=0.10, noise=(14, 30))
T1IN = Look("t1in", column=1, spread=0.08, noise=(12, 24))
T1OUT = replace(T1IN, name="t1out", fat_sign=-1)
CT = Look("ct", column=2, spread=0.05, noise=(9, 20), phase=(0.45, 1.1), hounsfield=True)


def patient(grid: Grid, *key: int | str) -> Patient:
    """Anatomy of one patient on a scanner's grid; the key decides all."""
    rng = generator("abdomen", grid.name, *key)
    pixel = rng.uniform(*grid.pixel)
    spacing = (rng.uniform(*grid.thickness), pixel, pixel)
    shape = (int(rng.integers(*grid.slices, endpoint=True)), grid.side, grid.side)
    at = _coordinates(rng, shape, spacing)
    tissue = np.full(shape, AIR, np.uint8)
    inner = _trunk(rng, tissue, at)
    _organs(rng, tissue, at, inner)
    label = np.where(tissue <= SPLEEN, tissue, 0).astype(np.uint8)
    _inside_the_liver(rng, tissue, at)
    return Patient(tissue, label, spacing, fatty=0.3 * rng.random() ** 3)


def render(look: Look, patient: Patient, *key: int | str) -> np.ndarray:
    """The image float32 (D, H, W) that a scanner makes of a patient: HU, or its own units."""
    from scipy.ndimage import gaussian_filter

    rng = generator("abdomen", look.name, *key)
    shape = patient.tissue.shape
    grey = _greys(rng, look)
    share = FAT_SHARE.copy()
    share[LIVER] = patient.fatty
    sigma = (0.3, *(rng.uniform(*look.blur),) * 2)
    water, fat = (
        gaussian_filter((grey * part).astype(np.float32)[patient.tissue], sigma, truncate=3)
        for part in (1 - share, share)
    )
    image = water + look.fat_sign * fat
    noise = np.float32(rng.uniform(*look.noise))
    if look.hounsfield:
        grain = gaussian_filter(rng.standard_normal(shape, np.float32), (0, 0.6, 0.6))
        return image + noise / grain.std() * grain + _streaks(rng, patient.tissue)
    image = np.abs(image) * (1 + look.texture * _smooth(rng, shape, 9))
    image *= np.exp(look.bias * _smooth(rng, shape, 2))
    real, imaginary = noise * rng.standard_normal((2, *shape), np.float32)
    return np.hypot(image + real, imaginary) * np.float32(rng.uniform(*look.scale))


def affine(patient: Patient, axes: str, *key: int | str) -> np.ndarray:
    """Affine (to RAS+ mm) of this patient's array in a file whose axes run as `axes`, say "LAS".

    The patient lies a few degrees askew, off the scanner's middle.
    """
    rng = generator("abdomen", "affine", *key)
    rows = ["RLAPIS".index(code) // 2 for code in axes]
    steps = np.array(patient.spacing[::-1])[rows] * [1 if c in "RAS" else -1 for c in axes]
    linear = np.zeros((3, 3))
    linear[rows, range(3)] = steps
    tilt = np.deg2rad(rng.uniform(-4, 4))
    nod = [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    matrix = np.eye(4)
    matrix[:3, :3] = nod @ linear
    middle = (np.array(patient.tissue.shape[::-1])[rows] - 1) / 2
    matrix[:3, 3] = rng.uniform(-30, 30, 3) - matrix[:3, :3] @ middle
    return matrix


def _greys(rng: np.random.Generator, look: Look) -> np.ndarray:
    """Grey of each tissue in one patient."""
    grey = GREY[:, look.column] + rng.uniform(*look.phase) * GREY[:, 3]
    grey[1:] *= rng.normal(1, look.spread, len(grey) - 1)
    grey[RIGHT_KIDNEY] = grey[LEFT_KIDNEY]
    grey[STOMACH] *= rng.uniform(0.5, 1.6)  # what was eaten last
    return grey


def _streaks(rng: np.random.Generator, tissue: np.ndarray) -> np.ndarray:
    """Grey streaks across the rows that hold much bone."""
    from scipy.ndimage import gaussian_filter1d

    bone = (tissue == BONE).mean(axis=2, keepdims=True, dtype=np.float32)
    return 250 * bone * gaussian_filter1d(rng.standard_normal(tissue.shape, np.float32), 12)


def _coordinates(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> Coordinates:
    """Where in a body of average size each voxel lies: x, y, z (D, H, W) in mm."""
    size = rng.uniform(0.92, 1.06, 3)
    shift = rng.uniform(-6, 6, 3)
    grids = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    z, y, x = (
        (grid * (step / scale) + offset + 4 * _smooth(rng, shape, 4)).astype(np.float32)
        for grid, step, scale, offset in zip(grids, spacing, size, shift, strict=True)
    )
    return x, y, z


def _smooth(rng: np.random.Generator, shape: tuple[int, ...], waves: int) -> np.ndarray:
    """A smooth random field of unit variance with up to `waves` half waves along each side."""
    depth = min(waves, 5)
    amplitude = rng.standard_normal((depth + 1, waves + 1, waves + 1), np.float32)
    amplitude[0, 0, 0] = 0
    bases = [
        np.cos(np.pi * np.outer(np.arange(m), (np.arange(n) + 0.5) / n)).astype(np.float32)
        for m, n in zip(amplitude.shape, shape, strict=True)
    ]
    with threadpool_limits(1, "blas"):  # more threads add up in another order: another phantom
        field = np.einsum("abc,az,by,cx->zyx", amplitude, *bases, optimize=True)
    return field / field.std()


def _ball(
    at: Coordinates, centre: Point, half: Point, *, coronal: float = 0.0, axial: float = 0.0
) -> np.ndarray:
    """Distance from the centre of an ellipsoid, 1 on its surface; turned by degrees."""
    x, y, z = (axis - np.float32(middle) for axis, middle in zip(at, centre, strict=True))
    x, z = _turned(x, z, coronal)
    x, y = _turned(x, y, axial)
    for axis, length in ((x, half[0]), (y, half[1]), (z, half[2])):
        axis *= np.float32(1 / length)
        axis *= axis
    x += y
    x += z
    return np.sqrt(x, out=x)


def _turned(one: np.ndarray, other: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    if not degrees:
        return one, other
    angle = np.deg2rad(degrees)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * one + s * other, c * other - s * one


def _trunk(rng: np.random.Generator, tissue: np.ndarray, at: Coordinates) -> np.ndarray:
    """Paint skin, fat, muscle, ribs and spine; returns the cavity's radius, 1 on its wall."""
    _, y, z = at
    fat = rng.uniform(8, 26)

    def tube(x: float, y: float, wide: float, deep: float) -> np.ndarray:
        return _ball(at, (x, y, 0), (wide, deep, np.inf))

    tissue[tube(0, 0, 140 + fat, 98 + 0.8 * fat) < 1] = SKIN
    tissue[tube(0, 0, 136 + fat, 94 + 0.8 * fat) < 1] = FAT
    wall, inner = tube(0, 0, 140, 97), tube(0, 0, 126, 84)
    tissue[wall < 1] = MUSCLE
    tissue[inner < 1] = FAT
    slope = (z - 0.5 * y + rng.uniform(0, 30)) % 30  # ribs run down to the front
    tissue[(inner > 1.01) & (wall < 0.98) & (slope < 9) & (z > -50) & (y > -65)] = BONE
    for side in (-1, 1):
        tissue[tube(32 * side, 77, 26, 18) < 1] = MUSCLE
        psoas = tube(37 * side, 54, 17, 17)
        tissue[psoas < np.clip((20 - z) / 60, 0, 1)] = MUSCLE
    tissue[tube(0, 90, 5, 16) < 1] = BONE
    body = tube(0, 52, 23, 18)
    tissue[body < 1] = BONE
    tissue[body < 0.82] = MARROW
    tissue[(body < 1) & ((z + rng.uniform(0, 34)) % 34 < 7)] = MUSCLE  # discs
    tissue[tube(0, 77, 9, 8) < 1] = FLUID
    return inner


def _organs(
    rng: np.random.Generator, tissue: np.ndarray, at: Coordinates, inner: np.ndarray
) -> None:
    """Paint what lies in the cavity; what comes first keeps its place."""
    x, y, z = at
    free = (inner < 1) & (tissue == FAT)

    def put(kind: int, distance: np.ndarray, *, rim: float = 1.0) -> np.ndarray:
        """Paint and return where; fat up to the distance `rim` stays fat."""
        painted = free & (distance < 1)
        tissue[painted] = kind
        free[distance < rim] = False
        return painted

    def organ(centre: Point, half: Point, **turn: float) -> np.ndarray:
        return _ball(at, rng.normal(centre, 4), rng.normal(1, 0.07) * np.array(half), **turn)

    top = 78 + rng.normal(0, 4)
    dome = top - 55 * np.minimum(((np.abs(x) - 62) / 75) ** 2, 1) - 60 * (y / 84) ** 2
    put(MUSCLE, np.where(z > dome, organ((12, -25, 98), (56, 42, 32)), np.float32(2)))
    put(LUNG, np.where(z > dome, np.float32(0), np.float32(2)))
    for kind, side, level in ((RIGHT_KIDNEY, -1, -24), (LEFT_KIDNEY, 1, -12)):
        hub = rng.normal((70 * side, 36, level), (4, 4, 6))
        hilum = _ball(at, hub - (22 * side, 10, 0), (14, 11, 15))
        free[hilum < 1] = False
        half = rng.normal(1, 0.07) * np.array((27, 29, 50))
        put(kind, _ball(at, hub, half, coronal=-10 * side, axial=15 * side), rim=1.2)
    put(SPLEEN, organ((92, 24, 30), (29, 50, 42), axial=rng.normal(-20, 6)), rim=1.04)
    put(AORTA, _ball(at, (10, 22, 0), (11, 11, np.inf)), rim=1.2)
    put(VEIN, _ball(at, (-20, 22, 0), (13, 10, np.inf)), rim=1.1)
    put(BILE, organ((-46, -40, 0), (15, 20, 24)), rim=1.05)
    right = organ((-72, -2, 28), (62, 78, 58), coronal=rng.normal(0, 6))
    put(LIVER, np.minimum(right, organ((0, -42, 40), (68, 32, 34))), rim=1.02)
    stomach = organ((56, -28, 32), (46, 42, 46))
    held = put(WALL, stomach) & (stomach < 0.85)
    tissue[held] = STOMACH
    tissue[held & (y < rng.uniform(-62, -45))] = GAS  # rises to the front of who lies on the back
    put(WALL, organ((22, 0, 8), (52, 13, 15), axial=rng.normal(0, 8)), rim=1.1)
    loops = [organ((100 * side, -5, -78), (20, 20, 62)) for side in (-1, 1)]
    for _ in range(rng.integers(14, 20)):
        loops.append(_ball(at, rng.uniform((-95, -75, -105), (95, 5, 0)), rng.uniform(13, 24, 3)))
    for loop in loops:
        held = put(WALL, loop, rim=1.1) & (loop < 0.75)
        tissue[held] = rng.choice((STOMACH, WALL, GAS, FLUID), p=(0.4, 0.25, 0.2, 0.15))


def _inside_the_liver(rng: np.random.Generator, tissue: np.ndarray, at: Coordinates) -> None:
    """Paint vessels and, in some, lesions; the label still says liver there."""

    def put(kind: int, distance: np.ndarray) -> None:
        tissue[(tissue == LIVER) & (distance < 1)] = kind

    for _ in range(5):
        hub = rng.normal((-55, -5, 38), (22, 22, 14))
        turn = rng.uniform(-60, 60, 2)
        put(VEIN, _ball(at, hub, (44, 5, 6), coronal=turn[0], axial=turn[1]))
    if rng.random() < 0.35:
        for hub in rng.normal((-70, 0, 30), (30, 30, 22), (rng.integers(1, 4), 3)):
            put(LESION, _ball(at, hub, rng.uniform(8, 16, 3)))
