"""Figures from records written by hand: what they show, and what they refuse."""

import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfdabench.campaign.sweep import wanted
from sfdabench.core.errors import BadInput
from sfdabench.core.paths import shipped
from sfdabench.core.progress import Progress
from sfdabench.present import plot as plotting
from sfdabench.present.plot import Request, plot
from sfdabench.report import benchmark, runs, units
from sfdabench.report.figures import bars, catalogue, grid, scores, style, sweep, tsne
from sfdabench.run.plan import choose_methods
from sfdabench.store import labels, records

TASK = "refuge2rimone"
FIELDS = {
    "source_only": {},
    "cbmt": {"epochs": 3, "ema": 0.98, "alpha": 0.2},
    "mean_teacher": {"epochs": 3, "ema": 0.98},
    "pseudo_label": {"epochs": 3},
    "tent": {"steps": 1},
    "supervised": {"epochs": 3},
    "adabn+cbmt": {},
}
PROTOCOLS = ("strict", "cbmt", "osuda")
CASES = {name: {"a": 0.9, "b": 0.8, "c": 0.7} for name in ("cup", "disc")}


def means(dice, cases=CASES):
    return {
        protocol: {name: {"dice": {"mean": dice, **counts(of)}} for name, of in cases.items()}
        for protocol in PROTOCOLS
    }


def counts(by_case):
    undefined = list(by_case.values()).count(None)
    return {"std": None, "n": len(by_case) - undefined, "undefined": undefined}


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


@pytest.fixture
def put(results, make_record):
    """Write a record, its cases, and those of its source model where there are none.

    put(method, seed, Dice by epoch, fields set by the user); cases: class -> case -> Dice of the
    last epoch, None where undefined. The source model of seed 0 has a Dice of 0.5, of 1 of 0.6.
    """

    def write(method, seed=0, dice=(0.6, 0.8, 0.7), changes=None, cases=None, **keys):
        changes, cases = changes or {}, cases or CASES
        failed = keys.get("status") == "failed"
        best = {name: means(max(dice))[name] for name in PROTOCOLS}
        plain = {
            **{"task": TASK, "source_sha256": f"50{seed}0" * 16, "recipe": {"size": 96}},
            **{"manifest_sha256": f"da{seed}0" * 16},
            "fields": {method: FIELDS[method] | changes},
            "overrides": {method: changes},
            "scores": {} if failed else means(dice[-1], cases),
            "audit": make_record.audit(dice, best=best),
        }
        if method == "source_only" or failed:
            plain["audit"] = None
        record = make_record(method, seed, **plain | keys)
        if record.unadapted:
            dim = {name: dict.fromkeys(of, 0.1) for name, of in cases.items()}
            before = {name: means(0.5 + seed / 10, dim)[name] for name in record.scores}
            own = plain["manifest_sha256"] if method == "supervised" else record.manifest_sha256
            record = make_record.keep_source(results, record, before, dim, manifest_sha256=own)
        if method == "source_only":
            return make_record.keep(results, record, cases)
        count = len(list((results / record.task / method).glob("?.json")))
        return make_record.keep(results, record, cases, name=str(count))

    return write


@pytest.fixture
def draw(results, tmp_path, monkeypatch):
    """draw(name, **flags) -> the figure that `sfdabench plot` saved, and the lines it said."""

    def run(name, **flags):
        said, figures = [], []

        def save(figure, out, stem):
            figures.append(figure)
            return [out / stem]

        monkeypatch.setattr(style, "save", save)
        progress = Progress(quiet=True)
        monkeypatch.setattr(progress, "say", said.append)
        flags = {"out": tmp_path / "figures", "results": results} | flags
        plot(Request(name, **flags), progress)
        return figures[0], said

    return run


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def texts(figure):
    """Title and caption, their line breaks undone."""
    return [text.get_text().replace("\n", " ") for text in figure.texts]


def line(figure, label):
    return next(one for one in figure.axes[0].lines if one.get_label() == label)


# --- which runs are compared ------------------------------------------------------------------


def test_variants_are_labelled_and_ordered(results, put):
    put("supervised")
    put("cbmt", seed=1, changes={"ema": 0.9, "alpha": 0.1})
    put("cbmt", seed=1)
    put("cbmt", seed=0)
    put("source_only")
    compared = runs.compare(results, None)
    labels = [variant.label for variant in compared.variants]
    assert labels == ["source_only", "cbmt", "cbmt alpha=0.1 ema=0.9", "supervised"]
    assert compared.variant("cbmt").seeds == (0, 1)
    assert compared.only(["supervised", "cbmt"]).variants[0].label == "supervised"
    assert not compared.problems


