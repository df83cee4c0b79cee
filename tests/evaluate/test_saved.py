from dataclasses import replace

import nibabel
import numpy as np
import pytest
from PIL import Image

from sfdabench.core.errors import BadInput
from sfdabench.evaluate import saved
from sfdabench.evaluate.protocols.strict import STRICT
from sfdabench.evaluate.saved import parse_classes, read_mask, score_saved
from sfdabench.evaluate.score import Tally


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
        (
            "text.png",
            "good.png",
            r"text\.png: not an image, whatever its name says; save this mask anew$",
        ),
        ("cut.png", "good.png", r"cut\.png: not an image"),
        ("mask.jpg", "good.png", r"mask\.jpg: masks are read from"),
        ("small.png", "good.png", r"small\.png: shape \(10, 20\)"),
        ("other.png", "good.png", r"holds values \[1\] that no reference holds"),
        ("colour.png", "good.png", r"colour\.png: a colour image"),
        ("p.nii.gz", "r.nii.gz", r"p\.nii\.gz: its affine differs"),
        ("f.nii.gz", "f.nii.gz", r"f\.nii\.gz: holds values that are no whole numbers"),
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
    with pytest.raises(BadInput, match=r"liver=6: liver is given twice.* liver=1,6$"):
        parse_classes(["liver=1", "liver=6"])


