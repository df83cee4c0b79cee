"""Methods broken on purpose: each break must be seen by the contract that is there for it."""

import importlib.util
import inspect
import sys

import pytest

from sfdabench.checks import contracts, run_contract
from sfdabench.core import registry

# id: (method, text in its file, what it is replaced by, contract that must notice)
BREAKS = {
    "loss cut from the graph": (
        "mean_teacher",
        "context.log(loss=loss)",
        "context.log(loss=loss.detach())",
        "every_logged_loss_has_a_gradient",
    ),
    "student reads the teacher's output": (
        "mean_teacher",
        "logits = student(batch.strong)",
        "logits = teacher(batch.strong)",
        "every_logged_loss_has_a_gradient",
    ),
    "loss not logged": (
        "cbmt",
        "context.log(loss=loss)",
        "pass",
        "every_logged_loss_has_a_gradient",
    ),
    "works on the shared model": (
        "pseudo_label",
        "model, source = context.model(), context.model()",
        "model, source = context.start_model, context.model()",
        "leaves_the_source_model_untouched",
    ),
    "optimiser not kept": (
        "mean_teacher",
        "deploy=teacher, student=student, optimiser=optimiser, schedule=schedule",
        "deploy=teacher, student=student, schedule=schedule",
        "killed_and_resumed_equals_never_killed",
    ),
    "student not kept": (
        "cbmt",
        'loop = {"student": student, ',
        "loop = {",
        "killed_and_resumed_equals_never_killed",
    ),
    "bank not kept": (
        "cbmt",
        ', "bank": bank}',
        "}",
        "killed_and_resumed_equals_never_killed",
    ),
    "loop that a kill cannot end": (
        "adabn",
        "for _ in context.epochs(1, deploy=model):",
        "for _ in range(1):",
        "killed_and_resumed_equals_never_killed",
    ),
    "random without a seed": (
        "supervised",
        "loss = supervised_loss(model(images), masks, context.head, context.source_loss)",
        "import os\n"
        "                images = images + int.from_bytes(os.urandom(2), 'big') * 1e-6\n"
        "                loss = "
        "supervised_loss(model(images), masks, context.head, context.source_loss)",
        "same_seed_gives_the_same_weights",
    ),
    "trains where it may only re-estimate": (
        "adabn",
        "reestimate(model, (batch.plain for batch in batches))",
        "reestimate(model, (batch.plain for batch in batches))\n"
        "            next(iter(model.parameters())).data.add_(1e-3)",
        "changes_what_it_declares_and_nothing_else",
    ),
    "does nothing": (
        "adabn",
        "reestimate(model, (batch.plain for batch in batches))",
        "list(batches)",
        "changes_what_it_declares_and_nothing_else",
    ),
    "divides by an empty set": (
        "cbmt",
        "if not n_foreground or not n_background:\n            return 1.0",
        "if False:\n            return 1.0",
        "stays_finite_where_the_target_shows_no_foreground",
    ),
    "peeks at the labels": (
        "mean_teacher",
        "loss = segmentation_loss(logits, labels, context.head, keep)",
        "stolen = context.granted['target_labels']\n"
        "                import torch as _t\n"
        "                labels = stolen.masks(_t.from_numpy(stolen.labels[batch.index.numpy()]))\n"
        "                loss = segmentation_loss(logits, labels, context.head)",
        "is_blind_to_target_labels",
    ),
    "asks for what it does not declare": (
        "source_only",
        "return context.model()",
        "context.source\n        return context.model()",
        "same_seed_gives_the_same_weights",
    ),
    "declares labels it does not use": (
        "mean_teacher",
        "    smoke = ",
        "    from sfdabench.core.needs import Needs as _N\n"
        "    needs = _N(target_labels=True)\n"
        "    smoke = ",
        "is_blind_to_target_labels",
    ),
    "cannot take a short last batch": (
        "adabn",
        "reestimate(model, (batch.plain for batch in batches))",
        "reestimate(model, (b.plain.view(4, 3, *b.plain.shape[2:]) for b in batches))",
        "takes_one_image_and_a_short_last_batch",
    ),
    "two classes only": (
        "mean_teacher",
        "logits = student(batch.strong)",
        "logits = student(batch.strong)[:, [0, 1]]",
        "takes_two_and_five_classes_on_each_of_its_heads",
    ),
    "knows a data set": (
        "mean_teacher",
        "student = context.model().train()",
        "student = context.model().train()\n        name = 'drishti'",
        "reads_like_its_paper",
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_break_is_noticed(name, tmp_path):
    method, old, new, contract = BREAKS[name]
    original = registry.load("methods", method)
    source = inspect.getsource(sys.modules[original.__module__])
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {method}"
    path = tmp_path / f"broken_{method}.py"
    path.write_text(source.replace(old, new), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
        broken = getattr(module, original.__name__)
        outcome = run_contract(contracts("methods")[contract], contract, broken)
    finally:
        del sys.modules[path.stem]
    assert not outcome.passed, f"'{contract}' did not notice"


def test_every_method_contract_has_a_break():
    """A contract that no break trips could be one that cannot fail."""
    untested = {"takes_odd_sizes", "is_a_frozen_dataclass_with_a_docstring"}
    noticed = {contract for *_, contract in BREAKS.values()}
    assert noticed | untested == set(contracts("methods"))
