"""The parent's side: start a job in a confined process, talk to it, and see how it ended."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from sfdabench.confine.channel import SERVER, Channel, Closed
from sfdabench.confine.child import raised
from sfdabench.confine.grant import Grant
from sfdabench.confine.lock import Lock, best
from sfdabench.core import registry
from sfdabench.core.code import GROUPS, shared_code
from sfdabench.core.errors import ContractBreach, ForeignCode, RunFailed

PRELOADED = (
    *("torch", "torch.optim", "torch._dynamo", "torch.utils.deterministic"),
    *("sfdabench.run.making", "sfdabench.run.predicting"),
)  # by the time that they are needed, the parent has prepared the data
Hear = Callable[[Mapping[str, Any]], Any]


class ProcessDied(OSError):
    """A confined process, or the server that it was forked from, was killed.

    What it saved stays, and the same command goes on from there.
    """


@dataclass
class Usage:
    """What a process took: wall seconds, and the most memory that it held, in bytes.

    peak_device_bytes: of the GPU; None where it used none.
    """

    seconds: float = 0.0
    peak_memory_bytes: int = 0
    peak_device_bytes: int | None = None

    def include(self, other: Usage) -> None:
        """Add the seconds of another process, and keep the larger peaks."""
        self.seconds += other.seconds
        self.peak_memory_bytes = max(self.peak_memory_bytes, other.peak_memory_bytes)
        if other.peak_device_bytes is not None:
            self.peak_device_bytes = max(self.peak_device_bytes or 0, other.peak_device_bytes)


class Ending(Protocol):
    """How a process ends."""

    def wait(self) -> tuple[int, Usage]:
        """Wait for it; return its exit code and what it took. Raises ProcessDied."""

    def kill(self) -> None:
        """End it, whatever it is doing; `wait` waits until that has happened."""


@dataclass
class Process:
    """A job in a process of its own. over: whether that has ended."""

    job: str
    channel: Channel
    lock: Lock | None
    ending: Ending
    usage: Usage = field(default_factory=Usage)
    over: bool = False
    _outcome: dict[str, Any] | None = None
    _breach: str | None = None

    def receive(self) -> Any:
        """Wait for the next message of the job; None where there is none any more."""
        while True:
            try:
                message = self.channel.receive()
            except Closed:
                return None
            except ValueError as error:
                raise RunFailed(f"{self.job} sent what is no message ({error})") from error
            if not isinstance(message, dict):
                raise RunFailed(f"{self.job} sent what is no message ({type(message).__name__})")
            if "breach" in message:
                self._breach = self._breach or str(message["breach"])
            elif message.keys() & {"result", "error"}:
                self._outcome = self._outcome or message
                return None
            else:
                return message

    def ask(self, request: Any) -> Any:
        """Send a request and wait for the answer. Raises what the job ended with instead."""
        with contextlib.suppress(Closed):
            self.channel.send(request)
        answer = self.receive()
        if answer is None:
            self.result()
            raise RunFailed(f"{self.job} ended before it answered")
        return answer

    def result(self, hear: Hear | None = None) -> Any:
        """Answer each message by what `hear` returns, until the end; return the job's result.

        Every process that the job started is gone when this returns. Raises the job's error,
        ContractBreach where it tried to reach what is closed to it, and ProcessDied where it was
        killed.
        """
        while (message := self.receive()) is not None:
            if hear is None:
                raise RunFailed(f"{self.job} asked for what nobody gives: {[*message]}")
            answer = hear(message)
            with contextlib.suppress(Closed):  # then the next `receive` is the end
                self.channel.send(answer)
        code = self._wait()
        if self._breach is not None:
            raise ContractBreach(self._breach)
        if self._outcome is None:
            raise _death(self.job, code)
        if "error" in self._outcome:
            error = self._outcome["error"]
            raise error if isinstance(error, BaseException) else raised(error)
        return self._outcome["result"]

    def finish(self) -> None:
        """Tell a job that answers requests that there are no more, and wait for its end."""
        if code := self._wait():
            raise _death(self.job, code)

    def stop(self) -> None:
        """End it, whatever it is doing."""
        self.ending.kill()
        self._wait()

    def _wait(self) -> int:
        self.over = True
        self.channel.close()
        code, self.usage = self.ending.wait()
        return code


def _death(job: str, code: int) -> Exception:
    if code == -signal.SIGKILL:
        return ProcessDied(
            f"{job} was killed, as the system does when memory runs out; what it saved stays, and "
            "the same command goes on"
        )
    if code < 0:
        return RunFailed(f"{job} died of {signal.Signals(-code).name}")
    return RunFailed(f"{job} ended with exit code {code} and no result")


class Server:
    """A fork server as its clients see it; started when it is first needed.

    preloaded: modules that it imports. variables: added to its environment.
    """

    def __init__(
        self,
        preloaded: Sequence[str] = PRELOADED,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.preloaded, self.variables = preloaded, variables or {}
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def start(self) -> None:
        """Start it where it does not run yet; it loads its modules while the caller goes on.

        A worker of a sweep uses the one that it was lent.
        """
        if self._socket is not None and self._owner == os.getpid():
            return
        self._owner = os.getpid()
        if descriptor := os.environ.pop(SERVER, None):  # if it is gone, the next is an own one
            self._socket = socket.socket(fileno=int(descriptor))
            self._socket.set_inheritable(False)
            return
        own, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its:
            command = [sys.executable, "-m", "sfdabench.confine.server", str(its.fileno())]
            self._process = subprocess.Popen(
                [*command, *self.preloaded],
                pass_fds=[its.fileno()],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_python_path()), **self.variables},
                start_new_session=True,  # Ctrl-C is for its clients, which end it
            )
        self._socket = own
        atexit.register(self.stop)

    def lend(self) -> int:
        """Return the descriptor of its socket, for `launch` of another server.

        It is started anew where it was killed.
        """
        if self._process is not None and self._process.poll() is not None:
            self.stop()
        self.start()
        assert self._socket is not None
        return self._socket.fileno()

    def launch(self, lent: Sequence[int] = ()) -> tuple[Channel, Ending]:
        """Fork a process; return the channel to it, and its ending.

        lent: the socket of the server that its own processes are to be forked from, if any.
        """
        own, its = socket.socketpair()
        status, its_status = socket.socketpair()
        descriptors = [its.fileno(), its_status.fileno(), *lent]
        try:
            for again in (True, False):
                self.start()
                assert self._socket is not None
                try:
                    socket.send_fds(self._socket, [b"job"], descriptors)
                    break
                except (BrokenPipeError, ConnectionResetError):
                    self.stop()  # it was killed since: another one is started, once
                    if not again:
                        raise
        finally:
            its.close()
            its_status.close()
        with own:
            channel = Channel(own.makefile("rb"), own.makefile("wb"))
        return channel, _Forked(status)

    def stop(self) -> None:
        """End it, and everything that was forked from it."""
        if self._owner != os.getpid():
            return
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.terminate()  # it may still be loading torch
            self._process.wait()
            self._process = None


@dataclass
class _Forked:
    """The ending of a process of the server, which reports it on a socket."""

    status: socket.socket

    def wait(self) -> tuple[int, Usage]:
        with self.status, self.status.makefile("rb") as file:
            text = file.read()
        if not text:
            raise ProcessDied(
                "the server of the confined processes was killed; what they saved stays, and the "
                "same command goes on"
            )
        report = json.loads(text)
        return report["code"], Usage(report["seconds"], report["peak_kilobytes"] * 1024)

    def kill(self) -> None:
        with contextlib.suppress(OSError):  # the server is gone, and its children with it
            self.status.shutdown(socket.SHUT_WR)


@dataclass
class _Spawned:
    """The ending of a process that was started anew."""

    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)

    def wait(self) -> tuple[int, Usage]:
        code = self.process.wait()
        return code, Usage(time.monotonic() - self.started)

    def kill(self) -> None:
        self.process.kill()


def _python_path() -> list[str]:
    """Where this process imports from, so that the server imports the same."""
    return [entry for entry in sys.path if entry and Path(entry).is_dir()]


def spawn(variables: Mapping[str, str] | None = None) -> tuple[Channel, Ending]:
    """Start a fresh interpreter: the child of a system that cannot fork safely."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sfdabench.confine.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(_python_path()), **(variables or {})},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    return Channel(process.stdout, process.stdin), _Spawned(process)


