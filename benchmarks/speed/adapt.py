"""Cost of one CBMT adaptation step, plain against ours, in turn.

    python benchmarks/speed/adapt.py                                    # two cores, 10 minutes
    python benchmarks/speed/adapt.py --device cuda --iterations 20

The step is the method's, from the package's own pieces: student forward on the strong view,
teacher forward in train mode on the weak one, thresholded pseudo labels, weighted BCE, backward,
Adam, moving average. DeepLabV3+ on MobileNetV2, 8 images of 512 x 512 unless told otherwise.

plain          float32, default memory format, default allocator, enlarge and then convolve as
               the library does
ours           float32, the network's memory format, memory kept between steps, enlarging folded
               into the convolution after it, Winograd filtering of the decoder's convolutions,
               dropout masks from 16 random bits a value
ours_bfloat16  the same under bfloat16 autocast

Each measurement is a process of its own (the allocator's setting is the process's), and the
variants take turns, so that a drift of the machine meets all of them. Agreement is measured
apart, on four images of half the side and without dropout, against the same two steps in float64:
`ours` must be as near to it as `plain` is.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {"channels_last": False, "keep": False, "folded": False, "precision": "float32"},
    "ours": {"channels_last": None, "keep": True, "folded": True, "precision": "float32"},
    "ours_bfloat16": {"channels_last": None, "keep": True, "folded": True, "precision": "bfloat16"},
}
PARTS = ("views", "student", "teacher", "loss", "backward", "optimiser", "average")
NETWORK_PARTS = ("student", "teacher", "backward", "optimiser")
WARM_UP = 2  # steps until the heap has its size; a run has some 200
TOLERANCE = 2e-5  # of the largest value: some hundred roundings of float32
NEARER = 3.0  # `ours` may be this much further from float64 than `plain` is
RESULTS = Path(__file__).parent / "results"


class Step:
    """Two models, an optimiser and the step between them."""

    def __init__(self, variant: str, device: str, *, dropout: bool, exact: bool = False) -> None:
        import torch

        from sfdabench.confine.allocator import keep_freed_memory
        from sfdabench.core.registry import load
        from sfdabench.models.segmenter import Segmenter

        settings = VARIANTS[variant]
        if settings["keep"]:
            keep_freed_memory()
        torch.manual_seed(0)
        entry = load("networks", "deeplabv3plus_mobilenetv2")
        rates = ("dropout_pyramid", "dropout_decoder", "dropout_classifier")
        fields = {} if dropout else dict.fromkeys(rates, 0.0)
        network: Any = entry(**fields).build(channels=3, outputs=2).to(device)
        network.decoder[0][0].folded = settings["folded"]
        network.decoder[2][0].direct = not settings["folded"]
        if not settings["folded"]:
            for layer in network.modules():
                if isinstance(layer, torch.nn.Dropout):
                    layer.__class__ = torch.nn.Dropout  # not the package's own
        if exact:
            self.student: Any = network.double()
        else:
            self.student = Segmenter(
                network, precision=settings["precision"], channels_last=settings["channels_last"]
            )
        self.teacher = copy.deepcopy(self.student).requires_grad_(False).train()
        self.student.train()
        self.optimiser = torch.optim.Adam(self.student.parameters(), 5e-4, betas=(0.9, 0.99))
        self.device, self.dtype = device, torch.float64 if exact else torch.float32
        self.seconds: dict[str, float] = defaultdict(float)
        self.synchronise = False

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the time of a part, waiting for the device where `synchronise` asks for it."""
        start = self._now()
        yield
        self.seconds[name] += self._now() - start

    def _now(self) -> float:
        if self.synchronise and self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        return time.perf_counter()

    def __call__(self, images: Any, iteration: int) -> Any:
        """One step on images (B, 3, H, W) uint8; returns the student's logits and the loss."""
        import torch

        from sfdabench.core.seeding import generator
        from sfdabench.primitives.losses import weighted_bce
        from sfdabench.primitives.teacher import update_teacher
        from sfdabench.primitives.views import fundus_strong

        with self.part("views"):
            weak = images.to(self.device).float()
            strong = fundus_strong(weak, [generator(0, iteration, i) for i in range(len(weak))])
            weak, strong = ((view / 127.5 - 1).to(self.dtype) for view in (weak, strong))
        with self.part("student"):
            logits = self.student(strong)
        with self.part("teacher"), torch.no_grad():
            probability = self.teacher(weak).sigmoid()
        with self.part("loss"):
            label = (probability > 0.75).to(self.dtype)
            weight = torch.ones_like(label)
            weight[:, 0].masked_fill_(label[:, 0] == 0, 0.25)
            loss = weighted_bce(logits, label, weight)
        with self.part("backward"):
            self.optimiser.zero_grad()
            loss.backward()
        with self.part("optimiser"):
            self.optimiser.step()
        with self.part("average"):
            update_teacher(self.teacher, self.student, 0.98)
        return logits.detach(), loss.detach()


