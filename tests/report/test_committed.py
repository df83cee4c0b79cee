"""What a checkout ships: tables that its records render to, and a reference that can be run."""

import pytest

from sfdabench.campaign import portable, reference, regress
from sfdabench.core import registry
from sfdabench.core.paths import shipped
from sfdabench.core.stage import Problem, Stage
from sfdabench.models.weights import fill
from sfdabench.report import render, runs, tables
from sfdabench.report.figures import curves
from sfdabench.run import plan
from sfdabench.store import cases, labels, records

NAMES = set(tables.list_tables())
FOLDERS = sorted({path.parent.parent.parent for path in shipped("results").glob("*/*/*/*.json")})
REFERENCE = regress.default_folder()


def test_there_are_results():
    sets = {"phantom", "real-fundus-128px", "real-abdomen-96px"}
    assert {folder.name for folder in FOLDERS} >= sets
    written = {path.stem for folder in FOLDERS for path in folder.glob("*.md")}
    assert written >= {"cbmt-1", "apl-1", "osuda-1", "self-ensembling-1"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_committed_tables_are_rendered_from_the_records(folder):
    written = [path for path in sorted(folder.glob("*.md")) if path.stem in NAMES]
    assert written
    for path in written:
        built = tables.build(path.stem, folder)
        assert not built.problems
        committed = path.read_text(encoding="utf-8")
        assert render.FORMATS["markdown"](built).rstrip() == committed.rstrip()


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_committed_records_are_whole_and_hold_no_path(folder):
    stored, problems = records.read_all(folder)
    assert not problems
    assert len(stored) >= 6
    for record in stored:
        assert record.done
        assert cases.read(folder / record.path)
        assert records.unadapted_of(record, folder).done
        text = (folder / record.path).read_text(encoding="utf-8")
        assert '"/' not in text, f"{record.path} holds an absolute path"


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_committed_records_make_curves(folder):
    tasks = {record.task for record in records.read_all(folder)[0]}
    assert tasks
    for task in sorted(tasks):
        compared = runs.compare(folder, task)
        labels = [variant.label for variant in compared.variants]
        compared = compared.only(labels[:25])  # a figure tells no more apart
        assert curves.draw(compared, "strict", "t").axes[0].lines


def test_the_reference_can_be_run():
    """Every method fits its task and knows its fields; no phantom need be drawn for that."""
    listed = reference.read(REFERENCE)
    assert {"refuge2rimone", "chaos2malbcv", "hgg2lgg", "t2_to_flair", "scgm_to_site3"} <= {
        task.name for task in listed.tasks
    }
    for listing in listed.tasks:
        task = registry.load("tasks", listing.name)
        recipe, network, _ = plan.choose_recipe(task, "phantom", labels.pairs(listing.source))
        for run in listing.runs:
            texts = labels.settings(run.overrides)
            chosen = plan.choose_methods(run.method, texts, "phantom")
            plan.check_fit(chosen.chain, listing.name, task.head, recipe.network, network)
            given = {name: run.overrides.get(name, {}) for name in chosen.overrides}
            assert chosen.overrides == given, "an override that says the default"


def test_the_small_tier_has_a_task_a_head_and_every_method_once():
    listed = reference.read(REFERENCE)
    small = {task.name: task.of("small") for task in listed.tasks if task.of("small")}
    heads = [registry.load("tasks", name).head for name in small]
    every = {registry.load("tasks", task.name).head for task in listed.tasks}
    assert sorted(map(str, heads)) == sorted(map(str, every))
    runs = [run.method for runs in small.values() for run in runs]
    assert runs.count(reference.TRAINING) == len(small)
    methods = [name for name in runs if name != reference.TRAINING]
    assert sorted(methods) == sorted({name for task in listed.tasks for run in task.runs
                                      for name in run.method.split("+")})  # fmt: skip
    folder = registry.PACKAGE / registry.FOLDERS["methods"]
    built_in = {name for name in registry.names("methods") if (folder / f"{name}.py").is_file()}
    assert set(methods) == built_in


def test_the_scores_of_the_reference_are_those_of_its_list():
    listed = reference.read(REFERENCE)
    rows = reference.read_scores(REFERENCE)
    runs = [reference.run_key(task, run) for task in listed.tasks for run in task.all]
    assert list(dict.fromkeys(score.run for score in rows.values())) == runs
    for score in rows.values():
        trained = score.metric == reference.QUALITY
        assert len(score.seeds) == (listed.tolerance.seeds if trained else 1)
        assert score.value == score.seeds[0]
        rule = listed.tolerance.of(score.metric, score.seeds)
        assert score.tolerance == pytest.approx(rule, abs=1e-5)
    assert not reference.failing(listed, rows)


def test_the_source_models_of_the_reference_fit_their_tasks(tmp_path):
    listed = reference.read(REFERENCE)
    paths = {task.name: reference.source_path(REFERENCE, task.name) for task in listed.tasks}
    assert {path.name for path in (REFERENCE / "sources").iterdir()} == {
        path.name for path in paths.values()
    }
    for listing in listed.tasks:
        path, task = paths[listing.name], registry.load("tasks", listing.name)
        assert path.stat().st_size < 1e6
        recipe, network, _ = plan.choose_recipe(task, "phantom", labels.pairs(listing.source))
        problem = Problem(task.classes, task.head, task.channels, task.augmentation, recipe.loss)
        stage = Stage("stages", "source_training", {}, {}, recipe.network, {}, problem)
        model = portable.unpack(path.read_bytes(), path, tmp_path / listing.name, stage)
        built = registry.load("networks", recipe.network)(**network.fields)
        module = built.build(channels=problem.channels, outputs=problem.outputs)
        fill(module, model.state(), path)
