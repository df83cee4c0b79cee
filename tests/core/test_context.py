import numpy as np
import pytest
import torch

from sfdabench.core.context import Context
from sfdabench.core.errors import UndeclaredNeed
from sfdabench.core.head import SIGMOID
from sfdabench.core.needs import Needs
from sfdabench.core.seeding import generator
from sfdabench.core.streams import Clock, LabelledStream, Stream


def stream(count=5, **changes):
    images = np.arange(count, dtype=np.uint8)[:, None, None, None].repeat(3, 1).repeat(4, 2)
    values = {
        "name": "s",
        "images": images.repeat(4, 3),
        "ids": tuple("abcdefgh"[:count]),
        "device": torch.device("cpu"),
        "seed": 0,
        "clock": Clock(),
    }
    return values | changes


def identity(images, rngs):
    return images


def noisy(images, rngs):
    return images + torch.tensor([rng.random() for rng in rngs]).view(-1, 1, 1, 1)


def test_a_pass_covers_every_image_once_with_a_short_last_batch():
    batches = list(Stream(**stream()).batches(2, plain=identity))
    assert [len(b.index) for b in batches] == [2, 2, 1]
    assert sorted(i for b in batches for i in b.ids) == list("abcde")
    for batch in batches:
        expected = batch.index.float() / 127.5 - 1
        assert torch.allclose(batch.plain[:, 0, 0, 0], expected)


def test_a_view_depends_on_the_sample_not_on_its_batch():
    def seen(size):
        batches = Stream(**stream()).batches(size, noise=noisy)
        return {
            i: v.item() for b in batches for i, v in zip(b.ids, b.noise[:, 0, 0, 0], strict=True)
        }

    assert seen(2) == seen(5)


def test_passes_and_epochs_differ():
    clock = Clock()
    one = Stream(**stream(count=8, clock=clock))
    orders = []
    for epoch in (0, 1):
        clock.start(0, epoch)
        for _ in range(2):
            orders.append([i for b in one.batches(3, plain=identity) for i in b.ids])
    assert len({tuple(order) for order in orders}) == 4
    clock.start(0, 0)
    assert [i for b in one.batches(3, plain=identity) for i in b.ids] == orders[0]


def test_a_batch_has_no_label_and_names_its_views():
    batch = next(Stream(**stream()).batches(2, weak=identity))
    assert not hasattr(batch, "labels")
    assert not hasattr(batch, "masks")
    with pytest.raises(AttributeError, match=r"no view 'strong'; asked for: \['weak'\]"):
        batch.strong  # noqa: B018


def test_a_paired_view_is_drawn_a_sample_and_the_image_comes_out_as_the_network_wants_it():
    def pair(images, maps, rngs):
        return images, maps + torch.tensor([rng.random() for rng in rngs]).view(-1, 1, 1, 1)

    def moved(size):
        found = {}
        for batch in Stream(**stream()).batches(size, plain=identity):
            images, maps = batch.paired(pair, torch.zeros(len(batch.ids), 2, 4, 4))
            assert torch.equal(images, batch.plain)
            again = batch.paired(pair, torch.zeros(len(batch.ids), 2, 4, 4))[1]
            assert torch.equal(maps, again)
            found |= dict(zip(batch.ids, maps[:, 0, 0, 0].tolist(), strict=True))
        return found

    assert moved(2) == moved(5)
    assert len(set(moved(2).values())) == 5


def test_maps_of_other_images_are_refused():
    batch = next(Stream(**stream()).batches(2, plain=identity))
    with pytest.raises(ValueError, match="3 maps for 2 images"):
        batch.paired(lambda images, maps, rngs: (images, maps), torch.zeros(3, 1, 4, 4))


def test_masks_are_nested_or_exclusive():
    labels = torch.tensor([[[0, 1, 2]]], dtype=torch.uint8)
    nested = LabelledStream(**stream(), labels=None, classes=((2,), (1, 2)))
    assert nested.masks(labels).tolist() == [[[[0, 0, 1]], [[0, 1, 1]]]]
    exclusive = LabelledStream(**stream(), labels=None, classes=((1,), (2,)), background=True)
    assert exclusive.masks(labels).tolist() == [[[[1, 0, 0]], [[0, 1, 0]], [[0, 0, 1]]]]


@pytest.mark.parametrize("need", ["target_labels", "source_data", "class_ratio"])
def test_an_undeclared_need_raises(need):
    context = Context(
        clock=Clock(),
        keeper=None,
        needs=Needs(),
        classes=("a",),
        head=SIGMOID,
        seed=0,
        start_model=torch.nn.Identity(),
        target_split=Stream(**stream()),
        granted={need: "secret"},
    )
    attribute = {"target_labels": "labelled_target", "source_data": "source"}.get(need, need)
    with pytest.raises(UndeclaredNeed, match=need):
        getattr(context, attribute)


def test_an_online_method_has_no_training_split():
    context = Context(
        clock=Clock(),
        keeper=None,
        needs=Needs(online=True),
        classes=("a",),
        head=SIGMOID,
        seed=0,
        start_model=torch.nn.Identity(),
        target_split=Stream(**stream()),
    )
    with pytest.raises(UndeclaredNeed, match="learns from the images that it predicts"):
        _ = context.target


def test_generators_differ_between_streams_and_views():
    draws = {
        generator(0, name, view, 0, 0, 1, 0).random()
        for name in ("target", "source")
        for view in ("weak", "strong")
    }
    assert len(draws) == 4
