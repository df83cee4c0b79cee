import numpy as np
import pytest
from scipy.ndimage import binary_dilation, binary_erosion
from threadpoolctl import threadpool_limits

from sfdabench.phantoms import brain

SHAPE, SPACING = (20, 72, 72), (7.0, 2.75, 2.75)
T1, T1CE, T2, FLAIR = range(4)
each = pytest.mark.parametrize("grade", ["HGG", "LGG"])


def draw(grade, *key):
    return brain.patient(grade, SHAPE, *key, spacing=SPACING)


@pytest.fixture(scope="module")
def patients():
    return {grade: [draw(grade, 0, i) for i in range(12)] for grade in ("HGG", "LGG")}


@each
def test_a_patient(grade, patients):
    for images, label in patients[grade]:
        assert images.shape == (4, *SHAPE)
        assert images.dtype == np.float32
        assert label.shape == SHAPE
        assert label.dtype == np.uint8
        assert {1, 2} <= set(np.unique(label)) <= {0, 1, 2, 4}


@each
def test_the_background_is_zero_in_all_modalities(grade, patients):
    for images, label in patients[grade]:
        head = images[0] > 0
        assert all(np.array_equal(image > 0, head) for image in images)
        assert 0.15 < head.mean() < 0.5
        assert not head[:, [0, -1]].any()
        assert not head[:, :, [0, -1]].any()
        assert not (label[~head]).any()


def ratio(image, label, value, other):
    return np.median(image[label == value]) / np.median(image[other])


def test_contrasts_of_high_grade(patients):
    for images, label in patients["HGG"]:
        sound = (images[0] > 0) & (label == 0)
        assert ratio(images[T1], label, 2, sound) < 0.9
        assert ratio(images[T2], label, 2, sound) > 1.2
        assert ratio(images[FLAIR], label, 2, sound) > 1.3
        assert ratio(images[T1CE], label, 4, sound) > 1.05
        assert ratio(images[T1CE], label, 1, sound) < 0.8
        assert ratio(images[T1CE], label, 4, label == 1) > 1.4


def test_fluid_is_bright_in_t2_and_dark_elsewhere():
    images, label = brain.patient("LGG", (20, 72, 72), 8, 1, spacing=SPACING)
    free = binary_erosion(images[0] > 0, iterations=2) & ~binary_dilation(label > 0, iterations=3)
    fluid = free & (images[T2] > 1.6 * np.median(images[T2][free]))
    assert fluid.sum() > 50
    for channel in (T1, T1CE, FLAIR):
        assert np.median(images[channel][fluid]) < 0.8 * np.median(images[channel][free])


def test_grades_differ(patients):
    values = {
        grade: [np.bincount(label.ravel(), minlength=5) for _, label in drawn]
        for grade, drawn in patients.items()
    }
    assert all(count[4] > 0 for count in values["HGG"])
    without = [count[4] == 0 for count in values["LGG"]]
    assert any(without)
    assert not all(without)
    oedema = {g: np.median([c[2] / (c[1] + c[2] + c[4]) for c in values[g]]) for g in values}
    assert oedema["HGG"] > oedema["LGG"] + 0.2
    core = {g: np.median([c[1] for c in values[g]]) for g in values}
    assert core["LGG"] > 1.5 * core["HGG"]
    place = {
        grade: np.mean([np.argwhere(label > 0)[:, 1].mean() for _, label in drawn])
        for grade, drawn in patients.items()
    }
    assert place["LGG"] < place["HGG"] - 8  # towards the forehead


def test_necrosis_lies_in_the_rim(patients):
    plane = np.ones((1, 3, 3), bool)
    for _, label in patients["HGG"]:
        bare = binary_dilation(label == 1, plane) & (label == 2)
        assert bare.sum() < 0.2 * (label == 1).sum()


@each
def test_the_key_decides(grade):
    first, again, other = draw(grade, 5, 0), draw(grade, 5, 0), draw(grade, 5, 1)
    assert np.array_equal(first[0], again[0])
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


def test_voxels_do_not_change_the_head():
    """The same key on a finer grid is the same patient."""
    step = (3.5, 11 / 6, 11 / 6)
    images, fine = brain.patient("HGG", (40, 108, 108), 1, 2, spacing=step)
    _, coarse = draw("HGG", 1, 2)
    assert images.shape == (4, 40, 108, 108)
    volume = np.prod(step) * (fine > 0).sum()
    assert volume == pytest.approx(np.prod(SPACING) * (coarse > 0).sum(), rel=0.1)


def test_the_threads_of_blas_do_not_matter() -> None:
    """They add up in another order, and a network makes another model of the last digit."""
    drawn = []
    for count in (1, 2):
        with threadpool_limits(count, "blas"):
            drawn += [brain.patient("HGG", (20, 72, 72), 0, i, spacing=(7, 2.75, 2.75))[0]
                      for i in range(4)]  # fmt: skip
    for one, two in zip(drawn[:4], drawn[4:], strict=True):
        assert np.array_equal(one, two)
