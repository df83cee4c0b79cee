"""Entries broken on purpose: each break must be seen by the contract that is there for it."""

from pathlib import Path
from typing import NamedTuple

import pytest

from sfdabench.checks import contracts, protocols, run_contract
from sfdabench.core import registry

HERE = Path(__file__).parent


class Break(NamedTuple):
    """An entry, the contract that must notice, and what stands in its file instead of what.

    entry: a built-in one, or a file beside this one. file: where the text is changed, if that is
    not the entry's own file.
    """

    entry: str
    contract: str
    changes: dict[str, str]
    file: str = ""


REESTIMATE = "reestimate(model, (batch.plain for batch in batches))"

METHODS = {
    "no docstring": Break(
        "adabn",
        "is_a_frozen_dataclass_with_a_docstring",
        {"The control that every method with batch norm in train mode contains implicitly.": ""},
    ),
    "loss cut from the graph": Break(
        "mean_teacher",
        "every_logged_loss_has_a_gradient",
        {"context.log(loss=loss)": "context.log(loss=loss.detach())"},
    ),
    "student reads the teacher's output": Break(
        "mean_teacher",
        "every_logged_loss_has_a_gradient",
        {"logits = student(batch.strong)": "logits = teacher(batch.strong)"},
    ),
    "loss not logged": Break(
        "cbmt", "every_logged_loss_has_a_gradient", {"context.log(loss=loss)": "pass"}
    ),
    "discriminator frozen": Break(
        "adversarial",
        "every_logged_loss_has_a_gradient",
        {
            "optimiser = torch.optim.Adam(model": "judge.requires_grad_(False)\n        "
            "optimiser = torch.optim.Adam(model"
        },
    ),
    "discriminator never stepped": Break(
        "adversarial", "every_logged_loss_is_trained_on", {"judge_optimiser.step()": "pass"}
    ),
    "fooling the discriminator left out": Break(
        "adversarial",
        "every_logged_loss_is_trained_on",
        {"(task + self.weight * fooled).backward()": "task.backward()"},
    ),
    "consistency logged and not added": Break(
        "osuda",
        "every_logged_loss_is_trained_on",
        {"loss = consistency + self.weight": "loss = self.weight"},
    ),
    "second head's loss logged and not added": Break(
        "mrnet",
        "every_logged_loss_is_trained_on",
        {"(main_loss + self.auxiliary_weight * auxiliary_loss)": "main_loss"},
    ),
    "loss added with a weight of nothing": Break(
        "mrnet",
        "every_logged_loss_is_trained_on",
        {"main_loss + self.auxiliary_weight * ": "main_loss + 0 * "},
    ),
    "gradient thrown away before the step": Break(
        "apl",
        "every_logged_loss_is_trained_on",
        {
            "self_training.backward(inputs=encoder)": "self_training.backward(inputs=encoder)\n"
            "                optimiser.zero_grad()"
        },
    ),
    "field never read": Break(
        "adabn",
        "every_field_matters",
        {"batches(self.batch_size, ": "batches(8, "},
    ),
    "choice that falls back to another": Break(
        "entropy_minimisation",
        "every_field_matters",
        {"select_trainable(model, self.trainable)": 'select_trainable(model, "all")'},
    ),
    "works on the shared model": Break(
        "pseudo_label",
        "leaves_the_source_model_untouched",
        {
            "model, source = context.model(), context.model()": "model, source = "
            "context.start_model, context.model()"
        },
    ),
    "module around the segmenter": Break(
        "adabn",
        "what_is_stored_predicts_what_was_scored",
        {
            "        return model": "        from torch import nn\n\n"
            "        return nn.Sequential(model)"
        },
    ),
    "translator in front that is not stored": Break(
        "adabn",
        "what_is_stored_predicts_what_was_scored",
        {
            "        return model": """
        import torch

        from sfdabench.models.segmenter import Segmenter

        class Translated(Segmenter):
            def __init__(self, network):
                super().__init__(network)
                self.translate = torch.nn.Conv2d(3, 3, 1)

            def forward(self, images):
                return super().forward(self.translate(images))

        return Translated(model.network)"""
        },
    ),
    "optimiser not kept": Break(
        "mean_teacher",
        "killed_and_resumed_equals_never_killed",
        {"student=student, optimiser=optimiser, ": "student=student, "},
    ),
    "student not kept": Break(
        "cbmt", "killed_and_resumed_equals_never_killed", {'{"student": student, ': "{"}
    ),
    "bank not kept": Break(
        "cbmt", "killed_and_resumed_equals_never_killed", {', "bank": bank}': "}"}
    ),
    "discriminator not kept": Break(
        "adversarial", "killed_and_resumed_equals_never_killed", {'{"judge": judge, ': "{"}
    ),
    "loop that a kill cannot end": Break(
        "adabn",
        "killed_and_resumed_equals_never_killed",
        {"for _ in context.epochs(1, deploy=model):": "for _ in range(1):"},
    ),
    "random without a seed": Break(
        "supervised",
        "same_seed_gives_the_same_weights",
        {
            "loss = supervised_loss(model(images)": "import os\n"
            "                images = images + int.from_bytes(os.urandom(2), 'big') * 1e-6\n"
            "                loss = supervised_loss(model(images)"
        },
    ),
    "trains where it may only re-estimate": Break(
        "adabn",
        "changes_what_it_declares_and_nothing_else",
        {REESTIMATE: f"{REESTIMATE}\n            next(iter(model.parameters())).data.add_(1e-3)"},
    ),
    "does nothing": Break(
        "adabn", "changes_what_it_declares_and_nothing_else", {REESTIMATE: "list(batches)"}
    ),
    "divides by an empty set": Break(
        "cbmt",
        "stays_finite_where_the_target_shows_no_foreground",
        {"if not n_foreground or not n_background:": "if False:"},
    ),
    "peeks at the labels": Break(
        "mean_teacher",
        "is_blind_to_target_labels",
        {
            "loss = segmentation_loss(logits, labels, context.head, keep)": "stolen = "
            "context.granted['target_labels']\n"
            "                import torch as _t\n"
            "                labels = stolen.masks(_t.from_numpy(stolen.labels[batch.index]))\n"
            "                loss = segmentation_loss(logits, labels, context.head)"
        },
    ),
    "declares labels it does not use": Break(
        "mean_teacher",
        "is_blind_to_target_labels",
        {
            "    smoke = ": "    from sfdabench.core.needs import Needs as _N\n"
            "    needs = _N(target_labels=True)\n"
            "    smoke = "
        },
    ),
    "asks for what it does not declare": Break(
        "source_only",
        "same_seed_gives_the_same_weights",
        {"return context.model()": "context.source\n        return context.model()"},
    ),
    "cannot take a short last batch": Break(
        "adabn",
        "takes_one_image_and_a_short_last_batch",
        {"(batch.plain for": "(batch.plain.view(4, 3, *batch.plain.shape[2:]) for"},
    ),
    "cannot take odd sizes": Break(
        "adabn",
        "takes_odd_sizes",
        {"(batch.plain for": "(batch.plain.unflatten(-1, (-1, 2))[..., 0] for"},
    ),
    "two classes only": Break(
        "mean_teacher",
        "takes_two_and_five_classes_on_each_of_its_heads",
        {"logits = student(batch.strong)": "logits = student(batch.strong)[:, [0, 1]]"},
    ),
    "knows a data set": Break(
        "mean_teacher",
        "reads_like_its_paper",
        {
            "student = context.model().train()": "student = context.model().train()\n"
            "        name = 'drishti'"
        },
    ),
}

