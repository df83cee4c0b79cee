"""What every task must hold to."""

from __future__ import annotations

import fnmatch

from sfdabench.core import registry
from sfdabench.core.dataset import Dataset
from sfdabench.core.task import Task


def check_is_plain_and_frozen(entry: Task) -> None:
    """A value: hashable parts, a title, both profiles."""
    assert entry.title, "no title"
    assert {"paper", "phantom"} <= set(entry.profiles), f"profiles: {sorted(entry.profiles)}"
    assert "strict" in entry.protocols, "lacks the common protocol"


def check_names_entries_that_exist(entry: Task) -> None:
    """Data sets, networks and protocols by their registered names."""
    for domain in (*entry.source, entry.target):
        assert domain.dataset in registry.names("datasets"), f"no data set {domain.dataset}"
    for name in entry.protocols:
        registry.load("protocols", name)
    for recipe in entry.profiles.values():
        network = registry.load("networks", recipe.network)(**recipe.network_fields)
        outputs = len(entry.classes) + (entry.head == "softmax")
        module = network.build(channels=entry.channels, outputs=outputs)
        assert sum(p.numel() for p in module.parameters()) > 0, "a network without parameters"


def check_classes_are_labels_of_its_data_sets(entry: Task) -> None:
    """Every class value is one that each data set writes; exclusive ones do not overlap."""
    for domain in (*entry.source, entry.target):
        known = set(registry.load("datasets", domain.dataset).labels.values()) - {0}
        for name, values in entry.classes.items():
            assert set(values) <= known, f"class {name}: {values} not in {domain.dataset}"
    if entry.head == "softmax":
        used = [value for values in entry.classes.values() for value in values]
        assert len(used) == len(set(used)), "classes of a softmax head overlap"
    for name, members in entry.regions.items():
        assert set(members) <= set(entry.classes), f"region {name}: {members} are not all classes"


def check_fits_its_data_sets(entry: Task) -> None:
    """Channels that exist, as many as declared; splits of the release; raters where asked for."""
    for domain in (*entry.source, entry.target):
        dataset = registry.load("datasets", domain.dataset)
        channels = domain.channels or dataset.channels
        assert set(channels) <= set(dataset.channels), f"{channels} not in {domain.dataset}"
        assert len(channels) == entry.channels, f"{len(channels)} channels of {domain.dataset}"
        known = {split for counts in dataset.counts.values() for split in counts}
        wanted = [domain.train, domain.test, *([domain.oracle] if domain.oracle else [])]
        for pattern in wanted:
            assert fnmatch.filter(known, pattern), f"{domain.dataset}: no split fits {pattern}"
    target = registry.load("datasets", entry.target.dataset)
    for name in entry.protocols:
        protocol = registry.load("protocols", name)
        several = target.read_raters is not Dataset.read_raters
        assert protocol.references != "raters" or several, f"{name} wants raters"
        if not isinstance(protocol.threshold, float) and entry.head == "sigmoid":
            assert set(protocol.threshold) == set(entry.classes), f"thresholds of {name}"
