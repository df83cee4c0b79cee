"""Flags -> a run that is fully determined: task, methods, recipe, data, and the key of its record.

Nothing here needs torch, so that a run whose record exists is answered at once.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import sfdabench
from sfdabench.core import registry
from sfdabench.core.dataset import Case
from sfdabench.core.errors import BadInput, Incompatible
from sfdabench.core.fields import override, pairs, plain
from sfdabench.core.files import sha256_file
from sfdabench.core.method import Method
from sfdabench.core.near import unknown
from sfdabench.core.network import Network
from sfdabench.core.paths import cache_root, check_writable, data_root
from sfdabench.core.progress import Progress
from sfdabench.core.task import Domain, Recipe, Task
from sfdabench.prepare.phantoms import phantom_root
from sfdabench.prepare.planes import Preparation
from sfdabench.prepare.split import Split, find_split
from sfdabench.store import records

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Run:
    """One run: stages 3 to 6 for one seed."""

    task_name: str
    task: Task
    chain: tuple[tuple[str, Method], ...]
    overrides: Mapping[str, Mapping[str, Any]]
    recipe: Recipe
    network: Network
    source_overrides: Mapping[str, Any]
    seed: int
    profile: Literal["paper", "phantom"]
    data: Literal["phantom", "real"]
    source_train: tuple[Split, ...]
    source_test: tuple[Split, ...]
    target_train: Split
    target_test: Split
    protocols: tuple[str, ...]
    device: str
    precision: Precision
    out: Path
    cache: Path

    @property
    def method_name(self) -> str:
        """The chain as the user wrote it."""
        return "+".join(name for name, _ in self.chain)

    @property
    def online(self) -> bool:
        """Whether it learns while it predicts, so that its weights cannot repeat what is scored."""
        return self.chain[-1][1].needs.online

    @property
    def scored_on_training_cases(self) -> bool:
        """Whether the method learns from cases that it is scored on, as an oracle may have to."""
        learnt = {case.id for case in self.target_train.cases}
        return not learnt.isdisjoint(case.id for case in self.target_test.cases)

    @property
    def source_inputs(self) -> dict[str, Any]:
        """All that determines the source model."""
        recipe = plain(self.recipe)
        if self.recipe.backbone_weights is not None:
            recipe["backbone_weights"] = sha256_file(self.recipe.backbone_weights)
        return {
            "recipe": recipe,
            "network": plain(self.network),
            "classes": plain(self.task.classes),
            "head": self.task.head,
            "train": [split.inputs for split in self.source_train],
            "validation": [split.inputs for split in self.source_test],
            "seed": self.seed,
        }

    @property
    def source_key(self) -> str:
        """Name of the source model in the cache."""
        return records.digest(self.source_inputs)

    @property
    def source_folder(self) -> Path:
        """Where the source model is, or will be; `source.json` in it is written last."""
        name = f"{self.task_name.partition('2')[0]}-{self.profile}-seed{self.seed}"
        return self.cache / "sources" / f"{name}-{self.source_key[:16]}"

    @property
    def key(self) -> str:
        """Hash of all inputs: the name of the record."""
        return records.digest(
            {
                "schema": records.SCHEMA,
                "version": sfdabench.__version__,
                "task": self.task_name,
                "chain": [[name, plain(method)] for name, method in self.chain],
                "source": self.source_inputs,
                "target": [self.target_train.inputs, self.target_test.inputs],
                "protocols": list(self.protocols),
                "data": self.data,
                "device": self.device,
                "precision": self.precision,
            }
        )

    @property
    def record_path(self) -> Path:
        """Where the record of this run is, or will be."""
        return records.record_path(self.out, self.task_name, self.method_name, self.key)


def choose_device(flag: str) -> str:
    """'auto', 'cpu' or 'cuda' -> 'cpu' or 'cuda'.

    Raises BadInput for CUDA where there is none. torch is asked only where a GPU could be.
    """
    if flag == "cpu":
        return "cpu"
    possible = sys.platform != "linux" or any(
        [*Path("/dev").glob("nvidia*"), Path("/dev/dxg").exists()]
    )
    if possible or flag == "cuda":
        import torch

        if torch.cuda.is_available():
            return "cuda"
    if flag == "cuda":
        raise BadInput("--device cuda: torch finds no CUDA device here; use --device auto or cpu")
    return "cpu"


def choose_methods(
    names: str, settings: Sequence[str], profile: str
) -> tuple[tuple[tuple[str, Method], ...], dict[str, dict[str, Any]]]:
    """'a+b' and --set texts -> the chain, and per method the fields that differ from defaults.

    Defaults are those of the profile. In a chain a field is named `method.field` where both
    methods have it. Another name for a method, such as tent_online, adds the field values that it
    stands for; BadInput where a --set contradicts them.
    """
    parts = names.split("+")
    resolved = {part: registry.resolve("methods", part) for part in parts}
    presets = dict(resolved.values())
    wanted = list(presets)
    if len(wanted) != len(parts):
        raise BadInput(f"--method {names}: a method may stand in a chain once")
    classes = {name: registry.load("methods", name) for name in wanted}
    changes: dict[str, dict[str, Any]] = {name: {} for name in wanted}
    for full, value in pairs(settings, "--set").items():
        owner, dot, field = full.rpartition(".")
        if dot:
            owner = resolved.get(owner, (owner, {}))[0]
            if owner not in classes:
                raise BadInput(f"--set {full}: {unknown('method of this run', owner, classes)}")
            changes[owner][field] = value
            continue
        owners = [n for n in wanted if full in {f.name for f in dataclasses.fields(classes[n])}]
        if len(owners) > 1:
            raise BadInput(f"--set {full}: {' and '.join(owners)} have it; say {owners[0]}.{full}")
        changes[(owners or wanted)[0]][full] = value
    chain, differing = [], {}
    for name in wanted:
        usual = classes[name].phantom if profile == "phantom" else {}
        default = override(classes[name](), usual, owner=f"method {name}, phantom")
        given = presets[name] | changes[name]
        method = override(default, given, owner=f"method {name}")
        for field, value in presets[name].items():
            if getattr(method, field) != value:
                raise BadInput(
                    f"--set {field}={changes[name][field]}: contradicts --method {names}, where "
                    f"{field} is {value!r}; name the method {name}"
                )
        chain.append((name, method))
        before, after = plain(default), plain(method)
        differing[name] = {f: after[f] for f in given if after[f] != before[f]}
    return tuple(chain), differing


def choose_recipe(
    task: Task, profile: str, settings: Sequence[str]
) -> tuple[Recipe, Network, dict[str, Any]]:
    """Profile and --source-set texts -> the recipe, its network, and what differs from the profile.

    A name that is no field of the recipe is taken for a field of the network.
    """
    base = task.profiles[profile]
    changes = pairs(settings, "--source-set")
    own = {f.name for f in dataclasses.fields(Recipe)} - {"network_fields"}
    recipe = override(
        base,
        {n: v for n, v in changes.items() if n in own},
        owner="the source recipe",
        flag="--source-set",
    )
    if recipe.network != base.network:
        recipe = dataclasses.replace(recipe, network_fields={})
    if recipe.backbone_weights is not None and not recipe.backbone_weights.is_file():
        raise BadInput(f"--source-set backbone_weights={recipe.backbone_weights}: no such file")
    entry = registry.load("networks", recipe.network)
    rest = {n: v for n, v in changes.items() if n not in own}
    known = {f.name for f in dataclasses.fields(entry)}
    for name in rest.keys() - known:
        message = unknown("field of the source recipe and its network", name, own | known)
        raise BadInput(f"--source-set {name}: {message}")
    network = override(
        entry(**recipe.network_fields),
        rest,
        owner=f"network {recipe.network}",
        flag="--source-set",
    )
    recipe = dataclasses.replace(recipe, network_fields=plain(network))
    before = plain(dataclasses.replace(base, network_fields={}))
    after = plain(dataclasses.replace(recipe, network_fields={}))
    differing = {n: v for n, v in after.items() if v != before[n]}
    return recipe, network, differing | {n: plain(network)[n] for n in rest}


def check_fit(
    chain: Sequence[tuple[str, Method]], task: str, head: str, network: str, built: Network
) -> None:
    """Raises Incompatible where a method is not defined for the task's head or its network."""
    for name, method in chain:
        if head not in method.needs.heads:
            raise Incompatible(
                f"method {name} is defined for {' and '.join(method.needs.heads)} heads, "
                f"task {task} has a {head} head"
            )
        lacking = method.needs.network - built.features
        if lacking:
            raise Incompatible(
                f"method {name} needs a network with {', '.join(sorted(lacking))}, "
                f"{network} has {', '.join(sorted(built.features)) or 'none'}"
            )


