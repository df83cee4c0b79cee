"""Share of a source training step that its input takes: reading a batch, its view, its masks.

    python benchmarks/speed/input.py                  # each task on its phantom, in minutes
    python benchmarks/speed/input.py --profile paper --batch 2 --tasks refuge2rimone

Arrays lie memory-mapped in the cache, as in a run; a step is forward, loss, backward and Adam of
the profile's network. Medians over the batches of some epochs.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"


def measure(task: str, profile: str, batch: int | None, steps: int) -> dict[str, float | str]:
    """Milliseconds of input and of the rest of a step, for one task."""
    import torch

    from sfdabench.core.progress import Progress
    from sfdabench.core.streams import Clock
    from sfdabench.models.segmenter import Segmenter
    from sfdabench.prepare import streams
    from sfdabench.primitives.losses import supervised_loss
    from sfdabench.primitives.views import SOURCE
    from sfdabench.run.plan import resolve
    from sfdabench.run.realise import initial_network

    with tempfile.TemporaryDirectory() as folder:
        run = resolve(
            method="source_only",
            task=task,
            seed=0,
            data=None,
            out=Path(folder),
            profile=profile,
            device="cpu",
        )
        quiet, clock = Progress(quiet=True), Clock()
        stream = streams.labelled(
            [split.arrays(run.cache, quiet, "source") for split in run.source_train],
            "source",
            run.device,
            run.seed,
            clock,
            tuple(run.task.classes.values()),
            background=run.task.head.exclusive,
        )
        model = Segmenter(initial_network(run.source, run.recipe.backbone_weights)).train()
        recipe = run.recipe
        optimiser = torch.optim.Adam(model.parameters(), recipe.learning_rate)
        spent: dict[str, list[float]] = {"input": [], "step": []}
        epoch = 0
        while len(spent["step"]) < steps:
            clock.start(0, epoch)
            epoch += 1
            batches = stream.pairs(batch or recipe.batch_size, SOURCE[recipe.augmentation])
            start = time.perf_counter()
            for images, masks in batches:
                ready = time.perf_counter()
                loss = supervised_loss(model(images), masks, run.task.head, recipe.loss)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                done = time.perf_counter()
                spent["input"].append(ready - start)
                spent["step"].append(done - ready)
                if len(spent["step"]) == steps:
                    break
                start = time.perf_counter()
        seen, rest = (statistics.median(spent[name][2:]) for name in ("input", "step"))
        return {
            "task": task,
            "profile": profile,
            "network": recipe.network,
            "size": recipe.size,
            "batch": batch or recipe.batch_size,
            "input_ms": round(1000 * seen, 2),
            "step_ms": round(1000 * rest, 2),
            "input_share": round(seen / (seen + rest), 4),
        }


def main() -> None:
    """Measure, print, and write results/input.csv."""
    from sfdabench.core import registry

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", nargs="+", default=registry.names("tasks"))
    parser.add_argument("--profile", default="phantom")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=22)
    parser.add_argument("--out", type=Path, default=RESULTS / "input.csv")
    arguments = parser.parse_args()
    rows = []
    for task in arguments.tasks:
        rows.append(measure(task, arguments.profile, arguments.batch, arguments.steps))
        print(rows[-1], flush=True)
    with arguments.out.open("w", encoding="utf-8", newline="") as file:
        file.write(
            f"# python benchmarks/speed/input.py; {platform.machine()}, {os.cpu_count()} cores\n"
        )
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
