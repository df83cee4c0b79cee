"""What every method must hold to.

Most contracts are held against the method at its smoke values and, where the value of a field
changes what the method asks for, against that variant too.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any

import torch

from sfdabench.checks import gather
from sfdabench.checks.makers import (
    check_is_a_frozen_dataclass_with_a_docstring as check_is_a_frozen_dataclass_with_a_docstring,
)
from sfdabench.checks.makers import not_finite, smoke
from sfdabench.checks.toy import (
    CLASS_NAMES,
    Attempt,
    Killed,
    Toy,
    attempt,
    predict,
    rebuild,
    source_model,
)
from sfdabench.checks.values import choices, contrasts, field_hints
from sfdabench.core import registry
from sfdabench.core.errors import BadInput, RunFailed
from sfdabench.core.method import Method
from sfdabench.models.weights import sha256

MOST_CODE_LINES = 120
FEW = 2  # values of a field to try beside another field's: one that does nothing takes them all
WORDS = CLASS_NAMES[: Toy.classes]  # what a field of type str may name on the toy


def variants(entry: type[Method]) -> dict[str, Method]:
    """The method at its smoke values, and one for each choice of a field that changes its needs."""
    method = smoke(entry)
    result, needs = {"": method}, [method.needs]
    for name, hint in field_hints(method).items():
        for value in choices(hint):
            variant = dataclasses.replace(method, **{name: value})
            if variant.needs not in needs:
                needs.append(variant.needs)
                result[f"{name}={value}"] = variant
    return result


def _of_each_variant(
    contract: Callable[[Method], Iterator[str]],
) -> Callable[[type[Method]], Iterator[str]]:
    @wraps(contract)
    def check(entry: type[Method]) -> Iterator[str]:
        for where, method in variants(entry).items():
            yield from gather(contract(method), where)

    return check


def _toy(method: Method, **changes: Any) -> Toy:
    return dataclasses.replace(Toy(head=method.needs.heads[0]), **changes)


def _attempt(method: Method, toy: Toy, cut: str | None = None, *, watched: bool = True) -> Attempt:
    with tempfile.TemporaryDirectory() as work:
        return attempt(method, toy, Path(work), cut=cut, watched=watched)


@lru_cache(maxsize=256)
def _run(method: Method, toy: Toy, cut: str | None = None) -> Attempt:
    """One adaptation, shared by all contracts that ask for it; they must not change it."""
    return _attempt(method, toy, cut)


@lru_cache(maxsize=256)
def _fingerprint(method: Method) -> str:
    """Of one adaptation whose gradients nobody asks for."""
    return _attempt(method, _toy(method), watched=False).fingerprint


def check_reads_like_its_paper(entry: type[Method]) -> Iterator[str]:
    """Short, and without a branch on the name of a data set or a task."""
    source = Path(inspect.getfile(entry)).read_text(encoding="utf-8")
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    names = {*registry.names("datasets"), *registry.names("tasks")}
    used = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and id(node) not in docstrings and node.value in names
    }
    if used:
        yield f"names data sets or tasks: {sorted(used)}"
    lines = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and not isinstance(node, (ast.ClassDef, ast.FunctionDef))
        if id(getattr(node, "value", None)) not in docstrings
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    if len(lines) > MOST_CODE_LINES:
        yield f"{len(lines)} lines of code, at most {MOST_CODE_LINES}"


@_of_each_variant
def check_leaves_the_source_model_untouched(method: Method) -> Iterator[str]:
    """The start model is shared by every method; work on context.model()."""
    toy = _toy(method)
    fresh = source_model(toy, method.needs)
    if sha256(_run(method, toy).start.state_dict()) != sha256(fresh.state_dict()):
        yield "the start model moved"


@_of_each_variant
def check_every_logged_loss_has_a_gradient(method: Method) -> Iterator[str]:
    """Each loss depends on a trainable parameter of a module or optimiser that the loop is given.

    Models from context.model() count as well, whether the loop is given them or not.
    """
    gradients = _run(method, _toy(method)).gradients
    for name, largest in gradients.items():
        if largest == 0:
            yield f"{name}: no gradient reaches a trainable parameter"
    if "parameters" in method.needs.changes and not gradients:
        yield "no loss was logged: call context.log(name=loss) before backward"


@_of_each_variant
def check_every_logged_loss_is_trained_on(method: Method) -> Iterator[str]:
    """With the gradient of one loss cut to zero, another model is deployed.

    A term that is logged and then left out of the sum trains nothing, nor does one whose
    optimiser never steps; no score and no curve shows either.
    """
    toy = _toy(method)
    whole = _run(method, toy)
    for name, largest in whole.gradients.items():
        if largest > 0 and _run(method, toy, cut=name).fingerprint == whole.fingerprint:
            yield f"{name}: the deployed model is the same without its gradient"


def check_every_field_matters(entry: type[Method]) -> Iterator[str]:
    """Another value of a field gives other weights or another prediction.

    All choices of a Literal or a bool must differ from each other; of other fields some value in
    their range must. Where a field matters only together with another one, other values of the
    others are tried beside it, one at a time.
    """
    method = smoke(entry)
    for name, hint in field_hints(method).items():
        yield from gather(_without_effect(method, name, hint), name)


def _without_effect(method: Method, name: str, hint: Any) -> Iterator[str]:
    groups = contrasts(method, name, hint, WORDS)
    if not groups:
        yield f"no other value is known for a field of type {hint}"
    for group in groups:
        alone = any(_differ(method, name, *pair) for pair in group)
        if not alone and not any(
            _differ(m, name, *pair) for m in _companions(method, name) for pair in group[:FEW]
        ):
            values = ", ".join(repr(value) for value in dict.fromkeys(itertools.chain(*group)))
            yield f"no two of these values give other weights or another prediction: {values}"


def _companions(method: Method, name: str) -> Iterator[Method]:
    """The method with one of its other fields changed; the likelier ones to matter come first."""
    hints = field_hints(method)

    def unlikely(other: str) -> tuple[bool, bool]:
        return not {*name.split("_")} & {*other.split("_")}, not choices(hints[other])

    for other in sorted(hints.keys() - {name}, key=lambda other: (unlikely(other), other)):
        for group in contrasts(method, other, hints[other], WORDS):
            for value in dict.fromkeys(itertools.chain(*group[:FEW])):
                if value != getattr(method, other):
                    yield dataclasses.replace(method, **{other: value})


def _differ(method: Method, name: str, *values: Any) -> bool:
    """Whether two values of a field lead to different models; not where one of them is refused."""
    fingerprints = set()
    for value in values:
        changed = dataclasses.replace(method, **{name: value})
        try:
            fingerprints.add(_fingerprint(changed))
        except (BadInput, RunFailed, ValueError):  # does not go with the rest, or diverges
            return False
    return len(fingerprints) > 1


@_of_each_variant
def check_stays_finite_where_the_target_shows_no_foreground(method: Method) -> Iterator[str]:
    """An empty structure is a clinical fact, not an exception."""
    yield from not_finite(_run(method, _toy(method, foreground=False)).deployed)


@_of_each_variant
def check_same_seed_gives_the_same_weights(method: Method) -> Iterator[str]:
    """Bit for bit."""
    toy = _toy(method)
    if _attempt(method, toy).fingerprint != _run(method, toy).fingerprint:
        yield "two runs differ"


@_of_each_variant
def check_changes_what_it_declares_and_nothing_else(method: Method) -> Iterator[str]:
    """`needs.changes` against what moved; "input" where the deployed model has new parts."""
    done = _run(method, _toy(method))
    parameters = {name for name, _ in done.start.named_parameters()}
    before, after = done.start.state_dict(), done.deployed.state_dict()
    if gone := before.keys() - after.keys():
        yield f"the deployed model lacks {sorted(gone)[:3]} of the source model"
    moved = {
        "parameters" if name in parameters else "statistics"
        for name, value in before.items()
        if name in after and not torch.equal(value, after[name])
    }
    if after.keys() - before.keys():
        moved.add("input")
    if undeclared := moved - method.needs.changes:
        yield f"moved without being declared in needs.changes: {sorted(undeclared)}"
    if still := method.needs.changes - moved:
        yield f"declared in needs.changes but did not move: {sorted(still)}"


@_of_each_variant
def check_what_is_stored_predicts_what_was_scored(method: Method) -> Iterator[str]:
    """The model that is rebuilt from what a run stores gives the same predictions, bit for bit.

    An online method has no such model: what it predicted came from every state on its way.
    """
    if method.needs.online:
        return
    toy = _toy(method)
    done = _run(method, toy)
    stored = predict(rebuild(done.deployed, toy, method.needs), toy)
    if not torch.equal(stored, done.prediction):
        gap = (stored - done.prediction).abs().max().item()
        yield f"the stored model predicts other probabilities, up to {gap:.2g} apart"


@_of_each_variant
def check_killed_and_resumed_equals_never_killed(method: Method) -> Iterator[str]:
    """Bit for bit, killed after the first and the second epoch, or batch of an online method."""
    toy = _toy(method)
    whole, unit = _run(method, toy).fingerprint, "batch" if method.needs.online else "epoch"
    for last in range(2):
        with tempfile.TemporaryDirectory() as work:
            try:
                attempt(method, toy, Path(work), kill_after=last)
            except Killed:
                resumed = attempt(method, toy, Path(work))
            else:  # nothing was left to be killed in
                if not last and method.needs.changes:
                    yield f"no {unit}: loop over context.epochs"
                return
        if resumed.fingerprint != whole:
            yield f"killed after {unit} {last}: other weights"


@_of_each_variant
def check_is_blind_to_target_labels(method: Method) -> Iterator[str]:
    """Other labels, same weights."""
    equal = len({_run(method, _toy(method, labels=i)).fingerprint for i in range(2)}) == 1
    if method.needs.target_labels and equal:
        yield "declares target_labels but does not use them"
    if not method.needs.target_labels and not equal:
        yield "target labels changed the weights"


@_of_each_variant
def check_takes_one_image_and_a_short_last_batch(method: Method) -> Iterator[str]:
    """Targets of 1, and of one more than a batch."""
    if "batch_size" in field_hints(method):
        method = dataclasses.replace(method, **{"batch_size": 4})
    for count in (1, 5):
        yield from gather(_fits(method, _toy(method, count=count)), f"{count} images")


@_of_each_variant
def check_takes_odd_sizes(method: Method) -> Iterator[str]:
    """Sides that no stride divides."""
    yield from _fits(method, _toy(method, size=(29, 23)))


@_of_each_variant
def check_takes_two_and_five_classes_on_each_of_its_heads(method: Method) -> Iterator[str]:
    """Every head it is declared for."""
    for head in method.needs.heads:
        for classes in (2, 5):
            toy = _toy(method, head=head, classes=classes)
            yield from gather(_fits(method, toy), f"{classes} classes, {head} head")


def _fits(method: Method, toy: Toy) -> Iterator[str]:
    yield from not_finite(_run(method, toy).deployed)