FEW = {"phantom_cases = 88": "phantom_cases = 12"}  # so that the broken phantoms are drawn quickly
COUNTS = "    counts: ClassVar = {"

DATASETS = {
    "no licence": Break(
        "rimone_dl",
        "card_is_filled",
        {"free for research with citation, as its authors state (not verified)": ""},
    ),
    "labels of another type": Break(
        "rimone_dl",
        "reads_its_own_phantom",
        FEW
        | {
            "return nested(disc, cup, case.label[1])": "return "
            "nested(disc, cup, case.label[1]).astype(int)"
        },
    ),
    "split that the release lacks": Break(
        "rimone_dl",
        "reads_its_own_phantom",
        FEW | {'"train": 339, "test": 146': '"train": 339'},
    ),
    "mask of another size": Break(
        "rimone_dl",
        "writes_masks_that_overlay",
        FEW
        | {
            COUNTS: "    def write_mask(self, case, label, stem):\n"
            f"        return super().write_mask(case, label[::2], stem)\n\n{COUNTS}"
        },
    ),
    "phantom without a seed": Break(
        "rimone_dl",
        "phantom_is_seeded",
        FEW
        | {
            "low = (len(label) - side) // 2": "import os\n\n"
            "            low = (len(label) - side) // 2 - os.urandom(1)[0] % 3"
        },
    ),
    "phantom that ignores the seed": Break(
        "rimone_dl",
        "phantom_is_seeded",
        FEW
        | {
            "        for i in range(self.phantom_cases):": "        seed = 0\n"
            "        for i in range(self.phantom_cases):"
        },
    ),
    "no cases where the folder is missing": Break(
        "rimone_dl",
        "missing_root_is_an_error",
        {COUNTS: f"    def scan(self, root):\n        return Scan()\n\n{COUNTS}"},
    ),
}

