"""Self-ensembling with and without the source (methods-cross-modality.md §6.3)."""

import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch

from sfdabench.checks import toy
from sfdabench.checks.toy import Toy, attempt
from sfdabench.core.checkpoint import read
from sfdabench.core.errors import BadInput
from sfdabench.core.fields import override
from sfdabench.core.method import Method
from sfdabench.core.needs import Needs
from sfdabench.methods.self_ensembling import SelfEnsembling
from sfdabench.methods.source_only import SourceOnly
from sfdabench.models.segmenter import Segmenter
from sfdabench.models.weights import sha256
from sfdabench.networks.unet_gn import UNetGN
from sfdabench.primitives import teacher as teachers
from sfdabench.primitives import views

WITHOUT = partial(SelfEnsembling, source=False)
BOTH = (SelfEnsembling, WITHOUT)


def curves(folder):
    return read(folder / "stage-0.safetensors")["curves"]


def weights(method, folder, problem=None):
    return sha256(attempt(method, problem or Toy(), folder).deployed.weights())


def parameters(method, folder):
    return [p.detach() for p in attempt(method, Toy(), folder).deployed.parameters()]


@pytest.mark.parametrize("entry", BOTH)
def test_averages_switch_and_the_teacher_is_beyond_the_gradient(entry, tmp_path, monkeypatch):
    """Two steps an epoch (8 source images; 9 target ones make 3), the switch after a third."""
    seen = []
    update = teachers.update_teacher

    def watched(teacher, student, ema):
        for model in (teacher, student):
            assert all(module.training for module in model.modules())
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
        assert any(p.grad is not None for p in student.parameters())
        seen.append(ema)
        update(teacher, student, ema)

    monkeypatch.setattr(teachers, "update_teacher", watched)
    attempt(entry(epochs=3, batch_size=4, ema_switch=1 / 3), Toy(), tmp_path)
    steps = 4 if entry is SelfEnsembling else 6
    early = steps // 2  # the first epoch of three has half of the steps of the other two
    assert seen == pytest.approx(
        [1 - 1 / (step + 1) for step in range(1, early + steps + 1)]  # warm after the switch too
    )
    assert seen[:2] == pytest.approx([1 / 2, 2 / 3])


@pytest.mark.parametrize("entry", BOTH)
def test_optimiser_and_rate(entry, tmp_path, monkeypatch):
    rates = []

    class Watched(torch.optim.Adam):
        def step(self, *arguments):
            (group,) = self.param_groups
            assert group["betas"] == (0.9, 0.999)
            assert group["weight_decay"] == 6e-4
            rates.append(group["lr"])
            return super().step(*arguments)

    toy.source_model(Toy(), Needs())  # trained once a process, with an Adam of its own
    monkeypatch.setattr(torch.optim, "Adam", Watched)
    attempt(entry(epochs=4, batch_size=9, rate_ramp=0.5), Toy(), tmp_path)
    expected = [math.exp(-1.25), 1, 0.5, 0]
    assert rates == pytest.approx([6e-4 * value for value in expected])


@pytest.mark.parametrize("entry", BOTH)
def test_weight_of_the_consistency(entry, tmp_path):
    attempt(entry(epochs=4, batch_size=9, weight_ramp=0.5), Toy(), tmp_path)
    expected = [20 * math.exp(-1.25), 20, 20, 20]
    assert curves(tmp_path)["weight"] == pytest.approx(expected)


def test_defaults_are_the_papers_epochs():
    method = SelfEnsembling()
    assert (method.epochs, method.weight, method.batch_size) == (350, 20, 12)
    # epochs 1 to 50 belong to the early average; in the last of them the rate is full
    assert 50 / method.epochs == method.rate_ramp == method.ema_switch
    assert 100 / method.epochs == method.weight_ramp


def gn_consistency(monkeypatch, folder, dropout):
    """First step's consistency where student and teacher are one model and no view differs."""
    torch.manual_seed(0)
    start = Segmenter(UNetGN(width=4, dropout=dropout).build(channels=3, outputs=2)).eval()
    monkeypatch.setattr(toy, "_source_model", lambda classes, head, auxiliary: start)
    monkeypatch.setattr(views, "anatomy_pair", views.untouched)
    attempt(WITHOUT(epochs=1, batch_size=9), Toy(), folder)
    (value,) = curves(folder)["consistency"]
    return value