def test_a_chain_names_the_method_of_each_field(make_record):
    record = make_record("adabn+cbmt", overrides={"adabn": {}, "cbmt": {"ema": 0.9}})
    assert runs.label_of(record) == "adabn+cbmt cbmt.ema=0.9"


def test_a_run_that_is_missing_is_named_with_its_command(results, put):
    put("cbmt", data="real", profile="paper", source_overrides={"size": 128})
    compared = runs.compare(results, TASK)
    with pytest.raises(BadInput, match="recorded: 'source_only', 'cbmt'") as error:
        compared.variant("cbmt ema=0.9")
    assert (
        f"sfdabench run --method cbmt --task {TASK} --set ema=0.9 --out {results} "
        "--source-set size=128 --data DIR" in str(error.value)
    )


def test_a_command_is_what_a_shell_takes(results, put):
    """Of a recorded run from its fields, of another from its label; both words for word."""
    views = {"scales": [1.0, 1.25], "flip": True}
    put("cbmt", changes=views, source_overrides={"pretrained": None, "note": "a b"})
    compared = runs.compare(results, TASK)
    start = f"sfdabench run --method cbmt --task {TASK}".split()
    end = ["--out", str(results), "--source-set", "note=a b", "--source-set", "pretrained=null"]
    label = "cbmt flip=true scales=[1.0, 1.25]"
    assert compared.variants[1].label == label
    assert shlex.split(compared.command(label)) == [
        *(*start, "--set", "cbmt.flip=true", "--set", "cbmt.scales=[1.0, 1.25]", *end)
    ]
    assert shlex.split(compared.command("cbmt scales=[2.0, 1.25] ema=0.9")) == [
        *(*start, "--set", "scales=[2.0, 1.25]", "--set", "ema=0.9", *end)
    ]


def test_of_two_records_of_a_run_the_one_with_the_protocol_counts(results, put):
    first = put("cbmt", scores={"strict": means(0.5)["strict"]}, audit=None)
    second = put("cbmt")
    for protocol, path in (("cbmt", second), ("strict", first), (None, first)):
        compared = runs.compare(results, TASK, protocol=protocol)
        assert compared.path(compared.variant("cbmt").runs[0]) == path
    assert any("recorded before" in problem for problem in compared.problems)


def test_figures_take_the_record_with_their_protocol(put, draw):
    put("cbmt", scores={"strict": means(0.5)["strict"]}, audit=None)
    put("cbmt")
    put("cbmt", changes={"ema": 0.9})
    figure, _ = draw("cbmt-2a")
    assert "protocol cbmt" in texts(figure)[1]


def test_failed_and_repeated_runs_are_left_out_and_said(results, put):
    put("cbmt")
    put("cbmt")
    put("cbmt", seed=1, status="failed", reason="diverged")
    compared = runs.compare(results, TASK)
    assert compared.variant("cbmt").seeds == (0,)
    assert any("recorded before" in problem for problem in compared.problems)
    assert any("seed 1): failed (diverged)" in problem for problem in compared.problems)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"data": "real"}, "add --kind phantom or --kind real"),
        ({"profile": "paper"}, "add --profile paper or --profile phantom"),
        ({"task": "refuge2drishti"}, "add --task NAME"),
        ({"source_sha256": "0" * 64}, "2 source models of seed 0"),
        ({"manifest_sha256": "0" * 64}, "2 states of the data of seed 0"),
        ({"recipe": {"size": 64}}, "2 source recipes"),
    ],
)
def test_what_does_not_belong_together_is_refused(results, put, other, message):
    put("cbmt")
    put("pseudo_label", **other)
    with pytest.raises(BadInput, match=message):
        runs.compare(results, None).only([])


def test_only_what_is_drawn_must_belong_together(results, put, draw):
    put("cbmt")
    put("tent", 0, fields={"tent": {"steps": 1}})
    put("tent", 1, fields={"tent": {}})
    put("pseudo_label", source_sha256="0" * 64)
    figure, _ = draw("curves", task=TASK, methods=("cbmt",))
    assert legend(figure)[0] == "cbmt"
    with pytest.raises(BadInput, match="2 settings of tent"):
        draw("curves", task=TASK, methods=("tent",))
    with pytest.raises(BadInput, match="2 source models of seed 0"):
        draw("curves", task=TASK)


def test_a_kind_can_be_chosen(results, put):
    put("cbmt")
    put("pseudo_label", data="real")
    assert runs.compare(results, TASK, kind="real").variants[1].label == "pseudo_label"
    with pytest.raises(BadInput, match="--profile paper"):
        runs.compare(results, TASK, kind="real", profile="paper")


def test_a_supervised_bound_may_learn_from_another_split(results, put):
    put("cbmt")
    put("supervised", manifest_sha256="0" * 64)
    assert len(runs.compare(results, TASK).variants) == 3
    put("supervised", changes={"epochs": 9}, manifest_sha256="1" * 64)
    with pytest.raises(BadInput, match="2 states of the data of seed 0"):
        runs.compare(results, TASK).only([])


