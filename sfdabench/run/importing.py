"""Reading a user's file of weights, in a confined process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sfdabench.confine.channel import Channel
from sfdabench.core.files import atomic
from sfdabench.core.stage import Stage
from sfdabench.models import weights
from sfdabench.models.composites import rebuild
from sfdabench.run.making import initial_network


def convert(
    channel: Channel,
    file: str,
    stage: Mapping[str, Any],
    composite: Mapping[str, Any] | None,
    out: str,
) -> None:
    """Write the weights in `file` as a safetensors file of the stage's network (a job).

    composite: of a model that is more than the network. Raises BadInput where the file is no state
    dict of that network, naming the keys.
    """
    network = initial_network(Stage.read(stage), None)
    state = rebuild(network, composite, read_weights(Path(file)), file).weights()
    with atomic(Path(out), "wb") as written:
        written.write(weights.to_bytes(state))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from a user's file, out of the usual wrappings.

    A checkpoint that holds the state dict under "state_dict", "model_state_dict" or "model" is
    opened, and the prefix "module." of parallel training is taken off. Raises BadInput for files
    that `models.weights.read` refuses.
    """
    state = weights.read(path, wrapped=("state_dict", "model_state_dict", "model"))
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state
