"""What a sweep plans, what it says it will take, and that it goes on after anything."""

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from sfdabench.campaign import sweep as sweeps
from sfdabench.campaign.sweep import estimate, plan, wanted
from sfdabench.core.errors import BadInput
from sfdabench.core.progress import Progress
from sfdabench.report import benchmark as papers
from sfdabench.run import artefacts
from sfdabench.run.plan import resolve
from sfdabench.run.request import RunRequest
from sfdabench.store import labels, records

QUIET = Progress(quiet=True)
PLUGINS = Path(__file__).parent.parent / "plugins"
BENCHMARK = """
seeds = 2
absent = ["elsewhere"]
[paper]
title = "t"
venue = "v"
url = "u"
[tolerance.percent]
limit = 1.0
reason = "r"
[tolerance.1]
limit = 1.0
reason = "r"
[recipe]
[[tables]]
name = "mini-1"
title = "a method twice, one by its defaults, one that does not exist"
protocol = "cbmt"
blocks = [{ name = "Fundus", task = "tiny" }, { name = "Cord", task = "scgm_to_site3" }]
columns = [{ name = "Time", curve = "loss", unit = "1" }]
rows = [
    { name = "a", method = "adabn" },
    { name = "s", method = "source_only" },
    { name = "m", method = "mean_teacher", overrides = { mean_teacher = { ema = 0.98 } } },
    { name = "e", method = "mean_teacher", read = "best" },
    { name = "d", method = "adabn+elsewhere" },
]
[[tables]]
name = "mini-2"
title = "the same again under another protocol, and columns with values of their own"
protocol = "dpl"
blocks = [{ name = "Fundus", task = "tiny" }]
columns = [
    { name = "alpha 0", curve = "weight", unit = "1", overrides = { cbmt = { alpha = 0.0 } } },
    { name = "alpha 0.2", curve = "weight", unit = "1" },
]
rows = [{ name = "s", method = "source_only" }, { name = "c", method = "cbmt" }]
"""


@pytest.fixture
def mini(tmp_path):
    (tmp_path / "mini").mkdir()
    (tmp_path / "mini" / "benchmark.toml").write_text(BENCHMARK)
    return tmp_path / "mini"


@pytest.fixture(scope="module")
def few_results(tmp_path_factory, make_record):
    """Records of two runs, in place of the committed ones: every plan reads all of them."""
    folder = tmp_path_factory.mktemp("shipped") / "results"
    for method in ("source_only", "cbmt"):
        make_record.keep(folder / "phantom", make_record(method))
    return folder


@pytest.fixture(autouse=True)
def shipped_results(few_results, monkeypatch):
    monkeypatch.setattr(sweeps, "shipped", lambda name: few_results.parent / name)


def make(mini, *, tasks=("tiny",), seeds=None, retry_failed=False, **changes):
    """`changes` are fields of the base request."""
    base = RunRequest(**({"out": mini.parent / "out", "device": "cpu"} | changes))
    how = {"tasks": tasks, "seeds": seeds, "retry_failed": retry_failed}
    return plan(str(mini), base, **how, progress=QUIET)


def names(sweep):
    return [(one.job.method, one.job.seed) for one in sweep.planned]


def test_each_run_once_seed_by_seed_and_a_reason_for_what_cannot_be(mini):
    sweep = make(mini)
    methods = ["adabn", "source_only", "mean_teacher ema=0.98", "cbmt alpha=0.0", "cbmt"]
    assert names(sweep) == [(method, seed) for seed in (0, 1) for method in methods]
    assert len({one.run.key for one in sweep.planned}) == 10
    assert {one.state for one in sweep.planned} == {"to run"}
    (skipped,) = sweep.skipped
    assert (skipped.method, skipped.reason) == ("adabn+elsewhere", "no such method here")
    makes = [one.job.makes for one in sweep.planned]
    sources = [cards[0] for cards in makes]
    assert len(set(sources[:5])) == len(set(sources[5:])) == 1
    assert sources[0] != sources[5]
    assert makes[1] == (sources[1],), "source_only makes nothing else"
    adapted = [cards[1:] for cards in makes if len(cards) > 1]
    assert len(set(adapted)) == 8
    assert {len(cards) for cards in adapted} == {1}


