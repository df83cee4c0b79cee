"""A data set of two small frames, and their prepared arrays."""

import numpy as np
import pytest

from sfdabench.core.dataset import Case
from sfdabench.datasets.drishti import Drishti
from sfdabench.prepare.arrays import prepare
from sfdabench.prepare.preparation import Preparation


class Fake(Drishti):
    """Two 40x40 frames whose pixels say where they are; the disc is off centre."""

    frame_crop = 0.5

    def read_image(self, case, channels=()):
        image = np.zeros((3, 40, 40), np.float32)
        image[0] = np.arange(40)[:, None]
        image[1] = np.arange(40)[None]
        return image, None

    def read_label(self, case):
        label = np.zeros((40, 40), np.uint8)
        label[20:30, 8:18] = 1
        label[23:27, 11:15] = 2
        return label


@pytest.fixture
def fake():
    """The data set, a class whose methods a test may replace."""
    return Fake


@pytest.fixture
def cases(tmp_path):
    files = []
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
        (tmp_path / f"{name}_mask.png").write_bytes(b"mask")
        files.append(
            Case(name, "train", (tmp_path / f"{name}.png",), (tmp_path / f"{name}_mask.png",))
        )
    return files


@pytest.fixture
def make(fake, tmp_path):
    """make(cases, said, name=value): their arrays, from the cache of this test."""

    def call(cases, said=None, *, content="c", code=None, advance=lambda done, total: None, **how):
        usual = {"size": 20, "crop": "disc", "intensity": "symmetric", "by_label": True}
        return prepare(
            fake(),
            "fake",
            cases,
            Preparation(**usual | how),
            content=content,
            code=code or {},
            cache=tmp_path / "cache",
            report=([] if said is None else said).append,
            advance=advance,
        )

    return call
