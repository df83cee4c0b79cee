"""Cases of several sizes keep them from the file to the view of the source training."""

import numpy as np
import pytest
import torch

from sfdabench.core.streams import Clock
from sfdabench.prepare import preparation, streams
from sfdabench.prepare.arrays import Prepared
from sfdabench.primitives.views import training_view


@pytest.fixture
def two_sizes(fake, cases, make, monkeypatch):
    """Frames whose disc regions are 20 and 30 px, seen as the paper sees 512 and 768."""
    monkeypatch.setattr(preparation, "FILE_SIDE", 20)
    read = fake.read_image

    def larger(self, case, channels=()):
        image, spacing = read(self, case)
        return (image if case.id == "a" else np.pad(image, ((0, 0), (0, 20), (0, 20)))), spacing

    def label(self, case):
        side = 40 if case.id == "a" else 60
        label = np.zeros((side, side), np.uint8)
        label[20:30, 8:18] = 1
        return label

    monkeypatch.setattr(fake, "read_image", larger)
    monkeypatch.setattr(fake, "read_label", label)
    return make(cases, file_scale=True)


def test_planes_have_the_side_of_their_file(two_sizes):
    again = Prepared.open(two_sizes.images_folder, two_sizes.labels_folder)
    assert again == two_sizes
    assert [image.shape for image in again.images()] == [(3, 20, 20), (3, 30, 30)]
    assert [label.shape for label in again.labels()] == [(20, 20), (30, 30)]
    assert [(label == 1).sum() for label in again.labels()] == [100, 100]
    one = again.subset([1])
    assert one.images().shape == (1, 3, 30, 30)
    assert (one.images()[0] == again.images()[1]).all()
    assert again.subset([1, 0]).images()[1].shape == (3, 20, 20)


def test_the_view_crops_them_to_one_size(two_sizes):
    def stream(prepared):
        named = {"device": "cpu", "seed": 0, "clock": Clock(), "classes": [(1,)]}
        return streams.labelled(prepared, "source", **named, background=False)

    both = stream([two_sizes])
    assert both.size == 20
    view = training_view("fundus", both.size)
    ((images, masks),) = both.pairs(2, view, shuffle=False)
    assert images.shape == (2, 3, 20, 20)
    assert masks.shape == (2, 1, 20, 20)
    ((turned, _),) = stream([two_sizes.subset([0]), two_sizes.subset([1])]).pairs(
        2, view, shuffle=False
    )
    assert torch.equal(images, turned)


def test_order_of_a_batch_is_kept(two_sizes):
    stream = streams.labelled(
        [two_sizes.subset([1]), two_sizes.subset([0])],
        *("source", "cpu", 0, Clock(), [(1,)]),
        background=False,
    )

    def by_size(images, labels, rngs):
        mean = torch.full((len(images), 3, 8, 8), float(images.shape[-1]))
        return mean, labels[:, :8, :8]

    ((images, _),) = stream.pairs(2, by_size, shuffle=False)
    large, small = images.mean(dim=(1, 2, 3))
    assert large > small
