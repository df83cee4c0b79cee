"""Time `sfdabench.evaluate.metrics.compare` against MedPy and MONAI on the same masks.

Usage: python benchmarks/speed/metrics.py [--rounds 7] [--out benchmarks/speed/results/metrics.csv]

Each round lets every tool score every pair of a workload in turn, so that a drifting machine
slows all of them alike; the ratios are medians over the rounds.
"""

import argparse
import csv
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from medpy.metric import binary
from monai.metrics import compute_average_surface_distance, compute_dice
from monai.metrics import compute_hausdorff_distance as compute_hausdorff

from sfdabench.evaluate.metrics import Mask, compare

Pair = tuple[Mask, Mask, tuple[float, ...] | None]
TARGETS = {"disc/cup 512x512": 100, "blob 128x128": 30}  # times MedPy; 100 for organs too
MONAI_TARGET = 15
RATIOS = ["medpy_over_ours", "monai_over_ours"]


def star(
    shape: tuple[int, ...], centre: np.ndarray, radii: np.ndarray, waves: dict[int, float]
) -> Mask:
    """An ellipsoid with bumps: `waves` maps the seed of a few random waves to their height."""
    axes = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij", sparse=True)
    unit = [(axis - c) / r for axis, c, r in zip(axes, centre, radii, strict=True)]
    radius = np.sqrt(sum(u * u for u in unit))
    level = np.ones(shape)
    for seed, height in waves.items():
        rng = np.random.default_rng(seed)
        for _ in range(6):
            wave = rng.normal(0, 3, len(shape))
            phase = sum(k * u for k, u in zip(wave, unit, strict=True)) / np.maximum(radius, 1e-6)
            level += height * np.sin(phase + rng.uniform(0, 2 * np.pi))
    return radius <= level


def pair(shape: tuple[int, ...], radii: tuple[int, ...], shift: float, seed: int) -> list[Mask]:
    """A prediction and its reference, Dice about 0.9: shifted, scaled, with other bumps."""
    rng = np.random.default_rng(seed)
    centre = np.array(shape) / 2 + rng.uniform(-0.05, 0.05, len(shape)) * shape
    reference = star(shape, centre, np.array(radii), {seed: 0.06})
    size = np.array(radii) * rng.uniform(0.95, 1.05)
    prediction = star(
        shape, centre + rng.normal(0, shift, len(shape)), size, {seed: 0.06, seed + 100: 0.03}
    )
    if seed % 3 == 2:  # a false island of a few voxels
        prediction[tuple(slice(n // 8, n // 8 + 4) for n in shape)] = True
    return [prediction, reference]


def workloads() -> dict[str, list[Pair]]:
    """Pairs of masks of the sizes that the benchmark's tasks have."""
    discs = [pair((512, 512), [(155, 140), (80, 72)][k % 2], 4.0, k) for k in range(12)]
    blobs = [pair((128, 128), [(30, 26), (18, 16)][k % 2], 1.0, k) for k in range(30)]
    organs = [pair((60, 256, 256), (20, 62, 55), 1.5, k) for k in range(3)]
    turned = [[mask.transpose(1, 2, 0).copy() for mask in masks] for masks in organs]
    return {
        "disc/cup 512x512": [(p, r, None) for p, r in discs],
        "blob 128x128": [(p, r, None) for p, r in blobs],
        "organ 60x256x256": [(p, r, (3.0, 1.25, 1.25)) for p, r in organs],
        "organ 256x256x60": [(p, r, (1.25, 1.25, 3.0)) for p, r in turned],
    }


def score_medpy(pairs: list[Pair]) -> None:
    """Score by the four calls of MedPy."""
    for p, r, spacing in pairs:
        binary.dc(p, r)
        for metric in (binary.hd, binary.hd95, binary.assd):
            metric(p, r, voxelspacing=spacing)


def score_monai(pairs: list[Pair]) -> None:
    """Score by the same four metrics of MONAI."""
    for prediction, reference, spacing in pairs:
        p, r = (torch.from_numpy(mask)[None, None].float() for mask in (prediction, reference))
        compute_dice(p, r)
        compute_hausdorff(p, r, include_background=True, spacing=spacing)
        compute_hausdorff(p, r, include_background=True, percentile=95, spacing=spacing)
        compute_average_surface_distance(
            p, r, include_background=True, symmetric=True, spacing=spacing
        )


def score_ours(pairs: list[Pair]) -> None:
    """Score by `compare`, which gives these four and six more."""
    for p, r, spacing in pairs:
        compare(p, r, spacing=spacing)


def milliseconds(score: Callable[[list[Pair]], None], pairs: list[Pair]) -> float:
    """Wall time that a tool takes for one pair."""
    start = time.perf_counter()
    score(pairs)
    return 1e3 * (time.perf_counter() - start) / len(pairs)


def main() -> None:
    """Measure, print a table and write it with what it was measured on."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds over the 3D workloads")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/metrics.csv")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    tools = (score_ours, score_medpy, score_monai)
    rows = []
    print("| workload | ours, ms | MedPy, ms | MONAI, ms | MedPy / ours | MONAI / ours |")
    print("|---|---|---|---|---|---|")
    for name, pairs in workloads().items():
        for score in tools:
            score(pairs if score is score_ours else pairs[:1])
        rounds = options.rounds if name.startswith("organ") else 10 * options.rounds
        times = np.array([[milliseconds(t, pairs) for t in tools] for _ in range(rounds)])
        ours, medpy, monai = np.median(times, axis=0)
        to_medpy, to_monai = np.median(times[:, 1:] / times[:, :1], axis=0)
        print(
            f"| {name} | {ours:.3f} | {medpy:.2f} | {monai:.2f} | {to_medpy:.0f} | {to_monai:.0f} |"
        )
        if to_medpy < TARGETS.get(name, 100) or to_monai < MONAI_TARGET:
            print(f"{name}: below its target", file=sys.stderr)
        numbers = (f"{number:.4g}" for number in (ours, medpy, monai, to_medpy, to_monai))
        rows.append([name, len(pairs), rounds, *numbers])

    packages = ("numpy", "scipy", "medpy", "monai", "torch")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w", newline="") as file:
        file.write(f"# command: python {shlex.join(sys.argv)}\n")
        file.write(f"# python {sys.version.split()[0]}, ")
        file.write(", ".join(f"{package} {version(package)}" for package in packages) + "\n")
        file.write(f"# cores: {os.cpu_count()}, torch threads: {torch.get_num_threads()}, ")
        file.write(f"OMP_NUM_THREADS: {os.environ.get('OMP_NUM_THREADS', 'unset')}\n")
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["workload", "pairs", "rounds", "ours_ms", "medpy_ms", "monai_ms", *RATIOS])
        table.writerows(rows)


if __name__ == "__main__":
    main()
