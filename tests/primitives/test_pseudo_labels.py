import pytest
import torch

from sfdabench.core.head import HEADS, SIGMOID, SOFTMAX
from sfdabench.primitives.losses import segmentation_loss
from sfdabench.primitives.pseudo_labels import (
    IGNORE,
    class_balanced_labels,
    class_thresholds,
    hard_labels,
    mean_over_views,
    sure_labels,
    training_target,
)


def pixels(*rows):
    """Probabilities of each pixel, in a row of pixels: (1, C, 1, n)."""
    return torch.tensor(rows).T[None, :, None]


def test_one_hot():
    winner = torch.tensor([2, 0]).view(1, 1, 1, 2)
    hot = SOFTMAX.one_hot(winner, torch.rand(1, 3, 1, 2, dtype=torch.float64))
    assert hot.dtype == torch.float64
    assert hot[0, :, 0].T.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_hard_labels_of_a_softmax_head_keep_what_is_above_the_threshold():
    labels, keep = hard_labels(pixels([0.7, 0.2, 0.1], [0.3, 0.4, 0.3]).log(), SOFTMAX, 0.5)
    assert labels[0, :, 0].T.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert keep.flatten().tolist() == [1, 0]


class TestSureLabels:
    def test_softmax(self):
        maps = pixels([0.1, 0.9], [0.89, 0.11], [0.95, 0.05])
        labels = sure_labels(maps, SOFTMAX, 0.9)
        assert labels.dtype == torch.uint8
        assert labels.flatten().tolist() == [1, IGNORE, 0]

    def test_sigmoid_is_sure_of_each_channel_on_its_own(self):
        labels = sure_labels(pixels([0.95, 0.5], [0.05, 0.92], [0.7, 0.02]), SIGMOID, 0.9)
        assert labels[0, :, 0].T.tolist() == [[1, IGNORE], [0, 1], [IGNORE, 0]]

    @pytest.mark.parametrize("head", HEADS.values(), ids=str)
    def test_what_is_ignored_does_not_train(self, head):
        """Its gradient is zero, and the loss is the mean over the others."""
        logits = torch.randn(2, 3, 4, 4, requires_grad=True)
        maps = logits.detach().softmax(1) if head == SOFTMAX else logits.detach().sigmoid()
        labels = sure_labels(maps, head, 0.6)
        target, keep = training_target(labels, logits, head)
        kept = keep.bool().expand_as(logits)
        assert 0 < kept.sum() < kept.numel()
        loss = segmentation_loss(logits, target, head, keep)
        loss.backward()
        assert logits.grad[~kept].eq(0).all()
        assert logits.grad[kept].ne(0).all()
        if head == SOFTMAX:
            expected = -maps.max(dim=1).values.log()[keep[:, 0].bool()].mean()
        else:
            expected = -torch.maximum(maps, 1 - maps).log()[kept].mean()
        assert torch.allclose(loss, expected)

    def test_target_of_an_ignored_pixel_is_not_kept(self):
        labels = torch.tensor([[1, IGNORE]], dtype=torch.uint8).view(1, 1, 1, 2)
        target, keep = training_target(labels, torch.rand(1, 2, 1, 2), SOFTMAX)
        assert target[0, :, 0].T.tolist()[0] == [0, 1]
        assert keep.flatten().tolist() == [1, 0]


class TestProbability:
    images = torch.rand(2, 3, 8, 10)

    @pytest.mark.parametrize("head", HEADS.values(), ids=str)
    def test_of_one_view_is_the_model_s(self, head):
        expected = self.images.softmax(1) if head == SOFTMAX else self.images.sigmoid()
        assert torch.equal(mean_over_views(lambda x: x, self.images, head), expected)

    def test_mirrored_view_is_mirrored_back(self):
        """A pixel-wise model gives the same maps; one that sees places gives their mean."""
        plain = mean_over_views(lambda x: x, self.images, SOFTMAX)
        assert torch.allclose(mean_over_views(lambda x: x, self.images, SOFTMAX, flip=True), plain)
        place = torch.linspace(-3, 3, 10).expand(2, 3, 8, 10)
        mean = mean_over_views(lambda x: place, self.images, SIGMOID, flip=True)
        assert torch.allclose(mean, torch.full_like(mean, 0.5))

    def test_scaled_view_is_seen_scaled_and_brought_back(self):
        seen = []

        def model(images):
            seen.append(tuple(images.shape[-2:]))
            return images

        ramp = torch.linspace(-1, 1, 9).expand(1, 2, 9, 9).clone()
        maps = mean_over_views(model, ramp, SIGMOID, flip=True, scales=(1.0, 1.25))
        assert seen == [(9, 9), (9, 9), (11, 11), (11, 11)]
        assert torch.allclose(maps, ramp.sigmoid(), atol=2e-3)

    def test_carries_no_gradient(self):
        images = self.images.clone().requires_grad_()
        assert not mean_over_views(lambda x: x, images, SOFTMAX).requires_grad


class TestClassBalance:
    def test_threshold_is_the_value_at_the_rank_of_the_portion(self):
        tens = torch.arange(10) / 10
        thresholds = class_thresholds([tens.flip(0), tens[:5], tens[:1], tens[:0]], 0.4)
        # floor(10 * .4) = 4th of .9 .8 .7 .6; floor(5 * .4) = 2nd of .4 .3; ranks 0 and 0
        assert thresholds.tolist() == pytest.approx([0.6, 0.3, 1, 1])

    def test_label_is_the_class_furthest_above_its_own_threshold(self):
        """Not the likeliest one; ignored where none reaches its threshold."""
        maps = pixels([0.6, 0.4], [0.7, 0.3], [0.95, 0.05], [0.89, 0.11], [0.9, 0.1])
        labels = class_balanced_labels(maps, torch.tensor([0.9, 0.4]))
        assert labels.flatten().tolist() == [1, IGNORE, 0, IGNORE, 0]

    def test_each_class_keeps_its_portion(self):
        """A quota: a third of the pixels that a class wins reach its threshold, exactly."""
        torch.manual_seed(0)
        maps = (2 * torch.randn(1, 3, 30, 30) + torch.tensor([4.0, 0, 1]).view(1, 3, 1, 1)).softmax(
            dim=1
        )
        highest, winner = maps.max(dim=1)
        thresholds = class_thresholds([highest[winner == c] for c in range(3)], 1 / 3)
        counts = []
        for c in range(3):
            won = highest[winner == c]
            reached = (won >= thresholds[c]).sum()
            assert reached == int(len(won) / 3)
            counts.append(len(won))
        assert min(counts) > 10
        assert max(counts) > 4 * min(counts)
        labels = class_balanced_labels(maps, thresholds)
        for c in range(3):
            sure = (winner == c) & (highest >= thresholds[c])
            assert (labels[:, 0][sure] != IGNORE).all()
