"""Masks written over the original images score as the record says."""

import json
import shlex
import shutil

import nibabel
import numpy as np
import pytest

from sfdabench.core import registry
from sfdabench.core.errors import BadInput, DataFault
from sfdabench.core.progress import Progress
from sfdabench.present.export import planned
from sfdabench.run import artefacts
from sfdabench.run.plan import resolve
from sfdabench.store import records

QUIET = Progress(quiet=True)


def recorded(out, task, method="source_only", data=None, profile=None):
    from sfdabench.run.runner import execute

    flags = {"method": method, "task": task, "data": data, "profile": profile}
    run = resolve(**flags, seed=0, out=out, device="cpu")
    record = execute(run, QUIET)
    assert record.done, record.traceback
    return run, record


def rewrite(path, record, **changes):
    """Write the record with other values, as a damaged or foreign one would have them."""
    records.write(path, record.model_copy(update=changes))


def mean(rows, label, metric):
    values = [row[metric] for row in rows if row["label"] == label]
    return sum(values) / len(values)


def check_repeats(sfdabench, commands, record):
    """Every score that a record has by protocol strict comes out of the printed commands."""
    said = {}
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "sfdabench"
        code, out, err = sfdabench(*arguments, "--json")
        assert code == 0, err
        rows = json.loads(out)
        for label in {row["label"] for row in rows}:
            metrics = rows[0].keys() - {"case", "label", "undefined"}
            said[label] = {metric: mean(rows, label, metric) for metric in metrics}
    assert said == {
        name: {metric: pytest.approx(value.mean) for metric, value in metrics.items()}
        for name, metrics in record.scores["strict"].items()
    }


def test_photographs_get_a_folder_a_class(tmp_path, sfdabench):
    run, record = recorded(tmp_path / "results", "tiny", "adabn")
    flags = ("--record", run.record_path, "--out", tmp_path / "my masks", "--device", "cpu")
    code, out, err = sfdabench("predict", *flags)
    assert code == 0
    assert out.startswith(f"{4 * record.cases.test} masks in")
    commands = err[err.index("the scores of the record again:") :].splitlines()[1:]
    assert len(commands) == 2
    assert "--class cup=255 --protocol strict" in err
    check_repeats(sfdabench, commands, record)


def test_a_record_of_the_phantom_is_of_the_phantom(tmp_path, monkeypatch):
    """Whatever real data are at hand."""
    run, record = recorded(tmp_path / "results", "tiny")
    monkeypatch.setenv("SFDABENCH_DATA", str(tmp_path))
    again = planned(run.record_path, None, "cpu", QUIET)
    assert (again.data, again.target_test.inputs) == ("phantom", run.target_test.inputs)
    assert again.source_test == ()
    again = planned(run.record_path, None, "cpu", QUIET, source=True)
    assert (again.data, again.key) == ("phantom", run.key)
    with pytest.raises(BadInput, match="is of the phantom; leave --data out"):
        planned(run.record_path, tmp_path, "cpu", QUIET)

    rewrite(run.record_path, record, data="real")
    with pytest.raises(DataFault, match=str(tmp_path)):
        planned(run.record_path, None, "cpu", QUIET)
    monkeypatch.delenv("SFDABENCH_DATA")
    with pytest.raises(BadInput, match="made from real data; give --data DIR"):
        planned(run.record_path, None, "cpu", QUIET)


def test_what_an_online_method_predicted_is_gone(tmp_path):
    from sfdabench.present.export import export

    run, _ = recorded(tmp_path / "results", "tiny", "tent_online")
    with pytest.raises(BadInput, match="learnt while it predicted"):
        export(run.record_path, tmp_path / "masks", None, "cpu", QUIET)


