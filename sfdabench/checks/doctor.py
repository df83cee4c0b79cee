"""What `sfdabench doctor` looks at, and what it advises."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from sfdabench import __version__
from sfdabench.core.errors import AbsentData, BadInput
from sfdabench.core.paths import cache_root, check_writable, data_root

LIBRARIES = ("torch", "numpy", "scipy", "pillow", "nibabel", "pydantic", "safetensors")


def examine() -> tuple[list[str], bool]:
    """Lines to print, and whether a run would start here."""
    import torch

    from sfdabench.confine import lock
    from sfdabench.confine.allocator import keep_freed_memory
    from sfdabench.core import registry

    healthy = True
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    lines = [f"sfdabench {__version__}, Python {platform.python_version()}", versions]
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        name = torch.cuda.get_device_name()
        lines.append(f"device: {name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")
    else:
        lines.append("device: cpu (torch finds no CUDA device)")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    lines.append(f"threads: {torch.get_num_threads()} of {cores} cores (OMP_NUM_THREADS)")
    kept = "kept by the process" if keep_freed_memory() else "handed back (no glibc): slower steps"
    lines.append(f"freed memory: {kept}")
    lines.append(f"lock of labels and source data: {lock.describe()}")
    cache = cache_root()
    try:
        free = check_writable(cache, "SFDABENCH_CACHE")
        lines.append(f"cache: {cache}, {free / 2**30:.0f} GiB free")
    except BadInput as error:
        healthy = False
        lines.append(f"PROBLEM: {error}")
    try:
        root = data_root(None)
        none = "data: none configured (SFDABENCH_DATA or --data); tasks run on phantoms"
        lines += [none] if root is None else _data(root)
    except BadInput as error:
        healthy = False
        lines.append(f"PROBLEM: {error}")
    counts = ", ".join(f"{len(registry.names(kind))} {kind}" for kind in registry.FOLDERS)
    lines.append(f"entries: {counts}")
    return lines, healthy


def _data(root: Path) -> list[str]:
    """A line on each data set under `root`, those that are not there on one."""
    from sfdabench.core import registry

    lines, absent = [], []
    for name in registry.names("datasets"):
        try:
            count = len(registry.load("datasets", name)().cases(root))
            lines.append(f"data: {name}, {count} cases in {root}")
        except AbsentData:
            absent.append(name)
        except BadInput as error:
            first = " ".join(line.strip() for line in str(error).splitlines()[:2])
            lines.append(
                f"data: {name} cannot be used: {first}; `sfdabench data verify {name}` lists all"
            )
    return [*lines, f"data absent: {', '.join(absent)}"] if absent else lines
