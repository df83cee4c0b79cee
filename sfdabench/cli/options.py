"""Flags that several commands share. Those of a run are made from the fields of `RunRequest`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click

from sfdabench.run.request import FLAGS, TYPES, RunRequest

LARGEST = 2**63 - 1  # of a seed: torch takes 64 bits
PATH = click.Path(path_type=Path)
KIND_OF_DATA = click.Choice(["real", "phantom"])
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def option(field: str, **changes: Any) -> Decorator:
    """The option of a field of `RunRequest`; `changes` are settings of click that differ here."""
    flag, default = FLAGS[field], getattr(RunRequest, field)
    kind, _ = get_args(TYPES[field])
    usual: dict[str, Any] = {"help": flag.help, "metavar": flag.metavar, **_type(kind)}
    if default == "":
        usual["required"] = True
    else:
        usual["default"] = default
        usual["show_default"] = default not in (None, (), False) or kind is int
    return click.option(flag.name, field, **(usual | changes))


def _type(kind: Any) -> dict[str, Any]:
    """What click must know of the type of a field."""
    if kind is bool:
        return {"is_flag": True}
    if kind is int:
        return {"type": click.IntRange(min=0, max=LARGEST)}
    if get_origin(kind) is Literal:
        return {"type": click.Choice(get_args(kind))}
    if get_origin(kind) is tuple:
        return {"multiple": True}
    return {"type": PATH if Path in (kind, *get_args(kind)) else str}


def request(*fields: str) -> Decorator:
    """The options of these fields; the command gets them as one `RunRequest` called `request`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(**values: Any) -> Any:
            asked = RunRequest(**{field: values.pop(field) for field in fields})
            return command(asked, **values)

        for field in reversed(fields):
            option(field)(call)
        return call

    return decorate


def _use_plugins(_: click.Context, __: click.Parameter, folders: tuple[Path, ...]) -> None:
    for folder in folders:
        from sfdabench.core.registry import add_plugins

        add_plugins(folder)


plugins = click.option(
    "--plugins",
    multiple=True,
    type=PATH,
    envvar="SFDABENCH_PLUGINS",
    callback=_use_plugins,
    expose_value=False,
    is_eager=True,
    help="Folder whose methods/, stages/, datasets/, tasks/, networks/, protocols/ add entries.",
)
results = click.option(
    "--results",
    type=PATH,
    default=RunRequest.out,
    show_default=True,
    help=FLAGS["out"].help,
)
jobs = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Runs at a time, each in a process of its own with its share of the cores.",
)