def photographs(count: int, size: int) -> Any:
    """Random but smooth images, uint8."""
    import torch
    from torch.nn import functional as F

    coarse = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return (255 * F.interpolate(coarse, size=(size, size), mode="bilinear")).byte()


def measure(variant: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each step once the heap has its size, and of the step's parts."""
    import torch

    torch.set_num_threads(arguments.threads)
    cuda = arguments.device == "cuda"
    step = Step(variant, arguments.device, dropout=True)
    images = photographs(arguments.batch, arguments.size)
    for _ in range(WARM_UP):
        step(images, 0)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds, cpu_seconds = [], []
    step.seconds.clear()
    step.synchronise = not cuda  # on a GPU the parts are timed in steps of their own
    for iteration in range(arguments.iterations):
        if cuda:
            torch.cuda.synchronize()
        start, cpu_start = time.perf_counter(), time.process_time()
        step(images, 1 + iteration)
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    if cuda:
        step.seconds.clear()
        step.synchronise = True
        for iteration in range(arguments.iterations):
            step(images, 1 + iteration)
    if cuda:
        peak = torch.cuda.max_memory_allocated()
        device = torch.cuda.get_device_name()
    else:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        device = f"CPU, {torch.get_num_threads()} threads"
    parts = {name: step.seconds[name] / arguments.iterations for name in PARTS}
    times = {"seconds": seconds, "cpu_seconds": cpu_seconds, "parts": parts}
    return times | {"peak_gb": peak / 1e9, "device": device}


def results_of_two_steps(variant: str, arguments: argparse.Namespace, path: Path) -> None:
    """Save logits and loss of two steps, the first gradient, and both models' final state."""
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.allow_tf32 = False
    exact = variant == "float64"
    step = Step("plain" if exact else variant, arguments.device, dropout=False, exact=exact)
    images = photographs(4, arguments.size // 2)
    student = step.student if exact else step.student.network
    teacher = step.teacher if exact else step.teacher.network
    found = {}
    for iteration in range(2):
        found[f"logits/{iteration}"], found[f"loss/{iteration}"] = step(images, iteration)
        if iteration == 0:
            for name, parameter in student.named_parameters():
                found[f"gradient/{name}"] = parameter.grad
    for name, value in student.state_dict().items():
        found[f"weights/{name}"] = value
    for name, value in teacher.state_dict().items():
        found[f"teacher/{name}"] = value
    save_file({k: v.detach().cpu().double().contiguous() for k, v in found.items()}, path)


def distance(one: dict[str, Any], two: dict[str, Any], kind: str) -> float:
    """Euclidean distance of all values of a kind, as a share of their length."""
    keys = [key for key in one if key.startswith(kind)]
    apart = sum((one[key] - two[key]).square().sum() for key in keys)
    return float((apart / sum(two[key].square().sum() for key in keys)).sqrt())


def run_self(*extra: str) -> str:
    """Run this script in a fresh process, with the allocator as the system sets it."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUN"))}
    command = [sys.executable, __file__, *sys.argv[1:], *extra]
    return subprocess.run(command, env=clean, check=True, text=True, stdout=subprocess.PIPE).stdout


def agreement(variants: list[str]) -> list[tuple[str, str, float]]:
    """(variant, quantity, relative distance from float64); asserts that float32 is float32."""
    from safetensors.torch import load_file

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("float64", *variants):
            path = Path(folder) / name
            run_self("--check", name, "--into", str(path))
            found[name] = load_file(path)
    rows = []
    kinds = ("logits/0", "loss/0", "gradient/", "logits/1", "loss/1", "weights/", "teacher/")
    for kind in kinds:
        apart = {name: distance(found[name], found["float64"], kind) for name in variants}
        rows += [(name, kind.strip("/"), value) for name, value in apart.items()]
        assert apart["ours"] < max(NEARER * apart["plain"], TOLERANCE), (kind, apart)
        largest = max(found["plain"][k].abs().max() for k in found["plain"] if k.startswith(kind))
        between = max(
            (found["ours"][k] - found["plain"][k]).abs().max()
            for k in found["plain"]
            if k.startswith(kind)
        )
        rows.append(("ours - plain", f"{kind.strip('/')}, largest difference", float(between)))
        rows.append(("ours - plain", f"{kind.strip('/')}, of largest", float(between / largest)))
    return rows


def main() -> None:
    """Measure, print, and write results/adapt*.{csv,md}."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=2, help="timed steps a process")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--no-agreement", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--measure", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--check", choices=("float64", *VARIANTS), help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments)))
    elif arguments.check:
        results_of_two_steps(arguments.check, arguments, arguments.into)
    else:
        report(arguments)


