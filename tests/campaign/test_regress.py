"""The reference: its rule, what it notices, and what an update writes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sfdabench.campaign import portable, reference, regress
from sfdabench.campaign.reference import Rule, Score, compare
from sfdabench.core import registry
from sfdabench.core.errors import BadInput
from sfdabench.core.progress import Progress
from sfdabench.models.weights import fill, from_bytes
from sfdabench.run import plan
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
validation_dice = 0.01
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
TRAINED = ("tiny", "source_training", "", '{"epochs": 2}')
SOURCE = ("tiny", "source_only", "", '{"epochs": 2}')
CBMT = ("tiny", "cbmt", '{"cbmt": {"epochs": 2}}', '{"epochs": 2}')
PLAIN = ("tiny", "cbmt", '{"cbmt": {"calibration": "none"}}', '{"epochs": 2}')
RULE = Rule(seeds=3, deviations=3.0, reason="r", floor={"dice": 0.02, "validation_dice": 0.01})
VALUES = {TRAINED: (0.9, 0.8, 1.0), SOURCE: (0.5,), CBMT: (0.8,), PLAIN: (0.1,)}
MODELS = {"tiny": b"model"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "reference.toml").write_text(TOML)
    return tmp_path


def scores(values=VALUES):
    """By key, as a file of these values has them."""
    found = {}
    for run, seeds in values.items():
        trained = run[1] == "source_training"
        of = ("source", "all", "validation_dice") if trained else ("strict", "cup", "dice")
        found[(*run, *of)] = Score((*run, *of), seeds[0], RULE.of(of[-1], seeds), seeds)
    return found


def put(folder, values=VALUES, models=("tiny",)):
    """A reference of these values."""
    reference.write_scores(folder, scores(values).values())
    for task in models:
        path = reference.source_path(folder, task)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(MODELS[task])


@pytest.fixture
def measured(monkeypatch):
    """measured({run: values of the seeds}): what the workers find; returns what was asked."""
    asked = []

    def find(values, failed=()):
        def measure(found, chosen, shipped, *, renew=False, jobs, progress):
            asked.append((chosen, shipped, renew))
            keys = {reference.run_key(task, run) for task, run in chosen}
            got = {k: s for k, s in now.items() if s.run in keys}
            return regress.Measured(got, tuple(failed), {**shipped, "tiny": b"new"})

        now = scores(values)
        monkeypatch.setattr(regress, "measure", measure)
        return asked

    return find


def test_the_rule():
    assert RULE.of("dice", (0.5, 0.6, 0.7)) == pytest.approx(3 * 0.1)
    assert RULE.of("dice", (0.8, 0.8, 0.801)) == 0.02


def test_scores_survive_the_file(folder):
    put(folder)
    again = reference.read_scores(folder)
    assert again.keys() == scores().keys()
    one = again[(*TRAINED, "source", "all", "validation_dice")]
    assert (one.value, one.seeds) == (0.9, (0.9, 0.8, 1.0))
    assert one.tolerance == pytest.approx(0.3)
    assert one.name == "source_training on tiny, all validation_dice"
    assert again[(*SOURCE, "strict", "cup", "dice")].tolerance == 0.02, "one seed: the floor"


def test_compare_tells_moved_within_lost_and_new():
    now = {**VALUES, TRAINED: (0.61,), SOURCE: (0.519,), CBMT: (0.73,)}
    del now[PLAIN]
    other = ("tiny", "adabn", "", "")
    found = compare(scores(), scores({**now, other: (0.4,)}))
    assert [(c.score.run, c.state) for c in found] == [
        (TRAINED, "within"),
        (SOURCE, "within"),
        (CBMT, "moved"),
        (PLAIN, "lost"),
        (other, "new"),
    ]
    beyond = compare(scores(), scores({**VALUES, SOURCE: (0.521,), TRAINED: (0.59,)}))
    assert [(c.score.run, c.state) for c in beyond] == [(TRAINED, "moved"), (SOURCE, "moved")]
    assert str(beyond[1]) == "source_only on tiny, cup dice: 0.5000 -> 0.5210, tolerance 0.0200"
    plain = Score((*PLAIN, "strict", "cup", "dice"), 0.5, 0.1, (0.5,))
    assert plain.name == "cbmt calibration=none on tiny, cup dice"


def test_nothing_moved(folder, measured):
    asked = measured(VALUES)
    put(folder)
    found = regress.regress(folder, progress=QUIET)
    assert found.sound
    assert (found.measured, found.changes) == (4, ())
    ((_, shipped, renew),) = asked
    assert shipped == MODELS
    assert not renew


def test_a_moved_score_a_failed_claim_and_a_failed_run_are_noticed(folder, measured):
    put(folder)
    measured({**VALUES, CBMT: (0.55,)})
    found = regress.regress(folder, progress=QUIET)
    assert not found.sound
    assert [c.state for c in found.changes] == ["moved"]
    assert [str(claim) for claim in found.claims] == [
        "tiny: cup dice of cbmt above source_only by more than 0.1 (it adapts)"
    ]
    measured({**VALUES, CBMT: (0.79,)})
    found = regress.regress(folder, progress=QUIET)
    assert found.sound
    assert [c.state for c in found.changes] == ["within"]
    measured(VALUES, failed=[object()])
    assert not regress.regress(folder, progress=QUIET).sound


@pytest.mark.parametrize("state", ["lost", "new"])
def test_a_row_too_many_or_too_few_is_noticed(folder, measured, state):
    measured(VALUES)
    rows = dict(VALUES)
    if state == "new":
        del rows[PLAIN]
    else:
        rows["tiny", "adabn", "", ""] = (0.1,)
    put(folder, rows)
    found = regress.regress(folder, progress=QUIET)
    assert [c.state for c in found.changes] == [state]
    assert not found.sound


def test_a_choice_leaves_the_other_rows_alone(folder, measured):
    asked = measured(VALUES)
    put(folder)
    assert regress.regress(folder, methods=["plain"], progress=QUIET).sound
    assert [run.called for _, run in asked[0][0]] == ["plain"]
    assert regress.regress(folder, methods=["source_training"], progress=QUIET).sound
    assert [run.called for _, run in asked[1][0]] == ["source_training"]
    assert asked[1][1] == {}, "it starts from nothing"


def test_an_update_writes_scores_models_and_a_line_on_why(folder, measured):
    asked = measured(VALUES)
    gone = {("tiny", "adabn", "", ""): (0.1,)}
    put(folder, {**gone, SOURCE: (0.4,)})
    found = regress.update(folder, folder / "changes", "a finer grid", progress=QUIET)
    assert asked[0][1:] == ({}, True)
    written = reference.read_scores(folder)
    assert [score.run for score in written.values()] == [TRAINED, SOURCE, CBMT, PLAIN]
    assert {c.state for c in found.changes} == {"moved", "new", "lost"}
    assert reference.source_path(folder, "tiny").read_bytes() == b"new"
    fragment = folder / "changes" / "reference.numbers.md"
    what = "(tiny: source_training, source_only, cbmt, plain)"
    first = f"- `numbers`: `results/reference` {what}: a finer grid\n"
    assert fragment.read_text() == first

    measured({**VALUES, PLAIN: (0.9,)})
    reference.source_path(folder, "tiny").write_bytes(b"stays")
    regress.update(folder, folder / "changes", "why not", methods=["plain"], progress=QUIET)
    assert asked[1][1] == {"tiny": b"stays"}
    assert reference.source_path(folder, "tiny").read_bytes() == b"stays"
    again = reference.read_scores(folder)
    assert again[(*PLAIN, "strict", "cup", "dice")].value == 0.9
    assert again[(*SOURCE, "strict", "cup", "dice")].value == 0.5
    assert fragment.read_text().startswith(first)
    assert fragment.read_text().endswith("(tiny: plain): why not\n")


def test_a_claim_has_to_hold_for_what_an_update_writes(folder, measured):
    measured({**VALUES, CBMT: (0.55,)})
    found = regress.update(folder, folder, "r", progress=QUIET)
    assert [claim.higher for claim in found.claims] == ["cbmt"]


def test_an_update_names_what_guards_nothing(folder, measured):
    measured({**VALUES, PLAIN: (0.02,)})
    found = regress.update(folder, folder, "r", progress=QUIET)
    assert [score.run for score in found.blind] == [PLAIN], "0.02 with a tolerance of 0.02"
    assert found.summary["blind"] == ["cbmt calibration=none on tiny, cup dice"]


def test_an_update_with_a_failed_run_writes_nothing(folder, measured):
    measured(VALUES, failed=[object()])
    regress.update(folder, folder / "changes", "r", progress=QUIET)
    assert [path.name for path in folder.iterdir()] == ["reference.toml"]


def test_an_update_refuses_to_keep_training_of_another_number_of_seeds(folder, measured):
    asked = measured(VALUES)
    put(folder, {**VALUES, TRAINED: (0.9, 0.8)})
    before = (folder / "scores.csv").read_bytes()
    with pytest.raises(BadInput, match=r"source_training on tiny.* has 2 seeds, .* asks for 3"):
        regress.update(folder, folder / "changes", "r", methods=["plain"], progress=QUIET)
    assert asked == [], "before anything is measured"
    assert (folder / "scores.csv").read_bytes() == before
    assert not (folder / "changes").exists()
    regress.update(folder, folder / "changes", "r", progress=QUIET)
    trained = reference.read_scores(folder)[(*TRAINED, "source", "all", "validation_dice")]
    assert len(trained.seeds) == 3


def test_a_source_model_is_renewed_with_all_that_starts_from_it(folder, measured):
    asked = measured(VALUES)
    put(folder)
    with pytest.raises(BadInput, match="source_training: all runs start from it"):
        regress.update(folder, folder, "r", methods=["source_training"], progress=QUIET)
    assert asked == []


def test_a_source_model_that_is_not_there_is_named(folder, measured):
    asked = measured(VALUES)
    put(folder, models=())
    with pytest.raises(BadInput, match=r"tiny\.safetensors: no such file; .*--update --task tiny"):
        regress.regress(folder, progress=QUIET)
    assert asked == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"tiny"', '"tinny"', "unknown task 'tinny': did you mean tiny"),
        ('method = "source_only"', 'method = "sorce_only"', "names source_only on tiny"),
        ('name = "plain", ', "", "cbmt twice; give one a `name`"),
        ('lower = "source_only"', 'lower = "adabn"', "names adabn on tiny, which is not listed"),
        ('class = "cup"', 'class = "cop"', "unknown class of tiny 'cop': did you mean cup"),
        ('metrics = ["dice"]', 'metrics = ["dise"]', "floor lacks dise"),
        ("validation_dice = 0.01", "", "floor lacks validation_dice"),
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
    folder, tell, sfdabench, monkeypatch, make_record
):
    """Through the workers, which find what they are told to, but make no model."""
    started = []
    monkeypatch.setattr("sfdabench.campaign.portable.pack", lambda _: b"packed")
    monkeypatch.setattr("sfdabench.campaign.portable.unpack", lambda *given: started.append(given))
    monkeypatch.setattr(regress, "default_folder", lambda: folder)
    monkeypatch.setattr(regress, "changelog_folder", lambda: folder / "changes")
    monkeypatch.setenv("SFDABENCH_DATA", str(folder))  # real data, which it must not look at

    def found(cup, trained=0.9):
        scores = make_record.means(["strict"], ["cup"], dice=cup)
        none = dict.fromkeys(("prediction", "reference", "both"), 0)
        source = {"selected_epoch": 0, "validation_dice": trained}
        return {"scores": scores, "empties": {"strict": {"cup": none}}, "source": source}

    told = {f"source_only {seed}": found(0.5, 0.7 + seed / 10) for seed in range(3)}
    told |= {"cbmt 0": found(0.9)}
    tell(told)
    code, text, err = sfdabench("regress", "--update", "--reason", "first", "--jobs", 2)
    assert code == 0, err
    assert "4 scores measured, 0 moved, 0 lost, 4 new, 0 within; 0 claims and 0 runs" in text
    assert "[6/6]" in err, "three trainings, and seed 0 of three runs"
    lines = (folder / "scores.csv").read_text().splitlines()
    assert lines[1].endswith("all,validation_dice,0.700000,0.300000,0.700000 0.800000 0.900000")
    assert lines[2].endswith("strict,cup,dice,0.500000,0.020000,0.500000")
    assert lines[3].endswith("0.900000,0.020000,0.900000")
    assert reference.source_path(folder, "tiny").read_bytes() == b"packed"

    reference.source_path(folder, "tiny").write_bytes(b"shipped")
    tell(told | {"source_only 0": found(0.85, 0.35)})
    code, text, _ = sfdabench("regress")
    assert code == 1
    moved = "moved source_training on tiny, all validation_dice: 0.7000 -> 0.3500, tolerance 0.3000"
    assert moved in text
    assert "moved source_only on tiny, cup dice: 0.5000 -> 0.8500, tolerance 0.0200" in text
    assert "claim fails: tiny: cup dice of cbmt above source_only" in text
    assert [data for data, *_ in started] == [b"packed", b"shipped"]

    tell(told | {"source_only 0": {"signal": 9}})
    code, text, _ = sfdabench("regress", "--method", "source_only", "--json")
    (failed,) = json.loads(text)["failed"]
    assert code == 1
    assert failed["run"] == "source_only on tiny, seed 0"
    assert "SIGKILL" in failed["reason"]
    assert json.loads(text)["changes"][0]["state"] == "lost"

    before = (folder / "scores.csv").read_bytes()
    code, text, _ = sfdabench("regress", "--update", "--reason", "r", "--json")
    assert code == 1
    assert {one["run"] for one in json.loads(text)["failed"]} == {"source_training on tiny, seed 0"}
    assert (folder / "scores.csv").read_bytes() == before


def test_a_worker_that_leaves_no_record_is_a_failed_run(folder, sfdabench, monkeypatch):
    done = (sys.executable, "-c", 'print(\'{"status": "done"}\')')
    monkeypatch.setattr("sfdabench.campaign.workers.Flags.command", lambda *_: done)
    monkeypatch.setattr(regress, "default_folder", lambda: folder)
    monkeypatch.setattr("sfdabench.campaign.portable.unpack", lambda *_: None)
    put(folder)
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
    assert json.loads(text)["measured"] == 3
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
    listed = [reference.run_key(task, run) for task in found.tasks for run in task.all]
    assert list(dict.fromkeys(score.run for score in rows.values())) == listed
    for score in rows.values():
        trained = score.metric == reference.QUALITY
        assert len(score.seeds) == (found.tolerance.seeds if trained else 1)
        assert score.value == score.seeds[0]
        rule = found.tolerance.of(score.metric, score.seeds)
        assert score.tolerance == pytest.approx(rule, abs=1e-5)
    assert not reference.failing(found, rows)


def test_the_shipped_source_models_fit_their_tasks(tmp_path):
    found = reference.read(SHIPPED)
    paths = {task.name: reference.source_path(SHIPPED, task.name) for task in found.tasks}
    assert {path.name for path in (SHIPPED / "sources").iterdir()} == {
        path.name for path in paths.values()
    }
    for listing in found.tasks:
        path, task = paths[listing.name], registry.load("tasks", listing.name)
        assert path.stat().st_size < 1e6
        model = portable.unpack(path.read_bytes(), path, tmp_path / listing.name)
        texts = [f"{name}={value}" for name, value in listing.source.items()]
        _, network, _ = plan.choose_recipe(task, "phantom", texts)
        outputs = len(task.classes) + (task.head == "softmax")
        module = network.build(channels=task.channels, outputs=outputs)
        state, _ = from_bytes(model.path.read_bytes(), model.path)
        fill(module, state, path)


def test_the_wheel_carries_the_reference(tmp_path):
    """What our setup.py would put into one, of a checkout with a few small files."""
    root, wheel = tmp_path / "checkout", tmp_path / "wheel"
    kept = ("results/reference/reference.toml", "results/reference/scores.csv")
    kept += ("results/reference/sources/tiny.safetensors",)
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
