"""Loops that are killed anywhere and go on bit for bit: steps, endless streams, pools, audits."""

import json
from itertools import chain, count, islice

import numpy as np
import pytest
import torch
from torch import nn

from sfdabench.core.checkpoint import CheckpointKeeper, read
from sfdabench.core.context import Context, Loop, SourceContext
from sfdabench.core.errors import BadInput, RunFailed, UndeclaredNeed
from sfdabench.core.head import SIGMOID
from sfdabench.core.needs import SETTINGS, Needs
from sfdabench.core.streams import Clock, LabelledStream


def noisy(images, rngs):
    return images + torch.tensor([rng.random() for rng in rngs]).view(-1, 1, 1, 1)


def noisy_pair(images, labels, rngs):
    return noisy(images, rngs), labels


def labelled(clock, length=5, name="source"):
    rng = np.random.default_rng(0)
    return LabelledStream(
        name=name,
        images=rng.integers(0, 256, (length, 3, 4, 4), dtype=np.uint8),
        ids=tuple(f"{name}-{i}" for i in range(length)),
        device=torch.device("cpu"),
        seed=0,
        clock=clock,
        labels=rng.integers(0, 2, (length, 4, 4), dtype=np.uint8),
        classes=((1,),),
    )


def make(folder, **keeper):
    return Loop(clock=Clock(), keeper=CheckpointKeeper(folder, patience=0.0, **keeper))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("shuffle", [True, False])
def test_endless_gives_what_passes_one_after_the_other_give(shuffle):
    clock = Clock()
    stream = labelled(clock)
    clock.start(1, 4)
    flags = {"shuffle": shuffle}
    ours = stream.endless(2, **flags, weak=noisy)
    pairs = stream.endless_pairs(2, noisy_pair, **flags)
    given = [(next(ours), next(pairs)) for _ in range(8)]
    clock.start(1, 4)
    theirs = chain.from_iterable(stream.batches(2, **flags, weak=noisy) for _ in count())
    other = chain.from_iterable(stream.pairs(2, noisy_pair, **flags) for _ in count())
    for mine, (images, masks) in given:
        batch, (expected, expected_masks) = next(theirs), next(other)
        assert torch.equal(mine.index, batch.index)
        assert mine.ids == batch.ids
        assert torch.equal(mine.weak, batch.weak)
        assert torch.equal(images, expected)
        assert torch.equal(masks, expected_masks)
    assert [len(mine.index) for mine, _ in given] == [2, 2, 1, 2, 2, 1, 2, 2]


def test_endless_needs_a_view():
    with pytest.raises(ValueError, match="name at least one view"):
        labelled(Clock()).endless(2)


@pytest.mark.parametrize("given", range(7))
def test_an_endless_stream_goes_on_in_the_middle_of_a_pass(given):
    clock = Clock()
    clock.start(0, 3)
    whole = labelled(clock).endless(2, weak=noisy)
    batches = list(islice(whole, given))
    state = whole.state_dict()
    assert len(batches) == given
    again = labelled(clock).endless(2, weak=noisy)
    again.load_state_dict(json.loads(json.dumps(state)))
    passes = clock.passes
    mine = list(islice(again, 5))
    clock.start(0, 3)
    clock.passes = passes
    for one, other in zip(mine, islice(whole, 5), strict=True):
        assert torch.equal(one.weak, other.weak)


def test_an_endless_stream_of_another_size_is_refused():
    stream = labelled(Clock())
    with pytest.raises(BadInput, match=r"batches of 2, the method asks for 3.*--force"):
        stream.endless(3, weak=noisy).load_state_dict(stream.endless(2, weak=noisy).state_dict())


class Pool(nn.Module):
    """The last images that were put in, and how many ever were."""

    def __init__(self):
        super().__init__()
        self.register_buffer("images", torch.zeros(3, 3, 4, 4))
        self.register_buffer("held", torch.tensor(0))

    def exchange(self, image):
        slot = int(torch.randint(3, ()))
        old = self.images[slot].clone()
        self.images[slot] = image
        self.held += 1
        return old


class Watched(CheckpointKeeper):
    """Dies after some epochs."""

    left = None

    def end_of_epoch(self, *arguments, **named):
        super().end_of_epoch(*arguments, **named)
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Killed


