"""A whole run in this process, on a task of a few seconds."""

import unittest.mock

import pytest

from sfdabench.confine import client
from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.progress import Progress
from sfdabench.run import artefacts, runner
from sfdabench.run.plan import resolve
from sfdabench.store import cases, records

QUIET = Progress(quiet=True)


def plan(out, method="source_only", **changes):
    return resolve(
        **({"method": method, "task": "tiny", "seed": 0, "data": None, "profile": None} | changes),
        out=out,
        device="cpu",
    )


def go(run, **changes):
    from sfdabench.run.runner import execute

    return execute(run, QUIET, **changes)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def adapted(out, session_cache):
    import os

    os.environ["SFDABENCH_CACHE"] = str(session_cache)
    run = plan(out, "cbmt", settings=["epochs=3"])
    return run, go(run)


def test_record_holds_what_a_reader_asks_for(adapted):
    run, record = adapted
    assert record.status == "done", record.traceback
    assert record == records.read(run.record_path)
    assert record.data == "phantom"
    assert record.fields["cbmt"]["epochs"] == 3
    assert record.overrides == {"cbmt": {"epochs": 3}}
    assert record.setting == "SFDA"
    assert record.device == "cpu"
    assert record.precision == "float32"
    assert record.threads >= 1
    assert set(record.scores) == {"strict", "cbmt"}
    assert set(record.scores["strict"]) == {"cup", "disc"}
    assert record.scores["strict"]["disc"]["dice"].n == record.cases.test
    assert len(record.curves["cbmt"]["weight"]) == 3
    assert record.peak_memory_bytes > 0
    assert all(v is not None for v in record.seconds.model_dump().values())
    assert [(s.maker, s.name) for s in record.stages] == [
        ("stages", "source_training"),
        ("methods", "cbmt"),
    ]
    assert [s.sha256 for s in record.stages] == [record.source_sha256, record.deployed_sha256]
    assert record.source_key == record.stages[0].key == run.source.key


def test_means_are_those_of_the_case_file(adapted):
    run, record = adapted
    values = [
        float(row["value"])
        for row in cases.read(run.record_path)
        if (row["protocol"], row["class"], row["metric"]) == ("strict", "cup", "dice")
    ]
    assert len(values) == record.cases.test
    assert sum(values) / len(values) == pytest.approx(record.scores["strict"]["cup"]["dice"].mean)


def test_audit_is_of_the_epochs_and_its_last_is_the_score(adapted):
    _, record = adapted
    audit = record.audit
    assert audit.epochs == (0, 1, 2)
    for protocol, dice in audit.dice_by_epoch.items():
        assert len(dice) == 3
        best = audit.best.epoch[protocol]
        assert dice[best] == max(dice)
        means = record.scores[protocol]
        last = sum(means[name]["dice"].mean for name in means) / len(means)
        assert dice[-1] == pytest.approx(last)
        assert audit.gap[protocol] == pytest.approx(max(dice) - last)
    assert audit.best.oracle is True


def test_a_finished_run_is_found_and_force_repeats_it_bit_for_bit(adapted):
    run, record = adapted
    stamp = run.record_path.stat().st_mtime_ns
    assert go(run).deployed_sha256 == record.deployed_sha256
    assert run.record_path.stat().st_mtime_ns == stamp
    again = go(run, force=True)
    assert run.record_path.stat().st_mtime_ns != stamp
    assert again.deployed_sha256 == record.deployed_sha256
    assert again.scores == record.scores


def test_the_unadapted_scores_are_the_source_models_own_record(adapted, out):
    """Every method names it; it is made with the first of them and never again."""
    run, record = adapted
    stamp = run.unadapted.record_path.stat().st_mtime_ns
    plain = go(plan(out))
    assert plan(out).record_path.stat().st_mtime_ns == stamp
    assert plain.key == record.unadapted
    assert plain.source_sha256 == record.source_sha256 == plain.deployed_sha256
    assert (plain.unadapted, plain.audit, plain.setting) == (None, None, "none")
    assert records.unadapted_of(record, out) == plain
    labelled = plan(out, "supervised", settings=["epochs=1"])
    assert labelled.unadapted.record_path == plan(out).record_path
    with_another = plan(out, "cbmt", settings=["epochs=3"], protocols=["beal"])
    assert with_another.unadapted.key != plain.key


def test_deployed_weights_are_on_disk_under_their_hash(adapted):
    from sfdabench.models.weights import read, sha256

    run, record = adapted
    assert sha256(read(run.record_path.with_suffix(".safetensors"))) == record.deployed_sha256


