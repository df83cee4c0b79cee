"""The child's side: a job is read from the channel, the files are closed, the job runs."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sfdabench.confine import hook
from sfdabench.confine.channel import Channel, Closed
from sfdabench.confine.grant import Grant
from sfdabench.confine.lock import shut
from sfdabench.core import errors, registry
from sfdabench.core.code import GROUPS, shared_code

OUT_OF_GPU_MEMORY = (
    "out of GPU memory: lower --set batch_size (adaptation) or --source-set batch_size or size "
    "(source training)"
)


def serve(channel: Channel) -> None:
    """Run the one job that the channel asks for, and send what it came to.

    It runs behind a lock, unless the order says that it has none: it is code of ours then.
    """
    try:
        order = channel.receive()
        for folder in order["plugins"]:
            registry.add_plugins(Path(folder))
        if order["lock"] is not None:
            _confine(channel, order)
        channel.send({"result": run(channel, order)})
    except Closed:
        return  # the parent is gone, and nobody waits for an answer
    except BaseException as error:
        with contextlib.suppress(Closed):
            channel.send({"error": describe(error)})


def run(channel: Channel, order: Mapping[str, Any]) -> Any:
    """Call the job with its arguments, on as many threads as it is given."""
    if order["code"] != shared_code(*GROUPS):
        raise errors.RunFailed("the code of sfdabench was edited since this began; give it again")
    if order["lock"] is not None:
        registry.allow_foreign_code()
    module, _, name = order["job"].partition(":")
    if order["threads"] is not None:
        import torch

        torch.set_num_threads(order["threads"])
    return getattr(importlib.import_module(module), name)(channel, **order["arguments"])


def _confine(channel: Channel, order: Mapping[str, Any]) -> None:
    grant = Grant.of(order["grant"])
    sys.dont_write_bytecode = True  # the folders of packages are read only from here on
    home = next((path for path in grant.write if path.is_dir()), None)
    if home is not None:
        for name in ("HOME", "TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
            os.environ[name] = str(home)
        tempfile.tempdir = None
        os.chdir(home)
    hook.report = lambda message: channel.send({"breach": message})
    shut(grant, order["lock"])


def describe(error: BaseException) -> dict[str, Any]:
    """Return an error as JSON types; `raised` makes it an error again."""
    text = str(error).strip()
    kind = type(error).__name__
    if kind == "OutOfMemoryError":
        text = f"{OUT_OF_GPU_MEMORY}; {text.partition(chr(10))[0]}"
    return {
        "kind": kind,
        "message": text,
        "number": getattr(error, "errno", None) if isinstance(error, OSError) else None,
        "file": str(getattr(error, "filename", None) or "") or None,
        "place": _place(error),
        "traceback": "".join(traceback.format_exception(error)),
    }


def _place(error: BaseException) -> str | None:
    """The file of a plug-in, below its folder, and the line that the error came through last."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        for folder in registry.foreign_folders():
            if Path(frame.filename).is_relative_to(folder):
                file = Path(frame.filename).relative_to(folder).as_posix()
                return f"{file}, line {frame.lineno}"
    return None


class JobFailed(errors.RunFailed):
    """A job ended with an error that is none of ours; `trace` is its traceback, as text."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


def raised(error: Mapping[str, Any]) -> Exception:
    """Return the error that a child described, as one of ours where it was one of ours."""
    kind, message, trace = (str(error.get(name)) for name in ("kind", "message", "traceback"))
    ours = getattr(errors, kind, None)
    if isinstance(ours, type) and issubclass(ours, (errors.BadInput, errors.RunFailed)):
        return ours(message)
    if isinstance(error.get("number"), int) and kind not in ("PermissionError",):
        return OSError(error["number"], os.strerror(error["number"]), error.get("file"))
    if kind == "PermissionError":
        message += (
            "; a stage can read what it declares and nothing else (README, What a method can reach)"
        )
    if kind not in ("OutOfMemoryError", "JobFailed"):
        message = f"{kind}: {message}" if message else kind
    if isinstance(error.get("place"), str):
        message += f" ({error['place']})"
    return JobFailed(message, trace)


@contextlib.contextmanager
def standard_output_to_error() -> Iterator[None]:
    """Send what a job prints to standard error: standard output may be a user's JSON."""
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def main() -> None:
    """Serve one job over standard input and output: the child of a system that cannot fork."""
    from sfdabench.confine.allocator import keep_freed_memory

    keep_freed_memory()
    incoming, outgoing = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    serve(Channel(incoming, outgoing))


if __name__ == "__main__":
    main()