def test_nothing_to_show_names_the_command(results, put, tmp_path):
    advice = "make one: sfdabench run --method {} --task {}"
    with pytest.raises(BadInput, match="no such folder.*" + advice.format("source_only", TASK)):
        runs.compare(tmp_path / "absent", TASK)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="holds no record.*" + advice.format("source_only", TASK)):
        runs.compare(tmp_path / "empty", None)
    put("cbmt", status="failed", reason="diverged")
    with pytest.raises(BadInput, match=r"is finished.*diverged"):
        runs.compare(results, TASK)
    with pytest.raises(BadInput, match=advice.format("osuda", "hgg2lgg --set epochs=2 --out")):
        runs.compare(results, "hgg2lgg", example="osuda epochs=2")
    with pytest.raises(BadInput, match="did you mean refuge2rimone"):
        runs.compare(results, "refuge2rimon")


def test_seeds_of_other_settings_are_no_variant(results, put, draw):
    put("supervised", 0)
    put("supervised", 1, fields={"supervised": {"epochs": 40}})
    put("supervised", 2)
    why = "2 settings of supervised in one comparison .*epochs=3: .*0.json, .*2.json; epochs=40: "
    with pytest.raises(BadInput, match=why):
        draw("bars", task=TASK)


def test_a_mistyped_method_gets_the_near_name_and_no_command(results, put):
    put("cbmt")
    with pytest.raises(BadInput, match="unknown method 'appl': did you mean apl") as error:
        runs.compare(results, TASK).variant("adabn+appl ema=0.9")
    assert "sfdabench run" not in str(error.value)


# --- scores -----------------------------------------------------------------------------------


def test_units():
    assert units.axis_label("dice", "strict", "mm") == "Dice (%)"
    assert units.axis_label("assd", "strict", "mm") == "ASSD (mm)"
    assert units.axis_label("assd", "strict", "pixel") == "ASSD (px)"
    assert units.axis_label("assd_mean", "cbmt", "mm") == "ASSD (px)"
    assert [units.scale("iou"), units.scale("hd95")] == [100, 1]


def test_cases_are_read_in_their_printed_unit(put):
    path = put("cbmt", cases={"cup": {"a": 0.25, "b": None}})
    assert scores.by_case(path, "strict", "dice") == {"cup": {"a": 25.0, "b": None}}
    unadapted = records.record_path(
        *(path.parents[2], TASK, "source_only", records.read(path).unadapted)
    )
    assert scores.by_case(unadapted, "strict", "dice")["cup"]["a"] == 10.0
    with pytest.raises(BadInput, match="unknown metric of these scores 'dcie': did you mean dice"):
        scores.by_case(path, "strict", "dcie")
    whole = path.with_suffix(".csv").read_text()
    path.with_suffix(".csv").write_text(whole.replace("0.25", "np.float64(0.25)"))
    with pytest.raises(BadInput, match=r"csv: a, cup, dice: 'np.float64\(0.25\)' is no number"):
        scores.by_case(path, "strict", "dice")
    path.with_suffix(".csv").write_text("case,value\n")
    with pytest.raises(BadInput, match="columns must be"):
        scores.by_case(path, "strict", "dice")
    path.with_suffix(".csv").unlink()
    with pytest.raises(BadInput, match=r"\.csv: cannot be read .*--force"):
        scores.by_case(path, "strict", "dice")


def test_cases_cut_short_are_not_drawn(put, draw):
    path = put("cbmt")
    file = path.with_suffix(".csv")
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(BadInput, match=rf"{file}: cut short.*--force"):
        draw("bars")


# --- style ------------------------------------------------------------------------------------


def test_inks_are_told_apart_by_colour_and_without_it():
    assert len(set(style.COLOURS)) == len(style.COLOURS)
    inks = style.inks(28)
    assert len({(ink.colour, ink.dash) for ink in inks}) == 28
    first = inks[:7]
    assert len({ink.marker for ink in first}) == len({ink.hatch for ink in first}) == 7
    with pytest.raises(BadInput, match="add --method"):
        style.inks(29)


