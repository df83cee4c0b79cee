"""The first steps of each method against its paper's step, written out by hand in plain torch.

Written from the papers and /specs, not from the methods' files. Both sides get the same start
model and the same batches, for at least two epochs of three steps, the last of one image: so
schedules, banks and averages show. They round alike but for the order of sums, hence RTOL and ATOL,
which are the float32 rounding of a few steps; a step moves a weight by a hundred times that.
"""

import copy
import math

import pytest
import torch
from by_hand import (
    bce,
    cross_entropy,
    encoder_and_heads,
    follow,
    judge_of,
    norms,
    set_rate,
    sgd,
    step,
    translators,
)
from scipy import ndimage
from torch import nn
from torch.nn import functional as F

from sfdabench.checks import toy as toys
from sfdabench.checks.toy import CPU, Toy, attempt, draw, source_model
from sfdabench.core import registry
from sfdabench.core.head import SOFTMAX
from sfdabench.core.seeding import seed_all
from sfdabench.core.streams import Clock, LabelledStream, Stream
from sfdabench.primitives.views import SOURCE, anatomy_pair, fundus_strong, identity

RTOL, ATOL = 1e-4, 1e-6
# Adam divides by the size of a gradient, and so turns rounding of the smallest ones into steps of a
# tenth of the rate; where many networks train each other that adds up.
LOOSE = {"srda": 1e-5, "cycada": 3e-5, "sifa": 1e-4, "synsegnet": 1e-5, "dsfn": 1e-5}
SIZE = 4  # of a batch, of nine images

# Methods whose steps are written out in a file of their own.
ELSEWHERE = {"tent", "tent_online", "self_ensembling", "self_ensembling_sf"}


class Scene:
    """The start model and the batches that a method is given, in the same order."""

    def __init__(self, setting, needs):
        self.setting, self.needs, self.clock = setting, needs, Clock()
        images, _ = draw(setting, "target", setting.count, foreground=True)
        _, labels = draw(setting, "labels-0", setting.count, foreground=True)
        shared = {"ids": tuple(map(str, range(setting.count))), "device": CPU}
        shared |= {"name": "target", "images": images, "seed": 0, "clock": self.clock}
        self.target = Stream(**shared)
        self.labelled = LabelledStream(
            **shared,
            labels=labels,
            classes=setting.values,
            background=setting.head.exclusive,
        )
        self.steps = -(-setting.count // SIZE)  # of an epoch
        images, labels = draw(setting, "source", 8, foreground=True)
        self.source = LabelledStream(
            **shared | {"name": "source", "images": images, "ids": tuple(map(str, range(8)))},
            labels=labels,
            classes=setting.values,
            background=setting.head.exclusive,
        )

    def model(self):
        return source_model(self.setting, self.needs)

    def epochs(self, count, stage=0):
        for epoch in range(count):
            self.clock.start(stage, epoch)
            yield epoch

    def batches(self, size=SIZE, **views):
        return self.target.batches(size, **(views or {"plain": identity}))

    def in_order(self):
        """All images as one batch, un-augmented."""
        (batch,) = self.target.batches(self.setting.count, shuffle=False, plain=identity)
        return batch.plain


def source_only(scene):
    return scene.model()


def adabn(scene):
    """Mean and unbiased variance of what reaches each layer, mean over the batches."""
    model, seen = scene.model(), {}
    for layer in norms(model):
        layer.register_forward_pre_hook(lambda m, inputs: seen.setdefault(m, []).append(inputs[0]))
    model.train()
    for _ in scene.epochs(1):
        for batch in scene.batches():
            with torch.no_grad():
                model(batch.plain)
    for layer in norms(model):
        maps = seen[layer]
        layer.running_mean = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
        layer.running_var = torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0)
        layer.num_batches_tracked.fill_(len(maps))
    return model


def supervised(scene):
    """Binary cross-entropy on the target's own labels."""
    model = scene.model().train()
    optimiser = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99))
    for epoch in scene.epochs(3):
        set_rate(optimiser, 1e-3 * 0.8**epoch)
        for images, masks in scene.labelled.pairs(SIZE, SOURCE["light"]):
            step(optimiser, bce(model(images), masks).mean())
    return model


def entropy_minimisation(scene):
    """-p log p - (1 - p) log(1 - p), as a share of log 2."""
    model = scene.model().train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in scene.epochs(2):
        for batch in scene.batches():
            p = model(batch.plain).sigmoid()
            step(optimiser, (-p * p.log() - (1 - p) * (1 - p).log()).mean() / math.log(2))
    return model


def pseudo_label(scene):
    """CBMT's equations 1 and 2: cross-entropy with 1[p > gamma] of the model as it trains."""
    model = scene.model().train()
    optimiser = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99))
    for epoch in scene.epochs(3):
        set_rate(optimiser, 1e-3 * 0.7**epoch)
        for batch in scene.batches():
            logits = model(batch.plain)
            step(optimiser, bce(logits, (logits.detach().sigmoid() > 0.75).float()).mean())
    return model


