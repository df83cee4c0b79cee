"""A record or its cases damaged in hundreds of ways: tables and figures name it, and go on."""

import json
import random
import shutil
from pathlib import Path

import pytest

from sfdabench.core.errors import BadInput
from sfdabench.report import render, runs, tables
from sfdabench.report.figures import bars, curves
from sfdabench.store import cases, records

TASK = "refuge2rimone"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CUP = {"a": 0.9, "b": 0.8, "c": None}
BY_CASE = {"cup": CUP, "disc": CUP}
WRONG = ("null", "true", "0", "-1", "1.5", "1e999", "NaN", "-1e308", "1" + "0" * 400, '""', '"x"',
         '"\\u0000"', "[]", "{}", "[[[]]]", '{"x": [1]}')  # fmt: skip
MARK = "<here>"


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory):
    """Those of one paper, so that a table takes milliseconds."""
    folder = tmp_path_factory.mktemp("benchmarks")
    shutil.copytree(BENCHMARKS / "cbmt", folder / "cbmt")
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory, make_record):
    """Two seeds of two methods and of the source model; all tables and figures can be made."""
    out = tmp_path_factory.mktemp("results")
    classes, protocols = ("cup", "disc"), ("strict", "cbmt")
    scores = {
        protocol: {
            name: {"dice": make_record.score(0.85, n=2, undefined=1),
                   "assd_mean": make_record.score(9.0)}
            for name in classes
        }
        for protocol in protocols
    }  # fmt: skip
    for seed in (0, 1):
        for method in ("source_only", "cbmt", "mean_teacher"):
            more = {}
            if method != "source_only":
                more["audit"] = make_record.audit([0.6, 0.85], best=scores)
                more["curves"] = {method: {"weight": [0.25, 0.3], "loss": [1, 2]}}
            record = make_record(method, seed, scores=scores, **more)
            path = make_record.keep(out, record, BY_CASE)
            rows = path.with_suffix(".csv")  # of Dice alone; the distances follow
            text = rows.read_text()
            more_rows = [f"{p},{c},{k},assd_mean,9.0,0\n"
                         for p in protocols for k in classes for c in "abc"]  # fmt: skip
            rows.write_text(text + "".join(more_rows))
    return out


@pytest.fixture
def files(results, tmp_path):
    """A copy of the folder, and the record and cases that a test damages."""
    out = tmp_path / "results"
    shutil.copytree(results, out)
    record = next((out / TASK / "cbmt").glob("*.json"))
    return out, record, record.with_suffix(".csv")


def tries(action):
    """What an action gives; None where it refuses with BadInput. Anything else is a failure."""
    try:
        return action()
    except BadInput:
        return None


def show(out, benchmarks, *, draw):
    """All tables; which runs there are; the figures that need numbers of records and cases."""
    built, problems = tables.build_all(out, folder=benchmarks)
    assert len(built) == 5
    assert all(problem and "\n" not in problem for problem in problems)
    compared = tries(lambda: runs.compare(out, TASK, protocol="cbmt").only([]))
    if compared is not None and draw:
        for protocol in ("strict", "cbmt"):
            tries(lambda: curves.draw(compared, protocol, "t"))  # noqa: B023
        tries(lambda: bars.draw([compared], "strict", "dice", "t"))
    return built, problems


def places(value, at=()):
    """Every place of a JSON value, as the keys that lead to it."""
    if at:
        yield at
    if isinstance(value, (dict, list)):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from places(inner, (*at, key))


def holder(value, at):
    for key in at[:-1]:
        value = value[key]
    return value


def damages(text):
    """The text of a record with one place of another type, gone, or of another name."""
    chance = random.Random(0)
    for at in places(json.loads(text)):
        for kind in chance.sample(WRONG, 3):
            value = json.loads(text)
            holder(value, at)[at[-1]] = MARK
            yield json.dumps(value).replace(f'"{MARK}"', kind)
        value = json.loads(text)
        inside = holder(value, at)
        last = inside.pop(at[-1])
        yield json.dumps(value)
        if isinstance(inside, dict):
            inside["another"] = last
            yield json.dumps(value)


