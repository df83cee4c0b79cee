import dataclasses

import numpy as np
import pytest

from sfdabench.core.errors import DataFault
from sfdabench.phantoms import fundus
from sfdabench.prepare.disc_region import centre_from_label, crop_box, locate_disc


@pytest.mark.parametrize(
    ("centre", "box"),
    [
        ((50, 60), (30, 40, 40)),
        ((50.4, 60.6), (30, 41, 40)),
        ((0, 0), (0, 0, 40)),
        ((99, 119), (60, 80, 40)),
        ((-30, 500), (0, 80, 40)),
    ],
)
def test_the_box_stays_inside_the_frame(centre, box) -> None:
    assert crop_box(100, 120, centre, 40) == box


def test_a_box_as_large_as_the_frame() -> None:
    assert crop_box(100, 120, (5, 5), 100) == (0, 0, 100)


@pytest.mark.parametrize("side", [101, 0])
def test_a_box_that_cannot_fit(side: int) -> None:
    with pytest.raises(DataFault, match=f"disc crop of {side} px does not fit a frame of 100x120"):
        crop_box(100, 120, (50, 50), side)


def test_the_centre_is_that_of_rim_and_cup() -> None:
    label = np.zeros((30, 40), np.uint8)
    label[10:15, 20:31] = 1
    label[10:12, 20:22] = 2
    assert centre_from_label(label) == (12.0, 25.0)


def test_no_disc_no_centre() -> None:
    with pytest.raises(DataFault, match="no disc"):
        centre_from_label(np.zeros((4, 4), np.uint8))


def hit(camera: fundus.Camera, key: int) -> bool:
    """The located centre lies in the disc."""
    image, label = fundus.frame(camera, "localiser", key)
    row, column = locate_disc(image.transpose(2, 0, 1).astype(np.float32))
    return bool(label[int(row), int(column)])


@pytest.mark.parametrize(
    ("camera", "bound"),
    [(fundus.REFUGE, 0.95), (fundus.RIMONE_R3, 0.9), (fundus.DRISHTI, 0.95)],
    ids=lambda value: getattr(value, "name", value),
)
@pytest.mark.parametrize("pathology", [False, True])
def test_discs_are_found(camera: fundus.Camera, bound: float, pathology: bool) -> None:
    if pathology:
        camera = dataclasses.replace(camera, exudates=1.0, haemorrhages=1.0, atrophy=1.0)
    assert np.mean([hit(camera, i) for i in range(24)]) >= bound


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 301, 517), (3, 900, 700)])
def test_any_frame_gives_a_point_inside_it(shape) -> None:
    image = np.random.default_rng(0).uniform(0, 255, shape).astype(np.float32)
    for frame in (image, np.zeros(shape, np.float32)):
        row, column = locate_disc(frame)
        assert 0 <= row < shape[1]
        assert 0 <= column < shape[2]
