from dataclasses import replace

import numpy as np
import pytest

from sfdabench.core import registry
from sfdabench.evaluate.legacy import rowwise_hausdorff
from sfdabench.evaluate.score import Tally, region_masks, score_pair

STRICT, CBMT = registry.load("protocols", "strict"), registry.load("protocols", "cbmt")
TASK = registry.load("tasks", "refuge2drishti")
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


@pytest.mark.parametrize("name", registry.names("protocols"))
def test_scores_are_plain_numbers(name):
    """Not numpy's, which csv writes as np.float64(...)."""
    for prediction in (np.roll(SQUARE, 3, axis=1), NOTHING):
        scores = score_pair(prediction, SQUARE, registry.load("protocols", name))
        assert {type(value) for value, _ in scores.values()} <= {float, type(None)}


def test_cbmt_ignores_spacing():
    shifted = np.roll(SQUARE, 3, axis=1)
    assert score_pair(shifted, SQUARE, CBMT, (9.0, 9.0)) == score_pair(shifted, SQUARE, CBMT)


def tally(protocol, *pairs):
    found = Tally(protocol, ["cup"])
    for i, (mask, reference) in enumerate(pairs):
        found.add(str(i), mask[None], reference[None])
    return found


def test_means_deviations_and_counts():
    pairs = (SQUARE, SQUARE), (NOTHING, SQUARE)
    means = tally(CBMT, *pairs).means()["cup"]
    assert means["dice"]["mean"] == pytest.approx((1 + 1 / 101) / 2)
    assert means["dice"]["std"] == pytest.approx((1 - 1 / 101) / 2)  # population
    assert means["assd_mean"] == {"mean": 0.0, "std": 0.0, "n": 1, "undefined": 1}
    assert tally(CBMT, *pairs).empties == {"cup": {"prediction": 1, "reference": 0, "both": 0}}
    strict = tally(STRICT, *pairs).means()["cup"]
    assert strict["dice"]["std"] == pytest.approx(0.5**0.5)  # sample
    assert strict["assd"] == {
        "mean": 25.0,
        "std": pytest.approx(50 / 2**0.5),
        "n": 2,
        "undefined": 1,
    }


def test_a_volume_is_one_case_or_as_many_as_it_has_slices():
    mask, reference = np.zeros((2, 1, 3, 30, 40), bool)
    reference[:, :2] = SQUARE
    mask[:, 0] = SQUARE
    whole, sliced = Tally(STRICT, ["cup"]), Tally(replace(STRICT, unit="slice"), ["cup"])
    for found in (whole, sliced):
        found.add("a", mask, reference, (4.0, 1.0, 1.0))
    assert [s.value for s in whole.scores if s.metric == "dice"] == [pytest.approx(2 / 3)]
    assert [s.value for s in whole.scores if s.metric == "hd"] == [4.0]
    assert [s.value for s in sliced.scores if s.metric == "dice"] == [1.0, 0.0, 1.0]
    assert [s.value for s in sliced.scores if s.metric == "hd"] == [0.0, 50.0, 0.0]
    assert [s.case for s in sliced.scores if s.metric == "hd"] == ["a/0", "a/1", "a/2"]


def test_planes_without_reference_are_left_out_where_the_protocol_says_so():
    found = Tally(replace(STRICT, unit="slice", skip_empty=True), ["cup"])
    found.add("a", np.stack([SQUARE, SQUARE])[None], np.stack([SQUARE, NOTHING])[None])
    assert {s.case for s in found.scores} == {"a/0"}


def test_zero_counts_missed_overlap_and_drops_missed_distances():
    scores = score_pair(NOTHING, NOTHING, replace(STRICT, empty="zero"))
    assert scores["dice"] == (0.0, True)
    assert scores["hd95"] == (None, True)


def test_rowwise_hausdorff_has_its_published_defects():
    assert rowwise_hausdorff(NOTHING, SQUARE) == 0
    assert rowwise_hausdorff(np.roll(SQUARE, 9, axis=0), SQUARE) == 0
    two = np.roll(SQUARE, 2, axis=1)
    assert rowwise_hausdorff(two, SQUARE) == 2  # 2 columns lost, 2 won: the root of 4
    legacy = replace(STRICT, legacy=("rowwise_hausdorff",))
    assert score_pair(two, SQUARE, legacy)["hd_rowwise"] == (2.0, False)
    assert "hd_rowwise" not in score_pair(two, SQUARE, STRICT)


def test_a_mean_over_nothing_is_none():
    assert tally(CBMT, (NOTHING, SQUARE)).means()["cup"]["assd_mean"]["mean"] is None


def test_regions_are_unions_and_classes_may_nest():
    label = np.array([[0, 1, 2]])
    masks = region_masks(label, TASK)
    assert masks.tolist() == [[[False, False, True]], [[False, True, True]]]
    task = replace(TASK, regions={"both": ("cup", "disc")})
    assert region_masks(label, task).tolist() == [[[False, True, True]]]


def test_what_was_drawn_says_what_is_empty_not_what_flooring_left():
    """methods-cross-modality.md §1.4: such a slice is kept and scored 0, as in the code."""
    legacy = registry.load("protocols", "self_ensembling_legacy")
    drawn = np.zeros((1, 2, 8, 8), bool)
    drawn[0, 0, 2:4, 2:4] = True
    tally = Tally(legacy, ["grey_matter"])
    tally.add("a", drawn, np.zeros_like(drawn), (1.0, 1.0, 1.0), drawn)
    dice = [score for score in tally.scores if score.metric == "dice"]
    assert [(score.case, score.value, score.undefined) for score in dice] == [("a/0", 0.0, False)]
    plain = Tally(legacy, ["grey_matter"])
    plain.add("a", drawn, np.zeros_like(drawn), (1.0, 1.0, 1.0))
    assert not plain.scores
