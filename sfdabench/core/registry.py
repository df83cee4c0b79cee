"""Entries found by file name: the folder is the list, and listing it imports nothing."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sfdabench.core.errors import BadInput, ForeignCode
from sfdabench.core.near import unknown

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

PACKAGE = Path(__file__).parent.parent
FOLDERS = {
    "methods": "methods",
    "datasets": "datasets",
    "tasks": "tasks",
    "networks": "networks",
    "protocols": "evaluate/protocols",
    "stages": "stages",
}
VALUES = ("tasks", "protocols")  # an entry of these kinds is a value, of the others a class
PLUGINS = "sfdabench_plugins"  # the package that plug-in files and their helpers are modules of
# Another name -> the entry, and for a method the field values that the name stands for.
ALIASES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "datasets": {"btcv": ("malbcv", {})},
    "tasks": {"mr2ct": ("chaos2malbcv", {})},
    "methods": {
        "tent_online": ("tent", {"online": True}),
        "self_ensembling_sf": ("self_ensembling", {"source": False}),
    },
}
# Kinds whose code computes. That of a plug-in is imported in confined processes only; the other
# kinds read labels and score, so their code is trusted with them.
COMPUTING = ("methods", "networks", "stages")
_plugins: list[Path] = []
_foreign_code_allowed = False


def add_plugins(folder: Path) -> None:
    """Let `folder`/KIND/NAME.py add entries; KIND is one of FOLDERS.

    Raises BadInput where the folder does not exist or holds none of these sub-folders, and where
    a helper that is imported already has the name of one in it.
    """
    folder = Path(folder).resolve()
    if not any((folder / kind).is_dir() for kind in FOLDERS):
        raise BadInput(
            f"--plugins {folder}: no sub-folder {', '.join(FOLDERS)} there; "
            "an entry is a file such as methods/my_method.py"
        )
    if folder not in _plugins:
        _plugins.append(folder)
        for name in [*sys.modules]:
            _finder.find_spec(name)  # a helper that is imported already is not looked for again


def allow_foreign_code() -> None:
    """Let this process import methods, networks and stages of plug-ins, from now on.

    Only a process that can read no label may do so.
    """
    global _foreign_code_allowed
    _foreign_code_allowed = True


def is_ours(kind: str, name: str) -> bool:
    """Whether an entry is built in. Raises BadInput for an unknown name."""
    return module_name(kind, name).partition(".")[0] == "sfdabench"


def plugin_folders() -> list[Path]:
    """The folders given to `add_plugins`, in order."""
    return list(_plugins)


def foreign_folders() -> list[Path]:
    """The folders that code of plug-ins lies in: those given, and those of other packages."""
    points = [point for kind in FOLDERS for point in _entry_points(tuple(sys.path))[kind]]
    folders = list(_plugins)
    for top in dict.fromkeys(point.module.partition(".")[0] for point in points):
        spec = find_spec(top)
        if spec is not None:
            places = spec.submodule_search_locations or [spec.origin or ""]
            folders += [Path(place) for place in places]
    return folders


class _PluginFinder(MetaPathFinder):
    """Finds `sfdabench_plugins.NAME` as DIR/NAME.py, `sfdabench_plugins.KIND.NAME` as
    DIR/KIND/NAME.py, in whatever folders are given: so files of one folder may share helpers.

    Python knows finders whose `find_spec` gives None where the module is not theirs.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raises BadInput where two files could be the module."""
        top, *parts = fullname.split(".")
        if top != PLUGINS:
            return None
        if not parts or (len(parts) == 1 and parts[0] in FOLDERS):
            return ModuleSpec(fullname, None, is_package=True)
        *packages, name = parts
        places = [root.joinpath(*packages) for root in _plugins]
        candidates = [p / file for p in places for file in (f"{name}.py", f"{name}/__init__.py")]
        files = [path for path in candidates if path.is_file()]
        if len(files) > 1:
            both = " and ".join(map(str, files))
            raise BadInput(f"{both} are both called {fullname}: rename one")
        return spec_from_file_location(fullname, files[0]) if files else None


_finder = _PluginFinder()
sys.meta_path.insert(0, _finder)


@cache
def _entry_points(path: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    """The entry points of all packages on this path, by kind.

    Python's reader takes longer to import than all else here, and most users have no such package.
    """
    finders = [finder for finder in sys.meta_path if finder is not PathFinder]
    special = any(hasattr(finder, "find_distributions") for finder in finders)
    if not special and not any(map(_may_add_entries, path)):
        return {kind: [] for kind in FOLDERS}
    from importlib.metadata import entry_points

    points = entry_points()
    return {kind: list(points.select(group=f"sfdabench.{kind}")) for kind in FOLDERS}


def _may_add_entries(place: str) -> bool:
    """Whether a package in this place of the path says that it has entries, or nobody can tell."""
    try:
        folders = [*Path(place).iterdir()]
    except NotADirectoryError:  # a zip file, which may hold packages too
        return True
    except OSError:  # there is nothing, or nothing that Python could import from
        return False
    packages = [f for f in folders if f.name.lower().endswith((".dist-info", "egg-info"))]
    return any(_names_a_kind(package / "entry_points.txt") for package in packages)


def _names_a_kind(file: Path) -> bool:
    try:
        return b"[sfdabench." in file.read_bytes()
    except OSError:  # the package has no entry points
        return False


def _modules(kind: str) -> dict[str, str]:
    """Name -> the module that defines the entry; a name given twice is an error."""
    modules: dict[str, str] = {}

    def put(name: str, module: str, origin: object) -> None:
        if not name.isidentifier():
            raise BadInput(
                f"{origin}: '{name}' cannot name one of the {kind}: a name consists of letters, "
                "digits and underscores, and begins with no digit; rename it"
            )
        if name in modules:
            raise BadInput(f"two {kind} are called '{name}' (the second in {origin}): rename one")
        if name in ALIASES.get(kind, {}):
            raise BadInput(f"{origin}: {explain(kind, name)}; rename the file")
        modules[name] = module

    package = f"sfdabench.{FOLDERS[kind].replace('/', '.')}"
    for name, path in _files(PACKAGE / FOLDERS[kind]):
        put(name, f"{package}.{name}", path)
    for point in _entry_points(tuple(sys.path))[kind]:
        put(point.name, point.module, point.value)
    for root in _plugins:
        for name, path in _files(root / kind):
            put(name, f"{PLUGINS}.{kind}.{name}", path)
    return modules


def _files(folder: Path) -> list[tuple[str, Path]]:
    """The name and the file of each entry of a folder, sorted; none where there is no folder."""
    try:
        paths = sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [(p.stem, p) for p in paths if p.suffix == ".py" and not p.name.startswith("_")]


def names(kind: str) -> list[str]:
    """All entries of a kind, sorted; imports none of them."""
    return sorted(_modules(kind))


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

    Imports nothing else. Raises BadInput where no entry has that module.
    """
    kinds = [kind for kind in FOLDERS if dotted in _modules(kind).values()]
    ours = dotted.partition(".")[0] == "sfdabench"
    if not ours and not _foreign_code_allowed and set(kinds) & set(COMPUTING):
        raise ForeignCode(dotted)
    if kinds:
        return importlib.import_module(dotted)
    raise BadInput(f"{dotted}: no file of an entry, built in or of a plug-in")


