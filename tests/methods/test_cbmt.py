"""CBMT's arithmetic, checked by hand and by integrals (methods-fundus.md §6 and fact 4)."""

import math

import numpy as np
import pytest
import torch

from sfdabench.checks.toy import Toy, attempt
from sfdabench.core.errors import BadInput
from sfdabench.methods.cbmt import CBMT

# Paper, Table 3. alpha = 0 keeps saturated pixels and depends on the data.
TABLE_3 = [0.24, 0.24, 0.24, 0.24, 0.24, 0.23, 0.23, 0.22, 0.22]


def weight(method, *probabilities):
    maps = torch.tensor(probabilities, dtype=torch.float64).view(1, 1, -1)
    return method.background_weight(method.statistics(maps))


@pytest.mark.parametrize(
    ("alpha", "published"), list(zip(np.arange(1, 10) / 10, TABLE_3, strict=True))
)
def test_a_flat_density_gives_table_3(alpha, published):
    grid = (np.arange(200_000) + 0.5) / 200_000
    measured = weight(CBMT(alpha=float(alpha)), *grid)
    assert measured == pytest.approx(published, abs=0.015)


def test_weight_is_the_ratio_of_mean_losses_inside_the_bands():
    # gamma .75, alpha .2: foreground in (.75, .95), background in (.15, .75).
    inside = [0.8, 0.9, 0.2, 0.5]
    outside = [0.99, 0.01, 0.1, 0.96]
    expected = (-math.log(0.8) - math.log(0.9)) / (-math.log(0.8) - math.log(0.5))
    assert weight(CBMT(), *inside, *outside) == pytest.approx(expected)


def test_alpha_zero_keeps_saturated_pixels():
    saturated = [0.001] * 1000 + [0.8, 0.5]
    assert weight(CBMT(alpha=0.0), *saturated) > 1
    assert weight(CBMT(), *saturated) < 1


def test_pixel_count_calibration_is_the_ratio_of_counts():
    assert weight(CBMT(calibration="pixels"), 0.9, 0.99, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6) == 2 / 6


def test_constant_and_none():
    assert weight(CBMT(calibration="constant"), 0.9, 0.1) == 0.25
    assert weight(CBMT(calibration="none"), 0.9, 0.1) == 1.0


@pytest.mark.parametrize("probabilities", [(0.2, 0.3), (0.8, 0.9), (0.001, 0.999)])
def test_an_empty_band_leaves_the_loss_uncalibrated(probabilities):
    assert weight(CBMT(), *probabilities) == 1.0


def test_a_class_that_is_not_there_is_named():
    with pytest.raises(BadInput, match="calibrated_class=iris: unknown class of this task"):
        CBMT(calibrated_class="iris").check_classes(("cup", "disc"))
    CBMT(calibrated_class="disc").check_classes(("cup", "disc"))


def test_without_calibration_it_is_the_mean_teacher(tmp_path):
    """The same steps in another file: the two must agree to rounding."""
    from sfdabench.methods.mean_teacher import MeanTeacher

    shared = {"epochs": 2, "batch_size": 4}
    one = attempt(CBMT(calibration="none", **shared), Toy(), tmp_path / "a").deployed
    other = attempt(MeanTeacher(**shared), Toy(), tmp_path / "b").deployed
    for name, value in one.state_dict().items():
        assert torch.allclose(value.float(), other.state_dict()[name].float(), atol=1e-5), name


def test_calibration_grows_the_calibrated_class(tmp_path):
    """Down-weighted background: more cup than without (the toy's first class)."""
    from sfdabench.checks.toy import draw

    images, _ = draw(Toy(), "target", 9, foreground=True)
    batch = torch.from_numpy(images).float() / 127.5 - 1
    areas = {}
    for calibration in ("none", "constant"):
        # A tiny weight and a teacher that follows at once, so that few steps show the direction.
        quick = {"epochs": 6, "batch_size": 4, "learning_rate": 5e-3, "ema": 0.5}
        method = CBMT(calibration=calibration, constant_weight=0.02, **quick)
        model = attempt(method, Toy(), tmp_path / calibration).deployed.eval()
        with torch.no_grad():
            areas[calibration] = model(batch).sigmoid()[:, 0].mean().item()
    assert areas["constant"] > 1.02 * areas["none"], areas