def report(arguments: argparse.Namespace) -> None:
    """All rounds, then the agreement, then the files."""
    variants = [name for name in VARIANTS if name in ("plain", "ours", *arguments.variants)]
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in variants}
    for turn in range(arguments.rounds):
        for name, results in measured.items():
            results.append(json.loads(run_self("--measure", name)))
            print(turn, name, results[-1]["seconds"], flush=True)
    rows: list[tuple[str, str, float]] = []
    policy = os.environ.get("OMP_WAIT_POLICY")
    command = (f"OMP_WAIT_POLICY={policy} " if policy else "") + "python benchmarks/speed/adapt.py"
    lines = [
        f"# One CBMT step: {arguments.batch} images of {arguments.size} x {arguments.size}",
        "",
        f"`{' '.join([command, *sys.argv[1:]])}`",
        f"on {measured['plain'][0]['device']}, {arguments.rounds} rounds in turn, median of "
        f"{arguments.rounds * arguments.iterations} steps each; load {os.getloadavg()[1]:.0f}.",
        "",
        "| variant | s a step | images a second | times cheaper | CPU s a step | times cheaper "
        "| network | peak GB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    medians = {
        name: statistics.median(s for result in results for s in result["seconds"])
        for name, results in measured.items()
    }
    for name, results in measured.items():
        parts = {p: statistics.median(r["parts"][p] for r in results) for p in PARTS}
        share = sum(parts[p] for p in NETWORK_PARTS) / sum(parts.values())
        cpu = statistics.median(s for result in results for s in result["cpu_seconds"])
        ratio, cpu_ratio = (
            # taken within each round: the machine drifts less there
            statistics.median(
                statistics.median(plain[kind]) / statistics.median(result[kind])
                for plain, result in zip(measured["plain"], results, strict=True)
            )
            for kind in ("seconds", "cpu_seconds")
        )
        peak = max(result["peak_gb"] for result in results)
        lines.append(
            f"| {name} | {medians[name]:.3f} | {arguments.batch / medians[name]:.2f} | "
            f"{ratio:.2f} | {cpu:.3f} | {cpu_ratio:.2f} | {share:.1%} | {peak:.1f} |"
        )
        rows += [(name, f"{part}_s", value) for part, value in parts.items()]
        rows += [(name, "step_s", medians[name]), (name, "times_cheaper", ratio)]
        rows += [(name, "cpu_s", cpu), (name, "cpu_times_cheaper", cpu_ratio)]
        rows += [(name, "network_share", share), (name, "peak_gb", peak)]
        for turn, result in enumerate(results):
            rows += [(name, f"step_s, round {turn}", s) for s in result["seconds"]]
    lines += [
        "",
        "*network*: share of student and teacher forward, backward and optimiser step in the "
        "time; the rest is views, pseudo labels, loss and moving average.",
    ]
    if not arguments.no_agreement:
        apart = agreement(variants)
        rows += apart
        lines += ["", "Distance from the same two steps in float64, relative (no dropout):", ""]
        kinds = list(dict.fromkeys(kind for name, kind, _ in apart if name in variants))
        lines += [f"| variant | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
        for name in variants:
            values = [f"{v:.1e}" for n, _, v in apart if n == name]
            lines.append(f"| {name} | {' | '.join(values)} |")
        lines += ["", "`ours` less `plain`, of the largest value:", ""]
        lines += [
            f"- {kind.removesuffix(', of largest')}: {value:.1e}"
            for _, kind, value in apart
            if kind.endswith(", of largest")
        ]
    text = "\n".join(lines) + "\n"
    print(text)
    stem = "adapt" if arguments.device == "cpu" else f"adapt_{arguments.device}"
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / f"{stem}.md").write_text(text, encoding="utf-8")
    with (arguments.out / f"{stem}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("variant", "quantity", "value"))
        writer.writerows(rows)


if __name__ == "__main__":
    main()
