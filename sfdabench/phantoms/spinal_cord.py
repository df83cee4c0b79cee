"""Synthetic axial slices of the cervical cord: one subject per key, at a site, seen by raters.

The sites differ in what a network could lean on besides the butterfly's shape: whether fluid
outshines grey matter, how fine the grain is, where the cord lies, how bright muscle is. Scale and
offset alone would not do, as slices are standardised before they are learnt from.
Axes are (D, H, W): from inferior to superior, anterior to posterior, the patient's right to left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from sfdabench.core.seeding import generator

Range = tuple[float, float]
GREY, WHITE = 1, 2
TONES = ("grey", "fluid", "muscle", "bone", "fat", "vessel", "noise")
# Millimetres by which a rater draws grey matter and cord too wide; the fourth is biased.
RATERS = ((0.0, 0.0), (0.06, -0.05), (-0.06, 0.05), (0.30, 0.15))
WOBBLE = 0.10  # mm, deviation of a rater's hand


@dataclass(frozen=True)
class Site:
    """Look of one site. Ranges are uniform; lengths in mm; signals relative to white matter, 1.

    axes: order and direction of the file's axes, as in "LPS". spacing: a step of (D, H, W).
    offset: how far the cord lies off the middle of the slice. cord: half width. grey, fluid: what
    grey matter and cerebrospinal fluid have beyond white matter. muscle, bone, fat, vessel: their
    signals. blur: Gaussian sigma. noise: its deviation; grain: sigma of its smoothing in pixels.
    scale: scanner units of white matter. bias: strength of uneven sensitivity. ghost: that of a
    shifted copy.
    """

    name: str
    axes: str
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    offset: float
    cord: Range
    grey: Range
    fluid: Range
    muscle: Range
    bone: Range
    blur: float
    noise: Range
    scale: Range
    fat: Range = (0.9, 1.3)
    vessel: Range = (1.4, 2.2)
    grain: float = 0.0
    bias: float = 0.08
    ghost: float = 0.0

    @property
    def affine(self) -> np.ndarray:
        """Of the files, to RAS+ mm."""
        world = np.zeros((4, 4))
        for column, code in enumerate(self.axes):
            row = next(i for i, pair in enumerate(("RL", "AP", "SI")) if code in pair)
            world[row, column] = self.spacing[2 - row] * (1 if code in "RAS" else -1)
        world[:, 3] = (-28.0, 35.0, -61.0, 1.0)
        return world


SITES = {
    1: Site(
        "site1", "LPS", shape=(3, 116, 116), spacing=(5.0, 0.5, 0.5), offset=1.0,
        cord=(6.2, 7.2), grey=(0.32, 0.42), fluid=(0.75, 1.1), muscle=(0.55, 0.75),
        bone=(0.30, 0.45), blur=0.30, noise=(0.03, 0.05), scale=(180, 320),
    ),
    2: Site(
        "site2", "RAS", shape=(4, 120, 120), spacing=(5.0, 0.5, 0.5), offset=1.5,
        cord=(6.0, 7.0), grey=(0.28, 0.38), fluid=(0.5, 0.8), muscle=(0.60, 0.85),
        bone=(0.35, 0.55), blur=0.35, noise=(0.04, 0.06), scale=(500, 900), bias=0.12,
    ),
    3: Site(
        "site3", "RPI", shape=(3, 228, 228), spacing=(2.5, 0.25, 0.25), offset=2.0,
        cord=(6.0, 7.2), grey=(0.17, 0.25), fluid=(0.05, 0.30), muscle=(0.70, 0.95),
        bone=(0.35, 0.60), blur=0.30, noise=(0.06, 0.10), scale=(90, 200), bias=0.15,
    ),
    4: Site(
        "site4", "SAL", shape=(3, 188, 200), spacing=(7.5, 0.3, 0.3), offset=4.0,
        cord=(5.4, 6.6), grey=(0.19, 0.27), fluid=(-0.12, 0.10), muscle=(0.90, 1.15),
        bone=(0.50, 0.75), blur=0.40, noise=(0.035, 0.06), scale=(1200, 2600), grain=0.8,
        bias=0.12, ghost=0.05,
    ),
}  # fmt: skip


def subject(site: Site, *key: int | str, raters: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """One neck: image float32 (D, H, W) >= 0 and label maps uint8 (raters, D, H, W).

    The key decides all; the image is the same for any number of raters, four at most.
    """
    rng = generator("phantom", "cord", site.name, *key)
    hands = [generator("phantom", "cord", site.name, *key, "rater", i) for i in range(raters)]
    tones = {name: rng.uniform(*getattr(site, name)) for name in TONES}
    half = rng.uniform(*site.cord)
    flat, swelling = rng.uniform(0.56, 0.68), rng.uniform(-1, 1)
    middle = rng.uniform(-site.offset, site.offset, 2)
    tilt = rng.normal(0, 0.06)
    image = np.empty(site.shape, np.float32)
    masks = np.zeros((raters, *site.shape), np.uint8)
    for k in range(site.shape[0]):
        middle = middle + rng.normal(0, 0.15, 2)
        y, x = _grid(site, middle, tilt)
        wide = half * (1 + 0.06 * np.cos(swelling + 0.04 * k * site.spacing[0]))
        white = _ellipse(y, x, (0, 0), (flat * wide, wide)) + 0.2 * _smooth(rng, site, 5)
        grey = _butterfly(y, x, wide / 6.6) + 0.12 * _smooth(rng, site, 2)
        np.maximum(grey, white + 0.5, out=grey)  # white matter all around
        image[k] = _slice(rng, site, tones, y, x, grey, white)
        for mask, hand, habit in zip(masks, hands, RATERS[:raters], strict=True):
            mask[k] = _rated(hand, site, grey, white, habit)
    return np.maximum(image * np.float32(rng.uniform(*site.scale)), 0), masks


def _grid(site: Site, middle: np.ndarray, tilt: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (H, W) in mm from the middle of the cord, turned with it."""
    y, x = (
        ((np.arange(length) - (length - 1) / 2) * step - at).astype(np.float32)
        for length, step, at in zip(site.shape[1:], site.spacing[1:], middle, strict=True)
    )
    turn = np.float32(tilt)
    return y[:, None] - turn * x[None, :], x[None, :] + turn * y[:, None]


