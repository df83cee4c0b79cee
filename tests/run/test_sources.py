"""Source models that are there already: imported, cached, exported, and runs without their data."""

import dataclasses
import json
import shutil

import pytest
import torch

from sfdabench.core.errors import AbsentData, BadInput, DataFault
from sfdabench.core.paths import cache_root
from sfdabench.core.progress import Progress
from sfdabench.models.weights import read, to_bytes
from sfdabench.run import artefacts, sources
from sfdabench.run.plan import resolve

QUIET = Progress(quiet=True)
FIELDS = ["width=4", "depth=2", "size=32"]


def network(seed=0, **changes):
    from sfdabench.networks.unet_small import UNetSmall

    torch.manual_seed(seed)
    fields = {"width": 4, "depth": 2} | changes
    return UNetSmall(**fields).build(channels=3, outputs=2)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SFDABENCH_CACHE", str(tmp_path / "cache"))
    return cache_root()


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "Mine v2.safetensors"
    path.write_bytes(to_bytes(network().state_dict()))
    return path


def bring(file, cache, **changes):
    asked = {"task": "tiny", "network": "unet_small", "profile": "phantom", "settings": FIELDS}
    return sources.import_file(file, cache=cache, **(asked | changes))


@pytest.fixture(scope="module")
def data(tmp_path_factory, drawings):
    """Both data sets of the task under one root, as a user has them."""
    return drawings.copy(tmp_path_factory.mktemp("data"), "tiny_source", "tiny_target")


def plan(out, method="adabn", **changes):
    flags = {"method": method, "task": "tiny", "seed": 0, "data": None, "device": "cpu"}
    return resolve(**(flags | {"profile": "phantom", "progress": QUIET} | changes), out=out)


def go(run):
    from sfdabench.run.runner import execute

    return execute(run, QUIET)


def without_source(data, tmp_path):
    """The same root without the source data set."""
    target = tmp_path / "target_only"
    shutil.copytree(data, target, ignore=shutil.ignore_patterns("*Training400"))
    return target


