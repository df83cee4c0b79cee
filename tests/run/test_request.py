"""A run's flags: from the command line, to a worker's, and from a record."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sfdabench.cli import options
from sfdabench.core.errors import BadInput
from sfdabench.run.request import FLAGS, RunRequest
from sfdabench.store import records


@click.command()
@options.request(*FLAGS)
def parse(request):
    return request


def parsed(*words):
    return parse.main([*map(str, words)], standalone_mode=False)


def test_every_field_has_a_flag_of_its_own():
    fields = {field.name for field in dataclasses.fields(RunRequest)}
    assert FLAGS.keys() == fields
    assert len({flag.name for flag in FLAGS.values()}) == len(fields)
    assert all(flag.help for flag in FLAGS.values())


def test_defaults_of_the_command_line_are_those_of_the_request():
    assert parsed("--method", "cbmt", "--task", "tiny") == RunRequest(method="cbmt", task="tiny")


@pytest.mark.parametrize("missing", ["--method", "--task"])
def test_a_run_needs_a_method_and_a_task(missing):
    given = [word for flag in {"--method", "--task"} - {missing} for word in (flag, "cbmt")]
    with pytest.raises(click.MissingParameter, match=f"parameter: {missing[2:]}"):
        parsed(*given)


def test_what_argv_says_the_command_line_reads(tmp_path):
    """Each field has a value that is not its default, in one of two requests."""
    real = RunRequest(
        method="adabn+cbmt",
        task="tiny",
        seed=4,
        data=tmp_path,
        out=tmp_path / "o u t",
        profile="phantom",
        settings=("cbmt.ema=0.9", "cbmt.calibration=none"),
        source_settings=("epochs=3",),
        source="mine",
        device="cpu",
        precision="bfloat16",
        verify_data=True,
        protocols=("dpl", "beal"),
    )
    phantom = RunRequest(method="-m", task="tiny", phantom=True, out=tmp_path)
    usual = RunRequest()
    for field in FLAGS:
        assert any(getattr(one, field) != getattr(usual, field) for one in (real, phantom)), field
    assert parsed(*real.argv()) == real
    assert parsed(*phantom.argv()) == phantom


def test_paths_of_argv_are_absolute_and_data_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("SFDABENCH_DATA", "data")
    again = parsed(*RunRequest(method="m", task="t", out=Path("out")).argv())
    assert (again.out, again.data) == (tmp_path / "out", tmp_path / "data")
    again = parsed(*RunRequest(method="m", task="t", phantom=True).argv())
    assert (again.phantom, again.data) == (True, None)


def test_a_worker_decides_nothing_anew(tmp_path, monkeypatch):
    request = RunRequest(method="adabn", task="tiny", out=tmp_path, device="auto")
    run = dataclasses.replace(request.resolve(), seed=3)
    worker = parsed(*request.as_resolved(run).argv())
    monkeypatch.setenv("SFDABENCH_DATA", str(tmp_path))
    assert worker.resolve().key == run.key


def test_the_phantom_needs_no_data(tmp_path):
    with pytest.raises(BadInput, match=r"--phantom reads no real data"):
        RunRequest(method="m", task="t", phantom=True, data=tmp_path)


def test_a_source_model_is_passed_on(monkeypatch):
    got = {}
    monkeypatch.setattr("sfdabench.run.plan.resolve", lambda **fields: got.update(fields))
    RunRequest(method="m", task="t", source="mine").resolve()
    assert got["source"] == "mine"
    assert got["method"] == "m"


def test_a_record_makes_the_request_of_its_run(tmp_path, monkeypatch, make_record):
    monkeypatch.setenv("SFDABENCH_DATA", str(tmp_path))
    overrides = {"adabn": {"batch_size": 2}, "cbmt": {"ema": 0.9}}
    given = {"overrides": overrides, "source_overrides": {"epochs": 3}, "precision": "bfloat16"}
    record = make_record("adabn+cbmt", seed=4, **given)
    path = make_record.keep(tmp_path / "out", record)
    assert RunRequest.from_record(path, records.read(path), None, "cpu") == RunRequest(
        method="adabn+cbmt",
        task="refuge2rimone",
        seed=4,
        phantom=True,
        out=tmp_path / "out",
        profile="phantom",
        settings=("adabn.batch_size=2", "cbmt.ema=0.9"),
        source_settings=("epochs=3",),
        device="cpu",
        precision="bfloat16",
        protocols=("strict",),
    )
    with pytest.raises(BadInput, match="is of the phantom; leave --data out"):
        RunRequest.from_record(path, record, tmp_path, "cpu")
    real = make_record("adabn+cbmt", seed=4, **given, data="real")
    assert not RunRequest.from_record(path, real, None, "cpu").phantom
    monkeypatch.delenv("SFDABENCH_DATA")
    with pytest.raises(BadInput, match="made from real data; give --data DIR"):
        RunRequest.from_record(path, real, None, "cpu")


def test_a_record_of_an_imported_source_model_names_it(tmp_path, make_record):
    recipe = {"size": 32, "network": "unet_small", "network_fields": {"width": 4, "depth": 2}}
    record = make_record("cbmt", imported="mine", source=None, recipe=recipe)
    path = make_record.keep(tmp_path, record)
    request = RunRequest.from_record(path, records.read(path), None, "cpu")
    assert request.source == "mine"
    own = ("depth=2", "network=unet_small", "size=32", "width=4")
    assert request.source_settings == own, "masks can be predicted although the model is gone"


def test_a_record_of_settings_resolves_to_itself(sfdabench, tmp_path):
    flags = ("--set", "epochs=1", "--source-set", "epochs=2", "--precision", "bfloat16")
    code, out, err = sfdabench(
        *("run", "--method", "cbmt", "--task", "tiny", "--seed", 1, "--device", "cpu", "--json"),
        *("--out", tmp_path, "--protocol", "dpl", *flags),
    )
    assert code == 0, err
    path = Path(json.loads(out)["record"])
    run = RunRequest.from_record(path, records.read(path), None, "cpu").resolve()
    assert run.overrides == {"cbmt": {"epochs": 1}}
    assert run.source_overrides == {"epochs": 2}
    assert (run.seed, run.precision) == (1, "bfloat16")
    assert run.record_path == path, "the key tells of every field"


def test_the_module_is_light():
    code = (
        "import sys, sfdabench.run.request\n"
        "heavy = {'torch', 'numpy', 'pandas', 'pydantic', 'scipy', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
