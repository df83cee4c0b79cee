"""What every maker of a stage must hold to, a method and a source-side stage alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from sfdabench.checks import gather
from sfdabench.core.fields import override
from sfdabench.core.method import Method
from sfdabench.core.stage import SourceStage

Maker = TypeVar("Maker", Method, SourceStage)


def smoke(entry: type[Maker]) -> Maker:
    """Return the maker at its smoke values, which take seconds."""
    return override(entry(), entry.smoke, owner=entry.__name__)


def not_finite(module: nn.Module) -> Iterator[str]:
    """Name the first tensors of a module that hold NaN or infinity."""
    broken = [n for n, v in module.state_dict().items() if not torch.isfinite(v).all()]
    if broken:
        yield f"not finite: {broken[:3]}"


def check_is_a_frozen_dataclass_with_a_docstring(
    entry: type[Method] | type[SourceStage],
) -> Iterator[str]:
    """Constructor arguments are the hyper-parameters, each with a default."""
    if not dataclasses.is_dataclass(entry):
        yield "not a dataclass"
        return
    if not entry.__dataclass_params__.frozen:  # type: ignore[union-attr]
        yield "not frozen"
    # a dataclass without a docstring is given its signature as one
    if not entry.__doc__ or entry.__doc__.startswith(f"{entry.__name__}("):
        yield "no docstring"
    without = [
        f.name
        for f in dataclasses.fields(entry)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if without:
        yield f"fields without a default: {without}"
        return
    for name, values in (("smoke", entry.smoke), ("phantom", entry.phantom)):
        yield from gather(_refused(entry, values), name)


def _refused(entry: type[Any], values: Mapping[str, Any]) -> Iterator[str]:
    hash(override(entry(), values, owner=entry.__name__))
    yield from ()
