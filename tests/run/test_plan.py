import dataclasses
import os
from pathlib import Path

import pytest

from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.progress import Progress
from sfdabench.prepare import manifest
from sfdabench.run import plan as module
from sfdabench.run.plan import choose_device, resolve


def plan(tmp_path, **changes):
    values = {"method": "cbmt", "task": "tiny", "seed": 0, "data": None, "profile": None}
    return resolve(**(values | {"out": tmp_path / "out", "device": "cpu"} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "cbmtt"}, "unknown method 'cbmtt': did you mean cbmt"),
        ({"task": "tinny"}, "unknown task 'tinny': did you mean tiny"),
        ({"profile": "papper"}, "unknown profile 'papper': did you mean paper"),
        ({"settings": ["emma=0.9"]}, "did you mean ema"),
        ({"settings": ["ema=2"]}, "field 'ema' of method cbmt"),
        ({"settings": ["dpl.ema=0.9"]}, "--set dpl.ema: unknown method or stage of this run 'dpl'"),
        ({"method": "cbmt+mean_teacher", "settings": ["ema=0.9"]}, "say cbmt.ema"),
        ({"method": "cbmt+cbmt"}, "once"),
        ({"method": "tent+tent_online"}, "once"),
        (
            {"method": "tent_online", "settings": ["online=false"]},
            "--set online=false: contradicts --method tent_online, where online is True",
        ),
        ({"method": "tent_online+adabn"}, "nothing follows it"),
        (
            {"method": "tent_online", "protocols": ["dpl"]},
            "protocol dpl predicts in a mode of its own",
        ),
        ({"source_settings": ["epoch=3"]}, "did you mean epochs"),
        ({"source_settings": ["epochs=0"]}, "--source-set epochs=0"),
        ({"source_settings": ["width=wide"]}, "--source-set width=wide"),
        (
            {"source_settings": ["network=unet"]},
            "unknown network 'unet': did you mean .*unet_small",
        ),
        ({"source_settings": ["augmentation=strong"]}, "--source-set augmentation=strong"),
        ({"source_settings": ["backbone_weights=/absent.pth"]}, r"/absent\.pth: no such file"),
        ({"data": Path("/no/such/folder")}, "--data /no/such/folder: no such folder"),
        ({"settings": ["calibrated_class=cap"]}, "class of this task 'cap': did you mean cup"),
        ({"settings": ["epochs=true"]}, "--set epochs=true: true and false are no numbers"),
    ],
)
def test_bad_flags_are_named_before_anything_is_computed(tmp_path, changes, message):
    with pytest.raises(BadInput, match=message):
        plan(tmp_path, **changes)


def test_a_configured_root_without_the_data_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match=str(tmp_path)):
        plan(tmp_path, data=tmp_path)
    monkeypatch.setenv("SFDABENCH_DATA", str(tmp_path / "absent"))
    with pytest.raises(BadInput, match="SFDABENCH_DATA"):
        plan(tmp_path)


def test_cuda_where_there_is_none(tmp_path):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(BadInput, match="--device cuda"):
        choose_device("cuda")
    assert choose_device("auto") == "cpu"


