"""Verdicts, matching and rendering, on records written by hand."""

import csv
import io
import re
import shutil
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest

from sfdabench.core import paths
from sfdabench.core.errors import BadInput
from sfdabench.report import benchmark as papers
from sfdabench.report import render, tables
from sfdabench.store import records

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FIELDS = {
    "source_only": {},
    "adabn": {"batch_size": 8},
    "tent": {"steps": 1},
    "supervised": {"epochs": 40},
    "pseudo_label": {
        **{"epochs": 20, "batch_size": 8, "learning_rate": 2.5e-5, "lr_decay": 0.9},
        **{"threshold": 0.75, "labels": "online", "label_mode": "train"},
    },
    "cbmt": {
        **{"epochs": 20, "batch_size": 8, "learning_rate": 5e-4, "lr_decay": 0.9},
        **{"threshold": 0.75, "ema": 0.98, "alpha": 0.2, "calibration": "loss"},
        **{"constant_weight": 0.25, "calibrated_class": "cup"},
        **{"weak": "identity", "strong": "fundus_strong"},
    },
}
RECIPE = {
    **{"size": 512, "network": "deeplabv3plus_mobilenetv2", "backbone_weights": "0f" * 32},
    **{"augmentation": "fundus", "epochs": 200, "batch_size": 8, "learning_rate": 0.001},
    **{"decay": 0.98},
}


def scores(disc, cup, cases=60, undefined=0):
    """Dice as given; ASSD is a pixel a point short of 1; `undefined` cup distances are dropped."""

    def one(mean, n=cases, undefined=0):
        n = 0 if mean is None else n
        return {"mean": mean, "std": 0.1 if n else None, "n": n, "undefined": undefined}

    def two(dice, lost):
        distance = None if dice is None or lost == cases else 100 * (1 - dice)
        return {"dice": one(dice), "assd_mean": one(distance, cases - lost, lost)}

    return {"cbmt": {"disc": two(disc, 0), "cup": two(cup, undefined)}}


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def put(results, make_record):
    """Write a record, and that of its source model where there is none.

    put(method, seed, disc, cup, fields set by the user, **changed keys); the source model has a
    Dice of 0.88 on the disc and of 0.76 on the cup.
    """

    def write(method, seed=0, disc=0.93, cup=0.81, overrides=None, **keys):
        overrides = overrides or {}
        cases = keys.pop("cases", 60)
        chain = method.split("+")
        failed = keys.get("status") == "failed"
        best = scores(disc + 0.01, cup + 0.01, cases)
        audit = make_record.audit([0.0, 0.5, 0.6, 0.7, *[0.65] * 16], best=best)
        plain = {
            **{"profile": "paper", "data": "real", "manifest_sha256": "dada" * 16},
            **{"source_sha256": f"{seed}5ce" * 16, "recipe": RECIPE},
            "cases": {"adapt": 99, "test": cases},
        }
        record = make_record(
            method,
            seed,
            **{
                **plain,
                "fields": {name: {**FIELDS[name], **overrides.get(name, {})} for name in chain},
                "overrides": {name: overrides.get(name, {}) for name in chain},
                "scores": {} if failed else scores(disc, cup, cases),
                "audit": None if failed or method == "source_only" else audit,
                "curves": {chain[-1]: {"weight": [0.25, 0.3]}},
                **keys,
            },
        )
        if record.unadapted:
            own = {"manifest_sha256": "dada" * 16} if method == "supervised" else {}
            before = scores(0.88, 0.76, cases)
            if "cbmt" not in record.scores:
                before = {"strict": before["cbmt"]}
            record = make_record.keep_source(results, record, before, **own)
        if method == "source_only":
            return make_record.keep(results, record)
        folder = results / record.task / method
        return make_record.keep(results, record, name=str(len(list(folder.glob("?.json")))))

    return write


@pytest.fixture
def cells(results):
    """cells(table, row) -> its cells in the first block, by column."""

    def build(name, row, **kind):
        table = tables.build(name, results, folder=BENCHMARKS, **kind)
        line = next(line for line in table.sections[0].lines if line.name == row)
        return dict(zip((column.name for column in table.columns), line.cells, strict=True))

    return build


def test_reproduced_within_the_tolerance_and_differs_beyond_it(put, cells):
    put("cbmt", disc=0.9436, cup=0.8217)
    found = cells("cbmt-1", "CBMT(Ours)")
    assert found["Disc Dice"].verdict == "reproduced"  # exactly one point from 93.36
    assert found["Disc Dice"].difference == pytest.approx(1.0)
    assert found["Cup Dice"].verdict == "differs"  # 1.01 points from 81.16
    assert found["Disc ASSD"].verdict == "differs"  # 5.64 px, published 6.20
    assert found["Disc ASSD"].difference == pytest.approx(-0.56)


