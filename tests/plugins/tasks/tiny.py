"""A fundus task that runs in seconds."""

from dataclasses import replace

from sfdabench.core.task import Domain
from sfdabench.tasks.refuge2drishti import TASK as _FUNDUS

RECIPE = replace(
    _FUNDUS.profiles["phantom"],
    size=32,
    epochs=4,
    validate_every=2,
    network_fields={"width": 4, "depth": 2},
)
TASK = replace(
    _FUNDUS,
    title="Tiny fundus task of the tests",
    source=(Domain("tiny_source"),),
    target=Domain("tiny_target"),
    profiles={**_FUNDUS.profiles, "phantom": RECIPE},
)