def mean_teacher(scene):
    """CBMT without its weight."""
    student, teacher = scene.model().train(), scene.model().train()
    optimiser = torch.optim.Adam(student.parameters(), betas=(0.9, 0.99))
    for epoch in scene.epochs(3):
        set_rate(optimiser, 5e-4 * 0.7**epoch)
        for batch in scene.batches(weak=identity, strong=fundus_strong):
            with torch.no_grad():
                labels = (teacher(batch.weak).sigmoid() > 0.75).float()
            step(optimiser, bce(student(batch.strong), labels).mean())
            follow(teacher, student, 0.9)
    return teacher


def cbmt(scene):
    """Equations 1 to 6, with the paper's bank of whole prediction maps."""
    gamma, alpha, cup = 0.5, 0.2, 0  # on the toy the band above 0.75 soon holds no pixel
    student, teacher = scene.model(), scene.model().train()
    with torch.no_grad():
        bank = student.eval()(scene.in_order()).sigmoid()[:, cup].double()
    student.train()
    optimiser = torch.optim.Adam(student.parameters(), betas=(0.9, 0.99))
    for epoch in scene.epochs(3):
        set_rate(optimiser, 5e-4 * 0.7**epoch)
        foreground = bank[(bank > gamma) & (bank < 1 - (1 - gamma) * alpha)]
        background = bank[(bank > gamma * alpha) & (bank < gamma)]
        eta = (-foreground.log()).mean() / (-(1 - background).log()).mean()
        for batch in scene.batches(weak=identity, strong=fundus_strong):
            with torch.no_grad():
                p = teacher(batch.weak).sigmoid()
            labels = (p > gamma).float()
            weight = torch.ones_like(labels)
            weight[:, cup][labels[:, cup] == 0] = eta.float()
            losses = weight * bce(student(batch.strong), labels)
            step(optimiser, losses.sum() / weight.sum())
            bank[batch.index] = p[:, cup].double()
            follow(teacher, student, 0.9)
    return teacher


def threshold(scene):
    """Labels of the start model where p >= 0.8, once; the model in eval mode throughout."""
    model = scene.model()
    with torch.no_grad():
        sureness, labels = model(scene.in_order()).softmax(1).max(1)
    kept = (sureness >= 0.8).float()
    encoder, heads = encoder_and_heads(model, affine=False)
    slow, fast = sgd(encoder, 1e-2), sgd(heads, 1e-1)
    done = 0
    for _ in scene.epochs(2):
        for batch in scene.batches():
            decay = (1 - done / (2 * scene.steps)) ** 0.9
            set_rate(slow, 1e-2 * decay)
            set_rate(fast, 1e-1 * decay)
            keep = kept[batch.index]
            losses = keep * cross_entropy(model(batch.plain), labels[batch.index])
            slow.zero_grad()
            step(fast, losses.sum() / keep.sum(), inputs=encoder + heads)
            slow.step()
            done += 1
    return model


def cbst(scene):
    """Steps 1 to 5 of the specification: two rounds of two epochs."""
    model = scene.model()
    encoder, heads = encoder_and_heads(model, affine=False)
    for number in range(2):
        with torch.no_grad():
            p = model(scene.in_order()).softmax(1)
        thresholds = []
        for c in range(p.shape[1]):
            won = [image[c][image.argmax(0) == c][::4] for image in p]  # every fourth, an image
            values = sorted(torch.cat(won).tolist(), reverse=True)
            rank = int(len(values) * (0.2 + 0.15 * number))
            thresholds.append(values[rank - 1] if rank else 1.0)
        relative = p / torch.tensor(thresholds).view(-1, 1, 1)
        labels, kept = relative.argmax(1), (relative.amax(1) >= 1).float()
        slow, fast = sgd(encoder, 1e-2), sgd(heads, 1e-1)
        for _ in scene.epochs(2, stage=number):
            for batch in scene.batches():
                keep = kept[batch.index]
                losses = keep * cross_entropy(model(batch.plain), labels[batch.index])
                slow.zero_grad()
                step(fast, losses.sum() / keep.sum(), inputs=encoder + heads)
                slow.step()
    return model


def apl(scene):
    """Algorithm 1: the heads by equation 2, then the encoder by equation 4."""
    model = scene.model()
    encoder, heads = encoder_and_heads(model, affine=False)
    slow, fast = sgd(encoder, 1e-2), sgd(heads, 1e-1)
    done = 0
    for _ in scene.epochs(2):
        for batch in scene.batches():
            decay = (1 - done / (2 * scene.steps)) ** 0.9
            set_rate(slow, 1e-2 * decay)
            set_rate(fast, 1e-1 * decay)
            p, q = (logits.softmax(1) for logits in model.heads(batch.plain))
            mean = (p + q).detach() / 2
            labels, ordered = mean.argmax(1), mean.sort(dim=1, descending=True).values
            confidence = ordered[:, 0] - ordered[:, 1]
            consistency = 0.0
            winners_p, winners_q = p.argmax(1), q.argmax(1)
            for i in range(p.shape[1]):
                for j in range(p.shape[1]):
                    if i != j:
                        pixels = ((winners_p == i) & (winners_q == j)).sum((1, 2))
                        relevance = pixels * (p[:, i] * q[:, j]).mean((1, 2))
                        consistency = consistency + relevance.mean()
            step(fast, consistency, inputs=heads)
            main, auxiliary = (cross_entropy(x, labels) for x in model.heads(batch.plain))
            loss = (confidence * main).mean() + 0.1 * (confidence * auxiliary).mean()
            step(slow, loss, inputs=encoder)
            done += 1
    return model


