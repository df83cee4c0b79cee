import nibabel
import numpy as np
import pytest
from PIL import Image

from sfdabench.core.errors import BadInput
from sfdabench.evaluate.saved import parse_classes, score_saved


def png(path, array):
    Image.fromarray(np.asarray(array, np.uint8)).save(path)
    return path


def nifti(path, array, spacing=(1.0, 1.0, 1.0)):
    nibabel.save(nibabel.Nifti1Image(np.asarray(array, np.uint8), np.diag([*spacing, 1])), path)
    return path


@pytest.fixture
def square():
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 5:15] = 255
    return mask


def test_a_png_pair(tmp_path, square):
    shifted = np.roll(square, 2, axis=0)
    rows = score_saved(png(tmp_path / "p.png", shifted), png(tmp_path / "r.png", square), "strict")
    assert len(rows) == 1
    assert rows[0]["label"] == "255"
    assert rows[0]["dice"] == pytest.approx(0.8)
    assert rows[0]["hd"] == 2.0


def test_nifti_distances_are_in_millimetres(tmp_path):
    volume = np.zeros((10, 10, 10))
    volume[2:6, 2:6, 2:6] = 1
    moved = np.roll(volume, 2, axis=2)
    p = nifti(tmp_path / "p.nii.gz", moved, (1, 1, 5))
    r = nifti(tmp_path / "r.nii.gz", volume, (1, 1, 5))
    assert score_saved(p, r, "strict")[0]["hd"] == 10.0


def test_folders_pair_by_name_and_classes_may_nest(tmp_path):
    label = np.full((20, 20), 255)
    label[5:15, 5:15] = 128
    label[8:12, 8:12] = 0
    for folder in ("p", "r"):
        (tmp_path / folder).mkdir()
        png(tmp_path / folder / "a.png", label)
    rows = score_saved(
        tmp_path / "p", tmp_path / "r", "strict", parse_classes(["cup=0", "disc=0,128"])
    )
    assert [(row["case"], row["label"], row["dice"]) for row in rows] == [
        ("a.png", "cup", 1.0),
        ("a.png", "disc", 1.0),
    ]


def test_undefined_metrics_are_named(tmp_path, square):
    empty = png(tmp_path / "p.png", square * 0)
    row = score_saved(empty, png(tmp_path / "r.png", square), "strict")[0]
    assert row["dice"] == 0
    assert {"hd", "assd"} <= set(row["undefined"])


def test_bad_pairs_are_named(tmp_path, square):
    good = png(tmp_path / "good.png", square)
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:40])
    (tmp_path / "mask.jpg").write_text("")
    png(tmp_path / "small.png", square[:10])
    png(tmp_path / "other.png", square // 255)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)).save(
        tmp_path / "colour.png"
    )
    nifti(tmp_path / "p.nii.gz", np.ones((4, 4, 4)), (1, 1, 2))
    nifti(tmp_path / "r.nii.gz", np.ones((4, 4, 4)), (1, 1, 3))
    nibabel.save(nibabel.Nifti1Image(np.full((4, 4, 4), 0.5), np.eye(4)), tmp_path / "f.nii.gz")
    for p, r, message in [
        ("absent.png", "good.png", r"--prediction .*absent\.png: no such file"),
        ("text.png", "good.png", r"text\.png: not a whole PNG"),
        ("cut.png", "good.png", r"cut\.png: not a whole PNG"),
        ("mask.jpg", "good.png", r"mask\.jpg: masks are read from"),
        ("small.png", "good.png", r"small\.png: shape \(10, 20\)"),
        ("other.png", "good.png", r"holds values \[1\] that no reference holds"),
        ("colour.png", "good.png", r"colour\.png: a colour image"),
        ("p.nii.gz", "r.nii.gz", r"p\.nii\.gz: its affine differs"),
        ("f.nii.gz", "r.nii.gz", r"f\.nii\.gz: holds values that are no whole numbers"),
    ]:
        with pytest.raises(BadInput, match=message):
            score_saved(tmp_path / p, tmp_path / r, "strict")


def test_a_missing_prediction_in_a_folder_is_an_error(tmp_path, square):
    for folder, names in (("p", "a"), ("r", "ab")):
        (tmp_path / folder).mkdir()
        for name in names:
            png(tmp_path / folder / f"{name}.png", square)
    with pytest.raises(BadInput, match=r"1 reference\(s\) without a prediction \['b.png'\]"):
        score_saved(tmp_path / "p", tmp_path / "r", "strict")


def test_class_texts_are_checked():
    assert parse_classes(["disc=0,128"]) == {"disc": (0, 128)}
    for text in ("disc", "=1", "disc=x"):
        with pytest.raises(BadInput, match="--class"):
            parse_classes([text])
