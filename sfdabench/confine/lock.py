"""The lock of a confined process: Landlock where the kernel has it, an audit hook elsewhere."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from functools import cache
from pathlib import Path
from typing import Literal

from sfdabench.confine import hook
from sfdabench.confine.grant import Grant, devices
from sfdabench.core.errors import RunFailed

TCP, SCOPES = 4, 6  # versions of Landlock's interface that closed them first
CAP_DAC_OVERRIDE = 1  # <linux/capability.h>
Lock = Literal["landlock", "audit hook"]


@cache
def abi() -> int:
    """Return the version of the kernel's Landlock interface; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    import landlockpy

    return landlockpy.abi_version()


def best() -> Lock:
    """Return the strongest lock that this machine has."""
    return "landlock" if abi() else "audit hook"


def describe() -> str:
    """Return a line on the lock that this machine has."""
    if not abi():
        return "audit hook (this system has no Landlock): it stops mistakes, not an attack"
    closed = ["files"]
    closed += ["TCP"] if abi() >= TCP else []
    closed += ["signals and abstract sockets"] if abi() >= SCOPES else []
    return f"Landlock, interface {abi()}, enforced by the kernel ({', '.join(closed)})"


def shut(grant: Grant, lock: Lock) -> None:
    """Close every file to this process, and to all that it starts, but those that are granted.

    It cannot be undone. Raises RunFailed where a thread is running already, which Landlock would
    not reach, and LandlockError where the kernel refuses.
    """
    if sys.platform == "linux":
        _give_up_capabilities()
    if lock == "landlock":
        _shut_by_landlock(grant)
    else:
        hook.shut(grant)


def _give_up_capabilities() -> None:
    """Give up what root may do, but for reading and writing files of other users.

    Landlock closes files to root as well; it does not stop root from loading programs into the
    kernel, which reach everything.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", 0x20080522, 0)  # version 3 of the interface, this process
    sets = ctypes.create_string_buffer(24)  # effective, permitted, inheritable, of 32 bits each
    if libc.capget(header, sets) == -1:
        raise OSError(ctypes.get_errno(), "capget")
    of_files = struct.unpack("6I", sets.raw)[1] & 1 << CAP_DAC_OVERRIDE
    if libc.capset(header, struct.pack("6I", of_files, of_files, 0, 0, 0, 0)) == -1:
        raise OSError(ctypes.get_errno(), "capset")


def _shut_by_landlock(grant: Grant) -> None:
    from landlockpy import AccessFS as Access
    from landlockpy import Ruleset, Scope

    if len([*Path("/proc/self/task").iterdir()]) > 1:
        raise RunFailed("a thread was started before the files were closed to this process")
    read = Access.READ_FILE | Access.READ_DIR
    # Neither links nor sockets, pipes and device nodes can be made.
    write = read | Access.WRITE_FILE | Access.TRUNCATE | Access.REFER
    write |= Access.MAKE_REG | Access.MAKE_DIR | Access.REMOVE_FILE | Access.REMOVE_DIR
    device = Access.READ_FILE | Access.WRITE_FILE | Access.IOCTL_DEV
    of_files = Access.READ_FILE | Access.WRITE_FILE | Access.TRUNCATE | Access.EXECUTE
    of_files |= Access.IOCTL_DEV
    rules = [(path, read | Access.EXECUTE) for path in grant.system()]
    rules += [(path, device) for path in devices()]
    rules += [(Path(f"/proc/{os.getpid()}"), read)]
    rules += [(path, read) for path in grant.read]
    rules += [(path, write) for path in grant.write]
    every = Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL
    with Ruleset(scoped=every) as ruleset:
        for path, access in rules:
            try:
                ruleset.allow_path(path, access if path.is_dir() else access & of_files)
            except (FileNotFoundError, PermissionError):
                continue  # what cannot be opened now stays closed
        ruleset.restrict()