def test_the_protocols_of_all_tables_that_ask_are_scored_in_one_run(mini):
    found = {(w.task, w.method): w.protocols for w in wanted(papers.read(mini))}
    assert found["tiny", "source_only"] == ("cbmt", "dpl")
    assert found["tiny", "adabn"] == ("cbmt",)
    assert found["scgm_to_site3", "source_only"] == ("cbmt",)
    runs = {one.job.method: one for one in make(mini).planned}
    assert runs["source_only"].run.protocol_names == ("strict", "cbmt", "dpl")
    assert told(runs["source_only"], "--protocol") == ["strict", "cbmt", "dpl"]
    assert told(runs["adabn"], "--protocol") == ["strict", "cbmt"]


def told(planned, flag):
    """The values that a worker's command line has for a flag."""
    return [value for word, value in itertools.pairwise(planned.job.command) if word == flag]


def test_a_protocol_of_the_user_scores_the_runs_that_it_fits(mini):
    head, _ = BENCHMARK.split("rows = ", 1)
    online = 'method = "tent", overrides = { tent = { online = true } }'
    rows = f'[{{ name = "s", method = "source_only" }}, {{ name = "t", {online} }}]'
    (mini / "benchmark.toml").write_text(f"{head}rows = {rows}")
    sweep = make(mini, seeds=1, protocols=("dpl", "cbmt"))
    runs = {one.job.method: one for one in sweep.planned}
    assert runs["source_only"].run.protocol_names == ("strict", "cbmt", "dpl")
    assert runs["tent online=true"].run.protocol_names == ("strict", "cbmt")
    (problem,) = sweep.problems
    assert problem.startswith(
        "tent online=true on tiny: protocol dpl predicts in a mode of its own"
    )
    with pytest.raises(BadInput, match="unknown protocol 'dlp': did you mean dpl"):
        make(mini, protocols=("dlp",))


def test_a_sweep_has_a_precision(mini):
    usual, lower = (make(mini, seeds=1, precision=p) for p in ("float32", "bfloat16"))
    assert {one.run.precision for one in lower.planned} == {"bfloat16"}
    assert {told(one, "--precision")[0] for one in lower.planned} == {"bfloat16"}
    keys = [{one.run.key for one in sweep.planned} for sweep in (usual, lower)]
    assert keys[0].isdisjoint(keys[1])


def test_a_protocol_that_cannot_score_a_run_leaves_it_to_the_others(mini):
    """mini-1 asks for it under cbmt, mini-2 under dpl, which predicts in a mode of its own."""
    text = BENCHMARK.replace('"source_only"', '"tent", overrides = { tent = { online = true } }')
    (mini / "benchmark.toml").write_text(text)
    sweep = make(mini, seeds=1)
    runs = {one.job.method: one for one in sweep.planned}
    online = runs["tent online=true"]
    assert online.run.protocol_names == ("strict", "cbmt")
    assert told(online, "--protocol") == ["strict", "cbmt"]
    assert runs["cbmt"].run.protocol_names == ("strict", "cbmt", "dpl")
    assert [s.method for s in sweep.skipped] == ["adabn+elsewhere"]
    (problem,) = sweep.problems
    assert problem.startswith(
        "tent online=true on tiny: protocol dpl predicts in a mode of its own"
    )

    head, _, last = text.split("[[tables]]")
    (mini / "benchmark.toml").write_text(f"{head}[[tables]]{last}")
    sweep = make(mini, seeds=1)
    assert [s.method for s in sweep.skipped] == ["tent online=true"], "no table would show it"
    assert "tent online=true" not in {one.job.method for one in sweep.planned}


