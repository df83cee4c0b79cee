"""What the steps that are written by hand share: losses and optimisers in plain torch."""

import torch
from torch import nn
from torch.nn import functional as F


def norms(model):
    return [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def bce(logits, labels):
    """-y log p - (1 - y) log(1 - p) of each pixel."""
    return -labels * F.logsigmoid(logits) - (1 - labels) * F.logsigmoid(-logits)


def cross_entropy(logits, classes):
    """-log p of each pixel's class: (B, C, H, W), (B, H, W) -> (B, H, W)."""
    return -logits.log_softmax(1).gather(1, classes.unsqueeze(1)).squeeze(1)


def encoder_and_heads(model, *, affine):
    """All weights but the heads', and the heads'; scale and shift of batch norm where wanted."""
    frozen = {id(p) for layer in norms(model) for p in layer.parameters()}
    parts = ([], [])
    for name, parameter in model.named_parameters():
        if affine or id(parameter) not in frozen:
            parts["classifier" in name or "auxiliary" in name].append(parameter)
    return parts


def sgd(parameters, rate, **more):
    return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=5e-4, **more)


def set_rate(optimiser, rate):
    for group in optimiser.param_groups:
        group["lr"] = rate


def step(optimiser, loss, inputs=None):
    optimiser.zero_grad()
    loss.backward(inputs=inputs)
    optimiser.step()


@torch.no_grad()
def follow(teacher, student, ema):
    for mine, its in zip(teacher.parameters(), student.parameters(), strict=True):
        mine.copy_(ema * mine + (1 - ema) * its)


def judge_of(channels, width, *, padding=1, bias=True):
    """Five convolutions of 4 x 4 and stride 2, torch's own start, for maps below 32 pixels."""
    layers = []
    for outs in (width, 2 * width, 4 * width, 8 * width):
        layers += [nn.Conv2d(channels, outs, 4, 2, padding, bias=bias), nn.LeakyReLU(0.2)]
        channels = outs
    layers.append(nn.Conv2d(channels, 1, 4, 2, padding, bias=bias))
    return nn.Sequential(nn.ZeroPad2d((0, 32 - 24, 0, 32 - 24)), *layers)