def test_dropout_is_on_where_the_network_has_any(tmp_path, monkeypatch):
    assert gn_consistency(monkeypatch, tmp_path / "without", 0.0) == 0
    assert gn_consistency(monkeypatch, tmp_path / "with", 0.5) > 1e-4


@pytest.mark.parametrize("entry", BOTH)
def test_the_teacher_sees_the_plain_target_and_its_map_moves_with_the_image(
    entry, tmp_path, monkeypatch
):
    """Teacher's map of the plain images in; what the student reads is what came out."""
    models, read_by_student = [], []

    def watched(images, maps, rngs):
        plain = images / 127.5 - 1
        (teacher,) = (m for m in models if not next(m.parameters()).requires_grad)
        with torch.no_grad():
            assert torch.allclose(maps, teacher(plain).sigmoid(), atol=1e-4)
        shown, moved = views_pair(images, maps, rngs)
        read_by_student.append(shown / 127.5 - 1)
        return shown, moved

    def note(module, inputs):
        if next(module.parameters()).requires_grad:
            given.append(inputs[0])

    given, views_pair = [], views.anatomy_pair
    model = toy._RecordingContext.model

    def handed_out(context):
        models.append(model(context))
        models[-1].register_forward_pre_hook(note)
        return models[-1]

    monkeypatch.setattr(toy._RecordingContext, "model", handed_out)
    monkeypatch.setattr(views, "anatomy_pair", watched)
    attempt(entry(epochs=1, batch_size=4), Toy(), tmp_path)
    assert read_by_student
    assert all(any(torch.equal(one, other) for other in given) for one in read_by_student)


def test_every_consistency_is_another_method(tmp_path):
    kinds = ("mse", "cross_entropy", "dice", "none")
    hashes = {
        weights(SelfEnsembling(epochs=2, batch_size=4, consistency=kind), tmp_path / kind)
        for kind in kinds
    }
    assert len(hashes) == len(kinds)


def test_without_consistency_no_target_image_counts(tmp_path):
    def outcome(kind, foreground):
        method = SelfEnsembling(epochs=2, batch_size=4, consistency=kind)
        return weights(method, tmp_path / f"{kind}-{foreground}", Toy(foreground=foreground))

    assert outcome("none", True) == outcome("none", False)
    assert outcome("mse", True) != outcome("mse", False)


@pytest.mark.parametrize("entry", BOTH)
def test_the_deployed_model_is_the_one_asked_for(entry, tmp_path):
    """A teacher without memory has its student's parameters; a slow one has not."""
    quick = {"epochs": 2, "batch_size": 4, "early_ema": 0.0, "ema": 0.0}
    slow = {"epochs": 2, "batch_size": 4}
    for name, fields, equal in (("quick", quick, True), ("slow", slow, False)):
        teacher, student = (
            parameters(entry(**fields, deploy=kind), tmp_path / name / kind)
            for kind in ("teacher", "student")
        )
        same = [torch.equal(t, s) for t, s in zip(teacher, student, strict=True)]
        assert all(same) == equal


