"""What a sweep of 30 short runs takes beside the runs themselves.

    python benchmarks/speed/sweep.py --out benchmarks/speed/results/sweep.csv
    python benchmarks/speed/sweep.py --rounds 2 --against ../another-checkout

Ten methods of few epochs, three seeds, on the phantom of refuge2rimone. Source models, phantoms and
prepared data are made before. `runs_seconds` is the sum of the seconds that the records say
(`seconds.total`: from the data to the scores); `ratio` is the wall time of the sweep over that sum
divided by the number of jobs. 1.0 would mean that planning, starting of processes, loading of torch
and waiting for the last run cost nothing. With --against, another checkout sweeps in turn.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import shutil
import tempfile
from pathlib import Path

from commands import ROOT, Version, checkouts

TASK, SEEDS = "refuge2rimone", 3
Fields = dict[str, object]
METHODS: list[tuple[str, Fields]] = [
    ("adabn", {}),
    ("tent", {"epochs": 2}),
    ("tent", {"online": True}),
    ("entropy_minimisation", {"epochs": 2}),
    ("pseudo_label", {"epochs": 2}),
    ("mean_teacher", {"epochs": 2}),
    ("cbmt", {"epochs": 2}),
    ("cbmt", {"epochs": 2, "calibration": "constant"}),
    ("osuda", {"epochs": 2}),
    ("threshold", {"epochs": 2}),
]
HEAD = """
seeds = 3
absent = []
[paper]
title = "Speed of a sweep"
venue = "none"
url = "none"
[tolerance.percent]
limit = 1.0
reason = "nothing is compared"
[recipe]
[[tables]]
name = "speed-1"
title = "Short runs"
protocol = "strict"
blocks = [{{ name = "Fundus", task = "{task}" }}]
columns = [{{ name = "Disc", classes = ["disc"], metric = "dice", scale = 100, unit = "percent" }}]
rows = [{rows}]
"""


def write_benchmark(folder: Path, methods: list[tuple[str, Fields]]) -> Path:
    """Write a benchmark.toml that asks for these methods with these fields."""
    rows = []
    for i, (method, fields) in enumerate(methods):
        values = ", ".join(f"{name} = {json.dumps(value)}" for name, value in fields.items())
        set_ = f", overrides = {{ {method} = {{ {values} }} }}" if fields else ""
        rows.append(f'{{ name = "{i}", method = "{method}"{set_} }}')
    folder.mkdir()
    text = HEAD.format(task=TASK, rows=", ".join(rows))
    (folder / "benchmark.toml").write_text(text, encoding="utf-8")
    header = "table,block,row,column,value,std,note\n"
    (folder / "reported.csv").write_text(header, encoding="utf-8")
    return folder


def main() -> None:
    """Sweep once for the source models, then `--rounds` times, and write a row each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--against", type=Path, metavar="PATH", help="a checkout to compare with")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        versions = checkouts(options.against, Path(folder))
        for version in versions:
            (version.folder / "results").mkdir()
            sources = write_benchmark(version.folder / "sources", [("source_only", {})])
            version.run("sources", ["sweep", str(sources), "--out", "RESULTS"])
            write_benchmark(version.folder / "methods", METHODS)
        for i in range(options.rounds):
            for version in versions:
                results = version.folder / "results"
                for method, _ in METHODS:
                    shutil.rmtree(results / TASK / method, ignore_errors=True)
                for stage in (version.folder / "cache" / "stages").iterdir():
                    if not stage.name.startswith("source_training-"):
                        shutil.rmtree(stage) if stage.is_dir() else stage.unlink()
                methods, jobs = str(version.folder / "methods"), str(options.jobs)
                version.run("sweep", ["sweep", methods, "--out", "RESULTS", "--jobs", jobs])
                rows.append(row(version, i, options.jobs))
                print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)
    note = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end"
    if options.out is not None:
        with options.out.open("w", encoding="utf-8", newline="") as file:
            file.write(f"# python benchmarks/speed/sweep.py; {note}\n")
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def row(version: Version, number: int, jobs: int) -> dict[str, object]:
    """What the last sweep took, beside what its runs say that they took."""
    texts = [
        path.read_text(encoding="utf-8")
        for method in {method for method, _ in METHODS}
        for path in (version.folder / "results" / TASK / method).glob("*.json")
    ]
    records = [json.loads(text) for text in texts]
    if len(records) != SEEDS * len(METHODS) or any(r["status"] != "done" for r in records):
        raise SystemExit(f"{version.root}: {len(records)} records, not all of them done")
    seconds = sum(record["seconds"]["total"] for record in records)
    timing = version.timings["sweep"][-1]
    return {
        "checkout": "this" if version.root == ROOT else "the other",
        "round": number,
        "runs": len(records),
        "jobs": jobs,
        "seconds": f"{timing.wall:.1f}",
        "runs_seconds": f"{seconds:.1f}",
        "ratio": f"{timing.wall * jobs / seconds:.3f}",
        "cpu_seconds": f"{timing.cpu:.1f}",
    }


if __name__ == "__main__":
    main()
