"""A source model as a small file, so that other machines start from the same one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from sfdabench.core.errors import BadInput
from sfdabench.core.stage import Stage
from sfdabench.models.weights import from_bytes, to_bytes
from sfdabench.run import sources
from sfdabench.run.artefacts import Artefact

NOTES = ("selected_epoch", "validation_dice")


def pack(artefact: Artefact) -> bytes:
    """A source model with its weights rounded to float16, and its notes beside them."""
    info = {**artefact.card.notes, "seconds": artefact.card.seconds}
    return to_bytes(_as(torch.float16, artefact.state()), {"info": json.dumps(info)})


def unpack(data: bytes, origin: Path | str, cache: Path, stage: Stage) -> Artefact:
    """Undo, as the artefact of a stage: float32 again, with the hash of the rounded weights.

    Raises BadInput that names `origin` where `data` is not what `pack` gave.
    """
    state, metadata = from_bytes(data, origin)
    if "info" not in metadata:
        raise BadInput(f"{origin}: no source model that `sfdabench regress --update` wrote")
    info = json.loads(metadata["info"])
    return sources.put(
        cache,
        stage,
        to_bytes(_as(torch.float32, state)),
        notes={name: info[name] for name in NOTES},
        seconds=info["seconds"],
    )


def _as(kind: torch.dtype, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Batch counts stay whole numbers."""
    return {k: v.to(kind) if v.is_floating_point() else v for k, v in state.items()}
