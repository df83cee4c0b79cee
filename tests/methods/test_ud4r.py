"""Labels that a second prediction contradicts (methods-compared.md §5)."""

import math

import pytest
import torch

from sfdabench.core.head import SIGMOID, SOFTMAX
from sfdabench.primitives.noisy_labels import contradicted, corrected_labels, settled_threshold


def test_the_cut_settles_half_way_between_the_means_of_both_sides():
    p = torch.tensor([0.1, 0.45, 0.6])
    # .5 parts off .6: (.275 + .6) / 2 = .4375, which parts off .1: (.1 + .525) / 2
    assert settled_threshold(p) == pytest.approx(0.3125)


def test_where_all_pixels_lie_on_one_side_the_cut_stays():
    assert settled_threshold(torch.full((4,), 0.2)) == 0.5
    assert settled_threshold(torch.full((4,), 0.8)) == 0.5


def test_a_pixel_is_contradicted_where_it_reaches_the_other_kind_only():
    label = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    p = torch.tensor([0.9, 0.8, 0.1, 0.1, 0.2, 0.9])
    # ones must reach .6, zeros 1 - .4 = .6 of the other
    assert contradicted(label, p).tolist() == [0, 0, 1, 0, 0, 1]


def test_labels_cut_from_the_same_prediction_are_never_contradicted():
    torch.manual_seed(0)
    p = torch.rand(1000)
    for cut in (0.3, 0.5, 0.8):
        assert contradicted((p > cut).float(), p).sum() == 0


def test_a_label_of_one_kind_only_has_nothing_to_be_contradicted_by():
    assert contradicted(torch.ones(3), torch.tensor([0.1, 0.5, 0.9])).tolist() == [0, 0, 0]


@pytest.mark.parametrize("correction", ["uncertainty", "smooth", "hard"])
def test_noisy_labels_move_towards_their_opposite(correction):
    single = torch.tensor([0.9, 0.8, 0.9, 0.1, 0.2, 0.1]).view(1, 1, 1, 6)
    mean = torch.tensor([0.9, 0.8, 0.1, 0.1, 0.2, 0.9]).view(1, 1, 1, 6)
    labels, noisy = corrected_labels(single, mean, SIGMOID, correction)
    sure = 1 + (0.1 * math.log2(0.1) + 0.9 * math.log2(0.9))
    moved = {"uncertainty": sure, "smooth": 0.8, "hard": 1.0}[correction]
    assert labels.flatten().tolist() == pytest.approx([1, 1, 1 - moved, 0, 0, moved])
    assert float(noisy) == pytest.approx(2 / 6)


def test_labels_of_exclusive_classes_add_up_to_one():
    torch.manual_seed(0)
    single, mean = (torch.randn(2, 4, 8, 8).mul(3).softmax(1) for _ in range(2))
    labels, _ = corrected_labels(single, mean, SOFTMAX, "hard")
    torch.testing.assert_close(labels.sum(1), torch.ones(2, 8, 8))
    assert labels.min() >= 0
