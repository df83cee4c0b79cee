"""What a user waits for: the light commands, and the main job fresh, with its source, and found.

    python benchmarks/speed/commands.py --out benchmarks/speed/results/commands.csv
    python benchmarks/speed/commands.py --rounds 12 --main-rounds 3 --against ../another-checkout

Each command is a new process, as a user starts it, with a cache of its own: wall seconds (the
median of the rounds), CPU seconds (user and system, of the process and its children; the least of
the rounds, which other work on the machine disturbs least) and peak memory: of the largest process,
and of all processes together (PSS, looked at every quarter of a second; Linux only). Absolute times
hold for the machine in the heading only. With --against, another checkout runs each command in turn
with this one, and `ratio` is the CPU time of this one over that of the other.
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
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MAIN = ["run", "--method", "cbmt", "--task", "refuge2rimone", "--device", "cpu"]
LIMITS = {"help": 0.2, "list": 0.2, "fresh": 50, "source cached": 20, "record exists": 0.6}


@dataclass(frozen=True)
class Timing:
    """What a command took: wall and CPU seconds, and MiB of memory at its peak.

    peak: of the largest process. together: of all at one time.
    """

    wall: float
    cpu: float
    peak: float
    together: float


class Watch(threading.Thread):
    """Looks at the memory of a process and all below it until it is told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peak, self.over = pid, 0.0, threading.Event()

    def run(self) -> None:
        """Keep the largest sum."""
        while not self.over.wait(0.25):
            self.peak = max(self.peak, sum(map(proportional_memory, family(self.pid))))


def family(pid: int) -> list[int]:
    """A process and all processes below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:  # it has ended since
        return []
    return [pid, *(other for child in children for other in family(int(child)))]


def proportional_memory(pid: int) -> float:
    """MiB of a process, of which it shares some with others: its part of these."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended since
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


@dataclass
class Version:
    """A checkout with a cache and results of its own, and what its processes took, by case."""

    root: Path
    folder: Path
    timings: dict[str, list[Timing]] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """That of a user of this checkout, who keeps compiled code."""
        own = {"PYTHONPATH": str(self.root), "SFDABENCH_CACHE": f"{self.folder}/cache"}
        kept = {n: v for n, v in os.environ.items() if n != "PYTHONDONTWRITEBYTECODE"}
        return kept | own

    def check(self) -> None:
        """Stop where Python would import another checkout."""
        code = "import sfdabench; print(sfdabench.__path__[0])"
        place = subprocess.check_output(
            [sys.executable, "-c", code], cwd=self.folder, env=self.environment, text=True
        ).strip()
        if Path(place).parent != self.root:
            raise SystemExit(f"{self.root}: Python imports {place} instead; is it a checkout?")

    def run(self, case: str, arguments: list[str]) -> None:
        """Run `sfdabench ARGUMENTS` once, with RESULTS in them replaced by a folder."""
        words = [f"{self.folder}/results" if word == "RESULTS" else word for word in arguments]
        command = [sys.executable, "-m", "sfdabench", *words]
        start = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=self.folder,  # Python would import what lies in the current folder first
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        watch = Watch(process.pid)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        watch.over.set()
        if status:
            raise SystemExit(f"{self.root}: {' '.join(command)} failed")
        cpu = usage.ru_utime + usage.ru_stime
        seconds = time.monotonic() - start
        timing = Timing(seconds, cpu, usage.ru_maxrss / 1024, watch.peak)
        self.timings.setdefault(case, []).append(timing)


def checkouts(against: Path | None, folder: Path) -> list[Version]:
    """Return this checkout and the one to compare with, each with a folder of its own."""
    roots = [ROOT] if against is None else [ROOT, against.resolve()]
    versions = [Version(root, folder / str(i)) for i, root in enumerate(roots)]
    for version in versions:
        version.folder.mkdir()
        version.check()
    return versions


def row(case: str, versions: list[Version]) -> dict[str, object]:
    """What a case took: of this checkout, and beside it of the other one."""
    wall, cpu = (
        [choose([getattr(t, name) for t in v.timings[case]]) for v in versions]
        for name, choose in (("wall", statistics.median), ("cpu", min))
    )
    mine = versions[0].timings[case]
    cells = {"case": case, "seconds": f"{wall[0]:.2f}", "limit": LIMITS[case]}
    cells |= {"cpu_seconds": f"{cpu[0]:.2f}", "peak_mib": f"{max(t.peak for t in mine):.0f}"}
    together = max(t.together for t in mine)  # 0 where it was over before the first look
    cells |= {"peak_mib_together": f"{together:.0f}" if together else "", "rounds": len(mine)}
    if len(versions) > 1:
        cells |= {"seconds_against": f"{wall[1]:.2f}", "cpu_seconds_against": f"{cpu[1]:.2f}"}
        cells |= {"ratio": f"{cpu[0] / cpu[1]:.2f}"}
    return cells


def main() -> None:
    """Measure every case and write one row each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of the light commands")
    parser.add_argument("--main-rounds", type=int, default=1, help="of the main job")
    parser.add_argument("--against", type=Path, metavar="PATH", help="a checkout to compare with")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        versions = checkouts(options.against, Path(folder))

        def repeat(case: str, arguments: list[str]) -> None:
            for _ in range(options.rounds):
                for version in versions:
                    version.run(case, arguments)
            report(case)

        def report(case: str) -> None:
            rows.append(row(case, versions))
            print(", ".join(f"{name} {value}" for name, value in rows[-1].items()), flush=True)

        repeat("help", ["--help"])
        repeat("list", ["list", "methods"])
        job = [*MAIN, "--out", "RESULTS"]
        for _ in range(options.main_rounds):
            for version in versions:
                for name in ("cache", "results"):
                    shutil.rmtree(version.folder / name, ignore_errors=True)
                version.run("fresh", job)
            for version in versions:
                version.run("source cached", [*job, "--force"])  # adapts again
        report("fresh")
        report("source cached")
        repeat("record exists", job)
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