def test_volumes_lie_over_their_files_and_score_as_recorded(tmp_path, sfdabench):
    from sfdabench.present.export import export

    run, record = recorded(tmp_path / "results", "tiny_volume")
    exported = export(run.record_path, tmp_path / "masks", None, "cpu", QUIET)
    case = run.target_test.cases[0]
    image = nibabel.load(case.image[0])
    mask = nibabel.load(tmp_path / "masks" / "references" / f"{case.id}.nii.gz")
    truth = nibabel.load(case.label[0])
    assert mask.shape == image.shape
    assert np.allclose(mask.affine, image.affine)
    assert (np.asarray(mask.dataobj) == np.asarray(truth.dataobj)).all()
    (flags,) = exported.score
    check_repeats(sfdabench, [shlex.join(["sfdabench", "score", *flags])], record)
    assert "whole=1,2,4" in flags


def test_commands_name_the_values_of_the_files(tmp_path, drawings):
    """MALBCV's files have encodings of their own: the suite's 1, the liver, is their 6."""
    from sfdabench.present.export import _file_values, _score_flags

    dataset = registry.load("datasets", "malbcv")()
    case = next(case for case in dataset.cases(drawings.root("malbcv")) if case.label)
    task = registry.load("tasks", "chaos2malbcv")
    values = _file_values(dataset, case, task)
    (flags,) = _score_flags(tmp_path, task, values)
    assert values["liver"] == 6
    assert flags[4:6] == ["--class", "liver=6"]


def test_a_record_of_other_files_is_refused(tmp_path):
    from sfdabench.present.export import export

    run, record = recorded(tmp_path / "results", "tiny")
    other = run.record_path.with_name("other.json")
    rewrite(other, record, manifest_sha256="0" * 64)
    with pytest.raises(BadInput, match="other files than those of the phantom"):
        export(other, tmp_path / "masks", None, "cpu", QUIET)
    rewrite(other, record, source_key="0" * 64)
    planned(other, None, "cpu", QUIET)  # masks need no source
    with pytest.raises(BadInput, match="its source model was made otherwise"):
        planned(other, None, "cpu", QUIET, source=True)
    rewrite(other, record)
    shutil.copy(run.record_path.with_suffix(".safetensors"), other.with_suffix(".safetensors"))
    data = bytearray(other.with_suffix(".safetensors").read_bytes())
    data[-1] ^= 1
    other.with_suffix(".safetensors").write_bytes(data)
    with pytest.raises(BadInput, match=r"other\.safetensors: not the weights that other\.json"):
        export(other, tmp_path / "masks", None, "cpu", QUIET)
    run.record_path.with_suffix(".safetensors").unlink()
    with pytest.raises(BadInput, match="weights of this record"):
        export(run.record_path, tmp_path / "masks", None, "cpu", QUIET)


def test_masks_need_no_source_data(tmp_path, drawings):
    """Nor the source model: the weights beside the record are all."""
    from sfdabench.present.export import export

    drawings.copy(tmp_path / "data", "tiny_source", "tiny_target")
    run, record = recorded(tmp_path / "results", "tiny", data=tmp_path / "data", profile="phantom")
    for folder in (tmp_path / "data").glob("*Training400"):
        shutil.rmtree(folder)
    shutil.rmtree(artefacts.place(run.cache, run.source))
    exported = export(run.record_path, tmp_path / "masks", tmp_path / "data", "cpu", QUIET)
    assert len(exported.files) == 4 * record.cases.test


def test_what_is_refused_makes_no_folder(tmp_path, sfdabench):
    record = tmp_path / "r.json"
    record.write_text("{}")
    record.with_suffix(".csv").write_text("")
    masks = tmp_path / "masks"
    for given, message in (
        (record, "not a record of sfdabench"),
        (record.with_suffix(".csv"), f"give {record}"),
    ):
        code, _, err = sfdabench("predict", "--record", given, "--out", masks)
        assert code == 2
        assert message in err
    assert not masks.exists()


def test_a_failed_run_has_no_masks(tmp_path):
    from sfdabench.present.export import export

    run, record = recorded(tmp_path / "results", "tiny")
    rewrite(run.record_path, record, status="failed", reason="diverged")
    with pytest.raises(BadInput, match="diverged"):
        export(run.record_path, tmp_path / "masks", None, "cpu", QUIET)