def _butterfly(y: np.ndarray, x: np.ndarray, size: float) -> np.ndarray:
    """Distance in mm to grey matter: two horns a side, joined across; negative inside."""
    side = np.abs(x)
    front = _capsule(y, side, (-0.5, 1.7), (-1.7, 2.5), 1.15, size)
    back = _capsule(y, side, (0.0, 1.6), (2.7, 3.2), 0.55, size)
    bridge = _capsule(y, side, (0.0, 0.0), (-0.1, 1.6), 0.45, size)
    return np.minimum(np.minimum(front, back), bridge)


def _capsule(
    y: np.ndarray,
    x: np.ndarray,
    start: tuple[float, float],
    end: tuple[float, float],
    radius: float,
    size: float,
) -> np.ndarray:
    """Distance in mm to the points within `radius` of a segment, all of them times `size`."""
    (v, u), (b, a) = np.multiply(start, size), np.subtract(end, start) * size
    dy, dx = y - np.float32(v), x - np.float32(u)
    along = np.clip((dy * np.float32(b) + dx * np.float32(a)) / np.float32(a * a + b * b), 0, 1)
    away = np.sqrt((dy - along * np.float32(b)) ** 2 + (dx - along * np.float32(a)) ** 2)
    return away - np.float32(radius * size)


def _ellipse(
    y: np.ndarray, x: np.ndarray, centre: tuple[float, float], radii: tuple[float, float]
) -> np.ndarray:
    """Distance to an ellipse, negative inside; mm at its flat sides, about so elsewhere."""
    v = (y - np.float32(centre[0])) / np.float32(radii[0])
    u = (x - np.float32(centre[1])) / np.float32(radii[1])
    return (np.sqrt(v * v + u * u) - 1) * np.float32(min(radii))


