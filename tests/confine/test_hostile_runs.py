"""Whole runs of plug-ins that attack: a run is refused, or its score is the honest one."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sfdabench.confine import lock
from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.progress import Progress
from sfdabench.run import artefacts
from sfdabench.run.plan import resolve
from sfdabench.run.runner import execute

pytestmark = pytest.mark.skipif(lock.best() != "landlock", reason="this system has no Landlock")

HOSTILE = Path(__file__).parent / "hostile"


@pytest.fixture(scope="module")
def bait(tmp_path_factory):
    """The folder of the plug-ins, of which a file tells them from the start what to look for."""
    folder = tmp_path_factory.mktemp("hostile") / "plugins"
    shutil.copytree(HOSTILE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    known = list(registry._plugins)
    registry.add_plugins(folder)
    yield folder / "bait.txt"
    registry._plugins[:] = known


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def go(bait, out):
    """go(attack, target, **choices): the record of a run of the hostile method."""

    def run(attack="none", target="", settings=(), method="hostile", **choices):
        target = target if isinstance(target, str) else "\n".join(map(str, target))
        fields = [f"attack={attack}", f"target={target}"]
        plan = resolve(
            **{"task": "tiny", "seed": 0, "data": None, "profile": None} | choices,
            method=method,
            settings=[*(fields if method == "hostile" else ()), *settings],
            out=out,
            device="cpu",
        )
        return execute(plan, Progress(quiet=True))

    return run


@pytest.fixture
def honest(go):
    record = go()
    assert record.deployed_sha256 == record.source_sha256
    assert record.lock == "landlock"
    return record


@pytest.fixture
def prizes(go, out, session_cache, tmp_path):
    """What an attacker may want -> files and folders, each of them there."""
    go(method="cbmt", settings=["epochs=2"])
    prepared, stages = session_cache / "prepared", session_cache / "stages"
    (tmp_path / "password").write_text("secret")
    prizes = {
        "labels of the target": prepared.glob("labels/tiny_target-*/*"),
        "labels of the source": prepared.glob("labels/tiny_source-*/*"),
        "images of the source": prepared.glob("images/tiny_source-*/*"),
        "images of the test split": prepared.glob("images/tiny_target-test-*/*"),
        "files of the data set": (session_cache / "phantoms").glob("tiny_*/**/*.*"),
        "records": out.glob("tiny/*/*"),
        "masks of another stage": stages.glob("cbmt-*/audit/*"),
        "weights of another stage": stages.glob("cbmt-*/weights.safetensors"),
        "a file of the user": [tmp_path / "password"],
    }
    prizes = {name: [p for p in paths if p.is_file()] for name, paths in prizes.items()}
    assert all(prizes.values()), prizes
    return prizes


def everything(prizes):
    return [path for paths in prizes.values() for path in paths]


def same(record, honest):
    return (record.status, record.scores, record.deployed_sha256) == (
        *("done", honest.scores),
        honest.deployed_sha256,
    )


def test_a_method_reads_nothing_else(prizes, go, honest):
    """One byte of any of them would show, as the next test but one says."""
    assert same(go("read", everything(prizes)), honest)


def test_a_method_writes_nothing_else(prizes, go, honest):
    before = {path: path.read_bytes() for path in everything(prizes)}
    assert same(go("overwrite", everything(prizes)), honest)
    assert {path: path.read_bytes() for path in before} == before


def test_an_attack_that_succeeds_would_show(prizes, go, honest, bait):
    """What a method may read stands in for what it may not."""
    record = go("read", [bait.parent / "attacks.py"])
    assert record.done
    assert record.deployed_sha256 != honest.deployed_sha256
    assert record.scores != honest.scores


def test_epochs_are_sealed(prizes, go):
    assert same(go("epochs", everything(prizes)), go("epochs"))


@pytest.mark.parametrize("attack", ["none", "collected", "epochs"])
def test_at_import_and_when_an_object_is_collected(attack, prizes, go, bait):
    """Files that are opened, and a thread that is begun, when the plug-in is imported."""
    expected = go(attack)
    bait.write_text("\n".join(map(str, everything(prizes))))
    try:
        record = go(attack, "/nothing")
    finally:
        bait.unlink()
    assert same(record, expected)


def test_a_source_stage_reads_no_target(prizes, go, honest):
    target = [path for path in everything(prizes) if "tiny_source" not in str(path)]
    record = go("stage", settings=["hostile_side.target=" + "\n".join(map(str, target))])
    assert same(record, honest)


def test_a_network_reads_no_label_while_it_predicts(prizes, go, tmp_path, session_cache):
    """And what it sees there it can leave nowhere."""
    network = ["network=hostile_net", "width=4", "depth=2"]
    expected = go(source_settings=network)
    mailbox = [tmp_path / "images", Path.home() / "sfdabench-images", "/dev/shm/sfdabench-images"]
    mailbox += [Path(tempfile.gettempdir()) / "sfdabench-images"]
    mailbox += [session_cache / "stages" / "sfdabench-images"]
    # Its training may read the source's, and its predictions the target's images.
    target = [
        p for p in everything(prizes) if "tiny_source" not in str(p) and "images" not in str(p)
    ]
    fields = {"target": target, "mailbox": mailbox}
    more = [f"{name}=" + "\n".join(map(str, paths)) for name, paths in fields.items()]
    record = go(source_settings=[*network, *more])
    assert same(record, expected)
    assert not any(Path(path).exists() for path in mailbox)


def test_patches_of_the_suite_stay_in_the_process(go, honest):
    assert same(go("patch_the_suite"), honest)


@pytest.mark.parametrize(
    ("attack", "reason"),
    [
        ("other_weights", "replaced"),
        ("garbage_for_weights", "not a whole safetensors file"),
        ("link_for_weights", "left nothing"),
        ("folder_for_weights", "something else than a file"),
        ("silent_end", "no result"),
        ("raw", "no message"),
        ("long", "longer than"),
        ("many", "a"),
        ("online_large", "masks"),
        ("online_other_protocol", "masks"),
        ("online_one_class", "masks"),
        ("online_none", "masks"),
    ],
)
def test_a_forgery_is_refused(attack, reason, go, prizes):
    record = go(attack, prizes["labels of the target"] if "link" in attack else "")
    assert record.status == "failed"
    assert reason in record.reason
    assert "\n" not in record.reason
    assert record.scores == {}


def result(**changes):
    honest = {"composite": None, "curves": {}, "notes": {}, "threads": 1}
    return {"result": honest | {"memory_format": None, "peak_device_bytes": None} | changes}


MESSAGES = (
    *(7, None, "text", [1], {}, {"nothing": 1}),
    *({"advance": None}, {"advance": [1]}, {"advance": ["a", "b"]}, {"advance": {"a": 1}}),
    *({"audit": []}, {"audit": ["../../x", 0, "c"]}, {"audit": [0, "0", "c"]}),
    *({"predict": None}, {"predict": "x"}, {"predict": {"name": "x"}}),
    *({"result": 5}, {"result": {}}, {"result": None}, {"error": 5}, {"error": {}}),
    *({"error": {"kind": "SystemExit", "message": "0"}}, {"error": {"number": 10**30}}),
    *({"breach": None}, {"breach": ["a"]}),
    *(result(composite=5), result(composite="x"), result(composite={"name": "x"})),
    *(result(curves=5), result(curves={"a": "b"}), result(curves={"a": [None]})),
    *(result(notes={"a": "b"}), result(notes=[1]), result(threads="many"), result(threads=-1)),
    *(result(threads=None), result(memory_format=5), result(peak_device_bytes="x")),
    *(result(peak_device_bytes=-1), result(more=1)),
)


@pytest.mark.parametrize("message", MESSAGES, ids=json.dumps)
def test_a_forged_message_is_refused(message, go):
    try:
        record = go("message", json.dumps([message]))
    except BadInput as error:
        reason = str(error)
    else:
        assert record.status == "failed"
        assert record.scores == {}
        reason = record.reason
    assert "\n" not in reason


def test_honest_messages_pass(go, honest):
    """Else those above would prove nothing."""
    assert same(go("message", json.dumps([])), honest)


def test_nothing_is_left(session_cache, out):
    assert not list(artefacts.root(session_cache).glob("hostile-*.work"))
    assert not list(out.rglob("*.work"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="is not root")
def test_all_of_it_as_a_plain_user():
    """The attacks of this file and of test_hostile.py, tried by nobody."""
    nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, 65534, 65534)
        environment = os.environ | {"HOME": home, "TMPDIR": home}
        try:
            subprocess.run([sys.executable, "-c", ""], check=True, cwd=home, **nobody)
        except PermissionError:
            pytest.skip("nobody else than root can start this interpreter")
        files = [Path(__file__), Path(__file__).with_name("test_hostile.py")]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, files)]
        process = subprocess.run(
            command, cwd=home, env=environment, capture_output=True, text=True, **nobody
        )
    assert process.returncode == 0, process.stdout
    assert " passed" in process.stdout