def test_mean_and_spread_are_over_seeds(put, cells):
    for seed, disc in enumerate((0.92, 0.93, 0.94)):
        put("cbmt", seed, disc=disc)
    cell = cells("cbmt-1", "CBMT(Ours)")["Disc Dice"]
    assert (cell.measured, cell.measured_std) == pytest.approx((93.0, 1.0))
    assert cell.seeds == 3
    assert cells("cbmt-1", "CBMT(Ours)")["Cup Dice"].measured_std == pytest.approx(0)


def test_one_seed_has_no_spread(put, cells):
    put("cbmt")
    assert cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].measured_std is None


def test_averages_over_classes(put, cells):
    put("cbmt", 0, disc=0.94, cup=0.80)
    put("cbmt", 1, disc=0.96, cup=0.82)
    cell = cells("cbmt-2", "P-L + EMA + Aug. + Calib.")["Avg. Dice"]
    assert cell.measured == pytest.approx(88.0)
    assert cell.measured_std == pytest.approx(2**0.5)  # of the seeds' averages 87 and 89


def test_the_starred_row_is_the_audits_best_epoch(put, cells):
    put("pseudo_label", disc=0.84, cup=0.64)
    assert cells("cbmt-2", "P-L")["Avg. Dice"].measured == pytest.approx(74)
    best = cells("cbmt-2", "P-L, best epoch*")["Avg. Dice"]
    assert best.measured == pytest.approx(75)
    assert "best epoch on test labels, from 1: 4" in best.note


def test_a_method_without_epochs_has_no_best_one(put, cells):
    put("pseudo_label", audit=None)
    best = cells("cbmt-2", "P-L, best epoch*")["Avg. Dice"]
    assert (best.measured, best.verdict) == (None, "not comparable (undefined in a run)")


def test_where_the_backbone_weights_lie_makes_no_other_recipe(put, cells, results):
    for seed, folder in enumerate(("/first", "/second")):
        recipe = {**RECIPE, "backbone_weights": f"{folder}/mobilenet_v2.pth"}
        put("cbmt", seed, recipe=recipe, device="cuda", device_name="NVIDIA H200")
    assert cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].seeds == 2
    basis = "\n".join(tables.build("cbmt-1", results, folder=BENCHMARKS).basis)
    assert "backbone_weights mobilenet_v2.pth" in basis
    assert "on cuda float32 (NVIDIA H200)" in basis


def test_rows_are_told_apart_by_their_fields(put, cells):
    put("cbmt", disc=0.91)
    put("cbmt", disc=0.92, overrides={"cbmt": {"strong": "identity"}})
    put("cbmt", disc=0.93, overrides={"cbmt": {"calibration": "constant"}})
    put("cbmt", disc=0.94, overrides={"cbmt": {"ema": 0.99}})  # stands in no row
    assert cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].measured == pytest.approx(91)
    assert cells("cbmt-1", "CBMT, weight 0.25")["Disc Dice"].measured == pytest.approx(93)
    assert cells("cbmt-2", "P-L + EMA + Calib.")["Avg. Dice"].measured == pytest.approx(86.5)
    assert cells("cbmt-s2", "Weak to teacher, weak to student")["Avg. Dice"].seeds == 1


def test_a_field_set_to_its_default_changes_nothing(put, cells):
    put("cbmt", overrides={"cbmt": {"alpha": 0.2, "strong": "fundus_strong"}})
    assert cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].seeds == 1
    assert cells("cbmt-3", "ηfg/ηbg")["α=0.2"].seeds == 1
    assert cells("cbmt-3", "ηfg/ηbg")["α=0.3"].seeds == 0


def test_the_calibration_weight_is_that_of_the_first_epoch(put, cells):
    put("cbmt", overrides={"cbmt": {"alpha": 0.0}}, curves={"cbmt": {"weight": [2.5, 0.1]}})
    put("cbmt", overrides={"cbmt": {"alpha": 0.1}})
    put("cbmt", overrides={"cbmt": {"alpha": 0.3}}, curves={})
    found = cells("cbmt-3", "ηfg/ηbg")
    assert (found["α=0"].measured, found["α=0"].verdict) == (2.5, "differs")
    assert (found["α=0.1"].measured, found["α=0.1"].verdict) == (0.25, "reproduced")
    assert found["α=0.3"].verdict == "not comparable (undefined in a run)"
    assert found["α=0.4"].verdict == "not run"


def test_a_phantom_is_never_compared(put, cells, results):
    put("cbmt", disc=0.9336, data="phantom", profile="phantom", recipe={**RECIPE, "size": 96})
    cell = cells("cbmt-1", "CBMT(Ours)")["Disc Dice"]
    assert cell.verdict == "not comparable (phantom data)"
    assert cell.difference is None
    put("cbmt", seed=1, disc=0.9336, data="phantom")  # with the paper's profile neither
    cell = cells("cbmt-1", "CBMT(Ours)", profile="paper")["Disc Dice"]
    assert cell.verdict == "not comparable (phantom data)"
    assert "PHANTOM DATA" in render.text(tables.build("cbmt-1", results, folder=BENCHMARKS))


