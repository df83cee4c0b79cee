"""An entry as text: what it is, where it comes from, its fields."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, get_type_hints

from sfdabench.confine.channel import Channel
from sfdabench.core import registry
from sfdabench.core.dataset import Dataset
from sfdabench.core.fields import describe, override
from sfdabench.core.method import Paper
from sfdabench.core.protocol import Protocol
from sfdabench.core.task import Domain, Task


def describe_entry(kind: str, name: str) -> str:
    """The page that `sfdabench show` prints."""
    note = registry.explain(kind, name)
    name, _ = registry.resolve(kind, name)
    entry = registry.load(kind, name)
    if isinstance(entry, Task):
        body = _task(entry)
    elif isinstance(entry, Protocol):
        body = _protocol(entry)
    elif issubclass(entry, Dataset):
        body = _dataset(entry)
    else:
        body = _configurable(entry, kind, name)
    title = [f"{name} ({kind.removesuffix('s')})", ""]
    return "\n".join([*([note, ""] if note else []), *title, *body])


def describe_job(channel: Channel | None, kind: str, name: str) -> str:
    """Return the page of an entry (a job)."""
    return describe_entry(kind, name)


def _paper(paper: Paper | None) -> list[str]:
    if paper is None:
        return ["paper: none (ours)"]
    return [f"paper: {paper.title} ({paper.venue})", f"       {paper.url}"]


def _task(task: Task) -> list[str]:
    lines = [task.title, *_paper(task.paper)]
    lines += [f"source: {_domain(domain)}" for domain in task.source]
    lines += [
        f"target: {_domain(task.target)}",
        f"classes: {', '.join(task.classes)} ({task.head} head)",
    ]
    if task.regions:
        scored = [f"{name} = {' + '.join(parts)}" for name, parts in task.regions.items()]
        lines.append(f"scored: {', '.join(scored)}")
    crop = task.crop
    lines += [
        f"crop: {crop if isinstance(crop, str) else f'central {crop.side:g} {crop.unit}'}; "
        f"intensity: {task.intensity}",
        f"planes to learn from: source {task.source_planes}, target {task.target_planes}",
        f"protocols: {', '.join(task.protocols)}",
    ]
    for name, recipe in task.profiles.items():
        lines += ["", f"profile {name} (--source-set FIELD=VALUE):"]
        lines += [f"  {f.name} = {getattr(recipe, f.name)}" for f in dataclasses.fields(recipe)]
    return lines


def _domain(domain: Domain) -> str:
    parts = [f"{domain.dataset}, learns from [{domain.train}], scored on [{domain.test}]"]
    if domain.oracle:
        parts.append(f"a supervised bound learns from [{domain.oracle}]")
    if domain.channels:
        parts.append(f"channels {', '.join(domain.channels)}")
    if domain.window:
        parts.append(f"values cut to {domain.window[0]:g}..{domain.window[1]:g}")
    if domain.ceiling:
        parts.append(f"values cut at percentile {domain.ceiling:g}")
    return "; ".join(parts)


def _protocol(protocol: Protocol) -> list[str]:
    shown = [f for f in dataclasses.fields(protocol) if f.name not in ("title", "paper")]
    return [
        protocol.title,
        *_paper(protocol.paper),
        "",
        *(f"  {f.name} = {getattr(protocol, f.name)}" for f in shown),
    ]


def _dataset(dataset: type[Dataset]) -> list[str]:
    card = dataset.card
    tree = [f"  {line}" for line in card.tree.splitlines()]
    counts = [
        f"  {layout}: " + ", ".join(f"{split} {n}" for split, n in splits.items())
        for layout, splits in dataset.counts.items()
    ]
    return [
        card.title,
        f"licence: {card.licence}",
        f"url: {card.url}",
        f"cite: {card.citation}",
        f"obtain: {card.obtain}",
        "labels: " + ", ".join(f"{n} = {v}" for n, v in dataset.labels.items()),
        "expected tree under --data:",
        *tree,
        "official counts:",
        *counts,
    ]


def _provenance(entry: type) -> dict[str, str]:
    """Field -> the comment behind its default: where the number comes from."""
    lines = inspect.getsource(entry).splitlines()
    found = {}
    for line in lines:
        code, hash_, comment = line.partition("  # ")
        name = code.strip().partition(":")[0]
        if hash_ and name.isidentifier():
            found[name] = comment.strip()
    return found


def field_rows(entry: type) -> list[tuple[str, Any, str, str]]:
    """Of each field: name, default, what it takes, and where the default comes from."""
    origin, hints = _provenance(entry), get_type_hints(entry)
    return [
        (f.name, f.default, describe(hints[f.name]), origin.get(f.name, ""))
        for f in dataclasses.fields(entry)
    ]


def _configurable(entry: Any, kind: str, name: str) -> list[str]:
    lines = [inspect.cleandoc(entry.__doc__ or ""), ""]
    if kind == "methods":
        needs = entry().needs
        lines += [
            *_paper(entry.paper),
            f"setting: {needs.setting}; heads: {', '.join(map(str, needs.heads))}; "
            f"changes: {', '.join(sorted(needs.changes)) or 'nothing'}",
        ]
        if needs.network:
            lines.append(f"needs of the network: {', '.join(sorted(needs.network))}")
        for other, fields in registry.variants(name).items():
            setting = override(entry(), fields, owner=name).needs.setting
            lines.append(f"{registry.explain(kind, other)} (setting: {setting})")
        flag = "--set "
    elif kind == "stages":
        lines += [*_paper(entry.paper), "trained on the source, before the target is seen"]
        flag = "--source-set " if name == "source_training" else f"--set {name}."
    else:
        lines.append(f"features: {', '.join(sorted(entry().features)) or 'none'}")
        flag = "--source-set "
    if rows := field_rows(entry):
        lines += ["", f"fields ({flag}FIELD=VALUE):"]
        shorter = getattr(entry, "phantom", {})
        for field, default, takes, origin in rows:
            note = f"  # {origin}" if origin else ""
            if field in shorter:
                note += f"; {shorter[field]!r} in the phantom profile"
            lines.append(f"  {field} = {default!r} ({takes}){note}")
    return lines
