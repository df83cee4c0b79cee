"""The errors a user meets: what is wrong, where, and the cure."""

from __future__ import annotations


class BadInput(Exception):
    """A flag, a file or a field is wrong; nothing has been computed yet (exit code 2)."""


class DataFault(BadInput):
    """A file or folder of a data set is missing, broken or contradicts its neighbours."""


class AbsentData(DataFault):
    """A root holds other things, but no layout of this data set."""


class Incompatible(BadInput):
    """A method that is not defined for this task's head or this network."""


class ForeignCode(Exception):
    """Code of a plug-in was about to be imported into a process that may read labels."""


class RunFailed(Exception):
    """A run began and could not be finished; its record says why (exit code 1)."""


class UndeclaredNeed(RunFailed):
    """A method reached for something that its `needs` does not declare."""


class ContractBreach(RunFailed):
    """A method opened a file that the source-free, label-free contract closes to it."""
