"""Steps of methods that translate images, in plain torch (methods-compared.md §8 to 11, 13).

Networks start from the same draws as the suite's: layer by layer torch's own, then N(0, 0.02).
"""

import torch
from torch import nn
from torch.nn import functional as F

from by_hand import bce, judge_of, set_rate, step
from sfdabench.core.seeding import seed_all
from sfdabench.primitives.views import SOURCE, identity

SIZE = 4


def normal(network, deviation=0.02):
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0, deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


class Added(nn.Module):
    """x + f(x), with a ReLU behind it where wanted."""

    def __init__(self, layers, *, rectified=False):
        super().__init__()
        self.layers, self.rectified = nn.Sequential(*layers), rectified

    def forward(self, x):
        total = x + self.layers(x)
        return F.relu(total) if self.rectified else total


def generator(channels, width, *, skip):
    """CycleGAN's with one residual block."""

    def block():
        w = 4 * width
        return Added(
            [
                *(nn.ReflectionPad2d(1), nn.Conv2d(w, w, 3), nn.InstanceNorm2d(w), nn.ReLU()),
                *(nn.ReflectionPad2d(1), nn.Conv2d(w, w, 3), nn.InstanceNorm2d(w)),
            ]
        )

    layers = nn.Sequential(
        *(nn.ReflectionPad2d(3), nn.Conv2d(channels, width, 7)),
        *(nn.InstanceNorm2d(width), nn.ReLU()),
        *(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.InstanceNorm2d(2 * width), nn.ReLU()),
        *(nn.Conv2d(2 * width, 4 * width, 3, 2, 1), nn.InstanceNorm2d(4 * width), nn.ReLU()),
        block(),
        *(nn.ConvTranspose2d(4 * width, 2 * width, 3, 2, 1, 1), nn.InstanceNorm2d(2 * width)),
        *(nn.ReLU(), nn.ConvTranspose2d(2 * width, width, 3, 2, 1, 1), nn.InstanceNorm2d(width)),
        *(nn.ReLU(), nn.ReflectionPad2d(3), nn.Conv2d(width, channels, 7)),
    )
    return Tanh(normal(layers), skip=skip)


class Tanh(nn.Module):
    def __init__(self, layers, *, skip):
        super().__init__()
        self.layers, self.skip = layers, skip

    def forward(self, x):
        return torch.tanh(self.layers(x) + x) if self.skip else torch.tanh(self.layers(x))


def patch_judge(channels, width, *, padding=1, outputs=1, sifa=False):
    def norm(w):
        return nn.InstanceNorm2d(w, eps=1e-6, affine=True) if sifa else nn.InstanceNorm2d(w)

    bias, w = not sifa, width
    layers = [nn.Conv2d(channels, w, 4, 2, padding, bias=bias), nn.LeakyReLU(0.2)]
    for stride in (2, 2, 1):
        layers += [nn.Conv2d(w, 2 * w, 4, stride, padding, bias=bias), norm(2 * w)]
        layers.append(nn.LeakyReLU(0.2))
        w *= 2
    layers.append(nn.Conv2d(w, outputs, 4, 1, padding, bias=bias))
    return nn.Sequential(nn.ZeroPad2d((0, 32 - 24, 0, 32 - 24)), normal(nn.Sequential(*layers)))


def adam(networks, rate):
    return torch.optim.Adam(nn.ModuleList(networks).parameters(), rate, betas=(0.5, 0.999))


def in_range(x):
    """From -1..1 to the toy's range, which is the same: it rounds as the way to any other does."""
    return (x + 1) / 2 * 2 - 1


def near(maps, value):
    return ((maps - value) ** 2).mean()


def l1(a, b):
    return (a - b).abs().mean()


class Pool:
    """The last images, of which one in two times an old one is judged instead."""

    def __init__(self, size):
        self.size, self.images = size, []

    def __call__(self, fresh):
        shown = []
        for image in fresh.detach():
            if len(self.images) < self.size:
                self.images.append(image)
                shown.append(image)
            elif torch.rand(()) < 0.5:
                place = int(torch.randint(self.size, ()))
                shown.append(self.images[place])
                self.images[place] = image
            else:
                shown.append(image)
        return torch.stack(shown)


