"""Every entry of the registry against every contract of its kind, without a line per entry."""

from pathlib import Path

import pytest

from sfdabench.checks import contracts, datasets, run_contract
from sfdabench.core import registry

# (kind, entry, contract) -> text of a fault -> why it is accepted. Such a text stands for the
# faults that contain it, so one field or one loss is excepted and not the whole contract. One that
# no fault contains any more fails the suite.
EXCEPTIONS: dict[tuple[str, str, str], dict[str, str]] = {}

LEAST = {
    **{"methods": 27, "datasets": 8, "tasks": 11, "networks": 10, "protocols": 7},
    **{"stages": 3},
}


def shipped(kind):
    """Built-in entries only: the tests' own plug-ins are variants of them."""
    folder = registry.PACKAGE / registry.FOLDERS[kind]
    return [name for name in registry.names(kind) if (folder / f"{name}.py").exists()]


CELLS = [
    pytest.param(kind, name, contract, id=f"{kind}-{name}-{contract}")
    for kind in registry.FOLDERS
    for name in shipped(kind)
    for contract in contracts(kind)
]


@pytest.fixture(autouse=True)
def phantoms_drawn_once(drawings, monkeypatch):
    """Let contracts read the phantoms of all tests; to see that it is seeded, one draws it anew."""

    def shared(entry):
        (name,) = (name for name in shipped("datasets") if registry.load("datasets", name) is entry)
        return drawings.root(name)

    monkeypatch.setattr(datasets, "phantom_of", shared)


@pytest.mark.parametrize(("kind", "name", "contract"), CELLS)
def test_contract(kind, name, contract):
    faults = run_contract(contracts(kind)[contract], contract, registry.load(kind, name)).faults
    accepted = EXCEPTIONS.get((kind, name, contract), {})
    assert not [fault for fault in faults if not any(text in fault for text in accepted)]
    settled = [text for text in accepted if not any(text in fault for fault in faults)]
    assert not settled, "no longer at fault; take it out of EXCEPTIONS"


@pytest.mark.parametrize("kind", registry.FOLDERS)
def test_nothing_is_missed(kind):
    """A registry that lists too little would pass everything above."""
    folder = registry.PACKAGE / registry.FOLDERS[kind]
    files = {p.stem for p in Path(folder).iterdir() if p.suffix == ".py" and p.stem[0] != "_"}
    assert set(shipped(kind)) == files
    assert len(files) >= LEAST[kind]
    assert len(contracts(kind)) >= 3


def test_exceptions_name_contracts_that_exist():
    known = {tuple(cell.values) for cell in CELLS}
    assert set(EXCEPTIONS) <= known