@dataclass(frozen=True)
class ByHand(Method):
    """Equation 3 on plain tensors: -Dice + weight * MSE, Adam with its L2, the running average.

    Nothing of the suite but the streams, the views and the loop; with a batch norm in train mode
    as torch has it, since both models are in train mode.
    """

    source: bool = True
    consistent: bool = True
    average: bool = True
    size: int = 4

    @property
    def needs(self):
        return Needs(source_data=self.source, raters="each")

    def adapt(self, context):
        student, teacher = context.model().train(), context.model().train()
        deployed = teacher if self.average else student
        p = list(student.parameters())
        first = [torch.zeros_like(x) for x in p]
        second = [torch.zeros_like(x) for x in p]
        step = 0
        for epoch in context.epochs(len(RATES), deploy=deployed):
            rate, weight = RATES[epoch], 20 * WEIGHTS[epoch]
            target = self.passes(context.target, plain=views.identity)
            if self.source:
                steps = context.source.pairs(self.size, views.SOURCE[context.augmentation])
            else:
                steps = [None] * -(-len(context.target) // self.size)
            for pair in steps:
                loss = 0.0
                if pair is not None:
                    images, masks = pair
                    q = student(images).sigmoid()
                    shared, total = (q * masks).sum((0, 2, 3)), (q + masks).sum((0, 2, 3))
                    loss = -((2 * shared + 1e-4) / (total + 1e-4)).mean()
                if self.consistent:
                    batch = next(target)
                    soft = teacher(batch.plain).sigmoid().detach()
                    shown, soft = batch.paired(views.anatomy_pair, soft)
                    apart = (student(shown).sigmoid() - soft).square().mean()
                    loss = loss + weight * apart
                else:
                    teacher(pair[0])
                step += 1
                self.adam(p, torch.autograd.grad(loss, p), first, second, step, rate)
                ema = min(1 - 1 / (step + 1), 0.99 if epoch < 1 else 0.9)
                with torch.no_grad():
                    for mine, its in zip(teacher.parameters(), p, strict=True):
                        mine.copy_(ema * mine + (1 - ema) * its)
        return deployed

    def passes(self, stream, **shown):
        while True:
            yield from stream.batches(self.size, **shown)

    @torch.no_grad()
    def adam(self, parameters, gradients, first, second, step, rate):
        for x, g, m, v in zip(parameters, gradients, first, second, strict=True):
            g = g + 6e-4 * x
            m.mul_(0.9).add_(0.1 * g)
            v.mul_(0.999).add_(0.001 * g * g)
            x -= rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)


# Both ramps end after half of four epochs; then the rate falls as a cosine.
RATES = (6e-3 * math.exp(-1.25), 6e-3, 3e-3, 0)
WEIGHTS = (math.exp(-1.25), 1, 1, 1)


@pytest.mark.parametrize(
    ("fields", "by_hand"),
    [
        # Table 1's baseline, Table 3, the method, and the source-free variant
        (
            {"consistency": "none", "deploy": "student"},
            {"consistent": False, "average": False},
        ),
        ({"consistency": "none"}, {"consistent": False}),
        ({"deploy": "student"}, {"average": False}),
        ({}, {}),
        ({"source": False}, {"source": False}),
        ({"source": False, "deploy": "student"}, {"source": False, "average": False}),
    ],
)
def test_four_epochs_are_those_written_by_hand(fields, by_hand, tmp_path):
    """8 source and 9 target images in batches of 4: an epoch with a source ends within a pass
    over the target."""
    run = {"epochs": 4, "batch_size": 4, "rate_ramp": 0.5, "weight_ramp": 0.5, "ema_switch": 0.25}
    method = SelfEnsembling(**run, learning_rate=6e-3, ema=0.9, **fields)
    found = parameters(method, tmp_path / "method")
    expected = parameters(ByHand(**by_hand), tmp_path / "by-hand")
    start = parameters(SourceOnly(), tmp_path / "start")
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-4)  # Adam enlarges rounding where little moves
    # far beyond that tolerance
    assert min((a - b).abs().max() for a, b in zip(found, start, strict=True)) > 1e-3


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("consistency", "tversky"),
        ("weight", "0"),
        ("ema", "1.1"),
        ("ema_switch", "50"),
        ("source", "maybe"),
        ("deploy", "both"),
    ],
)
def test_bad_fields_are_named(field, value):
    with pytest.raises(BadInput, match=f"--set {field}={value}"):
        override(SelfEnsembling(), {field: value}, owner="self_ensembling")


def test_without_source_and_consistency_nothing_is_left():
    with pytest.raises(BadInput, match="no loss is left to learn from"):
        WITHOUT(consistency="none")


def test_needs_follow_from_the_field():
    assert SelfEnsembling().needs.setting == "UDA"
    assert WITHOUT().needs.setting == "SFDA"
    assert not WITHOUT().needs.source_data