def _slice(
    rng: np.random.Generator,
    site: Site,
    tones: Mapping[str, float],
    y: np.ndarray,
    x: np.ndarray,
    grey: np.ndarray,
    white: np.ndarray,
) -> np.ndarray:
    """One slice (H, W) as the scanner shows it, without its scale."""
    side = np.abs(x)
    back = rng.normal(0, 0.4)
    image = tones["muscle"] * (1 + 0.10 * _smooth(rng, site, 4) + 0.06 * _smooth(rng, site, 1.5))
    planes = np.minimum(side, np.abs(side - 9 - 0.2 * y)) - 0.5  # fat between the muscles
    _lay(image, planes, 0.35, tones["fat"])
    _lay(image, _ellipse(y, x, (-32, 1), (9, 10)), 0.8, 0.08)  # airway
    bone = tones["bone"] * (1 + 0.15 * _smooth(rng, site, 1.2))
    body = _ellipse(y, x, (-16.5 + back, 0), (8.5, 11))
    arch = np.maximum(np.abs(_ellipse(y, x, (-1, 0), (11.5, 14.5))) - 2.0, -y)
    spine = _capsule(y, side, (12, 0), (24, 1.5), 2.0, 1)
    facet = _ellipse(y, side, (-2, 17), (5, 4.5))
    for shape in (body, arch, spine, facet):
        _lay(image, shape, 0.6, bone)
    for at in (-14.5, 14.5):
        _lay(image, _ellipse(y, x, (-9, at + rng.normal(0, 0.5)), (2, 2)), 0.5, tones["vessel"])
    canal = _ellipse(y, x, (rng.normal(0.3, 0.3), rng.normal(0, 0.3)), (7.2, 11.0))
    _lay(image, canal - 0.9, 0.4, 0.4 * tones["bone"])  # dura and ligaments
    fluid = 1 + tones["fluid"] * (1 + 0.12 * _smooth(rng, site, 3))
    _lay(image, canal, 0.4, fluid)
    for root in (-2.6, 3.0):
        nerve = _capsule(y, side, (root, 5.6), (1.3 * root, 10), 0.35, 1)
        _lay(image, nerve, 0.3, 0.9)
    _lay(image, white, 0.25, 1 + 0.03 * _smooth(rng, site, 1.5))
    cleft = _capsule(y, x, (-5, 0), (-1.6, 0), 0.2, 1)
    _lay(image, cleft, 0.25, 1 + 0.6 * tones["fluid"])
    _lay(image, grey, 0.2, 1 + tones["grey"])
    image = gaussian_filter(image, np.divide(site.blur, site.spacing[1:]), truncate=3)
    if site.ghost:
        image += np.float32(site.ghost) * np.roll(image, len(image) // 5, 0)
    image *= 1 + np.float32(site.bias) * _smooth(rng, site, 30)
    return image + np.float32(tones["noise"]) * _grain(rng, site)


def _lay(image: np.ndarray, distance: np.ndarray, edge: float, tone: np.ndarray | float) -> None:
    """Paint what is inside, in place, with a border of `edge` mm to either side."""
    share = np.clip(0.5 - distance / np.float32(2 * edge), 0, 1)
    image += share * (tone - image)


def _rated(
    hand: np.random.Generator,
    site: Site,
    grey: np.ndarray,
    white: np.ndarray,
    habit: tuple[float, float],
) -> np.ndarray:
    """What one rater draws, uint8 (H, W)."""
    more = habit + WOBBLE * hand.standard_normal(2)  # today, on this slice
    cord = white < more[1] + WOBBLE * _smooth(hand, site, 4)
    core = grey < more[0] + WOBBLE * _smooth(hand, site, 1.5)
    return np.where(cord, np.where(core, GREY, WHITE), 0).astype(np.uint8)


def _grain(rng: np.random.Generator, site: Site) -> np.ndarray:
    """Noise (H, W) of unit variance, smoothed where the site interpolates its images."""
    noise = rng.standard_normal(site.shape[1:], np.float32)
    if site.grain:
        noise = gaussian_filter(noise, site.grain, truncate=3)
        noise /= noise.std()
    return noise


def _smooth(rng: np.random.Generator, site: Site, cell: float) -> np.ndarray:
    """A smooth random field (H, W) of about unit variance with details of `cell` mm."""
    height, width = site.shape[1:]
    extent = np.multiply((height, width), site.spacing[1:])
    coarse = rng.standard_normal(np.ceil(extent / cell).astype(int) + 2, np.float32)
    resized = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized) * np.float32(1.3)
