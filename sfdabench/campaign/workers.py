"""Runs in worker processes: one source model trained once, a crash a line, none left behind.

A worker does what `sfdabench run` does, in a process of its own, so that a segmentation fault or
the kernel's memory killer takes one run with it and nothing else, and what it had saved is found by
the next command. Workers are forked from a server that has the suite loaded, and all of them have
their confined processes forked from another one, so that Python and torch are loaded once.
"""

from __future__ import annotations

import itertools
import os
import queue
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from sfdabench.confine import client
from sfdabench.core.errors import RunFailed
from sfdabench.run import artefacts
from sfdabench.run.artefacts import CARD
from sfdabench.run.plan import Run
from sfdabench.run.request import RunRequest

REDRAWN = 0.25  # seconds between looks at what the workers say
CALL = "sfdabench.cli:main"
PRELOADED = (
    *("sfdabench.campaign.work", "sfdabench.cli.run"),
    *("sfdabench.run.runner", "sfdabench.report.scores"),
    *("scipy.ndimage", "PIL.PngImagePlugin", "filelock"),
)


def command(request: RunRequest, run: Run) -> tuple[str, ...]:
    """The words behind `sfdabench` for `run`, which `request` resolved to, but for its seed."""
    return ("run", *request.as_resolved(run).argv(), "--json")


@dataclass(frozen=True)
class Job:
    """One run that a worker does.

    command: the words behind `sfdabench`; it prints one JSON object.
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
    jobs: Sequence[Job],
    *,
    at_once: int,
    variables: Mapping[str, str],
    board: Board,
    servers: Servers,
) -> Generator[Outcome, None, None]:
    """Each job's outcome as it ends; leaving the loop, by Ctrl-C too, stops what is running.

    variables: added to the environment of the workers. servers: that they are forked from.
    """
    waiting, running = list(jobs), list[Worker]()
    ended: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    try:
        while waiting or running:
            while len(running) < at_once and (job := next_job(waiting, running)):
                waiting.remove(job)
                running.append(Worker(job, variables, servers, ended))
            board.show(running, len(waiting))
            try:
                worker = ended.get(timeout=REDRAWN)
            except queue.Empty:
                continue
            running.remove(worker)
            outcome = worker.outcome()
            board.ended(outcome)
            yield outcome
    finally:
        for worker in running:
            worker.stop()


def next_job(waiting: Sequence[Job], running: Collection[Worker]) -> Job | None:
    """The first job whose stages are there, or are in nobody's hands."""
    making = {card for worker in running for card in worker.job.makes if not card.exists()}
    return next((job for job in waiting if making.isdisjoint(job.makes)), None)


class Servers:
    """What workers are forked from, and what their confined processes are; nothing elsewhere.

    They end with the block that they are given to. variables: added to the environment of both.
    """

    def __init__(self, variables: Mapping[str, str]) -> None:
        self.variables = variables
        self.workers = client.Server(PRELOADED, variables)
        self.confined = client.Server(client.PRELOADED, variables)
        self._logs = tempfile.TemporaryDirectory()
        self._numbers = itertools.count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End them, and all that was forked from them."""
        self.workers.stop()
        self.confined.stop()
        self._logs.cleanup()

    def start(self) -> None:
        """Start them, so that they load their modules while the caller goes on."""
        if client.forks():
            self.workers.start()
            self.confined.start()

    def launch(self) -> tuple[client.Channel, client.Ending]:
        """Start a process that waits for its order."""
        if not client.forks():
            return client.spawn(self.variables)
        return self.workers.launch([self.confined.lend()])

    def new_log(self) -> Path:
        """Return an empty file for what a worker says."""
        path = Path(self._logs.name, f"{next(self._numbers)}.log")
        path.touch()
        return path


class Worker:
    """A job's process. What it says goes to a file, so that no pipe can fill up and stall it.

    ended: gets the worker when its process has ended.
    """

    def __init__(
        self,
        job: Job,
        variables: Mapping[str, str],
        servers: Servers,
        ended: queue.SimpleQueue[Worker],
    ) -> None:
        self.job, self._ended = job, ended
        self.started = time.monotonic()
        self._log = servers.new_log()
        self._answer: dict[str, Any] | Exception | None = None
        order: dict[str, Any] = {"call": CALL, "words": job.command, "log": str(self._log)}
        order["variables"] = dict(variables)
        self.process = client.begin(
            "the worker", "sfdabench.campaign.work:run", order, servers.launch()
        )
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        try:
            self._answer = self.process.result()
        except Exception as error:
            self._answer = error
        self._ended.put(self)

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.started

    @property
    def said(self) -> str:
        """Its last line of progress."""
        with self._log.open("rb") as file:
            file.seek(max(0, self._log.stat().st_size - 2**16))
            lines = file.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def outcome(self) -> Outcome:
        """How it ended; only for a process that has."""
        self._thread.join()
        return Outcome(self.job, self._reason(), self.seconds)

    def _reason(self) -> str | None:
        answer = self._answer
        if isinstance(answer, (client.ProcessDied, RunFailed)):
            return f"{answer}; it last said: {self.said}" if self.said else str(answer)
        if isinstance(answer, Exception):
            raise answer
        assert answer is not None
        if answer["status"] is None:
            last = self.said.removeprefix("sfdabench: ") or "it said nothing"
            return f"the worker ended with exit code {answer['code']} and no result: {last}"
        if answer["status"] != "done":
            return answer["reason"]
        if not self.job.record.exists():
            return f"the worker left no record {self.job.record}; was the code edited?"
        return None

    def stop(self) -> None:
        """End it; all that it saved stays."""
        self.process.ending.kill()
        self._thread.join()
