"""Draw docs/tasks.png: every task's phantom as its network sees it, source beside target.

python docs/draw_tasks.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sfdabench.core import registry
from sfdabench.core.paths import cache_root
from sfdabench.core.progress import Progress
from sfdabench.core.task import Task
from sfdabench.prepare.arrays import Prepared
from sfdabench.run.plan import resolve

TILE, GAP, HEAD, COLUMNS = 128, 6, 54, 2
# Okabe and Ito's colours, which colour-blind readers can tell apart
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66))
FONT, SMALL = ImageFont.load_default(13), ImageFont.load_default(11)


def tiles(prepared: Prepared, task: Task) -> tuple[Image.Image, Image.Image]:
    """The plane with the most classes and foreground: plain, and with the classes outlined."""
    labels = np.asarray(prepared.labels())
    classes = list(task.classes.values())
    present = sum(np.isin(labels, values).any(axis=(1, 2)).astype(int) for values in classes)
    k = int(np.argmax(present * 1e6 + (labels > 0).sum(axis=(1, 2))))
    image = np.asarray(prepared.images()[k], np.float32)
    if len(image) != 3:  # several modalities: the last one, T2-FLAIR for the brain
        image = image[-1:].repeat(3, axis=0)
    low, high = np.percentile(image, (0.5, 99.5)) if image.max() < 200 else (0, 255)
    grey = np.clip((image - low) / max(high - low, 1e-6) * 255, 0, 255).astype(np.uint8)
    plain = Image.fromarray(grey.transpose(1, 2, 0)).resize((TILE, TILE), Image.Resampling.BICUBIC)
    outlined = np.array(plain)
    order = sorted(range(len(classes)), key=lambda i: -len(classes[i]))
    for i in order:
        small = Image.fromarray(np.isin(labels[k], classes[i]).astype(np.uint8) * 255)
        mask = np.asarray(small.resize((TILE, TILE), Image.Resampling.BILINEAR)) > 127
        inner = mask.copy()
        for axis in (0, 1):
            inner &= np.roll(mask, 1, axis) & np.roll(mask, -1, axis)
        outlined[mask & ~inner] = PALETTE[i]
    return plain, Image.fromarray(outlined)


def panel(name: str, cache: Path) -> Image.Image:
    """One task: title, source and target, each without and with outlines, and the legend."""
    task: Task = registry.load("tasks", name)
    with tempfile.TemporaryDirectory() as out:
        run = resolve(
            method="source_only",
            task=name,
            seed=0,
            data=None,
            out=Path(out),
            profile="phantom",
            device="cpu",
            progress=Progress(quiet=True),
        )
    page = Image.new("RGB", (4 * TILE + 5 * GAP, HEAD + TILE + GAP), "white")
    draw = ImageDraw.Draw(page)
    draw.text((GAP, 2), f"{name}: {task.title}".replace("→", "to"), "black", FONT)
    left = GAP
    for i, label in enumerate(task.classes):
        draw.rectangle((left, 24, left + 9, 33), fill=PALETTE[i], outline="black")
        draw.text((left + 13, 21), label, "black", SMALL)
        left += 28 + int(draw.textlength(label, SMALL))
    split = run.source_train[0]
    for i, (role, part) in enumerate((("source", split), ("target", run.target_test))):
        x = GAP + i * 2 * (TILE + GAP)
        draw.text((x, 38), f"{role}: {part.dataset.card.title}", "black", SMALL)
        for k, tile in enumerate(tiles(part.arrays(cache, Progress(quiet=True), "picture"), task)):
            page.paste(tile, (x + k * (TILE + GAP), HEAD))
    return page


def sheet() -> Image.Image:
    """Every task, two side by side."""
    cache = cache_root()
    panels = [panel(name, cache) for name in registry.names("tasks")]
    width, height = panels[0].size
    rows = -(-len(panels) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * width, rows * height), "white")
    for i, part in enumerate(panels):
        page.paste(part, (i % COLUMNS * width, i // COLUMNS * height))
    return page


if __name__ == "__main__":
    sheet().save(Path(__file__).with_name("tasks.png"), optimize=True)