@pytest.mark.parametrize(
    ("vision", "least"),
    [
        (np.eye(3), 0.15),
        ([[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]], 0.15),
        ([[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]], 0.15),
        # here Okabe and Ito's blue and green come near each other; dash and marker remain
        ([[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]], 0.1),
    ],
    ids=["normal", "protanopia", "deuteranopia", "tritanopia"],
)
def test_colours_are_far_apart_for_every_colour_vision(vision, least):
    """Distances in RGB after Machado et al., 2009, on linear RGB, severity 1."""
    rgb = np.array([[int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in style.COLOURS])
    seen = np.clip(rgb**2.2 @ np.transpose(vision), 0, 1) ** (1 / 2.2)
    apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    assert apart[~np.eye(len(rgb), dtype=bool)].min() > least


def test_seeds_in_words():
    assert style.seeds([(0,), (0,)]) == "seed 0"
    assert style.seeds([(0, 1)]) == "mean over seeds 0, 1"
    assert style.seeds([(0,), (1,)]) == "one seed a variant"
    assert style.seeds([(0,), (0, 1, 2)]) == "mean over 1 to 3 seeds a variant"
    assert style.seeds([(0, 1), (1, 2)]) == "mean over 2 seeds a variant"


@pytest.mark.parametrize(
    ("name", "stem"),
    [("curves", f"curves-{TASK}"), ("cbmt-2a", "cbmt-2a"), ("bars", f"bars-{TASK}")],
)
def test_files_are_whole_and_not_blank(results, put, tmp_path, name, stem):
    put("cbmt")
    put("cbmt", changes={"ema": 0.9})
    png, svg = plot(Request(name, results, out=tmp_path / "one"), Progress(quiet=True))
    assert (png.name, svg.name) == (f"{stem}.png", f"{stem}.svg")
    with Image.open(png) as image:
        assert min(image.size) > 500
        assert len(image.convert("RGB").getcolors(2**24)) > 20
    assert svg.read_bytes().rstrip().endswith(b"</svg>")


def test_the_same_records_give_the_same_files(results, put, tmp_path):
    put("cbmt")
    one, two = (
        plot(Request("curves", results, out=tmp_path / folder), Progress(quiet=True))
        for folder in ("one", "two")
    )
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


# --- curves -----------------------------------------------------------------------------------


def test_curves_are_means_over_seeds_from_the_unadapted_model_on(put, draw):
    put("cbmt", seed=0, dice=(0.6, 0.8, 0.7))
    put("cbmt", seed=1, dice=(0.8, 0.8, 0.5))
    figure, _ = draw("curves")
    drawn = line(figure, "cbmt")
    assert list(drawn.get_xdata()) == [0, 1, 2, 3]
    assert drawn.get_ydata() == pytest.approx([55, 70, 80, 60])
    assert drawn.get_markevery() == [3]
    star = next(one for one in figure.axes[0].lines if one.get_marker() == "*")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (2, pytest.approx(80))
    assert line(figure, "source_only").get_ydata() == pytest.approx([55, 55])
    assert len(figure.axes[0].collections) == 1  # the band
    assert legend(figure) == [
        *("cbmt", "source_only", "best epoch of the mean (oracle)", "last epoch (deployed)")
    ]
    title, caption = texts(figure)
    assert "PHANTOM" in title
    assert "Mean over seeds 0, 1; band: range over seeds; n = 3 test cases" in caption
    assert figure.axes[0].get_ylabel() == "Dice, mean over classes (%)"
    assert figure.axes[0].get_xlabel().startswith("epoch of adaptation")


def test_curves_lie_at_the_epochs_that_were_audited(put, draw, make_record):
    """A run may be audited every few epochs only."""
    audit = make_record.audit([0.6, 0.9, 0.7], best=means(0.9), epochs=[4, 9, 12])
    put("cbmt", audit=audit)
    figure, _ = draw("curves")
    assert list(line(figure, "cbmt").get_xdata()) == [0, 5, 10, 13]
    star, last = (one for one in figure.axes[0].lines if one.get_marker() in "*o" and
                  one.get_label().startswith("_") and len(one.get_xdata()))  # fmt: skip
    assert (star.get_xdata()[0], last.get_xdata()[0]) == (10, 13)
    assert figure.axes[0].get_xlim() == (0, 13)
    put("cbmt", seed=1, audit=make_record.audit([0.6, 0.9], best=means(0.9)))
    with pytest.raises(BadInput, match=r"cbmt/0\.json and .*cbmt/1\.json: audited at other epochs"):
        draw("curves")


def test_curves_without_the_unadapted_scores_say_how_to_make_them(put, draw, results):
    put("cbmt", seed=1)
    shutil.rmtree(results / TASK / "source_only")
    command = f"sfdabench run --method source_only --task {TASK} --out {results} --seed 1"
    for name in ("curves", "cbmt-2a"):
        with pytest.raises(BadInput, match=f"cannot be read .*; make it: {command} --device cpu"):
            draw(name)
        put("cbmt", seed=1, changes={"ema": 0.9})
        shutil.rmtree(results / TASK / "source_only")


def test_one_seed_has_no_band_and_real_data_are_said(put, draw):
    put("cbmt", data="real")
    figure, _ = draw("curves")
    assert not figure.axes[0].collections
    title, caption = texts(figure)
    assert "(real data)" in title
    assert "PHANTOM" not in title
    assert "band" not in caption


def test_a_chain_begins_with_its_last_method_s_first_epoch(put, draw):
    put("cbmt", dice=(0.6, 0.8))
    figure, _ = draw("curves")
    assert "of a chain" not in texts(figure)[1]
    chain = {"fields": {"adabn": {}, "cbmt": {}}, "overrides": {"adabn": {}, "cbmt": {}}}
    for seed in (0, 1):
        put("adabn+cbmt", seed, dice=(0.7, 0.9), **chain)
    figure, _ = draw("curves")
    drawn = line(figure, "adabn+cbmt")
    assert list(drawn.get_xdata()) == [1, 2]
    assert drawn.get_ydata() == pytest.approx([70, 90])
    assert drawn.get_markevery() == [1]
    assert list(line(figure, "cbmt").get_xdata()) == [0, 1, 2]
    (band,) = figure.axes[0].collections
    assert band.get_paths()[0].get_extents().xmin == 1
    assert "of a chain, the epochs of its last method" in texts(figure)[1]


def test_a_figure_of_the_paper_has_its_methods_and_names_the_missing(put, draw, results):
    put("cbmt")
    put("cbmt", changes={"ema": 0.9})
    put("pseudo_label")
    figure, said = draw("cbmt-1a")
    assert legend(figure)[:2] == ["pseudo_label", "cbmt"]
    assert "the paper draws DPL" in texts(figure)[1]
    assert "protocol cbmt" in texts(figure)[1]
    assert said == [
        f"cbmt-1a: mean_teacher was not run; sfdabench run --method mean_teacher --task {TASK} "
        f"--out {results}"
    ]
    figure, _ = draw("cbmt-1a", methods=("cbmt ema=0.9",))
    assert legend(figure)[0] == "cbmt ema=0.9"


def test_a_method_without_epochs_is_said(put, draw):
    put("cbmt")
    put("pseudo_label", audit=None)
    figure, said = draw("curves")
    assert "pseudo_label" not in legend(figure)
    assert said == ["pseudo_label: has no epochs, so no curve"]


def test_curves_refuse_what_has_no_epochs_or_another_protocol(put, draw):
    put("source_only")
    with pytest.raises(BadInput, match="source_only has no epochs"):
        draw("curves")
    with pytest.raises(BadInput, match="no finished run 'mean_teacher'"):
        draw("cbmt-2b")
    put("cbmt")
    with pytest.raises(BadInput, match="--protocol sifa` scores by it too"):
        draw("curves", protocol="sifa")


# --- sweep ------------------------------------------------------------------------------------


def test_a_sweep_is_in_the_order_of_its_values(put, draw, results):
    put("cbmt", changes={"ema": 0.99}, dice=(0.9, 0.8))
    put("cbmt", dice=(0.7, 0.75), seed=0)
    put("cbmt", dice=(0.7, 0.65), seed=1)
    put("cbmt", changes={"ema": 0.9, "alpha": 0.5}, dice=(0.1, 0.1))
    figure, said = draw("cbmt-2a")
    axes = figure.axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.98", "0.99"]
    best, last = (container.lines[0] for container in axes.containers)
    assert best.get_ydata() == pytest.approx([72.5, 90])
    assert last.get_ydata() == pytest.approx([70, 80])
    assert line(figure, "source_only").get_ydata() == pytest.approx([55, 55])
    assert set(legend(figure)) == {*("source_only", "best epoch (oracle)", "last epoch (deployed)")}
    assert axes.get_xlabel() == "ema of cbmt (evenly spaced)"
    assert [one.partition("--set ")[2].split()[0] for one in said] == [
        *("ema=0.9", "ema=0.95", "ema=0.999")
    ]


def test_a_sweep_without_runs_names_every_command(put, draw):
    put("cbmt")
    with pytest.raises(BadInput, match="a sweep needs two") as error:
        draw("cbmt-2a")
    for value in ("0.9", "0.95", "0.99", "0.999"):
        assert f"--set ema={value} --out" in str(error.value)
    with pytest.raises(BadInput, match="--set alpha=VALUE"):
        draw("sweep", methods=("cbmt",), field="alpha")
    with pytest.raises(BadInput, match="did you mean alpha"):
        draw("sweep", methods=("cbmt",), field="alphas")
    with pytest.raises(BadInput, match="give one --method and the --field"):
        draw("sweep", methods=("cbmt",))
    with pytest.raises(BadInput, match="not of a chain"):
        draw("sweep", methods=("adabn+cbmt",), field="ema")


def test_values_that_are_names_come_after_numbers():
    assert sorted(["b", 2, "a", 0.5], key=sweep._order) == [0.5, 2, "a", "b"]


# --- bars -------------------------------------------------------------------------------------


def test_intervals():
    assert bars.interval([4.0, 4.0, 4.0]) == bars.Bar(4.0, 4.0, 4.0, 3)
    # a quarter of the resamples of two cases hold the lower one twice, a quarter the upper one
    assert bars.interval([0.0, 1.0]) == bars.Bar(0.5, 0.0, 1.0, 2)
    assert bars.interval([7.0]) == bars.Bar(7.0, None, None, 1)
    with pytest.raises(BadInput, match="undefined"):
        bars.interval([])


def test_bars_are_means_over_cases_of_means_over_seeds(put, draw):
    put("cbmt", seed=0, cases={"cup": {"a": 0.2, "b": 0.6, "c": None}, "disc": {"a": 1.0}})
    put("cbmt", seed=1, cases={"cup": {"a": 0.4, "b": 0.8, "c": None}, "disc": {"a": 1.0}})
    for seed in (0, 1):
        put("source_only", seed, cases={"cup": {"a": 0.5, "b": 0.5}, "disc": {"a": 0.5}})
    figure, _ = draw("bars")
    axes = figure.axes[0]
    heights = {c.get_label(): [bar.get_height() for bar in c] for c in axes.containers[::2]}
    assert heights == {
        "source_only": pytest.approx([50, 50]),
        "cbmt": pytest.approx([50, 100]),
    }
    assert legend(figure) == ["source_only", "cbmt"]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["cup", "disc"]
    assert axes.get_ylabel() == "Dice (%)"
    assert axes.get_ylim() == (0, 100)
    assert (
        "95 % percentile bootstrap interval of the mean over n = 1 and 2 cases" in texts(figure)[1]
    )
    assert len({bar.get_hatch() for c in axes.containers[::2] for bar in c}) == 2


def test_bars_of_a_table_are_its_rows_in_its_order(put, draw, results):
    method = plotting.papers.find()[0]["cbmt-2"][1].fields
    for name in ("cbmt", "pseudo_label"):
        put(name, fields={name: dict(method[name])})
    put("cbmt", changes={"ema": 0.9}, fields={"cbmt": method["cbmt"] | {"ema": 0.9}})
    put("source_only")
    figure, _ = draw("bars", table="cbmt-2")
    assert legend(figure) == ["pseudo_label", "cbmt", "source_only"]
    assert "Table 2: ablation" in texts(figure)[0]
    assert "protocol cbmt" in texts(figure)[1]  # that of the table
    figure, said = draw("bars", table="cbmt-1")
    assert legend(figure) == ["source_only", "cbmt", "pseudo_label"]
    assert any("no record of task refuge2drishti" in one for one in said)
    put("supervised", task="refuge2drishti", fields={"supervised": {}})
    path = put("cbmt", task="refuge2drishti", fields={"cbmt": dict(method["cbmt"])})
    figure, said = draw("bars", table="cbmt-1")
    assert [axes.get_title() for axes in figure.axes] == [
        *(f"{TASK} (PHANTOM data, synthetic)", "refuge2drishti (PHANTOM data, synthetic)")
    ]
    assert not said
    assert legend(figure) == ["source_only", "cbmt", "pseudo_label", "supervised (oracle)"]
    put("cbmt", task="refuge2drishti", data="real")
    with pytest.raises(BadInput, match="add --kind phantom or --kind real"):
        draw("bars", table="cbmt-1")
    figure, said = draw("bars", table="cbmt-1", kind="phantom")
    assert len(figure.axes) == 2
    path.write_text(path.read_text().replace('"spacing_unit": "pixel"', '"spacing_unit": "mm"'))
    compared = [runs.compare(results, task, kind="phantom") for task in (TASK, "refuge2drishti")]
    with pytest.raises(BadInput, match=r"ASSD \(mm\) and ASSD \(px\) on one axis"):
        bars._unit(compared, "strict", "assd")


def test_bars_of_a_table_show_its_classes_only(put, draw):
    names = ("whole", "enhancing", "core_osuda", "core_brats")
    cases = {name: {"a": 0.9, "b": 0.8} for name in names}
    put("source_only", task="hgg2lgg", cases=cases, spacing_unit="mm")
    figure, _ = draw("bars", table="osuda-1")
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == [
        *("whole", "enhancing", "core osuda")
    ]


def test_bars_refuse(put, draw, results):
    put("cbmt", changes={"ema": 0.9})
    shutil.rmtree(results / TASK / "source_only")  # which stands in a row of every table
    for flags, message in [
        ({"table": "cbmt-9"}, "did you mean cbmt-"),
        ({"table": "cbmt-3"}, "holds no score of a case"),
        ({"table": "cbmt-2"}, f"no finished run of {TASK} stands in a row of cbmt-2"),
        ({"table": "cbmt-s1"}, "no record of task drishti2rimone"),
        ({"table": "cbmt-2", "task": TASK}, "give no --task"),
        ({"metric": "asdd"}, "unknown metric"),
        ({"protocol": "sifa"}, "unknown protocol of these scores"),
    ]:
        with pytest.raises(BadInput, match=message):
            draw("bars", **flags)


# --- grid and t-SNE: what needs no weights ----------------------------------------------------


def test_cases_are_ranked_by_the_strict_dice_of_the_judge(results, put):
    cup = {"a": 0.5, "b": 0.9, "c": 0.1, "d": 0.2, "e": 0.6}
    put("cbmt", cases={"cup": cup, "disc": dict.fromkeys(cup, 1.0)})
    compared = runs.compare(results, TASK)
    chosen = grid.choose(compared, compared.variant("cbmt"), 0)
    assert chosen == {"best": "b", "median": "a", "worst": "c"}
    assert grid.dice_by_case(compared, compared.variant("cbmt"), 0)["b"] == pytest.approx(95)
    put("pseudo_label", cases={"cup": {"a": 0.5, "b": 0.9}})
    compared = runs.compare(results, TASK)
    with pytest.raises(BadInput, match="2 test cases; a grid shows three"):
        grid.choose(compared, compared.variant("pseudo_label"), 0)


def test_a_grid_shows_each_case_in_each_column():
    square = np.zeros((2, 20, 20), bool)
    square[0, 5:15, 5:15] = True
    picture = grid.Picture("x", np.zeros((20, 20)), square, {"m e=1": ~square}, 1.0, 7)
    figure = grid.draw(
        {"best": picture}, {"m e=1": {"x": 81.25}}, ["cup", "optic_disc"], ["t"], ["caption"]
    )
    axes = figure.axes
    assert [one.get_title() for one in axes] == ["image", "reference", "m\ne=1"]
    assert axes[0].get_ylabel() == "best\nx\nplane 7"
    assert axes[2].get_xlabel() == "Dice 81.2 %"
    assert legend(figure) == ["cup", "optic disc"]
    # the second class is nowhere in the reference, so one contour there and two in the prediction
    assert [len(one.collections) for one in axes] == [0, 1, 2]
    edges = axes[1].collections[0].get_paths()[0].get_extents()
    assert (edges.xmin, edges.xmax) == (4.5, 14.5)
    with pytest.raises(BadInput, match="contours can be told apart"):
        grid.draw({"best": picture}, {}, list("abcdef"), ["t"], ["c"])


def test_contours_are_told_apart_without_colour():
    assert len({str(dash) for _, dash in grid.INKS}) == len(grid.INKS)
    assert len({colour for colour, _ in grid.INKS}) == len(grid.INKS)


def test_tsne_keeps_two_clusters_apart_and_repeats_itself():
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(0, 1, (20, 5)), rng.normal(50, 1, (20, 5))])
    features = tsne.Features(vectors.astype(np.float32), ("near",) * 20 + ("far",) * 20)
    points = tsne.embed(features)
    between = np.linalg.norm(points[:20].mean(axis=0) - points[20:].mean(axis=0))
    assert between > max(points[:20].std(axis=0).max(), points[20:].std(axis=0).max())
    assert (points == tsne.embed(features)).all()
    assert tsne.perplexity(40) == 13
    assert tsne.perplexity(1000) == 30
    figure = tsne.draw({"before": features, "after": features}, ["t"], ["seed 0"])
    assert legend(figure) == ["near", "far"]
    assert [axes.get_title() for axes in figure.axes] == ["before", "after"]
    assert "n = 40 planes, near 20, far 20; perplexity 13" in texts(figure)[1]
    with pytest.raises(BadInput, match="t-SNE of 9 planes"):
        tsne.embed(tsne.Features(vectors[:9], ("near",) * 9))


