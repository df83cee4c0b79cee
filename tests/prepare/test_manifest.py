"""The content hash of a split, and the memo that spares reading."""

import contextlib
import json
import os
import time

import pytest

from sfdabench.core.errors import BadInput
from sfdabench.core.files import hashed, held, sha256_file
from sfdabench.prepare import manifest as module
from sfdabench.prepare.manifest import manifest


def test_manifest_follows_content_names_and_order(cases, tmp_path):
    def now():
        return manifest(cases, tmp_path, tmp_path / "cache")

    before = now()
    assert now() == before
    (tmp_path / "a_mask.png").write_bytes(b"another mask")
    assert now() != before
    cases.reverse()
    assert now() != before


def test_a_manifest_says_how_far_it_is_where_it_has_files_to_read(cases, tmp_path):
    seen = []

    def now():
        stage = contextlib.nullcontext(lambda done, total: seen.append((done, total)))
        return manifest(cases, tmp_path, tmp_path / "cache", lambda: stage)

    assert now() == now()
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    seen.clear()
    (tmp_path / "a_mask.png").write_bytes(b"another mask")
    now()
    assert seen == [(1, 1)]


@pytest.fixture
def look(cases, tmp_path, monkeypatch):
    """look(): the manifest, the names of the files that were read for it, and what was said."""
    read = []
    monkeypatch.setattr(
        module, "sha256_file", lambda path: read.append(path.name) or sha256_file(path)
    )

    def call(**changes):
        read.clear()
        said = []
        found = manifest(cases, tmp_path, tmp_path / "cache", report=said.append, **changes)
        return found, list(read), said

    call.memo = lambda: next((tmp_path / "cache" / "manifests").glob("*.json"))
    return call


ALL = ["a.png", "a_mask.png", "b.png", "b_mask.png"]


def test_bytes_that_change_while_size_and_time_stay_are_noticed(look, tmp_path):
    before, _, _ = look()
    mask = tmp_path / "a_mask.png"
    old = mask.stat()
    while mask.stat().st_ctime_ns == old.st_ctime_ns:  # the disk's clock may tick slowly
        time.sleep(0.001)
        mask.write_bytes(b"ksam")
        os.utime(mask, ns=(old.st_atime_ns, old.st_mtime_ns))
    new = mask.stat()
    assert (new.st_size, new.st_mtime_ns) == (old.st_size, old.st_mtime_ns)
    after, read, said = look()
    assert after != before
    assert read == ["a_mask.png"]
    assert said == []


def test_a_file_in_place_of_another_is_noticed(look, tmp_path):
    before, _, _ = look()
    mask = tmp_path / "a_mask.png"
    old = mask.stat()
    (tmp_path / "new").write_bytes(b"ksam")
    os.utime(tmp_path / "new", ns=(old.st_atime_ns, old.st_mtime_ns))
    (tmp_path / "new").replace(mask)
    assert look()[0] != before


def test_a_cache_that_may_only_be_read(look, tmp_path, monkeypatch):
    """What its memo knows is not read again; what it lacks is read each time, without a lock."""
    before, _, _ = look()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    monkeypatch.setattr(module, "held", lambda *_: pytest.fail("a lock needs a file"))
    assert look() == (before, [], [])
    (tmp_path / "a_mask.png").write_bytes(b"other")
    after, read, _ = look()
    assert (after != before, read) == (True, ["a_mask.png"])
    assert look() == (after, ["a_mask.png"], [])


def test_fresh_reads_every_file(look):
    before, _, _ = look()
    assert look() == (before, [], [])
    assert look(fresh=True) == (before, ALL, [])
    assert look() == (before, [], [])


def as_folder(path):
    path.unlink()
    path.mkdir()


def as_pipe(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    "damage",
    [
        as_folder,
        as_pipe,
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text("null"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text('{"a_mask.png": [1, 2, "x"]}'),
        lambda path: path.write_text(hashed({"files": {"a.png": None}})),
        lambda path: path.write_text(hashed({"files": {"a.png": {"stamp": [1], "sha256": "x"}}})),
    ],
)
def test_a_damaged_memo_is_read_again_from_the_files(look, damage):
    before, read, _ = look()
    assert read == ALL
    damage(look.memo())
    again, read, (line,) = look()
    assert again == before
    assert read == ALL
    assert line.startswith(f"cache {look.memo()}: ")
    assert line.endswith("; all files are hashed again")
    assert look() == (before, [], [])


def test_a_memo_that_answers_is_not_waited_for(look):
    before, _, _ = look()
    with held(look.memo(), lambda line: None):
        assert look() == (before, [], [])


def test_a_memo_that_stands_is_parsed_once(look, monkeypatch):
    before, _, _ = look()
    look()
    monkeypatch.setattr(module, "read_hashed", None)
    assert look() == (before, [], [])


def test_an_edited_memo_is_not_trusted(look):
    before, _, _ = look()
    path = look.memo()
    whole = json.loads(path.read_text())
    whole["body"]["files"]["a_mask.png"]["sha256"] = "0" * 64
    path.write_text(json.dumps(whole))
    again, read, (line,) = look()
    assert again == before
    assert read == ALL
    assert "does not have the hash" in line


def test_what_a_killed_process_left_is_removed(look):
    look()
    left = look.memo().with_name(f".{look.memo().name}.1a2b3c4d.tmp")
    left.write_text("half")
    look()
    assert not left.exists()


@pytest.mark.parametrize("damage", [as_folder, as_pipe, lambda path: path.unlink()])
def test_a_file_of_the_data_that_is_none_is_named(look, tmp_path, damage):
    damage(tmp_path / "b.png")
    with pytest.raises(BadInput, match=r"b\.png: .*; run again when the data are in place"):
        look()
