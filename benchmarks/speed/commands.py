"""What a user waits for: the light commands, and the main job fresh, with its source, and found.

    python benchmarks/speed/commands.py --out benchmarks/speed/results/commands.csv

Each command is a new process, as a user starts it, with a cache of its own; wall seconds and
peak memory of that process. Absolute times hold for the machine in the heading only.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MAIN = ["run", "--method", "cbmt", "--task", "refuge2rimone", "--device", "cpu"]
LIMITS = {"help": 0.3, "list": 0.3, "fresh": 60, "source cached": 25, "record exists": 3}


def timed(arguments: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Wall seconds and peak MiB of one `sfdabench` process."""
    command = [sys.executable, "-m", "sfdabench", *arguments]
    start = time.monotonic()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.monotonic() - start, usage.ru_maxrss / 1024


def main() -> None:
    """Measure every case and write one row each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of the light commands")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"SFDABENCH_CACHE": f"{folder}/cache"}
        results = Path(folder) / "out"

        def measure(case: str, arguments: list[str], rounds: int = 1) -> None:
            outcomes = [timed(arguments, environment) for _ in range(rounds)]
            seconds = statistics.median(s for s, _ in outcomes)
            peak = max(m for _, m in outcomes)
            row = {"case": case, "seconds": f"{seconds:.2f}", "limit": LIMITS[case]}
            rows.append(row | {"peak_mib": f"{peak:.0f}", "rounds": rounds})
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()))

        measure("help", ["--help"], options.rounds)
        measure("list", ["list", "methods"], options.rounds)
        measure("fresh", [*MAIN, "--out", str(results)])
        shutil.rmtree(results)
        measure("source cached", [*MAIN, "--out", str(results), "--force"])  # adapts again
        measure("record exists", [*MAIN, "--out", str(results)], options.rounds)
    load = os.getloadavg()[0]
    note = f"{platform.machine()}, {os.cpu_count()} cores, load {load:.1f} at the end"
    print(note)
    if options.out is not None:
        with options.out.open("w", encoding="utf-8", newline="") as file:
            file.write(f"# python benchmarks/speed/commands.py; {note}\n")
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
