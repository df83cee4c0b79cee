"""Randomness by key, so that no number depends on order, workers or the device."""

from __future__ import annotations

import hashlib
import os
import random
from typing import Any

import numpy as np


def generator(*key: int | str) -> np.random.Generator:
    """An independent stream for a key such as (seed, "strong", epoch, sample)."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype=np.uint64)))


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch (CUDA included), and ask torch for deterministic kernels.

    Names the cuBLAS workspace too: without it CUDA matrix products refuse to be deterministic.
    """
    import torch
    import torch.utils.deterministic

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 -- libraries that methods call may use it
    torch.manual_seed(seed)
    # The same switch as use_deterministic_algorithms, without its import of the compiler (4 s).
    torch.set_deterministic_debug_mode("error")
    # Debugging help of the deterministic mode that writes every new tensor twice.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # "float32" in a record means float32


def random_states() -> dict[str, Any]:
    """Every global random state as plain values and tensors."""
    import torch

    version, internal, gauss = random.getstate()
    state: Any = np.random.get_state()  # noqa: NPY002
    name, keys, position, has_gauss, cached = state
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Undo: bring back what `random_states` returned."""
    import torch

    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    state = (name, np.array(keys, dtype=np.uint32), position, has_gauss, cached)
    np.random.set_state(state)  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
