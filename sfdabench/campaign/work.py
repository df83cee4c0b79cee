"""What a worker of a sweep does: one run, as a command of its own would do it."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from sfdabench.confine.channel import Channel


def run(
    channel: Channel, call: str, words: Sequence[str], variables: Mapping[str, str], log: str
) -> dict[str, Any]:
    """Call `module:function` as a command line with these words (a job).

    variables: of its environment. log: the file that gets what it says. Returns the exit code, and
    the status and the reason that it prints as JSON, None where it prints nothing.
    """
    with open(log, "ab") as file:  # noqa: PTH123  # a descriptor that stays
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= variables
    sys.argv = ["sfdabench", *words]
    module, _, name = call.partition(":")
    function, printed, code = getattr(importlib.import_module(module), name), io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        try:
            function()
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):  # as Python does
                sys.stderr.write(f"{code}\n")
                code = 1
    answer = json.loads(printed.getvalue() or "{}")
    return {"code": code, "status": answer.get("status"), "reason": answer.get("reason")}