class TestImport:
    def test_it_is_a_stage_and_importing_it_twice_is_one(self, file, cache):
        artefact = bring(file, cache)
        assert (artefact.stage.kind, artefact.stage.name) == ("imported", "mine-v2")
        assert bring(file, cache).folder == artefact.folder
        assert len(sources.every(cache)) == 1
        mine = network().state_dict()
        assert all(torch.equal(value, mine[name]) for name, value in artefact.state().items())

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda state: state,
            lambda state: {"state_dict": state, "epoch": 3},
            lambda state: {"model_state_dict": {f"module.{k}": v for k, v in state.items()}},
        ],
        ids=["plain", "checkpoint", "parallel"],
    )
    def test_torch_files_of_common_shapes(self, wrap, tmp_path, cache, file):
        torch.save(wrap(network().state_dict()), tmp_path / "m.pth")
        assert bring(tmp_path / "m.pth", cache).card.sha256 == bring(file, cache).card.sha256

    def test_keys_of_another_network_are_named(self, tmp_path, cache):
        other = tmp_path / "other.safetensors"
        other.write_bytes(to_bytes(network(depth=3).state_dict()))
        with pytest.raises(
            BadInput, match=r"other\.safetensors: weights of another network.*unexp"
        ):
            bring(other, cache)
        assert sources.every(cache) == []

    def test_killed_before_its_card_it_is_imported_anew(self, file, cache, monkeypatch):
        def killed(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(artefacts, "write_card", killed)
            with pytest.raises(KeyboardInterrupt):
                bring(file, cache)
        assert sources.every(cache) == []
        (work,) = (path for path in artefacts.imported_root(cache).iterdir() if path.is_dir())
        artefact = bring(file, cache)
        assert artefact.folder == work
        artefacts.check(artefact)

    def test_a_pickle_that_runs_code_is_refused(self, tmp_path, cache):
        class Evil:
            def __reduce__(self):
                return (print, ("run",))

        torch.save({"a": Evil()}, tmp_path / "evil.pth")
        with pytest.raises(BadInput, match=r"evil\.pth: not a whole state dict"):
            bring(tmp_path / "evil.pth", cache)

    def test_a_name_that_is_taken_is_refused(self, file, cache, tmp_path):
        bring(file, cache, name="mine")
        other = tmp_path / "other.safetensors"
        other.write_bytes(to_bytes(network(seed=1).state_dict()))
        with pytest.raises(BadInput, match="--name mine: another model is imported"):
            bring(other, cache, name="mine")
        with pytest.raises(BadInput, match="--name My Model"):
            bring(other, cache, name="My Model")


class TestFind:
    def test_by_name_and_by_the_start_of_its_key(self, file, cache):
        artefact = bring(file, cache, name="mine")
        assert sources.find(cache, "mine").key == artefact.card.key
        assert sources.find(cache, artefact.card.key[:8]).key == artefact.card.key
        assert sources.find(cache, artefact.folder.name).key == artefact.card.key

    def test_an_unknown_one_is_answered_with_the_near_ones(self, file, cache):
        bring(file, cache, name="mine")
        with pytest.raises(BadInput, match=r"--source mime: .*did you mean mine"):
            sources.find(cache, "mime")


def test_exported_it_says_what_its_network_is(file, cache, tmp_path, monkeypatch):
    artefact = bring(file, cache)
    out = tmp_path / "out.safetensors"
    sources.export(artefact, out)
    with pytest.raises(BadInput, match="is there already"):
        sources.export(artefact, out)
    monkeypatch.setenv("SFDABENCH_CACHE", str(tmp_path / "elsewhere"))
    again = bring(out, cache_root(), network=None, settings=())
    assert again.stage.network_fields == artefact.stage.network_fields
    assert again.card.sha256 == artefact.card.sha256
    assert sources.size_of(again.stage) == 32


class TestRunsWithoutSourceData:
    def test_with_an_imported_model(self, file, cache, tmp_path, data):
        """The very setting of source-free adaptation: target data and a model."""
        artefact = bring(file, cache, name="mine")
        root = without_source(data, tmp_path)
        run = plan(tmp_path / "out", data=root, source="mine")
        record = go(run)
        assert record.status == "done", record.traceback
        assert (record.imported, record.source_sha256) == ("mine", artefact.card.sha256)
        assert record.source is None
        assert record.stages[0].maker == "imported"
        assert record.deployed_sha256 != record.source_sha256

    def test_with_the_one_in_the_cache_that_it_would_train(self, cache, tmp_path, data):
        whole = go(plan(tmp_path / "one", data=data))
        root = without_source(data, tmp_path)
        said = []
        progress = Progress(quiet=True)
        progress.say = said.append
        run = plan(tmp_path / "two", data=root, progress=progress)
        record = go(run)
        assert record.deployed_sha256 == whole.deployed_sha256
        assert record.source_key == whole.source_key
        assert any("starts from the source model source_training-" in line for line in said)
        named = plan(tmp_path / "three", data=root, source=whole.source_key[:12])
        assert named.key == run.key
        assert go(named).scores == whole.scores

    def test_another_recipe_or_seed_is_another_model(self, cache, tmp_path, data):
        go(plan(tmp_path / "one", data=data))
        root = without_source(data, tmp_path)
        for changes in ({"seed": 1}, {"source_settings": ["epochs=3"]}):
            with pytest.raises(AbsentData, match=r"bring a source model: `sfdabench source import"):
                plan(tmp_path / "two", data=root, **changes)

    def test_a_method_that_needs_the_source_data_says_which_do_not(
        self, file, cache, tmp_path, data
    ):
        bring(file, cache, name="mine")
        root = without_source(data, tmp_path)
        with pytest.raises(AbsentData, match=r"self_ensembling needs the source data; .*adabn"):
            plan(tmp_path / "out", "self_ensembling", data=root, source="mine")

    def test_what_the_model_is_cannot_be_chosen_again(self, file, cache, tmp_path):
        bring(file, cache, name="mine")
        same = plan(tmp_path, source="mine", source_settings=["width=4"])
        assert same.key == plan(tmp_path, source="mine").key
        for text in ("width=8", "size=64", "epochs=3"):
            with pytest.raises(BadInput, match=rf"--source-set {text}: the source model mine is"):
                plan(tmp_path, source="mine", source_settings=[text])

    def test_a_model_of_another_task_is_refused(self, file, cache, tmp_path):
        bring(file, cache, name="mine")
        with pytest.raises(BadInput, match="--source mine: has classes"):
            plan(tmp_path, task="tiny_volume", source="mine")

    def test_a_model_that_was_cleared_is_asked_for_again(self, file, cache, tmp_path):
        artefact = bring(file, cache, name="mine")
        run = plan(tmp_path, source="mine")
        shutil.rmtree(artefact.folder)
        with pytest.raises(BadInput, match="import it again"):
            go(run)


def test_a_method_beside_a_source_side_stage(cache, tmp_path):
    """The stage is made once, from the source model, and stands in the record."""
    run = plan(tmp_path, "tiny_guided", settings=["tiny_side.epochs=2"])
    record = go(run)
    assert record.status == "done", record.traceback
    assert record.setting == "SFDA+"
    names = [stage.name for stage in record.stages]
    assert names == ["source_training", "tiny_side", "tiny_guided"]
    assert record.source_stages == {"tiny_side": {"epochs": 2, "rate": 0.02}}
    assert record.overrides == {"tiny_guided": {}, "tiny_side": {"epochs": 2}}
    side = artefacts.read_card(artefacts.place(run.cache, run.final.beside[0]))
    assert side.stage.start.key == run.source.key
    assert len(side.card.curves["loss"]) == 2
    other = plan(tmp_path, "tiny_guided", settings=["epochs=1", "tiny_side.epochs=2"])
    stamp = (side.folder / "card.json").stat().st_mtime_ns
    go(other)
    assert (side.folder / "card.json").stat().st_mtime_ns == stamp
    with pytest.raises(BadInput, match=r"--set tiny_sid\.epochs: .*did you mean tiny_side"):
        plan(tmp_path, "tiny_guided", settings=["tiny_sid.epochs=2"])


def test_commands(file, cache, tmp_path, sfdabench):
    flags = ["--profile", "phantom", *(w for f in FIELDS for w in ("--source-set", f))]
    code, out, err = sfdabench("source", "import", file, "--task", "tiny", *flags, "--network",
                               "unet_small", "--name", "mine")  # fmt: skip
    assert code == 0, err
    assert "next: sfdabench run --method cbmt --task tiny --source mine" in out
    code, out, _ = sfdabench("source", "list")
    assert (code, "imported for tiny" in out, "unet_small" in out) == (0, True, True)
    code, out, _ = sfdabench("source", "show", "mine")
    assert json.loads(out)["stage"]["name"] == "mine"
    code, _, _ = sfdabench("source", "export", "mine", tmp_path / "x.safetensors")
    assert code == 0
    assert dataclasses.is_dataclass(sources.find(cache, "mine"))
    assert set(read(tmp_path / "x.safetensors")) == set(network().state_dict())
    code, _, err = sfdabench("source", "show", "nine")
    assert (code, "did you mean mine" in err) == (2, True)


def test_a_part_may_be_a_source_side_stage(cache, tmp_path, monkeypatch):
    """What stands in front of no network, such as a denoiser: stored, and handed out again."""
    from sfdabench.core import registry

    stage = """
from dataclasses import dataclass
from sfdabench.core.stage import SourceStage
from sfdabench.models.part import Part
import torch

class Mix(Part):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(channels, channels, 1)
    def forward(self, maps):
        return self.layer(maps)

@dataclass(frozen=True)
class Mixer(SourceStage):
    '''A part and no training.'''
    def train(self, context):
        part = Mix(3)
        for _ in context.epochs(1, deploy=None, part=part):
            pass
        return part
"""
    method = """
from dataclasses import dataclass
from sfdabench.core.method import Method
from sfdabench.core.needs import Needs
from sfdabench.models.composites import Normalised

@dataclass(frozen=True)
class Mixed(Method):
    '''The source model behind the part.'''
    needs = Needs(source_stage="mixer", changes=frozenset({"input"}))
    def adapt(self, context):
        model = Normalised(context.model(), context.stage())
        for _ in context.epochs(1, deploy=model):
            pass
        return model
"""
    for kind, name, text in (("stages", "mixer", stage), ("methods", "mixed", method)):
        (tmp_path / "mine" / kind).mkdir(parents=True)
        (tmp_path / "mine" / kind / f"{name}.py").write_text(text)
    monkeypatch.setattr(registry, "_plugins", list(registry._plugins))
    registry.add_plugins(tmp_path / "mine")
    run = plan(tmp_path / "out", "mixed")
    record = go(run)
    assert record.status == "done", record.traceback
    assert record.composite["name"] == "Normalised"
    assert record.composite["part"]["class"] == "Mix"
    side = artefacts.read_card(artefacts.place(run.cache, run.final.beside[0]))
    assert side.card.composite["name"] == "Part"
    from sfdabench.present.export import strict_masks

    masks = dict(strict_masks(run, run.record_path, QUIET))
    assert masks.keys() == {case.id for case in run.target_test.cases}


def test_the_files_of_the_source_are_closed_beside_a_given_model(file, cache, tmp_path, data):
    """A run that needs no source data may still have them in reach."""
    bring(file, cache, name="mine")
    run = plan(tmp_path / "out", data=data, source="mine")
    assert {path.suffix for path in run.source_files} == {".jpg", ".bmp"}
    assert (
        plan(tmp_path / "out", data=without_source(data, tmp_path), source="mine").source_files
        == ()
    )


def damaged(data, root):
    """The same root, where an image of the source lost its mask."""
    shutil.copytree(data, root)
    sorted(root.glob("*Annotation-Training400/**/*.bmp"))[0].unlink()
    return root


class TestDamagedSourceData:
    def test_a_given_model_does_without_them_and_their_root_is_closed(
        self, file, cache, tmp_path, data, capsys
    ):
        bring(file, cache, name="mine")
        root = damaged(data, tmp_path / "damaged")
        run = plan(tmp_path / "out", data=root, source="mine", progress=Progress())
        assert run.source_files == (root,)
        (line,) = [text for text in capsys.readouterr().err.splitlines() if "closed" in text]
        assert line.startswith("source data tiny_source: not all files can be listed, ")
        assert f"the whole of {root} is closed to methods" in line
        assert "image without mask" in line
        assert go(run).done

    def test_they_stop_a_run_that_needs_them(self, cache, tmp_path, data):
        with pytest.raises(DataFault, match="image without mask"):
            plan(tmp_path / "out", data=damaged(data, tmp_path / "damaged"))


def test_a_model_of_the_phantom_is_none_of_real_data(cache, tmp_path, data):
    go(plan(tmp_path / "one"))
    with pytest.raises(AbsentData, match="bring a source model"):
        plan(tmp_path / "two", data=without_source(data, tmp_path))


def test_a_record_of_a_model_that_is_gone_is_still_predicted(file, cache, tmp_path, data):
    from sfdabench.present.export import planned

    artefact = bring(file, cache, name="mine")
    run = plan(tmp_path / "out", source="mine")
    record = go(run)
    assert record.recipe == {
        "size": 32,
        "network": "unet_small",
        "network_fields": {"width": 4, "depth": 2},
        "imported": artefact.card.sha256,
    }
    shutil.rmtree(artefact.folder)
    again = planned(run.record_path, None, "cpu", QUIET)
    assert again.recipe.size == 32