def test_phantom_and_real_never_meet(put, cells, results):
    put("cbmt", 0, disc=0.5, data="phantom", profile="phantom")
    put("cbmt", 0, disc=0.9)
    put("cbmt", 1, disc=0.6, profile="phantom")
    assert cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].measured == pytest.approx(90)
    for kind, value in (
        ({"kind": "phantom"}, 50),
        ({"kind": "real", "profile": "phantom"}, 60),
    ):
        cell = cells("cbmt-1", "CBMT(Ours)", **kind)["Disc Dice"]
        assert (cell.measured, cell.seeds) == (pytest.approx(value), 1)
    basis = tables.build("cbmt-1", results, folder=BENCHMARKS).basis
    assert "not shown: 2 records of phantom data, profile phantom" in basis
    assert "not shown: 2 records of real data, profile phantom" in basis


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"recipe": {**RECIPE, "size": 128, "epochs": 30}}, "profile: size 128, epochs 30"),
        ({"recipe": {**RECIPE, "backbone_weights": None}}, "profile: no backbone_weights"),
        ({"profile": "phantom"}, "profile: phantom"),
        ({"cases": 51}, "51 test cases, 60 in the paper"),
        ({"fields": {"cbmt": {**FIELDS["cbmt"], "epochs": 5}}}, "profile: cbmt epochs 5"),
        (
            {"scores": {"strict": scores(0.9, 0.8)["cbmt"]}, "audit": None},
            "not scored by cbmt: run with --protocol cbmt",
        ),
        ({"scores": scores(None, 0.8)}, "undefined in a run"),
    ],
)
def test_what_stands_in_the_way_of_a_comparison(put, cells, keys, why):
    put("cbmt", **keys)
    assert cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].verdict == f"not comparable ({why})"


def test_pixels_of_another_grid_have_no_difference(put, cells):
    """A pixel of a 128-px grid is four times as long as one of 512; points of Dice are points."""
    put("cbmt", recipe={**RECIPE, "size": 128})
    row = cells("cbmt-1", "CBMT(Ours)")
    distance, dice = row["Disc ASSD"], row["Disc Dice"]
    assert distance.verdict == ("not comparable (unit: pixels of a 128-px grid, 512 in the paper)")
    assert distance.measured is not None
    assert distance.difference is None
    assert dice.difference is not None


def test_copied_rows_are_set_beside_ours_but_not_compared(put, cells):
    put("source_only", disc=0.8318)
    put("supervised", disc=0.96)
    cell = cells("cbmt-1", "W/o DA [4]")["Disc Dice"]
    assert cell.verdict == "not comparable (copied from DPL's paper: other source model)"
    assert cell.difference == pytest.approx(0)
    oracle = cells("cbmt-1", "Oracle [26]")
    assert "BEAL's paper" in oracle["Disc Dice"].verdict
    assert (oracle["Disc ASSD"].published, oracle["Disc ASSD"].difference) == (None, None)


def test_unadapted_scores_are_those_of_the_source_model_of_each_seed(put, cells):
    put("cbmt", 0)
    put("cbmt", 1)
    put("source_only", 1, disc=0.90)
    cell = cells("cbmt-1", "W/o DA [4]")["Disc Dice"]
    assert (cell.measured, cell.seeds) == (pytest.approx(89), 2)


def test_a_source_model_of_other_protocols_or_devices_is_no_repetition(put, cells, results):
    put("cbmt")
    put("adabn", scores={"strict": scores(0.9, 0.8)["cbmt"]}, audit=None)
    put("tent", device="cuda")
    assert len(list((results / "refuge2rimone" / "source_only").iterdir())) == 3
    assert cells("cbmt-1", "W/o DA [4]")["Disc Dice"].seeds == 1
    assert tables.build("cbmt-1", results, folder=BENCHMARKS).problems == ()


def test_a_source_model_without_a_record_is_one_line_with_its_command(put, cells, results):
    source_set = {"size": 128}
    for method in ("cbmt", "adabn"):
        record = records.read(put(method, 1, source_overrides=source_set))
    path = records.record_path(results, "refuge2rimone", "source_only", record.unadapted)
    path.unlink()
    assert cells("cbmt-1", "W/o DA [4]")["Disc Dice"].verdict == "not run"
    assert cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].seeds == 1
    (problem,) = tables.build("cbmt-1", results, folder=BENCHMARKS).problems
    assert problem.startswith(f"cbmt-1, RIM-ONE-r3: {path}: cannot be read (No such file")
    assert problem.endswith(
        "make it: sfdabench run --method source_only --task refuge2rimone "
        f"--out {results} --source-set size=128 --data DIR --seed 1 --device cpu --protocol cbmt"
    )
    assert not tables.build("cbmt-3", results, folder=BENCHMARKS).problems  # has no such row