class Pair:
    """Two generators, two judges, two pools; `play` is CycleGAN's step but for the optimisers'."""

    def __init__(self, *, skip=False, padding=1, pool=4, width=4):
        self.there, self.back = (generator(3, width, skip=skip) for _ in range(2))
        self.of_target, self.of_source = (patch_judge(3, width, padding=padding) for _ in range(2))
        self.pools = Pool(pool), Pool(pool)

    def losses(self, s, t, *, cycle, same=0.0):
        self.fakes = self.there(s), self.back(t)
        loss = near(self.of_target(self.fakes[0]), 1) + near(self.of_source(self.fakes[1]), 1)
        loss = loss + cycle * (l1(self.back(self.fakes[0]), s) + l1(self.there(self.fakes[1]), t))
        if same:
            loss = loss + same * cycle * (l1(self.back(s), s) + l1(self.there(t), t))
        return loss

    def verdict(self, s, t):
        fake_t, fake_s = (pool(fake) for pool, fake in zip(self.pools, self.fakes, strict=True))
        return (
            near(self.of_target(t), 1) / 2
            + near(self.of_target(fake_t), 0) / 2
            + near(self.of_source(s), 1) / 2
            + near(self.of_source(fake_s), 0) / 2
        )


def falling(epochs, epoch):
    """One for half of the epochs, then down a stair of equal steps that would end at 0."""
    rest = epochs - epochs // 2
    return 1.0 if epoch < epochs // 2 else 1 - (epoch + 1 - epochs // 2) / (rest + 1)


def translate(scene, pair, extra=lambda *_: 0.0, *, epochs=3, rate=1e-3, cycle=5.0, same=0.0):
    """The translators' loop; `extra` adds to their loss."""
    players = adam([pair.there, pair.back], rate), adam([pair.of_target, pair.of_source], rate)
    for epoch in scene.epochs(epochs):
        for optimiser in players:
            set_rate(optimiser, rate * falling(epochs, epoch))
        target = scene.target.endless(SIZE, plain=identity)
        for s, _ in scene.source.pairs(SIZE, SOURCE["light"]):
            t = next(target).plain
            loss = pair.losses(s, t, cycle=cycle, same=same)
            loss = loss + extra(s, t)
            generators = [*pair.there.parameters(), *pair.back.parameters()]
            step(players[0], loss, inputs=generators)
            step(players[1], pair.verdict(s, t))


def cyclegan(scene):
    """Sigmoid; three epochs of translation, two of the segmenter on translated images."""
    seed_all(0)
    pair = Pair()
    translate(scene, pair, same=0.5)
    model = scene.model().train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in scene.epochs(2, stage=1):
        for s, masks in scene.source.pairs(SIZE, SOURCE["light"]):
            step(optimiser, bce(model(in_range(pair.there(s)).detach()), masks).mean())
    return model


def synsegnet(scene):
    """Sigmoid, Dice with squares; one optimiser for both generators and the segmenter."""
    seed_all(0)
    model = scene.model().train()
    pair = Pair(skip=True, padding=2)
    players = (
        adam([pair.there, pair.back, model], 1e-3),
        adam([pair.of_target, pair.of_source], 1e-3),
    )
    for epoch in scene.epochs(3):
        for optimiser in players:
            set_rate(optimiser, 1e-3 * falling(3, epoch))
        target = scene.target.endless(SIZE, plain=identity)
        for s, masks in scene.source.pairs(SIZE, SOURCE["light"]):
            t = next(target).plain
            loss = pair.losses(s, t, cycle=5.0)
            p = model(in_range(pair.fakes[0])).sigmoid()
            dice = 2 * ((p * masks).sum((0, 2, 3)) + 1e-7)
            dice = dice / ((p**2).sum((0, 2, 3)) + masks.sum((0, 2, 3)) + 1e-7)
            learners = nn.ModuleList([pair.there, pair.back, model]).parameters()
            step(players[0], loss + 2 * (1 - dice.mean()), inputs=[*learners])
            step(players[1], pair.verdict(s, t))
    return model


