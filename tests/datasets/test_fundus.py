import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfdabench.core import registry
from sfdabench.core.dataset import Dataset
from sfdabench.core.errors import AbsentData, DataFault
from sfdabench.datasets._fundus import Fundus
from sfdabench.phantoms import fundus as phantom

CAMERAS = {
    "refuge": phantom.REFUGE,
    "rimone_r3": phantom.RIMONE_R3,
    "rimone_dl": phantom.RIMONE_DL,
    "drishti": phantom.DRISHTI,
}
NAMES = list(CAMERAS)
CASES = 11


def small(name: str) -> Fundus:
    dataset = registry.load("datasets", name)()
    dataset.phantom_cases = CASES
    return dataset


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    roots = {}
    for name in NAMES:
        # A parent called "image" must not take part in any pairing.
        roots[name] = tmp_path_factory.mktemp("image") / "image mask" / name
        roots[name].mkdir(parents=True)
        small(name).phantom(roots[name], seed=3)
    return roots


@pytest.fixture
def trees(originals: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Copies that a test may damage."""
    return {
        name: Path(shutil.copytree(root, tmp_path / "image" / name))
        for name, root in originals.items()
    }


def rois(root: Path, domain: str, *, train: int = 3, test: int = 2) -> Path:
    """Write the ROI layout and return its root."""
    for split, number in (("train", train), ("test", test)):
        for i in range(number):
            image, label = phantom.frame(phantom.RIMONE_DL, domain, split, i)
            folder = root / domain / split / "ROIs"
            for kind, pixels in (("image", image), ("mask", np.uint8([255, 128, 0])[label])):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / kind / f"{split[:2]}{i}.png")
    return root


def fault(dataset: Dataset, root: Path) -> str:
    """The one fault of this tree."""
    (only,) = dataset.scan(root).faults
    return only


@pytest.mark.parametrize("name", NAMES)
def test_official_layout_round_trips(name: str, originals: dict[str, Path]) -> None:
    dataset = small(name)
    cases = dataset.cases(originals[name])
    assert len({case.id for case in cases}) == len(cases) == CASES
    assert {case.split for case in cases} == {"train", "test"}
    truth = [phantom.frame(CAMERAS[name], 3, i) for i in range(CASES)]
    for case in cases:
        image, spacing = dataset.read_image(case)
        label = dataset.read_label(case)
        assert spacing is None
        assert image.dtype == np.float32
        assert image.shape == (3, *label.shape)
        assert image.max() > 100
        assert label.dtype == np.uint8
        assert set(np.unique(label)) == {0, 1, 2}
        assert case.cropped == (name == "rimone_dl")
        if name == "rimone_dl":
            assert label.shape[0] == label.shape[1]
        else:
            assert any(np.array_equal(label, original) for _, original in truth)


@pytest.mark.parametrize("name", NAMES)
def test_order_is_stable_and_files_exist(name: str, originals: dict[str, Path]) -> None:
    dataset = small(name)
    first, second = dataset.cases(originals[name]), dataset.cases(originals[name])
    assert first == second
    assert all(path.is_file() for case in first for path in (*case.image, *case.label))
    assert all(path.is_relative_to(originals[name]) for case in first for path in case.image)


def test_every_fifth_image_of_refuge_is_test(originals: dict[str, Path]) -> None:
    cases = small("refuge").cases(originals["refuge"])
    assert [case.split == "test" for case in cases] == [i % 5 == 4 for i in range(CASES)]
    assert cases[0].id == "g0001"


def test_rules_give_the_official_numbers() -> None:
    from sfdabench.datasets.refuge import every_fifth
    from sfdabench.datasets.rimone_r3 import ninety_nine_to_sixty

    anywhere = Path()
    assert Counter(every_fifth(i, anywhere) for i in range(400)) == {"train": 320, "test": 80}
    thirds = Counter(ninety_nine_to_sixty(i, anywhere) for i in range(159))
    assert thirds == {"train": 99, "test": 60}


def test_rimone_reads_the_left_view(originals: dict[str, Path]) -> None:
    dataset = small("rimone_r3")
    case = dataset.cases(originals["rimone_r3"])[0]
    with Image.open(case.image[0]) as pair:
        whole = np.asarray(pair)
    image, _ = dataset.read_image(case)
    assert whole.shape[1] == 2 * image.shape[2]
    assert np.array_equal(image.transpose(1, 2, 0), whole[:, : image.shape[2]])


@pytest.mark.parametrize(
    ("name", "domain"), [("refuge", "Domain3"), ("rimone_r3", "Domain2"), ("drishti", "Domain1")]
)
@pytest.mark.parametrize("above", [".", "fundus", "image/fundus"])
def test_roi_layout(name: str, domain: str, above: str, tmp_path: Path) -> None:
    rois(tmp_path / above, domain)
    root = tmp_path / above if above.startswith("image") else tmp_path
    dataset = small(name)
    cases = dataset.cases(root)
    assert Counter(case.split for case in cases) == {"train": 3, "test": 2}
    assert all(case.cropped for case in cases)
    _, label = phantom.frame(phantom.RIMONE_DL, domain, "train", 0)
    case = next(case for case in cases if case.id == "tr0")
    assert np.array_equal(dataset.read_label(case), label)
    assert dataset.read_image(case)[0].shape == (3, *label.shape)


def test_domain4_gives_the_validation_splits(tmp_path: Path) -> None:
    rois(tmp_path, "Domain3")
    rois(tmp_path, "Domain4")
    for mask in (tmp_path / "Domain4").rglob("*.png"):
        mask.rename(mask.with_name(f"V{mask.name}"))
    splits = Counter(case.split for case in small("refuge").cases(tmp_path))
    assert splits == {"train": 3, "test": 2, "validation-train": 3, "validation-test": 2}


def test_refuge_releases_beside_the_training_images(trees: dict[str, Path]) -> None:
    root = trees["refuge"]
    image, label = phantom.frame(phantom.REFUGE, "extra")
    for folder, masks, name in (
        ("REFUGE-Validation400", "REFUGE-Validation400-GT/Disc_Cup_Masks", "V0001"),
        ("Test400", "REFUGE-Test-GT/Disc_Cup_Masks/G", "T0001"),
    ):
        (root / folder).mkdir()
        Image.fromarray(image).save(root / folder / f"{name}.jpg")
        dataset = small("refuge")
        assert dataset.cases(root)[-1].label == ()  # masks came out later: unlabelled until then
        (root / masks).mkdir(parents=True)
        Image.fromarray(np.uint8([255, 128, 0])[label]).save(root / masks / f"{name}.bmp")
        assert np.array_equal(dataset.read_label(dataset.cases(root)[-1]), label)
    assert {"validation", "test400"} < {case.split for case in dataset.cases(root)}


def test_flat_rimone_dl(trees: dict[str, Path]) -> None:
    root, dataset = trees["rimone_dl"], small("rimone_dl")
    before = {case.id: case.split for case in dataset.cases(root)}
    for case in dataset.cases(root):
        (root / "images" / case.split).mkdir(parents=True, exist_ok=True)
        case.image[0].rename(root / "images" / case.split / case.image[0].name)
    shutil.rmtree(root / "partitioned_randomly")
    assert {case.id: case.split for case in dataset.cases(root)} == before


def test_drishti_copies_with_all_images_in_one_folder(trees: dict[str, Path]) -> None:
    root, dataset = trees["drishti"], small("drishti")
    before = [case.id for case in dataset.cases(root)]
    for split in ("Training", "Test"):
        folder = root / "Drishti-GS1_files" / split / "Images"
        folder.rename(folder.with_name("ALL"))
        folder.mkdir()
        folder.with_name("ALL").rename(folder / "ALL")
    assert [case.id for case in dataset.cases(root)] == before


def test_a_drishti_majority_is_two_raters_of_four(trees: dict[str, Path]) -> None:
    dataset = small("drishti")
    case = dataset.cases(trees["drishti"])[0]
    votes = np.zeros(dataset.read_label(case).shape, np.uint8)
    votes[50:100, 50:100] = 128
    votes[100:110, 50:100] = 64
    for path in case.label:
        Image.fromarray(votes).save(path)
    assert (dataset.read_label(case) == 2).sum() == 50 * 50


@pytest.mark.parametrize("name", NAMES)
def test_missing_root(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataFault, match="nowhere: no such folder"):
        small(name).scan(tmp_path / "nowhere")


@pytest.mark.parametrize("name", NAMES)
def test_a_root_without_the_data_says_what_was_looked_for(name: str, tmp_path: Path) -> None:
    dataset = small(name)
    with pytest.raises(AbsentData) as caught:
        dataset.scan(tmp_path)
    for word in (str(tmp_path), dataset.card.title, *dataset.marks, *dataset.domains):
        assert word in str(caught.value)


def test_both_layouts_at_once(trees: dict[str, Path]) -> None:
    rois(trees["refuge"] / "fundus", "Domain3")
    with pytest.raises(DataFault, match=r"found twice: official layout in .*ROI layout in"):
        small("refuge").scan(trees["refuge"])


def test_missing_folder(trees: dict[str, Path]) -> None:
    shutil.rmtree(trees["refuge"] / "Training400" / "Glaucoma")
    faults = small("refuge").scan(trees["refuge"]).faults
    assert f"{trees['refuge'] / 'Training400' / 'Glaucoma'}: missing folder" in faults
    assert any("g0001.bmp: mask without image" in text for text in faults)


@pytest.mark.parametrize("name", NAMES)
def test_image_without_mask(name: str, trees: dict[str, Path]) -> None:
    dataset = small(name)
    case = dataset.cases(trees[name])[2]
    for path in case.label:
        path.unlink()
    message = fault(dataset, trees[name])
    assert message.startswith(f"{case.image[0]}: image without mask; looked for '{case.id}' in")
    with pytest.raises(DataFault, match="image without mask"):
        dataset.cases(trees[name])


@pytest.mark.parametrize("name", NAMES)
def test_mask_without_image(name: str, trees: dict[str, Path]) -> None:
    dataset = small(name)
    case = dataset.cases(trees[name])[2]
    case.image[0].unlink()
    scan = dataset.scan(trees[name])
    assert scan.faults == [f"{path}: mask without image" for path in case.label]


def test_half_a_mask_is_no_mask(trees: dict[str, Path]) -> None:
    dataset = small("rimone_r3")
    case = dataset.cases(trees["rimone_r3"])[0]
    case.label[1].unlink()
    assert f"{case.image[0]}: image without mask" in fault(dataset, trees["rimone_r3"])


def test_duplicate_ids(trees: dict[str, Path], tmp_path: Path) -> None:
    folder = trees["refuge"] / "Training400"
    shutil.copy(folder / "Glaucoma" / "g0001.jpg", folder / "Non-Glaucoma" / "g0001.jpg")
    message = fault(small("refuge"), trees["refuge"])
    assert "Non-Glaucoma/g0001.jpg: id 'g0001' twice" in message.replace("\\", "/")
    assert str(folder / "Glaucoma" / "g0001.jpg") in message

    root = rois(tmp_path / "rois", "Domain1")
    for kind in ("image", "mask"):
        shutil.copy(
            root / "Domain1/train/ROIs" / kind / "tr0.png",
            root / "Domain1/test/ROIs" / kind / "tr0.png",
        )
    assert "id 'tr0' twice" in fault(small("drishti"), root)


def test_an_empty_split(tmp_path: Path) -> None:
    root = rois(tmp_path, "Domain1", test=1)
    for path in (root / "Domain1/test").rglob("*.png"):
        path.unlink()
    assert "split 'test' is empty" in fault(small("drishti"), root)


def test_hidden_files_of_archives_are_left_out(trees: dict[str, Path]) -> None:
    (trees["refuge"] / "Training400" / "Glaucoma" / "._g0001.jpg").write_bytes(b"\0")
    assert len(small("refuge").cases(trees["refuge"])) == CASES


@pytest.mark.parametrize("name", NAMES)
def test_a_truncated_file(name: str, trees: dict[str, Path]) -> None:
    dataset = small(name)
    case = dataset.cases(trees[name])[0]
    for path, reader in ((case.image[0], dataset.read_image), (case.label[0], dataset.read_label)):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(DataFault, match=r"broken image file .* get this file again") as caught:
            reader(case)
        assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("content", [b"not found\n", b""])
def test_a_text_file_called_png(content: bytes, tmp_path: Path) -> None:
    dataset = small("drishti")
    case = dataset.cases(rois(tmp_path, "Domain1"))[0]
    case.image[0].write_bytes(content)
    with pytest.raises(DataFault, match="not an image, whatever its name says") as caught:
        dataset.read_image(case)
    assert str(caught.value).startswith(str(case.image[0]))


def test_a_file_that_went_away(tmp_path: Path) -> None:
    dataset = small("drishti")
    case = dataset.cases(rois(tmp_path, "Domain1"))[0]
    case.image[0].unlink()
    with pytest.raises(DataFault, match="missing file"):
        dataset.read_image(case)


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_of_another_size(name: str, trees: dict[str, Path]) -> None:
    dataset = small(name)
    case = dataset.cases(trees[name])[0]
    height, width = dataset.read_label(case).shape
    for path in case.label:
        with Image.open(path) as image:
            smaller = image.resize((64, 48), Image.Resampling.NEAREST)
        smaller.save(path)
    with pytest.raises(DataFault, match=f"the mask is 64x48, its image .* {width}x{height}") as e:
        dataset.read_label(case)
    assert str(case.label[0]) in str(e.value)


def test_disc_and_cup_of_different_size(trees: dict[str, Path]) -> None:
    dataset = small("rimone_r3")
    case = dataset.cases(trees["rimone_r3"])[0]
    Image.new("L", (20, 20)).save(case.label[1])
    with pytest.raises(DataFault, match="differ in size"):
        dataset.read_label(case)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_grey_values(name: str, trees: dict[str, Path]) -> None:
    dataset = small(name)
    case = dataset.cases(trees[name])[0]
    with Image.open(case.label[0]) as image:
        mask = np.array(image)
    mask[:2, :3] = 77
    Image.fromarray(mask).save(case.label[0])
    with pytest.raises(DataFault, match="unknown grey values 77; this mask knows 0, ") as caught:
        dataset.read_label(case)
    assert str(caught.value).startswith(str(case.label[0]))


def test_smoothed_borders_of_an_roi_mask_are_salvaged(tmp_path: Path) -> None:
    dataset = small("drishti")
    case = dataset.cases(rois(tmp_path, "Domain1"))[0]
    whole = dataset.read_label(case)
    with Image.open(case.label[0]) as image:
        size = image.size
        large = image.resize((500, 500), Image.Resampling.NEAREST)
    large.resize(size, Image.Resampling.BILINEAR).save(case.label[0])
    with Image.open(case.label[0]) as image:
        assert len(np.unique(np.asarray(image))) > 10
    assert (dataset.read_label(case) == whole).mean() > 0.97


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda mask: np.linspace(0, 255, mask.size).reshape(mask.shape), "unknown grey values"),
        (lambda mask: 255 - mask.astype(int), "all four corners are disc"),
        (lambda mask: np.digitize(mask, [64, 192]), "all four corners are disc"),
    ],
    ids=["photograph", "inverted", "class numbers"],
)
def test_roi_masks_of_another_coding(spoil, message: str, tmp_path: Path) -> None:
    dataset = small("drishti")
    case = dataset.cases(rois(tmp_path, "Domain1"))[0]
    with Image.open(case.label[0]) as image:
        mask = np.asarray(image)
    Image.fromarray(spoil(mask).astype(np.uint8)).save(case.label[0])
    with pytest.raises(DataFault, match=message) as caught:
        dataset.read_label(case)
    assert str(caught.value).startswith(str(case.label[0]))


def test_rgb_masks_read_like_grey_ones(tmp_path: Path) -> None:
    dataset = small("drishti")
    case = dataset.cases(rois(tmp_path, "Domain1"))[0]
    grey = dataset.read_label(case)
    with Image.open(case.label[0]) as image:
        colour = image.convert("RGB")
    colour.save(case.label[0])
    assert np.array_equal(dataset.read_label(case), grey)


def test_masks_of_sixteen_bits(tmp_path: Path) -> None:
    dataset = small("drishti")
    case = dataset.cases(rois(tmp_path, "Domain1"))[0]
    Image.fromarray(np.zeros((128, 128), np.uint16)).save(case.label[0])
    with pytest.raises(DataFault, match="expected 8-bit grey values"):
        dataset.read_label(case)


def test_disc_and_cup_swapped(trees: dict[str, Path]) -> None:
    dataset = small("rimone_dl")
    disc, cup = dataset.cases(trees["rimone_dl"])[0].label
    content = disc.read_bytes()
    disc.write_bytes(cup.read_bytes())
    cup.write_bytes(content)
    with pytest.raises(DataFault, match="most of the cup lies outside the disc"):
        dataset.read_label(dataset.cases(trees["rimone_dl"])[0])


def test_a_mask_among_the_images(tmp_path: Path) -> None:
    dataset = small("drishti")
    case = dataset.cases(rois(tmp_path, "Domain1"))[0]
    shutil.copy(case.label[0], case.image[0])
    with pytest.raises(DataFault, match=r"expected a colour photograph.* is this a mask"):
        dataset.read_image(case)


def test_a_single_view_where_a_stereo_pair_is_expected(trees: dict[str, Path]) -> None:
    dataset = small("rimone_r3")
    case = dataset.cases(trees["rimone_r3"])[0]
    with Image.open(case.image[0]) as image:
        left = image.crop((0, 0, image.width // 2, image.height))
    left.save(case.image[0])
    with pytest.raises(DataFault, match="is no stereo pair"):
        dataset.read_image(case)


def test_reading_the_mask_of_an_unlabelled_case(trees: dict[str, Path]) -> None:
    import dataclasses

    dataset = small("refuge")
    case = dataclasses.replace(dataset.cases(trees["refuge"])[0], label=())
    with pytest.raises(DataFault, match="this case has no mask"):
        dataset.read_label(case)


@pytest.mark.parametrize("name", NAMES)
def test_phantoms_are_decided_by_the_seed(name: str, tmp_path: Path) -> None:
    dataset = small(name)
    dataset.phantom_cases = 3
    content = []
    for i, seed in enumerate((7, 7, 8)):
        root = tmp_path / str(i)
        root.mkdir()
        dataset.phantom(root, seed)
        files = sorted(path for path in root.rglob("*") if path.is_file())
        content.append([(path.relative_to(root), path.read_bytes()) for path in files])
    assert content[0] == content[1]
    assert content[0] != content[2]


def test_default_phantoms_are_of_the_size_of_the_main_job() -> None:
    sizes = {name: registry.load("datasets", name).phantom_cases for name in NAMES}
    assert sizes["refuge"] == 200
    assert all(80 <= sizes[name] <= 90 for name in NAMES if name != "refuge")
