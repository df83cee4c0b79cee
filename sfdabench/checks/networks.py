"""What every network must hold to."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfdabench.checks import gather
from sfdabench.core.network import Network


def _build(entry: type[Network], outputs: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return entry().build(channels=3, outputs=outputs)


def check_gives_logits_of_the_input_size(entry: type[Network]) -> Iterator[str]:
    """Two and five outputs, sides that no stride divides, one image in train mode."""
    for outputs, size in ((2, (64, 64)), (5, (57, 71))):
        module = _build(entry, outputs)
        for count, training in ((2, True), (1, True), (1, False)):
            module.train(training)
            mode = "train" if training else "eval"
            where = f"{count} of {size[0]} x {size[1]}, {outputs} outputs, {mode} mode"
            yield from gather(_wrong_logits(module, count, outputs, size), where)


def _wrong_logits(
    module: nn.Module, count: int, outputs: int, size: tuple[int, int]
) -> Iterator[str]:
    logits = module(torch.rand(count, 3, *size))
    shape = (count, outputs, *size)
    if logits.shape != shape:
        yield f"logits are {tuple(logits.shape)}, not {shape}"
    if not torch.isfinite(logits).all():
        yield "logits are not finite"


def check_every_parameter_is_trained(entry: type[Network]) -> Iterator[str]:
    """A parameter that no output depends on is dead weight in every hash."""
    module = _build(entry).train()
    images = torch.rand(2, 3, 64, 64)
    logits = module.heads(images) if "auxiliary" in entry().features else (module(images),)  # type: ignore[operator]
    torch.stack(logits).square().mean().backward()
    dead = [name for name, p in module.named_parameters() if p.grad is None]
    if dead:
        yield f"no gradient: {dead[:3]}"


def check_features_are_what_it_declares(entry: type[Network]) -> Iterator[str]:
    """Methods are matched to networks by these names."""
    module, declared = _build(entry), entry().features
    has = {
        "auxiliary": all(hasattr(module, n) for n in ("heads", "features", "classify_auxiliary")),
        "boundary": hasattr(module, "boundary"),
        "batch_norm": any(isinstance(m, _BatchNorm) for m in module.modules()),
        "dropout": any(
            isinstance(m, (nn.Dropout, nn.Dropout2d)) and m.p > 0 for m in module.modules()
        ),
        "penultimate": hasattr(module, "penultimate") and hasattr(module, "classify"),
    }
    for name, there in has.items():
        if there and name not in declared:
            yield f"has {name} and does not declare it"
        if not there and name in declared:
            yield f"declares {name} and does not have it"
    if unknown := declared - has.keys():
        yield f"declares features that no method can ask for: {sorted(unknown)}"


def check_a_deep_copy_is_independent(entry: type[Network]) -> Iterator[str]:
    """Teacher and student are copies."""
    module = _build(entry)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for value in twin.parameters():
            value.add_(1)
    shared = [
        name
        for (name, mine), its in zip(module.named_parameters(), twin.parameters(), strict=True)
        if torch.equal(mine, its)
    ]
    if shared:
        yield f"moves with its copy: {shared[:3]}"


def check_penultimate_features_lead_to_the_logits(entry: type[Network]) -> Iterator[str]:
    """classify(penultimate(x)) = forward(x) in eval mode."""
    if "penultimate" not in entry().features:
        return
    module = _build(entry).eval()
    images = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        features = module.penultimate(images)  # type: ignore[operator]
        logits = module.classify(features, (48, 48))  # type: ignore[operator]
        if not torch.equal(logits, module(images)):
            yield "classify(penultimate(images)) is another result than forward(images)"


def check_masks_beside_a_boundary_are_its_logits(entry: type[Network]) -> Iterator[str]:
    """boundary(x) = (forward(x), one channel of the same size) in eval mode."""
    if "boundary" not in entry().features:
        return
    module = _build(entry).eval()
    images = torch.rand(2, 3, 57, 48)
    with torch.no_grad():
        masks, edges = module.boundary(images)  # type: ignore[operator]
        if not torch.equal(masks, module(images)):
            yield "the logits beside the boundary are another result than forward"
    if edges.shape != (2, 1, 57, 48):
        yield f"the boundary's logits are {tuple(edges.shape)}, not (2, 1, 57, 48)"


def check_first_of_two_heads_is_the_main_one(entry: type[Network]) -> Iterator[str]:
    """heads(x) = (forward(x), other logits of the same size) in eval mode."""
    if "auxiliary" not in entry().features:
        return
    module = _build(entry).eval()
    images = torch.rand(2, 3, 57, 48)
    with torch.no_grad():
        main, auxiliary = module.heads(images)  # type: ignore[operator]
        if not torch.equal(main, module(images)):
            yield "the first head is another result than forward"
    if auxiliary.shape != main.shape:
        yield f"the second head gives {tuple(auxiliary.shape)}, not {tuple(main.shape)}"
    elif torch.equal(auxiliary, main):
        yield "both heads are one"


def check_heads_are_the_two_classifiers_on_the_two_features(entry: type[Network]) -> Iterator[str]:
    """heads(x) = (classify(last), classify_auxiliary(low)), (low, last) = features(x)."""
    if "auxiliary" not in entry().features:
        return
    module: Any = _build(entry).eval()
    images, size = torch.rand(2, 3, 57, 48), (57, 48)
    with torch.no_grad():
        main, auxiliary = module.heads(images)
        low, last = module.features(images)
        if not torch.equal(main, module.classify(last, size)):
            yield "the main head is another result than classify on the last features"
        if not torch.equal(auxiliary, module.classify_auxiliary(low, size)):
            yield "the auxiliary head is another result than classify_auxiliary on the low features"