def test_damaged_nifti_files_are_named(tmp_path):
    rng = np.random.default_rng(0)
    good = nifti(tmp_path / "r.nii.gz", rng.integers(0, 2, (12, 12, 12)))
    data = good.read_bytes()
    for i in range(len(data) // 2, len(data), 7):  # zlib's errors among them, and the check sum's
        (tmp_path / "p.nii.gz").write_bytes(data[:i] + bytes([data[i] ^ 255]) + data[i + 1 :])
        with pytest.raises(BadInput, match=r"p\.nii\.gz: not a whole NIfTI"):
            score_saved(tmp_path / "p.nii.gz", good, "strict")
    header = bytearray(nifti(tmp_path / "r.nii", np.ones((4, 4, 4))).read_bytes())
    header[70] = 99  # a type of voxel that there is not
    (tmp_path / "p.nii").write_bytes(header)
    with pytest.raises(BadInput, match=r"p\.nii: not a whole NIfTI"):
        score_saved(tmp_path / "p.nii", tmp_path / "r.nii", "strict")
    huge = np.eye(4)
    huge[1, 0] = 1e20  # beside it the second axis has no length
    path = tmp_path / "nowhere.nii"
    for affine in (np.zeros((4, 4)), np.full((4, 4), np.nan), huge):
        image = nibabel.Nifti1Image(np.ones((4, 4, 4), np.uint8), None)
        image.header.set_sform(affine, code=1)
        image.to_filename(path)
        with pytest.raises(BadInput, match="its affine places the voxels nowhere"):
            score_saved(path, path, "strict")


def test_a_mask_has_two_or_three_axes(tmp_path):
    volume = np.zeros((6, 6, 6))
    volume[1:4, 1:4, 1:4] = 1
    r = nifti(tmp_path / "r.nii.gz", volume)
    p = nifti(tmp_path / "p.nii.gz", volume[..., None, None])
    assert score_saved(p, r, "strict")[0]["dice"] == 1
    plane = nifti(tmp_path / "plane.nii.gz", volume[1], (2.0, 3.0, 1.0))
    moved = nifti(tmp_path / "moved.nii.gz", np.roll(volume[1], 1, axis=1), (2.0, 3.0, 1.0))
    assert score_saved(moved, plane, "strict")[0]["hd"] == 3
    with pytest.raises(BadInput, match=r"p\.nii\.gz: shape \(6, 6, 6, 2\); a mask has 2 or 3 axes"):
        score_saved(nifti(tmp_path / "p.nii.gz", np.stack([volume, volume], -1)), r, "strict")


def test_a_grey_png_may_have_alpha_or_one_bit(tmp_path, square):
    r = png(tmp_path / "r.png", square)
    grey = Image.fromarray(square)
    grey.putalpha(Image.fromarray(255 - square))
    assert grey.mode == "LA"
    grey.save(tmp_path / "la.png")
    assert score_saved(tmp_path / "la.png", r, "strict")[0]["dice"] == 1
    Image.fromarray(square).convert("1").save(tmp_path / "bit.png")
    (row,) = score_saved(tmp_path / "bit.png", tmp_path / "bit.png", "strict")
    assert (row["label"], row["dice"]) == ("255", 1)


def test_masks_keep_the_type_of_their_file(tmp_path, square):
    nifti(tmp_path / "a.nii.gz", np.ones((4, 4, 4)))
    for path in (tmp_path / "a.nii.gz", png(tmp_path / "a.png", square)):
        assert read_mask(path)[0].dtype == np.uint8


@pytest.fixture
def three(tmp_path):
    """Two folders of three volumes of ones."""
    for folder in ("p", "r"):
        (tmp_path / folder).mkdir()
        for name in "abc":
            nifti(tmp_path / folder / f"{name}.nii.gz", np.ones((4, 4, 4)))
    return tmp_path


def test_pairs_are_read_one_by_one_when_all_headers_match(three, monkeypatch):
    events = []

    def read(path, *, header=False):
        events.append(("header " if header else "") + f"{path.parent.name}/{path.name[0]}")
        return read_mask(path, header=header)

    class Watched(Tally):
        def add(self, case, *arguments):
            events.append(f"score {case[0]}")
            super().add(case, *arguments)

    monkeypatch.setattr(saved, "read_mask", read)
    monkeypatch.setattr(saved, "Tally", Watched)
    rows = score_saved(three / "p", three / "r", "strict", {"one": (1,)})
    assert [row["dice"] for row in rows] == [1, 1, 1]
    headers = [f"header {folder}/{name}" for name in "abc" for folder in "pr"]
    assert events == headers + [f"{e}{n}" for n in "abc" for e in ("p/", "r/", "score ")]

    events.clear()
    nifti(three / "p" / "c.nii.gz", np.ones((4, 4, 5)))
    with pytest.raises(BadInput, match=r"c\.nii\.gz: shape \(4, 4, 5\)"):
        score_saved(three / "p", three / "r", "strict", {"one": (1,)})
    assert events == headers


def test_a_folder_of_folders_names_those_with_masks(three):
    for flag, p, r in (("prediction", three, three / "r"), ("reference", three / "p", three)):
        inner = f"masks are in {three / 'p'}, {three / 'r'}: score one at a time"
        with pytest.raises(BadInput, match=rf"--{flag} {three}: no mask .*; {inner}"):
            score_saved(p, r, "strict")
    (three / "none").mkdir()
    with pytest.raises(BadInput, match=r"none: no mask \(.*\) there$"):
        score_saved(three / "none", three / "r", "strict")


@pytest.mark.parametrize(
    ("protocol", "reason"),
    [
        ("cbmt", "it scores on the network's grid and its threshold is not the 0.5"),
        ("dpl", "its network predicts in train mode"),
        (
            "beal",
            "its threshold is not the 0.5 of saved masks and it cleans up each class's planes",
        ),
        ("sifa", "it scores on the network's grid;"),
        ("self_ensembling", "it scores against each rater"),
        ("self_ensembling_legacy", "it reproduces defects of a code"),
    ],
)
def test_protocols_of_more_than_masks_are_refused(sfdabench, three, protocol, reason):
    flags = ("--prediction", three / "p", "--reference", three / "r", "--protocol", protocol)
    code, out, err = sfdabench("score", *flags)
    assert (code, out) == (2, "")
    assert f"--protocol {protocol}: saved masks cannot be scored by it, since " in err
    assert reason in err
    assert err.endswith("here take --protocol strict\n")


def test_clean_up_of_masks_is_refused(three, monkeypatch):
    rule = replace(STRICT, postprocess=("fill_holes",))
    monkeypatch.setattr(saved.registry, "load", lambda *_: rule)
    with pytest.raises(BadInput, match="it cleans up each class's planes; "):
        score_saved(three / "p", three / "r", "mine")


def test_a_protocol_of_slices_scores_axial_planes_as_a_run_does(tmp_path, monkeypatch):
    """Whatever axis of the file they lie along; planes with an empty reference are left out."""
    truth = np.zeros((5, 6, 4))  # file axes S, L, P
    truth[1, 1:5, 1:3] = 1
    truth[3, 1:5, 1:3] = 1
    shown = truth.copy()
    shown[3, 1:3] = 0  # half of it: Dice 2/3
    shown[4] = 1
    affine = np.array([[0, -2, 0, 0], [0, 0, -3, 0], [5, 0, 0, 0], [0, 0, 0, 1]], float)
    for name, array in (("p", shown), ("r", truth)):
        image = nibabel.Nifti1Image(array.astype(np.uint8), affine)
        nibabel.save(image, tmp_path / f"{name}.nii")
    rule = replace(STRICT, unit="slice", skip_empty=True, metrics=("dice", "hd"))
    monkeypatch.setattr(saved.registry, "load", lambda *_: rule)
    rows = score_saved(tmp_path / "p.nii", tmp_path / "r.nii", "mine")
    assert [(row["case"], row["hd"]) for row in rows] == [("r.nii/1", 0.0), ("r.nii/3", 4.0)]
    assert [row["dice"] for row in rows] == [1, pytest.approx(2 / 3)]
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.uint8), affine), tmp_path / "r.nii")
    with pytest.raises(BadInput, match="mine leaves out empty masks, and all are"):
        score_saved(tmp_path / "r.nii", tmp_path / "r.nii", "mine", {"one": (1,)})


