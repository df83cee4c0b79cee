"""Jobs of the tests of confined processes; the server imports this file as a plug-in's helper."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from sfdabench.core.errors import BadInput, RunFailed


def echo(channel, **arguments):
    """Return the arguments."""
    return arguments


def surroundings(channel):
    """What the process finds itself in."""
    import tempfile

    return {
        "folder": os.getcwd(),
        "home": str(Path.home()),
        "temporary": tempfile.gettempdir(),
        "session": os.getsid(0) == os.getpid(),
        "descriptors": len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else None,
    }


def threads(channel):
    """The number of threads that torch computes on."""
    import torch

    return torch.get_num_threads()


def speak(channel):
    """Print, and write to standard output in every other way."""
    print("printed")
    os.write(1, b"written\n")
    subprocess.run(["echo", "by another program"], check=True)
    return "spoken"


def fail(channel, kind):
    """Raise an error of a kind."""
    kinds = {
        "bad input": BadInput("the field x is wrong"),
        "run failed": RunFailed("it did not go"),
        "value": ValueError("not a number"),
        "disk": OSError(28, "No space left on device", "a file"),
        "exit": SystemExit(3),
        "key": KeyError("x"),
    }
    raise kinds[kind]


def die(channel, number):
    """Die of a signal."""
    os.kill(os.getpid(), number)
    time.sleep(60)


def leave(channel):
    """End without a result."""
    os._exit(7)


def leave_others_behind(channel, file):
    """Start processes in this session and in another one, which write on and on."""
    for own_session in (False, True):
        if os.fork() == 0:
            if own_session:
                os.setsid()
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            while True:
                with open(f"{file}-{own_session}", "a") as log:
                    log.write("x")
                time.sleep(0.01)
    time.sleep(0.2)
    return "left"


def swallow(channel, path):
    """Try to read a file, and hide that it failed."""
    try:
        Path(path).read_bytes()
    except Exception:
        return "innocent"
    return "it could be read"


def sizes(channel, paths):
    """The size of each file, None for one that cannot be read."""
    sizes = []
    for path in paths:
        try:
            sizes.append(len(Path(path).read_bytes()))
        except OSError:
            sizes.append(None)
    return sizes


def slow(channel):
    """Work for a minute."""
    channel.send({"begun": os.getppid()})
    time.sleep(60)


def dialogue(channel):
    """Ask, and return the answer."""
    return channel.ask({"question": 1})