def cycada(scene):
    """Sigmoid; translations keep what the source model saw, then scores are aligned."""
    seed_all(0)
    pair, start = Pair(), scene.model().eval()

    def meaning(s, t):
        labels = [(start(images).detach() > 0).float() for images in (s, t)]
        return 2 * sum(
            F.binary_cross_entropy_with_logits(start(in_range(fake)), label)
            for fake, label in zip(pair.fakes, labels, strict=True)
        )

    translate(scene, pair, meaning, epochs=1)
    model = scene.model().train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in scene.epochs(2, stage=1):
        for s, masks in scene.source.pairs(SIZE, SOURCE["light"]):
            step(optimiser, bce(model(in_range(pair.there(s)).detach()), masks).mean())
    judge = nn.Sequential(
        *(nn.Conv2d(2, 8, 1), nn.Dropout2d(0.5), nn.ReLU()),
        *(nn.Conv2d(8, 4, 1), nn.Dropout2d(0.5), nn.ReLU()),
        nn.Conv2d(4, 2, 1),
    )
    rule = {"lr": 1e-3, "momentum": 0.99, "weight_decay": 5e-4}
    slow, referee = (torch.optim.SGD(of.parameters(), **rule) for of in (model, judge))
    shares = []
    for _ in scene.epochs(2, stage=2):
        target = scene.target.endless(SIZE, plain=identity)
        for s, masks in scene.source.pairs(SIZE, SOURCE["light"]):
            fake = in_range(pair.there(s)).detach()
            of_target = model(next(target).plain)
            of_source = model(fake)
            verdicts, right = [], []
            for label, scores in ((0, of_target), (1, of_source)):
                p = judge(scores.detach()).softmax(1)
                verdicts.append(-p[:, label].log().mean())
                right.append((p[:, label] > 0.5).float().mean())
            step(referee, sum(verdicts))
            shares.append(float(sum(right) / 2))
            if sum(shares) / len(shares) > 0.5:
                fooled = -judge(of_target).softmax(1)[:, 1].log().mean()
                step(slow, 3 * fooled, inputs=[*model.parameters()])
                step(slow, bce(model(fake), masks).mean())
    return model


def dsfn(scene):
    """Sigmoid; both styles train the segmenter, whose target maps should pass for translations'."""
    seed_all(0)
    pair = Pair()
    output = judge_of(2, 4)
    model = scene.model().train()
    learners = adam([pair.there, pair.back, model], 1e-3)
    referees = adam([pair.of_target, pair.of_source, output], 1e-3)
    for epoch in scene.epochs(3):
        for optimiser in (learners, referees):
            set_rate(optimiser, 1e-3 * falling(3, epoch))
        target = scene.target.endless(SIZE, plain=identity)
        for s, masks in scene.source.pairs(SIZE, SOURCE["light"]):
            t = next(target).plain
            loss = pair.losses(s, t, cycle=5.0)
            translated, plain, of_target = model(in_range(pair.fakes[0])), model(s), model(t)
            loss = loss + bce(translated, masks).mean() + bce(plain, masks).mean()
            loss = loss + 3 * bce(output(of_target.sigmoid()), torch.zeros(())).mean()
            trained = nn.ModuleList([pair.there, pair.back, model]).parameters()
            step(learners, loss, inputs=[*trained])
            verdict = bce(output(translated.sigmoid().detach()), torch.zeros(())).mean() / 2
            verdict = verdict + bce(output(of_target.sigmoid().detach()), torch.ones(())).mean() / 2
            step(referees, pair.verdict(s, t) + verdict)
    return model


