"""Figures that need weights: what a grid shows scores as the record says."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from sfdabench.core.errors import BadInput
from sfdabench.core.paths import cache_root
from sfdabench.core.progress import Progress
from sfdabench.evaluate.metrics import compare
from sfdabench.present import plot as plotting
from sfdabench.present.plot import Request, plot
from sfdabench.report.figures import style
from sfdabench.report.runs import compare as compare_runs
from sfdabench.run.plan import resolve
from sfdabench.run.runner import execute
from sfdabench.store import cases

QUIET = Progress(quiet=True)


@pytest.fixture
def recorded(tmp_path):
    """recorded(task, *methods) -> the run of each, seed 0, on the phantom."""

    def run(task, *methods):
        found = {}
        for method in methods:
            found[method] = resolve(
                method=method, task=task, seed=0, data=None, profile=None,
                out=tmp_path / "results", device="cpu",
            )  # fmt: skip
            record = execute(found[method], QUIET)
            assert record.done, record.traceback
        return found

    return run


@pytest.fixture
def saved(monkeypatch):
    """The figures that were saved."""
    figures, whole = [], style.save

    def save(figure, out, name):
        figures.append(figure)
        return whole(figure, out, name)

    monkeypatch.setattr(style, "save", save)
    return figures


class Said(Progress):
    """Keeps the lines."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def say(self, message):
        self.lines.append(message)


def assert_not_blank(path):
    with Image.open(path) as image:
        assert len(image.convert("RGB").getcolors(2**24)) > 20


def dice_of(path, case):
    """Class -> strict Dice of the deployed model in the file of cases."""
    return {
        row["class"]: float(row["value"])
        for row in cases.read(path)
        if (row["protocol"], row["case"], row["metric"]) == ("strict", case, "dice")
    }


def test_a_grid_and_a_tsne_of_photographs(recorded, saved, tmp_path):
    from sfdabench.present.pictures import pictures

    found = recorded("tiny", "source_only", "adabn", "tent_online", "supervised")
    online = found.pop("tent_online").record_path
    found.pop("supervised")
    paths = {label: run.record_path for label, run in found.items()}
    names = [case.id for case in found["adabn"].target_test.cases][:3]
    shown, classes = pictures(paths, names[::-1], None, "cpu", QUIET)
    assert [one.case for one in shown] == names[::-1]
    for one in shown:
        assert one.image.shape == (*one.reference.shape[1:], 3)
        assert one.plane is None
        assert 0 <= one.image.min() <= one.image.max() <= 1
        for label, masks in one.predictions.items():
            expected = dice_of(paths[label], one.case)
            for name, mask, truth in zip(classes, masks, one.reference, strict=True):
                dice = compare(mask, truth, spacing=None, distances=False).dice
                assert dice == pytest.approx(expected[name])

    asked = Request("grid", tmp_path / "results", out=tmp_path / "figures", device="cpu")
    said = Said()
    files = plot(asked, said)
    assert "grid: tent online=true learnt while it predicted, left out" in said.lines
    assert [path.name for path in files] == ["grid-tiny.png", "grid-tiny.svg"]
    assert_not_blank(files[0])
    (figure,) = saved
    titles = [axes.get_title() for axes in figure.axes[:5]]
    assert titles == ["image", "reference", "source_only", "adabn", "supervised\n(oracle)"]
    assert [axes.get_ylabel().split("\n")[0] for axes in figure.axes[::5]] == [
        *("best", "median", "worst")
    ]
    assert "PHANTOM" in figure.texts[0].get_text()
    assert "by the strict Dice of adabn" in figure.texts[1].get_text()
    with pytest.raises(BadInput, match="--by cbmt: unknown run"):
        plot(Request("grid", tmp_path / "results", out=tmp_path, by="cbmt"), QUIET)

    unchosen = Request("tsne", tmp_path / "results", tmp_path)
    with pytest.raises(BadInput, match=r"--method of those recorded: 'adabn', 'supervised'$"):
        plot(unchosen, QUIET)
    with pytest.raises(BadInput, match="give one --method of those recorded"):
        plot(dataclasses.replace(unchosen, methods=("source_only",)), QUIET)
    for figure in ("grid", "tsne"):
        asked = dataclasses.replace(unchosen, figure=figure, methods=("tent online=true",))
        with pytest.raises(BadInput, match=f"{online}: tent learnt while it predicted"):
            plot(asked, QUIET)

    asked = Request("tsne", tmp_path / "results", tmp_path, methods=("adabn",), device="cpu")
    files = plot(asked, QUIET)
    assert [path.name for path in files] == ["tsne-tiny-adabn.png", "tsne-tiny-adabn.svg"]
    assert_not_blank(files[0])
    figure = saved[-1]
    assert [axes.get_title() for axes in figure.axes] == ["before: source_only", "after: adabn"]
    sites = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sites == ["tiny_source test", "tiny_target test"]
    counts = [len(drawn.get_offsets()) for drawn in figure.axes[0].collections]
    run = found["adabn"]
    assert counts == [len(run.source_test[0].cases), len(run.target_test.cases)]


