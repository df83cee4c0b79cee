"""What every source-side stage must hold to."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from sfdabench.checks import gather
from sfdabench.checks.makers import (
    check_is_a_frozen_dataclass_with_a_docstring as check_is_a_frozen_dataclass_with_a_docstring,
)
from sfdabench.checks.makers import not_finite, smoke
from sfdabench.checks.toy import Killed, Toy, train
from sfdabench.core.head import HEADS
from sfdabench.core.stage import SourceStage
from sfdabench.models.composites import describe
from sfdabench.models.weights import sha256


def _train(entry: type[SourceStage], toy: Toy) -> torch.nn.Module:
    with tempfile.TemporaryDirectory() as work:
        return train(smoke(entry), toy, Path(work))[0]


def check_same_seed_gives_the_same_weights(entry: type[SourceStage]) -> Iterator[str]:
    """Bit for bit."""
    first, second = (sha256(_train(entry, Toy()).state_dict()) for _ in range(2))
    if first != second:
        yield "two trainings differ"


def check_its_module_can_be_stored(entry: type[SourceStage]) -> Iterator[str]:
    """A stage is kept as weights and the description of its module, and is finite."""
    module = _train(entry, Toy())
    describe(module)
    yield from not_finite(module)


def check_killed_and_resumed_equals_never_killed(entry: type[SourceStage]) -> Iterator[str]:
    """Bit for bit, killed after the first and the second epoch."""
    toy, stage = Toy(), smoke(entry)
    whole = sha256(_train(entry, toy).state_dict())
    for last in range(2):
        with tempfile.TemporaryDirectory() as work:
            try:
                train(stage, toy, Path(work), kill_after=last)
            except Killed:
                resumed, _ = train(stage, toy, Path(work))
            else:  # nothing was left to be killed in
                if not last:
                    yield "no epoch: loop over context.epochs"
                return
        if sha256(resumed.state_dict()) != whole:
            yield f"killed after epoch {last}: other weights"


def check_takes_two_and_five_classes_on_both_heads(entry: type[SourceStage]) -> Iterator[str]:
    """Every task's head and number of classes."""
    for head in HEADS.values():
        for classes in (2, 5):
            toy = Toy(head=head, classes=classes)
            yield from gather(_trains(entry, toy), f"{classes} classes, {head} head")


def _trains(entry: type[SourceStage], toy: Toy) -> Iterator[str]:
    yield from not_finite(_train(entry, toy))