def test_not_run_and_not_implemented(cells, put, tmp_path):
    put("adabn")
    assert cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].verdict == "not run"
    folder = tmp_path / "benchmarks"
    shutil.copytree(BENCHMARKS / "cbmt", folder / "cbmt")
    path = folder / "cbmt" / "benchmark.toml"
    text = path.read_text().replace('method = "dpl"', 'method = "elsewhere"')
    path.write_text(text.replace("seeds = 3", 'seeds = 3\nabsent = ["elsewhere"]', 1))
    lines = tables.build("cbmt-1", None, folder=folder).sections[0].lines
    (line,) = (line for line in lines if line.name == "DPL [4]")
    assert line.cells[0].verdict == "not implemented"


def test_ours_have_no_verdict(put, cells, results):
    put("adabn")
    put("adabn+cbmt")
    put("adabn", 1, overrides={"adabn": {"batch_size": 4}})  # a trial stands in no row
    assert cells("cbmt-1", "AdaBN")["Cup Dice"].verdict == "not in the paper"
    assert cells("cbmt-1", "AdaBN")["Cup Dice"].seeds == 1
    assert cells("cbmt-1", "adabn+cbmt")["Cup Dice"].verdict == "not in the paper"
    lines = tables.build("cbmt-3", results, folder=BENCHMARKS).sections[0].lines
    assert [line.name for line in lines] == ["ηfg/ηbg"]


def test_a_failed_seed_never_improves_a_verdict(put, cells):
    put("cbmt", 0, disc=0.9336)
    put("cbmt", 1, status="failed", reason="out of memory", scores={})
    cell = cells("cbmt-1", "CBMT(Ours)")["Disc Dice"]
    assert cell.verdict == "not comparable (1 of 2 runs failed)"
    assert (cell.seeds, cell.failed) == (1, 1)
    assert "seed 1 failed: out of memory" in cell.note


def test_all_failed(put, cells, results):
    put("cbmt", status="failed", reason="out of memory", scores={}, source_sha256=None)
    assert cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].verdict == "failed"
    table = tables.build("cbmt-1", results, folder=BENCHMARKS)
    assert re.search(r"CBMT\(Ours\).* failed\n", render.text(table))


def test_a_failure_that_was_made_good_is_forgotten(put, cells):
    put("cbmt", 0, status="failed", reason="killed", scores={})
    put("cbmt", 0, disc=0.9336)
    assert cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].verdict == "reproduced"


def test_dropped_cases_and_empty_masks_are_told(put, cells, results):
    none = {"prediction": 0, "reference": 0, "both": 0}
    empties = {"cbmt": {"cup": none | {"prediction": 4}, "disc": none}}
    put("cbmt", scores=scores(0.9, 0.8, undefined=4), empties=empties)
    assert "undefined in 4 cases of 1 runs" in cells("cbmt-1", "CBMT(Ours)")["Cup ASSD"].note
    assert "undefined" not in cells("cbmt-1", "CBMT(Ours)")["Disc ASSD"].note
    basis = "\n".join(tables.build("cbmt-1", results, folder=BENCHMARKS).basis)
    assert "empty masks: 4 cup predictions of CBMT(Ours)" in basis


def test_a_weaker_lock_is_told(put, cells, results):
    put("cbmt", 0, lock="landlock")
    put("cbmt", 1, lock="audit hook")
    put("adabn", 0, lock="landlock")
    assert "; 1 run behind an audit hook" in cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].note
    assert "hook" not in cells("cbmt-1", "AdaBN")["Disc Dice"].note
    basis = "\n".join(tables.build("cbmt-1", results, folder=BENCHMARKS).basis)
    assert "without the kernel's lock: 1 run behind an audit hook only" in basis


def test_a_mean_over_no_case_stays_undefined(put, cells, results):
    put("cbmt", 0)
    put("cbmt", 1, scores=scores(0.9, 0.8, undefined=60))
    cell = cells("cbmt-1", "CBMT(Ours)")["Cup ASSD"]
    assert (cell.measured, cell.verdict) == (None, "not comparable (undefined in a run)")
    assert re.search(
        r"undefined ~\d", render.text(tables.build("cbmt-1", results, folder=BENCHMARKS))
    )


MIXED = [
    ({"source_sha256": "ff" * 32}, "source models of seed 0", ("05ce05ce", "ffffffff")),
    ({"manifest_sha256": "ff" * 32}, "states of the data of seed 0", ("dadadada", "ffffffff")),
    ({"recipe": {**RECIPE, "size": 256}}, "source recipes", ("size 512", "size 256")),
]