def test_missing_weights_and_seeds_are_named_with_their_command(put, draw, results):
    put("cbmt")
    shutil.rmtree(results / TASK / "source_only")
    with pytest.raises(BadInput, match="--method source_only --task"):
        draw("grid")
    put("source_only")
    with pytest.raises(BadInput, match=r"\w+\.safetensors: the weights.*--seed 0 --force"):
        draw("grid")
    with pytest.raises(BadInput, match="--seed 4"):
        draw("grid", seed=4)
    with pytest.raises(BadInput, match="give one --method of those recorded: 'cbmt'"):
        draw("tsne")
    with pytest.raises(BadInput, match="--data: these records are of the phantom"):
        draw("grid", data=results)
    put("pseudo_label", seed=3)
    with pytest.raises(BadInput, match="no seed in common"):
        draw("grid", methods=("cbmt", "pseudo_label"))


def test_patients_are_shown_only_where_the_user_says_and_in_no_repository(put, draw, tmp_path):
    put("cbmt", data="real")
    with pytest.raises(BadInput, match="say where"):
        draw("grid", out=None)
    (tmp_path / "repository" / ".git").mkdir(parents=True)
    with pytest.raises(BadInput, match="lies in the repository"):
        draw("grid", out=tmp_path / "repository" / "a" / "b")
    assert not (tmp_path / "repository" / "a").exists()