def mrnet(scene):
    """Labels from two scales, then CE exp(-D) + D for each head; everything trained."""
    model = scene.model()
    with torch.no_grad():
        images, total = scene.in_order(), 0.0
        for side in (24, 30):
            view = F.interpolate(images, (side, side), mode="bilinear", align_corners=True)
            main, auxiliary = model.heads(view)
            logits = main + 0.5 * auxiliary
            logits = F.interpolate(logits, (24, 24), mode="bilinear", align_corners=True)
            total = total + logits.softmax(1)
    labels = total.argmax(1)
    model.train()
    encoder, heads = encoder_and_heads(model, affine=True)
    slow, fast = (sgd(p, 1e-3, nesterov=True) for p in (encoder, heads))
    done = 0
    for _ in scene.epochs(2):
        for batch in scene.batches():
            decay = (1 - done / (2 * scene.steps)) ** 0.9
            set_rate(slow, 1e-3 * decay)
            set_rate(fast, 1e-2 * decay)
            main, auxiliary = model.heads(batch.plain)
            parts = []
            for mine, its in ((main, auxiliary), (auxiliary, main)):
                divergence = its.softmax(1) * (its.log_softmax(1) - mine.log_softmax(1))
                divergence = divergence.sum(1)
                losses = cross_entropy(mine, labels[batch.index])
                parts.append((losses * torch.exp(-divergence)).mean() + divergence.mean())
            slow.zero_grad()
            step(fast, parts[0] + 0.5 * parts[1])
            slow.step()
            done += 1
    return model


class Mixing(nn.Module):
    """Batch norm by equation 3: (1 - eta) of the batch's statistics and eta of the source's."""

    eta = 1.0

    def __init__(self, layer):
        super().__init__()
        self.weight, self.bias, self.eps = layer.weight, layer.bias, layer.eps
        self.source = layer.running_mean.clone(), layer.running_var.clone()

    def forward(self, maps):
        self.input = maps
        mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3), correction=0)
        mean = (1 - self.eta) * mean + self.eta * self.source[0]
        variance = (1 - self.eta) * variance + self.eta * self.source[1]
        self.used = mean.detach(), variance.detach()
        mean, variance, weight, bias = (
            v.view(1, -1, 1, 1) for v in (mean, variance, self.weight, self.bias)
        )
        return (maps - mean) / (variance + self.eps).sqrt() * weight + bias


def osuda(scene):
    """Equations 3 to 6, entropy with the sign that it should have."""
    deployed = scene.model()
    model, layers = copy.deepcopy(deployed), []
    for name, layer in deployed.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            parent, _, child = name.rpartition(".")
            layers.append(Mixing(model.get_submodule(name)))
            setattr(model.get_submodule(parent), child, layers[-1])
    source = [(x.weight.detach().clone(), x.bias.detach().clone()) for x in layers]
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    total, t = 2 * scene.steps, 0

    def pool():
        """Mean and variance of all that reaches each layer, over a pass of the target."""
        maps = [[] for _ in layers]
        for layer in layers:
            layer.eta = 0.0
        for batch in scene.batches():
            with torch.no_grad():
                model(batch.plain)
            for layer, mine in zip(layers, maps, strict=True):
                mine.append(layer.input.double())
        for layer, mine in zip(norms(deployed), maps, strict=True):
            everything = torch.cat(mine)
            layer.running_mean.copy_(everything.mean((0, 2, 3)))
            layer.running_var.copy_(everything.var((0, 2, 3), correction=0))

    for _ in scene.epochs(2):
        for batch in scene.batches():
            for layer in layers:
                layer.eta = math.exp(-t)
            p = model(batch.plain).sigmoid()
            entropy = (-p * p.log() - (1 - p) * (1 - p).log()).mean()
            closeness = []
            for layer in layers:
                (mean_s, variance_s), (mean, variance) = layer.source, layer.used
                gap = (
                    mean_s / (variance_s + layer.eps).sqrt() - mean / (variance + layer.eps).sqrt()
                )
                closeness.append(1 / (1 + gap.abs()))
            channels = sum(len(c) for c in closeness)
            whole = sum(c.sum() for c in closeness)
            consistency = 0.0
            for layer, (weight, bias), c in zip(layers, source, closeness, strict=True):
                moved = (weight - layer.weight).abs() + (bias - layer.bias).abs()
                consistency = consistency + ((1 + channels * c / whole) * moved).sum()
            step(optimiser, consistency + 10 * (1 - t / total) * entropy)
            t += 1
        pool()
    trained = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in deployed.named_parameters():
            parameter.copy_(trained[name])
    return deployed