def check_order(chain: Sequence[tuple[str, Method]], protocols: Sequence[str]) -> None:
    """Raises Incompatible where something else would predict with a model that learns meanwhile."""
    for name, method in chain[:-1]:
        if method.needs.online:
            raise Incompatible(f"{name} learns while it predicts; nothing follows it in a chain")
    for name in protocols:
        mode = registry.load("protocols", name).mode
        if mode == "train" and chain[-1][1].needs.online:
            raise Incompatible(
                f"protocol {name} predicts in a mode of its own, and so does {chain[-1][0]}"
            )


def resolve(
    *,
    method: str,
    task: str,
    seed: int,
    data: Path | None,
    out: Path,
    profile: str | None,
    settings: Sequence[str] = (),
    source_settings: Sequence[str] = (),
    device: str = "auto",
    precision: Precision = "float32",
    protocols: Sequence[str] = (),
    phantom: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Check every flag and find the data; raises BadInput before anything is computed.

    phantom: take the phantom, whatever SFDABENCH_DATA says.
    """
    progress = progress or Progress(quiet=True)
    task = registry.canonical("tasks", task)
    value: Task = registry.load("tasks", task)
    root = None if phantom else data_root(data)
    kind: Literal["phantom", "real"] = "phantom" if root is None else "real"
    chosen = profile or ("phantom" if root is None else "paper")
    if chosen not in value.profiles:
        raise BadInput(f"--profile {chosen}: {unknown('profile', chosen, value.profiles)}")
    chain, overrides = choose_methods(method, settings, chosen)
    for part in method.split("+"):
        if note := registry.explain("methods", part):
            progress.say(note)
    recipe, network, source_overrides = choose_recipe(value, chosen, source_settings)
    check_fit(chain, task, value.head, recipe.network, network)
    scored = tuple(dict.fromkeys((*value.protocols, *protocols)))
    check_order(chain, scored)
    cache = cache_root()
    check_writable(out, "--out", need_bytes=100 * 2**20)
    check_writable(cache, "SFDABENCH_CACHE", need_bytes=500 * 2**20)
    chosen_device = choose_device(device)
    found: dict[tuple[str, Path], dict[str, list[Case]]] = {}

    @functools.cache  # every look at a phantom looks at all of its files
    def phantom_of(name: str) -> Path:
        return phantom_root(name, registry.load("datasets", name)(), cache, progress.say)

    def split(domain: Domain, pattern: str, role: str, labelled: bool) -> Split:
        where = phantom_of(domain.dataset) if root is None else root
        memo = found.setdefault((domain.dataset, where), {})
        how = Preparation.of(value, domain, recipe.size, role)
        name = domain.dataset
        return find_split(name, pattern, where, cache, memo, how, progress, labelled=labelled)

    oracle = any(m.needs.target_labels for _, m in chain)
    target = value.target
    learnt = target.oracle if oracle and target.oracle else target.train
    return Run(
        task_name=task,
        task=value,
        chain=chain,
        overrides=overrides,
        recipe=recipe,
        network=network,
        source_overrides=source_overrides,
        seed=seed,
        profile=chosen,  # type: ignore[arg-type]
        data=kind,
        source_train=tuple(split(d, d.train, "source", True) for d in value.source),
        source_test=tuple(split(d, d.test, "source test", True) for d in value.source),
        target_train=split(target, learnt, "target", oracle),
        target_test=split(target, target.test, "target test", True),
        protocols=scored,
        device=chosen_device,
        precision=precision,
        out=out.resolve(),
        cache=cache,
    )
