"""Runs in worker processes: one source model trained once, a crash a line, none left behind.

A worker is `sfdabench run` itself, so that a segmentation fault or the kernel's memory killer takes
one run with it and nothing else, and what it had saved is found by the next command.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, Self

from sfdabench.confine.client import SERVER, Server, forks
from sfdabench.core import registry
from sfdabench.run import artefacts
from sfdabench.run.artefacts import CARD
from sfdabench.run.plan import Run
from sfdabench.run.request import RunRequest

POLL = 0.1  # seconds between looks at the workers
GRACE = 10.0  # seconds a worker has to stop in before it is killed


def command(request: RunRequest, run: Run) -> tuple[str, ...]:
    """A worker's command line for `run`, which `request` resolved to, but for its seed."""
    flags = request.as_resolved(run).argv()
    return (sys.executable, "-m", "sfdabench", "run", *flags, "--json", "--stop-with-stdin")


@dataclass(frozen=True)
class Job:
    """One worker process.

    command: says its progress on standard error and prints one JSON object, stops when its
        standard input closes.
    makes: the cards of the stages that it is made of; of the jobs that share one that is not there,
        one goes first and the others wait.
    record: the file that it leaves.
    """

    task: str
    method: str
    seed: int
    command: tuple[str, ...]
    makes: tuple[Path, ...]
    record: Path

    @classmethod
    def of(cls, run: Run, request: RunRequest, label: str) -> Self:
        """The job of a run, which `request` resolved to, but for its seed; label: its method."""
        cards = tuple(artefacts.place(run.cache, stage) / CARD for stage in run.final.order)
        words = command(request, run)
        return cls(run.task_name, label, run.seed, words, cards, run.record_path)

    @property
    def name(self) -> str:
        """What the user reads."""
        return f"{self.method} on {self.task}, seed {self.seed}"


@dataclass(frozen=True)
class Outcome:
    """How a job ended; `reason` is None where it is done."""

    job: Job
    reason: str | None
    seconds: float


class Board(Protocol):
    """What shows the state of the jobs."""

    def show(self, running: Sequence[Worker], waiting: int) -> None:
        """Called at every look."""

    def ended(self, outcome: Outcome) -> None:
        """Called once a job."""


def threads(at_once: int) -> dict[str, str]:
    """OpenMP's variable for each of that many workers: its share of the cores, or the user's own.

    A run that goes on keeps the count that it was begun with, whatever this says.
    """
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(max(1, cores // at_once))}


def carry_out(
    jobs: Sequence[Job], *, at_once: int, variables: Mapping[str, str], board: Board
) -> Generator[Outcome, None, None]:
    """Each job's outcome as it ends; leaving the loop, by Ctrl-C too, stops what is running.

    variables: added to the environment of the workers, and of the server that the confined
        processes of all of them are forked from, so that torch is loaded once.
    """
    environment = {**os.environ, "SFDABENCH_PLUGINS": _plugins(), **variables}
    waiting = list(jobs)
    running: list[Worker] = []
    server = Server(variables) if forks() else None
    try:
        while waiting or running:
            while len(running) < at_once and (job := next_job(waiting, running)):
                waiting.remove(job)
                running.append(Worker(job, environment, server))
            board.show(running, len(waiting))
            for worker in [w for w in running if w.process.poll() is not None]:
                running.remove(worker)
                outcome = worker.outcome()
                board.ended(outcome)
                yield outcome
            if running:
                time.sleep(POLL)
    finally:
        for worker in running:
            worker.stop()
        for worker in running:
            worker.finish()
        if server is not None:
            server.stop()


def next_job(waiting: Sequence[Job], running: Collection[Worker]) -> Job | None:
    """The first job whose stages are there, or are in nobody's hands."""
    making = {card for worker in running for card in worker.job.makes if not card.exists()}
    return next((job for job in waiting if making.isdisjoint(job.makes)), None)


def _plugins() -> str:
    return os.pathsep.join(map(str, registry.plugin_folders()))


class Worker:
    """A job's process; its output goes to files, so that no pipe can fill up and stall it.

    server: that its confined processes are forked from; its own where None.
    """

    def __init__(
        self, job: Job, environment: dict[str, str], server: Server | None = None
    ) -> None:
        self.job = job
        self.started = time.monotonic()
        lent = [] if server is None else [server.lend()]
        with contextlib.ExitStack() as files:
            self._out = files.enter_context(tempfile.TemporaryFile())
            self._err = files.enter_context(tempfile.TemporaryFile())
            self.process = subprocess.Popen(
                job.command,
                stdin=subprocess.PIPE,
                stdout=self._out,
                stderr=self._err,
                env=environment | {SERVER: str(descriptor) for descriptor in lent},
                pass_fds=lent,
                start_new_session=True,  # Ctrl-C reaches this process only, which stops its workers
            )
            self._files = files.pop_all()

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.started

    @property
    def said(self) -> str:
        """Its last line of progress."""
        lines = _tail(self._err).split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def outcome(self) -> Outcome:
        """How it ended; only for a process that has."""
        ended = Outcome(self.job, self._reason(), self.seconds)
        self.finish()
        return ended

    def _reason(self) -> str | None:
        code = self.process.returncode
        if code < 0:
            memory = ", as the system does when memory runs out" if code == -signal.SIGKILL else ""
            last = f"; it last said: {self.said}" if self.said else ""
            return f"the worker died of {signal.Signals(-code).name}{memory}{last}"
        try:
            answer: dict[str, Any] = json.loads(_tail(self._out))
        except json.JSONDecodeError:
            last = self.said.removeprefix("sfdabench: ") or "it said nothing"
            return f"the worker ended with exit code {code} and no result: {last}"
        if answer["status"] != "done":
            return answer["reason"]
        if not self.job.record.exists():
            return f"the worker left no record {self.job.record}; was the code edited?"
        return None

    def stop(self) -> None:
        """Ask it to stop; all that it saved stays."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def finish(self) -> None:
        """Wait until it has ended, kill it where it does not, and close what is open."""
        self.stop()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._files.close()


def _tail(file: IO[bytes]) -> str:
    """The end of a file that another process writes; the shared position is left alone."""
    descriptor = file.fileno()
    start = max(0, os.fstat(descriptor).st_size - 2**16)
    return os.pread(descriptor, 2**16, start).decode(errors="replace")
