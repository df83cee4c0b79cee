"""Synthetic fundus photographs: one eye per key, seen through the camera of a data set.

The cameras differ locally (cup prior, soft cup edges, atrophy beside the disc, halos, haze,
lesions), not only in colour: a shift of colour and blur alone is undone by re-estimating
batch-norm statistics, and would tell no two methods apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from sfdabench.core.seeding import generator

Range = tuple[float, float]
Colour = tuple[float, float, float]
RIM, CUP = 1, 2


@dataclass(frozen=True)
class Camera:
    """Look of one data set. Ranges are uniform; lengths are shares of the frame's height.

    size: height and width of a frame in pixels. field: radius of the visible circle.
    offset: distance of the disc from the middle of the frame, to the left or the right.
    disc, cup_to_disc: diameters, the cup's as a share of the disc's. stretch: height / width.
    outline: irregularity of disc and cup. cup_edge, disc_edge: softness as a share of the radius.
    cup_contrast: 1 shows the full cup colour, 0 that of the rim. vessels: number of main vessels.
    gradient, halo: strength of uneven light across the frame and beside the disc.
    blur: Gaussian sigma in px. noise: standard deviation in grey values.
    haze, atrophy, exudates, haemorrhages: probabilities; atrophy_width: in disc radii.
    """

    name: str
    size: tuple[int, int]
    field: float
    offset: Range
    disc: Range
    cup_to_disc: Range
    stretch: Range = (1.0, 1.15)
    cup_stretch: Range = (0.9, 1.1)
    outline: float = 0.02
    disc_edge: float = 0.06
    cup_edge: Range = (0.10, 0.16)
    cup_contrast: Range = (0.9, 1.1)
    retina_colour: Colour = (188, 92, 44)
    disc_colour: Colour = (226, 150, 92)
    cup_colour: Colour = (246, 208, 158)
    vessels: tuple[int, int] = (9, 12)
    vessel_depth: Range = (0.38, 0.52)
    vignetting: float = 0.25
    gradient: float = 0.06
    halo: float = 0.0
    blur: Range = (0.4, 0.7)
    noise: float = 3.0
    haze: float = 0.0
    atrophy: float = 0.1
    atrophy_width: Range = (0.15, 0.35)
    exudates: float = 0.05
    haemorrhages: float = 0.05


REFUGE = Camera(
    "refuge", size=(248, 256), field=0.49, offset=(0.18, 0.26),
    disc=(0.155, 0.195), cup_to_disc=(0.35, 0.65),
)  # fmt: skip
RIMONE_R3 = Camera(
    "rimone_r3", size=(178, 134), field=0.9, offset=(0.0, 0.04),
    disc=(0.22, 0.30), cup_to_disc=(0.5, 0.85), cup_stretch=(1.0, 1.2), outline=0.04,
    cup_edge=(0.10, 0.20), cup_contrast=(0.65, 1.0), retina_colour=(176, 70, 38),
    disc_colour=(222, 138, 88), cup_colour=(238, 190, 140), vessels=(11, 15),
    vignetting=0.15, gradient=0.18, halo=0.45, blur=(0.6, 1.0), noise=4.0, haze=0.4,
    atrophy=0.5, exudates=0.1,
)  # fmt: skip
RIMONE_DL = Camera(
    "rimone_dl", size=(128, 128), field=0.9, offset=(0.0, 0.02),
    disc=(0.42, 0.56), cup_to_disc=(0.4, 0.8), cup_stretch=(1.0, 1.25), outline=0.04,
    cup_edge=(0.10, 0.20), cup_contrast=(0.65, 1.0), retina_colour=(182, 74, 42),
    gradient=0.2, halo=0.4, blur=(0.6, 1.2), noise=4.0, haze=0.3, atrophy=0.4,
)  # fmt: skip
DRISHTI = Camera(
    "drishti", size=(220, 256), field=0.56, offset=(0.0, 0.05),
    disc=(0.18, 0.24), cup_to_disc=(0.5, 0.85), stretch=(1.0, 1.1), outline=0.03,
    cup_edge=(0.10, 0.20), cup_contrast=(0.65, 1.0), retina_colour=(160, 84, 50),
    disc_colour=(214, 146, 96), cup_colour=(232, 202, 160), vessels=(8, 12),
    vignetting=0.4, gradient=0.15, halo=0.35, blur=(0.5, 0.9), noise=3.0, haze=0.3,
    atrophy=0.35,
)  # fmt: skip


def frame(camera: Camera, *key: int | str) -> tuple[np.ndarray, np.ndarray]:
    """One eye: image uint8 (H, W, 3) and label uint8 (H, W), 1 rim, 2 cup; the key decides all."""
    rng = generator("phantom", camera.name, *key)
    height, width = camera.size
    rows, columns = np.ogrid[0.0:height, 0.0:width]
    rows, columns = rows.astype(np.float32), columns.astype(np.float32)
    middle = (height / 2, width / 2)
    side = rng.choice((-1.0, 1.0))  # +1: the disc lies right of the macula
    centre = (
        middle[0] + 0.04 * height * rng.uniform(-1, 1),
        middle[1] + side * height * rng.uniform(*camera.offset),
    )
    radius = height * rng.uniform(*camera.disc) / 2

    image = np.empty((height, width, 3), np.float32)
    grain = 0.05 * _smooth(rng, camera.size, 9) + 0.03 * _smooth(rng, camera.size, 40)
    fovea = (centre[0] + 0.1 * radius, centre[1] - side * 4.6 * radius)
    grain -= 0.35 * _bump(rows, columns, fovea, 1.3 * radius)
    image[:] = _colour(rng, camera.retina_colour) * (1 + grain)[..., None]
    label = np.zeros(camera.size, np.uint8)
    _nerve_head(rng, camera, image, label, centre, radius, side)
    tree = _vessels(rng, camera, centre, radius, side)
    depth = np.float32(rng.uniform(*camera.vessel_depth)) * np.array([0.5, 1, 0.9], np.float32)
    image *= 1 - tree[..., None] * depth
    _lesions(rng, camera, image, centre, radius)

    light = 1 - camera.vignetting / 2 * _squared(rows, columns, middle, height / 2)
    light += camera.gradient * _smooth(rng, camera.size, 2)
    if camera.halo:
        angle = rng.uniform(0, 2 * np.pi)
        spot = (centre[0] + radius * np.sin(angle), centre[1] + radius * np.cos(angle))
        strength = camera.halo * rng.uniform(-1, 1)
        light += np.float32(strength) * _bump(rows, columns, spot, 1.1 * radius)
    image *= np.clip(light, 0.3, 1.6)[..., None]
    if rng.random() < camera.haze:
        veil = np.clip(0.3 + 0.12 * _smooth(rng, camera.size, 3), 0, 0.6) * rng.uniform(0.5, 1)
        tone = 0.8 * image.mean(dtype=float) + np.array((30, 12, 6))
        _blend(image, tone, veil)
    image += camera.noise * rng.standard_normal(image.shape, np.float32)
    sigma = rng.uniform(*camera.blur)
    for channel in range(3):
        image[..., channel] = blurred(image[..., channel], sigma)
    image[_squared(rows, columns, middle, camera.field * height) > 1] = 0
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), label


def blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    """Smooth (H, W) by a Gaussian of `sigma` pixels, cut at three of them."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(values, sigma, truncate=3)