def advent(scene):
    """Two heads, softmax of four channels: entropy maps to base 4, source 0 and target 1."""
    seed_all(0)
    model = scene.model().train()
    judges = nn.ModuleList([judge_of(4, 4), judge_of(4, 4)])
    encoder, heads = encoder_and_heads(model, affine=False)
    slow, fast, referee = (
        sgd(encoder, 1e-2),
        sgd(heads, 1e-1),
        torch.optim.Adam(judges.parameters(), 5e-2, betas=(0.9, 0.99)),
    )
    done, total = 0, 2 * 2

    def maps(logits):
        p = logits.softmax(1)
        return -p * torch.log2(p + 1e-30) / math.log2(4)

    for _ in scene.epochs(2):
        target = scene.target.endless(SIZE, plain=identity)
        for images, masks in scene.source.pairs(SIZE, SOURCE["light"]):
            decay = (1 - done / total) ** 0.9
            set_rate(slow, 1e-2 * decay)
            set_rate(fast, 1e-1 * decay)
            set_rate(referee, 5e-2 * decay)
            of_source = model.heads(images)
            task = [cross_entropy(logits, masks.argmax(1)).mean() for logits in of_source]
            of_target = model.heads(next(target).plain)
            fooled = [
                bce(judge(maps(logits)), torch.zeros(())).mean()
                for judge, logits in zip(judges, of_target, strict=True)
            ]
            verdicts = [
                bce(judge(maps(s).detach()), torch.zeros(())).mean() / 2
                + bce(judge(maps(t).detach()), torch.ones(())).mean() / 2
                for judge, s, t in zip(judges, of_source, of_target, strict=True)
            ]
            loss = task[0] + 0.2 * task[1] + 3 * fooled[0] + fooled[1]
            slow.zero_grad()
            fast.zero_grad()
            loss.backward(inputs=[*encoder, *heads])
            step(referee, sum(verdicts))
            slow.step()
            fast.step()
            done += 1
    return model


def adaoutput(scene):
    """One head, sigmoid: maps are the probabilities, the game is one of least squares."""
    seed_all(0)
    model, judge = scene.model().train(), judge_of(2, 4)
    encoder, heads = encoder_and_heads(model, affine=False)
    optimiser = torch.optim.Adam([*encoder, *heads], 1e-3, betas=(0.9, 0.99))
    referee = torch.optim.Adam(judge.parameters(), 5e-2, betas=(0.9, 0.99))
    done, total = 0, 2 * 2
    for _ in scene.epochs(2):
        target = scene.target.endless(SIZE, plain=identity)
        for images, masks in scene.source.pairs(SIZE, SOURCE["light"]):
            decay = (1 - done / total) ** 0.9
            set_rate(optimiser, 1e-3 * decay)
            set_rate(referee, 5e-2 * decay)
            of_source, of_target = model(images), model(next(target).plain)
            fooled = (judge(of_target.sigmoid()) ** 2).mean()
            verdict = (judge(of_source.sigmoid().detach()) ** 2).mean() / 2
            verdict = verdict + ((judge(of_target.sigmoid().detach()) - 1) ** 2).mean() / 2
            optimiser.zero_grad()
            (bce(of_source, masks).mean() + 3 * fooled).backward(inputs=[*encoder, *heads])
            step(referee, verdict)
            optimiser.step()
            done += 1
    return model


def srda(scene):
    """Sigmoid, two channels, each on or off; the ratio of the batch against the source's."""
    model = scene.model().train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3, weight_decay=1e-4)
    _, labels = draw(scene.setting, "source", 8, foreground=True)
    shares = [float((torch.as_tensor(labels) >= least).double().mean()) for least in (2, 1)]
    tau = torch.tensor([[share, 1 - share] for share in shares])
    nu = (1 / tau) / (1 / tau).sum(1, keepdim=True)
    for epoch in scene.epochs(2):
        set_rate(optimiser, 1e-3 * 0.5**epoch)
        for batch in scene.batches():
            q = model(batch.plain).sigmoid()
            loss = torch.zeros(())
            for k in range(2):
                p = torch.stack((q[:, k], 1 - q[:, k]))
                loss = loss - (nu[k].view(2, 1, 1, 1) * p * p.log()).sum(0).mean() / 2
                that = (p / p.amax(0)).sum((2, 3))
                that = (that / that.sum(0)).mean(1)
                loss = loss + 3 * (that * (that / tau[k]).log()).sum() / 2
            step(optimiser, loss)
    return model


