"""The contracts as public functions, and the toy problem they run on.

A contract is a generator: it yields a sentence for each fault of the entry that it is given, and
nothing where the entry holds to it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfdabench.confine import client
from sfdabench.confine.channel import Channel
from sfdabench.confine.grant import Grant
from sfdabench.core import registry

Contract = Callable[[Any], Iterator[str]]


@dataclass(frozen=True)
class Outcome:
    """One contract of one entry, with every fault that it named."""

    name: str
    faults: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the entry holds to the contract."""
        return not self.faults

    @property
    def detail(self) -> str:
        """The faults for a reader: a single one as it is, several on a line each."""
        if len(self.faults) < 2:
            return "".join(self.faults)
        return "".join(f"\n     {fault}" for fault in self.faults)


def contracts(kind: str) -> dict[str, Contract]:
    """Contract name -> a function of the entry that yields its faults."""
    from importlib import import_module

    module = import_module(f"sfdabench.checks.{kind}")
    return {
        name.removeprefix("check_"): function
        for name, function in vars(module).items()
        if name.startswith("check_")
    }


def gather(faults: Iterable[str], where: str = "") -> Iterator[str]:
    """Yield the faults one by one; an exception that ends them is the last fault.

    where: what each of them is about, such as "5 classes"; it is put in front.
    """
    start = f"{where}: " if where else ""
    try:
        for fault in faults:
            yield start + fault
    except Exception as error:
        first = str(error).strip().splitlines() or ["without a message"]
        yield f"{start}{type(error).__name__}: {first[0]}"


def run_contract(contract: Contract, name: str, entry: object) -> Outcome:
    """Hold one entry against one contract; whatever it raises counts as a fault."""
    return Outcome(name, tuple(gather(contract(entry))))


def check_confined(name: str) -> list[Outcome]:
    """Do what `check_entry` does, in a process that can read and write nothing of the user's."""
    with tempfile.TemporaryDirectory() as folder:
        grant = Grant(write=(Path(folder),))
        outcomes = client.call("sfdabench.checks:check_job", {"name": name}, grant)
    return [Outcome(name, tuple(faults)) for name, faults in outcomes]


def check_job(channel: Channel, name: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return the name and the faults of every contract of an entry (a job)."""
    os.environ["SFDABENCH_CACHE"] = tempfile.mkdtemp()
    return [(outcome.name, outcome.faults) for outcome in check_entry(name)]


def check_entry(name: str) -> list[Outcome]:
    """Every contract of every entry called `name`. Raises BadInput for an unknown name.

    Another name for a method with certain field values stands for the method: contracts hold it
    to them with every choice of a field that changes its needs.
    """
    return [
        run_contract(function, f"{kind}: {contract.replace('_', ' ')}", entry)
        for kind in registry.kinds_of(name)
        for entry in [registry.load(kind, registry.resolve(kind, name)[0])]
        for contract, function in contracts(kind).items()
    ]