@cache
def _base(kind: str) -> type:
    module, name = {
        "methods": ("method", "Method"),
        "datasets": ("dataset", "Dataset"),
        "tasks": ("task", "Task"),
        "networks": ("network", "Network"),
        "stages": ("stage", "SourceStage"),
        "protocols": ("protocol", "Protocol"),
    }[kind]
    return getattr(importlib.import_module(f"sfdabench.core.{module}"), name)


def module_name(kind: str, name: str) -> str:
    """The dotted name of the module that defines an entry, which is not imported.

    Raises BadInput for an unknown name (near ones are named).
    """
    modules = _modules(kind)
    name = canonical(kind, name)
    if name not in modules:
        raise BadInput(unknown(kind.removesuffix("s"), name, modules))
    return modules[name]


def load(kind: str, name: str) -> Any:
    """The entry: a value for tasks and protocols, a class for the other kinds.

    Raises BadInput for an unknown name (near ones are named), for another name of a method with
    certain field values, and for a file that defines not exactly one entry; ForeignCode for a
    plug-in that computes, in a process that was not told to `allow_foreign_code`. An error while
    the file is imported surfaces as it is.
    """
    if kind in COMPUTING and not _foreign_code_allowed and not is_ours(kind, name):
        raise ForeignCode(f"{name} of {module_name(kind, name)}")
    module = importlib.import_module(module_name(kind, name))
    base = _base(kind)
    public = [value for key, value in vars(module).items() if not key.startswith("_")]
    if kind in VALUES:
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
        wanted = f"one {base.__name__}" + ("" if kind in VALUES else " class")
        raise BadInput(f"{module.__file__}: expected {wanted}, found {len(entries)}")
    return entries[0]
