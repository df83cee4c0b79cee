"""What every task must hold to."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from sfdabench.checks import gather
from sfdabench.core import registry
from sfdabench.core.dataset import Dataset
from sfdabench.core.task import Domain, Recipe, Task


def check_is_plain_and_frozen(entry: Task) -> Iterator[str]:
    """A title, both profiles, the common protocol."""
    if not entry.title:
        yield "no title"
    if missing := {"paper", "phantom"} - set(entry.profiles):
        yield f"lacks profiles: {sorted(missing)}"
    if "strict" not in entry.protocols:
        yield "lacks the common protocol, strict"


def check_names_entries_that_exist(entry: Task) -> Iterator[str]:
    """Data sets, networks and protocols by their registered names."""
    for domain in (*entry.source, entry.target):
        if domain.dataset not in registry.names("datasets"):
            yield f"no data set {domain.dataset}"
    for name in entry.protocols:
        if name not in registry.names("protocols"):
            yield f"no protocol {name}"
    for name, recipe in entry.profiles.items():
        yield from gather(_no_network(entry, recipe), f"profile {name}")


def _no_network(entry: Task, recipe: Recipe) -> Iterator[str]:
    network = registry.load("networks", recipe.network)(**recipe.network_fields)
    outputs = entry.head.outputs(len(entry.classes))
    module = network.build(channels=entry.channels, outputs=outputs)
    if not any(p.numel() for p in module.parameters()):
        yield f"{recipe.network} has no parameters"


def check_classes_are_labels_of_its_data_sets(entry: Task) -> Iterator[str]:
    """Every class value is one that each data set writes; exclusive ones do not overlap."""
    for dataset in dict.fromkeys(domain.dataset for domain in (*entry.source, entry.target)):
        known = set(registry.load("datasets", dataset).labels.values()) - {0}
        for name, values in entry.classes.items():
            if absent := set(values) - known:
                yield f"class {name}: {sorted(absent)} are no labels of {dataset}"
    if entry.head.exclusive:
        used = [value for values in entry.classes.values() for value in values]
        if len(used) != len(set(used)):
            yield f"classes of a {entry.head} head overlap"
    for name, members in entry.regions.items():
        if strangers := set(members) - set(entry.classes):
            yield f"region {name}: no classes {sorted(strangers)}"


def check_fits_its_data_sets(entry: Task) -> Iterator[str]:
    """Channels that exist, as many as declared; splits of the release; raters where asked for."""
    for domain in (*entry.source, entry.target):
        yield from gather(_misfits(entry, domain), domain.dataset)
    target = registry.load("datasets", entry.target.dataset)
    for name in entry.protocols:
        protocol = registry.load("protocols", name)
        if protocol.references == "raters" and target.read_raters is Dataset.read_raters:
            yield f"protocol {name} wants several raters, {entry.target.dataset} has one"
        by_class = not isinstance(protocol.threshold, float)
        if by_class and set(protocol.threshold) != set(entry.classes):
            yield f"protocol {name} has thresholds of {sorted(protocol.threshold)}"


def _misfits(entry: Task, domain: Domain) -> Iterator[str]:
    dataset = registry.load("datasets", domain.dataset)
    channels = domain.channels or dataset.channels
    if absent := set(channels) - set(dataset.channels):
        yield f"no channels {sorted(absent)}"
    if len(channels) != entry.channels:
        yield f"{len(channels)} channels, the task has {entry.channels}"
    known = {split for counts in dataset.counts.values() for split in counts}
    for pattern in (domain.train, domain.test, *([domain.oracle] if domain.oracle else [])):
        if not fnmatch.filter(known, pattern):
            yield f"no split fits {pattern}"
