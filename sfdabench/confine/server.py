"""A server that processes are forked from; that of confined ones has loaded torch and no label.

It starts no thread and computes nothing, so that a fork of it is a fresh process that need not
import anything. Its children die with it, and it ends when the last process that can ask it does.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from sfdabench.confine.channel import SERVER, Channel
from sfdabench.confine.child import serve
from sfdabench.confine.lock import abi
from sfdabench.core.code import GROUPS, shared_code

SET_PDEATHSIG, SET_CHILD_SUBREAPER = 1, 36  # <sys/prctl.h>


@dataclass
class _Child:
    pid: int
    status: socket.socket  # its end is reported there; where nobody listens any more, it is ended
    started: float
    stopped: bool = False


class Server:
    """Forks a process for each set of descriptors that it is sent: a channel, a status, and perhaps
    the socket of another server, which the process may use.
    """

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.children: dict[int, _Child] = {}
        self.woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.wake = wake
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # after `run` has ended its children

    def run(self) -> None:
        """Serve until nobody can ask any more."""
        try:
            while self._step():
                continue
        finally:
            for child in self.children.values():
                _kill(child.pid)

    def _step(self) -> bool:
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(self.woken, select.POLLIN)
        watched = {c.status.fileno(): c for c in self.children.values() if not c.stopped}
        for descriptor in watched:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll():
            if descriptor == self.woken:
                os.read(self.woken, 4096)
            elif descriptor in watched:
                child = watched[descriptor]
                child.stopped = True
                _kill(child.pid)
            elif not self._accept():
                return False
        self._reap()
        return True

    def _accept(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self.control, 16, 3)
        if not data:
            return False
        channel, status, *lent = descriptors
        own, started = os.getpid(), time.monotonic()
        pid = os.fork()
        if pid == 0:
            self._become(channel, lent, own)
        for descriptor in (channel, *lent):
            os.close(descriptor)
        self.children[pid] = _Child(pid, socket.socket(fileno=status), started)
        return True

    def _become(self, channel: int, lent: list[int], parent: int) -> None:
        """Be the child, and never return."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.setsid()
            _die_with_parent(parent)
            for name in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
                if name > 2 and name not in (channel, *lent):
                    with contextlib.suppress(OSError):  # the listing's own descriptor
                        os.close(name)
            if lent:
                os.environ[SERVER] = str(lent[0])
            with socket.socket(fileno=channel) as own:
                serve(Channel(own.makefile("rb"), own.makefile("wb")))
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self.children.pop(pid, None)
            if child is None:
                continue  # an orphan of a child
            _kill_session(pid)
            self._kill_orphans()
            report = {
                "code": os.waitstatus_to_exitcode(status),
                "seconds": time.monotonic() - child.started,
                "peak_kilobytes": usage.ru_maxrss,
            }
            with contextlib.suppress(BrokenPipeError):
                child.status.sendall(json.dumps(report).encode())
            child.status.close()

    def _kill_orphans(self) -> None:
        """Kill what a child has left behind, in whatever session: it has become our own child."""
        own = os.getpid()
        while True:
            orphans = [pid for pid in _children_of(own) if pid not in self.children]
            for pid in orphans:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for pid in orphans:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
            if not orphans:
                return


def _children_of(pid: int) -> list[int]:
    children = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended since
            state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                children.append(int(path.name))
    return children


def _kill(pid: int) -> None:
    """Kill a child that is there, and all of its session."""
    os.kill(pid, signal.SIGKILL)
    _kill_session(pid)


def _kill_session(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _die_with_parent(parent: int) -> None:
    _prctl(SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(1)


def main() -> None:
    """Serve on the socket whose descriptor is the first argument; load the modules that follow."""
    from sfdabench.confine.allocator import keep_freed_memory

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # what a job prints must not get into a user's JSON
    control = socket.socket(fileno=int(sys.argv[1]))
    _prctl(SET_CHILD_SUBREAPER, 1)
    abi()
    keep_freed_memory()
    shared_code(*GROUPS)  # of what is loaded now, whatever is edited later
    for name in sys.argv[2:]:
        importlib.import_module(name)
    with contextlib.suppress(SystemExit):  # of SIGTERM
        Server(control).run()
    os._exit(0)  # taking torch apart would take a second, for which the client waits


if __name__ == "__main__":
    main()
