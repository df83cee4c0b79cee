"""The reference: its rule, what it notices, and what an update writes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.progress import Progress
from sfdabench.run import plan, reference, regress
from sfdabench.run.reference import Rule, Score, compare
from sfdabench.store import labels

QUIET = Progress(quiet=True)
PLUGINS = Path(__file__).parent.parent / "plugins"
TOML = """
[scores]
protocol = "strict"
metrics = ["dice"]
[tolerance]
seeds = 3
deviations = 3.0
reason = "r"
[tolerance.floor]
dice = 0.02
[[tasks]]
name = "tiny"
source = { epochs = 2 }
runs = [
    { method = "source_only" },
    { method = "cbmt", overrides = { cbmt = { epochs = 2 } } },
    { name = "plain", method = "cbmt", overrides = { cbmt = { calibration = "none" } } },
]
[[claims]]
task = "tiny"
class = "cup"
metric = "dice"
higher = "cbmt"
lower = "source_only"
margin = 0.1
reason = "it adapts"
"""
SOURCE = ("tiny", "source_only", "", '{"epochs": 2}')
CBMT = ("tiny", "cbmt", '{"cbmt": {"epochs": 2}}', '{"epochs": 2}')
PLAIN = ("tiny", "cbmt", '{"cbmt": {"calibration": "none"}}', '{"epochs": 2}')
RULE = Rule(seeds=3, deviations=3.0, reason="r", floor={"dice": 0.02})
SEEDS = {SOURCE: (0.5, 0.6, 0.7), CBMT: (0.8, 0.8, 0.85), PLAIN: (0.1, 0.3, 0.2)}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "reference.toml").write_text(TOML)
    return tmp_path


def scores(seeds=SEEDS, class_="cup"):
    return {
        score.key: score
        for run, values in seeds.items()
        for score in [
            Score((*run, "strict", class_, "dice"), values[0], RULE.of("dice", values), values)
        ]
    }


@pytest.fixture
def measured(monkeypatch):
    """measured({run: values of the seeds}): what the workers find; returns what was asked."""
    asked = []

    def put(seeds, failed=()):
        def measure(found, chosen, *, seeds: int, jobs, progress):
            asked.append((chosen, seeds))
            keys = {reference.run_key(task, run) for task, run in chosen}
            return {k: s for k, s in now.items() if s.run in keys}, list(failed)

        now = scores(seeds)
        monkeypatch.setattr(regress, "measure", measure)
        return asked

    return put


def test_the_rule():
    assert RULE.of("dice", (0.5, 0.6, 0.7)) == pytest.approx(3 * 0.1)
    assert RULE.of("dice", (0.8, 0.8, 0.801)) == 0.02


def test_scores_survive_the_file(folder):
    reference.write_scores(folder, scores().values())
    again = reference.read_scores(folder)
    assert again.keys() == scores().keys()
    one = again[(*SOURCE, "strict", "cup", "dice")]
    assert (one.value, one.seeds) == (0.5, (0.5, 0.6, 0.7))
    assert one.tolerance == pytest.approx(0.3)


def test_compare_tells_moved_within_lost_and_new():
    now = {**SEEDS, SOURCE: (0.799,), CBMT: (0.73,)}
    del now[PLAIN]
    other = ("tiny", "adabn", "", "")
    found = compare(scores(), _now(now, other))
    assert [(c.score.run, c.state) for c in found] == [
        (SOURCE, "within"),
        (CBMT, "within"),
        (PLAIN, "lost"),
        (other, "new"),
    ]
    beyond = compare(scores(), _now({**SEEDS, SOURCE: (0.801,), CBMT: (0.8,)}))
    assert [(c.score.run, c.state) for c in beyond] == [(SOURCE, "moved")]
    assert str(beyond[0]) == "source_only on tiny, cup dice: 0.5000 -> 0.8010, tolerance 0.3000"
    plain = Score((*PLAIN, "strict", "cup", "dice"), 0.5, 0.1, (0.5,))
    assert plain.name == "cbmt calibration=none on tiny, cup dice"


def _now(by_run, *new):
    keys = {**by_run, **dict.fromkeys(new, (0.4,))}
    return {
        (*run, "strict", "cup", "dice"): Score((*run, "strict", "cup", "dice"), v[0], 0.0, v)
        for run, v in keys.items()
    }


def test_nothing_moved(folder, measured):
    asked = measured(SEEDS)
    reference.write_scores(folder, scores().values())
    found = regress.regress(folder, progress=QUIET)
    assert found.sound
    assert (found.measured, found.changes) == (3, ())
    assert asked[0][1] == 1, "seed 0 alone"


def test_a_moved_score_a_failed_claim_and_a_failed_run_are_noticed(folder, measured):
    reference.write_scores(folder, scores().values())
    measured({**SEEDS, CBMT: (0.55, 0.55)})
    found = regress.regress(folder, progress=QUIET)
    assert not found.sound
    assert [c.state for c in found.changes] == ["moved", "moved"], "and what it adds"
    assert [str(claim) for claim in found.claims] == [
        "tiny: cup dice of cbmt above source_only by more than 0.1 (it adapts)"
    ]
    measured({**SEEDS, CBMT: (0.78, 0.78)})
    found = regress.regress(folder, progress=QUIET)
    assert found.sound
    assert [c.state for c in found.changes] == ["within", "within"]


def test_a_method_that_broke_is_found_by_what_it_adds(folder, measured):
    """Source models differ by a lot, so the score alone would pass; what is added is steady."""
    steady = {SOURCE: (0.5, 0.7, 0.3), CBMT: (0.65, 0.851, 0.45), PLAIN: (0.1, 0.3, 0.2)}
    reference.write_scores(folder, scores(steady).values())
    measured({**steady, CBMT: (0.61, 0.8)})
    found = regress.regress(folder, progress=QUIET)
    assert [(c.state, c.score.metric) for c in found.changes] == [
        *(("within", "dice"), ("moved", "dice minus source_only's"))
    ]
    assert not found.sound
    (moved,) = (c for c in found.changes if c.state == "moved")
    assert moved.score.value == pytest.approx(0.15)
    assert moved.now == pytest.approx(0.11)
    assert moved.score.tolerance == pytest.approx(0.02)  # the floor: the three differ by less
    measured({**steady, SOURCE: (0.55, 0.7), CBMT: (0.7, 0.85)})
    found = regress.regress(folder, progress=QUIET)
    assert found.sound, "source model and method moved together"


@pytest.mark.parametrize("state", ["lost", "new"])
def test_a_row_too_many_or_too_few_is_noticed(folder, measured, state):
    measured(SEEDS)
    rows = dict(SEEDS)
    if state == "new":
        del rows[PLAIN]
    else:
        rows["tiny", "adabn", "", ""] = (0.1, 0.1)
    reference.write_scores(folder, scores(rows).values())
    found = regress.regress(folder, progress=QUIET)
    assert [c.state for c in found.changes] == [state]
    assert not found.sound


def test_a_choice_leaves_the_other_rows_alone(folder, measured):
    asked = measured(SEEDS)
    reference.write_scores(folder, scores().values())
    assert regress.regress(folder, methods=["plain"], progress=QUIET).sound
    assert [run.called for _, run in asked[0][0]] == ["plain"]


def test_an_update_writes_scores_and_a_line_on_why(folder, measured):
    asked = measured(SEEDS)
    gone = {("tiny", "adabn", "", ""): (0.1, 0.1)}
    reference.write_scores(folder, scores({**gone, SOURCE: (0.4, 0.4)}).values())
    found = regress.update(folder, folder / "changes", "a finer grid", progress=QUIET)
    assert asked[0][1] == 3
    written = reference.read_scores(folder)
    assert [score.run for score in written.values()] == [SOURCE, CBMT, PLAIN]
    assert {c.state for c in found.changes} == {"moved", "new", "lost"}
    assert [score.run for score in found.blind] == [PLAIN], "0.1 with a tolerance of 0.3"
    fragment = folder / "changes" / "reference.numbers.md"
    first = "- `numbers`: `results/reference` (tiny: source_only, cbmt, plain): a finer grid\n"
    assert fragment.read_text() == first

    measured({**SEEDS, PLAIN: (0.9, 0.9, 0.9)})
    regress.update(folder, folder / "changes", "why not", methods=["plain"], progress=QUIET)
    again = reference.read_scores(folder)
    assert again[(*PLAIN, "strict", "cup", "dice")].value == 0.9
    assert again[(*SOURCE, "strict", "cup", "dice")].value == 0.5
    assert fragment.read_text().startswith(first)
    assert fragment.read_text().endswith("(tiny: plain): why not\n")


def test_a_claim_has_to_hold_for_every_seed_of_an_update(folder, measured):
    measured({**SEEDS, CBMT: (0.8, 0.8, 0.75)})
    found = regress.update(folder, folder, "r", progress=QUIET)
    assert [claim.higher for claim in found.claims] == ["cbmt"]


def test_an_update_with_a_failed_run_writes_nothing(folder, measured):
    measured(SEEDS, failed=[object()])
    regress.update(folder, folder / "changes", "r", progress=QUIET)
    assert [path.name for path in folder.iterdir()] == ["reference.toml"]


def test_an_update_refuses_to_keep_scores_of_another_number_of_seeds(folder, measured):
    asked = measured(SEEDS)
    old = {run: values[:2] for run, values in SEEDS.items()}
    reference.write_scores(folder, scores(old).values())
    before = (folder / "scores.csv").read_bytes()
    with pytest.raises(BadInput, match=r"source_only on tiny.* has 2 seeds, .* asks for 3"):
        regress.update(folder, folder / "changes", "r", methods=["plain"], progress=QUIET)
    assert asked == [], "before anything is measured"
    assert (folder / "scores.csv").read_bytes() == before
    assert not (folder / "changes").exists()
    regress.update(folder, folder / "changes", "r", progress=QUIET)
    assert {len(score.seeds) for score in reference.read_scores(folder).values()} == {3}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"tiny"', '"tinny"', "unknown task 'tinny': did you mean tiny"),
        ('method = "source_only"', 'method = "sorce_only"', "names source_only on tiny"),
        ('name = "plain", ', "", "cbmt twice; give one a `name`"),
        ('lower = "source_only"', 'lower = "adabn"', "names adabn on tiny, which is not listed"),
        ('class = "cup"', 'class = "cop"', "unknown class of tiny 'cop': did you mean cup"),
        ('metrics = ["dice"]', 'metrics = ["dise"]', "floor lacks dise"),
        ('protocol = "strict"', 'protocol = "strct"', "did you mean strict"),
        ("seeds = 3", "seeds = 1", "tolerance.seeds"),
        ("cbmt = { epochs", "adabn = { epochs", "cbmt overrides adabn, which it does not run"),
        ("[scores]", "[scores", "cannot be read"),
    ],
)
def test_a_reference_at_fault_is_named(folder, old, new, message):
    (folder / "reference.toml").write_text(TOML.replace(old, new))
    with pytest.raises(BadInput, match=message) as error:
        reference.read(folder)
    assert str(folder / "reference.toml") in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n", "columns must be task,"),
        ("HEAD\nt,m,,,strict,cup,dice,x,0.1,0.5 0.6\n", "line 2: could not convert"),
        ("HEAD\nt,m,,,strict,cup,dice,0.5,nan,0.5\n", "line 2: a number that is not finite"),
        ("HEAD\nt,m,,,strict\n", "line 2: not 10 values"),
        ("HEAD\nt,m,{ema,,strict,cup,dice,1,1,1\n", "line 2: Expecting property name"),
        ("HEAD\nt,m,[1],,strict,cup,dice,1,1,1\n", r"line 2: overrides \[1\] are not fields"),
        ("HEAD\nt,m,,,strict,cup,dice,1,1,\n", "line 2: no value of any seed"),
        ("HEAD\nt,m,,,strict,cup,dice,1,1,1,1\n", "line 2: not 10 values"),
        ("HEAD\nt,m,,,strict,cup,dice,1,1,1\nt,m,,,strict,cup,dice,1,1,1\n", "given twice"),
    ],
)
def test_scores_at_fault_are_named(folder, text, message):
    (folder / "scores.csv").write_text(text.replace("HEAD", ",".join(reference.COLUMNS)))
    with pytest.raises(BadInput, match=message):
        reference.read_scores(folder)


def test_no_reference_yet_and_names_that_are_not_listed(folder, measured):
    with pytest.raises(BadInput, match=r"scores\.csv: no such file; .*--update"):
        regress.regress(folder, progress=QUIET)
    found = reference.read(folder)
    with pytest.raises(BadInput, match="--task hgg2lgg"):
        regress.choose(found, ["hgg2lgg"], [])
    with pytest.raises(
        BadInput, match=r"unknown entry of reference\.toml .plane.: did you mean plain"
    ):
        regress.choose(found, [], ["plane"])


def test_flags_that_do_not_go_together(sfdabench, monkeypatch):
    for given in (("--update",), ("--update", "--reason", " ")):
        code, _, err = sfdabench("regress", *given)
        assert (code, "say with --reason TEXT" in err) == (2, True)
    code, _, err = sfdabench("regress", "--reason", "r")
    assert (code, "goes with --update" in err) == (2, True)
    monkeypatch.setattr(regress, "checkout", lambda: None)
    code, _, err = sfdabench("regress", "--update", "--reason", "r")
    assert (code, "only in a checkout" in err) == (2, True)


def test_the_command_measures_says_what_moved_and_leaves_no_trace(
    folder, tell, sfdabench, monkeypatch
):
    """Through the workers, which find what they are told to."""
    monkeypatch.setattr(regress, "default_folder", lambda: folder)
    monkeypatch.setattr(regress, "changelog_folder", lambda: folder / "changes")
    monkeypatch.setenv("SFDABENCH_DATA", str(folder))  # real data, which it must not look at

    def found(cup, **more):
        scores = {"strict": {"cup": {"dice": {"mean": cup}}}}
        return {"data": "phantom", "scores": scores, "overrides": {}} | more

    told = {f"source_only {seed}": found(0.5 + seed / 10) for seed in range(3)}
    told |= {f"cbmt {seed}": found(0.9) for seed in range(3)}
    tell(told)
    code, text, err = sfdabench("regress", "--update", "--reason", "first", "--jobs", 2)
    assert code == 0, err
    assert "3 scores measured, 0 moved, 0 lost, 3 new, 0 within; 0 claims and 0 runs" in text
    assert "[9/9]" in err
    lines = (folder / "scores.csv").read_text().splitlines()
    assert lines[1].endswith("strict,cup,dice,0.500000,0.300000,0.500000 0.600000 0.700000")
    assert lines[2].endswith("0.900000,0.020000,0.900000 0.900000 0.900000")

    tell(told | {"source_only 0": found(0.85)})
    code, text, _ = sfdabench("regress")
    assert code == 1
    assert "moved source_only on tiny, cup dice: 0.5000 -> 0.8500, tolerance 0.3000" in text
    assert "claim fails: tiny: cup dice of cbmt above source_only" in text

    tell(told | {"source_only 0": {"signal": 9}})
    code, text, _ = sfdabench("regress", "--method", "source_only", "--json")
    (failed,) = json.loads(text)["failed"]
    assert code == 1
    assert failed["run"] == "source_only on tiny, seed 0"
    assert "SIGKILL" in failed["reason"]
    assert json.loads(text)["changes"][0]["state"] == "lost"


def test_a_worker_that_leaves_no_record_is_a_failed_run(folder, sfdabench, monkeypatch):
    done = (sys.executable, "-c", 'print(\'{"status": "done"}\')')
    monkeypatch.setattr("sfdabench.run.workers.Flags.command", lambda *_: done)
    monkeypatch.setattr(regress, "default_folder", lambda: folder)
    reference.write_scores(folder, scores().values())
    code, text, err = sfdabench("regress", "--method", "source_only", "--json")
    assert code == 1, err
    (failed,) = json.loads(text)["failed"]
    assert "the worker left no record" in failed["reason"]


def test_ctrl_c_is_exit_130_and_promises_nothing(sfdabench, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(regress, "regress", interrupted)
    code, _, err = sfdabench("regress")
    assert (code, "nothing is written" in err) == (130, True)


@pytest.mark.slow
def test_the_same_code_finds_the_same_scores(folder, sfdabench, monkeypatch):
    """For real: two seeds of a reference, then a regress against it, bit for bit."""
    monkeypatch.setattr(regress, "default_folder", lambda: folder)
    monkeypatch.setattr(regress, "changelog_folder", lambda: folder / "changes")
    short = TOML.replace("seeds = 3", "seeds = 2").split("    { method", 2)
    (folder / "reference.toml").write_text(f"{short[0]}    {{ method{short[1]}]\n")
    flags = ("--plugins", PLUGINS, "--json")
    code, text, err = sfdabench("regress", "--update", "--reason", "first", *flags)
    assert code == 0, err
    code, text, err = sfdabench("regress", *flags)
    assert code == 0, err
    assert json.loads(text)["measured"] == 2
    assert json.loads(text)["changes"] == []


SHIPPED = regress.default_folder()


def test_the_shipped_list_can_be_run():
    """Every method fits its task and knows its fields; no phantom need be drawn for that."""
    found = reference.read(SHIPPED)
    assert {"refuge2rimone", "chaos2malbcv", "hgg2lgg", "t2_to_flair", "scgm_to_site3"} <= {
        task.name for task in found.tasks
    }
    for listing in found.tasks:
        task = registry.load("tasks", listing.name)
        texts = [f"{name}={value}" for name, value in listing.source.items()]
        recipe, network, _ = plan.choose_recipe(task, "phantom", texts)
        for run in listing.runs:
            texts = labels.settings(run.overrides)
            chain, differing = plan.choose_methods(run.method, texts, "phantom")
            plan.check_fit(chain, listing.name, task.head, recipe.network, network)
            given = {name: run.overrides.get(name, {}) for name in differing}
            assert differing == given, "an override that says the default"


def test_the_shipped_scores_are_those_of_the_list():
    found = reference.read(SHIPPED)
    rows = reference.read_scores(SHIPPED)
    listed = [reference.run_key(task, run) for task in found.tasks for run in task.runs]
    assert list(dict.fromkeys(score.run for score in rows.values())) == listed
    for score in rows.values():
        assert len(score.seeds) == found.tolerance.seeds
        assert score.value == score.seeds[0]
        rule = found.tolerance.of(score.metric, score.seeds)
        assert score.tolerance == pytest.approx(rule, abs=1e-5)
    for seed in range(found.tolerance.seeds):
        assert not reference.failing(found, rows, seed)


def test_the_wheel_carries_the_reference(tmp_path):
    """What our setup.py would put into one, of a checkout with a few small files."""
    root, wheel = tmp_path / "checkout", tmp_path / "wheel"
    kept = ("results/reference/reference.toml", "results/reference/scores.csv")
    for name in (*kept, "results/model.safetensors", "sfdabench/__init__.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name in ("setup.py", "setup.cfg", "README.md", "sfdabench/__init__.py"):
        shutil.copy(SHIPPED.parent.parent / name, root / name)
    command = (sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(wheel))
    subprocess.run(command, cwd=root, check=True)
    shipped = {f"sfdabench/shipped/{name}" for name in kept}
    files = {str(path.relative_to(wheel)) for path in wheel.rglob("*.*")}
    assert files == {"sfdabench/__init__.py"} | shipped