def dpl(scene):
    """Sigmoid: passes with dropped features, prototypes a batch, training where all agree."""
    seed_all(0)
    labeller, labels, masks = scene.model().train(), [], []
    for batch in scene.target.batches(SIZE, shuffle=False, plain=identity):
        with torch.no_grad():
            features = labeller.penultimate(batch.plain)
            dropped = [F.dropout(features, 0.5) for _ in range(3)]
            logits = torch.stack([labeller.classify(f, (24, 24)) for f in dropped])
        p, mean = logits.sigmoid().mean(0), torch.stack(dropped).mean(0)
        reliable = (logits / 2).sigmoid().std(0) < 0.08
        y, keep = p > 0.5, []
        for k in range(2):
            of_class = (y[:, k] & reliable[:, k]) * p[:, k]
            of_rest = (~y[:, k] & reliable[:, k]) * (1 - p[:, k])
            centres = [(mean * w[:, None]).sum((0, 2, 3)) / w.sum() for w in (of_class, of_rest)]
            gaps = [((mean - c.view(1, -1, 1, 1)) ** 2).sum(1) for c in centres]
            keep.append(reliable[:, k] & (y[:, k] == (gaps[0] < gaps[1])))
        labels.append(y)
        masks.append(torch.stack(keep, 1))
    labels, masks = torch.cat(labels).float(), torch.cat(masks).float()
    assert 0.2 < masks.mean() < 0.99
    model = scene.model().train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3, betas=(0.9, 0.99))
    for _ in scene.epochs(2):
        for batch in scene.target.batches(SIZE, shuffle=False, strong=fundus_strong):
            y, m = labels[batch.index], masks[batch.index]
            step(optimiser, (bce(model(batch.strong), y) * m).sum() / m.sum())
    return model


def beal(scene):
    """Sigmoid; bands by scipy, judges of entropy and of the boundary, the rate drops at half."""
    seed_all(0)
    model = scene.model().train()
    judges = nn.ModuleList(
        translators.normal(judge_of(channels, 32, padding=2, bias=False)) for channels in (2, 1)
    )
    optimiser = torch.optim.Adam(model.parameters(), 1e-3, betas=(0.9, 0.99))
    referee = torch.optim.SGD(judges.parameters(), 10.0, momentum=0.99, weight_decay=5e-4)

    def unlabelled(images, rngs):
        return SOURCE["light"](images, torch.zeros(len(images), 24, 24, dtype=torch.uint8), rngs)[0]

    def band(masks):
        bands = []
        for image in masks.numpy() > 0:
            grown = [ndimage.binary_dilation(m, iterations=2) for m in image]
            shrunk = [ndimage.binary_erosion(m, iterations=2) for m in image]
            union = sum(g & ~s for g, s in zip(grown, shrunk, strict=True)) > 0
            bands.append(torch.from_numpy(ndimage.gaussian_filter(union.astype(float), 0.05 * 24)))
        return torch.stack(bands)[:, None].float()

    for epoch in scene.epochs(2):
        set_rate(optimiser, (1e-3, 5e-4)[epoch])
        target = scene.target.endless(SIZE, augmented=unlabelled)
        for images, masks in scene.source.pairs(SIZE, SOURCE["light"]):
            logits, edges = model.boundary(images)
            optimiser.zero_grad()
            truth = ((edges.sigmoid() - band(masks)) ** 2).mean()
            (bce(logits, masks).mean() + truth).backward()
            of_target = model.boundary(next(target).augmented)
            maps = []
            for q, b in ((logits.sigmoid(), edges), (of_target[0].sigmoid(), of_target[1])):
                maps.append((-q * torch.log(q + 1e-7), b.sigmoid()))
            fooled = [
                bce(judge(m), torch.zeros(())).mean()
                for judge, m in zip(judges, maps[1], strict=True)
            ]
            (3 * sum(fooled)).backward(inputs=[*model.parameters()])
            optimiser.step()
            verdict = [
                bce(judge(m.detach()), torch.full((), label)).mean()
                for label, of_domain in ((0.0, maps[0]), (1.0, maps[1]))
                for judge, m in zip(judges, of_domain, strict=True)
            ]
            step(referee, sum(verdict))
    return model


def seat(scene):
    """Sigmoid; self-ensembling's step, and a judge of the student's maps of both domains."""
    seed_all(0)
    student, teacher = scene.model().train(), scene.model().train()
    judge = judge_of(2, 4)
    optimiser = torch.optim.Adam(student.parameters(), 1e-3, weight_decay=1e-3)
    referee = torch.optim.Adam(judge.parameters(), 5e-2, betas=(0.9, 0.99))
    number = 0
    for epoch in scene.epochs(3):
        share = (epoch + 1) / 3
        rise = math.exp(-5 * (1 - share / 0.5) ** 2) if share < 0.5 else 1
        fall = rise if share <= 0.5 else (math.cos(math.pi * (share - 0.5) / 0.5) + 1) / 2
        set_rate(optimiser, 1e-3 * fall)
        weight = 4 * (math.exp(-5 * (1 - share / 0.7) ** 2) if share < 0.7 else 1)
        target = scene.target.endless(SIZE, plain=identity)
        for images, masks in scene.source.pairs(SIZE, SOURCE["light"]):
            batch = next(target)
            with torch.no_grad():
                soft = teacher(batch.plain).sigmoid()
            shown, soft = batch.paired(anatomy_pair, soft)
            of_source, of_target = student(images), student(shown)
            loss = bce(of_source, masks).mean()
            loss = loss + weight * ((of_target.sigmoid() - soft) ** 2).mean()
            loss = loss + 3 * bce(judge(of_target.sigmoid()), torch.zeros(())).mean()
            step(optimiser, loss, inputs=[*student.parameters()])
            verdict = bce(judge(of_source.sigmoid().detach()), torch.zeros(())).mean() / 2
            verdict = verdict + bce(judge(of_target.sigmoid().detach()), torch.ones(())).mean() / 2
            step(referee, verdict)
            number += 1
            follow(teacher, student, min(1 - 1 / (number + 1), 0.5 if share <= 0.4 else 0.8))
    return teacher