def figure(values="[0.9, 0.98]", protocol="cbmt"):
    """Of a field whose default is 0.98."""
    return f"""
[[figures]]
name = "mini-f"
title = "t"
task = "tiny"
protocol = "{protocol}"
method = "cbmt"
field = "ema"
values = {values}
"""


def test_the_values_of_a_figure_are_run_and_its_default_is_the_plain_run(mini):
    before = names(make(mini, seeds=1))
    (mini / "benchmark.toml").write_text(BENCHMARK + figure("[0.9, 0.98, 0.999]"))
    sweep = make(mini, seeds=1)
    assert names(sweep) == [*before, ("cbmt ema=0.9", 0), ("cbmt ema=0.999", 0)]
    assert sweep.planned[-1].run.overrides == {"cbmt": {"ema": 0.999}}
    assert {w.task for w in wanted(papers.read(mini), ["scgm_to_site3"])} == {"scgm_to_site3"}


def test_a_figure_scores_the_plain_run_by_its_protocol_too(mini):
    """The table with the plain run asks for cbmt alone."""
    text = BENCHMARK.replace('protocol = "dpl"', 'protocol = "cbmt"')
    (mini / "benchmark.toml").write_text(text + figure(protocol="beal"))
    runs = {one.job.method: one for one in make(mini, seeds=1).planned}
    assert runs["cbmt"].run.protocol_names == ("strict", "cbmt", "beal")
    assert told(runs["cbmt"], "--protocol") == ["strict", "cbmt", "beal"]
    assert runs["cbmt ema=0.9"].run.protocol_names == ("strict", "cbmt", "beal")
    assert runs["cbmt alpha=0.0"].run.protocol_names == ("strict", "cbmt")
    assert "cbmt ema=0.98" not in runs


def test_a_task_may_be_a_figure_s_alone(mini):
    text = figure("[0.5, 1.0]", "osuda")
    for old, new in [('"tiny"', '"tiny_volume"'), ('"cbmt"', '"osuda"'), ('"ema"', '"eta"')]:
        text = text.replace(old, new)
    (mini / "benchmark.toml").write_text(BENCHMARK + text)
    sweep = make(mini, tasks=["tiny_volume"], seeds=1)
    assert names(sweep) == [("osuda eta=0.5", 0), ("osuda eta=1.0", 0)]
    assert sweep.planned[1].run.overrides == {"osuda": {}}, "1.0 is the default"


def test_the_sources_of_one_seed_stand_together(mini):
    """The tables ask for tiny, for tiny_volume, and for tiny again."""
    text = BENCHMARK.replace('task = "scgm_to_site3"', 'task = "tiny_volume"')
    (mini / "benchmark.toml").write_text(text)
    sweep = make(mini, tasks=[], seed=3, seeds=1)
    assert [one.job.task for one in sweep.planned] == ["tiny"] * 5 + ["tiny_volume"] * 3


def test_an_incompatible_pair_is_listed_with_its_reason(mini):
    sweep = make(mini, tasks=["tiny"], source_settings=["network=unet_gn"])
    assert ("adabn", "tiny") in {(s.method, s.task) for s in sweep.skipped}
    reason = next(s.reason for s in sweep.skipped if s.method == "adabn")
    assert reason.startswith("method adabn needs a network with batch_norm, unet_gn has")
    assert "adabn" not in {one.run.method_name for one in sweep.planned}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ["tinny"]}, "--task tinny: .*did you mean tiny"),
        ({"profile": "papper"}, "did you mean paper"),
        ({"source_settings": ["epoch=2"]}, "did you mean epochs"),
        ({"data": Path("/absent")}, "--data /absent: no such folder"),
    ],
)
def test_bad_flags(mini, changes, message):
    with pytest.raises(BadInput, match=message):
        make(mini, **changes)