def test_the_undamaged_folder_shows_everything(results, benchmarks):
    built, problems = show(results, benchmarks, draw=True)
    assert problems == []
    first = built[0].sections[0].lines
    assert {line.name for line in first if line.cells[0].seeds == 2} >= {"CBMT(Ours)", "W/o DA [4]"}
    compared = runs.compare(results, TASK).only([])
    curves.draw(compared, "cbmt", "t")
    bars.draw([compared], "strict", "dice", "t")


EVERY = [pytest.param(1, marks=pytest.mark.slow, id="all"), pytest.param(8, id="some")]


@pytest.mark.parametrize("step", EVERY)
def test_a_place_of_another_type_gone_or_renamed(files, benchmarks, step):
    """What is refused stands in one line; what is still a record is shown or refused."""
    out, record, _ = files
    tried = list(damages(record.read_text()))[::step]
    refused = 0
    for turn, text in enumerate(tried):
        record.write_text(text)
        found = tries(lambda: records.read(record))
        stored, problems = records.read_all(out)
        assert (len(stored), len(problems)) == ((6, 0) if found else (5, 1))
        refused += found is None
        if found is not None or turn % 25 == 0:  # a refused record is like the one before it
            _, problems = show(out, benchmarks, draw=found is not None and turn % 4 == 0)
            assert any(str(record) in problem for problem in problems) or found is not None
    assert len(tried) > 800 / step
    assert len(tried) / 2 < refused < len(tried)


@pytest.mark.parametrize("step", EVERY)
@pytest.mark.parametrize("which", ["record", "cases", "source"])
def test_bytes_changed_or_missing(files, benchmarks, which, step):
    out, record, rows = files
    source = next((out / TASK / "source_only").glob("*.json"))
    file = {"record": record, "cases": rows, "source": source}[which]
    whole = file.read_bytes()
    chance = random.Random(1)
    for turn in range(320 // step):
        content = bytearray(whole)
        if turn % 2:
            content = content[: chance.randrange(len(whole))]
        else:
            for _ in range(chance.choice((1, 1, 3))):
                content[chance.randrange(len(whole))] = chance.randrange(256)
        file.write_bytes(content)
        if which == "cases":
            tries(lambda: cases.read(record))
            compared = runs.compare(out, TASK)
            tries(lambda: bars._bars(compared, "strict", "dice", ()))  # noqa: B023
        elif tries(lambda: records.read(file)) or turn % 20 == 1:
            show(out, benchmarks, draw=True)
        else:
            assert len(records.read_all(out)[1]) == 1


def test_a_missing_source_model_is_one_line_with_its_command(files, benchmarks):
    out, record, _ = files
    source = records.record_path(out, TASK, "source_only", records.read(record).unadapted)
    source.unlink()
    built, problems = tables.build_all(out, folder=benchmarks)
    seed = records.read(record).seed
    command = f"sfdabench run --method source_only --task {TASK} --out {out} --seed {seed}"
    lines = [line for line in built[0].problems if str(source) in line]
    assert len(lines) == 1
    assert f"make it: {command} --device cpu --protocol strict --protocol cbmt" in lines[0]
    compared = runs.compare(out, TASK).only([])
    with pytest.raises(BadInput, match=f"{source}: cannot be read .*; make it: {command}"):
        curves.draw(compared, "cbmt", "t")
    assert all(problem in problems for problem in lines)


@pytest.mark.parametrize("name", ["foo", "é", "_", "adabn+foo", "\uffff"])
def test_names_that_nobody_here_knows(results, tmp_path, benchmarks, make_record, name):
    """A record of another suite, or by a plug-in that is not at hand, is whole all the same."""
    if not name.isprintable():
        with pytest.raises(ValueError, match="pattern"):
            make_record(name)
        return
    out = tmp_path / "results"
    shutil.copytree(results, out)
    other = name.rpartition("+")[2]
    scores = make_record.means([other], [name])
    more = {"scores": scores, "audit": make_record.audit([0.5, 0.6], best=scores)}
    for record in (make_record(name, **more), make_record("tent", task=other, **more)):
        make_record.keep(out, record)
    assert len(records.read_all(out)[0]) == 8
    built, _ = tables.build_all(out, folder=benchmarks)
    for table in built:
        for form in render.FORMATS.values():
            assert form(table)
    compared = tries(lambda: runs.compare(out, TASK).only([]))
    tries(lambda: curves.draw(compared, other, "t"))
    tries(lambda: bars.draw([compared], other, "dice", "t"))
    tries(lambda: runs.compare(out, other))