def ud4r(scene):
    """Sigmoid; labels at mid-means of single predictions, turned over where passes contradict."""
    seed_all(0)
    first, second, single, mean = scene.model(), scene.model().train(), [], []
    for batch in scene.target.batches(SIZE, shuffle=False, plain=identity):
        with torch.no_grad():
            single.append(first(batch.plain).sigmoid())
            features = second.penultimate(batch.plain)
            dropped = [second.classify(F.dropout(features, 0.5), (24, 24)) for _ in range(3)]
        mean.append(torch.stack(dropped).sigmoid().mean(0))
    single, mean, labels = torch.cat(single).double(), torch.cat(mean).double(), []
    for k in range(2):
        p, q, cut = single[:, k], mean[:, k], 0.5
        for _ in range(20):
            moved = float(p[p > cut].mean() + p[p <= cut].mean()) / 2
            cut, gap = moved, abs(moved - cut)
            if gap < 1e-3:
                break
        y = p > cut
        on, off = q[y].mean(), (1 - q[~y]).mean()
        noisy = (y & (1 - q >= off) & (q < on)) | (~y & (q >= on) & (1 - q < off))
        assert 0.005 < noisy.double().mean() < 0.5
        sure = 1 + (q * q.log2() + (1 - q) * (1 - q).log2())
        labels.append(torch.where(noisy, torch.where(y, 1 - sure, sure), y.double()))
    labels = torch.stack(labels, 1).float()
    model = scene.model().train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3, betas=(0.9, 0.99))
    for _ in scene.epochs(2):
        for batch in scene.batches(strong=fundus_strong):
            step(optimiser, bce(model(batch.strong), labels[batch.index]).mean())
    return model


class Bell(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(4).normal_(0.2, 0.05).abs())

    def forward(self, x):
        return torch.exp(-(x**2) / (self.scale.view(1, -1, 1, 1) ** 2 + 1e-6))


def dae(scene):
    """Sigmoid; the normaliser learns towards denoised predictions of before the epoch."""
    denoiser = toys._stage("denoiser", scene.setting).eval()
    seed_all(0)
    model, last = scene.model(), nn.Conv2d(4, 3, 3, padding=1)
    last.weight.data.zero_()
    last.bias.data.zero_()
    first = [nn.Conv2d(3, 4, 3, padding=1), Bell(), nn.Conv2d(4, 4, 3, padding=1), Bell()]
    layers = nn.Sequential(*first, last)
    optimiser = torch.optim.Adam(layers.parameters(), 1e-1)

    def soft_dice(p, q):
        return (2 * (p * q).sum((2, 3)) + 1e-4) / ((p + q).sum((2, 3)) + 1e-4)

    def look():
        images = scene.in_order()
        with torch.no_grad():
            p = model(images + layers(images)).sigmoid()
            q = denoiser(p).sigmoid()
        return (q * 255).round() / 255, float(soft_dice(p, q).mean())

    scene.clock.passes = 0
    clean, best = look()
    kept, agreements = copy.deepcopy(layers), [best]
    for _ in scene.epochs(4):
        for batch in scene.batches():
            p = model(batch.plain + layers(batch.plain)).sigmoid()
            step(optimiser, 1 - soft_dice(p, clean[batch.index]).mean(), [*layers.parameters()])
        clean, agreement = look()
        agreements.append(agreement)
        if agreement > best:
            best, kept = agreement, copy.deepcopy(layers)
    assert agreements[0] < best != agreements[-1]  # so that keeping shows
    whole = nn.ModuleDict({"network": model.network, "before": nn.Module()})
    whole["before"].layers = kept
    return whole


NESTED, EXCLUSIVE = Toy(), Toy(head=SOFTMAX, classes=3)
SGD = {"epochs": 2, "batch_size": SIZE, "learning_rate": 1e-2}

GAME = {"epochs": 2, "batch_size": SIZE, "judge_rate": 5e-2, "adversarial_weight": 3.0, "width": 4}
BOTH_HEADS = {"heads": "both", "auxiliary_weight": 0.2, "auxiliary_adversarial_weight": 1.0}

SHAPE = {"cycle": 5.0, "pool": 4, "width": 4, "blocks": 1}
TRANSLATORS = SHAPE | {
    **{"translation_epochs": 3, "translation_batch": SIZE, "translation_rate": 1e-3},
    **{"batch_size": SIZE, "learning_rate": 1e-3},
}

