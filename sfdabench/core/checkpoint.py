"""Loop state on disk: tensors in safetensors, the rest as JSON beside them; nothing is pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sfdabench.core.errors import BadInput
from sfdabench.core.files import atomic


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
    tree = _flatten(state, tensors)
    with atomic(path, "wb") as file:
        file.write(save(tensors, {"tree": json.dumps(tree)}))


def read(path: Path) -> dict[str, Any]:
    """Undo: what `write` was given. Raises BadInput for a file that is no whole checkpoint."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return _restore(json.loads(file.metadata()["tree"]), tensors)
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise BadInput(f"{path}: not a whole checkpoint ({error}); delete it") from error


def capture(objects: Mapping[str, Any]) -> dict[str, Any]:
    """The state of modules, optimisers, schedulers (all with `state_dict`) and tensors."""
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