def test_a_chain_starts_from_what_the_first_deploys(adapted, out):
    chained = go(plan(out, "adabn+source_only"))
    alone = go(plan(out, "adabn"))
    assert chained.deployed_sha256 == alone.deployed_sha256
    assert chained.method == "adabn+source_only"
    assert chained.stages == alone.stages


def test_the_first_of_a_chain_is_adapted_once_for_its_own_row_and_the_chain(adapted, out):
    """The two share a stage, so the second run finds it."""
    from sfdabench.run import realise

    settings = ["adabn.batch_size=3", "threshold.epochs=1"]
    chained = plan(out, "adabn+threshold", settings=settings)
    alone = plan(out, "adabn", settings=["batch_size=3"])
    assert chained.links[0].key == alone.final.key
    first = go(chained)
    with unittest.mock.patch.object(realise, "_Making", side_effect=AssertionError("made again")):
        second = go(alone)
    assert second.status == "done", second.traceback
    assert second.deployed_sha256 == first.stages[1].sha256


def test_an_online_method_is_scored_by_what_it_predicted_while_it_learnt(adapted, out):
    record = go(plan(out, "tent_online"))
    assert record.status == "done", record.traceback
    assert (record.method, record.setting) == ("tent", "TTA")
    assert record.overrides == {"tent": {"online": True}}
    assert record.audit is None
    assert record.deployed_sha256 != record.source_sha256
    assert record.scores != records.unadapted_of(record, out).scores
    again = go(plan(out, "tent_online"), force=True)
    assert again.scores == record.scores
    assert again.deployed_sha256 == record.deployed_sha256
    (loss,) = record.curves["tent"]["loss"]
    assert loss > 0
    others = go(plan(out, "tent_online", settings=["batch_size=1"]))
    assert others.scores != record.scores


def test_an_online_method_that_diverges_is_a_failed_run(adapted, out, in_process):
    run = plan(out, "tent_online", settings=["learning_rate=0.02"])
    with unittest.mock.patch(
        "sfdabench.primitives.entropy.mean_entropy",
        lambda logits, head: logits.mean() * float("nan"),
    ):
        record = go(run)
    assert record.status == "failed"
    assert record.reason == ("loss is nan in its pass over the test images: the training diverged")


def test_a_killed_run_goes_on_with_the_threads_it_was_begun_with(
    adapted, tmp_path, monkeypatch, in_process
):
    """In the source training and in the adaptation, each time under another count."""
    import torch

    from sfdabench.core.checkpoint import CheckpointKeeper

    _, whole = adapted
    monkeypatch.setenv("SFDABENCH_CACHE", str(tmp_path / "cache"))
    again = plan(tmp_path / "out", "cbmt", settings=["epochs=3"])
    save, seen = CheckpointKeeper.end_of_epoch, []

    def kill_in(name):
        def end_of_epoch(self, stage, epoch, *arguments, **named):
            save(self, stage, epoch, *arguments, **named)
            seen.append(torch.get_num_threads())
            if name in str(self.folder) and epoch == 1:
                raise KeyboardInterrupt

        monkeypatch.setattr(CheckpointKeeper, "end_of_epoch", end_of_epoch)

    said = []
    monkeypatch.setattr(QUIET, "say", said.append)
    for count, name in enumerate(("source_training", "cbmt"), whole.threads):
        monkeypatch.setenv("OMP_NUM_THREADS", str(count))
        kill_in(name)
        with pytest.raises(KeyboardInterrupt):
            go(again)
    monkeypatch.setenv("OMP_NUM_THREADS", str(count + 1))
    kill_in("nowhere")
    record = go(again)
    assert set(seen) == {whole.threads} == {record.threads}
    assert sum("goes on with as many" in line for line in said) == 2
    assert record.source_sha256 == whole.source_sha256
    assert record.deployed_sha256 == whole.deployed_sha256


@pytest.mark.parametrize("method", ["cbmt", "tent_online"])
def test_killed_while_its_files_are_moved_into_place(method, tmp_path, monkeypatch):
    """The masks of each epoch may be in the artefact already, and its card not yet."""
    settings = ["epochs=3"] if method == "cbmt" else []
    monkeypatch.setenv("SFDABENCH_CACHE", str(tmp_path / "cache"))
    run, write = plan(tmp_path / "out", method, settings=settings), artefacts.write_card

    def killed(folder, card):
        if card.stage["kind"] == "methods":
            raise KeyboardInterrupt
        return write(folder, card)

    with monkeypatch.context() as patch:
        patch.setattr(artefacts, "write_card", killed)
        with pytest.raises(KeyboardInterrupt):
            go(run)
    record = go(run)
    assert record.status == "done", record.traceback
    again = go(run, force=True)
    assert again.deployed_sha256 == record.deployed_sha256
    assert (again.scores, again.audit) == (record.scores, record.audit)