# --- the command ------------------------------------------------------------------------------


def test_unknown_figures_and_flags_without_meaning_are_refused(put, draw):
    put("cbmt")
    with pytest.raises(BadInput, match="unknown figure 'cbmt-1': did you mean cbmt-1a"):
        draw("cbmt-1")
    for flags, message in [
        ({"field": "ema"}, "--field: has no meaning for figure curves"),
        ({"table": "cbmt-1"}, "TABLE: has no meaning"),
        ({"seed": 0}, "--seed: has no meaning"),
        ({"data": "."}, "--data: has no meaning"),
    ]:
        with pytest.raises(BadInput, match=message):
            draw("curves", **flags)


def test_every_entry_can_be_drawn_by_its_kind():
    entries, problems = catalogue.figures()
    assert problems == []
    assert len(entries) == 11
    for entry in entries.values():
        assert entry.kind in plotting.ALLOWED
        assert entry.kind == "bars" or entry.kind in plotting.DRAWN
        assert entry.field is None or entry.kind == "sweep"


@pytest.mark.parametrize("profile", ["paper", "phantom"])
def test_the_methods_of_an_entry_are_called_as_their_records_are(profile):
    entries, _ = catalogue.figures()
    for entry in entries.values():
        for label in entry.methods:
            method, settings = labels.split(label)
            assert (
                labels.label(method, choose_methods(method, settings, profile).overrides) == label
            )