@pytest.mark.parametrize(("keys", "what", "values"), MIXED)
def test_two_runs_that_differ_are_both_not_comparable(put, cells, results, keys, what, values):
    put("cbmt")
    put("adabn", **keys)
    verdicts = {f"not comparable (2 {what}: {a}, {b})" for a, b in permutations(values)}
    for row in ("CBMT(Ours)", "AdaBN"):
        found = cells("cbmt-1", row)["Disc Dice"]
        assert found.verdict in verdicts
        assert found.measured == pytest.approx(93)  # of one run: nothing is averaged
    unadapted = cells("cbmt-1", "W/o DA [4]")["Disc Dice"]  # either run has its own
    assert unadapted.measured is None
    assert unadapted.verdict in verdicts
    (problem,) = tables.build("cbmt-1", results, folder=BENCHMARKS).problems
    start, _, rest = problem.partition(" (")
    assert start == f"cbmt-1, RIM-ONE-r3: 2 {what} in one comparison"
    sides, _, cure = rest.rpartition("); ")
    assert cure == "move the records that do not belong here to another folder"
    source = r"refuge2rimone/source_only/\w+\.json"
    for side, value, method in zip(
        sorted(sides.split("; "), key=lambda side: "adabn" in side),
        values,
        ("cbmt", "adabn"),
        strict=True,
    ):
        assert re.fullmatch(rf"{value}: {source}, refuge2rimone/{method}/0\.json", side)
    assert tables.build("cbmt-3", results, folder=BENCHMARKS).problems == ()  # its runs agree
    assert cells("cbmt-3", "ηfg/ηbg")["α=0.2"].verdict == "reproduced"


@pytest.mark.parametrize(("keys", "what", "values"), MIXED)
def test_one_that_differs_from_the_rest_stands_alone(put, cells, results, keys, what, values):
    put("cbmt", disc=0.9336)
    put("pseudo_label")
    put("adabn", **keys)
    assert cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].verdict == "reproduced"
    singular = (
        what.replace("models", "model").replace("states", "state").replace("recipes", "recipe")
    )
    verdict = f"not comparable ({singular} is {values[1]}, that of the others {values[0]})"
    assert cells("cbmt-1", "AdaBN")["Disc Dice"].verdict == verdict
    assert cells("cbmt-1", "W/o DA [4]")["Disc Dice"].measured == pytest.approx(88)
    shown = " ".join(render.text(tables.build("cbmt-1", results, folder=BENCHMARKS)).split())
    assert f"not comparable: {singular} is {values[1]}" in shown
    assert f"! cbmt-1, RIM-ONE-r3: 2 {what} in one comparison" in shown


@pytest.mark.parametrize(("keys", "what", "values"), MIXED)
def test_one_seed_of_a_row_is_never_averaged_over_two(put, cells, keys, what, values):
    put("cbmt", 0, disc=0.9)
    put("cbmt", 0, disc=0.8, **keys)
    put("cbmt", 1, disc=0.9)
    put("adabn", 0)
    found = cells("cbmt-1", "CBMT(Ours)")["Disc Dice"]
    assert (found.measured, found.measured_std, found.difference) == (None, None, None)
    assert found.verdict == f"not comparable (2 {what}: {values[0]}, {values[1]})"


def test_seeds_of_other_settings_are_never_averaged(put, cells, results):
    """A default that changed between two versions leaves records that are named alike."""
    put("supervised", 0, disc=0.9)
    put("supervised", 1, disc=0.5, fields={"supervised": {"epochs": 10}})
    found = cells("cbmt-1", "Oracle [26]")["Disc Dice"]
    assert (found.measured, found.measured_std) == (None, None)
    assert found.verdict.startswith("not comparable (2 settings of supervised: epochs=")
    (problem,) = tables.build("cbmt-1", results, folder=BENCHMARKS).problems
    assert "cbmt-1, RIM-ONE-r3, Oracle [26]: 2 settings of supervised" in problem
    assert "supervised/1.json" in problem


def test_the_footer_names_every_source_model(put, results):
    put("cbmt", 0)
    put("adabn", 0, source_sha256="ff" * 32)
    put("cbmt", 1)
    basis = "\n".join(tables.build("cbmt-1", results, folder=BENCHMARKS).basis)
    assert "source model of seed 0: 05ce05ce or ffffffff, 1: 15ce15ce (" in basis


def test_a_trial_with_another_source_model_is_no_part_of_the_comparison(put, cells):
    put("cbmt")
    put("cbmt", overrides={"cbmt": {"ema": 0.99}}, source_sha256="ff" * 32)
    assert cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].seeds == 1


def test_a_supervised_bound_may_learn_from_another_split(put, cells, results):
    put("source_only", disc=0.88)
    put("cbmt", disc=0.9336)
    put("supervised", disc=0.96, setting="supervised", manifest_sha256="ff" * 32)
    for row in ("W/o DA [4]", "CBMT(Ours)", "Oracle [26]"):
        assert "states of the data" not in cells("cbmt-1", row)["Disc Dice"].verdict
    assert cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].verdict == "reproduced"
    assert not tables.build("cbmt-1", results, folder=BENCHMARKS).problems
    put("supervised", disc=0.5, setting="supervised", manifest_sha256="ee" * 32)
    found = cells("cbmt-1", "Oracle [26]")["Disc Dice"]
    assert found.verdict == "not comparable (2 states of the data of seed 0: ffffffff, eeeeeeee)"


