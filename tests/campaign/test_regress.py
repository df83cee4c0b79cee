"""The reference: its rule, what it notices, and what an update writes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from sfdabench.campaign import reference, regress
from sfdabench.campaign.reference import Rule, Score, compare
from sfdabench.core.errors import BadInput
from sfdabench.core.paths import checkout
from sfdabench.core.progress import Progress

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


HERE, THERE = (("cpu", "here"), ("torch", "1")), (("cpu", "there"), ("torch", "1"))


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """machine(fingerprint): be that machine; at first HERE."""

    def be(fingerprint):
        monkeypatch.setattr(regress, "fingerprint", lambda threads: fingerprint)

    be(HERE)
    return be


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


def test_a_second_update_waits_for_the_first(folder, measured, monkeypatch):
    """Each reads what is there, measures for minutes, and writes all of it."""
    put(folder)
    measured({})
    inner = regress.measure

    def measure(*arguments, **named):
        with pytest.raises(Timeout):
            FileLock(folder / "scores.csv.lock").acquire(timeout=0)
        return inner(*arguments, **named)

    monkeypatch.setattr(regress, "measure", measure)
    regress.update(folder, folder / "changes", "r", progress=QUIET)
    FileLock(folder / "scores.csv.lock").acquire(timeout=0).lock.release()


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


@pytest.fixture
def tiers(folder):
    """A list of two tasks; the small tier holds one run of the first, and so its training."""
    small = TOML.replace('method = "source_only" }', 'method = "source_only", tier = "small" }')
    head, claims = small.split("[[claims]]")
    other = '[[tasks]]\nname = "tiny_volume"\nruns = [{ method = "adabn" }]\n'
    (folder / "reference.toml").write_text(f"{head}{other}[[claims]]{claims}")
    return folder


OTHER = {("tiny_volume", "source_training", "", ""): (0.9, 0.9, 0.9)}
OTHER |= {("tiny_volume", "adabn", "", ""): (0.4,)}


def test_the_small_tier_is_a_part_and_leaves_the_other_rows_alone(tiers, measured):
    asked = measured(VALUES | OTHER)
    put(tiers, VALUES | OTHER)
    result = regress.regress(tiers, tier="small", progress=QUIET)
    assert (result.sound, result.measured) == (True, 2)
    assert [(task.name, run.called) for task, run in asked[0][0]] == [
        ("tiny", "source_training"),
        ("tiny", "source_only"),
    ]
    measured(VALUES | OTHER | {SOURCE: (0.6,)})
    result = regress.regress(tiers, tier="small", progress=QUIET)
    assert [(c.score.run, c.state) for c in result.changes] == [(SOURCE, "moved")]
    with pytest.raises(BadInput, match="no run of plain is listed in the small tier"):
        regress.regress(tiers, tier="small", methods=["plain"], progress=QUIET)
    with pytest.raises(BadInput, match="no run is listed for tiny_volume in the small tier"):
        regress.regress(tiers, tier="small", tasks=["tiny_volume"], progress=QUIET)


def test_the_small_tier_is_compared_exactly_and_learning_it_forgets_nothing(
    tiers, measured, machine
):
    measured(VALUES | OTHER)
    put(tiers, VALUES | OTHER, models=())
    for task in ("tiny", "tiny_volume"):
        path = reference.source_path(tiers, task)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"model")
    small = {"tier": "small", "progress": QUIET}
    assert regress.regress(tiers, learn=True, progress=QUIET).learned
    whole, scores_csv = reference.read_exact(tiers), (tiers / "scores.csv").read_bytes()
    assert len(whole[HERE]) == 6
    again = regress.regress(tiers, **small)
    assert (again.sound, again.rule) == (
        True,
        "this machine is known: 2 scores were compared exactly",
    )
    measured(VALUES | OTHER | {SOURCE: (0.5 + 1e-15,)})
    assert [c.state for c in regress.regress(tiers, **small).changes] == ["moved"]
    measured(VALUES | OTHER)
    assert regress.regress(tiers, learn=True, **small).learned
    assert reference.read_exact(tiers) == whole
    machine(THERE)
    assert regress.regress(tiers, learn=True, **small).learned
    both = reference.read_exact(tiers)
    assert both[HERE] == whole[HERE]
    assert {key[:4] for key in both[THERE]} == {TRAINED, SOURCE}
    assert (tiers / "scores.csv").read_bytes() == scores_csv


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
    files = {path.name for path in folder.iterdir() if path.suffix != ".lock"}
    assert files == {"reference.toml"}


NUDGED = 0.8 + 1e-15  # what one more bit of rounding makes of it


def test_nothing_may_move_on_a_machine_that_is_known(folder, measured, machine):
    measured(VALUES)
    put(folder)
    regress.update(folder, folder / "changes", "r", progress=QUIET)
    again = regress.regress(folder, progress=QUIET)
    assert again.sound
    assert again.rule == "this machine is known: 4 scores were compared exactly"
    measured({**VALUES, CBMT: (NUDGED,)})
    again = regress.regress(folder, progress=QUIET)
    assert not again.sound
    assert [(str(c), c.state) for c in again.changes] == [
        (
            "cbmt epochs=2 on tiny, cup dice: 0.8 -> 0.800000000000001, this machine is known, so "
            "nothing may move",
            "moved",
        )
    ]
    assert again.summary["changes"][0]["exact"] == 0.8
    machine(THERE)
    elsewhere = regress.regress(folder, progress=QUIET)
    assert elsewhere.sound
    assert elsewhere.rule.startswith("this machine is not known: scores were compared within their")


def test_a_second_machine_is_learned_without_moving_the_reference(folder, measured, machine):
    measured(VALUES)
    put(folder)
    regress.update(folder, folder / "changes", "r", progress=QUIET)
    before = (folder / "scores.csv").read_bytes()
    machine(THERE)
    there = {**VALUES, CBMT: (0.81,), PLAIN: (NUDGED,)}
    measured(there)
    assert not regress.regress(folder, learn=True, progress=QUIET).learned, "plain has moved"
    assert reference.read_exact(folder).keys() == {HERE}
    measured({**there, PLAIN: (0.1,)})
    part = regress.regress(folder, methods=["plain"], learn=True, progress=QUIET)
    assert part.learned
    assert part.rule.endswith("within their tolerances; all are known from now on")
    whole = regress.regress(folder, learn=True, progress=QUIET)
    assert whole.rule.startswith(
        "this machine is known: 1 scores were compared exactly, 3 within their tolerances; all are"
    )
    assert regress.regress(folder, progress=QUIET).rule.endswith("4 scores were compared exactly")
    cbmt = (*CBMT, "strict", "cup", "dice")
    assert {m: exact[cbmt] for m, exact in reference.read_exact(folder).items()} == {
        HERE: 0.8,
        THERE: 0.81,
    }
    assert (folder / "scores.csv").read_bytes() == before


def test_the_command_says_which_comparison_held(folder, measured, sfdabench, monkeypatch):
    monkeypatch.setattr(regress, "default_folder", lambda: folder)
    measured(VALUES)
    put(folder)
    code, text, _ = sfdabench("regress")
    assert (code, text.splitlines()[1:]) == (
        0,
        ["this machine is not known: scores were compared within their tolerances"],
    )
    code, text, _ = sfdabench("regress", "--learn", "--json")
    assert (code, json.loads(text)["rule"][-25:]) == (0, "all are known from now on")
    code, _, err = sfdabench("regress", "--tier", "small")
    assert (code, "no run is listed in the small tier" in err) == (2, True)
    measured({**VALUES, CBMT: (NUDGED,)})
    code, text, _ = sfdabench("regress")
    assert code == 1
    assert text.startswith("moved cbmt epochs=2 on tiny, cup dice: 0.8 -> 0.800000000000001, this ")
    assert text.endswith("\nthis machine is known: 4 scores were compared exactly\n")


def test_an_update_forgets_what_other_machines_gave_for_its_runs(folder, measured, machine):
    measured(VALUES)
    put(folder)
    regress.update(folder, folder / "changes", "r", progress=QUIET)
    machine(THERE)
    measured({**VALUES, PLAIN: (0.3,)})
    regress.update(folder, folder / "changes", "r", methods=["plain"], progress=QUIET)
    exact = reference.read_exact(folder)
    assert {key[:4] for key in exact[HERE]} == {TRAINED, SOURCE, CBMT}
    assert {key[:4]: value for key, value in exact[THERE].items()} == {PLAIN: 0.3}
    machine(HERE)
    assert regress.regress(folder, progress=QUIET).sound, "the others exactly, plain as it is now"
    regress.update(folder, folder / "changes", "r", progress=QUIET)
    assert reference.read_exact(folder).keys() == {HERE}


def test_exact_scores_survive_the_file(folder):
    numbers = [1 / 3, 0.1 + 0.2, 1e-17, 123456789.123456789, 1.0, 5e-324]
    keys = [("t", "cbmt", '{"cbmt": {"a": 1}}', "", "strict", str(k), "dice") for k in range(6)]
    machines = {HERE: dict(zip(keys, numbers, strict=True)), THERE: {keys[0]: 0.5}, (): {}}
    reference.write_exact(folder, machines, keys[:5])
    assert reference.read_exact(folder) == {
        HERE: dict(zip(keys[:5], numbers[:5], strict=True)),
        THERE: {keys[0]: 0.5},
    }
    lines = (folder / "exact.json").read_text().splitlines()
    assert sum('"dice"' in line for line in lines) == 6, "a line a score"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "cannot be read"),
        ("[]]", "cannot be read"),
        ("null", "the file: Input should be a valid tuple"),
        ('[{"machine": {}}]', r"0\.scores: Field required"),
        (
            '[{"machine": {"cpu": 1}, "scores": []}]',
            r"0\.machine\.cpu: Input should be a valid str",
        ),
        ('[{"machine": {}, "scores": [[["t"], NaN]]}]', "Input should be a finite number"),
        (
            '[{"machine": {}, "scores": [["t", 1]]}]',
            r"0\.scores\.0\.0: Input should be a valid tup",
        ),
    ],
)
def test_exact_scores_at_fault_are_named(folder, text, message):
    (folder / "exact.json").write_text(text)
    with pytest.raises(BadInput, match=message) as error:
        reference.read_exact(folder)
    assert str(folder / "exact.json") in str(error.value)


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
        ("validation_dice = 0.01", "validation_dice = inf", "floor.validation_dice: .* finite"),
        (
            "validation_dice = 0.01",
            "validation_dice = -1",
            "floor.validation_dice: .* than or equal",
        ),
        ("margin = 0.1", "margin = nan", "margin: .* finite number"),
        ("cbmt = { epochs", "adabn = { epochs", "cbmt overrides adabn, which it does not run"),
        ('name = "plain"', 'tier = "smal"', r"tier: Input should be 'small' or 'full'"),
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
    code, _, err = sfdabench("regress", "--learn", "--update", "--reason", "r")
    assert (code, "give one of them" in err) == (2, True)
    code, _, err = sfdabench("regress", "--tier", "small", "--update", "--reason", "r")
    assert (code, "--tier small: not with --update" in err) == (2, True)
    code, _, err = sfdabench("regress", "--tier", "smal")
    assert (code, "--tier" in err) == (2, True)
    monkeypatch.setattr(regress, "checkout", lambda: None)
    for given in (("--update", "--reason", "r"), ("--learn",)):
        code, _, err = sfdabench("regress", *given)
        assert (code, f"regress {given[0]}: only in a checkout" in err) == (2, True)


def test_the_command_measures_says_what_moved_and_leaves_no_trace(
    folder, tell, make_record, sfdabench, monkeypatch
):
    """Through the workers, which find what they are told to, but make no model."""
    packed, started = [], []
    monkeypatch.setattr(
        "sfdabench.campaign.portable.pack", lambda made: packed.append(made.stage) or b"packed"
    )
    monkeypatch.setattr("sfdabench.campaign.portable.unpack", lambda *given: started.append(given))
    monkeypatch.setattr(regress, "default_folder", lambda: folder)
    monkeypatch.setattr(regress, "changelog_folder", lambda: folder / "changes")
    monkeypatch.setenv("SFDABENCH_DATA", str(folder))  # real data, which it must not look at

    def found(cup, trained=0.9):
        scores = make_record.means(["strict"], ["cup"], dice=cup)
        source = {"selected_epoch": 1, "validation_dice": trained, "seconds": 1.0}
        return {"scores": scores, "source": source}

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
    (trained,) = packed
    assert (trained.name, trained.seed, trained.fields["epochs"]) == ("source_training", 0, 2)

    reference.source_path(folder, "tiny").write_bytes(b"shipped")
    tell(told | {"source_only 0": found(0.85, 0.35)})
    code, text, _ = sfdabench("regress")
    assert code == 1
    moved = "moved source_training on tiny, all validation_dice: 0.7 -> 0.35, this machine is known"
    assert moved in text
    assert "moved source_only on tiny, cup dice: 0.5 -> 0.85, this machine is known" in text
    assert text.endswith("this machine is known: 4 scores were compared exactly\n")
    assert "claim fails: tiny: cup dice of cbmt above source_only" in text
    assert [data for data, *_ in started] == [b"packed", b"shipped"]
    assert {stage.key for *_, stage in started} == {trained.key}, "in place of what was trained"

    tell(told | {"source_only 0": {"signal": 9}})
    code, text, _ = sfdabench("regress", "--method", "source_only", "--json")
    (failed,) = json.loads(text)["failed"]
    assert code == 1
    assert failed["run"] == "source_only on tiny, seed 0"
    assert "the worker was killed" in failed["reason"]
    assert json.loads(text)["changes"][0]["state"] == "lost"

    before = (folder / "scores.csv").read_bytes()
    code, text, _ = sfdabench("regress", "--update", "--reason", "r", "--json")
    assert code == 1
    assert {one["run"] for one in json.loads(text)["failed"]} == {"source_training on tiny, seed 0"}
    assert (folder / "scores.csv").read_bytes() == before


def test_a_worker_that_leaves_no_record_is_a_failed_run(
    folder, sfdabench, monkeypatch, python_workers
):
    done = ('print(\'{"status": "done"}\')',)
    monkeypatch.setattr("sfdabench.campaign.workers.command", lambda *_: done)
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


def test_the_wheel_carries_the_reference(tmp_path):
    """What our setup.py would put into one, of a checkout with a few small files."""
    root, wheel = tmp_path / "checkout", tmp_path / "wheel"
    kept = ("results/reference/reference.toml", "results/reference/scores.csv")
    kept += (
        "results/reference/exact.json",
        "results/reference/sources/tiny.safetensors",
    )
    for name in (*kept, "results/model.safetensors", "sfdabench/__init__.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name in ("setup.py", "setup.cfg", "README.md", "sfdabench/__init__.py"):
        shutil.copy(checkout() / name, root / name)
    command = (sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(wheel))
    subprocess.run(command, cwd=root, check=True)
    shipped = {f"sfdabench/shipped/{name}" for name in kept}
    files = {str(path.relative_to(wheel)) for path in wheel.rglob("*.*")}
    assert files == {"sfdabench/__init__.py"} | shipped