NETWORK = "return DualUNet(channels, outputs, widths)"


def changed_network(statement):
    """The dual U-Net with something done to the module before it is returned."""
    return {
        NETWORK: f"module = DualUNet(channels, outputs, widths)\n        {statement}\n"
        "        return module"
    }


BLURRED = """module = BoundaryUNet(channels, outputs, widths)
        plain = module.boundary
        module.boundary = lambda images: tuple(maps / 2 for maps in plain(images))
        return module"""

NETWORKS = {
    "one output too many": Break(
        "unet_dual",
        "gives_logits_of_the_input_size",
        {NETWORK: "return DualUNet(channels, outputs + 1, widths)"},
    ),
    "weights that are never used": Break(
        "unet_dual",
        "every_parameter_is_trained",
        changed_network("module.spare = module.stem[0].__class__(3, 4, 1)"),
    ),
    "feature not declared": Break(
        "unet_dual",
        "features_are_what_it_declares",
        {'"batch_norm", "penultimate"': '"batch_norm"'},
    ),
    "feature declared that is not there": Break(
        "unet_dual",
        "features_are_what_it_declares",
        {'"batch_norm", "penultimate"': '"batch_norm", "penultimate", "dropout"'},
    ),
    "copy that is the module itself": Break(
        "unet_dual",
        "a_deep_copy_is_independent",
        changed_network("module.__deepcopy__ = lambda memo: module"),
    ),
    "forward that does more than its parts": Break(
        "unet_dual",
        "penultimate_features_lead_to_the_logits",
        changed_network("module.forward = lambda images: module.heads(images)[0] + 1"),
    ),
    "heads swapped": Break(
        "unet_dual",
        "first_of_two_heads_is_the_main_one",
        changed_network("module.heads = lambda images: DualUNet.heads(module, images)[::-1]"),
    ),
    "one head twice": Break(
        "unet_dual",
        "first_of_two_heads_is_the_main_one",
        changed_network("module.heads = lambda images: (module(images), module(images))"),
    ),
    "head that does more than its classifier": Break(
        "unet_dual",
        "heads_are_the_two_classifiers_on_the_two_features",
        changed_network("module.classify_auxiliary = lambda low, size: module.heads(low)[1]"),
    ),
    "boundary beside other logits": Break(
        "unet_boundary",
        "masks_beside_a_boundary_are_its_logits",
        {"return BoundaryUNet(channels, outputs, widths)": BLURRED},
    ),
}

STAGES = {
    "field without a default": Break(
        "source_training",
        "is_a_frozen_dataclass_with_a_docstring",
        {"    smoke = {": "    needless: int\n\n    smoke = {"},
    ),
    "smoke value that is refused": Break(
        "source_training",
        "is_a_frozen_dataclass_with_a_docstring",
        {'"epochs": 2': '"epochs": 0'},
    ),
    "random without a seed": Break(
        "source_training",
        "same_seed_gives_the_same_weights",
        {
            "        model = context.model()\n": "        model = context.model()\n"
            "        noise = int.from_bytes(__import__('os').urandom(2), 'big')\n"
            "        next(model.parameters()).data[:] += noise\n"
        },
    ),
    "network in place of a model": Break(
        "source_training", "its_module_can_be_stored", {"return best": "return best.network.stem"}
    ),
    "best model not kept": Break(
        "source_training",
        "killed_and_resumed_equals_never_killed",
        {"            best=best,\n": ""},
    ),
    "one head only": Break(
        "source_training",
        "takes_two_and_five_classes_on_both_heads",
        {"optimiser.zero_grad()": "assert context.head == 'sigmoid'; optimiser.zero_grad()"},
    ),
}

SCORE = "evaluate/score.py"

