"""Weights as bytes and back, their content hash, and the errors of a file that does not fit."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Collection, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from sfdabench.core.errors import BadInput

SHOWN = 8  # keys named in a message; the rest is counted


def sha256(state: Mapping[str, Tensor]) -> str:
    """Hash of the content: names in order, dtypes, shapes and values, wherever they lie."""
    total = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().data)
    return total.hexdigest()


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity."""
    return [
        name
        for name, value in state.items()
        if value.is_floating_point() and not torch.isfinite(value).all()
    ]


def to_bytes(state: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file; the caller writes it whole or not at all."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    return safetensors.torch.save(tensors, dict(metadata or {}))


def from_bytes(data: bytes, origin: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """State and metadata of a safetensors file; BadInput naming `origin` where it is none."""
    try:
        state = safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise BadInput(f"{origin}: not a whole safetensors file ({error})") from error
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return state, header.get("__metadata__", {})


def read(path: Path, wrapped: Collection[str] = ()) -> dict[str, Tensor]:
    """State dict of a local .safetensors, or of a .pth or .pt read by torch's restricted unpickler.

    wrapped: names under which a checkpoint may hold the state dict beside other things.
    Raises BadInput where the file is missing, of another kind, broken, or no dict of tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return from_bytes(path.read_bytes(), path)[0]
    if path.suffix not in (".pth", ".pt"):
        raise BadInput(f"{path}: weights are read from .safetensors, .pth or .pt")
    with path.open("rb") as file:
        start = file.read(2)
    if start not in (b"PK", b"\x80\x02"):  # the zip and the older format of torch.save
        raise BadInput(f"{path}: not a file of torch.save")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        *(pickle.UnpicklingError, EOFError, RuntimeError, ValueError, OSError),
        *(KeyError, IndexError, TypeError, AttributeError),  # what broken pickles end in
    ) as error:
        reason = str(error).partition("\n")[0]
        raise BadInput(f"{path}: not a whole state dict of plain tensors ({reason})") from error
    if isinstance(state, dict):
        inner = [state[name] for name in wrapped if isinstance(state.get(name), dict)]
        state = inner[0] if len(inner) == 1 else state
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise BadInput(f"{path}: holds no state dict (names -> tensors)")
    return state


def fill(module: nn.Module, state: Mapping[str, Tensor], origin: Path | str) -> None:
    """Copy `state` into `module`; BadInput naming `origin` and the keys where they do not match.

    Weights that are not finite are refused as well. The module is untouched then.
    """
    own = module.state_dict()
    misshaped = [
        f"{name} {tuple(state[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    faults = [
        f"{len(keys)} {kind}: {listed(keys)}"
        for kind, keys in (
            ("missing", [name for name in own if name not in state]),
            ("unexpected", [name for name in state if name not in own]),
            ("mis-shaped", misshaped),
        )
        if keys
    ]
    if faults:
        raise BadInput(f"{origin}: weights of another network; keys " + "; ".join(faults))
    if broken := not_finite(state):
        raise BadInput(f"{origin}: weights that are NaN or infinite: {listed(broken)}")
    module.load_state_dict(dict(state))


def listed(keys: Collection[str]) -> str:
    """The first keys, and how many more there are."""
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join([*keys][:SHOWN]) + more
