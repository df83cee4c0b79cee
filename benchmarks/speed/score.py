"""Seconds to score one abdominal case: four organs in 256 x 256 x 60, all metrics, two protocols.

python benchmarks/speed/score.py
"""

from __future__ import annotations

import csv
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
SHAPE, SPACING = (60, 256, 256), (3.0, 1.3, 1.3)


def organs() -> tuple[np.ndarray, np.ndarray]:
    """Prediction and reference (4, D, H, W): ellipsoids of organ size, the prediction off by some
    voxels and with ragged borders.
    """
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    middles = ((35, 110, 85), (22, 150, 90), (22, 150, 170), (38, 130, 190))
    radii = ((18, 45, 50), (14, 17, 15), (14, 17, 15), (12, 25, 18))
    pairs = []
    for shift in ((1.0, 3.0, -2.0), (0.0, 0.0, 0.0)):
        masks = []
        for middle, radius in zip(middles, radii, strict=True):
            away = sum(
                ((grid - m - s) / r) ** 2
                for grid, m, s, r in zip((z, y, x), middle, shift, radius, strict=True)
            )
            masks.append(away + rng.normal(0, 0.03, SHAPE) < 1)
        pairs.append(np.stack(masks))
    return pairs[0], pairs[1]


def main() -> None:
    """Time `Tally.add` under strict (mm) and sifa (voxels), print, write results/score.csv."""
    from sfdabench.core import registry
    from sfdabench.evaluate.score import Tally

    prediction, reference = organs()
    names = ("liver", "right_kidney", "left_kidney", "spleen")
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        for name in ("strict", "sifa"):
            tally = Tally(registry.load("protocols", name), names)
            tally.add("case", prediction, reference, SPACING if name == "strict" else None)
        seconds.append(time.perf_counter() - start)
    dice = [s.value for s in tally.scores if s.metric == "dice"]
    row = {
        "shape": "x".join(map(str, SHAPE)),
        "organs": len(names),
        "protocols": "strict+sifa",
        "median_s": round(statistics.median(seconds), 3),
        "slowest_s": round(max(seconds), 3),
        "dice": " ".join(f"{value:.3f}" for value in dice if value is not None),
    }
    print(row)
    with (RESULTS / "score.csv").open("w", encoding="utf-8", newline="") as file:
        file.write(
            f"# python benchmarks/speed/score.py; {platform.machine()}, {os.cpu_count()} cores\n"
        )
        writer = csv.DictWriter(file, row, lineterminator="\n")
        writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
