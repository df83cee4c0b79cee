"""What every method must hold to."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import tempfile
from pathlib import Path

import torch
from torch import nn

from sfdabench.checks.toy import Attempt, Killed, Toy, attempt, source_model
from sfdabench.core import registry
from sfdabench.core.fields import override
from sfdabench.core.method import Method
from sfdabench.models.segmenter import Segmenter
from sfdabench.models.weights import sha256

MOST_CODE_LINES = 120


def _smoke(entry: type[Method], **changes: object) -> Method:
    return override(entry(), {**entry.smoke, **changes}, owner=entry.__name__)


def _head(entry: type[Method]) -> str:
    return entry().needs.heads[0]


def _run(
    entry: type[Method], toy: Toy | None = None, *, seed: int = 0, method: Method | None = None
) -> Attempt:
    with tempfile.TemporaryDirectory() as work:
        return attempt(
            method or _smoke(entry), toy or Toy(head=_head(entry)), Path(work), seed=seed
        )


def _hash(model: nn.Module) -> str:
    assert isinstance(model, Segmenter), f"adapt returned {type(model).__name__}, not a model"
    return sha256(model.weights())


def _finite(model: nn.Module) -> None:
    broken = [n for n, v in model.state_dict().items() if not torch.isfinite(v).all()]
    assert not broken, f"not finite: {broken[:3]}"


def check_is_a_frozen_dataclass_with_a_docstring(entry: type[Method]) -> None:
    """Constructor arguments are the hyper-parameters, each with a default."""
    assert dataclasses.is_dataclass(entry), "not a dataclass"
    assert entry.__dataclass_params__.frozen, "not frozen"  # type: ignore[attr-defined]
    assert entry.__doc__, "no docstring"
    assert "(" not in entry.__doc__.splitlines()[0][: len(entry.__name__) + 1], "no docstring"
    without = [f.name for f in dataclasses.fields(entry) if f.default is dataclasses.MISSING]
    assert not without, f"fields without a default: {without}"
    _smoke(entry)
    override(entry(), entry.phantom, owner=entry.__name__)


def check_reads_like_its_paper(entry: type[Method]) -> None:
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
    assert not used, f"names data sets or tasks: {sorted(used)}"
    lines = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and not isinstance(node, (ast.ClassDef, ast.FunctionDef))
        if id(getattr(node, "value", None)) not in docstrings
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    assert len(lines) <= MOST_CODE_LINES, f"{len(lines)} lines of code, at most {MOST_CODE_LINES}"


def check_leaves_the_source_model_untouched(entry: type[Method]) -> None:
    """The start model is shared by every method; work on context.model()."""
    toy = Toy(head=_head(entry))
    done = _run(entry, toy)
    fresh = source_model(toy, entry().needs)
    assert sha256(done.start.weights()) == sha256(fresh.weights()), "the start model moved"


def check_every_logged_loss_has_a_gradient(entry: type[Method]) -> None:
    """A term that trains nothing is a bug that no score shows."""
    done = _run(entry)
    dead = [name for name, largest in done.gradients.items() if largest == 0]
    assert not dead, f"no gradient reaches a trainable parameter from: {dead}"
    if "parameters" in entry().needs.changes:
        assert done.gradients, "no loss was logged: call context.log(name=loss) before backward"


def check_stays_finite_where_the_target_shows_no_foreground(entry: type[Method]) -> None:
    """An empty structure is a clinical fact, not an exception."""
    _finite(_run(entry, Toy(head=_head(entry), foreground=False)).deployed)


def check_same_seed_gives_the_same_weights(entry: type[Method]) -> None:
    """Bit for bit."""
    assert _hash(_run(entry).deployed) == _hash(_run(entry).deployed), "two runs differ"


def check_changes_what_it_declares_and_nothing_else(entry: type[Method]) -> None:
    """`needs.changes` against what moved."""
    done = _run(entry)
    parameters = {name for name, _ in done.start.named_parameters()}
    before, after = done.start.state_dict(), done.deployed.state_dict()
    moved = {
        "parameters" if name in parameters else "statistics"
        for name, value in before.items()
        if not torch.equal(value, after[name])
    }
    undeclared = moved - entry().needs.changes
    assert not undeclared, f"moved without being declared in needs.changes: {sorted(undeclared)}"
    still = entry().needs.changes - moved
    assert not still, f"declared in needs.changes but did not move: {sorted(still)}"


def check_killed_and_resumed_equals_never_killed(entry: type[Method]) -> None:
    """Bit for bit, killed after the first and the second epoch, or batch of an online method."""
    toy, method = Toy(head=_head(entry)), _smoke(entry)
    whole, what = _hash(_run(entry, toy).deployed), "batch" if entry().needs.online else "epoch"
    for last in range(2):
        with tempfile.TemporaryDirectory() as work:
            try:
                attempt(method, toy, Path(work), kill_after=last)
            except Killed:
                resumed = attempt(method, toy, Path(work))
            else:  # nothing was left to be killed in
                assert last or not entry().needs.changes, f"no {what}: loop over context.epochs"
                break
        assert _hash(resumed.deployed) == whole, f"killed after {what} {last}: other weights"


def check_is_blind_to_target_labels(entry: type[Method]) -> None:
    """Other labels, same weights."""
    head = _head(entry)
    one = _hash(_run(entry, Toy(head=head, labels=0)).deployed)
    other = _hash(_run(entry, Toy(head=head, labels=1)).deployed)
    if entry().needs.target_labels:
        assert one != other, "declares target_labels but does not use them"
    else:
        assert one == other, "target labels changed the weights"


def check_takes_one_image_and_a_short_last_batch(entry: type[Method]) -> None:
    """Targets of 1, and of one more than a batch."""
    for count in (1, 5):
        method = _smoke(entry)
        if any(f.name == "batch_size" for f in dataclasses.fields(entry)):
            method = _smoke(entry, batch_size=4)
        _finite(_run(entry, Toy(head=_head(entry), count=count), method=method).deployed)


def check_takes_odd_sizes(entry: type[Method]) -> None:
    """Sides that no stride divides."""
    _finite(_run(entry, Toy(head=_head(entry), size=(29, 23))).deployed)


def check_takes_two_and_five_classes_on_each_of_its_heads(entry: type[Method]) -> None:
    """Every head it is declared for."""
    for head in entry().needs.heads:
        for classes in (2, 5):
            _finite(_run(entry, Toy(head=head, classes=classes)).deployed)