def test_out_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(BadInput, match="--out"):
        plan(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_out_that_cannot_be_written(tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(BadInput, match="cannot be written"):
        plan(tmp_path)


def test_a_full_disk_is_found_before_training(tmp_path, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    with pytest.raises(BadInput, match=r"1 MiB free, about 100 MiB needed"):
        plan(tmp_path)


def test_the_key_holds_all_that_moves_a_number(tmp_path):
    base = plan(tmp_path)
    others = [
        plan(tmp_path, seed=1),
        plan(tmp_path, settings=["ema=0.97"]),
        plan(tmp_path, source_settings=["epochs=3"]),
        plan(tmp_path, source_settings=["width=6"]),
        plan(tmp_path, precision="bfloat16"),
        plan(tmp_path, method="mean_teacher"),
        plan(tmp_path, method="cbmt+adabn"),
    ]
    assert len({run.key for run in (base, *others)}) == len(others) + 1
    assert plan(tmp_path, settings=["ema=0.98"]).key == base.key
    same_source = [run.source.key == base.source.key for run in others]
    assert same_source == [False, True, False, False, True, True, True]


def test_each_method_that_changes_something_is_a_stage_from_the_one_before(tmp_path):
    run = plan(tmp_path, method="adabn+source_only+cbmt")
    assert [stage.name for stage in run.final.order] == ["source_training", "adabn", "cbmt"]
    assert [stage.start.key for stage in run.links] == [run.source.key, run.links[0].key]
    assert plan(tmp_path, method="adabn").final.key == run.links[0].key
    assert plan(tmp_path, method="source_only").final.key == run.source.key
    assert plan(tmp_path, method="cbmt").final.key != run.final.key, "it starts elsewhere"


def test_a_source_model_is_of_all_devices_and_an_adapted_one_of_its_own(tmp_path):
    run, lower = plan(tmp_path), plan(tmp_path, precision="bfloat16")
    assert (run.source.device, run.source.precision) == (None, "float32")
    assert lower.source.key == run.source.key
    assert (run.final.device, lower.final.precision) == ("cpu", "bfloat16")
    assert lower.final.key != run.final.key


def test_a_stage_sees_what_its_method_declares(tmp_path):
    sees = {
        name: plan(tmp_path, method=name).final.sees.keys()
        for name in ("cbmt", "supervised", "self_ensembling", "tent_online")
    }
    assert sees == {
        "cbmt": {"target"},
        "supervised": {"target", "target labels"},
        "self_ensembling": {"target", "source"},
        "tent_online": {"target test"},
    }
    assert plan(tmp_path).source.sees.keys() == {"source", "validation"}


def test_a_method_with_a_source_side_stage_has_it_beside(tmp_path):
    run = plan(tmp_path, method="tiny_guided", settings=["tiny_side.epochs=2"])
    (side,) = run.final.beside
    assert (side.name, side.fields["epochs"]) == ("tiny_side", 2)
    assert side.start.key == run.source.key
    assert side.sees.keys() == {"source", "validation"}
    assert run.overrides == {"tiny_guided": {}, "tiny_side": {"epochs": 2}}
    assert [stage.name for stage in run.final.order] == [
        *("source_training", "tiny_side", "tiny_guided")
    ]
    assert plan(tmp_path, method="tiny_guided").key != run.key
    with pytest.raises(BadInput, match="did you mean epochs"):
        plan(tmp_path, method="tiny_guided", settings=["tiny_side.epoch=2"])
    with pytest.raises(BadInput, match="unknown method or stage of this run 'tiny_side'"):
        plan(tmp_path, settings=["tiny_side.epochs=2"])


def test_the_unadapted_run_is_that_of_source_only(tmp_path):
    alone = plan(tmp_path, method="source_only")
    assert alone.unadapted is None
    for method in ("cbmt", "adabn+cbmt", "supervised"):
        assert plan(tmp_path, method=method).unadapted.key == alone.key
    scored = plan(tmp_path, protocols=["beal"])
    assert scored.unadapted.key == plan(tmp_path, method="source_only", protocols=["beal"]).key
    assert scored.unadapted.key != alone.key
    assert scored.final.key == plan(tmp_path).final.key, "who scores moves no weight"


def test_profiles_follow_the_data(tmp_path):
    run = plan(tmp_path)
    assert (run.profile, run.data) == ("phantom", "phantom")
    assert run.recipe.size == 32
    paper = plan(tmp_path, profile="paper", source_settings=["size=64"])
    assert (paper.profile, paper.data, paper.recipe.size) == ("paper", "phantom", 64)
    assert paper.source_overrides == {"size": 64}


def test_the_hashing_of_new_files_is_shown_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SFDABENCH_CACHE", str(tmp_path / "cache"))
    progress, said = Progress(), []
    monkeypatch.setattr(progress, "say", said.append)
    plan(tmp_path, progress=progress)
    names = [line.partition(":")[0] for line in said]
    assert names == ["hash files (tiny_target)"] * 2 + ["hash files (tiny_source)"] * 2
    plan(tmp_path, progress=progress)
    assert len(said) == 4


def test_an_oracle_on_its_own_test_cases_is_marked(tmp_path):
    from sfdabench.core import registry
    from sfdabench.run.plan import resolve

    def plan(method):
        return resolve(
            method=method,
            task="scgm_to_site3",
            seed=0,
            data=None,
            out=tmp_path,
            profile=None,
            device="cpu",
        )

    assert registry.load("tasks", "scgm_to_site3").target.oracle == "site3-labelled"
    assert plan("supervised").scored_on_training_cases
    assert not plan("mean_teacher").scored_on_training_cases


def test_an_alias_is_the_entry_itself(tmp_path):
    from sfdabench.core import registry

    assert registry.load("tasks", "mr2ct") is registry.load("tasks", "chaos2malbcv")
    assert registry.load("datasets", "btcv") is registry.load("datasets", "malbcv")
    assert registry.kinds_of("mr2ct") == ["tasks"]


def test_another_name_for_a_method_sets_its_fields(tmp_path):
    said = []
    progress = Progress(quiet=True)
    progress.say = said.append
    run = plan(tmp_path, method="adabn+tent_online", progress=progress)
    assert run.method_name == "adabn+tent"
    assert run.overrides == {"adabn": {}, "tent": {"online": True}}
    assert run.online
    assert said == ["tent_online is another name for tent --set online=true"]
    spelled = plan(tmp_path, method="adabn+tent", settings=["online=true"])
    assert spelled.key == run.key
    for more in ("online=true", "tent_online.online=true", "tent.online=true"):
        assert plan(tmp_path, method="adabn+tent_online", settings=[more]).key == run.key
    slow = plan(tmp_path, method="tent_online", settings=["tent_online.steps=2"])
    assert slow.overrides == {"tent": {"online": True, "steps": 2}}
    free = plan(tmp_path, method="self_ensembling_sf")
    assert free.overrides == {"self_ensembling": {"source": False}}
    assert free.chain[0][1].fields["epochs"] == 8, "the values of the phantom profile hold as well"


def test_phantom_values_hold_in_the_phantom_profile_only(tmp_path):
    short = plan(tmp_path, method="supervised")
    assert short.profile == "phantom"
    assert short.chain[0][1].fields["epochs"] == 10
    assert short.overrides == {"supervised": {}}
    changed = plan(tmp_path, method="supervised", settings=["epochs=3"])
    assert changed.chain[0][1].fields["epochs"] == 3
    assert changed.overrides == {"supervised": {"epochs": 3}}
    assert plan(tmp_path, method="supervised", profile="paper").chain[0][1].fields["epochs"] == 40


def test_a_file_where_a_folder_of_records_should_be_is_found_before_anything_is_computed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tiny").write_text("")
    with pytest.raises(BadInput, match=r"--out .*out/tiny/cbmt: cannot be written"):
        plan(tmp_path)


def test_a_finished_run_is_found_where_nothing_can_be_written(tmp_path, monkeypatch):
    run = plan(tmp_path)

    def refuse(folder, flag, need_bytes=0):
        raise BadInput(f"{flag} {folder}: cannot be written")

    monkeypatch.setattr(module, "check_writable", refuse)
    with pytest.raises(BadInput, match=r"--out .*tiny/cbmt: cannot be written"):
        plan(tmp_path)
    run.record_path.parent.mkdir(parents=True)
    run.record_path.write_text("{}")
    assert plan(tmp_path).key == run.key
    with pytest.raises(BadInput, match=r"--out .*tiny/cbmt: cannot be written"):
        plan(tmp_path, seed=1)


def test_a_task_without_a_protocol_is_refused(tmp_path, monkeypatch):
    bare = dataclasses.replace(registry.load("tasks", "tiny"), protocols=())
    load, tiny = registry.load, ("tasks", "tiny")
    monkeypatch.setattr(registry, "load", lambda *of: bare if of == tiny else load(*of))
    with pytest.raises(BadInput, match="task tiny: names no protocol to score by"):
        plan(tmp_path)
    assert plan(tmp_path, protocols=["strict"]).protocol_names == ("strict",)


def test_verify_data_hashes_every_file_again(tmp_path, monkeypatch, drawings):
    """A disk may give other bytes although size and times stand as they were."""
    monkeypatch.setenv("SFDABENCH_CACHE", str(tmp_path / "cache"))  # its memo will tell lies
    drawings.fill(tmp_path / "cache", "tiny_source", "tiny_target")
    key, target = plan(tmp_path).key, len(plan(tmp_path).target_test.cases)
    hashed = []
    monkeypatch.setattr(manifest, "sha256_file", lambda path: (hashed.append(path), "0" * 64)[1])
    assert plan(tmp_path).key == key
    assert not hashed
    assert plan(tmp_path, verify_data=True).key != key
    assert len(hashed) > 2 * target, "an image and a mask of each case, and of the other splits"
