"""Records: what is read, and what is refused."""

import json
import os
from pathlib import Path

import pytest

from sfdabench.core.errors import BadInput
from sfdabench.store import records
from sfdabench.store.records import Record


@pytest.fixture
def path(make_record, tmp_path):
    return make_record.keep(tmp_path, make_record("cbmt", curves={"cbmt": {"weight": [0.25]}}))


def edited(path, change):
    """The file with its JSON changed in place."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_what_is_written_is_read(make_record, path):
    record = make_record("cbmt", curves={"cbmt": {"weight": [0.25]}})
    assert records.read(path) == record
    assert list(json.loads(path.read_text()))[:3] == ["schema", "key", "status"]
    assert record.chain == ("cbmt",)
    assert record.curves["cbmt"]["weight"] == (0.25,)


def test_a_failed_run_may_lack_what_could_not_be_made(make_record, tmp_path):
    bare = make_record("cbmt", status="failed", reason="the disk is full", source=None,
                       source_sha256=None, unadapted=None, seconds={"total": 3.0})  # fmt: skip
    found = records.read(make_record.keep(tmp_path, bare))
    assert (found.scores, found.audit, found.deployed_sha256) == ({}, None, None)
    assert not found.done


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"schema": 2', "not a whole record .*delete it and run again"),
        ("", "not a whole record"),
        ("[" * 100_000, "not a whole record .*recursion"),
        (f'{{"schema": 1{"0" * 5000}}}', "not a whole record .*out of range"),
        ('{"schema": NaN}', "not a whole record"),
        ("[]", "not a record of sfdabench; move it out"),
        ("null", "not a record of sfdabench; move it out"),
        ('{"schema": 1, "status": "done"}', "record schema 1, this version of sfdabench reads 2"),
        ('{"schema": true}', "record schema True, this version"),
        ('{"schema": 2.0}', r"record schema 2\.0, this version"),
        ('{"schema": 2, "status": "done"}', r"not a record of this version \(key: Field required"),
    ],
)
def test_files_that_are_no_records(tmp_path, text, message):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(BadInput, match=f"{path}: {message}"):
        records.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(seed="0"), r"\(seed: Input should be a valid integer\)"),
        (lambda r: r.update(seed=True), r"\(seed: "),
        (lambda r: r.update(seed=-1), r"\(seed: "),
        (lambda r: r.update(key="c0ffee"), r"\(key: "),
        (lambda r: r.update(extra=1), r"\(extra: Extra inputs"),
        (lambda r: r.update(path="a/b/c.json"), r"\(path: Extra inputs"),
        (lambda r: r.update(schema_version=3), r"\(schema_version: "),
        (lambda r: r.update(status="failed"), "a failed run has a reason"),
        (lambda r: r.update(reason="x"), "a failed run has a reason, a finished one has none"),
        (lambda r: r.update(unadapted=None), "unadapted: names no record of source_only"),
        (lambda r: r.update(method="tent"), "fields or overrides are not those of tent"),
        (lambda r: r.update(setting="magic"), r"\(setting: .*none, SFDA"),
        (lambda r: r["scores"].update(cbmt={}), "empties are of other protocols"),
        (lambda r: r["scores"]["strict"]["cup"].pop("dice"), "a class has no Dice"),
        (lambda r: r["scores"]["strict"]["cup"]["dice"].update(n=0), "no mean over none"),
        (lambda r: r["empties"]["strict"].pop("cup"), "of other classes than the scores"),
        (lambda r: r["audit"]["epochs"].pop(), "dice_by_epoch is not of 1 epochs"),
        (lambda r: r["audit"].update(epochs=[3, 1]), "epochs are not in order"),
        (lambda r: r["audit"]["last"].update(epoch=2), "names an epoch beyond the 2 audited ones"),
        (lambda r: r["audit"]["gap"].pop("strict"), "its parts are of other protocols"),
        (lambda r: r["curves"].update(tent={}), "curves are not those of cbmt"),
        (lambda r: r.update({"a\nb\x1b[31m": 1}), r"\(a b \[31m: Extra"),
    ],
)
def test_what_a_record_must_hold(make_record, tmp_path, change, message):
    record = make_record("cbmt", audit=make_record.audit([0.5, 0.6]))
    path = edited(make_record.keep(tmp_path, record), change)
    with pytest.raises(BadInput, match=message) as error:
        records.read(path)
    assert str(error.value).endswith("delete it and run again")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", ["1e999", "NaN", "-Infinity"])
def test_numbers_are_finite_everywhere(path, number):
    text = path.read_text()
    for old in ("0.25", "72"):
        assert old in text
        path.write_text(text.replace(old, number))
        with pytest.raises(BadInput, match=f"{path}: not a "):
            records.read(path)


@pytest.mark.parametrize("suffix", [".csv", ".safetensors"])
def test_a_neighbour_of_a_record_names_the_record(path, suffix):
    with pytest.raises(BadInput, match=rf"\{suffix}: a record ends in .json; give {path}$"):
        records.read(path.with_suffix(suffix))


def test_a_folder_above_may_be_hidden(path, tmp_path):
    """Work folders and other comparisons inside are not looked into, whatever stands above."""
    out = tmp_path / ".hidden" / "out"
    for folder in ("task/method", "task/.method", "task/method/a.work", "phantom/task/method"):
        (out / folder).mkdir(parents=True)
        (out / folder / "r.json").write_bytes(path.read_bytes())
    found, problems = records.read_all(out)
    assert [record.path for record in found] == ["task/method/r.json"]
    assert not problems
    again = tmp_path / "again.json"
    records.write(again, found[0])
    assert again.read_bytes() == path.read_bytes(), "where it lies is not written into it"


def test_each_file_that_is_no_record_is_one_line_and_the_rest_is_read(path, tmp_path, monkeypatch):
    folder = path.parent
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "nowhere.json").symlink_to(tmp_path / "nowhere")
    (folder / "latin.json").write_bytes(b'{"schema": 2, "task": "\xe9"}')
    (folder / "locked.json").write_text("{}")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.json")).write_text("{}")
    read_bytes = Path.read_bytes

    def refuse(self):  # root may read anything, so a mode would not do
        if self.name == "locked.json":
            raise PermissionError(13, "Permission denied")
        return read_bytes(self)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    found, problems = records.read_all(tmp_path)
    assert [record.path for record in found] == [str(path.relative_to(tmp_path))]
    said = {Path(line.split(":")[0]).name: line.split(": ", 1)[1] for line in problems}
    assert said["folder.json"] == said["pipe.json"] == "no file; move it out of the results folder"
    assert said["nowhere.json"] == "cannot be read (No such file or directory)"
    assert said["locked.json"] == "cannot be read (Permission denied)"
    assert said["latin.json"].startswith("not a whole record (invalid unicode")
    assert said["\ufffd.json"].startswith("the name is no UTF-8")
    assert len(problems) == 6


def test_the_unadapted_scores_are_those_of_the_record_it_names(make_record, tmp_path):
    record = make_record("cbmt")
    with pytest.raises(BadInput, match=r"source_only/.*\.json: cannot be read \(No such file"):
        records.unadapted_of(record, tmp_path)
    plain = make_record("source_only")
    assert plain.key == record.unadapted
    path = make_record.keep(tmp_path, plain)
    assert records.unadapted_of(record, tmp_path) == plain
    assert records.unadapted_of(plain, tmp_path) is plain
    for other in (
        make_record("source_only", key=plain.key, source_sha256="0" * 64),
        make_record("source_only", key="0" * 64),
        make_record("source_only", key=plain.key, status="failed"),
        make_record("adabn", key=plain.key),
    ):
        records.write(path, other)
        with pytest.raises(BadInput, match=f"{path}: not the finished run of source_only"):
            records.unadapted_of(record, tmp_path)
    failed = make_record("cbmt", status="failed")
    with pytest.raises(BadInput, match="cbmt of seed 0 failed before it had one"):
        records.unadapted_of(failed, tmp_path)


def test_a_record_cannot_be_changed(make_record):
    with pytest.raises(ValueError, match="frozen"):
        make_record().seed = 1
    assert isinstance(make_record(), Record)