def sifa(scene):
    """Two heads, softmax of four channels; separate gradients for each network of a step."""
    seed_all(0)
    model = scene.model().train()

    def norm(w):
        return nn.InstanceNorm2d(w, eps=1e-6, affine=True)

    def conv(a, b, side, stride=1):
        return nn.Conv2d(a, b, side, stride, side // 2)

    w = 4
    block = [conv(4 * w, 4 * w, 3), norm(4 * w), nn.ReLU(), conv(4 * w, 4 * w, 3), norm(4 * w)]
    to_target = Tanh(
        normal(
            nn.Sequential(
                *(conv(3, w, 7), norm(w), nn.ReLU(), conv(w, 2 * w, 3, 2), norm(2 * w), nn.ReLU()),
                *(conv(2 * w, 4 * w, 3, 2), norm(4 * w), nn.ReLU(), Added(block, rectified=True)),
                *(nn.ConvTranspose2d(4 * w, 2 * w, 3, 2, 1, 1), norm(2 * w), nn.ReLU()),
                *(nn.ConvTranspose2d(2 * w, w, 3, 2, 1, 1), norm(w), nn.ReLU(), conv(w, 3, 7)),
            )
        ),
        skip=True,
    )

    def residual():
        layers = [conv(w, w, 3), nn.Dropout(0.25), norm(w), nn.ReLU()]
        return Added([*layers, conv(w, w, 3), nn.Dropout(0.25), norm(w)], rectified=True)

    first = [conv(4, w, 3), norm(w), nn.ReLU()]
    blocks = [residual() for _ in range(4)]
    decoder = normal(nn.Sequential(*first, *blocks, conv(w, 3, 7)))
    for part in blocks:
        normal(part, 0.01)

    def to_source(features, images):
        return torch.tanh(images + decoder(features))

    of_target = patch_judge(3, w, padding=2, sifa=True)
    of_source = patch_judge(3, w, padding=2, sifa=True, outputs=2)
    of_heads = [patch_judge(4, w, padding=2, sifa=True) for _ in range(2)]
    learner = torch.optim.Adam(model.parameters(), 1e-2, weight_decay=1e-3)
    artists = adam([to_target], 1e-2), adam([decoder], 1e-2)
    referees = adam([of_target, of_source, *of_heads], 1e-2)

    def by_labels(logits, masks):
        p = logits.softmax(1)
        weight = (1 - masks.mean((0, 2, 3))).view(1, -1, 1, 1)
        entropy = -(weight * masks * p.clamp(0.005, 1).log()).sum(1).mean()
        dice = 2 * (p * masks).sum((0, 2, 3)) / ((p**2 + masks).sum((0, 2, 3)) + 1e-7)
        return entropy + 1 - dice.mean()

    for epoch in scene.epochs(3):
        set_rate(learner, 1e-2 * 0.5 ** (epoch // 2))
        rise = (0, 1 / 2, 1)[epoch]
        target = scene.target.endless(SIZE, plain=identity)
        for s, masks in scene.source.pairs(SIZE, SOURCE["light"]):
            t = next(target).plain
            fake_t = to_target(s)
            low_s, last_s = model.features(in_range(fake_t))
            low_t, last_t = model.features(t)
            fake_s = to_source(last_t, t)
            again_s = to_source(last_s, fake_t)
            again_t = to_target(fake_s)
            heads = []
            for low, last in ((low_s, last_s), (low_t, last_t)):
                logits = model.classify(last, (24, 24)), model.classify_auxiliary(low, (24, 24))
                heads.append([F.dropout(maps, 0.1) for maps in logits])
            cycle = 5 * (l1(again_s, s) + l1(again_t, t))
            drawn = of_source(fake_s)
            real, redrawn = near(drawn[:, 0], 1), near(drawn[:, 1], 1)
            fooled = [near(judge(m), 1) for judge, m in zip(of_heads, heads[1], strict=True)]
            task = by_labels(heads[0][0], masks) + 0.2 * by_labels(heads[0][1], masks)
            loss = task + 0.3 * (cycle + real) + 0.4 * redrawn
            loss = loss + rise * (0.5 * fooled[0] + 0.05 * fooled[1])
            shares = (
                (artists[0], cycle + near(of_target(fake_t), 1), to_target.parameters()),
                (learner, loss, model.parameters()),
                (artists[1], cycle + real, decoder.parameters()),
            )
            for optimiser, share, parameters in shares:
                optimiser.zero_grad()
                share.backward(inputs=[*parameters], retain_graph=True)
            for optimiser, *_ in shares:
                optimiser.step()
            verdict = near(of_target(t), 1) + near(of_target(fake_t.detach()), 0)
            of_s, of_fake, of_again = (of_source(x.detach()) for x in (s, fake_s, again_s))
            verdict = verdict + near(of_s[:, 0], 1) + near(of_fake[:, 0], 0)
            verdict = verdict + near(of_again[:, 1], 1) + near(of_fake[:, 1], 0)
            for judge, *pair in zip(of_heads, *heads, strict=True):
                verdict = (
                    verdict + near(judge(pair[0].detach()), 1) + near(judge(pair[1].detach()), 0)
                )
            step(referees, verdict / 2)
    return model
