"""`sfdabench adapt`: a source model, a folder of images, and nothing else."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sfdabench.core import registry
from sfdabench.core.paths import cache_root
from sfdabench.models.weights import read, sha256, to_bytes
from sfdabench.networks.unet_small import UNetSmall

FIELDS = ["--source-set", "width=4", "--source-set", "depth=2", "--source-set", "size=32"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SFDABENCH_CACHE", str(tmp_path / "cache"))
    return cache_root()


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    network = UNetSmall(width=4, depth=2).build(channels=3, outputs=2)
    path.write_bytes(to_bytes(network.state_dict()))
    return path


@pytest.fixture
def images(tmp_path):
    """Square photographs in two folders, none with a label."""
    folder = tmp_path / "mine"
    rng = np.random.default_rng(0)
    for name in ("a/1.png", "a/2.jpg", "b/1.png", "._x.png", "notes.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            (folder / name).write_text("hello")
        elif "._" in name:
            (folder / name).write_bytes(b"no image")
        else:
            pixels = rng.integers(0, 255, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
    return folder


@pytest.fixture
def adapt(sfdabench, weights, images, tmp_path, cache):
    def call(*more, source=weights, method="adabn", out=None, fields=FIELDS):
        return sfdabench(
            *("adapt", "--source", source, "--images", images, "--method", method),
            *("--out", out or tmp_path / "out", "--device", "cpu", *fields, *more),
        )

    return call


FILE = ["--task", "tiny", "--network", "unet_small", "--profile", "phantom"]


def test_masks_model_and_description(adapt, weights, tmp_path):
    code, stdout, err = adapt(*FILE)
    assert code == 0, err
    out = tmp_path / "out"
    masks = sorted(p.relative_to(out / "masks").as_posix() for p in out.rglob("masks/**/*.png"))
    assert masks == [f"{c}/{n}.png" for c in ("cup", "disc") for n in ("a_1", "a_2", "b_1")]
    mask = np.asarray(Image.open(out / "masks" / "cup" / "a_1.png"))
    assert mask.shape == (48, 48)
    assert set(np.unique(mask)) <= {0, 255}
    about = json.loads((out / "adapted.json").read_text())
    assert about["images"] == 3
    assert about["classes"] == {"cup": 255, "disc": 255}
    assert sha256(read(out / "model.safetensors")) == about["sha256"]
    assert about["sha256"] != sha256(read(weights))
    assert "6 masks" in stdout
    code, _, err = adapt(*FILE)
    assert (code, "holds an adapted model already" in err) == (2, True)


def test_images_that_are_not_read_are_named(adapt, images):
    (images / "a" / "3.png.part").write_bytes(b"x")
    code, _, err = adapt(*FILE)
    assert code == 0, err
    assert f"{images / 'a'}: not read, since no such name is looked for: 3.png.part" in err


def test_a_class_that_no_pixel_was_given_to_is_said(adapt, weights, tmp_path):
    state = read(weights)
    state["classifier.bias"] = torch.tensor([-100.0, 0.0])  # the logits of the cup
    (tmp_path / "blind.safetensors").write_bytes(to_bytes(state))
    code, stdout, err = adapt(*FILE, source=tmp_path / "blind.safetensors", method="source_only")
    assert code == 0, err
    assert "no cup in 3 of the images: a_1, a_2, b_1" in stdout
    about = json.loads((tmp_path / "out" / "adapted.json").read_text())
    assert about["empty"]["cup"] == ["a_1", "a_2", "b_1"]
    blank = {
        p.stem for p in (tmp_path / "out").glob("masks/disc/*.png") if not np.any(Image.open(p))
    }
    assert set(about["empty"]["disc"]) == blank


def test_by_the_name_of_an_imported_model_it_is_the_same(adapt, tmp_path, weights, sfdabench):
    assert adapt(*FILE, out=tmp_path / "one")[0] == 0
    assert sfdabench("source", "import", weights, *FILE, *FIELDS, "--name", "mine")[0] == 0
    code, _, err = adapt("--profile", "phantom", source="mine", out=tmp_path / "two", fields=())
    assert code == 0, err
    one, two = (tmp_path / n / "model.safetensors" for n in ("one", "two"))
    assert sha256(read(one)) == sha256(read(two))


def test_an_online_method_keeps_what_it_predicted(adapt, tmp_path):
    code, _, err = adapt(*FILE, method="tent_online")
    assert code == 0, err
    assert len(list((tmp_path / "out").rglob("*.png"))) == 6


@pytest.mark.parametrize(
    ("more", "changes", "message"),
    [
        ([], {}, "say with --task"),
        (FILE, {"method": "self_ensembling"}, "self_ensembling: needs source data"),
        (FILE, {"method": "supervised"}, "supervised: needs labels"),
        (FILE, {"method": "apl"}, "apl is defined for softmax heads"),
        (FILE, {"source": "nothing.pth"}, "nothing.pth: no such file"),
        (["--profile", "phantom"], {"source": "nothing", "fields": ()}, "unknown source model"),
        ([*FILE[:4], "--profile", "big"], {}, "--profile big"),
    ],
)
def test_bad_flags_are_named_before_anything_is_made(more, changes, message, adapt, tmp_path):
    code, _, err = adapt(*more, **changes)
    assert (code, message in err) == (2, True), err
    assert not (tmp_path / "out").exists()


def test_bad_folders(adapt, images, tmp_path):
    (images / "scan.nii.gz").write_bytes(b"x")
    code, _, err = adapt(*FILE)
    assert (code, "photographs and volumes" in err) == (2, True), err
    (images / "scan.nii.gz").unlink()
    (images / "a" / "1.jpg").write_bytes((images / "a" / "2.jpg").read_bytes())
    code, _, err = adapt(*FILE)
    assert (code, "would be saved under the name of" in err) == (2, True), err
    shutil.rmtree(images / "a")
    (images / "b" / "1.png").write_bytes(b"broken")
    code, _, err = adapt(*FILE)
    assert (code, "1.png" in err) == (2, True), err


def test_volumes_of_a_task_with_one_channel(tmp_path, cache, sfdabench):
    """Masks lie over the user's own files."""
    import nibabel

    entry = registry.load("tasks", "t2_to_flair")
    torch.manual_seed(0)
    network = UNetSmall(width=4, depth=2).build(channels=1, outputs=1)
    (tmp_path / "w.safetensors").write_bytes(to_bytes(network.state_dict()))
    volume = np.random.default_rng(0).integers(0, 99, (40, 36, 5)).astype(np.float32)
    affine = np.diag([-2.0, 2.0, 3.0, 1.0])
    (tmp_path / "mine").mkdir()
    nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "mine" / "scan.nii.gz")
    code, _, err = sfdabench(
        *("adapt", "--source", tmp_path / "w.safetensors", "--task", "t2_to_flair"),
        *("--images", tmp_path / "mine", "--method", "adabn", "--out", tmp_path / "out"),
        *("--network", "unet_small", "--profile", "phantom", "--device", "cpu", *FIELDS),
    )
    assert code == 0, err
    (path,) = (tmp_path / "out" / "masks").rglob("*.nii.gz")
    mask = nibabel.load(path)
    assert mask.shape == volume.shape
    assert np.allclose(mask.affine, affine)
    assert path.parent.name in entry.classes