@pytest.mark.parametrize("shape", [(40, 36, 1), (1, 40, 36), (40, 36, 1, 1)])
def test_a_plane_that_is_saved_as_a_volume_scores_as_a_plane(tmp_path, shape):
    mask = np.zeros((40, 36), np.uint8)
    mask[8:20, 8:20] = 1
    moved = np.roll(mask, 2, axis=0)
    paths = [tmp_path / name for name in ("p.nii.gz", "r.nii.gz")]
    for path, array in zip(paths, (moved, mask), strict=True):
        nibabel.save(nibabel.Nifti1Image(array.reshape(shape), np.eye(4)), path)
    flat = score_saved(png(tmp_path / "p.png", moved), png(tmp_path / "r.png", mask), "strict")
    (row,) = score_saved(*paths, "strict")
    assert row["assd"] == pytest.approx(flat[0]["assd"])
    assert row["assd"] == pytest.approx(1.0)


def test_headers_that_differ_by_rounding_are_one_grid(tmp_path):
    volume = np.zeros((10, 10, 10))
    volume[2:6, 2:6, 2:6] = 1
    reference = nifti(tmp_path / "r.nii.gz", volume)
    for shift, fits in ((0.001, True), (0.2, False)):
        affine = np.eye(4)
        affine[0, 3] = shift
        path = tmp_path / "p.nii.gz"
        nibabel.save(nibabel.Nifti1Image(volume.astype(np.uint8), affine), path)
        if fits:
            assert score_saved(path, reference, "strict")[0]["dice"] == 1
        else:
            with pytest.raises(BadInput, match="affine differs"):
                score_saved(path, reference, "strict")


def test_a_palette_and_a_1_bit_mask_are_what_they_show(tmp_path):
    grey = np.full((20, 20), 255, np.uint8)
    grey[5:15, 5:15] = 128
    grey[8:12, 8:12] = 0
    palette = Image.fromarray(np.searchsorted([0, 128, 255], grey).astype(np.uint8))
    palette.putpalette([0, 0, 0, 128, 128, 128, 255, 255, 255])
    palette.save(tmp_path / "palette.png")
    classes = parse_classes(["cup=0", "disc=0,128"])
    reference = png(tmp_path / "grey.png", grey)
    rows = score_saved(tmp_path / "palette.png", reference, "strict", classes)
    assert [row["dice"] for row in rows] == [1, 1]
    Image.fromarray(grey == 0).save(tmp_path / "bit.png")
    cup = png(tmp_path / "cup.png", np.where(grey == 0, 255, 0))
    assert score_saved(tmp_path / "bit.png", cup, "strict")[0]["dice"] == 1


def test_hidden_files_are_no_masks(tmp_path, square):
    for folder in ("p", "r"):
        (tmp_path / folder).mkdir()
        png(tmp_path / folder / "a.png", square)
    (tmp_path / "p" / "._a.png").write_bytes(b"Mac OS X")
    (row,) = score_saved(tmp_path / "p", tmp_path / "r", "strict")
    assert row["case"] == "a.png"


def test_a_mask_that_claims_too_many_pixels_is_named(tmp_path, square):
    Image.new("L", (14000, 14000)).save(tmp_path / "big.png")
    with pytest.raises(BadInput, match=r"big.png: claims more pixels"):
        score_saved(tmp_path / "big.png", png(tmp_path / "r.png", square), "strict")


def test_a_mask_is_turned_as_its_exif_entry_says(tmp_path, square):
    square[5:8] = 0  # not the same upside down
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(square).rotate(180).save(tmp_path / "p.png", exif=exif)
    row = score_saved(tmp_path / "p.png", png(tmp_path / "r.png", square), "strict")[0]
    assert row["dice"] == 1


def test_a_picture_of_fractions_is_no_mask(tmp_path, square):
    Image.fromarray(np.full((20, 20), np.nan, np.float32)).save(tmp_path / "nan.tif")
    (tmp_path / "nan.tif").rename(tmp_path / "nan.png")
    with pytest.raises(BadInput, match=r"nan.png: pixels of mode F; a mask has whole grey values"):
        score_saved(tmp_path / "nan.png", png(tmp_path / "r.png", square), "strict")


def test_16_bit_masks_are_read(tmp_path, square):
    deep = square.astype(np.uint16) * 4
    Image.fromarray(deep).save(tmp_path / "a.png")
    assert score_saved(tmp_path / "a.png", tmp_path / "a.png", "strict")[0]["label"] == "1020"


def test_a_class_that_no_mask_holds_is_refused(tmp_path, square):
    """Dice 1.0 for a class that is nowhere would be a typing error that scores."""
    mask = png(tmp_path / "a.png", square)
    with pytest.raises(BadInput, match=r"--class x=7: no mask holds 7; they hold 0, 255"):
        score_saved(mask, mask, "strict", parse_classes(["all=255", "x=7"]))
    empty = png(tmp_path / "b.png", square * 0)
    assert score_saved(mask, empty, "strict", {"all": (255,)})[0]["dice"] == 0


@pytest.mark.parametrize("value", ["-1", "10000000000000000000", "4294967296"])
def test_a_value_that_no_file_can_hold_is_refused(value):
    with pytest.raises(BadInput, match=rf"--class x={value}: .* from 0 to 4294967295"):
        parse_classes([f"x={value}"])