def test_of_two_records_of_a_run_the_one_with_the_protocol_counts(put, cells):
    put("cbmt", disc=0.5, scores={"strict": scores(0.5, 0.5)["cbmt"]}, audit=None)
    assert "not scored by cbmt" in cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].verdict
    put("cbmt", disc=0.9336)
    found = cells("cbmt-1", "CBMT(Ours)")["Disc Dice"]
    assert (found.verdict, found.seeds) == ("reproduced", 1)


def test_a_line_is_labelled_as_its_run_is():
    row = papers.Row(name="r", method="adabn+cbmt", overrides={"cbmt": {"ema": 0.9}}, read="best")
    assert tables._label(row) == "adabn+cbmt cbmt.ema=0.9 best epoch"


def test_a_seed_recorded_twice_counts_once(put, cells, results):
    put("cbmt", disc=0.91)
    put("cbmt", disc=0.95, device="cuda")
    assert cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].measured == pytest.approx(91)
    problems = tables.build("cbmt-1", results, folder=BENCHMARKS).problems
    assert problems == (
        "cbmt-1, RIM-ONE-r3, CBMT(Ours): seed 0 is recorded 2 times, the first with the protocol "
        "counts (refuge2rimone/cbmt/0.json, refuge2rimone/cbmt/1.json)",
    )


def test_a_record_cut_short_is_named_and_the_rest_rendered(put, cells, results):
    put("cbmt")
    cut = put("cbmt", seed=1)
    cut.write_text(cut.read_text(encoding="utf-8")[:200], encoding="utf-8")
    old = put("adabn")
    old.write_text(old.read_text(encoding="utf-8").replace('"schema": 2', '"schema": 1'), "utf-8")
    assert cells("cbmt-1", "CBMT(Ours)")["Disc Dice"].seeds == 1
    table = tables.build("cbmt-1", results, folder=BENCHMARKS)
    assert [str(cut) in p for p in table.problems] == [False, True]
    assert [str(old) in p for p in table.problems] == [True, False]
    for name in ("text", "markdown", "latex"):
        assert "not a whole record" in " ".join(render.FORMATS[name](table).split())


def test_a_line_of_reported_csv_out_of_place_is_named_and_the_rest_rendered(tmp_path, results):
    folder = tmp_path / "benchmarks" / "cbmt"
    folder.mkdir(parents=True)
    for name in ("benchmark.toml", "reported.csv"):
        text = (BENCHMARKS / "cbmt" / name).read_text(encoding="utf-8")
        (folder / name).write_text(text.replace("CBMT(Ours),Disc D", "CBMT,Disc D"), "utf-8")
    shown = render.text(tables.build("cbmt-1", None, folder=folder.parent))
    assert "CBMT / Disc Dice matches no benchmark row" in " ".join(shown.split())
    assert re.search(r"CBMT\(Ours\) +– +6\.20±4\.79", shown)


def test_no_results_folder(results):
    table = tables.build("cbmt-1", results, folder=BENCHMARKS)
    assert table.problems == (f"{results}: no such folder; nothing has been run into it yet",)
    shown = render.text(table)
    assert "NOTHING MEASURED YET: published numbers only" in shown
    assert re.search(r"CBMT\(Ours\) +93\.36±4\.07 .* not run\n", shown)


def test_an_empty_results_folder(results):
    results.mkdir()
    table = tables.build("cbmt-2", results, folder=BENCHMARKS)
    assert (table.data, table.problems) == (None, ())


def test_unknown_names(results, monkeypatch):
    monkeypatch.setattr(paths, "shipped", lambda folder: BENCHMARKS)
    for arguments, message in (
        ({"name": "cbmt1"}, "unknown table 'cbmt1': did you mean cbmt-1"),
        ({"name": "cbmt-1", "kind": "reel"}, "unknown kind of data 'reel': did you mean real"),
        ({"name": "cbmt-1", "profile": "papr"}, "unknown profile 'papr'.*paper"),
    ):
        with pytest.raises(BadInput, match=message):
            tables.build(results=results, **arguments)


def test_the_list_counts_the_printed_cells(put, results):
    put("cbmt")
    found, problems = tables.summaries(results, folder=BENCHMARKS)
    assert problems == []
    measured = {s.name: s.measured for s in found if s.measured}
    # CBMT's row and the unadapted scores beside W/o DA; its row; alpha 0.2; weak and strong
    assert measured == {"cbmt-1": 8, "cbmt-2": 2, "cbmt-3": 1, "cbmt-s2": 1}
    empty, problems = tables.summaries(None, folder=BENCHMARKS)
    assert (sum(s.measured for s in empty), problems) == (0, [])
    assert sum(s.cells for s in empty) == 611


@pytest.fixture
def ablation(put, results):
    """Table 2 with four rows of every kind."""
    for seed, disc in enumerate((0.92, 0.93, 0.94)):
        put("cbmt", seed, disc=disc, cup=0.815)
        put("adabn", seed, disc=disc - 0.03)
    put("cbmt", disc=0.9, cup=0.8, overrides={"cbmt": {"strong": "identity"}})
    put("pseudo_label", 0, disc=0.7, cup=0.6)
    put("pseudo_label", 1, status="failed", reason="no foreground left", scores={})
    return tables.build("cbmt-2", results, folder=BENCHMARKS)


