"""What every network must hold to."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sfdabench.core.network import Network


def _build(entry: type[Network], outputs: int = 2) -> nn.Module:
    torch.manual_seed(0)
    return entry().build(channels=3, outputs=outputs)


def check_gives_logits_of_the_input_size(entry: type[Network]) -> None:
    """Two and five outputs, sides that no stride divides, one image in train mode."""
    for outputs, size in ((2, (64, 64)), (5, (57, 71))):
        module = _build(entry, outputs)
        for count, training in ((2, True), (1, True), (1, False)):
            module.train(training)
            logits = module(torch.rand(count, 3, *size))
            shape = (count, outputs, *size)
            assert logits.shape == shape, f"{tuple(logits.shape)}, not {shape}"
            assert torch.isfinite(logits).all(), "not finite"


def check_every_parameter_is_trained(entry: type[Network]) -> None:
    """A parameter that no output depends on is dead weight in every hash."""
    module = _build(entry).train()
    images = torch.rand(2, 3, 64, 64)
    logits = module.heads(images) if "auxiliary" in entry.features else (module(images),)  # type: ignore[operator]
    torch.stack(logits).square().mean().backward()
    dead = [name for name, p in module.named_parameters() if p.grad is None]
    assert not dead, f"no gradient: {dead[:3]}"


def check_features_are_what_it_declares(entry: type[Network]) -> None:
    """Methods are matched to networks by these names."""
    module = _build(entry)
    has = {
        "auxiliary": all(hasattr(module, n) for n in ("heads", "features", "classify_auxiliary")),
        "batch_norm": any(isinstance(m, _BatchNorm) for m in module.modules()),
        "dropout": any(
            isinstance(m, (nn.Dropout, nn.Dropout2d)) and m.p > 0 for m in module.modules()
        ),
        "penultimate": hasattr(module, "penultimate") and hasattr(module, "classify"),
    }
    wrong = [name for name, there in has.items() if there != (name in entry.features)]
    assert not wrong, f"declared and found differ in: {wrong}"


def check_a_deep_copy_is_independent(entry: type[Network]) -> None:
    """Teacher and student are copies."""
    module = _build(entry)
    twin = copy.deepcopy(module)
    with torch.no_grad():
        next(iter(twin.parameters())).add_(1)
    assert not torch.equal(next(iter(twin.parameters())), next(iter(module.parameters())))


def check_penultimate_features_lead_to_the_logits(entry: type[Network]) -> None:
    """classify(penultimate(x)) = forward(x) in eval mode."""
    if "penultimate" not in entry.features:
        return
    module = _build(entry).eval()
    images = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        features = module.penultimate(images)  # type: ignore[operator]
        logits = module.classify(features, (48, 48))  # type: ignore[operator]
        assert torch.equal(logits, module(images)), "another result than forward"


def check_first_of_two_heads_is_the_main_one(entry: type[Network]) -> None:
    """heads(x) = (forward(x), other logits of the same size) in eval mode."""
    if "auxiliary" not in entry.features:
        return
    module = _build(entry).eval()
    images = torch.rand(2, 3, 57, 48)
    with torch.no_grad():
        main, auxiliary = module.heads(images)  # type: ignore[operator]
        assert torch.equal(main, module(images)), "the first is another result than forward"
    assert auxiliary.shape == main.shape, f"{tuple(auxiliary.shape)}, not {tuple(main.shape)}"
    assert not torch.equal(auxiliary, main), "both are one"


def check_heads_are_the_two_classifiers_on_the_two_features(entry: type[Network]) -> None:
    """heads(x) = (classify(last), classify_auxiliary(low)), (low, last) = features(x)."""
    if "auxiliary" not in entry.features:
        return
    module: Any = _build(entry).eval()
    images, size = torch.rand(2, 3, 57, 48), (57, 48)
    with torch.no_grad():
        main, auxiliary = module.heads(images)
        low, last = module.features(images)
        assert torch.equal(main, module.classify(last, size)), "another result of the main head"
        by_hand = module.classify_auxiliary(low, size)
        assert torch.equal(auxiliary, by_hand), "another result of the auxiliary head"