def test_what_the_first_of_a_chain_froze_the_second_may_train(adapted, out):
    """A mean teacher deploys a model without gradients."""
    record = go(
        plan(out, "mean_teacher+pseudo_label", settings=["mean_teacher.epochs=1", "labels=online"])
    )
    assert record.status == "done", record.traceback


def test_an_oracle_says_so(adapted, out):
    record = go(plan(out, "supervised", settings=["epochs=2"]))
    assert record.status == "done", record.traceback
    assert record.setting == "supervised"


def test_another_seed_is_another_source_model(adapted, out):
    run, _ = adapted
    other = plan(out, "cbmt", seed=1, settings=["epochs=3"])
    assert other.key != run.key
    assert other.source.key != run.source.key


METHOD = """
from dataclasses import dataclass
from sfdabench.core.method import Method

@dataclass(frozen=True)
class Bad(Method):
    '''Breaks a rule.'''

    def adapt(self, context):
        {body}
        return context.model()
"""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise KeyError('oops')", "KeyError: 'oops'"),
        ("context.labelled_target", "without declaring needs.target_labels"),
        ("next(context.start_model.parameters()).data.add_(1)", "changed the source model"),
        ("open({label!r}).read()", "a stage can read what it declares and nothing else"),
        ("return None", "returned NoneType, not a model"),
    ],
    ids=["bug", "undeclared", "source model", "label file", "no model"],
)
def test_a_failed_run_is_a_record_with_its_reason(
    body, reason, adapted, tmp_path, monkeypatch, session_cache
):
    monkeypatch.setattr(registry, "_plugins", list(registry._plugins))
    (tmp_path / "methods").mkdir()
    label = str(adapted[0].target_train.cases[0].label[0])
    text = METHOD.format(body=body.replace("{label!r}", repr(label)))
    (tmp_path / "methods" / "bad.py").write_text(text)
    registry.add_plugins(tmp_path)
    run = plan(tmp_path / "out", "bad")
    record = go(run)
    assert record.status == "failed"
    assert reason in record.reason
    assert records.read(run.record_path).status == "failed"
    assert record.source_sha256 == adapted[1].source_sha256
    assert record.scores == {}
    assert not run.record_path.with_suffix(".work").exists()


def test_a_failed_run_is_tried_again(tmp_path, monkeypatch, adapted):
    run = plan(tmp_path)
    failed = records.unadapted_of(adapted[1], adapted[0].out).model_dump(by_alias=True)
    failed |= {"status": "failed", "reason": "no power"}
    records.write(run.record_path, records.Record.model_validate(failed))
    assert go(run).status == "done"


