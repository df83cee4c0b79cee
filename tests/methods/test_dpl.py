"""DPL's labels on values computed by hand (methods-fundus.md §7)."""

import pytest
import torch
from torch import nn

from sfdabench.core.head import SIGMOID, SOFTMAX
from sfdabench.models.segmenter import Segmenter
from sfdabench.primitives.prototypes import (
    Spread,
    denoised_labels,
    fits_prototype,
    repeated_predictions,
)


def row(*values):
    """One image of one row of pixels, (1, 1, N)."""
    return torch.tensor([[values]])


def fits(features, label, reliable, p):
    """With deviations of 0 where a pixel is reliable and 1 where it is not."""
    return fits_prototype(features, label, 1 - reliable, p, 0.5)


FEATURES = torch.tensor([0.0, 1.0, 4.0, 10.0]).view(1, 1, 1, 4)


def test_prototypes_weigh_by_probability():
    """Class at (0 * .9 + 1 * .6) / 1.5 = .4, rest at (4 * .5 + 10 * .75) / 1.25 = 7.6: middle 4."""
    label, reliable = row(1.0, 1.0, 0.0, 0.0), row(1.0, 1.0, 1.0, 1.0)
    p = row(0.9, 0.6, 0.5, 0.25)
    # 4 is nearer to .4 (3.6 away) than 7.6 (3.6 away)? a tie goes to the rest
    assert fits(FEATURES, label, reliable, p).tolist() == row(1.0, 1.0, 1.0, 1.0).tolist()
    wrong = fits(FEATURES - 0.0, label, reliable, row(0.9, 0.9, 0.5, 0.25))
    # class at .5, rest at 7.6: the middle is 4.05, so 4 lies with the class, against its label
    assert wrong.tolist() == row(1.0, 1.0, 0.0, 1.0).tolist()


def test_unreliable_pixels_make_no_prototype():
    label, p = row(1.0, 1.0, 0.0, 0.0), row(0.9, 0.9, 0.1, 0.1)
    reliable = row(1.0, 1.0, 1.0, 0.0)  # rest at 4, class at .5: the middle is 2.25
    assert fits(FEATURES, label, reliable, p).tolist() == row(1.0, 1.0, 1.0, 1.0).tolist()
    shifted = torch.tensor([0.0, 3.0, 4.0, 1.0]).view(1, 1, 1, 4)  # class 1.5, rest 4: 2.75
    assert fits(shifted, label, reliable, p).tolist() == row(1.0, 0.0, 1.0, 0.0).tolist()


def test_without_a_reliable_pixel_of_a_class_none_belongs_to_it():
    label, p = row(1.0, 0.0, 0.0, 0.0), row(0.9, 0.1, 0.1, 0.1)
    none = fits(FEATURES, label, row(0.0, 1.0, 1.0, 1.0), p)
    assert none.tolist() == row(0.0, 1.0, 1.0, 1.0).tolist()
    everything = fits(FEATURES, row(1.0, 1.0, 1.0, 1.0), row(1.0, 1.0, 1.0, 1.0), p)
    assert everything.tolist() == row(1.0, 1.0, 1.0, 1.0).tolist()


def test_smaller_features_are_compared_at_their_size():
    features = torch.tensor([0.0, 10.0]).view(1, 1, 1, 2)
    label, p = row(1.0, 1.0, 0.0, 0.0), row(0.9, 0.9, 0.1, 0.1)
    ones = row(1.0, 1.0, 1.0, 1.0)
    assert fits(features, label, ones, p).tolist() == ones.tolist()


def test_reliability_is_cut_at_the_size_of_the_features():
    """From four pixels to two the deviation becomes that of the outer ones (align_corners)."""
    features = torch.tensor([0.0, 10.0]).view(1, 1, 1, 2)
    label, p = row(1.0, 1.0, 0.0, 0.0), row(0.9, 0.9, 0.1, 0.1)
    inner = row(0.0, 1.0, 1.0, 0.0)  # both outer ones are reliable, so both prototypes are made
    assert (
        fits_prototype(features, label, inner, p, 0.5).tolist() == row(1.0, 1.0, 1.0, 1.0).tolist()
    )


