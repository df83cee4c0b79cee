"""Fine-tuning as codes of the DeepLabV2 family do it: momentum SGD, heads faster than the rest."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from sfdabench.core.errors import RunFailed
from sfdabench.primitives.batch_norm import batch_norm_layers

HEADS = ("classifier", "auxiliary")  # what every network calls its last layers
MOMENTUM = 0.9  # BCDM and CBST, code
WEIGHT_DECAY = 5e-4  # BCDM and CBST, code

Parameters = list[nn.Parameter]


def encoder_and_heads(
    model: nn.Module, *, batch_norm: bool = False
) -> tuple[Parameters, Parameters]:
    """What to train of a segmenter: all but its heads, and its heads (main and auxiliary).

    Scales and shifts of batch norm are left out unless `batch_norm`. Raises RunFailed where no
    layer bears the name of a head.
    """
    frozen = [] if batch_norm else batch_norm_layers(model)
    left_out = {id(parameter) for layer in frozen for parameter in layer.parameters()}
    encoder: Parameters = []
    heads: Parameters = []
    for name, parameter in model.named_parameters():
        layer = name.removeprefix("network.").partition(".")[0]
        if id(parameter) not in left_out:
            (heads if layer in HEADS else encoder).append(parameter)
    if not heads:
        raise RunFailed(
            f"the network has no head to train: its last layer must be called {HEADS[0]}, that of "
            f"a second head {HEADS[1]}"
        )
    return encoder, heads


def momentum_sgd(
    encoder: Parameters,
    heads: Parameters,
    rate: float,
    head_factor: float,
    *,
    nesterov: bool = False,
) -> torch.optim.SGD:
    """The encoder at `rate`, the heads at `head_factor` times that.

    What has no gradient is left as it is, weight decay included: a step may follow a loss that
    was given to one of the two only.
    """
    groups = [{"params": encoder, "lr": rate}, {"params": heads, "lr": head_factor * rate}]
    return torch.optim.SGD(groups, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=nesterov)


def sgd_or_adam(
    model: nn.Module, kind: Literal["sgd", "adam"], rate: float, head_factor: float
) -> torch.optim.Optimizer:
    """Momentum SGD as `momentum_sgd` has it, or Adam of one rate for encoder and heads.

    Neither trains scales and shifts of batch norm.
    """
    encoder, heads = encoder_and_heads(model)
    if kind == "sgd":
        return momentum_sgd(encoder, heads, rate, head_factor)
    return torch.optim.Adam([*encoder, *heads], rate, betas=(0.9, 0.99))


def both_heads(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C, H, W) -> logits (B, K, H, W) of main and auxiliary head; needs "auxiliary"."""
    return model.heads(images)  # type: ignore[operator]


def all_heads(model: nn.Module, images: Tensor, heads: Literal["main", "both"]) -> list[Tensor]:
    """(B, C, H, W) -> logits (B, K, H, W) of the main head, or of both; needs "auxiliary" then."""
    return [model(images)] if heads == "main" else [*both_heads(model, images)]
