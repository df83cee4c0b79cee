"""The audit hook that closes files where the kernel has no Landlock.

Python tells it of every file that Python opens, lists, renames or links, of every process and
connection that Python starts. It does not see a native library that opens a path by itself; the
process runs no code but ours and that of an entry, so this is a fence and no wall.
"""

# Paths stay texts here: the hook is called at every file that Python opens.
# ruff: noqa: PTH113, PTH116, PTH120

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from sfdabench.confine.grant import Grant, devices
from sfdabench.core.errors import ContractBreach

PATHS = {
    "open": 1,
    "os.listdir": 1,
    "os.scandir": 1,
    "os.truncate": 1,
    "os.remove": 1,
    "os.rmdir": 1,
    "os.mkdir": 1,
    "os.chmod": 1,
    "os.chown": 1,
    "os.utime": 1,
    "os.rename": 2,
    "sqlite3.connect": 1,
}  # event -> how many of its first arguments are paths
LISTING = {"os.listdir", "os.scandir"}
SIGNALS = {"os.kill", "os.killpg"}
REFUSED = {
    **dict.fromkeys(("subprocess.Popen", "os.system", "os.exec", "os.spawn"), "started a process"),
    **dict.fromkeys(("os.posix_spawn", "os.startfile", "pty.spawn"), "started a process"),
    **dict.fromkeys(("os.fork", "os.forkpty", "_winapi.CreateProcess"), "started a process"),
    **dict.fromkeys(("os.link", "os.symlink"), "made another way to a file"),
    **dict.fromkeys(("os.chdir", "os.fchdir"), "changed its folder"),
    **dict.fromkeys(("socket.connect", "socket.bind"), "used the network"),
    **dict.fromkeys(("socket.sendto", "socket.sendmsg"), "used the network"),
    **dict.fromkeys(("ctypes.dlopen", "ctypes.dlsym"), "called native code"),
    **dict.fromkeys(("ctypes.dlsym/handle", "ctypes.call_function"), "called native code"),
    **dict.fromkeys(("ctypes.cdata", "ctypes.cdata/buffer"), "called native code"),
    **dict.fromkeys(("ctypes.string_at", "ctypes.wstring_at"), "called native code"),
}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

report: Callable[[str], None] | None = None


def shut(grant: Grant) -> None:
    """Refuse whatever is not granted from now on, in this process and for good.

    Each attempt raises ContractBreach, and is reported to the parent, which fails the stage even
    where the method swallows the error.
    """
    write = _real(grant.write)
    read = write | _real(grant.read) | _real(grant.system()) | _real(devices())
    closed = frozenset(_identity(path) for path in grant.closed if os.path.isfile(path))
    read |= {f"/proc/{os.getpid()}"}

    def breach(what: str) -> None:
        message = f"a confined process {what}"
        if report is not None:
            report(message)
        raise ContractBreach(message)

    def check(event: str, argument: Any, *, writes: bool) -> None:
        if isinstance(argument, int) or argument is None:
            return  # a descriptor, which was opened before or came through here
        text = os.fsdecode(argument)
        path = os.path.realpath(text)
        if ".." in text.replace(os.sep, "/").split("/"):
            breach(f"went up from a folder ({text})")
        if not writes and not _exists(path):
            return  # Python looks for a module in many places
        if not _below(path, write if writes else read):
            breach(f"opened {path}")
        if event not in LISTING and closed and _exists(path) and _identity(path) in closed:
            breach(f"opened {path} under another name")

    def on_event(event: str, arguments: tuple[Any, ...]) -> None:
        if event in SIGNALS:
            if arguments[0] != os.getpid():
                breach(f"sent a signal to another process ({event})")
        elif event in REFUSED:
            breach(f"{REFUSED[event]} ({event})")
        elif event in PATHS:
            writes = event not in LISTING
            if event == "open":
                mode, flags = arguments[1], arguments[2]
                text = mode if isinstance(mode, str) else ""
                writes = bool(set(text) & set("wax+")) or bool((flags or 0) & WRITING)
            for argument in arguments[: PATHS[event]]:
                check(event, argument, writes=writes)

    sys.addaudithook(on_event)


def _real(paths: Any) -> frozenset[str]:
    return frozenset(os.path.realpath(path) for path in paths)


def _below(path: str, roots: frozenset[str]) -> bool:
    """Whether a path is one of the roots or lies below one."""
    while path not in roots:
        parent = os.path.dirname(path)
        if parent == path:
            return False
        path = parent
    return True


def _exists(path: str) -> bool:
    try:
        os.stat(path)
    except OSError:
        return False
    return True


def _identity(path: Any) -> tuple[int, int]:
    """Device and inode, which stay the same under another name."""
    status = os.stat(path)
    return status.st_dev, status.st_ino
