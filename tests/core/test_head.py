import copy
import json
import math
import pickle
import subprocess
import sys

import pytest
import torch

from sfdabench.core.fields import plain
from sfdabench.core.head import HEADS, SIGMOID, SOFTMAX, Softmax


def pixels(*rows):
    """Values of each pixel, in a row of pixels: (1, C, 1, n)."""
    return torch.tensor(rows).T[None, :, None]


def rows(maps):
    """And back."""
    return maps[0, :, 0].T.tolist()


def test_a_head_is_a_value():
    for name, head in HEADS.items():
        assert str(head) == plain(head) == json.loads(json.dumps(plain(head))) == name
        for same in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
            assert same == head
            assert hash(same) == hash(head)
    assert Softmax() == SOFTMAX != SIGMOID
    with pytest.raises(AttributeError):
        SIGMOID.exclusive = True


@pytest.mark.parametrize("compare", [lambda: SIGMOID == "sigmoid", lambda: "tanh" in (SOFTMAX,)])
def test_comparing_with_text_is_an_error_and_not_merely_false(compare):
    with pytest.raises(TypeError, match="is text, not a head"):
        compare()


def test_its_file_needs_no_torch():
    code = "import sys, sfdabench.core.head; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("head", HEADS.values(), ids=str)
def test_shapes_of_two_classes(head):
    outputs = head.outputs(2)
    logits = torch.randn(3, outputs, 4, 5)
    decisions = 1 if head.exclusive else 2
    probability = head.probabilities(logits)
    sureness, decision = head.decide(probability)
    for maps, channels in (
        (probability, outputs),
        (head.logits(probability), outputs),
        (head.without_background(logits), 2),
        (head.masks(probability, 0.5), 2),
        (head.masks_of_logits(logits, 0.5), 2),
        (sureness, decisions),
        (decision, decisions),
        (head.one_hot(decision, logits), outputs),
        (head.cross_entropy(logits, probability), decisions),
    ):
        assert maps.shape == (3, channels, 4, 5)
    assert head.foreground_share(logits).shape == ()


@pytest.mark.parametrize("head", HEADS.values(), ids=str)
def test_what_hangs_together(head):
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    probability = head.probabilities(logits)
    assert torch.allclose(head.probabilities(head.logits(probability)), probability, atol=1e-6)
    masks = head.masks(probability, 0.5)
    assert torch.equal(head.masks_of_logits(logits, 0.5), masks)
    sureness, decision = head.decide(probability)
    hot = head.one_hot(decision, logits)
    assert torch.equal(head.without_background(hot).bool(), masks)
    assert torch.equal(head.one_hot(decision.to(torch.uint8), logits), hot)
    assert torch.allclose(head.cross_entropy(logits, hot), -sureness.log(), atol=1e-6)
    nothing = torch.zeros(1, 3, 1, 1)
    least_known = head.cross_entropy(nothing, head.probabilities(nothing))
    assert torch.allclose(least_known, torch.tensor(head.largest_entropy(3)))


def test_sigmoid_by_hand():
    p = pixels([0.8, 0.3], [0.6, 0.9])
    assert rows(SIGMOID.masks(p, 0.7)) == [[True, False], [False, True]]
    each = torch.tensor([0.5, 0.95]).view(-1, 1, 1)
    assert rows(SIGMOID.masks(p, each)) == [[True, False], [True, False]]
    sureness, decision = SIGMOID.decide(p)
    assert torch.allclose(sureness, pixels([0.8, 0.7], [0.6, 0.9]))
    assert rows(decision) == [[True, False], [True, True]]
    loss = SIGMOID.cross_entropy(p.logit(), pixels([1.0, 0.0], [0.0, 1.0]))
    assert torch.allclose(loss, -pixels([0.8, 0.7], [0.4, 0.9]).log())
    assert SIGMOID.foreground_share(p.logit()) == 0.75
    assert SIGMOID.largest_entropy(9) == math.log(2)


def test_softmax_by_hand():
    p = pixels([0.5, 0.3, 0.2], [0.2, 0.35, 0.45], [0.1, 0.8, 0.1], [0.4, 0.3, 0.3])
    expected = [[False, False], [False, True], [True, False], [False, False]]
    assert rows(SOFTMAX.masks(p, 0.7)) == rows(SOFTMAX.masks_of_logits(p.log(), 0.7)) == expected
    sureness, decision = SOFTMAX.decide(p)
    assert torch.equal(sureness.flatten(), torch.tensor([0.5, 0.45, 0.8, 0.4]))
    assert decision.flatten().tolist() == [0, 2, 1, 0]
    target = pixels([1.0, 0, 0], [0, 0.5, 0.5], [0, 0, 1], [1, 0, 0])
    loss = SOFTMAX.cross_entropy(p.log(), target).flatten().tolist()
    second = -(math.log(0.35) + math.log(0.45)) / 2
    assert loss == pytest.approx([-math.log(0.5), second, -math.log(0.1), -math.log(0.4)])
    assert SOFTMAX.foreground_share(p.log()) == 0.5
    assert SOFTMAX.largest_entropy(4) == math.log(4)


def test_close_logits_are_told_apart_though_their_probabilities_are_equal():
    logits = torch.tensor([0.0, 1e-8]).view(1, 2, 1, 1)
    assert not SOFTMAX.masks(SOFTMAX.probabilities(logits), 0.5).any()
    assert SOFTMAX.masks_of_logits(logits, 0.5).all()