# method -> fields, toy, and its steps by hand
BY_HAND = {
    "advent": (GAME | BOTH_HEADS | {"learning_rate": 1e-2}, EXCLUSIVE, advent),
    "srda": (
        {"epochs": 2, "batch_size": SIZE, "learning_rate": 1e-3, "decay": 0.5, "decay_every": 1}
        | {"weight": 3.0, "over": "batch"},
        NESTED,
        srda,
    ),
    "dpl": (
        {"epochs": 2, "batch_size": SIZE, "learning_rate": 1e-3, "passes": 3, "dropout": 0.5}
        | {"threshold": 0.5, "uncertainty": 0.08},
        NESTED,
        dpl,
    ),
    "adaoutput": (
        GAME | {"loss": "lsgan", "optimiser": "adam", "learning_rate": 1e-3},
        NESTED,
        adaoutput,
    ),
    "beal": (
        {"epochs": 2, "batch_size": SIZE, "rate_drop": 0.5, "adversarial_weight": 3.0, "band": 0.1}
        | {"blur": 0.05, "judge_rate": 10.0, "width": 32},
        NESTED,
        beal,
    ),
    "cyclegan": (
        TRANSLATORS | {"identity": 0.5, "epochs": 2},
        NESTED,
        translators.cyclegan,
    ),
    "synsegnet": (
        SHAPE
        | {"epochs": 3, "batch_size": SIZE, "learning_rate": 1e-3, "segmentation": 2.0}
        | {"skip": True},
        NESTED,
        translators.synsegnet,
    ),
    "cycada": (
        TRANSLATORS
        | {
            "translation_epochs": 1,
            "semantic": 2.0,
            "epochs": 2,
            "align_epochs": 2,
            "align_rate": 1e-3,
        }
        | {"align_weight": 3.0, "align_width": 8, "gate": 0.5},
        NESTED,
        translators.cycada,
    ),
    "dsfn": (
        SHAPE
        | {"epochs": 3, "batch_size": SIZE, "learning_rate": 1e-3, "fuse": "target"}
        | {"adversarial_weight": 3.0},
        NESTED,
        translators.dsfn,
    ),
    "sifa": (
        {"epochs": 3, "batch_size": SIZE, "learning_rate": 1e-2, "translation_rate": 1e-2}
        | {"decay": 0.5, "weight_decay": 1e-3, "dropout": 0.1, "cycle": 5.0, "image_weight": 0.3}
        | {"prediction_weight": 0.5, "low_prediction_weight": 0.05, "reconstruction_weight": 0.4}
        | {
            "low_task_weight": 0.2,
            "align_from": 1 / 3,
            "align_full": 2 / 3,
            "width": 4,
            "blocks": 1,
        }
        | {"decoder_width": 4, "judge_width": 4},
        EXCLUSIVE,
        translators.sifa,
    ),
    "seat": (
        {"epochs": 3, "batch_size": SIZE, "learning_rate": 1e-3, "rate_ramp": 0.5, "weight": 4.0}
        | {"weight_ramp": 0.7, "weight_decay": 1e-3, "early_ema": 0.5, "ema": 0.8}
        | {"ema_switch": 0.4, "adversarial_weight": 3.0, "judge_rate": 5e-2, "width": 4},
        NESTED,
        seat,
    ),
    "ud4r": (
        {"epochs": 2, "batch_size": SIZE, "learning_rate": 1e-3, "passes": 3, "dropout": 0.5},
        NESTED,
        ud4r,
    ),
    "dae": (
        {"epochs": 4, "batch_size": SIZE, "learning_rate": 1e-1, "width": 4},
        NESTED,
        dae,
    ),
    "source_only": ({}, NESTED, source_only),
    "adabn": ({"batch_size": SIZE}, NESTED, adabn),
    "supervised": ({"epochs": 3, "batch_size": SIZE, "lr_decay": 0.8}, NESTED, supervised),
    "entropy_minimisation": (SGD | {"learning_rate": 1e-3}, NESTED, entropy_minimisation),
    "pseudo_label": (
        {"epochs": 3, "batch_size": SIZE, "learning_rate": 1e-3, "lr_decay": 0.7},
        NESTED,
        pseudo_label,
    ),
    "mean_teacher": (
        {"epochs": 3, "batch_size": SIZE, "lr_decay": 0.7, "ema": 0.9},
        NESTED,
        mean_teacher,
    ),
    "cbmt": (
        {"epochs": 3, "batch_size": SIZE, "lr_decay": 0.7, "ema": 0.9, "threshold": 0.5},
        NESTED,
        cbmt,
    ),
    "threshold": (SGD | {"threshold": 0.8}, EXCLUSIVE, threshold),
    "cbst": (SGD | {"rounds": 2, "portion_step": 0.15}, EXCLUSIVE, cbst),
    "apl": (SGD, EXCLUSIVE, apl),
    "mrnet": (SGD | {"learning_rate": 1e-3}, EXCLUSIVE, mrnet),
    "osuda": (SGD | {"learning_rate": 1e-3}, NESTED, osuda),
}

