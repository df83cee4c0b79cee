"""Time, memory and disk of preparing BraTS at its full geometry, and how they grow with its cases.

    python benchmarks/speed/prepare.py                # draws 40 phantom patients first, in minutes

Patients are synthetic, 155 x 240 x 240 voxels, four modalities and a mask, gzipped as released.
Each count is prepared by a process of its own into an empty cache, as `hgg2lgg` does for its
target: all planes that show the brain, four channels of 128 x 128. `base_mb` is what the process
takes before the first case; gzip and Pillow work in threads, one a core.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
SHAPE = (155, 240, 240)
LEAST = 20  # patients below which a split of a grade has none


def draw(root: Path, count: int) -> None:
    """Write patients in the authors' layout, full size."""
    import numpy as np

    from sfdabench.formats.volumes import original, write_nifti
    from sfdabench.phantoms import brain

    affine = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
    for i in range(count):
        grade = ("LGG", "HGG")[i % 2]
        images, label = brain.patient(grade, SHAPE, "speed", i)
        name = f"Brats18_TCIA09_{i + 101}_1"
        volumes = dict(zip(("t1", "t1ce", "t2", "flair"), images, strict=True), seg=label)
        for suffix, volume in volumes.items():
            kind = np.uint8 if suffix == "seg" else np.int16
            values = original(np.rint(volume).astype(kind), affine)
            write_nifti(root / grade / name / f"{name}_{suffix}.nii.gz", values, affine)
        print(f"drew {i + 1} of {count}", flush=True)


def measure(root: Path, count: int) -> dict[str, float]:
    """Prepare the first cases in this process."""
    import resource

    from sfdabench.core import registry
    from sfdabench.prepare.arrays import prepare
    from sfdabench.prepare.preparation import Preparation

    task = registry.load("tasks", "hgg2lgg")
    how = Preparation.of(task, task.target, task.profiles["paper"].size, "target")
    dataset = registry.load("datasets", "brats2018")()
    cases = dataset.cases(root)[:count]
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory(dir=root.parent) as cache:
        start, cpu = time.perf_counter(), time.process_time()
        made = prepare(
            dataset,
            "brats2018",
            cases,
            how,
            content="speed",
            code={},
            cache=Path(cache),
            report=print,
        )
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        size = sum(path.stat().st_size for folder in made.folders for path in folder.iterdir())
    return {
        "cases": count,
        "planes": made.planes,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "seconds_a_case": round(seconds / count, 2),
        "base_mb": round(base),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "disk_mb": round(size / 1e6),
    }


def main() -> None:
    """Draw, measure each count, print, and write results/prepare.csv."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[5, 10, 20, 40])
    parser.add_argument("--root", type=Path, help="Keep the drawn patients here, or find them.")
    parser.add_argument("--out", type=Path, default=RESULTS / "prepare.csv")
    parser.add_argument("--draw", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.draw:
        draw(arguments.root, arguments.draw)
        return
    if arguments.measure:
        print(json.dumps(measure(arguments.root, arguments.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        root = arguments.root or Path(folder) / "brats"
        command = [sys.executable, __file__, "--root", str(root)]
        if not root.exists():  # in a process of its own: the peak of a parent is inherited
            most = max(LEAST, *arguments.counts)
            subprocess.run([*command, "--draw", str(most)], check=True)
        rows = []
        for count in arguments.counts:
            measured = [*command, "--measure", str(count)]
            out = subprocess.run(measured, check=True, text=True, stdout=subprocess.PIPE).stdout
            rows.append(json.loads(out.splitlines()[-1]))
            print(rows[-1], flush=True)
    with arguments.out.open("w", encoding="utf-8", newline="") as file:
        file.write(
            f"# python benchmarks/speed/prepare.py; {platform.machine()}, {os.cpu_count()} cores\n"
        )
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
