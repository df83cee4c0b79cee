"""The code that makes a number, as a short text for the keys of what it made. Needs no torch.

Code as released is named by a revision, "r1", which is raised when its numbers change; so a release
that only reads better finds what earlier ones made. Code that differs from the release is named by
a digest of its syntax trees, in which comments, docstrings and formatting do not count: whoever
edits it never gets old numbers for new code.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import resolve_name
from pathlib import Path

from sfdabench.core import registry
from sfdabench.core.errors import BadInput


@dataclass(frozen=True)
class Group:
    """Files of the package that many numbers depend on: patterns below it, and exceptions.

    revision: raised when numbers change.
    """

    revision: int
    files: tuple[str, ...]
    but: tuple[str, ...] = ()

    def paths(self) -> list[Path]:
        """Its files, sorted."""
        every = {path for pattern in self.files for path in registry.PACKAGE.glob(pattern)}
        return sorted(every - {registry.PACKAGE / name for name in self.but})


_CORE = ("checkpoint", "context", "head", "seeding", "streams")
_NOT_PREPARE = ("fetch", "manifest", "phantoms", "verify")  # they decide on no pixel
GROUPS = {
    "core": Group(1, tuple(f"core/{name}.py" for name in _CORE)),
    "models": Group(1, ("models/*.py",)),
    "primitives": Group(2, ("primitives/*.py",)),
    "prepare": Group(1, ("prepare/*.py",), tuple(f"prepare/{name}.py" for name in _NOT_PREPARE)),
    "datasets": Group(1, ("datasets/_*.py", "formats/*.py")),
    "evaluate": Group(2, ("evaluate/*.py",), ("evaluate/saved.py",)),
}


@dataclass(frozen=True)
class Released:
    """What revisions.json says of a unit: its revision, and of each file a digest of its tree and
    one of its bytes; where the bytes are equal, nothing need be parsed.
    """

    revision: int
    files: Mapping[str, tuple[str, str]]


def entry_code(kind: str, name: str) -> str:
    """The code of a method, network, data set or source stage; it is not imported.

    A built-in entry is "r<revision>" as released, else a digest of its file. A plug-in is always a
    digest: of its file, and of the modules of its folder (or package) and the units of ours that
    it imports, however indirectly. Modules imported by computed names are not seen. Raises
    BadInput for an unknown name, and ValueError for a kind whose entries are values: they are part
    of keys field by field.
    """
    if kind in registry.VALUES:
        raise ValueError(f"{kind} are values, named by their fields")
    module = registry.module_name(kind, name)
    if module.split(".")[0] == "sfdabench":
        return _unit_code(f"{kind}/{module.rpartition('.')[2]}")
    return _plugin_code(module)


def shared_code(*groups: str) -> dict[str, str]:
    """Each of these groups of files, as `entry_code` names a built-in entry."""
    return {group: _unit_code(group) for group in sorted(groups)}


def units() -> dict[str, list[Path]]:
    """Everything that has a revision, "core" or "methods/cbmt", and the files it is made of."""
    entries = {
        f"{kind}/{path.stem}": [path]
        for kind, folder in registry.FOLDERS.items()
        if kind not in registry.VALUES
        for path in sorted((registry.PACKAGE / folder).glob("[!_]*.py"))
    }
    return {group: GROUPS[group].paths() for group in GROUPS} | entries


def released() -> dict[str, Released]:
    """What the release held, by unit: revisions.json, which docs/write_revisions.py writes."""
    return _parse_released(released_path().read_bytes())


def released_path() -> Path:
    """Where revisions.json lies."""
    return registry.PACKAGE / "core" / "revisions.json"


@cache
def _parse_released(content: bytes) -> dict[str, Released]:
    written = json.loads(content)
    units = {}
    for unit, held in written.items():
        digests = {name: text.split() for name, text in held["files"].items()}
        files = {name: (tree, of_bytes) for name, (tree, of_bytes) in digests.items()}
        units[unit] = Released(held["revision"], files)
    return units


def changed(unit: str) -> list[str]:
    """Names of the files in which a unit differs from the release; of all where it is new."""
    before = released()[unit].files if unit in released() else {}
    now = {_name(path): path for path in _files(unit)}
    names = sorted(before.keys() | now.keys())
    return [
        name
        for name in names
        if name not in before or name not in now or _tree(now[name], before) != before[name][0]
    ]


@cache  # a process imports code of ours once, and looks at it once; a sweep asks for each run
def _unit_code(unit: str) -> str:
    if not changed(unit):
        return f"r{released()[unit].revision}"
    before = released()[unit].files if unit in released() else {}
    return _digest({_name(path): _tree(path, before) for path in _files(unit)})


def _files(unit: str) -> list[Path]:
    """The files of a unit; not by way of `units`, which would list every folder."""
    if unit in GROUPS:
        return GROUPS[unit].paths()
    kind, _, name = unit.partition("/")
    return [registry.PACKAGE / registry.FOLDERS[kind] / f"{name}.py"]


def _name(path: Path) -> str:
    return path.relative_to(registry.PACKAGE).as_posix()


def _tree(path: Path, before: Mapping[str, tuple[str, str]]) -> str:
    """The digest of a file's tree, from the release where its bytes are those of the release."""
    content = path.read_bytes()
    tree, of_bytes = before.get(_name(path), ("", ""))
    return tree if bytes_digest(content) == of_bytes else tree_digest(content, str(path))