def test_a_grid_too_wide_for_a_page_asks_for_a_choice(recorded, monkeypatch, tmp_path):
    recorded("tiny", "source_only", "adabn", "supervised")
    monkeypatch.setattr(plotting, "COLUMNS", 4)
    asked = Request("grid", tmp_path / "results", out=tmp_path / "figures", device="cpu")
    listed = "3 runs, a page holds 2; choose by --method among 'source_only', 'adabn', 'superv"
    with pytest.raises(BadInput, match=listed):
        plot(asked, QUIET)


def test_a_volume_shows_the_plane_with_most_reference(recorded):
    from sfdabench.present.pictures import pictures

    run = recorded("tiny_volume", "source_only")["source_only"]
    case = run.target_test.cases[-1]
    paths = {"source_only": run.record_path}
    (shown,), classes = pictures(paths, [case.id], None, "cpu", QUIET)
    label = run.target_test.dataset.read_label(case)
    areas = (label > 0).sum(axis=(1, 2))
    assert areas[shown.plane] == areas.max() == shown.reference.any(axis=0).sum()
    assert classes == ["necrosis", "oedema", "enhancing"]
    assert shown.image.ndim == 2
    assert shown.image.shape == shown.reference.shape[1:]


def test_three_channels_are_a_photograph_in_no_volume():
    """A volume of three sequences is shown by its last one, as any other."""
    from sfdabench.present.pictures import _picture

    image = np.zeros((3, 2, 8, 8), np.float32)
    image[2, :, 2:6, 2:6] = 1000
    reference = np.zeros((1, 2, 8, 8), bool)
    reference[0, 1, 2:6, 2:6] = True
    volume = _picture("a", image, reference, {"m": {"a": reference}}, None)
    assert (volume.plane, volume.image.shape) == (1, volume.reference.shape[1:])
    assert set(np.unique(volume.image)) == {0, 1}
    photograph = _picture("a", image[:, 1], reference[:, 1], {"m": {"a": reference[:, 1]}}, None)
    assert (photograph.plane, photograph.image.shape) == (None, (*volume.image.shape, 3))


def test_a_window_holds_all_that_is_outlined():
    from sfdabench.present.pictures import _window

    outlined = np.zeros((100, 60), bool)
    outlined[20:40, 30:40] = True
    rows, columns = _window(outlined)
    assert (rows, columns) == (slice(17, 43, 1), slice(22, 48, 1))
    outlined[:, 0] = True
    assert _window(outlined) == (slice(0, 100, 1), slice(0, 60, 1))
    assert _window(np.zeros((50, 40), bool)) == (slice(0, 50, 1), slice(0, 40, 1))
    large = np.zeros((2000, 2000), bool)
    large[500:1500, 500:1500] = True
    rows, columns = _window(large)
    assert rows == columns == slice(350, 1650, 3)


def test_translated_images_are_kept_and_drawn(recorded, saved, tmp_path):
    """Beside the weights in the cache; a run that does not translate has none."""
    tiny = ("translation_epochs=1", "translation_batch=32", "epochs=1", "batch_size=32", "width=4")
    run = resolve(
        method="cyclegan", task="t2_to_t1", seed=0, data=None, profile=None,
        out=tmp_path / "results", device="cpu", settings=tiny, source_settings=("epochs=1",),
    )  # fmt: skip
    record = execute(run, QUIET)
    assert record.done, record.traceback
    (label,) = {variant.label for variant in records_of(tmp_path) if variant.label != "source_only"}
    asked = Request("translations", tmp_path / "results", tmp_path / "out", methods=(label,))
    paths = plot(asked, QUIET)
    assert_not_blank(paths[0])
    assert len([axes for axes in saved[0].axes if axes.get_images()]) == 16
    plain = dataclasses.replace(asked, methods=("source_only",))
    with pytest.raises(BadInput, match="no translated images of source_only"):
        plot(plain, QUIET)
    with pytest.raises(BadInput, match=r"--seed 3: .* has seed"):
        plot(dataclasses.replace(asked, seed=3), QUIET)
    with pytest.raises(BadInput, match="give one --method that translates"):
        plot(dataclasses.replace(asked, methods=()), QUIET)
    stage = next(stage for stage in record.stages if stage.name == "cyclegan")
    (kept,) = cache_root().glob(f"stages/cyclegan-{stage.key[:16]}/pictures.npz")
    kept.write_bytes(b"PK but not an archive")
    with pytest.raises(BadInput, match=r"pictures\.npz: cannot be read"):
        plot(asked, QUIET)


def records_of(folder):
    """What was recorded of the only task."""
    return compare_runs(folder / "results", None, example="cyclegan").variants
