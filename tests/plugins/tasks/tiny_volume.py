"""A task on volumes, with regions and exclusive classes, that runs in seconds."""

from dataclasses import replace

from sfdabench.core.task import Domain
from sfdabench.tasks.hgg2lgg import TASK as _BRAIN

TASK = replace(
    _BRAIN,
    title="Tiny brain task of the tests",
    source=(Domain("tiny_brain", train="hgg-*-train", test="hgg-*-test"),),
    target=Domain("tiny_brain", train="lgg-*-train", test="lgg-*-test"),
    profiles={
        **_BRAIN.profiles,
        "phantom": replace(
            _BRAIN.profiles["phantom"],
            size=32,
            epochs=2,
            network="unet_small",
            network_fields={"width": 4, "depth": 2},
        ),
    },
)
