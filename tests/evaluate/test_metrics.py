import math
import subprocess
import sys
import warnings
from dataclasses import FrozenInstanceError, asdict

import numpy as np
import pytest

from sfdabench.evaluate import metrics
from sfdabench.evaluate.metrics import Comparison, Mask, compare

OVERLAP = {"dice", "iou", "precision", "recall", "specificity"}
DISTANCES = {"hd", "hd95", "hd95_pooled", "assd", "assd_mean"}
SPACINGS = {2: (None, (0.7, 0.7), (1.3, 0.45)), 3: (None, (2.0, 2.0, 2.0), (3.0, 0.8, 1.1))}


def mask(shape: tuple[int, ...], *boxes: tuple[slice, ...]) -> Mask:
    out = np.zeros(shape, dtype=bool)
    for box in boxes:
        out[box] = True
    return out


def random_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> Mask:
    """Boxes, some of them cut by the image's frame, with a little noise: never empty."""
    out = rng.random(shape) < rng.choice([0.0, 0.02, 0.3])
    for _ in range(rng.integers(1, 4)):
        start = [rng.integers(0, n) for n in shape]
        out[tuple(slice(s, s + rng.integers(1, n)) for s, n in zip(start, shape, strict=True))] = 1
    return out


def random_pairs(count: int) -> list[tuple[Mask, Mask, tuple[float, ...] | None]]:
    rng = np.random.default_rng(0)
    pairs = []
    for k in range(count):
        axes = 2 + k % 2
        shape = tuple(int(n) for n in rng.integers(2, 40 if axes == 2 else 18, axes))
        pairs.append((random_mask(rng, shape), random_mask(rng, shape), SPACINGS[axes][k // 2 % 3]))
    return pairs


def sphere(shape: tuple[int, ...], centre: tuple[float, ...], radii: tuple[float, ...]) -> Mask:
    grid = np.indices(shape)
    parts = zip(grid, centre, radii, strict=True)
    return sum(((g - c) / r) ** 2 for g, c, r in parts) <= 1


# Large enough for the walk and the tree: (name, prediction, reference, spacing).
SHAPE = (40, 60, 64)
FLAT = sphere((500, 880), (240, 450), (239, 440))
BALL = sphere(SHAPE, (20, 30, 32), (15, 22, 24))
LARGE = [
    ("near", sphere(SHAPE, (21, 29, 30), (15, 22, 24)), BALL, (2.0, 0.8, 0.8)),
    ("isotropic", sphere(SHAPE, (19, 31, 32), (16, 22, 24)), BALL, None),
    ("last axis finest", sphere(SHAPE, (19, 31, 32), (16, 22, 24)), BALL, (1.5, 1.0, 0.3)),
    ("far", sphere(SHAPE, (21, 29, 30), (18, 28, 30)), mask(SHAPE, (slice(19, 22),) * 3), None),
    ("flat", np.pad(FLAT, ((1, 1), (5, 5))), np.pad(FLAT, ((2, 0), (0, 10))), None),
    ("wide", mask((2, 9001), (0, slice(0, 9))), mask((2, 9001), (1, slice(8992, 9001))), None),
    ("flat anisotropic", FLAT[:300, :400], FLAT[100:400, 90:490], (0.5, 2.0)),
]


def test_shifted_square():
    reference = mask((10, 10), (slice(2, 6), slice(2, 6)))
    prediction = mask((10, 10), (slice(2, 6), slice(4, 8)))
    result = compare(prediction, reference)
    assert result.dice == 0.5
    assert result.iou == 8 / 24
    assert result.precision == result.recall == 0.5
    assert result.specificity == 76 / 84
    # Of 12 surface pixels, each way: 4 at distance 2, 4 at distance 1, 4 at distance 0.
    assert result.hd == result.hd95 == result.hd95_pooled == 2
    assert result.assd == result.assd_mean == 1
    assert result.undefined == frozenset()


def test_single_voxels_in_anisotropic_volume():
    prediction = mask((6, 7, 8), (1, 2, 3))
    reference = mask((6, 7, 8), (3, 3, 5))
    result = compare(prediction, reference, spacing=(3.0, 2.0, 0.5))
    assert result.dice == result.iou == result.precision == result.recall == 0
    assert result.specificity == 335 / 335 - 1 / 335
    for name in DISTANCES:
        assert getattr(result, name) == pytest.approx(math.sqrt(6**2 + 2**2 + 1**2))


@pytest.mark.parametrize("axis", [0, 1])
def test_spacing_belongs_to_its_array_axis(axis: int):
    prediction, reference = mask((9, 9), (4, 4)), np.roll(mask((9, 9), (4, 4)), 2, axis)
    assert compare(prediction, reference, spacing=(5, 0.5)).hd == [10, 1][axis]


def test_island_tells_the_definitions_apart():
    reference = mask((64, 5), (slice(0, 20), slice(2, 3)))
    prediction = reference | mask((64, 5), (slice(59, 61), slice(2, 3)))
    result = compare(prediction, reference)
    # There: 20 zeros, 40, 41. Back: 20 zeros.
    assert result.hd == 41
    assert result.hd95 == pytest.approx(38)  # rank 19.95 of 21: 0 + 0.95 * 40
    assert result.hd95_pooled == 0  # rank 38.95 of 41 is among the 40 zeros
    assert result.assd == pytest.approx(81 / 42)
    assert result.assd_mean == pytest.approx(81 / 22 / 2)


def test_voxels_on_the_image_frame_are_surface():
    full, inner = np.ones((5, 5), dtype=bool), mask((5, 5), (2, 2))
    # The 16 frame pixels of the full mask are its surface, the centre pixel is not.
    result = compare(full, inner)
    assert result.hd == pytest.approx(math.sqrt(8))
    back = 2.0
    there = (4 * math.sqrt(8) + 8 * math.sqrt(5) + 4 * 2) / 16
    assert result.assd_mean == pytest.approx((there + back) / 2)


def test_identical_masks():
    ball = BALL[:, :30]
    assert asdict(compare(ball, ball)) == {
        **dict.fromkeys(OVERLAP, 1),
        **dict.fromkeys(DISTANCES, 0),
    }


EMPTY, DOT, FULL = np.zeros((4, 4), bool), mask((4, 4), (1, 1)), np.ones((4, 4), bool)


@pytest.mark.parametrize(
    ("prediction", "reference", "undefined", "values"),
    [
        (EMPTY, EMPTY, {"dice", "iou", "precision", "recall"} | DISTANCES, {"specificity": 1}),
        (EMPTY, DOT, {"precision"} | DISTANCES, {"dice": 0, "iou": 0, "recall": 0}),
        (DOT, EMPTY, {"recall"} | DISTANCES, {"dice": 0, "precision": 0, "specificity": 15 / 16}),
        (DOT, FULL, {"specificity"}, {"recall": 1 / 16, "precision": 1, "dice": 2 / 17}),
    ],
    ids=["both", "prediction", "reference", "no background"],
)
@pytest.mark.parametrize("axes", [2, 3])
def test_undefined_values(prediction, reference, undefined, values, axes):
    if axes == 3:
        prediction, reference = prediction[None], reference[None]
    result = compare(prediction, reference)
    assert result.undefined == undefined
    assert {name for name, value in asdict(result).items() if math.isnan(value)} == undefined
    assert {name: getattr(result, name) for name in values} == values


@pytest.mark.parametrize(
    ("prediction", "reference", "spacing", "error", "message"),
    [
        (DOT, DOT[:3], None, ValueError, r"\(4, 4\) and reference \(3, 4\).*resample"),
        (DOT[0], DOT[0], None, ValueError, r"shape \(4,\).*one image or volume"),
        (DOT[None, None], DOT[None, None], None, ValueError, r"shape \(1, 1, 4, 4\)"),
        (DOT.astype(np.uint8), DOT, None, TypeError, r"prediction .*not uint8.*labels == k"),
        (DOT, DOT.astype(float), None, TypeError, r"reference .*not float64.*> threshold"),
        (DOT.tolist(), DOT, None, TypeError, "prediction .*not list"),
        (DOT, DOT, (1.0,), ValueError, r"2 positive lengths.*\(1.0,\)"),
        (DOT, DOT, (1.0, 1.0, 1.0), ValueError, "2 positive lengths"),
        (DOT, DOT, (1.0, 0.0), ValueError, "2 positive lengths"),
        (DOT, DOT, (1.0, -2.0), ValueError, "2 positive lengths"),
        (DOT, DOT, (1.0, math.nan), ValueError, "2 positive lengths"),
        (EMPTY, EMPTY, (1.0, math.inf), ValueError, "2 positive lengths"),
    ],
)
def test_bad_input_says_what_was_given_and_the_cure(prediction, reference, spacing, error, message):
    with pytest.raises(error, match=message):
        compare(prediction, reference, spacing=spacing)


def assert_agrees_with_medpy(p: Mask, r: Mask, spacing: tuple[float, ...] | None) -> None:
    binary = pytest.importorskip("medpy.metric", reason="MedPy is the oracle").binary
    ours = compare(p, r, spacing=spacing)
    there, back = binary.asd(p, r, spacing), binary.asd(r, p, spacing)
    expected = {
        "dice": binary.dc(p, r),
        "iou": binary.jc(p, r),
        "precision": binary.precision(p, r),
        "recall": binary.recall(p, r),
        "hd": binary.hd(p, r, spacing),
        "hd95_pooled": binary.hd95(p, r, spacing),
        "assd": binary.assd(p, r, spacing),
        "assd_mean": (there + back) / 2,
    }
    if "specificity" not in ours.undefined:
        expected["specificity"] = binary.specificity(p, r)
    actual = {name: getattr(ours, name) for name in expected}
    assert actual == pytest.approx(expected, rel=0, abs=1e-9)


def test_agrees_with_medpy_on_random_masks():
    for pair in random_pairs(300):
        assert_agrees_with_medpy(*pair)


@pytest.mark.parametrize("case", LARGE, ids=[case[0] for case in LARGE])
def test_agrees_with_medpy_on_large_masks(case):
    assert_agrees_with_medpy(*case[1:])


def test_every_search_gives_the_same_distances(monkeypatch):
    """All pairs, walk and tree are interchangeable: only speed decides between them."""
    pairs = [pair for pair in random_pairs(60) if all(m.any() for m in pair[:2])]
    usual = [compare(p, r, spacing=s) for p, r, s in pairs]
    for limit, minimum, reach in [(0, 10**9, 12), (0, 0, 12), (0, 0, 1), (10**9, 0, 3)]:
        monkeypatch.setattr(metrics, "ALL_PAIRS_LIMIT", limit)
        monkeypatch.setattr(metrics, "WALK_MINIMUM", minimum)
        monkeypatch.setattr(metrics, "WALK_REACH", reach)
        for (p, r, s), expected in zip(pairs, usual, strict=True):
            assert asdict(compare(p, r, spacing=s)) == pytest.approx(
                asdict(expected), abs=1e-9, nan_ok=True
            )


def test_hd95_agrees_with_monai():
    reason = "MONAI is the oracle"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch = pytest.importorskip("torch", reason=reason)
        monai = pytest.importorskip("monai.metrics", reason=reason)
        for p, r, spacing in random_pairs(80):
            tensors = (torch.from_numpy(m)[None, None].float() for m in (p, r))
            expected = monai.compute_hausdorff_distance(
                *tensors, include_background=True, percentile=95, directed=False, spacing=spacing
            )
            assert compare(p, r, spacing=spacing).hd95 == pytest.approx(expected.item(), abs=1e-4)


def test_swapping_the_masks_swaps_precision_and_recall_only():
    for p, r, spacing in random_pairs(40):
        one, other = asdict(compare(p, r, spacing=spacing)), asdict(compare(r, p, spacing=spacing))
        one["precision"], one["recall"] = one["recall"], one["precision"]
        del one["specificity"], other["specificity"]
        assert one == pytest.approx(other, abs=1e-12)


def test_translation_and_padding_change_specificity_only():
    for p, r, spacing in random_pairs(40):
        before = asdict(compare(p, r, spacing=spacing))
        margins = [(3 + axis, 7) for axis in range(p.ndim)]
        after = asdict(compare(np.pad(p, margins), np.pad(r, margins), spacing=spacing))
        del before["specificity"], after["specificity"]
        assert before == after


def test_memory_layout_does_not_matter_and_input_is_left_alone():
    p, r = LARGE[0][1], LARGE[0][2]
    copies = p.copy(), r.copy()
    expected = compare(p, r, spacing=(2, 0.8, 0.8))
    assert compare(np.asfortranarray(p), r[::1], spacing=(2, 0.8, 0.8)) == expected
    assert (p == copies[0]).all()
    assert (r == copies[1]).all()


def test_comparison_is_frozen():
    with pytest.raises(FrozenInstanceError):
        compare(DOT, DOT).dice = 1.0  # type: ignore[misc]
    assert {*asdict(compare(DOT, DOT))} == OVERLAP | DISTANCES
    assert isinstance(compare(DOT, DOT), Comparison)


def test_needs_neither_torch_nor_oracles():
    code = (
        "import sys, numpy as np; from sfdabench.evaluate.metrics import compare; "
        "compare(np.eye(9, dtype=bool), np.ones((9, 9), dtype=bool)); "
        "print(sorted({'torch', 'scipy', 'monai', 'medpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
