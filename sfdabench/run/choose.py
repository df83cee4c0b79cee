"""From --method, --set and --source-set to methods, stages and a network with their field values.

What is chosen is plain values: a plan needs no code of an entry. The code of a plug-in is imported
in a confined process, which says what its fields and needs are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sfdabench.confine import client
from sfdabench.confine.channel import Channel
from sfdabench.core import registry
from sfdabench.core.errors import BadInput, Incompatible
from sfdabench.core.fields import override, pairs, plain
from sfdabench.core.head import Head
from sfdabench.core.near import unknown
from sfdabench.core.needs import Needs
from sfdabench.core.task import Recipe, Task

Chain = tuple[tuple[str, "Method"], ...]


@dataclass(frozen=True)
class Method:
    """A method with its field values, as JSON types, and what it needs with them."""

    fields: Mapping[str, Any]
    needs: Needs


@dataclass(frozen=True)
class Network:
    """A network with its field values, as JSON types, and what methods may rely on."""

    fields: Mapping[str, Any]
    features: frozenset[str]


@dataclass(frozen=True)
class Chosen:
    """The methods, stages and overrides that --method and --set ask for.

    source_stages: name -> the field values of each source-side stage that a method asks for.
    overrides: method or source-side stage -> the fields that differ from the profile's defaults.
    """

    chain: Chain
    source_stages: Mapping[str, Mapping[str, Any]]
    overrides: dict[str, dict[str, Any]]


def choose_methods(
    names: str, settings: Sequence[str], profile: str, classes: Sequence[str] | None = None
) -> Chosen:
    """Turn 'a+b' and --set texts into a chain, its source-side stages, and the overrides.

    Defaults are those of the profile. A field that several of them have, and any field of a
    source-side stage, is named `owner.field`. Another name for a method, such as tent_online, adds
    the field values that it stands for. Raises BadInput where a --set contradicts them, and where
    a field names none of the `classes` of a task.
    """
    arguments = {
        "names": names,
        "settings": list(settings),
        "profile": profile,
        "classes": None if classes is None else list(classes),
    }
    values = client.here_or_confined(describe_methods, arguments)
    chain = [(name, Method(v["fields"], Needs.read(v["needs"]))) for name, v in values["chain"]]
    return Chosen(tuple(chain), values["source_stages"], values["overrides"])


def choose_recipe(
    task: Task, profile: str, settings: Sequence[str]
) -> tuple[Recipe, Network, dict[str, Any]]:
    """Return the recipe, its network, and what --source-set changed of the profile.

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
    rest = {n: v for n, v in changes.items() if n not in own}
    arguments = {
        "name": recipe.network,
        "fields": plain(recipe.network_fields),
        "changes": rest,
        "others": sorted(own),
    }
    values = client.here_or_confined(describe_network, arguments)
    network = Network(values["fields"], frozenset(values["features"]))
    recipe = dataclasses.replace(recipe, network_fields=network.fields)
    before = plain(dataclasses.replace(base, network_fields={}))
    after = plain(dataclasses.replace(recipe, network_fields={}))
    differing = {n: v for n, v in after.items() if v != before[n]}
    return recipe, network, differing | {n: network.fields[n] for n in rest}


def check_fit(chain: Chain, task: str, head: Head, name: str, network: Network) -> None:
    """Raise Incompatible where a method is not defined for the task's head or its network."""
    for method, chosen in chain:
        heads = chosen.needs.heads
        if head not in heads:
            raise Incompatible(
                f"method {method} is defined for {' and '.join(map(str, heads))} heads, "
                f"task {task} has a {head} head"
            )
        lacking = chosen.needs.network - network.features
        if lacking:
            others = ", ".join(_networks_with(chosen.needs.network))
            raise Incompatible(
                f"method {method} needs a network with {', '.join(sorted(lacking))}, "
                f"{name} has {', '.join(sorted(network.features)) or 'none'}; give "
                f"--source-set network=NAME, such as {others or 'a plug-in of yours'}"
            )


def _networks_with(features: frozenset[str]) -> list[str]:
    """Built-in networks with these features whatever their fields are."""
    names = [name for name in registry.names("networks") if registry.is_ours("networks", name)]
    declared = {name: registry.load("networks", name).features for name in names}
    return [n for n, has in declared.items() if isinstance(has, frozenset) and features <= has]