def test_bad_benchmarks(mini):
    with pytest.raises(BadInput, match="unknown benchmark 'cbtm': did you mean cbmt"):
        plan("cbtm", RunRequest(out=mini), progress=QUIET)
    (mini / "benchmark.toml").write_text(BENCHMARK.replace("ema = 0.98", "emma = 0.98"))
    with pytest.raises(BadInput, match="did you mean ema"):
        make(mini)
    head, _ = BENCHMARK.split("rows = ", 1)
    (mini / "benchmark.toml").write_text(f'{head}rows = [{{ name = "d", method = "elsewhere" }}]')
    with pytest.raises(BadInput, match="can be run: elsewhere on tiny: no such method"):
        make(mini)


def test_settings_survive_the_command_line(tmp_path):
    given = {"cbmt": {"ema": 0.5, "calibration": "none", "epochs": 3}, "adabn": {"batch_size": 2}}
    run = resolve(
        method="adabn+cbmt",
        task="tiny",
        seed=0,
        data=None,
        out=tmp_path,
        profile=None,
        settings=labels.settings(given),
        device="cpu",
    )
    assert run.overrides == given | {"adabn": {"batch_size": 2}}


@pytest.fixture
def finished(record_of):
    """finished(run, rest): a record that took `rest` seconds beside 40 of source training."""

    def record(run, rest, **changes):
        seconds = {"source": 40.0, "adapt": rest * 0.75, "evaluate": rest * 0.25, "total": 99.0}
        return record_of(run, **{"seconds": seconds} | changes)

    return record


def test_estimates_come_from_records_alike_and_are_else_unknown(mini, finished):
    run = next(one.run for one in make(mini).planned if one.job.method == "cbmt")
    assert estimate(run, [], trains=False) is None
    history = [finished(run, rest) for rest in (10, 12, 90)]
    assert estimate(run, history, trains=False) == pytest.approx(12)
    assert estimate(run, history, trains=True) == pytest.approx(52)
    imported = [finished(run, 10, source=None)]
    assert estimate(run, imported, trains=False) == pytest.approx(10)
    assert estimate(run, imported, trains=True) is None
    fields = {"cbmt": run.chain[0][1].fields}
    for other in (
        {"status": "failed", "reason": "diverged"},
        {"task": "refuge2rimone"},
        {"method": "adabn", "fields": {"adabn": fields["cbmt"]}, "overrides": {}},
        {"profile": "paper"},
        {"data": "real"},
        {"device": "cuda"},
        {"recipe": run.recipe_inputs | {"size": 512}},
        {"fields": {"cbmt": fields["cbmt"] | {"epochs": 3}}},
    ):
        record = finished(run, 10).model_copy(update=other)
        assert estimate(run, [record], trains=False) is None, other
    alike = finished(run, 10, fields={"cbmt": fields["cbmt"] | {"ema": 0.5}})
    assert estimate(run, [alike], trains=False) == pytest.approx(10)


def test_shipped_results_tell_the_time_of_a_shipped_run(mini, finished, make_record, monkeypatch):
    """Of a run that has no record in the user's own folder."""
    monkeypatch.setenv("SFDABENCH_CACHE", str(mini.parent / "cache"))  # no source model is there
    monkeypatch.setattr(sweeps, "shipped", lambda folder: mini.parent / "shipped" / folder)
    (mini.parent / "shipped" / "results" / "phantom").mkdir(parents=True)
    (mini.parent / "shipped" / "results" / "README.md").touch()
    before = make(mini, seeds=1)
    assert {one.seconds for one in before.planned} == {None}
    adabn = next(one.run for one in before.planned if one.job.method == "adabn")
    make_record.keep(mini.parent / "shipped" / "results" / "phantom", finished(adabn, 8))
    after = {one.job.method: one.seconds for one in make(mini, seeds=1).planned}
    assert after.pop("adabn") == pytest.approx(48)
    assert set(after.values()) == {None}


