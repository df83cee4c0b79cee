import dataclasses

import numpy as np
import pytest

from sfdabench.core import registry
from sfdabench.core.dataset import Case, Dataset
from sfdabench.core.errors import DataFault
from sfdabench.core.task import Centre
from sfdabench.prepare.planes import Geometry, cut_planes, fit_label
from sfdabench.prepare.preparation import Preparation

HOW = Preparation(size=8, crop="none", intensity="zscore")


class Volume(Dataset):
    """Four planes of 16x16 in two channels; planes 1 and 2 show an organ of value 3."""

    channels = ("a", "b")
    spacing = (5.0, 0.5, 0.5)

    def read_image(self, case, channels=()):
        image = np.zeros((2, 4, 16, 16), np.float32)
        image[0, 1:] = 100
        image[0, 1:3, 4:12, 4:12] = 300
        image[1] = 7
        wanted = [self.channels.index(name) for name in channels or self.channels]
        return image[wanted], self.spacing

    def read_label(self, case):
        label = np.zeros((4, 16, 16), np.uint8)
        label[1:3, 4:12, 4:12] = 3
        return label


@pytest.fixture
def case(tmp_path):
    return Case("a", "train", (tmp_path / "a.nii",), (tmp_path / "a_seg.nii",))


def cut(case, dataset=None, **changes):
    return cut_planes(dataset or Volume(), case, dataclasses.replace(HOW, **changes))


def test_a_volume_becomes_planes_of_one_size(case):
    planes = cut(case)
    assert planes.images.shape == (4, 2, 8, 8)
    assert planes.images.dtype == np.float16
    assert planes.labels.shape == (4, 8, 8)
    assert planes.original.shape == (4, 16, 16)
    assert planes.geometry == Geometry((4, 16, 16), (0, 0, 16, 16))
    assert planes.spacing == (5.0, 0.5, 0.5)
    assert (planes.labels == planes.original[:, ::2, ::2]).all()


def test_zscore_is_of_each_channel_over_the_volume(case):
    images = cut(case, size=16).images.astype(np.float64)
    assert images[:, 0].mean() == pytest.approx(0, abs=1e-3)
    assert images[:, 0].std() == pytest.approx(1, abs=1e-3)
    assert (images[:, 1] == 0).all()  # constant: no division by zero


def test_nonzero_zscore_leaves_the_background_at_zero(case):
    images = cut(case, size=16, intensity="zscore_nonzero", channels=("a",)).images
    assert images.shape[1] == 1
    assert (images[0] == 0).all()
    inside = images[1:].astype(np.float64)
    assert inside.mean() == pytest.approx(0, abs=1e-3)
    assert inside.std() == pytest.approx(1, abs=1e-3)


def test_plane_zscore_is_of_what_the_crop_shows(case):
    images = cut(case, size=8, crop=Centre(8), intensity="zscore_plane", channels=("a",)).images
    assert (images == 0).all()  # the organ fills the crop


def test_which_planes_are_kept(case):
    assert len(cut(case, channels=("a",), planes="nonzero").images) == 3
    assert len(cut(case, planes="labelled").images) == 2
    assert (cut(case, planes="labelled").labels.max(axis=(1, 2)) == 3).all()


class Rated(Volume):
    """Three raters: all mark plane 1, two plane 2, one plane 3 with another value (2)."""

    def read_raters(self, case):
        maps = np.zeros((3, 4, 16, 16), np.uint8)
        maps[:, 1, 4:12, 4:12] = 3
        maps[1:, 2, 4:8, 4:8] = 3
        maps[2, 3] = 2
        return maps


def test_each_rater_makes_a_plane_of_what_he_marked(case):
    planes = cut(case, Rated(), size=16, planes="labelled", raters="each", values=(3,))
    assert planes.images.shape == (5, 2, 16, 16)
    assert (planes.images[0] == planes.images[1]).all()
    assert (planes.labels == 3).sum(axis=(1, 2)).tolist() == [64, 64, 64, 16, 16]
    assert planes.raters == 3
    every = cut(case, Rated(), planes="labelled", raters="each")
    assert len(every.images) == 6
    assert len(cut(case, Rated(), planes="labelled").images) == 2  # the majority is a choice


def test_larger_files_keep_their_scale_where_that_is_asked_for(case):
    how = dataclasses.replace(HOW, size=64, file_scale=True)
    assert [how.side(side) for side in (300, 512, 800, 1024)] == [64, 64, 100, 128]
    assert dataclasses.replace(how, size=512).side(800) == 800
    assert dataclasses.replace(how, file_scale=False).side(800) == 64


def test_a_case_that_leaves_no_plane_is_a_fault(case):
    class Bare(Volume):
        def read_label(self, case):
            return np.zeros((4, 16, 16), np.uint8)

    with pytest.raises(DataFault, match=r"a\.nii: no plane is left"):
        cut(case, Bare(), planes="labelled")


def test_windows_and_ceilings_clip(case):
    clipped = cut(case, size=16, channels=("a",), window=(0.0, 100.0)).images
    assert len(np.unique(clipped)) == 2
    topped = cut(case, size=16, channels=("a",), ceiling=70.0).images
    assert len(np.unique(topped)) == 2
    assert len(np.unique(cut(case, size=16, channels=("a",)).images)) == 3


def test_a_centre_crop_in_millimetres_follows_the_spacing(case):
    planes = cut(case, crop=Centre(4.0, "mm"))
    assert planes.geometry.box == (4, 4, 8, 8)
    assert (planes.labels[1] == 3).all()


def test_a_crop_in_millimetres_needs_a_spacing(case):
    class Unknown(Volume):
        spacing = None

    with pytest.raises(DataFault, match="spacing is unknown"):
        cut(case, Unknown(), crop=Centre(4.0, "mm"))


def test_a_crop_beyond_the_plane_is_filled_with_the_darkest_value(case):
    planes = cut(case, size=32, crop=Centre(32), channels=("a",))
    assert planes.geometry.box == (-8, -8, 32, 32)
    assert (planes.images[1, 0, :8] == planes.images[0, 0, 0, 0]).all() or (
        planes.images[1, 0, :8] == planes.images[1, 0].min()
    ).all()
    assert planes.labels[1].sum() == 3 * 64
    assert not planes.labels[1, :12].any()


def test_floored_labels_are_eroded_where_the_grid_is_finer():
    label = np.zeros((1, 8, 8), np.uint8)
    label[0, 2:6, 2:6] = 1
    place = Geometry((1, 8, 8), (0, 0, 8, 8))
    whole = fit_label(label, place, 16, floored=False)
    eroded = fit_label(label, place, 16, floored=True)
    assert whole.sum() == 64
    assert eroded.sum() == 36
    assert (whole >= eroded).all()


def test_preparations_follow_the_role():
    task = registry.load("tasks", "chaos2malbcv")
    roles = {
        "source": ("labelled", True, 99.5, None),
        "source test": ("all", True, 99.5, None),
        "target": ("all", False, None, (-125.0, 275.0)),
        "target test": ("all", False, None, (-125.0, 275.0)),
    }
    for role, expected in roles.items():
        domain = task.source[0] if role.startswith("source") else task.target
        how = Preparation.of(task, domain, 64, role)
        assert (how.planes, how.by_label, how.ceiling, how.window) == expected