def train(folder, kill_after=None, steps=11, every=3):
    """Two loops: a translator without a deployable model, then a model, by iterations."""
    torch.manual_seed(0)
    keeper = Watched(folder, patience=0.0)
    keeper.left = kill_after
    loop = Loop(clock=Clock(), keeper=keeper)
    source, target = labelled(loop.clock), labelled(loop.clock, 7, "target")
    model, translator, pool = nn.Conv2d(3, 1, 1), nn.Conv2d(3, 3, 1), Pool()
    best = torch.zeros(2)
    optimiser = torch.optim.Adam([*model.parameters(), *translator.parameters()], 0.1)
    shared = {"translator": translator, "optimiser": optimiser, "pool": pool, "best": best}
    for _ in loop.epochs(2, deploy=None, **shared):
        for batch in target.batches(2, weak=noisy):
            loss = translator(batch.weak).square().mean()
            loop.log(translation=loss)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    pairs, batches = source.endless_pairs(2, noisy_pair), target.endless(3, weak=noisy)
    seen = []
    for step in loop.steps(
        steps, every=every, deploy=model, **shared, pairs=pairs, batches=batches
    ):
        seen.append(step)
        images, masks = next(pairs)
        old = pool.exchange(translator(next(batches).weak)[0].detach())
        loss = (model(images + old) - masks).square().mean()
        best[1] += loss.item()
        loop.log(loss=loss)
        loop.track(step=float(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    state = {"model": model, "translator": translator, "pool": pool}
    tensors = [t.clone() for m in state.values() for t in m.state_dict().values()] + [best]
    return tensors, loop, seen


def test_two_loops_killed_anywhere_go_on_bit_for_bit(tmp_path):
    whole, loop, seen = train(tmp_path / "whole")
    assert seen == list(range(11))
    assert loop.curves["step"] == [1.0, 4.0, 7.0, 9.5], "one mean a chunk, the last one short"
    assert len(loop.curves["translation"]) == 2
    for last in range(1, 6):
        folder = tmp_path / str(last)
        with pytest.raises(Killed):
            train(folder, kill_after=last)
        again, resumed, rest = train(folder)
        assert rest == list(range(max(0, 3 * (last - 2)), 11))
        assert resumed.curves == loop.curves
        assert all(torch.equal(a, b) for a, b in zip(again, whole, strict=True)), last
    folder = tmp_path / "every time"
    for _ in range(6):  # a process that lives for one epoch at a time
        with pytest.raises(Killed):
            train(folder, kill_after=1)
    again, _, rest = train(folder)
    assert rest == []
    assert all(torch.equal(a, b) for a, b in zip(again, whole, strict=True))


def test_steps_do_not_depend_on_where_a_chunk_ends(tmp_path):
    """Where one chunk holds all iterations, passes have other keys; the schedule stays."""
    assert train(tmp_path / "one", every=20)[2] == train(tmp_path / "other", every=1)[2]


def test_a_loop_remembers_every_module(tmp_path):
    _, loop, _ = train(tmp_path)
    kinds = [type(module).__name__ for module in loop.modules]
    assert sorted(kinds) == ["Conv2d", "Conv2d", "Pool"], "each once, though given twice"


@pytest.mark.parametrize(
    ("epochs", "every", "expected"),
    [(4, 1, [0, 1, 2, 3]), (5, 2, [1, 3, 4]), (4, 3, [2, 3]), (2, 9, [1]), (1, 1, [0])],
)
def test_audits_come_as_often_as_asked_and_after_the_last(tmp_path, epochs, every, expected):
    seen = []
    loop = make(tmp_path / "a", at_epoch=lambda *values: seen.append(values))
    model = nn.Conv2d(1, 1, 1)
    for _ in loop.epochs(epochs, deploy=model, audit_every=every):
        pass
    assert [epoch for _, epoch, _, _, audited in seen if audited] == expected
    assert [values[:4] for values in seen] == [(0, e, epochs, model) for e in range(epochs)]


def test_nothing_is_audited_where_nothing_would_ship(tmp_path):
    seen = []
    loop = make(tmp_path, at_epoch=lambda *values: seen.append(values))
    for _ in loop.epochs(2, deploy=None, part=torch.zeros(1)):
        pass
    assert seen == [(0, 0, 2, None, False), (0, 1, 2, None, False)]
    assert set(read(tmp_path / "stage-0.safetensors")["state"]) == {"part"}


@pytest.mark.parametrize("state", [3, [nn.Conv2d(1, 1, 1)], {"a": 1}, None])
def test_state_that_cannot_be_kept_is_refused_at_once(tmp_path, state):
    with pytest.raises(TypeError, match="state 'bank' is of type"):
        next(make(tmp_path).epochs(1, deploy=None, bank=state))


def test_counts_start_at_one(tmp_path):
    with pytest.raises(ValueError, match="audit_every=0"):
        next(make(tmp_path).epochs(1, deploy=None, audit_every=0))
    with pytest.raises(ValueError, match="every=0"):
        next(make(tmp_path).steps(1, every=0, deploy=None))


def test_a_value_that_is_not_finite_ends_a_loop_without_a_model(tmp_path):
    loop = make(tmp_path)
    epochs = loop.epochs(2, deploy=None)
    next(epochs)
    loop.track(loss=float("nan"))
    with pytest.raises(RunFailed, match="loss is nan in epoch 0"):
        next(epochs)


def context(needs, **granted):
    return Context(
        clock=Clock(),
        keeper=None,
        needs=needs,
        classes=("a",),
        head=SIGMOID,
        seed=0,
        start_model=nn.Identity(),
        target_split=labelled(Clock()),
        granted=granted,
    )


def test_source_and_target_have_one_face():
    given = context(Needs(source_data=True), source_data=labelled(Clock()))
    assert given.source.steps(2) == given.target.steps(2) == 3
    for stream in (given.source, given.target):
        (first, *_) = stream.batches(2, weak=noisy)
        assert first.weak.shape == (2, 3, 4, 4)
        first = next(stream.endless(2, shuffle=False, weak=noisy))
        assert first.index.tolist() == [0, 1]
    assert not hasattr(next(given.source.batches(2, weak=noisy)), "labels")


def test_a_stage_is_a_fresh_frozen_copy():
    stage = nn.BatchNorm2d(2).train()
    given = context(Needs(source_stage="denoiser"), source_stage=stage)
    one, other = given.stage(), given.stage()
    assert one is not other
    assert not one.training
    assert stage.training
    assert not any(p.requires_grad for p in one.parameters())
    with torch.no_grad():
        one.weight.fill_(7)
    assert torch.equal(other.weight, stage.weight)
    with pytest.raises(UndeclaredNeed, match=r"source_stage without declaring needs\.source_stage"):
        context(Needs(), source_stage=stage).stage()


def test_a_source_context_trains_a_copy_and_has_no_target(tmp_path):
    start = nn.Conv2d(3, 1, 1).requires_grad_(False)
    given = SourceContext(
        clock=Clock(),
        keeper=CheckpointKeeper(tmp_path),
        classes=("a",),
        head=SIGMOID,
        seed=0,
        start_model=start,
        source=labelled(Clock()),
        validation=labelled(Clock(), 2, "source test"),
        augmentation="light",
    )
    model = given.model()
    assert model is not start
    assert not model.training
    assert all(p.requires_grad for p in model.parameters())
    assert [epoch for epoch in given.epochs(2, deploy=model)] == [0, 1]
    assert len(given.validation) == 2
    assert not hasattr(given, "target")


def test_settings_are_ordered_by_what_they_ask_for():
    asked = (
        Needs(changes=frozenset()),
        Needs(changes=frozenset({"input"})),
        Needs(source_stage="denoiser"),
        Needs(online=True, source_stage="denoiser"),
        Needs(source_data=True, source_stage="denoiser"),
        Needs(target_labels=True, source_data=True),
    )
    assert [needs.setting for needs in asked] == list(SETTINGS)


def test_a_network_of_the_methods_own_runs_where_and_how_the_model_does():
    from sfdabench.core.precision import Lowered

    class Judge(Lowered):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(1, 1, 1)

        def forward(self, maps):
            return self.run(self.layer, maps)

    made = context(Needs())
    made.start_model = torch.nn.Conv2d(1, 1, 1)
    made.start_model.precision = "bfloat16"
    pair = made.place(torch.nn.ModuleList([Judge()]))
    assert pair[0].precision == "bfloat16"
    maps = torch.rand(1, 1, 4, 4)
    verdict = pair[0](maps)
    assert verdict.dtype == torch.float32
    exact = torch.nn.functional.conv2d(maps, pair[0].layer.weight, pair[0].layer.bias)
    assert 0 < (verdict - exact).abs().max() < 0.02
    made.start_model.precision = "float32"
    assert torch.equal(made.place(pair)[0](maps), exact)


def test_four_images_of_each_kind_are_shown():
    made = context(Needs())
    made.show(source=torch.rand(9, 1, 2, 2, requires_grad=True), target=torch.rand(2, 1, 2, 2))
    assert {kind: len(images) for kind, images in made.pictures.items()} == {
        **{"source": 4, "target": 2}
    }
    assert not made.pictures["source"].requires_grad
