"""Entries found by file name: the folder is the list, and listing it imports nothing."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from sfdabench.core.errors import BadInput
from sfdabench.core.near import unknown

PACKAGE = Path(__file__).parent.parent
FOLDERS = {
    "methods": "methods",
    "datasets": "datasets",
    "tasks": "tasks",
    "networks": "networks",
    "protocols": "evaluate/protocols",
}
# Another name -> the entry, and for a method the field values that the name stands for.
ALIASES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "datasets": {"btcv": ("malbcv", {})},
    "tasks": {"mr2ct": ("chaos2malbcv", {})},
    "methods": {
        "tent_online": ("tent", {"online": True}),
        "self_ensembling_sf": ("self_ensembling", {"source": False}),
    },
}
_plugins: list[Path] = []


def add_plugins(folder: Path) -> None:
    """Let `folder`/{methods,datasets,tasks,networks,protocols}/NAME.py add entries.

    Raises BadInput where the folder does not exist or holds none of these sub-folders.
    """
    folder = Path(folder).resolve()
    if not any((folder / kind).is_dir() for kind in FOLDERS):
        raise BadInput(
            f"--plugins {folder}: no sub-folder {', '.join(FOLDERS)} there; "
            "an entry is a file such as methods/my_method.py"
        )
    if folder not in _plugins:
        _plugins.append(folder)


def plugin_folders() -> list[Path]:
    """The folders given to `add_plugins`, in order."""
    return list(_plugins)


def _sources(kind: str) -> dict[str, Callable[[], ModuleType]]:
    """Name -> a function that imports the entry; a name given twice is an error."""
    folder = FOLDERS[kind]
    found: dict[str, Callable[[], ModuleType]] = {}

    def put(name: str, load: Callable[[], ModuleType], origin: str) -> None:
        if name in found:
            raise BadInput(f"two {kind} are called '{name}' (the second in {origin}): rename one")
        if name in ALIASES.get(kind, {}):
            raise BadInput(f"{origin}: {explain(kind, name)}; rename the file")
        found[name] = load

    for path in sorted((PACKAGE / folder).glob("[!_]*.py")):
        dotted = f"sfdabench.{folder.replace('/', '.')}.{path.stem}"
        put(path.stem, partial(importlib.import_module, dotted), str(path))
    for point in importlib.metadata.entry_points(group=f"sfdabench.{kind}"):
        put(point.name, partial(importlib.import_module, point.module), point.value)
    for root in _plugins:
        for path in sorted((root / kind).glob("[!_]*.py")):
            put(path.stem, partial(_import_file, kind, path), str(path))
    return found


def _import_file(kind: str, path: Path) -> ModuleType:
    dotted = f"sfdabench_plugins.{kind}.{path.stem}"
    if dotted in sys.modules and sys.modules[dotted].__file__ == str(path):
        return sys.modules[dotted]
    spec = importlib.util.spec_from_file_location(dotted, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[dotted] = module  # dataclasses look their own module up while it is executed
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[dotted]
        raise
    return module


def names(kind: str) -> list[str]:
    """All entries of a kind, sorted; imports none of them."""
    return sorted(_sources(kind))


def resolve(kind: str, name: str) -> tuple[str, dict[str, Any]]:
    """The entry's own name and the field values that `name` stands for, none for most names."""
    own, fields = ALIASES.get(kind, {}).get(name, (name, {}))
    return own, dict(fields)


def canonical(kind: str, name: str) -> str:
    """The entry's own name, where `name` is another one for it.

    Raises BadInput for a name that stands for field values as well, which would be lost.
    """
    own, fields = resolve(kind, name)
    if fields:
        values = ", ".join(f"{field}={value!r}" for field, value in fields.items())
        raise BadInput(f"'{name}' is another name for {own} with {values}: name {own}")
    return own


def variants(method: str) -> dict[str, dict[str, Any]]:
    """Other names for a method with certain field values, and these values."""
    others = ALIASES["methods"].items()
    return {name: dict(fields) for name, (own, fields) in others if own == method and fields}


def explain(kind: str, name: str) -> str | None:
    """A line on what another name for an entry stands for; None for the entry's own name."""
    own, fields = resolve(kind, name)
    if own == name:
        return None
    settings = "".join(f" --set {field}={json.dumps(value)}" for field, value in fields.items())
    return f"{name} is another name for {own}{settings}"


def kinds_of(name: str) -> list[str]:
    """The kinds that have an entry of this name. Raises BadInput where there is none."""
    kinds = [kind for kind in FOLDERS if resolve(kind, name)[0] in names(kind)]
    if not kinds:
        every = {entry for kind in FOLDERS for entry in (*names(kind), *ALIASES.get(kind, {}))}
        raise BadInput(unknown("entry", name, sorted(every)))
    return kinds


def entry_module(dotted: str) -> ModuleType:
    """The module of an entry by its full name, such as `sfdabench.methods.cbmt`.

    Imports nothing but entries of that name. Raises BadInput where no entry has that module.
    """
    stem = dotted.rpartition(".")[2]
    for kind in FOLDERS:
        points = importlib.metadata.entry_points(group=f"sfdabench.{kind}")
        candidates = {stem, *(point.name for point in points if point.module == dotted)}
        for name, load_module in _sources(kind).items():
            if name in candidates and (entry := load_module()).__name__ == dotted:
                return entry
    raise BadInput(f"{dotted}: no file of an entry, built in or of a plug-in")


@cache
def _base(kind: str) -> type:
    module, name = {
        "methods": ("method", "Method"),
        "datasets": ("dataset", "Dataset"),
        "tasks": ("task", "Task"),
        "networks": ("network", "Network"),
        "protocols": ("protocol", "Protocol"),
    }[kind]
    return getattr(importlib.import_module(f"sfdabench.core.{module}"), name)


def load(kind: str, name: str) -> Any:
    """The entry: a class for methods, data sets and networks, a value for tasks and protocols.

    Raises BadInput for an unknown name (near ones are named), for another name of a method with
    certain field values, and for a file that defines not exactly one entry. An error while the
    file is imported surfaces as it is.
    """
    sources = _sources(kind)
    name = canonical(kind, name)
    if name not in sources:
        raise BadInput(unknown(kind.removesuffix("s"), name, sources))
    module = sources[name]()
    base = _base(kind)
    public = [value for key, value in vars(module).items() if not key.startswith("_")]
    if kind in ("tasks", "protocols"):
        entries = [value for value in public if isinstance(value, base)]
    else:
        entries = [
            value
            for value in public
            if isinstance(value, type)
            and issubclass(value, base)
            and value.__module__ == module.__name__
        ]
    if len(entries) != 1:
        wanted = f"one {base.__name__}" + ("" if kind in ("tasks", "protocols") else " class")
        raise BadInput(f"{module.__file__}: expected {wanted}, found {len(entries)}")
    return entries[0]