def spread(p, deviation):
    """Of one row of pixels: probabilities and deviations (K, N); features say nothing wrong."""
    p, deviation = (torch.tensor(v).view(1, len(v), 1, -1) for v in (p, deviation))
    return Spread(p, deviation, p)


def test_sigmoid_labels_are_kept_channel_by_channel():
    of = spread([[0.9, 0.8, 0.1], [0.9, 0.7, 0.2]], [[0.01, 0.06, 0.01], [0.01, 0.01, 0.01]])
    labels, keep = denoised_labels(of, SIGMOID, threshold=0.75, uncertainty=0.05)
    assert labels.flatten(2).tolist() == [[[1, 1, 0], [1, 0, 0]]]
    assert keep[0, 0, 0].tolist() == [1, 0, 1]
    assert keep.shape == (1, 2, 1, 3)


def test_softmax_labels_need_a_winner_above_the_threshold():
    p = [[0.9, 0.1, 0.6], [0.05, 0.85, 0.3], [0.05, 0.05, 0.1]]
    deviation = [[0.01] * 3, [0.2, 0.01, 0.2], [0.2] * 3]
    labels, keep = denoised_labels(spread(p, deviation), SOFTMAX, threshold=0.75, uncertainty=0.05)
    assert labels.argmax(1).flatten().tolist() == [0, 1, 0]
    assert keep.shape == (1, 1, 1, 3)
    assert keep.flatten().tolist() == [1, 1, 0]


class Fixed(nn.Module):
    """Features are the image; with `drop` the network has dropout of its own in its classifier."""

    def __init__(self, drop=None):
        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False)
        self.drop = None if drop is None else nn.Dropout2d(drop)

    def penultimate(self, images):
        return self.norm(images)

    def classify(self, features, size):
        return features if self.drop is None else self.drop(features)


def predict(network, statistics, dropout=0.5, passes=400):
    torch.manual_seed(0)
    images = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    model = Segmenter(network)
    return model, repeated_predictions(
        *(model, images, SIGMOID),
        passes=passes,
        temperature=2.0,
        statistics=statistics,
        dropout=dropout,
    )


def test_statistics_are_the_batchs_or_the_running_ones():
    _, batch = predict(Fixed(), "batch", dropout=0.0, passes=2)
    assert batch.features[:, 0, 0, 0].tolist() == pytest.approx([-1, 1], abs=1e-4)
    model, running = predict(Fixed(), "running", dropout=0.0, passes=2)
    assert running.features[:, 0, 0, 0].tolist() == pytest.approx([1, 3], abs=1e-4)
    assert int(model.network.norm.num_batches_tracked) == 0


def test_without_dropout_of_its_own_features_are_dropped():
    """Kept or not, each with p = 1/2: logits 0 or 2x."""
    _, of = predict(Fixed(), "running")
    x = torch.tensor([1.0, 3.0])
    mean = (0.5 + (2 * x).sigmoid()) / 2
    assert of.mean.mean((1, 2, 3)).tolist() == pytest.approx(mean.tolist(), abs=0.01)
    deviation = (x.sigmoid() - 0.5) / 2  # of sigmoid(z / 2), which is .5 or sigmoid(x)
    assert of.deviation.mean((1, 2, 3)).tolist() == pytest.approx(deviation.tolist(), abs=0.01)
    assert of.features.mean((1, 2, 3)).tolist() == pytest.approx([1, 3], abs=0.1)


@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_dropout_of_the_network_is_on_and_no_other_is_added(statistics):
    _, of = predict(Fixed(drop=0.5), statistics)
    assert float(of.deviation.min()) > 0.05
    expected = [-1, 1] if statistics == "batch" else [1, 3]
    assert of.features[:, 0, 0, 0].tolist() == pytest.approx(expected, abs=1e-3)