REASONS = (
    "1.0 points (with 60 and 51 test images a point of Dice is within the noise of a seed)",
    "0.5 px (in these tables a point of Dice goes with about 1 px on the disc and 0.5 px "
    "on the cup)",
)
TEXT = """\
cbmt-2: Table 2: ablation
Source-free domain adaptive fundus image segmentation with class-balanced mean teacher, MICCAI 2023
REAL DATA, profile paper

 Method                          Avg. Dice [%]      Avg. ASSD [px]  Runs
 ───────────────────────────────────────────────────────────────────────────────────
 RIM-ONE-r3                                                         refuge2rimone
 P-L                                     64.19               15.11
   pseudo_label                 65.00 +0.81 ~1     35.00 +19.89 ~1  1 seed, 1 failed
 P-L, best epoch*                        84.68                9.67
   pseudo_label best epoch     66.00 -18.68 ~1     34.00 +24.33 ~1  1 seed, 1 failed
 P-L + EMA                               83.63                8.51  not run
 P-L + EMA + Aug.                        84.36                8.48  not run
 P-L + EMA + Calib.                      86.04                8.26
   cbmt strong=identity          85.00 -1.04 ≠       15.00 +6.74 ≠  1 seed
 P-L + EMA + Aug. + Calib.               87.26                7.29
   cbmt                     87.25±0.50 -0.01 =  12.75±0.50 +5.46 ≠  3 seeds
 ours (not in the paper)
 Source model                       82.00±0.00          18.00±0.00  3 seeds
 AdaBN                              85.50±0.50          14.50±0.50  3 seeds
 P-L, labels fixed                                                  not run
 P-L, labels in eval mode                                           not run
 P-L, uncut learning rate                                           not run
 CBMT, weight 0.25                                                  not run
 CBMT, pixel counts                                                 not run

"""


def test_text(ablation):
    above, below = render.text(ablation).split("published ±")
    assert above == TEXT
    assert below.splitlines() == [
        " is over test images, measured ± over seeds",
        "then measured - published: = reproduced, ≠ differs, ~ not comparable",
        "~1: not comparable: 1 of 2 runs failed",
        "protocol cbmt",
        "a row asks for 3 seeds",
        "RIM-ONE-r3: source model of seed 0: 05ce05ce, 1: 15ce15ce, 2: 25ce25ce (size 512, network "
        "deeplabv3plus_mobilenetv2,",
        "backbone_weights 0f0f0f0f, epochs 200, batch_size 8)",
        "RIM-ONE-r3: real data dadadada, 60 test cases; on cpu float32 (x86_64); empty masks: none",
        *(f"reproduced: within {rest}" for rest in REASONS),
    ]


MARKDOWN = r"""
### cbmt-2: Table 2: ablation

Source-free domain adaptive fundus image segmentation with class-balanced mean teacher, MICCAI 2023

**REAL DATA, profile paper**

| Method | Avg. Dice \[%\] | Avg. ASSD \[px\] | Runs |
|---|---:|---:|---|
| **RIM-ONE-r3** |  |  | refuge2rimone |
| P-L | 64.19 | 15.11 |  |
| &emsp;pseudo\_label | 65.00 +0.81 \~1 | 35.00 +19.89 \~1 | 1 seed, 1 failed |
| P-L, best epoch\* | 84.68 | 9.67 |  |
| &emsp;pseudo\_label best epoch | 66.00 -18.68 \~1 | 34.00 +24.33 \~1 | 1 seed, 1 failed |
| P-L + EMA | 83.63 | 8.51 | not run |
| P-L + EMA + Aug. | 84.36 | 8.48 | not run |
| P-L + EMA + Calib. | 86.04 | 8.26 |  |
| &emsp;cbmt strong=identity | 85.00 -1.04 ≠ | 15.00 +6.74 ≠ | 1 seed |
| P-L + EMA + Aug. + Calib. | 87.26 | 7.29 |  |
| &emsp;cbmt | 87.25±0.50 -0.01 = | 12.75±0.50 +5.46 ≠ | 3 seeds |
| *ours (not in the paper)* |  |  |  |
| Source model | 82.00±0.00 | 18.00±0.00 | 3 seeds |
| AdaBN | 85.50±0.50 | 14.50±0.50 | 3 seeds |
| P-L, labels fixed |  |  | not run |
| P-L, labels in eval mode |  |  | not run |
| P-L, uncut learning rate |  |  | not run |
| CBMT, weight 0.25 |  |  | not run |
| CBMT, pixel counts |  |  | not run |

""".lstrip()


def test_markdown(ablation):
    above, below = render.markdown(ablation).split("- published ±")
    assert above == MARKDOWN
    assert [line[:2] for line in below.splitlines()[1:]] == ["- "] * 8
    assert r"- \~1: not comparable: 1 of 2 runs failed" in below


