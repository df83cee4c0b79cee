"""One step of CycleGAN: ours beside a plain transcription of the public recipe.

    python benchmarks/speed/translate.py                     # 256 px, batch 1, 9 blocks, width 64
    python benchmarks/speed/translate.py --device cuda --steps 200

A step is both generators' and both judges' losses, backward passes and Adam. The transcription has
the library's reflection padding, a list for a pool, and four optimisers' worth of code in one
function; it begins with the same weights. Rounds are interleaved; on CUDA bfloat16 is timed as
well, and peak memory told.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

RESULTS = Path(__file__).parent / "results"


class Block(nn.Module):
    """The recipe's residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)),
            nn.ReLU(True),
            *(nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Add what the layers make of the maps."""
        return maps + self.layers(maps)


def generator(channels: int, width: int, blocks: int) -> nn.Module:
    """As the recipe writes it."""
    w = width
    return nn.Sequential(
        *(nn.ReflectionPad2d(3), nn.Conv2d(channels, w, 7), nn.InstanceNorm2d(w), nn.ReLU(True)),
        *(nn.Conv2d(w, 2 * w, 3, 2, 1), nn.InstanceNorm2d(2 * w), nn.ReLU(True)),
        *(nn.Conv2d(2 * w, 4 * w, 3, 2, 1), nn.InstanceNorm2d(4 * w), nn.ReLU(True)),
        *(Block(4 * w) for _ in range(blocks)),
        *(nn.ConvTranspose2d(4 * w, 2 * w, 3, 2, 1, 1), nn.InstanceNorm2d(2 * w), nn.ReLU(True)),
        *(nn.ConvTranspose2d(2 * w, w, 3, 2, 1, 1), nn.InstanceNorm2d(w), nn.ReLU(True)),
        *(nn.ReflectionPad2d(3), nn.Conv2d(w, channels, 7), nn.Tanh()),
    )


def judge(channels: int, width: int) -> nn.Module:
    """As the recipe writes it."""
    w = width
    layers: list[nn.Module] = [nn.Conv2d(channels, w, 4, 2, 1), nn.LeakyReLU(0.2, True)]
    for stride in (2, 2, 1):
        layers += [nn.Conv2d(w, 2 * w, 4, stride, 1), nn.InstanceNorm2d(2 * w)]
        layers.append(nn.LeakyReLU(0.2, True))
        w *= 2
    return nn.Sequential(*layers, nn.Conv2d(w, 1, 4, 1, 1))


def plain(args: argparse.Namespace) -> Callable[[Tensor, Tensor], None]:
    """The recipe's step."""
    shape = args.channels, args.width
    a_to_b, b_to_a = (generator(*shape, args.blocks).to(args.device) for _ in range(2))
    judge_a, judge_b = (judge(*shape).to(args.device) for _ in range(2))
    players = torch.optim.Adam(
        [*a_to_b.parameters(), *b_to_a.parameters()], 2e-4, betas=(0.5, 0.999)
    )
    referees = torch.optim.Adam(
        [*judge_a.parameters(), *judge_b.parameters()], 2e-4, betas=(0.5, 0.999)
    )
    mse, l1 = nn.MSELoss(), nn.L1Loss()
    pools: tuple[list[Tensor], list[Tensor]] = ([], [])

    def query(pool: list[Tensor], fresh: Tensor) -> Tensor:
        if len(pool) < 50:
            pool.append(fresh)
            return fresh
        if random.random() < 0.5:
            place = random.randrange(50)
            old, pool[place] = pool[place], fresh
            return old
        return fresh

    def step(a: Tensor, b: Tensor) -> None:
        fake_b, fake_a = a_to_b(a), b_to_a(b)
        again_a, again_b = b_to_a(fake_b), a_to_b(fake_a)
        for parameter in (*judge_a.parameters(), *judge_b.parameters()):
            parameter.requires_grad_(False)
        players.zero_grad()
        said_b, said_a = judge_b(fake_b), judge_a(fake_a)
        loss = mse(said_b, torch.ones_like(said_b)) + mse(said_a, torch.ones_like(said_a))
        (loss + 10 * l1(again_a, a) + 10 * l1(again_b, b)).backward()
        players.step()
        for parameter in (*judge_a.parameters(), *judge_b.parameters()):
            parameter.requires_grad_(True)
        referees.zero_grad()
        for who, real, fake, pool in (
            (judge_a, a, fake_a, pools[0]),
            (judge_b, b, fake_b, pools[1]),
        ):
            said_real, said_fake = who(real), who(query(pool, fake.detach()))
            right = mse(said_real, torch.ones_like(said_real))
            (0.5 * (right + mse(said_fake, torch.zeros_like(said_fake)))).backward()
        referees.step()

    return step


def ours(args: argparse.Namespace, precision: str) -> Callable[[Tensor, Tensor], None]:
    """The step of `methods.cyclegan`."""
    from sfdabench.core.precision import lower
    from sfdabench.core.streams import Clock, Stream
    from sfdabench.primitives.translation import CyclePair, Players, generator_losses, judge_losses

    images = np.zeros((1, args.channels, args.side, args.side), np.uint8)
    stream = Stream("one", images, ("0",), torch.device(args.device), 0, Clock())
    shape = {"width": args.width, "blocks": args.blocks, "skip": False, "pool": 50}
    pair = CyclePair(stream, stream, **shape).to(args.device)
    lower(pair, precision)
    players = Players(pair, 2e-4, 200)

    def step(a: Tensor, b: Tensor) -> None:
        s, t = pair.units(a, b)
        losses, *drawn = generator_losses(pair, s, t, 10.0, 0.0)
        players.translate(losses)
        players.judge(judge_losses(pair, s, t, *drawn))

    return step


def main() -> None:
    """Time the steps in turn and write the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5, help="of each, after one to warm up")
    args = parser.parse_args()
    cuda = args.device.startswith("cuda")
    torch.manual_seed(0)
    steps = {"plain": plain(args), "ours": ours(args, "float32")}
    if cuda:
        steps["ours, bfloat16"] = ours(args, "bfloat16")
    spent: dict[str, list[float]] = {name: [] for name in steps}
    peaks: dict[str, float] = {}
    for number in range(args.steps + 1):
        shape = args.batch, args.channels, args.side, args.side
        a, b = (torch.rand(shape, device=args.device) * 2 - 1 for _ in range(2))
        for name, step in steps.items():
            if cuda:
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            start = time.perf_counter()
            step(a, b)
            if cuda:
                torch.cuda.synchronize()
                peaks[name] = torch.cuda.max_memory_allocated() / 2**30
            if number:
                spent[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in spent.items()}
    RESULTS.mkdir(exist_ok=True)
    where = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU"
    lines = [("step", "relative to plain", "steps a second", "peak GiB", "device", "threads")]
    for name, seconds in medians.items():
        rate = f"{1 / seconds:.2f}" if cuda else ""  # of a CPU that others share, a ratio alone
        peak = f"{peaks[name]:.2f}" if cuda else ""
        ratio = f"{seconds / medians['plain']:.3f}"
        lines.append((name, ratio, rate, peak, where, os.environ.get("OMP_NUM_THREADS", "")))
    with (RESULTS / f"translate-{'cuda' if cuda else 'cpu'}.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    for line in lines:
        print("  ".join(f"{part:>18}" for part in line))


if __name__ == "__main__":
    main()