def test_only_the_first_run_of_a_source_pays_for_its_training(mini, finished, make_record):
    sweep = make(mini, seed=5, seeds=1)
    out = mini.parent / "out"
    for one in sweep.planned:
        make_record.keep(out, finished(one.run, 10), name=f"of-another-seed-{one.run.key[:8]}")
    sweep = make(mini, seed=5, seeds=1)
    assert {one.state for one in sweep.planned} == {"to run"}
    assert [one.seconds for one in sweep.planned] == pytest.approx([50, 10, 10, 10, 10])
    assert sweep.forecast(2) == "5 to run; 5 take about 90 s (45 s with 2 jobs)"


def test_bases_and_chains_share_stages(tmp_path):
    """A base is adapted once for its own row and for APL on top of it."""
    base = RunRequest(out=tmp_path, device="cpu")
    sweep = plan("apl", base, seeds=1, progress=QUIET)
    stages = {stage.key for one in sweep.planned for stage in one.run.final.order}
    rows = len(sweep.planned)
    assert sweep.sharing().startswith(f"{rows} runs of {len(stages)} stages, each made once (")
    chains = [one.run for one in sweep.planned if "+apl" in one.job.method]
    bases = {one.run.final.key for one in sweep.planned if "+" not in one.job.method}
    assert len(chains) == 8
    assert all(run.links[0].key in bases for run in chains)


def counts(text):
    return json.loads(text)["counts"]


def test_failures_are_recorded_kept_and_retried(mini, tell, sfdabench):
    out = mini.parent / "out"
    command = ("sweep", mini, "--task", "tiny", "--seeds", 1, "--out", out, "--device", "cpu")
    tell(
        {
            "adabn 0": {"status": "failed", "reason": "ValueError: oops"},
            "mean_teacher 0": {"signal": 9},
        }
    )
    code, text, err = sfdabench(*command, "--jobs", 2, "--json")
    assert code == 1
    assert counts(text) == {"done": 3, "found": 0, "failed": 2, "not run": 1}
    assert sum("the worker was killed" in line for line in err.splitlines()) == 1
    assert "[5/5]" in err
    reasons = {run["method"]: run["reason"] for run in json.loads(text)["runs"]}
    assert reasons["adabn"] == "ValueError: oops"

    tell({})
    code, text, err = sfdabench(*command)
    assert code == 1, "the recorded failure stands"
    assert "1 to run" in err, "a run that crashed left no record and is missing still"
    assert "failed adabn on tiny, seed 0: ValueError: oops" in text
    assert text.splitlines()[-1] == "1 done, 3 found, 1 failed, 1 not run"

    code, text, _ = sfdabench(*command, "--retry-failed", "--json")
    assert code == 0
    assert counts(text) == {"done": 1, "found": 4, "failed": 0, "not run": 1}
    code, text, err = sfdabench(*command)
    assert code == 0
    assert "0 to run" in err


@pytest.mark.parametrize("text", ['{"schema": 1', '{"not": "ours"}'])
def test_a_file_in_the_place_of_a_record_stops_that_run_only(mini, tell, sfdabench, text):
    foreign = make(mini, seeds=1).planned[0].run.record_path
    foreign.parent.mkdir(parents=True)
    foreign.write_text(text)
    out = mini.parent / "out"
    command = ("sweep", mini, "--task", "tiny", "--seeds", 1, "--out", out, "--device", "cpu")
    code, shown, err = sfdabench(*command, "--dry-run")
    assert code == 0
    assert "unreadable" in shown
    assert f"{foreign}: not a " in err
    assert "4 to run" in err
    code, shown, _ = sfdabench(*command, "--retry-failed", "--json")
    assert code == 1
    assert counts(shown) == {"done": 4, "found": 0, "failed": 1, "not run": 1}
    code, shown, _ = sfdabench(*command)
    assert code == 1
    assert f"failed adabn on tiny, seed 0: {foreign}: not a " in shown
    assert foreign.read_text() == text