def _nerve_head(
    rng: np.random.Generator,
    camera: Camera,
    image: np.ndarray,
    label: np.ndarray,
    centre: tuple[float, float],
    radius: float,
    side: float,
) -> None:
    """Paint atrophy, disc and cup around `centre` and mark them in `label`, in place."""
    reach = 2 * radius
    window = tuple(
        slice(max(0, int(middle - reach)), min(length, int(middle + reach) + 1))
        for middle, length in zip(centre, camera.size, strict=True)
    )
    rows, columns = (grid.astype(np.float32) for grid in np.ogrid[window])
    disc, away = _ellipse(rng, rows, columns, centre, radius, camera.stretch, camera.outline)
    ratio = rng.uniform(*camera.cup_to_disc)
    slack = (1 - ratio) * radius
    cup_centre = (
        centre[0] + 0.15 * slack * rng.uniform(-1, 1),
        centre[1] - side * slack * rng.uniform(0, 0.35),  # cups sit towards the macula
    )
    cup, _ = _ellipse(
        rng, rows, columns, cup_centre, ratio * radius, camera.cup_stretch, 1.5 * camera.outline
    )
    cup = np.maximum(cup, disc + 0.04)  # a cup ends inside its disc
    label[window] = np.where(cup <= 0, CUP, np.where(disc <= 0, RIM, 0))

    patch = image[window]
    if rng.random() < camera.atrophy:
        edge = rng.uniform(*camera.atrophy_width)
        lean = 0.6 - 0.4 * side * np.cos(away)  # the temporal side first
        ragged = 0.06 * _smooth(rng, disc.shape, 8)
        pale = 0.6 * np.asarray(camera.disc_colour) + 0.4 * np.asarray(camera.retina_colour)
        ring = _inside(disc - edge * lean - ragged, 0.07)
        _blend(patch, 1.04 * pale, ring * rng.uniform(0.6, 0.95))
    disc_tone = _colour(rng, camera.disc_colour)
    _blend(patch, disc_tone, _inside(disc, camera.disc_edge))
    contrast = rng.uniform(*camera.cup_contrast)
    cup_tone = disc_tone + contrast * (np.asarray(camera.cup_colour) - camera.disc_colour)
    _blend(patch, cup_tone, _inside(cup, rng.uniform(*camera.cup_edge)))