def test_a_corrupt_source_model_is_found_by_its_hash_and_trained_anew(
    tmp_path, monkeypatch, adapted
):
    monkeypatch.setenv("SFDABENCH_CACHE", str(tmp_path / "cache"))
    run = plan(tmp_path / "out")
    first = go(run)
    path = next((tmp_path / "cache" / "stages").glob("source_training-*/weights.safetensors"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    again = go(run, force=True)
    assert again.source_sha256 == first.source_sha256
    path.write_bytes(b"short")
    assert go(run, force=True).source_sha256 == first.source_sha256
    card = path.with_name("card.json")
    for text in ("null", "[]", "{", card.read_text().replace('"size": 32', '"size": 33')):
        card.write_text(text)
        assert go(run, force=True).source_sha256 == first.source_sha256


def test_weights_of_another_network_are_refused_before_the_data_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("SFDABENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "w.pth").write_bytes(b"")
    run = plan(tmp_path / "out", source_settings=[f"backbone_weights={tmp_path / 'w.pth'}"])
    with pytest.raises(BadInput, match=r"w\.pth: unet_small has no pretrained backbone"):
        go(run)
    assert not (tmp_path / "cache" / "prepared").exists()
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []
    assert not list((tmp_path / "cache").glob("stages/*.work"))


def test_a_refused_run_leaves_a_work_folder_only_with_work_in_it(tmp_path, adapted):
    run = plan(tmp_path, seed=7)
    folder = artefacts.place(run.cache, run.source)
    threads = folder.with_name(f"{folder.name}.work") / "threads"
    threads.parent.mkdir(parents=True)
    threads.write_text("many")
    with pytest.raises(BadInput, match="holds no number of threads"):
        go(run)
    assert not threads.parent.exists()
    threads.parent.mkdir()
    threads.write_text("many")
    (threads.parent / "open").mkdir()
    (threads.parent / "open" / "stage-0.safetensors").touch()
    with pytest.raises(BadInput, match="holds no number of threads"):
        go(run)
    assert threads.exists()


def test_bad_records_are_named(tmp_path, adapted):
    run = plan(tmp_path)
    run.record_path.parent.mkdir(parents=True)
    run.record_path.write_text('{"schema": 2, "sta')
    with pytest.raises(BadInput, match="not a whole record"):
        go(run)
    run.record_path.write_text('{"schema": 99}')
    with pytest.raises(BadInput, match="record schema 99"):
        go(run)
    everything, problems = records.read_all(tmp_path)
    assert everything == []
    assert len(problems) == 1


def test_code_that_is_edited_between_plan_and_run_makes_no_number(tmp_path):
    """The record's key names the code of before."""
    method = tmp_path / "plugins" / "methods" / "edited.py"
    method.parent.mkdir(parents=True)
    text = (
        "from dataclasses import dataclass\n"
        "from sfdabench.core.method import Method\n"
        "@dataclass(frozen=True)\n"
        "class Edited(Method):\n"
        "    'It deploys the source model.'\n"
        "    def adapt(self, context):\n"
        "        return context.model()\n"
    )
    method.write_text(text)
    known = list(registry._plugins)
    registry.add_plugins(tmp_path / "plugins")
    try:
        run = plan(tmp_path / "out", "edited")
        method.write_text(text.replace("model()", "model()  # as before"))
        record = go(run)
        assert record.done, record.reason
        run = plan(tmp_path / "other", "edited", seed=1)
        assert run.key
        method.write_text(text.replace("return", "context.seed\n        return"))
        record = go(run)
    finally:
        registry._plugins[:] = known
    assert record.reason == "edited was edited since this run began; give it again"


@pytest.mark.parametrize("epochs", [0, 2])
def test_a_model_that_is_not_finite_is_not_deployed(tmp_path, epochs):
    """Nor predicted with, after whatever epoch."""
    method = tmp_path / "plugins" / "methods" / "overflows.py"
    method.parent.mkdir(parents=True)
    method.write_text(
        "from dataclasses import dataclass\n"
        "from sfdabench.core.method import Method\n"
        "@dataclass(frozen=True)\n"
        "class Overflows(Method):\n"
        "    'Its step is far too large.'\n"
        "    epochs: int = 0\n"
        "    def adapt(self, context):\n"
        "        model = context.model()\n"
        "        for _ in context.epochs(self.epochs, deploy=model):\n"
        "            break_it(model)\n"
        "        return break_it(model)\n"
        "def break_it(model):\n"
        "    model.requires_grad_(False)\n"
        "    next(model.parameters()).fill_(float('inf'))\n"
        "    return model\n"
    )
    known = list(registry._plugins)
    registry.add_plugins(tmp_path / "plugins")
    try:
        record = go(plan(tmp_path / "out", "overflows", settings=[f"epochs={epochs}"]))
    finally:
        registry._plugins[:] = known
    assert record.status == "failed"
    assert record.reason.startswith("overflows left weights that are NaN or infinite (")


def test_a_killed_process_leaves_no_record(tmp_path, monkeypatch, adapted):
    """It is no failure of the method: a sweep must not take it for finished."""

    def killed(*arguments, **named):
        raise client.ProcessDied("it was killed")

    run = plan(tmp_path, "cbmt", settings=["epochs=1"])
    with monkeypatch.context() as patch:
        patch.setattr(runner, "predicted", killed)
        with pytest.raises(client.ProcessDied):
            go(run)
    assert not run.record_path.exists()
    assert go(run).done


def test_a_disk_that_fills_up_loses_no_epoch(tmp_path, monkeypatch, adapted, in_process):
    from sfdabench.core import checkpoint

    run = plan(tmp_path, "cbmt", settings=["epochs=3", "ema=0.5"])
    save = checkpoint.CheckpointKeeper.end_of_epoch

    def full(self, stage, epoch, *arguments, **named):
        if epoch == 1 and "cbmt" in str(self.folder):
            raise OSError(28, "No space left on device")
        save(self, stage, epoch, *arguments, **named)

    monkeypatch.setattr(checkpoint.CheckpointKeeper, "end_of_epoch", full)
    record = go(run)
    assert record.status == "failed"
    assert "No space left" in record.reason
    folder = artefacts.place(run.cache, run.final)
    work = folder.with_name(f"{folder.name}.work")
    assert (work / "open" / "stage-0.safetensors").exists()
    monkeypatch.setattr(checkpoint.CheckpointKeeper, "end_of_epoch", save)
    resumed = go(run).deployed_sha256
    assert resumed == go(run, force=True).deployed_sha256
    assert not work.exists()
