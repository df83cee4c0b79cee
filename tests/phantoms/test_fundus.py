import numpy as np
import pytest

from sfdabench.phantoms import fundus

CAMERAS = [fundus.REFUGE, fundus.RIMONE_R3, fundus.RIMONE_DL, fundus.DRISHTI]
each = pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.name)


@each
def test_a_frame(camera: fundus.Camera) -> None:
    for i in range(5):
        image, label = fundus.frame(camera, 0, i)
        assert image.shape == (*camera.size, 3)
        assert image.dtype == label.dtype == np.uint8
        assert label.shape == camera.size
        assert set(np.unique(label)) == {0, 1, 2}
        assert image.mean(axis=(0, 1)).argmax() == 0  # a retina is red


@each
def test_the_cup_lies_inside_the_disc(camera: fundus.Camera) -> None:
    for i in range(5):
        _, label = fundus.frame(camera, 1, i)
        cup = label == fundus.CUP
        near = np.zeros_like(cup)
        for axis in (0, 1):
            for step in (-1, 1):
                near |= np.roll(cup, step, axis)
        assert not (near & (label == 0)).any()


@each
def test_a_disc_is_brighter_than_its_surroundings(camera: fundus.Camera) -> None:
    for i in range(5):
        image, label = fundus.frame(camera, 2, i)
        assert image[label > 0].mean() > image[label == 0].mean()


@each
def test_the_key_decides(camera: fundus.Camera) -> None:
    first, again, other = (fundus.frame(camera, 5, i) for i in (0, 0, 1))
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[0], other[0])


def test_priors_differ_between_cameras() -> None:
    share = {}
    for camera in CAMERAS:
        labels = [fundus.frame(camera, 3, i)[1] for i in range(12)]
        share[camera.name] = np.mean([(x == 2).sum() / (x > 0).sum() for x in labels])
    assert share["refuge"] < min(share["rimone_r3"], share["drishti"])