def bytes_digest(content: bytes) -> str:
    """A digest of a file's bytes."""
    return hashlib.sha256(content).hexdigest()[:16]


def _digest(parts: Mapping[str, str]) -> str:
    return bytes_digest(json.dumps(parts, sort_keys=True).encode())


@cache
def _parse(content: bytes, filename: str) -> ast.Module:
    return ast.parse(content, filename)


# Fields that say nothing more (ctx, kind), or that not every Python has.
_LEFT_OUT = {"ctx", "kind", "type_comment", "type_ignores", "type_params"}


@cache
def tree_digest(content: bytes, filename: str = "<code>") -> str:
    """A digest of the syntax tree of Python code, the same under Python 3.11, 3.12 and 3.13.

    Statements that do nothing (docstrings, other bare constants, `pass`) are not part of it.
    Raises SyntaxError that names the file.
    """
    parts: list[str] = []
    # A stack of its own: a long sum is deeper than Python's. What is last in it is written next.
    waiting: list[ast.AST | str] = [_parse(content, filename)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, str):
            parts.append(node)
        elif isinstance(node, ast.Constant):
            parts.append(f"{type(node.value).__name__} {node.value!a}")
        else:
            waiting.extend(reversed([*_written(node)]))
    return bytes_digest("\n".join(parts).encode())


def _written(node: ast.AST) -> Iterator[ast.AST | str]:
    """A node as texts and the nodes between them; fields that are empty are left out."""
    yield f"{type(node).__name__}("
    for field in node._fields:
        value = getattr(node, field, None)
        if field in _LEFT_OUT or value is None:
            continue
        if not isinstance(value, list):
            yield f"{field}="
            yield value if isinstance(value, ast.AST) else ascii(value)
            continue
        items = [item for item in value if not _does_nothing(item, node)]
        if items:
            yield f"{field}=["
            yield from (item if isinstance(item, ast.AST) else ascii(item) for item in items)
            yield "]"
    yield ")"


def _does_nothing(item: object, parent: ast.AST) -> bool:
    """Whether a statement has no effect, or a part of an f-string no text (some Pythons add it)."""
    if isinstance(parent, ast.JoinedStr):
        return isinstance(item, ast.Constant) and item.value == ""
    bare = isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant)
    return bare or isinstance(item, ast.Pass)


@cache
def _ours() -> dict[Path, str]:
    """The unit of each file that is part of one."""
    return {path: unit for unit, paths in units().items() for path in paths}


def _plugin_code(module: str) -> str:
    """The digest of a plug-in's module and of all that it imports of its folder and of ours."""
    ours = _ours()
    top, _, below = module.partition(".")
    own = _source(module)
    # A module without a package has its helpers beside it; others have them in their package.
    beside = own.parent if own is not None and not below else None
    parts: dict[str, str] = {}
    waiting = [*_with_packages(module)]
    while waiting:
        name = waiting.pop()
        first, *rest = name.split(".")
        if name in parts or (first not in (top, "sfdabench") and beside is None):
            continue
        if first == "sfdabench":
            if unit := ours.get(registry.PACKAGE.joinpath(*rest).with_suffix(".py")):
                parts[name] = _unit_code(unit)
            continue
        path = _source(name)
        if path is None or (first != top and path.parent != beside):
            continue
        content = path.read_bytes()
        if path.suffix == ".py":
            parts[name] = tree_digest(content, str(path))
            package = name if path.stem == "__init__" else name.rpartition(".")[0]
            waiting += _imported(_parse(content, str(path)), package)
        else:  # compiled: nothing to parse
            parts[name] = bytes_digest(content)
    if module not in parts:
        raise BadInput(f"{module}: there is no file of this module; install its package again")
    return _digest(parts)


def _source(name: str) -> Path | None:
    """The file of a module, None where there is none; it is not imported, nor is its package."""
    search = None
    for part in _with_packages(name):
        spec = _find(part, search)
        if spec is None or (spec.submodule_search_locations is None and part != name):
            return None
        if not spec.has_location:  # no code, but Python wants it imported before what is in it
            importlib.import_module(spec.name)
        search = spec.submodule_search_locations
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def _find(name: str, search: Sequence[str] | None) -> ModuleSpec | None:
    specs = (finder.find_spec(name, search) for finder in sys.meta_path)
    return next((spec for spec in specs if spec is not None), None)


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    """Every name that a module of this package may import as a module, packages included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield from _with_packages(name)


def _with_packages(name: str) -> Iterator[str]:
    """A dotted name after those of the packages that it is in."""
    parts = name.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts) + 1))