LATEX = r"""
\begin{tabular}{lrrl}
\toprule
Method & Avg. Dice [\%] & Avg. ASSD [px] & Runs \\
\midrule
\textbf{RIM-ONE-r3} &  &  & refuge2rimone \\
P-L & 64.19 & 15.11 &  \\
\quad pseudo\_label & 65.00 +0.81 $\sim$1 & 35.00 +19.89 $\sim$1 & 1 seed, 1 failed \\
P-L, best epoch* & 84.68 & 9.67 &  \\
\quad pseudo\_label best epoch & 66.00 -18.68 $\sim$1 & 34.00 +24.33 $\sim$1 & 1 seed, 1 failed \\
P-L + EMA & 83.63 & 8.51 & not run \\
P-L + EMA + Aug. & 84.36 & 8.48 & not run \\
P-L + EMA + Calib. & 86.04 & 8.26 &  \\
\quad cbmt strong=identity & 85.00 -1.04 $\neq$ & 15.00 +6.74 $\neq$ & 1 seed \\
P-L + EMA + Aug. + Calib. & 87.26 & 7.29 &  \\
\quad cbmt & 87.25$\pm$0.50 -0.01 = & 12.75$\pm$0.50 +5.46 $\neq$ & 3 seeds \\
\textit{ours (not in the paper)} &  &  &  \\
Source model & 82.00$\pm$0.00 & 18.00$\pm$0.00 & 3 seeds \\
AdaBN & 85.50$\pm$0.50 & 14.50$\pm$0.50 & 3 seeds \\
P-L, labels fixed &  &  & not run \\
P-L, labels in eval mode &  &  & not run \\
P-L, uncut learning rate &  &  & not run \\
CBMT, weight 0.25 &  &  & not run \\
CBMT, pixel counts &  &  & not run \\
\bottomrule
\end{tabular}
""".lstrip()


def test_latex(ablation):
    above, tabular, below = re.split(
        r"(?=\\begin{tabular})|(?<=\\end{tabular}\n)", render.latex(ablation)
    )
    assert tabular == LATEX
    assert above.splitlines()[0] == r"\begin{table}"
    assert r"REAL DATA, profile paper.}" in above
    assert r"$\sim$1: not comparable: 1 of 2 runs failed\par" in below.splitlines()
    assert below.splitlines()[-1] == r"\end{table}"


def test_csv_of_one_cell_a_row(ablation):
    rows = list(csv.DictReader(io.StringIO(render.csv_long(ablation))))
    assert list(rows[0]) == list(render.CSV_COLUMNS)
    assert len(rows) == 26
    found = {(row["row"], row["column"]): row for row in rows}
    full = found["P-L + EMA + Aug. + Calib.", "Avg. Dice"]
    assert full.pop("note") == "the mean of disc and cup in cbmt-1"
    assert full == {
        **{"table": "cbmt-2", "block": "RIM-ONE-r3", "row": "P-L + EMA + Aug. + Calib."},
        **{"column": "Avg. Dice", "published": "87.26", "published_std": "", "measured": "87.25"},
        **{
            "measured_std": "0.5",
            "seeds": "3",
            "cases": "60",
            "difference": "-0.01",
            "verdict": "reproduced",
        },
        **{"unit": "percent", "data": "real", "profile": "paper"},
    }
    failed = found["P-L", "Avg. Dice"]
    assert failed["verdict"] == "not comparable (1 of 2 runs failed)"
    assert failed["note"].endswith("seed 1 failed: no foreground left")
    assert found["Source model", "Avg. Dice"]["published"] == ""
    assert found["P-L + EMA", "Avg. Dice"]["measured"] == ""


@pytest.mark.parametrize("name", ["cbmt-1", "cbmt-2", "cbmt-3", "cbmt-s1", "cbmt-s2"])
def test_latex_needs_no_unicode_and_balances(put, results, name):
    put("cbmt")
    shown = render.latex(tables.build(name, results, folder=BENCHMARKS))
    assert shown.isascii()
    assert not re.search(r"(?<!\\)[%#_]", shown)
    assert shown.count("{") == shown.count("}")
    assert shown.count("$") % 2 == 0
    rows = [line for line in shown.splitlines() if line.endswith(r"\\")]
    assert len({line.replace(r"\&", "").count("&") for line in rows}) == 1


@pytest.mark.parametrize("width", [80, 100, 160])
def test_text_fits_any_console(put, results, width):
    from rich.console import Console

    for seed in range(3):
        put("cbmt", seed, disc=0.93 + seed / 1000)
    console = Console(file=io.StringIO(), width=width, color_system=None)
    render.show(tables.build("cbmt-1", results, folder=BENCHMARKS), console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert any("93.10" in line for line in lines)


def test_tables_import_no_torch():
    code = (
        "import sys; from sfdabench.report import tables, render; tables.list_tables();"
        "assert not {'torch', 'pandas', 'monai', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