def test_the_figures_of_self_ensembling_draw_the_paper_s_runs():
    weak = "self_ensembling consistency=cross_entropy weight=5.0"
    assert catalogue.find("self-ensembling-7").methods == (weak, "self_ensembling")
    assert catalogue.find("self-ensembling-8").methods == ("self_ensembling",)
    asked = {
        (w.task, w.label) for w in wanted(benchmark.read(shipped("benchmarks/self_ensembling")))
    }
    assert ("scgm_to_site3", weak) in asked


def test_the_values_of_a_printed_sweep_are_those_of_its_benchmark(tmp_path):
    text = (shipped("benchmarks") / "cbmt" / "benchmark.toml").read_text(encoding="utf-8")
    assert text.count("values = [0.9,") == 1
    (tmp_path / "cbmt").mkdir()
    path = tmp_path / "cbmt" / "benchmark.toml"
    path.write_text(text.replace("values = [0.9,", "values = [0.5,"), encoding="utf-8")
    assert catalogue.find("cbmt-2a").values == (0.9, 0.95, 0.98, 0.99, 0.999)
    assert catalogue.find("cbmt-2a", tmp_path).values == (0.5, 0.95, 0.98, 0.99, 0.999)

    path.write_text(text.replace('name = "cbmt-2a"', 'name = "cbmt-2b"'), encoding="utf-8")
    found, problems = catalogue.figures(tmp_path)
    assert found["cbmt-2b"].kind == "curves"
    assert problems == [f"{path}: figure 'cbmt-2b' is another's name"]

    path.write_text(text.replace("[paper]", "[paper"), encoding="utf-8")
    assert catalogue.find("cbmt-2b", tmp_path).kind == "curves"
    with pytest.raises(BadInput, match=r"unknown figure 'cbmt-2a'.*; .*cannot be read"):
        catalogue.find("cbmt-2a", tmp_path)


def test_no_figure_replaces_another():
    """Each choice is in the file's name; a name stays one that a file may have."""
    plain = Request("bars", Path("results"), task=TASK)
    choices = [
        {"metric": "assd"},
        {"protocol": "cbmt"},
        {"methods": ("cbmt",)},
        {"methods": ("cbmt ema=0.9",)},
        {"methods": ("cbmt", "tent")},
        {"kind": "real"},
        {"profile": "paper"},
        {"field": "ema"},
        {"by": "cbmt"},
        {"seed": 0},
        {"methods": tuple(f"cbmt ema=0.{n}" for n in range(40))},
        {"methods": tuple(f"cbmt ema=0.{n}" for n in range(41))},
    ]
    names = [plotting._file_name(plain, "bars-x")]
    names += [plotting._file_name(replace(plain, **chosen), "bars-x") for chosen in choices]
    assert names[0] == "bars-x"
    assert names[4] == "bars-x-cbmt_ema=0.9"
    assert len(set(names)) == len(names)
    assert max(map(len, names)) <= plotting.LONGEST