server = Server()


def forks() -> bool:
    """Whether confined processes are forked from a server here; elsewhere each starts anew."""
    return sys.platform == "linux"


def launch() -> tuple[Channel, Ending]:
    """Start a process that waits for its order."""
    return server.launch() if forks() else spawn()


def prepare() -> None:
    """Start the server where there is one, because a job will be started soon."""
    if forks():
        server.start()


@contextlib.contextmanager
def process(
    job: str,
    arguments: Mapping[str, Any],
    grant: Grant,
    *,
    threads: int | None = None,
    lock: Lock | None = None,
) -> Iterator[Process]:
    """Start `module:function` in a confined process, which ends with the block at the latest.

    arguments: JSON types; the function gets a channel before them. threads: of torch; None keeps
    its default. lock: the strongest of this machine where None.
    """
    chosen = lock or best()
    name = f"the job {job.rpartition(':')[2]}"
    running = begin(name, job, arguments, launch(), grant=grant, threads=threads, lock=chosen)
    try:
        yield running
    finally:
        if not running.over:
            with contextlib.suppress(ProcessDied):
                running.stop()


def begin(
    name: str,
    job: str,
    arguments: Mapping[str, Any],
    launched: tuple[Channel, Ending],
    *,
    grant: Grant | None = None,
    threads: int | None = None,
    lock: Lock | None = None,
) -> Process:
    """Give a process its order. A job without a lock is code of ours, which nothing confines.

    name: what messages call it.
    """
    channel, ending = launched
    order = {
        "job": job,
        "arguments": dict(arguments),
        "grant": (grant or Grant()).plain(),
        "plugins": list(map(str, registry.plugin_folders())),
        "threads": threads,
        "lock": lock,
        "code": shared_code(*GROUPS),
    }
    with contextlib.suppress(Closed):  # its end says why
        channel.send(order)
    return Process(name, channel, lock, ending)


def call(
    job: str,
    arguments: Mapping[str, Any],
    grant: Grant,
    *,
    threads: int | None = None,
    hear: Hear | None = None,
) -> Any:
    """Run a job in a confined process to its end and return its result."""
    with process(job, arguments, grant, threads=threads) as running:
        return running.result(hear)


def here_or_confined(job: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a job here, or where it meets code of a plug-in, in a confined process."""
    try:
        return job(None, **arguments)
    except ForeignCode:
        return call(f"{job.__module__}:{job.__name__}", arguments, Grant())
