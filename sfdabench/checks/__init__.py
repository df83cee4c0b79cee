"""The contracts as public functions, and the toy problem they run on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sfdabench.core import registry


@dataclass(frozen=True)
class Outcome:
    """One contract of one entry; `detail` says what was seen where it does not hold."""

    name: str
    passed: bool
    detail: str = ""


def contracts(kind: str) -> dict[str, Callable[..., None]]:
    """Contract name -> a function of the entry that raises AssertionError where it is broken."""
    from importlib import import_module

    module = import_module(f"sfdabench.checks.{kind}")
    return {
        name.removeprefix("check_"): function
        for name, function in vars(module).items()
        if name.startswith("check_")
    }


def run_contract(function: Callable[..., None], name: str, entry: object) -> Outcome:
    """Hold one entry against one contract; whatever it raises is how the contract failed."""
    try:
        function(entry)
    except Exception as error:
        first = str(error).strip().splitlines() or [""]
        prefix = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
        return Outcome(name, False, prefix + first[0])
    return Outcome(name, True)


def check_entry(name: str) -> list[Outcome]:
    """Every contract of every entry called `name`. Raises BadInput for an unknown name."""
    return [
        run_contract(function, f"{kind}: {contract.replace('_', ' ')}", registry.load(kind, name))
        for kind in registry.kinds_of(name)
        for contract, function in contracts(kind).items()
    ]
