"""Self-ensembling with and without the source (methods-cross-modality.md §6.3)."""

import math
from dataclasses import dataclass

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
from sfdabench.methods.self_ensembling_sf import SelfEnsemblingSF
from sfdabench.methods.source_only import SourceOnly
from sfdabench.models.segmenter import Segmenter
from sfdabench.models.weights import sha256
from sfdabench.networks.unet_gn import UNetGN
from sfdabench.primitives import teacher as teachers
from sfdabench.primitives import views

BOTH = (SelfEnsembling, SelfEnsemblingSF)


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
        [1 - 1 / (step + 1) for step in range(1, early + 1)] + [0.999] * steps
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

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    attempt(entry(epochs=4, batch_size=9, rate_ramp=0.5), Toy(), tmp_path)
    expected = [math.exp(-5), math.exp(-1.25), 1, 0.5]
    assert rates == pytest.approx([6e-4 * value for value in expected])


@pytest.mark.parametrize("entry", BOTH)
def test_weight_of_the_consistency(entry, tmp_path):
    attempt(entry(epochs=4, batch_size=9, weight_ramp=0.5), Toy(), tmp_path)
    expected = [20 * math.exp(-5), 20 * math.exp(-1.25), 20, 20]
    assert curves(tmp_path)["weight"] == pytest.approx(expected)


def test_defaults_are_the_papers_epochs():
    method = SelfEnsembling()
    assert (method.epochs, method.weight, method.batch_size) == (350, 20, 12)
    # 50 epochs, counted from 0, belong to the early average; the rate is full in the next
    assert 50 / method.epochs == method.rate_ramp == method.ema_switch
    assert 100 / method.epochs == method.weight_ramp
    sf = SelfEnsemblingSF()
    assert {name: getattr(method, name) for name in vars(sf)} == vars(sf)


def gn_consistency(monkeypatch, folder, dropout):
    """First step's consistency where student and teacher are one model and no view differs."""
    torch.manual_seed(0)
    start = Segmenter(UNetGN(width=4, dropout=dropout).build(channels=3, outputs=2)).eval()
    monkeypatch.setattr(toy, "_source_model", lambda classes, head, auxiliary: start)
    monkeypatch.setattr(views, "anatomy_pair", views.untouched)
    attempt(SelfEnsemblingSF(epochs=1, batch_size=9), Toy(), folder)
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
    """Two steps of equation 3, one a pass: -Dice + weight * MSE, then the average 1/2, 2/3."""

    weight: float = 0.0
    average: bool = False

    needs = Needs(source_data=True)

    def adapt(self, context):
        student, teacher = context.model().train(), context.model().train()
        optimiser = torch.optim.Adam(student.parameters(), 6e-4, weight_decay=6e-4)
        deployed = teacher if self.average else student
        for epoch in context.epochs(2, deploy=deployed):
            optimiser.param_groups[0]["lr"] = (6e-4, 3e-4)[epoch]
            ((images, masks),) = context.source.pairs(9, views.SOURCE[context.augmentation])
            p = student(images).sigmoid()
            shared, total = (p * masks).sum((0, 2, 3)), (p + masks).sum((0, 2, 3))
            loss = -((2 * shared + 1e-4) / (total + 1e-4)).mean()
            if self.weight:
                (batch,) = context.target.batches(9, plain=views.identity)
                soft = teacher(batch.plain).sigmoid().detach()
                shown, soft = batch.paired(views.anatomy_pair, soft)
                loss = loss + self.weight * (student(shown).sigmoid() - soft).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                for mine, its in zip(teacher.parameters(), student.parameters(), strict=True):
                    mine.copy_(((epoch + 1) * mine + its) / (epoch + 2))
        return deployed


@pytest.mark.parametrize(
    ("fields", "by_hand"),
    [
        ({"consistency": "none", "deploy": "student"}, ByHand()),  # Table 1's baseline
        ({"consistency": "none"}, ByHand(average=True)),  # Table 3
        ({"deploy": "student"}, ByHand(weight=20.0)),
        ({}, ByHand(weight=20.0, average=True)),
    ],
)
def test_steps_are_those_written_by_hand(fields, by_hand, tmp_path):
    run = {"epochs": 2, "batch_size": 9, "rate_ramp": 0.0, "weight_ramp": 0.0, "ema_switch": 1.0}
    found = parameters(SelfEnsembling(**run, **fields), tmp_path / "method")
    expected = parameters(by_hand, tmp_path / "by-hand")
    start = parameters(SourceOnly(), tmp_path / "start")
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=2e-5)
    # Adam moves each by about its rate, far beyond that tolerance
    assert max((a - b).abs().max() for a, b in zip(found, start, strict=True)) > 2e-4


@pytest.mark.parametrize(
    ("entry", "field", "value"),
    [
        (SelfEnsemblingSF, "consistency", "none"),
        (SelfEnsembling, "consistency", "tversky"),
        (SelfEnsembling, "weight", "0"),
        (SelfEnsembling, "ema", "1.1"),
        (SelfEnsemblingSF, "ema_switch", "50"),
        (SelfEnsembling, "deploy", "both"),
    ],
)
def test_bad_fields_are_named(entry, field, value):
    with pytest.raises(BadInput, match=f"--set {field}={value}"):
        override(entry(), {field: value}, owner=entry.__name__)


def test_settings():
    assert SelfEnsembling.needs.setting == "UDA"
    assert SelfEnsemblingSF.needs.setting == "SFDA"