def _colour(rng: np.random.Generator, mean: Colour) -> np.ndarray:
    """`mean` as it varies from eye to eye, float (3,)."""
    tone = np.asarray(mean) * rng.normal(1, 0.05) * rng.normal(1, 0.025, 3)
    return tone.astype(np.float32)


def _ellipse(
    rng: np.random.Generator,
    rows: np.ndarray,
    columns: np.ndarray,
    centre: tuple[float, float],
    radius: float,
    stretch: Range,
    outline: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Distance to an irregular ellipse in radii, negative inside, and the angle, both (H, W)."""
    tall = np.sqrt(rng.uniform(*stretch))
    tilt = rng.normal(0, 0.15)
    y, x = rows - centre[0], columns - centre[1]
    u = (x * np.cos(tilt) + y * np.sin(tilt)) * (tall / radius)
    v = (y * np.cos(tilt) - x * np.sin(tilt)) / (tall * radius)
    angle = np.arctan2(v, u)
    border = np.ones_like(angle)
    for order in (2, 3, 4):
        phase = rng.uniform(0, 2 * np.pi)
        border += np.float32(2 * outline / order * rng.normal()) * np.cos(order * angle + phase)
    return np.hypot(u, v) / border - 1, angle


def _inside(distance: np.ndarray, softness: float) -> np.ndarray:
    """1 inside, 0 outside, one half on the border."""
    return 1 / (1 + np.exp(np.clip(distance / np.float32(0.4 * softness), -20, 20)))


def _squared(
    rows: np.ndarray, columns: np.ndarray, centre: tuple[float, float], scale: float
) -> np.ndarray:
    """Squared distance from `centre` in units of `scale`."""
    return ((rows - centre[0]) / scale) ** 2 + ((columns - centre[1]) / scale) ** 2


def _bump(
    rows: np.ndarray, columns: np.ndarray, centre: tuple[float, float], sigma: float
) -> np.ndarray:
    """Gaussian hill of height 1."""
    return np.exp(-_squared(rows, columns, centre, sigma) / 2)


def _smooth(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """A smooth random field (H, W) of about unit variance with `cells` cells along the height."""
    height, width = size
    coarse = rng.standard_normal((cells + 1, max(2, cells * width // height + 1)), np.float32)
    resized = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized) * np.float32(1.3)


def _blend(image: np.ndarray, colour: np.ndarray, share: np.ndarray) -> None:
    """Mix `colour` (3,) into the image by `share` (H, W), in place."""
    image += share[..., None].astype(np.float32) * (colour.astype(np.float32) - image)


def _vessels(
    rng: np.random.Generator,
    camera: Camera,
    centre: tuple[float, float],
    radius: float,
    side: float,
) -> np.ndarray:
    """Darkness of the vessel tree, (H, W) in 0..1: arcades that leave the disc and branch."""
    zoom = 2
    canvas = Image.new("L", (camera.size[1] * zoom, camera.size[0] * zoom))
    draw = ImageDraw.Draw(canvas)

    def grow(start: np.ndarray, heading: float, bend: float, width: float, steps: int) -> None:
        turns = heading + bend * np.arange(steps) / steps + np.cumsum(rng.normal(0, 0.12, steps))
        leaps = 0.38 * radius * np.stack([np.cos(turns), np.sin(turns)], 1)
        path = np.vstack([start, start + np.cumsum(leaps, 0)])
        points = [tuple(point) for point in (zoom * path).tolist()]
        shade = int(rng.uniform(170, 255))
        for k in range(0, steps, 4):  # it thins every four steps
            pixels = max(1, round(zoom * width * (1 - 0.55 * k / steps)))
            draw.line(points[k : k + 5], fill=shade, width=pixels)
        if width > 0.07 * radius:
            for k in rng.integers(2, steps, size=2):
                turn = float(turns[k] + rng.choice((-1, 1)) * rng.uniform(0.4, 0.9))
                grow(path[k], turn, 0.3 * bend, 0.55 * width, steps // 2)

    for k in range(rng.integers(*camera.vessels, endpoint=True)):
        up = -1.0 if k % 2 else 1.0
        heading = up * (np.pi / 2 + rng.normal(0, 0.5))
        bend = side * up * rng.uniform(0.2, 1.3)  # arcades bow around the macula
        hub = np.array([centre[1], centre[0]]) + radius * rng.normal((0.15 * side, 0), 0.12)
        grow(hub, heading, bend, radius * rng.uniform(0.06, 0.16), 26)
    tree = np.asarray(canvas.reduce(zoom), np.float32) / 255
    return blurred(tree, 0.5)


def _lesions(
    rng: np.random.Generator,
    camera: Camera,
    image: np.ndarray,
    centre: tuple[float, float],
    radius: float,
) -> None:
    """Paint clusters of bright exudates and dark haemorrhages away from the disc, in place."""
    kinds = (
        (camera.exudates, (236.0, 206.0, 120.0), 0.10, 14),
        (camera.haemorrhages, (96.0, 26.0, 18.0), 0.22, 4),
    )
    height, width = camera.size
    for chance, colour, size, most in kinds:
        if rng.random() >= chance:
            continue
        canvas = Image.new("L", (width, height))
        draw = ImageDraw.Draw(canvas)
        hub = rng.uniform(0.25, 0.75, 2) * (width, height)
        for x, y in rng.normal(hub, 1.6 * radius, (rng.integers(3, most), 2)):
            if np.hypot(y - centre[0], x - centre[1]) < 1.3 * radius:
                continue
            half = radius * size * rng.uniform(0.5, 1.5, 2)
            draw.ellipse((x - half[0], y - half[1], x + half[0], y + half[1]), fill=255)
        spots = blurred(np.asarray(canvas, np.float32) / 255, 0.7)
        _blend(image, np.asarray(colour), 0.8 * spots)