def test_a_dry_run_starts_nothing(mini, tell, sfdabench):
    out = mini.parent / "out"
    code, text, err = sfdabench("sweep", mini, "--task", "tiny", "--dry-run", "--out", out)
    assert code == 0
    for part in ("PHANTOM data", "mean_teacher ema=0.98", "cannot run", "no such method here"):
        assert part in text
    assert "10 to run; time unknown of 10" in err, "the benchmark asks for two seeds"
    assert not out.exists()


def test_ctrl_c_is_exit_130_and_the_rest_is_not_run(mini, tell, sfdabench, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("sfdabench.campaign.workers.carry_out", interrupted)
    flags = ("--task", "tiny", "--seeds", 1, "--out", mini.parent / "out", "--json")
    code, text, err = sfdabench("sweep", mini, *flags)
    assert code == 130
    assert counts(text)["not run"] == 6
    assert "the same command goes on" in err


def test_the_cores_are_shared_by_what_there_is_to_run(mini, sfdabench, monkeypatch):
    given = []

    def carry_out(jobs, *, at_once, variables, board, servers):
        given.append((at_once, variables["OMP_NUM_THREADS"]))
        yield from ()

    monkeypatch.setattr("sfdabench.campaign.workers.carry_out", carry_out)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(40))
    flags = ("--task", "tiny", "--seeds", 1, "--out", mini.parent / "out", "--device", "cpu")
    sfdabench("sweep", mini, *flags, "--jobs", 8)
    sfdabench("sweep", mini, *flags, "--jobs", 2)
    assert given == [(8, "8"), (2, "20")], "five runs"


def test_a_worker_without_a_record_has_failed(mini, sfdabench, monkeypatch, python_workers):
    done = ('print(\'{"status": "done"}\')',)
    monkeypatch.setattr("sfdabench.campaign.workers.command", lambda *_: done)
    flags = ("--task", "tiny", "--seeds", 1, "--out", mini.parent / "out")
    code, text, _ = sfdabench("sweep", mini, *flags)
    assert code == 1
    assert text.count("the worker left no record") == 5


def test_bad_input_is_exit_2(sfdabench, mini):
    code, text, err = sfdabench("sweep", mini, "--task", "tinny")
    assert (code, text) == (2, "")
    assert "did you mean tiny" in err
    assert sfdabench("sweep", mini, "--jobs", 0)[0] == 2


@pytest.mark.slow
def test_a_killed_sweep_takes_its_worker_along_and_goes_on(mini, sfdabench):
    """`kill -9` of the sweep in the middle of the source training, then the same command."""
    head, _ = BENCHMARK.split("rows = ", 1)
    (mini / "benchmark.toml").write_text(f'{head}rows = [{{ name = "s", method = "source_only" }}]')
    long = "epochs=12"
    run = make(mini, seeds=1, source_settings=[long]).planned[0].run
    source = artefacts.place(run.cache, run.source)
    work = source.with_name(f"{source.name}.work")
    out = mini.parent / "out"
    command = ("sweep", mini, "--task", "tiny", "--seeds", 1, "--source-set", long, "--out", out)
    command += ("--device", "cpu", "--json", "--plugins", PLUGINS)
    process = subprocess.Popen(
        [sys.executable, "-m", "sfdabench", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (work / "open" / "stage-0.safetensors").exists():
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was over before it could be killed"
    with FileLock(f"{source}.lock", timeout=30):
        assert (work / "open" / "stage-0.safetensors").exists(), "stopped, with what it had saved"
    code, text, err = sfdabench(*command)
    assert code == 0, err
    assert counts(text) == {"done": 1, "found": 0, "failed": 0, "not run": 0}
    (run,) = json.loads(text)["runs"]
    record = records.read(Path(run["record"]))
    card = artefacts.read_card(source).card
    assert (record.source_sha256, record.source.seconds) == (card.sha256, card.seconds)
    assert counts(sfdabench(*command)[1])["found"] == 1
