"""Prepared arrays as streams."""

import numpy as np
import pytest
import torch

from sfdabench.core.errors import DataFault
from sfdabench.core.streams import Clock
from sfdabench.prepare import streams
from sfdabench.prepare.arrays import Prepared


def test_images_of_a_split_and_of_some_of_its_planes(cases, make):
    split = make(cases)
    whole = streams.images(split, "target", "cpu", 3)
    assert (whole.name, whole.seed, whole.ids, whole.device) == (
        *("target", 3, ("a", "b")),
        torch.device("cpu"),
    )
    assert whole.images.shape == (2, 3, 20, 20)
    clock = Clock()
    part = streams.images(split, "target", "cpu", 3, clock, planes=np.array([1]))
    assert part.ids == ("b",)
    assert part.clock is clock
    assert (part.images[0] == split.images()[1]).all()


def test_labelled_planes_of_several_splits_follow_each_other(cases, make):
    split = make(cases)
    parts = [split.subset([1]), split]
    stream = streams.labelled(parts, "source", "cpu", 0, Clock(), ((2,), (1, 2)), background=True)
    assert stream.ids == ("b", "a", "b")
    assert (stream.labels == np.concatenate([part.labels() for part in parts])).all()
    ((images, masks),) = stream.pairs(3, lambda images, labels, _: (images, labels), shuffle=False)
    assert images.shape == (3, 3, 20, 20)
    assert masks.shape == (3, 3, 20, 20)
    assert (masks[:, 2] == torch.from_numpy(np.array(stream.labels) > 0)).all()


def test_labels_that_were_not_granted_are_said_so(cases, make):
    blind = Prepared.open(make(cases).images_folder)
    with pytest.raises(DataFault, match="no labels are in reach"):
        streams.labelled([blind], "source", "cpu", 0, Clock(), ((1,),), background=False)