# (method, text in its file, what it is replaced by): faults that no contract can see
FAULTS = [
    ("supervised", "schedule.step()", "pass"),
    ("adabn", "batches(self.batch_size, plain", "batches(self.batch_size, shuffle=False, plain"),
    ("entropy_minimisation", "model.train()", "model.eval()"),
    ("pseudo_label", "schedule.step()", "pass"),
    ("mean_teacher", "schedule.step()", "pass"),
    ("mean_teacher", "update_teacher(teacher, student, self.ema)", "pass"),
    ("cbmt", "bank[batch.index] = self.statistics(probability[:, channel])", "pass"),
    ("cbmt", "schedule.step()", "pass"),
    ("threshold", "schedule.step()", "pass"),
    ("cbst", "self.portion + number * self.portion_step", "self.portion"),
    ("apl", "schedule.step()", "pass"),
    ("apl", "weight = margin(merged) if self.confidence else", "weight ="),
    ("mrnet", "schedule.step()", "pass"),
    ("mrnet", "losses * (-divergence).exp()", "losses"),
    ("osuda", "* (1 - step / (self.epochs * steps))", "* 1"),
    ("advent", "schedule, judge_schedule)", "schedule)"),
    ("advent", "(judges, source_maps, target_maps)", "(judges, target_maps, source_maps)"),
    ("advent", "model.train()", "model.eval()"),
    ("adaoutput", "schedule, judge_schedule)", "schedule)"),
    ("srda", "schedule.step()", "pass"),
    ("dpl", "shuffle=False, plain", "shuffle=True, plain"),
    ("dpl", "keep=keep)", "keep=None)"),
    ("srda", "outcome_weights(known) if self.balance else", ""),
    ("adaoutput", "target_maps, adversarial, criterion", "target_maps, adversarial"),
    ("adaoutput", "source_maps, target_maps, criterion", "source_maps, target_maps"),
    ("beal", "schedule.step()", "pass"),
    ("beal", "verdict = 2 * judging(", "verdict = judging("),
    ("beal", "augmented=unlabelled(view)", "augmented=unlabelled(SOURCE['none'])"),
    ("cyclegan", "players.end_epoch()", "pass"),
    ("cyclegan", "judge_losses(pair, s, t, *drawn)", "judge_losses(pair, t, s, *drawn)"),
    ("synsegnet", "players.end_epoch()", "pass"),
    ("synsegnet", '"padding": 2', '"padding": 1'),
    ("cycada", "if gate.opens(right):", "if True:"),
    ("cycada", "sgd.zero_grad()\n                    supervised", "supervised"),
    (
        "dsfn",
        "judging(output, source_maps, target_maps)",
        "judging(output, target_maps, source_maps)",
    ),
    ("sifa", "share * weight * losses[name]", "weight * losses[name]"),
    ("sifa", "schedule.step()", "pass"),
    ("sifa", 'losses["cycle"] + losses["fooling_target"]', 'losses["fooling_target"]'),
    ("seat", "schedule.step()", "pass"),
    ("seat", "self.early_ema if progress <= self.ema_switch else self.ema", "self.ema"),
    ("ud4r", 'statistics="batch"', 'statistics="running"'),
    ("dae", "if total > best or not self.select:", "if True:"),
    ("osuda", "gaps = gaps * (1 + transferability(source, statistics))", "pass"),
]


def deployed(entry, name, folder):
    """State of the start model and of the one that a method deploys."""
    fields, setting, _ = BY_HAND[name]
    done = attempt(entry(**fields), setting, folder)
    return done.start.state_dict(), done.deployed.state_dict()


def written(name):
    """State of the model that the steps by hand lead to."""
    fields, setting, by_hand = BY_HAND[name]
    needs = registry.load("methods", name)(**fields).needs
    state = by_hand(Scene(setting, needs)).state_dict()
    assert all(value.isfinite().all() for value in state.values())
    return state


def differing(state, expected, name):
    """Names whose values are not equal to rounding."""
    atol = LOOSE.get(name, ATOL)
    assert state.keys() == expected.keys()
    return [
        key
        for key, value in state.items()
        if not torch.allclose(value.double(), expected[key].double(), rtol=RTOL, atol=atol)
    ]


@pytest.mark.parametrize("name", BY_HAND)
def test_first_steps_are_those_written_by_hand(name, tmp_path):
    start, state = deployed(registry.load("methods", name), name, tmp_path)
    assert not differing(state, written(name), name)
    if name not in ("source_only", "dae"):  # which leave the start model as it is
        floats = {n: v for n, v in start.items() if v.is_floating_point()}  # no counters
        assert max((state[n] - v).abs().max().item() for n, v in floats.items()) > 100 * ATOL


@pytest.mark.parametrize(
    ("name", "old", "new"), FAULTS, ids=[f"{name}-{old[:30]}" for name, old, _ in FAULTS]
)
def test_a_fault_in_the_steps_shows(name, old, new, tmp_path, mutated):
    module = mutated(registry.PACKAGE / "methods" / f"{name}.py", {old: new})
    broken = getattr(module, registry.load("methods", name).__name__)
    _, state = deployed(broken, name, tmp_path / "work")
    assert differing(state, written(name), name)


def test_no_method_is_missing():
    folder = registry.PACKAGE / "methods"
    built_in = {path.stem for path in folder.glob("[!_]*.py")}
    assert built_in - ELSEWHERE == set(BY_HAND)
