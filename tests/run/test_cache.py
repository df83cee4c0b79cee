"""`cache list` and `cache clear`: what lies there, what goes, what a process holds."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from sfdabench.core.errors import BadInput
from sfdabench.core.files import held
from sfdabench.core.paths import cache_root
from sfdabench.core.progress import Progress
from sfdabench.run.cache import clear, entries
from sfdabench.run.plan import resolve
from sfdabench.run.runner import execute
from sfdabench.store import records


@pytest.fixture(scope="module")
def of_a_run(tmp_path_factory):
    """The cache of one run, with unfinished work beside it, and a copy that no test touches."""
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFDABENCH_CACHE", str(place / "cache"))
        run = resolve(method="adabn", task="tiny", seed=0, data=None, profile=None,
                      out=place / "out", device="cpu")  # fmt: skip
        record = execute(run, Progress(quiet=True))
        assert record.done, record.traceback
    unfinished = place / "cache" / "stages" / "cbmt-0123.work"
    unfinished.mkdir()
    (unfinished / "threads").write_text("1\n")
    shutil.copytree(place / "cache", place / "kept")
    return place


@pytest.fixture
def cache(of_a_run, monkeypatch):
    """That cache as it was: in the same place, since keys of what it holds may name it."""
    root = of_a_run / "cache"
    shutil.rmtree(root)
    shutil.copytree(of_a_run / "kept", root)
    monkeypatch.setenv("SFDABENCH_CACHE", str(root))
    return cache_root()


def kinds(cache):
    return sorted({entry.kind for entry in entries(cache)})


def test_everything_is_listed_once_with_its_size(cache, sfdabench):
    listed = entries(cache)
    assert kinds(cache) == ["manifests", "phantoms", "prepared", "stages", "unfinished"]
    names = [(entry.kind, entry.name) for entry in listed]
    assert len(set(names)) == len(names)
    there = {p.name for p in (cache / "stages").iterdir() if p.suffix not in (".lock", ".holder")}
    assert {e.name for e in listed if e.kind in ("stages", "unfinished")} == there
    prepared = [entry for entry in listed if entry.kind == "prepared"]
    assert len(prepared) == 4
    assert {len(entry.paths) for entry in prepared} == {2}, "images and labels are one entry"
    files = [p for p in cache.rglob("*") if p.is_file() and p.suffix not in (".lock", ".holder")]
    assert sum(entry.bytes for entry in listed) == sum(p.stat().st_size for p in files)
    code, out, _ = sfdabench("cache", "list")
    assert code == 0
    assert all(name in out.replace("\n", "") for _, name in names)


def test_clear_makes_room_and_the_same_run_makes_all_anew(cache, tmp_path, sfdabench):
    before = {entry.name for entry in entries(cache)}
    dry = clear(cache, dry_run=True)
    assert dry.count == len(before)
    assert {entry.name for entry in entries(cache)} == before
    code, out, _ = sfdabench("cache", "clear")
    assert (code, entries(cache)) == (0, [])
    assert out.startswith("freed ")
    code, out, _ = sfdabench("run", "--method", "adabn", "--task", "tiny", "--device", "cpu",
                             "--out", tmp_path / "out", "--force", "--json")  # fmt: skip
    assert code == 0
    assert {e.name for e in entries(cache)} | {"cbmt-0123.work"} == before


def test_kinds_names_and_ages(cache):
    assert clear(cache, kinds=["unfinished"]).count == 1
    assert "unfinished" not in kinds(cache)
    (stage, *_) = [entry for entry in entries(cache) if entry.kind == "stages"]
    os.utime(stage.paths[0], (time.time() - 9 * 86400,) * 2)
    assert clear(cache, kinds=["stages"], older_than=10).count == 0
    assert clear(cache, kinds=["stages"], older_than=8).count == 1
    (phantom, *_) = [entry for entry in entries(cache) if entry.kind == "phantoms"]
    assert clear(cache, [phantom.name]).count == 1
    assert phantom.name not in {entry.name for entry in entries(cache)}
    assert not any(path.exists() for path in phantom.paths)
    with pytest.raises(BadInput, match="unknown entry of the cache 'nothing'"):
        clear(cache, ["nothing"])


def test_what_a_process_holds_stays(cache):
    name = next(e.name for e in entries(cache) if e.kind == "prepared")
    with held(cache / "prepared" / name, lambda _: None):
        cleared = clear(cache)
        assert any(name in line and "in use by process" in line for line in cleared.kept)
    assert [entry.name for entry in entries(cache)] == [name]


def test_nobody_begins_with_an_entry_while_it_is_removed(cache, monkeypatch):
    from filelock import FileLock, Timeout

    from sfdabench.run import cache as module

    removed, remove = [], module._remove

    def held_meanwhile(path):
        if path.parent.name == "images":
            with pytest.raises(Timeout):
                FileLock(cache / "prepared" / f"{path.name}.lock").acquire(timeout=0)
            removed.append(path)
        remove(path)

    monkeypatch.setattr(module, "_remove", held_meanwhile)
    clear(cache)
    assert removed
    assert entries(cache) == []


def test_what_a_run_reads_stays_until_it_is_over(cache, tmp_path, sfdabench, monkeypatch):
    cleared, write = [], records.write

    def beside(path, record):
        cleared.append(clear(cache_root()))
        write(path, record)

    monkeypatch.setattr(records, "write", beside)
    code, _, err = sfdabench("run", "--method", "adabn", "--task", "tiny", "--device", "cpu",
                             "--out", tmp_path / "again", "--force")  # fmt: skip
    assert code == 0, err
    kept = "\n".join(cleared[-1].kept)
    assert f"in use by process {os.getpid()} on " in kept
    left = [entry.name for entry in entries(cache) if entry.kind in ("prepared", "stages")]
    assert {name.split("-")[0] for name in left} == {"tiny_target", "source_training", "adabn"}
    assert all(name in kept for name in left)
    monkeypatch.undo()
    clear(cache)
    assert entries(cache) == []


def test_what_a_killed_run_read_goes_at_once(cache):
    name = next(e.name for e in entries(cache) if e.kind == "prepared")
    code = (
        "import os, sys; from pathlib import Path; from sfdabench.core.in_use import in_use, note\n"
        "scope = in_use(); scope.__enter__(); note(Path(sys.argv[1])); os.kill(os.getpid(), 9)"
    )
    place = cache / "prepared" / name
    ended = subprocess.run([sys.executable, "-c", code, str(place)], check=False)
    assert ended.returncode == -9
    assert clear(cache, [name]).count == 1


@pytest.fixture
def model(cache, tmp_path):
    """An imported source model."""
    from sfdabench.models.weights import to_bytes
    from sfdabench.networks.unet_small import UNetSmall
    from sfdabench.run.sources import import_file

    file = tmp_path / "mine.safetensors"
    network = UNetSmall(width=4, depth=2).build(channels=3, outputs=2)
    file.write_bytes(to_bytes(network.state_dict()))
    settings = ["width=4", "depth=2"]
    return import_file(
        file, cache=cache, task="tiny", network="unet_small", profile="phantom", settings=settings
    )


def test_imported_models_go_only_where_they_are_named(cache, model):
    clear(cache)
    assert [(entry.kind, entry.name) for entry in entries(cache)] == [
        ("imported", model.folder.name)
    ]
    clear(cache, kinds=["imported"])
    assert entries(cache) == []


@pytest.mark.parametrize(
    "damage",
    [lambda card: card.write_text("{"), lambda card: card.unlink()],
    ids=["damaged", "missing"],
)
def test_an_imported_model_without_its_card_is_named_and_stays(cache, model, sfdabench, damage):
    damage(model.folder / "card.json")
    code, _, err = sfdabench("source", "list")
    (line,) = err.splitlines()
    assert code == 0
    assert line.startswith(f"{model.folder / 'card.json'}: ")
    assert line.endswith("; import the model again with `sfdabench source import`")
    code, out, err = sfdabench("cache", "list")
    assert (code, err.splitlines()) == (0, [line])
    assert ["imported", model.folder.name] in [row.split()[:2] for row in out.splitlines()]
    clear(cache)
    assert [entry.kind for entry in entries(cache)] == ["imported"]
    code, _, err = sfdabench("run", "--method", "adabn", "--task", "tiny", "--source", "mine")
    assert code == 2
    assert line in err
    clear(cache, [model.folder.name])
    assert entries(cache) == []


def test_a_model_where_earlier_versions_kept_it_is_named_and_stays(cache, model, sfdabench):
    before = cache / "stages" / model.folder.name
    model.folder.rename(before)
    _, _, err = sfdabench("source", "list")
    (line,) = err.splitlines()
    assert f"{before}: a model that an earlier version imported" in line
    assert f"import {before / 'weights.safetensors'} with `sfdabench source import`" in line
    for kinds in ([], ["stages"]):
        (kept,) = clear(cache, kinds=kinds).kept
        assert "name it to clear it" in kept
    assert [entry.name for entry in entries(cache)] == [before.name]
    assert clear(cache, [before.name]).count == 1


def test_a_stage_whose_card_is_damaged_may_be_an_imported_model(cache):
    (card, *_) = sorted((cache / "stages").glob("*/card.json"))
    card.write_text("{")
    (kept,) = clear(cache).kept
    assert kept.startswith(f"{card.parent.name}: may be a model that was imported")
    assert str(card) in kept
    assert [entry.name for entry in entries(cache)] == [card.parent.name]
    assert clear(cache, [card.parent.name]).kept == ()
    assert entries(cache) == []
