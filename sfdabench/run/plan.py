"""From flags to a plan of a run: its stages, what they may see, and the key of its record.

Nothing here needs torch, so that a run whose record exists is answered at once.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sfdabench.core import registry
from sfdabench.core.code import entry_code, shared_code
from sfdabench.core.dataset import Case
from sfdabench.core.errors import AbsentData, BadInput, DataFault
from sfdabench.core.fields import plain
from sfdabench.core.files import sha256_file
from sfdabench.core.near import unknown
from sfdabench.core.needs import Needs
from sfdabench.core.paths import cache_root, check_writable, data_root
from sfdabench.core.progress import Progress
from sfdabench.core.protocol import Protocol
from sfdabench.core.stage import Problem, Stage, digest
from sfdabench.core.task import Domain, Recipe, Task
from sfdabench.prepare.phantoms import phantom_root
from sfdabench.prepare.preparation import Preparation
from sfdabench.prepare.split import Split, find_split
from sfdabench.run.choose import (
    Chain,
    Method,
    Network,
    check_fit,
    check_order,
    choose_methods,
    choose_recipe,
)
from sfdabench.store import records

Precision = Literal["float32", "bfloat16"]
MADE_BY = ("core", "models", "primitives")  # shared code that moves the numbers of every stage


@dataclass(frozen=True)
class Run:
    """A run that is fully determined: its stages, and the test split that the last is scored on.

    target_train: what the methods learn from; unlabelled_train: what one without labels would.
    given_source: a source model that is there already, where the source data need not be; the
        splits of the source are then empty if the data are not there.
    source_stages: name -> field values of the source-side stages that methods of the chain ask for.
    source_files: images and labels of the source that are there although the run does not need
        them, so that they can be closed to its methods; a folder where they cannot be listed.
    """

    task_name: str
    task: Task
    chain: Chain
    overrides: Mapping[str, Mapping[str, Any]]
    recipe: Recipe
    network: Network
    source_overrides: Mapping[str, Any]
    seed: int
    profile: str
    data: Literal["phantom", "real"]
    source_train: tuple[Split, ...]
    source_test: tuple[Split, ...]
    target_train: Split
    unlabelled_train: Split
    target_test: Split
    protocol_names: tuple[str, ...]
    device: str
    precision: Precision
    out: Path
    cache: Path
    given_source: Stage | None = None
    source_stages: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    source_files: tuple[Path, ...] = ()

    @property
    def method_name(self) -> str:
        """The chain as the user wrote it."""
        return "+".join(name for name, _ in self.chain)

    @property
    def online(self) -> bool:
        """Whether the method learns while it predicts; its weights then repeat no prediction."""
        return self.chain[-1][1].needs.online

    @property
    def scored_on_training_cases(self) -> bool:
        """Whether the method learns from cases that it is scored on, as an oracle may have to."""
        learnt = {case.id for case in self.target_train.cases}
        return not learnt.isdisjoint(case.id for case in self.target_test.cases)

    @cached_property
    def protocols(self) -> dict[str, Protocol]:
        """The protocols by name, with their exceptions for the target data set."""
        target = self.task.target.dataset
        return {n: registry.load("protocols", n).on(target) for n in self.protocol_names}

    @property
    def problem(self) -> Problem:
        """What the stages know of the task."""
        return Problem(
            classes=self.task.classes,
            head=self.task.head,
            channels=self.task.channels,
            augmentation=self.task.augmentation,
            source_loss=self.recipe.loss,
        )

    @cached_property
    def recipe_inputs(self) -> dict[str, Any]:
        """The recipe as JSON types, a file of weights by its content."""
        recipe = plain(self.recipe)
        if self.given_source is not None and self.given_source.kind == "imported":
            kept = {name: recipe[name] for name in ("size", "network", "network_fields")}
            return kept | {"imported": self.given_source.fields["sha256"]}
        if self.recipe.backbone_weights is not None:
            recipe["backbone_weights"] = sha256_file(self.recipe.backbone_weights)
        return recipe

    @cached_property
    def source(self) -> Stage:
        """The stage of the source model."""
        if self.given_source is not None:
            return self.given_source
        learnt = [
            dataclasses.replace(split, how=split.how.for_training(self.recipe))
            for split in self.source_train
        ]
        sees: dict[str, Any] = {
            "source": self._seen(learnt),
            "validation": self._seen(self.source_test),
        }
        if self.recipe.backbone_weights is not None:
            sees["backbone"] = self.recipe_inputs["backbone_weights"]
        return Stage(
            kind="stages",
            name="source_training",
            fields=plain(self.recipe.training),
            code=self._code("stages", "source_training"),
            network=self.recipe.network,
            network_fields=self.network.fields,
            problem=dataclasses.replace(self.problem, augmentation=self.recipe.augmentation),
            sees=sees,
            seed=self.seed,
        )

    @cached_property
    def links(self) -> tuple[Stage, ...]:
        """The stage of each method that changes anything; it starts from the one before it."""
        links: list[Stage] = []
        for name, method in self.chain:
            if method.needs.changes:
                links.append(self._link(name, method, links[-1] if links else self.source))
        return tuple(links)

    @property
    def final(self) -> Stage:
        """The stage whose model is scored."""
        return self.links[-1] if self.links else self.source

    @property
    def unadapted(self) -> Run | None:
        """The run that scores the source model; None where it is this run itself."""
        if not self.links and self.method_name == "source_only":
            return None
        return dataclasses.replace(
            self,
            chain=choose_methods("source_only", (), self.profile).chain,
            overrides={"source_only": {}},
            source_stages={},
            target_train=self.unlabelled_train,
        )

    def _link(self, name: str, method: Method, start: Stage) -> Stage:
        needs = method.needs
        sees: dict[str, Any] = {}
        if needs.online:
            sees["target test"] = self._seen([self.target_test])
        else:
            sees["target"] = self._seen([self.target_train])
        if needs.target_labels:
            sees["target labels"] = self._seen([self.target_train])
        if needs.source_data:
            sees["source"] = self._seen(
                dataclasses.replace(split, how=dataclasses.replace(split.how, raters=needs.raters))
                for split in self.source_train
            )
        if needs.class_ratio:
            sees["class ratio"] = self._seen(self.source_train)
        beside = (self._source_side(needs.source_stage),) if needs.source_stage else ()
        return Stage(
            kind="methods",
            name=name,
            fields=method.fields,
            code=self._code("methods", name),
            network=start.network,
            network_fields=start.network_fields,
            problem=self.problem,
            sees=sees,
            seed=self.seed,
            start=start,
            beside=beside,
            device=self.device,
            precision=self.precision,
        )

    def _source_side(self, name: str) -> Stage:
        return Stage(
            kind="stages",
            name=name,
            fields=self.source_stages[name],
            code=self._code("stages", name),
            network=self.source.network,
            network_fields=self.source.network_fields,
            problem=self.problem,
            sees={
                "source": self._seen(self.source_train),
                "validation": self._seen(self.source_test),
            },
            seed=self.seed,
            start=self.source,
        )

    def _seen(self, splits: Iterable[Split]) -> list[dict[str, Any]]:
        """What a stage's key holds of splits; a phantom is never taken for real data."""
        return [split.inputs | {"data": self.data} for split in splits]

    def _code(self, kind: str, name: str) -> dict[str, str]:
        return {
            "maker": entry_code(kind, name),
            "network": entry_code("networks", self.recipe.network),
            **shared_code(*MADE_BY),
        }

    @cached_property
    def key(self) -> str:
        """The hash of all inputs, which names the record."""
        return digest(
            {
                "schema": records.SCHEMA,
                "task": self.task_name,
                "method": self.method_name,
                "stage": self.final.key,
                "test": self.target_test.inputs,
                "regions": plain(self.task.scored),
                "protocols": {name: plain(value) for name, value in self.protocols.items()},
                "code": shared_code("evaluate"),
                "data": self.data,
                "profile": self.profile,
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


def asks_for_source(needs: Needs) -> bool:
    """Whether a method needs source images or labels, or something computed from them."""
    return needs.source_data or needs.class_ratio or needs.source_stage is not None


class Data:
    """Finds splits under the root of real data, or in phantoms; each data set is scanned once.

    verify: hash every file of a split, also those that look unchanged.
    """

    def __init__(
        self, root: Path | None, cache: Path, progress: Progress, *, verify: bool = False
    ) -> None:
        self.root, self.cache, self.progress, self.verify = root, cache, progress, verify
        self._scans: dict[tuple[str, Path], dict[str, list[Case]]] = {}
        self._phantom = functools.cache(self._draw)  # every look at a phantom looks at all files

    def _draw(self, name: str) -> Path:
        dataset = registry.load("datasets", name)()
        return phantom_root(name, dataset, self.cache, self.progress.say)

    def of_source(self, task: Task) -> tuple[Path, ...]:
        """Every file of the source's data sets, as far as they are there.

        Where a data set is damaged its files are not known one by one, so the whole root is
        closed; what a method is granted lies elsewhere.
        """
        paths: list[Path] = []
        for name in {domain.dataset for domain in task.source}:
            where = self._phantom(name) if self.root is None else self.root
            try:
                cases = registry.load("datasets", name)().cases(where)
            except AbsentData:
                continue
            except (DataFault, OSError) as fault:
                first = " ".join(line.strip() for line in str(fault).splitlines()[:2])
                self.progress.say(
                    f"source data {name}: not all files can be listed, so the whole of {where} is "
                    f"closed to methods; `sfdabench data verify {name}` says more ({first})"
                )
                paths.append(where)
                continue
            paths += [p for case in cases for p in (*case.image, *case.label)]
        return tuple(paths)

    def split(
        self, task: Task, domain: Domain, pattern: str, role: str, size: int, *, labelled: bool
    ) -> Split:
        """Return a domain's split for a role. Raises DataFault as `find_split` does."""
        name = domain.dataset
        where = self._phantom(name) if self.root is None else self.root
        scans = self._scans.setdefault((name, where), {})
        how = Preparation.of(task, domain, size, role)
        return find_split(
            *(name, pattern, where, self.cache, scans, how, self.progress),
            labelled=labelled,
            fresh=self.verify,
        )


def resolve(
    *,
    method: str,
    task: str,
    seed: int,
    data: Path | None,
    out: Path,
    profile: str | None = None,
    settings: Sequence[str] = (),
    source_settings: Sequence[str] = (),
    source: str | None = None,
    device: str = "auto",
    precision: Precision = "float32",
    protocols: Sequence[str] = (),
    phantom: bool = False,
    verify_data: bool = False,
    source_data: bool = True,
    progress: Progress | None = None,
) -> Run:
    """Check every flag and find the data; raises BadInput before anything is computed.

    source: an imported or cached source model, by name or by the first digits of its key.
    phantom: take the phantom, whatever SFDABENCH_DATA says.
    verify_data: hash every file of the data again, also those that look unchanged.
    source_data: whether the source matters; without it the run can be predicted, not carried out.
    """
    progress = progress or Progress(quiet=True)
    task = registry.canonical("tasks", task)
    value: Task = registry.load("tasks", task)
    root = None if phantom else data_root(data)
    kind: Literal["phantom", "real"] = "phantom" if root is None else "real"
    default = "phantom" if root is None else "paper"
    chosen = profile or default
    if chosen not in value.profiles:
        raise BadInput(f"--profile {chosen}: {unknown('profile', chosen, value.profiles)}")
    methods = choose_methods(method, settings, chosen, tuple(value.classes))
    for part in method.split("+"):
        if note := registry.explain("methods", part):
            progress.say(note)
    cache = cache_root()
    given = None
    if source is not None and source_data:
        from sfdabench.run import sources

        given = sources.find(cache, source)
        source_settings = sources.settings_of(given, source_settings)
    recipe, network, source_overrides = choose_recipe(value, chosen, source_settings)
    check_fit(methods.chain, task, value.head, recipe.network, network)
    scored = tuple(dict.fromkeys((*value.protocols, *protocols)))
    if not scored:
        raise BadInput(f"task {task}: names no protocol to score by; give --protocol strict")
    check_order(methods.chain, scored)
    folder = records.record_path(out, task, "+".join(n for n, _ in methods.chain), "").parent
    unwritable = _unwritable(folder, cache) if source_data else None
    if unwritable is not None and not any(folder.glob("*.json")):
        raise unwritable  # else this run may be there already, and reading it needs no room
    chosen_device = choose_device(device)
    files = Data(root, cache, progress, verify=verify_data)
    needs = [m.needs for _, m in methods.chain]
    oracle = any(n.target_labels for n in needs)
    target = value.target
    learnt = target.oracle if oracle and target.oracle else target.train
    target_train = files.split(value, target, learnt, "target", recipe.size, labelled=oracle)
    unlabelled_train = target_train
    if oracle:
        unlabelled_train = files.split(
            value, target, target.train, "target", recipe.size, labelled=False
        )
    run = Run(
        task_name=task,
        task=value,
        chain=methods.chain,
        overrides=methods.overrides,
        recipe=recipe,
        network=network,
        source_overrides=source_overrides,
        seed=seed,
        profile=chosen,
        data=kind,
        source_train=(),
        source_test=(),
        target_train=target_train,
        unlabelled_train=unlabelled_train,
        target_test=files.split(
            value, target, target.test, "target test", recipe.size, labelled=True
        ),
        protocol_names=scored,
        device=chosen_device,
        precision=precision,
        out=out.resolve(),
        cache=cache,
        given_source=given,
        source_stages=methods.source_stages,
    )
    run = _sourced(run, files, needs, source_data=source_data)
    if unwritable is not None and not run.record_path.exists():
        raise unwritable
    return run


def _unwritable(folder: Path, cache: Path) -> BadInput | None:
    """Why nothing can be written into the folder of the records or the cache; None where it can."""
    try:
        check_writable(folder, "--out", need_bytes=100 * 2**20)
        check_writable(cache, "SFDABENCH_CACHE", need_bytes=500 * 2**20)
    except BadInput as error:
        return error
    return None


def _sourced(run: Run, files: Data, needs: Sequence[Needs], *, source_data: bool) -> Run:
    """The run with what its source model is made of, as far as that matters."""
    given, value = run.given_source, run.task
    if given is not None:
        from sfdabench.run import sources

        sources.check_fits(given, run.problem, run.task_name)
        run = dataclasses.replace(run, source_files=files.of_source(value))
    if (given is not None and not any(asks_for_source(n) for n in needs)) or not source_data:
        return run
    return _with_source(run, files, needs)


def _with_source(run: Run, files: Data, needs: Sequence[Needs]) -> Run:
    """The run with the splits of its source, or with the one source model in the cache that fits.

    Raises AbsentData where the data are not there and a method needs them or no model fits.
    """
    task, size = run.task, run.recipe.size
    try:
        return dataclasses.replace(
            run,
            source_train=tuple(
                files.split(task, d, d.train, "source", size, labelled=True) for d in task.source
            ),
            source_test=tuple(
                files.split(task, d, d.test, "source test", size, labelled=True)
                for d in task.source
            ),
        )
    except AbsentData as error:
        asking = [name for name, method in run.chain if asks_for_source(method.needs)]
        if asking:
            raise AbsentData(
                f"{error}\n{' and '.join(asking)} needs the source data; a source model alone is "
                f"enough for {', '.join(_source_free())}"
            ) from error
        from sfdabench.run import sources

        alike = sources.alike(run.cache, run)
        if len(alike) == 1:
            files.progress.say(
                "the source data are not there; starts from the source model "
                f"{alike[0].folder_name} in the cache"
            )
            return dataclasses.replace(
                run, given_source=alike[0], source_files=files.of_source(task)
            )
        several = ", ".join(stage.folder_name for stage in alike)
        cure = (
            f"name one of these source models with --source: {several}"
            if alike
            else "bring a source model: `sfdabench source import FILE --task "
            f"{run.task_name} --network {run.recipe.network}`, then --source NAME"
        )
        raise AbsentData(f"{error}\n{cure}") from error


def _source_free() -> list[str]:
    """The built-in methods that need nothing of the source but its model."""
    return [
        name
        for name in registry.names("methods")
        if registry.is_ours("methods", name)
        and not asks_for_source(registry.load("methods", name)().needs)
    ]
