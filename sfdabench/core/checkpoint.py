"""Loop state on disk: tensors in safetensors, the rest as JSON beside them; nothing is pickled.

The file holds a hash of both, since a damaged tensor would go on to another model silently.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sfdabench.core.errors import BadInput
from sfdabench.core.files import atomic
from sfdabench.core.seeding import random_states, restore_random_states


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # A clone, because safetensors refuses two names for one storage.
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"map": [[key, _flatten(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_flatten(item, tensors) for item in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"a checkpoint holds tensors and plain values, not {type(value).__name__}")


def _restore(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    (kind, value), *_ = tree.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "map":
        return {key: _restore(item, tensors) for key, item in value}
    if kind == "list":
        return [_restore(item, tensors) for item in value]
    return value


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Save nested maps, lists, tensors and plain values, atomically."""
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_flatten(state, tensors))
    with atomic(path, "wb") as file:
        file.write(save(tensors, {"tree": tree, "sha256": _digest(tree, tensors)}))


def read(path: Path) -> dict[str, Any]:
    """Undo: what `write` was given.

    Raises BadInput for a file that is no whole checkpoint, or not what was written.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            tree, sha256 = file.metadata()["tree"], file.metadata()["sha256"]
        if _digest(tree, tensors) != sha256:
            raise ValueError("its content does not have the hash that stands in it")
        return _restore(json.loads(tree), tensors)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: not a whole checkpoint ({error}); delete it") from error


def _digest(tree: str, tensors: Mapping[str, Tensor]) -> str:
    """Hash of the tree, and of each tensor's name, type, shape and bytes."""
    content = hashlib.sha256(tree.encode())
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name} {tensor.dtype} {[*tensor.shape]}".encode())
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return content.hexdigest()


def capture(objects: Mapping[str, Any]) -> dict[str, Any]:
    """The state of tensors, and of what has `state_dict`: modules, optimisers, endless streams."""
    return {
        name: item if isinstance(item, Tensor) else item.state_dict()
        for name, item in objects.items()
    }


def bring_back(objects: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Undo: put saved states back into the objects, in place.

    Raises BadInput where the loop's state bears other names than the saved one.
    """
    if set(objects) != set(saved):
        raise BadInput(
            f"the checkpoint holds {sorted(saved)}, the method asks for {sorted(objects)}: "
            "the method changed since; run with --force"
        )
    for name, item in objects.items():
        if isinstance(item, Tensor):
            with torch.no_grad():
                item.copy_(saved[name])
        else:
            item.load_state_dict(saved[name])


def _kept(deploy: nn.Module | None, state: Mapping[str, Any]) -> dict[str, Any]:
    return dict(state) if deploy is None else {"deploy": deploy, **state}


@dataclass
class CheckpointKeeper:
    """Saves a loop in `folder`, one file a stage, and brings it back.

    at_epoch: called as (stage, epoch, count, deploy, audited) after each epoch, before it is
        saved, so that what it writes is there whenever the checkpoint says so.
    at_step: called with the losses of each step, before the backward pass.
    patience: an epoch is saved once this many times the cost of a save has passed since the last
        one; which epochs are saved never changes a number.
    """

    folder: Path
    at_epoch: Callable[[int, int, int, nn.Module | None, bool], None] | None = None
    at_step: Callable[[Mapping[str, Tensor]], None] | None = None
    patience: float = 20.0
    _cost: float = 0.0
    _saved: float = 0.0

    def _path(self, stage: int) -> Path:
        return self.folder / f"stage-{stage}.safetensors"

    def restore(
        self,
        stage: int,
        deploy: nn.Module | None,
        state: Mapping[str, Any],
        curves: dict[str, list[float]],
    ) -> int:
        """Bring back the last saved epoch of this stage, if any; return the next epoch."""
        if not self._path(stage).exists():
            return 0
        saved = read(self._path(stage))
        bring_back(_kept(deploy, state), saved["state"])
        restore_random_states(saved["random"])
        curves.clear()
        curves.update(saved["curves"])
        return saved["epoch"] + 1

    def end_of_epoch(
        self,
        stage: int,
        epoch: int,
        count: int,
        deploy: nn.Module | None,
        state: Mapping[str, Any],
        curves: Mapping[str, list[float]],
        *,
        audited: bool,
    ) -> None:
        """Save the epoch where enough time has passed, the last one always."""
        if self.at_epoch is not None:
            self.at_epoch(stage, epoch, count, deploy, audited)
        start = time.monotonic()
        if start - self._saved < self.patience * self._cost and epoch + 1 < count:
            return
        saved = {
            "epoch": epoch,
            "state": capture(_kept(deploy, state)),
            "random": random_states(),
            "curves": dict(curves),
        }
        write(self._path(stage), saved)
        self._saved = time.monotonic()
        self._cost = self._saved - start

    def step(self, losses: Mapping[str, Tensor]) -> None:
        """Pass the losses of a step on."""
        if self.at_step is not None:
            self.at_step(losses)