PROTOCOLS = {
    "metric that does not exist": Break(
        "cbmt", "names_metrics_that_exist", {'"dice", "assd_mean"': '"dice", "asd"'}
    ),
    "metric named twice": Break(
        "cbmt", "names_metrics_that_exist", {'"dice", "assd_mean"': '"dice", "dice"'}
    ),
    "smoothing that drowns the masks": Break(
        "cbmt", "a_perfect_mask_scores_best", {"smoothing=1.0": "smoothing=1e30"}
    ),
    "smoothing that makes an empty mask a good one": Break(
        "beal", "empty_masks_follow_its_rule", {"smoothing=1.0": "smoothing=1000.0"}
    ),
    "missed structure no distance away": Break(
        "strict",
        "empty_masks_follow_its_rule",
        {"value = 0.0 if both_empty else diagonal": "value = 0.0"},
        SCORE,
    ),
    "empty predictions not counted": Break(
        "strict",
        "counts_empty_masks",
        {'self.empties[name]["prediction"] += empty_p': "pass"},
        SCORE,
    ),
    "volumes never cut into slices": Break(
        "self_ensembling",
        "takes_volumes",
        {'self.protocol.unit == "slice" and mask.ndim == 4': "False"},
        SCORE,
    ),
    "exception for a data set that does not exist": Break(
        "beal", "exceptions_are_fields", {'"drishti": {': '"drishty": {'}
    ),
    "exception of a field that does not exist": Break(
        "beal", "exceptions_are_fields", {'"threshold": {"cup"': '"limit": {"cup"'}
    ),
    "step of post-processing that does not exist": Break(
        "beal",
        "exceptions_are_fields",
        {'"drishti": {"threshold"': '"drishti": {"postprocess": ("polish",), "threshold"'},
    ),
}

TASKS = {
    "common protocol missing": Break(
        "chaos2malbcv", "is_plain_and_frozen", {'("strict", "sifa")': '("sifa",)'}
    ),
    "network that does not exist": Break(
        "chaos2malbcv", "names_entries_that_exist", {'"unet_dual"': '"unet_duel"'}
    ),
    "data set that does not exist": Break(
        "chaos2malbcv", "names_entries_that_exist", {'Domain("malbcv"': 'Domain("malbvc"'}
    ),
    "class of a value that is no label": Break(
        "chaos2malbcv",
        "classes_are_labels_of_its_data_sets",
        {'"spleen": (4,)': '"spleen": (14,)'},
    ),
    "classes that overlap": Break(
        "chaos2malbcv",
        "classes_are_labels_of_its_data_sets",
        {'"spleen": (4,)': '"spleen": (1,)'},
    ),
    "split that does not exist": Break(
        "chaos2malbcv", "fits_its_data_sets", {"t2spir-train": "t2-train"}
    ),
    "more channels than its images": Break(
        "chaos2malbcv", "fits_its_data_sets", {"channels=1,": "channels=3,"}
    ),
}

BREAKS = {
    "methods": METHODS,
    "datasets": DATASETS,
    "networks": NETWORKS,
    "protocols": PROTOCOLS,
    "tasks": TASKS,
    "stages": STAGES,
}
CASES = [
    pytest.param(kind, broken, id=f"{kind}-{name}")
    for kind, breaks in BREAKS.items()
    for name, broken in breaks.items()
]

# (kind, contract) -> why no break trips it
UNTESTED: dict[tuple[str, str], str] = {}


def entry_of(kind, module):
    """The entry that a file defines, as the registry would find it."""
    base = registry._base(kind)
    if kind in ("tasks", "protocols"):
        (entry,) = (value for value in vars(module).values() if isinstance(value, base))
    else:
        (entry,) = (
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, base)
            if value.__module__ == module.__name__
        )
    return entry


@pytest.mark.parametrize(("kind", "broken"), CASES)
def test_break_is_noticed(kind, broken, mutated, monkeypatch):
    beside = HERE / f"{broken.entry}.py"
    built_in = registry.PACKAGE / registry.FOLDERS[kind] / f"{broken.entry}.py"
    original = registry.PACKAGE / broken.file if broken.file else built_in
    module = mutated(beside if beside.exists() else original, broken.changes)
    if broken.file == SCORE:  # the contracts on protocols hold the scoring code to what they say
        monkeypatch.setattr(protocols, "Tally", module.Tally)
        monkeypatch.setattr(protocols, "score_pair", module.score_pair)
        entry = registry.load(kind, broken.entry)
    else:
        entry = entry_of(kind, module)
    outcome = run_contract(contracts(kind)[broken.contract], broken.contract, entry)
    assert not outcome.passed, f"'{broken.contract}' did not notice"


@pytest.mark.parametrize("kind", BREAKS)
def test_every_contract_has_a_break(kind):
    """A contract that no break trips could be one that cannot fail."""
    noticed = {broken.contract for broken in BREAKS[kind].values()}
    untested = {contract for of, contract in UNTESTED if of == kind}
    assert not noticed & untested
    assert noticed | untested == set(contracts(kind))


def test_every_kind_has_breaks():
    assert set(BREAKS) == set(registry.FOLDERS)


@pytest.mark.parametrize("contract", contracts("methods"))
def test_a_discriminator_holds_every_contract(contract, mutated):
    entry = entry_of("methods", mutated(HERE / "adversarial.py", {}))
    assert not run_contract(contracts("methods")[contract], contract, entry).faults
