"""A source model as a small file, so that other machines start from the same one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from sfdabench.core.errors import BadInput
from sfdabench.models.weights import from_bytes, to_bytes
from sfdabench.stages.source_training import SourceModel, put


def pack(folder: Path) -> bytes:
    """The model in a folder of the cache, its weights rounded to float16, its card beside them."""
    path = folder / "model.safetensors"
    state, _ = from_bytes(path.read_bytes(), path)
    card = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    info = {name: value for name, value in card.items() if name != "sha256"}
    return to_bytes(_as(torch.float16, state), {"info": json.dumps(info)})


def unpack(data: bytes, origin: Path | str, folder: Path) -> SourceModel:
    """Undo, into a folder of the cache: float32 again, with the hash of the rounded weights.

    Raises BadInput that names `origin` where `data` is not what `pack` gave.
    """
    state, metadata = from_bytes(data, origin)
    if "info" not in metadata:
        raise BadInput(f"{origin}: no source model that `sfdabench regress --update` wrote")
    return put(folder, _as(torch.float32, state), json.loads(metadata["info"]))


def _as(kind: torch.dtype, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Batch counts stay whole numbers."""
    return {k: v.to(kind) if v.is_floating_point() else v for k, v in state.items()}
