"""Draw docs/phantoms-fundus.png: synthetic eyes as three cameras see them, disc and cup outlined.

python docs/phantoms_fundus.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from sfdabench.datasets.drishti import Drishti
from sfdabench.datasets.refuge import Refuge
from sfdabench.datasets.rimone_r3 import RimOneR3
from sfdabench.phantoms import fundus
from sfdabench.prepare.disc_region import centre_from_label, crop_box

TILE, COLUMNS, MARGIN = 112, 6, 16
ROWS = ((fundus.REFUGE, Refuge), (fundus.RIMONE_R3, RimOneR3), (fundus.DRISHTI, Drishti))


def tile(image: np.ndarray, label: np.ndarray, share: float, outlined: bool) -> Image.Image:
    """The disc crop, enlarged; the borders of disc (white) and cup (blue) where asked for."""
    side = round(share * len(label))
    top, left, side = crop_box(*label.shape, centre_from_label(label), side)
    box = (left, top, left + side, top + side)
    crop = Image.fromarray(image).crop(box).resize((TILE, TILE), Image.Resampling.BICUBIC)
    if not outlined:
        return crop
    pixels = np.array(crop)
    labels = Image.fromarray(label).crop(box).resize((TILE, TILE), Image.Resampling.NEAREST)
    for value, colour in ((fundus.RIM, (255, 255, 255)), (fundus.CUP, (40, 90, 255))):
        mask = np.asarray(labels) >= value
        inner = mask & np.roll(mask, 1, 0) & np.roll(mask, 1, 1)
        pixels[mask & ~(inner & np.roll(mask, -1, 0) & np.roll(mask, -1, 1))] = colour
    return Image.fromarray(pixels)


def sheet() -> Image.Image:
    """One row a data set: a frame, four crops, and the last of them with its labels."""
    page = Image.new("RGB", (COLUMNS * TILE, len(ROWS) * (TILE + MARGIN)), "white")
    draw = ImageDraw.Draw(page)
    for row, (camera, dataset) in enumerate(ROWS):
        top = row * (TILE + MARGIN)
        share = dataset.frame_crop or 1.0
        draw.text((2, top + 2), f"{dataset.card.title} phantom: frame, disc crops, labels", "black")
        eyes = [fundus.frame(camera, "sheet", i) for i in range(COLUMNS - 1)]
        whole = Image.fromarray(eyes[0][0])
        whole.thumbnail((TILE, TILE))
        page.paste(whole, ((TILE - whole.width) // 2, top + MARGIN))
        for i, (image, label) in enumerate([*eyes[:4], eyes[3]]):
            part = tile(image, label, share, outlined=i == 4)
            page.paste(part, ((i + 1) * TILE, top + MARGIN))
    return page


if __name__ == "__main__":
    sheet().save(Path(__file__).with_name("phantoms-fundus.png"), optimize=True)