def check_order(chain: Chain, protocols: Sequence[str]) -> None:
    """Raise Incompatible where a model that learns while it predicts would be used again."""
    for name, method in chain[:-1]:
        if method.needs.online:
            raise Incompatible(f"{name} learns while it predicts; nothing follows it in a chain")
    for name in protocols:
        mode = registry.load("protocols", name).mode
        if mode == "train" and chain[-1][1].needs.online:
            raise Incompatible(
                f"protocol {name} predicts in a mode of its own, and so does {chain[-1][0]}"
            )


# What follows imports the code of entries.


def describe_methods(
    channel: Channel | None,
    names: str,
    settings: Sequence[str],
    profile: str,
    classes: Sequence[str] | None,
) -> dict[str, Any]:
    """Return what `choose_methods` chooses, as JSON types (a job)."""
    parts = names.split("+")
    resolved = {part: registry.resolve("methods", part) for part in parts}
    presets = dict(resolved.values())
    wanted = list(presets)
    if len(wanted) != len(parts):
        raise BadInput(f"--method {names}: a method may stand in a chain once")
    entries = {name: registry.load("methods", name) for name in wanted}
    changes: dict[str, dict[str, Any]] = {name: {} for name in wanted}
    staged: dict[str, dict[str, Any]] = {}
    for full, value in pairs(settings, "--set").items():
        owner, dot, field = full.rpartition(".")
        owner = resolved.get(owner, (owner, {}))[0]
        if dot and owner in entries:
            changes[owner][field] = value
        elif dot:
            staged.setdefault(owner, {})[field] = value
        else:
            owners = [n for n in wanted if full in {f.name for f in dataclasses.fields(entries[n])}]
            if len(owners) > 1:
                raise BadInput(
                    f"--set {full}: {' and '.join(owners)} have it; say {owners[0]}.{full}"
                )
            changes[(owners or wanted)[0]][full] = value
    chain, overrides = [], {}
    for name in wanted:
        given = presets[name] | changes[name]
        method, overrides[name] = _configured("method", name, entries[name], given, profile)
        for field, value in presets[name].items():
            if getattr(method, field) != value:
                raise BadInput(
                    f"--set {field}={changes[name][field]}: contradicts --method {names}, where "
                    f"{field} is {value!r}; name the method {name}"
                )
        if classes is not None:
            method.check_classes(classes)
        chain.append((name, method))
    stages = dict.fromkeys(m.needs.source_stage for _, m in chain if m.needs.source_stage)
    for owner in staged.keys() - stages.keys():
        known = [*entries, *stages]
        field = next(iter(staged[owner]))
        raise BadInput(
            f"--set {owner}.{field}: {unknown('method or stage of this run', owner, known)}"
        )
    source_stages = {}
    for name in stages:
        entry = registry.load("stages", name)
        stage, different = _configured("stage", name, entry, staged.get(name, {}), profile)
        source_stages[name] = plain(stage)
        if different:
            overrides[name] = different
    return {
        "chain": [[n, {"fields": plain(m), "needs": plain(m.needs)}] for n, m in chain],
        "source_stages": source_stages,
        "overrides": overrides,
    }


def describe_network(
    channel: Channel | None,
    name: str,
    fields: Mapping[str, Any],
    changes: Mapping[str, Any],
    others: Sequence[str],
) -> dict[str, Any]:
    """Return the field values of a network after changes, and its features (a job).

    fields: those that differ from its defaults. others: what else --source-set may name.
    """
    entry = registry.load("networks", name)
    known = {f.name for f in dataclasses.fields(entry)}
    for field in changes.keys() - known:
        message = unknown("field of the source recipe and its network", field, {*others} | known)
        raise BadInput(f"--source-set {field}: {message}")
    owner, flag = f"network {name}", "--source-set"
    network = override(entry(**fields), changes, owner=owner, flag=flag)
    return {"fields": plain(network), "features": sorted(network.features)}


def _configured(
    kind: str, name: str, entry: Any, changes: Mapping[str, Any], profile: str
) -> tuple[Any, dict[str, Any]]:
    """The entry with its profile's values and the changes, and those that differ from them."""
    usual = entry.phantom if profile == "phantom" else {}
    default = override(entry(), usual, owner=f"{kind} {name}, phantom")
    value = override(default, changes, owner=f"{kind} {name}")
    before, after = plain(default), plain(value)
    return value, {f: after[f] for f in changes if after[f] != before[f]}
