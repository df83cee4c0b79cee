"""The fingerprint of a machine: two that share it give the same numbers, bit for bit."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

# What chooses other kernels, and so another order of sums.
VARIABLES = (
    *("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"),
    "OPENBLAS_CORETYPE",
)
PACKAGES = ("torch", "numpy", "scipy", "Pillow")
# Lines of /proc/cpuinfo. Clouds call many processors "AMD EPYC", so the name alone is too little;
# libraries cut sums to the size of the cache.
_CPU = (
    *("vendor_id", "model name", "cpu family", "model", "cache size"),
    *("CPU implementer", "CPU part", "CPU variant"),  # of ARM, which has no name
)
_VECTORS = ("sse", "avx", "fma", "amx", "f16c", "asimd", "sve")  # other flags come with the kernel


Fingerprint = tuple[tuple[str, str], ...]  # name and value of each part, sorted


def fingerprint(threads: int) -> Fingerprint:
    """What the numbers of a run on the CPU depend on beside the code.

    threads: how many the run has.
    """
    import torch

    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    parts = {
        "cpu": _cpu(Path("/proc/cpuinfo")),
        "capability": torch.backends.cpu.get_cpu_capability(),
        **{name: os.environ.get(name, "") for name in VARIABLES},
        "threads": str(threads),
        "system": f"{platform.system()} {platform.machine()}",
        "python": python,
        **{name: version(name) for name in PACKAGES},
    }
    return tuple(sorted(parts.items()))


def _cpu(cpuinfo: Path) -> str:
    """The kind of processor and its vector instructions, from the first one that is listed."""
    if not cpuinfo.is_file():
        return platform.processor() or platform.machine()
    first = cpuinfo.read_text(encoding="utf-8").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    lines = {name.strip(): value.strip() for name, _, value in pairs}
    kind = [f"{name} {lines[name]}" for name in _CPU if name in lines]
    flags = (lines.get("flags") or lines.get("Features", "")).split()
    return ", ".join([*kind, *sorted(flag for flag in flags if flag.startswith(_VECTORS))])
