import numpy as np
import pytest

from sfdabench.core import registry
from sfdabench.evaluate.score import aggregate, class_masks, score_cases, score_pair

STRICT, CBMT = registry.load("protocols", "strict"), registry.load("protocols", "cbmt")
NOTHING = np.zeros((30, 40), bool)
SQUARE = NOTHING.copy()
SQUARE[10:20, 10:20] = True


def test_strict_penalises_a_missed_structure_by_the_diagonal():
    scores = score_pair(NOTHING, SQUARE, STRICT)
    assert scores["dice"] == (0.0, False)
    assert scores["hd"] == (50.0, True)
    assert scores["assd"] == (50.0, True)


def test_strict_rewards_an_absent_structure_left_out():
    scores = score_pair(NOTHING, NOTHING, STRICT)
    assert scores["dice"] == (1.0, True)
    assert scores["assd"] == (0.0, True)


def test_strict_diagonal_is_in_millimetres_where_spacing_is_known():
    assert score_pair(NOTHING, SQUARE, STRICT, (2.0, 2.0))["hd"] == (100.0, True)


def test_cbmt_drops_undefined_distances_and_smooths_dice():
    assert score_pair(NOTHING, SQUARE, CBMT) == {
        "dice": (1 / 101, False),
        "assd_mean": (None, True),
    }
    assert score_pair(SQUARE, SQUARE, CBMT)["dice"] == (1.0, False)


def test_cbmt_ignores_spacing():
    shifted = np.roll(SQUARE, 3, axis=1)
    assert score_pair(shifted, SQUARE, CBMT, (9.0, 9.0)) == score_pair(shifted, SQUARE, CBMT)


def test_means_deviations_and_counts():
    masks = [SQUARE[None], NOTHING[None]]
    references = [SQUARE[None], SQUARE[None]]
    scores, empties = score_cases(masks, references, ["a", "b"], ["cup"], CBMT, [None, None])
    means = aggregate(scores, CBMT)["cup"]
    assert means["dice"]["mean"] == pytest.approx((1 + 1 / 101) / 2)
    assert means["dice"]["std"] == pytest.approx((1 - 1 / 101) / 2)  # population
    assert means["assd_mean"] == {"mean": 0.0, "std": 0.0, "n": 1, "undefined": 1}
    assert empties == {"cup": {"prediction": 1, "reference": 0, "both": 0}}
    strict = aggregate(
        score_cases(masks, references, ["a", "b"], ["cup"], STRICT, [None, None])[0], STRICT
    )["cup"]
    assert strict["dice"]["std"] == pytest.approx(0.5**0.5)  # sample
    assert strict["assd"] == {
        "mean": 25.0,
        "std": pytest.approx(50 / 2**0.5),
        "n": 2,
        "undefined": 1,
    }


def test_a_mean_over_nothing_is_none():
    scores, _ = score_cases([NOTHING[None]], [SQUARE[None]], ["a"], ["cup"], CBMT, [None])
    assert aggregate(scores, CBMT)["cup"]["assd_mean"]["mean"] is None


def test_a_missing_prediction_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        score_cases([SQUARE[None]], [SQUARE[None]] * 2, ["a", "b"], ["cup"], STRICT, [None] * 2)


def test_class_masks_may_nest():
    label = np.array([[0, 1, 2]])
    masks = class_masks(label, {"cup": (2,), "disc": (1, 2)})
    assert masks.tolist() == [[[False, False, True]], [[False, True, True]]]
