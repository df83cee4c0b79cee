"""The command line as a new user meets it, typos included."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from sfdabench import cli
from sfdabench.core.errors import RunFailed
from sfdabench.core.paths import shipped
from sfdabench.run import runner
from sfdabench.run.request import RunRequest

PLUGINS = Path(__file__).parent / "plugins"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rnu"], "did you mean run"),
        (["data", "verfy"], "did you mean verify"),
        (["run"], "--method"),
        (["run", "--method", "cbmtt", "--task", "tiny"], "did you mean cbmt"),
        (["run", "--method", "cbmt", "--task", "refuge2rimon"], "did you mean refuge2rimone"),
        (["run", "--method", "cbmt", "--task", "tiny", "--set", "ema"], "expected field=value"),
        (["run", "--method", "cbmt", "--task", "tiny", "--seed", "-1"], "--seed"),
        (["run", "--method", "cbmt", "--task", "tiny", "--device", "tpu"], "--device"),
        (["run", "--method", "cbmt", "--task", "tiny", "--data", "/absent"], "no such folder"),
        (["run", "--method", "cbmt", "--task", "tiny", "--out", "/dev/null/x"], "--out"),
        (["run", "--method", "cbmt", "--task", "tiny", "--plugins", "/absent"], "--plugins"),
        (
            ["run", "--method", "cbmt", "--task", "tiny", "--source", "absent"],
            "--source absent: un",
        ),
        (["source", "exprot"], "did you mean export"),
        (["source", "import", "/absent.pth", "--task", "tiny"], "/absent.pth"),
        (["adapt", "--source", "absent", "--images", "."], "--method"),
        (["list", "method"], "did you mean methods"),
        (["show", "cbmtt"], "did you mean cbmt"),
        (["table", "cbmt-9"], "did you mean cbmt-"),
        (["plot", "curve"], "did you mean curves"),
        (["plot", "--out", "x"], "--out: name a figure; without one they are listed"),
        (
            ["plot", "curves", "--results", "/absent"],
            "no such folder, so no run; make one: sfdabench run",
        ),
        (["check", "cbmtt"], "did you mean cbmt"),
        (["data", "describe", "refug"], "did you mean refuge"),
        (["data", "verify", "refuge"], "--data DIR"),
        (["new", "method", "cbmt"], "there is a method of this name"),
        (["new", "method", "My-Method"], "a file name such as my_method"),
        (["score", "--prediction", "/absent.png", "--reference", "/absent.png"], "no such file"),
    ],
)
def test_bad_input_is_exit_2_with_the_cure(sfdabench, arguments, message):
    code, out, err = sfdabench(*arguments)
    assert code == 2
    assert message in err
    assert not out
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("kind", "some"),
    [
        ("methods", {"cbmt", "source_only"}),
        ("tasks", {"refuge2rimone", "drishti2refuge"}),
        ("datasets", {"refuge", "rimone_dl"}),
        ("networks", {"deeplabv3plus_mobilenetv2"}),
        ("protocols", {"strict", "cbmt"}),
        ("tables", {"cbmt-1", "cbmt-s2"}),
    ],
)
def test_list(sfdabench, kind, some):
    code, out, _ = sfdabench("list", kind)
    assert code == 0
    assert some <= set(out.split())


@pytest.mark.parametrize("name", ["cbmt", "refuge2rimone", "refuge", "unet_small", "strict"])
def test_show(sfdabench, name):
    code, out, _ = sfdabench("show", name)
    assert code == 0
    assert out.startswith(f"{name} (")


def test_show_gives_fields_with_their_provenance(sfdabench):
    _, out, _ = sfdabench("show", "cbmt")
    assert "ema = 0.98" in out
    assert "# paper §3, lambda of equation 4" in out


def test_show_a_plug_in_whose_code_stays_out_of_this_process(sfdabench, monkeypatch):
    module = "sfdabench_plugins.methods.tiny_guided"
    monkeypatch.delitem(sys.modules, module, raising=False)  # other tests import it
    code, out, _ = sfdabench("show", "tiny_guided")
    assert code == 0
    assert "rate = 0.01" in out
    assert module not in sys.modules


def test_a_plug_in_that_fails_is_named_with_its_line(sfdabench, tmp_path):
    plugin = tmp_path / "methods" / "broken.py"
    plugin.parent.mkdir()
    plugin.write_text("\nraise RuntimeError('no such thing')\n", encoding="utf-8")
    code, _, err = sfdabench("show", "broken", "--plugins", tmp_path)
    assert code == 1
    assert err == "sfdabench: RuntimeError: no such thing (methods/broken.py, line 2)\n"


def test_many_seeds_are_begun_one_by_one(sfdabench, tmp_path, monkeypatch):
    """A hundred thousand of them were looked up before the first began: two silent hours."""
    begun = []

    def execute(run, progress, *, force):
        begun.append(run.seed)
        raise RunFailed("stop here")

    monkeypatch.setattr(runner, "execute", execute)
    flags = ("--method", "adabn", "--task", "tiny", "--out", tmp_path, "--seeds", 100000)
    code, _, err = sfdabench("run", *flags)
    assert (code, begun) == (1, [0])
    assert "stop here" in err
    code, _, err = sfdabench("run", *flags[:6], "--seed", 10**20)
    assert code == 2
    assert "is not in the range" in err


def test_run_prints_one_object_a_run_and_nothing_else(sfdabench, tmp_path, monkeypatch):
    monkeypatch.setenv("SFDABENCH_CACHE", str(tmp_path / "cache"))  # no source model is there yet
    arguments = ["--method", "adabn", "--task", "tiny", "--out", tmp_path, "--device", "cpu"]
    code, out, err = sfdabench("run", *arguments, "--seeds", 2, "--json")
    assert code == 0
    objects = [json.loads(line) for line in out.splitlines()]
    assert [o["seed"] for o in objects] == [0, 1]
    for one in objects:
        assert one["status"] == "done"
        assert one["data"] == "phantom"
        assert Path(one["record"]).exists()
        assert one["scores"].keys() == one["source_only"].keys() == {"strict", "cbmt"}
        assert 0 <= one["scores"]["strict"]["cup"]["dice"] <= 1
        assert len(one["source_sha256"]) == len(one["deployed_sha256"]) == 64
        assert one["seconds"] > 0
    assert "PHANTOM" in err
    assert "source training" in err
    assert "adaptation (adabn)" in err
    code, again, err = sfdabench("run", *arguments, "--seeds", 2, "--json")
    assert (code, again) == (0, out)
    assert err.count("found") == 2

    code, out, _ = sfdabench("run", *arguments)
    assert code == 0
    assert "PHANTOM data" in out
    assert "selection audit (strict)" in out

    code, out, err = sfdabench("table", "cbmt-1", "--results", tmp_path)
    assert code == 0
    assert "W/o DA" in out


def test_the_scores_of_the_source_model_come_with_the_first_run_and_are_then_there(
    sfdabench, tmp_path
):
    arguments = ["--task", "tiny", "--out", tmp_path, "--device", "cpu", "--seed", 5, "--json"]
    code, out, _ = sfdabench("run", "--method", "adabn", *arguments)
    adapted = json.loads(out)
    assert code == 0
    code, out, err = sfdabench("run", "--method", "source_only", *arguments)
    alone = json.loads(out)
    assert (code, "found" in err, "source training" in err) == (0, True, False)
    assert alone["scores"] == adapted["source_only"]
    Path(alone["record"]).unlink()
    code, out, err = sfdabench("run", "--method", "adabn", *arguments)
    assert code == 0
    assert json.loads(out) == adapted | {"source_only": {}}
    assert "no unadapted scores to compare with" in err


def _cells(text):
    """The heading of each table, and the first cells of each row."""
    lines = [line for line in text.splitlines() if "│" in line or line.startswith("protocol")]
    return [[cell.strip() for cell in line.split("│")[1:4]] or [line.strip()] for line in lines]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_list_of_commands_has_the_first_sentence_of_each(name):
    """It is written twice, so that the list imports no command."""
    command = cli.cli.get_command(None, name)
    line = click.Command(name, help=cli.COMMANDS[name][1])
    assert command.name == name
    assert line.get_short_help_str(200) == command.get_short_help_str(200)


def test_help_imports_no_command():
    code = (
        "import sys; sys.argv = ['sfdabench', '--help']\n"
        "from sfdabench.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "print([name for name in sys.modules if name.startswith('sfdabench.cli')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == (
        "['sfdabench.cli.groups', 'sfdabench.cli.streams', 'sfdabench.cli']"
    )


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_narrow_encoding_is_no_traceback(encoding):
    """A pipe on Windows, or a cron job."""
    process = subprocess.run(
        [sys.executable, "-m", "sfdabench", "table", "apl-1", "--format", "markdown"],
        env={**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=True,
    )
    assert process.stderr == b""
    assert b"apl-1" in process.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.parametrize("stderr", ["2>&-", "2> >(exec true)"])
def test_the_work_goes_on_without_standard_error(stderr, tmp_path):
    """It was closed, or its reader is gone."""
    words = (
        f"run --method adabn --task tiny --plugins {PLUGINS} --out {tmp_path} --device cpu --json"
    )
    command = f"{sys.executable} -m sfdabench {words} {stderr}"
    process = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout)["status"] == "done"


def test_new_prints_commands_that_a_shell_takes(sfdabench, tmp_path):
    folder = tmp_path / "my plug ins"
    _, out, _ = sfdabench("new", "method", "mine", "--out", folder)
    commands = [line.partition(": ")[2] for line in out.splitlines()[1:]]
    assert all(shlex.split(line)[-1] == str(folder) for line in commands)


def test_a_reader_that_leaves_is_no_traceback():
    """`sfdabench show cbmt | head -0`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sfdabench", "show", "cbmt"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


def test_predict_says_whose_masks_it_writes(sfdabench):
    code, out, _ = sfdabench("predict", "--help")
    assert code == 0
    assert "Masks are those of protocol strict" in out


def test_a_failed_run_is_exit_1_and_the_others_go_on(sfdabench, tmp_path):
    (tmp_path / "plug" / "methods").mkdir(parents=True)
    (tmp_path / "plug" / "methods" / "fails_once.py").write_text(
        "from dataclasses import dataclass\n"
        "from sfdabench.core.method import Method\n"
        "@dataclass(frozen=True)\n"
        "class FailsOnce(Method):\n"
        "    '''Fails for seed 0.'''\n"
        "    def adapt(self, context):\n"
        "        if context.seed == 0:\n"
        "            raise ValueError('seed zero')\n"
        "        return context.model()\n"
    )
    code, out, _ = sfdabench(
        *("run", "--method", "fails_once", "--task", "tiny", "--plugins", tmp_path / "plug"),
        *("--out", tmp_path / "out", "--device", "cpu", "--seeds", 2, "--json"),
    )
    first, second = (json.loads(line) for line in out.splitlines())
    assert code == 1
    assert (first["status"], second["status"]) == ("failed", "done")
    assert first["reason"] == "ValueError: seed zero (methods/fails_once.py, line 8)"
    assert first["scores"] == {}


def test_score(sfdabench, tmp_path):
    mask = np.zeros((20, 20), np.uint8)
    mask[5:15, 5:15] = 255
    Image.fromarray(mask).save(tmp_path / "r.png")
    Image.fromarray(np.roll(mask, 2, 0)).save(tmp_path / "p.png")
    arguments = ["--prediction", tmp_path / "p.png", "--reference", tmp_path / "r.png"]
    code, out, _ = sfdabench("score", *arguments, "--json")
    assert code == 0
    assert json.loads(out)[0]["dice"] == pytest.approx(0.8)
    code, out, _ = sfdabench("score", *arguments, "--class", "disc=255")
    assert "0.8000" in out
    assert "disc" in out
    long = "grey_matter_" * 12
    code, out, _ = sfdabench("score", *arguments, "--class", f"{long}=255")
    rows = _cells(out)[1:]
    assert long in "".join(row[1] for row in rows)


def test_data_phantom_then_verify_then_a_fault(sfdabench, tmp_path):
    code, out, _ = sfdabench("data", "phantom", "tiny_target", "--out", tmp_path / "d")
    assert (code, out.split()[0]) == (0, "14")
    code, _, err = sfdabench("data", "phantom", "tiny_target", "--out", tmp_path / "d")
    assert code == 2
    assert "not empty" in err
    code, out, err = sfdabench("data", "verify", "tiny_target", "--data", tmp_path / "d")
    assert code == 0
    assert err.startswith("verify tiny_target: ")
    images = sorted((tmp_path / "d").rglob("Images/*.png"))
    images[0].write_text("not an image")
    images[1].unlink()
    code, out, _ = sfdabench("data", "verify", "tiny_target", "--data", tmp_path / "d")
    assert code == 2
    assert images[0].name in out
    assert images[1].stem in out


def test_data_describe(sfdabench):
    code, out, _ = sfdabench("data", "describe", "refuge")
    assert code == 0
    for word in ("licence:", "obtain:", "expected tree", "Training400"):
        assert word in out


def test_new_method_passes_its_contracts_as_it_is(sfdabench, tmp_path):
    code, out, _ = sfdabench("new", "method", "my_method", "--out", tmp_path)
    assert code == 0
    assert (tmp_path / "methods" / "my_method.py").exists()
    code, out, _ = sfdabench("check", "my_method", "--plugins", tmp_path)
    assert code == 0, out
    assert "contracts hold" in out
    assert "FAIL" not in out


def test_doctor(sfdabench, monkeypatch, tmp_path):
    code, out, _ = sfdabench("doctor")
    assert code == 0
    assert "device:" in out
    monkeypatch.setenv("SFDABENCH_DATA", str(tmp_path / "absent"))
    code, out, _ = sfdabench("doctor")
    assert code == 1
    assert "PROBLEM: SFDABENCH_DATA" in out
    assert "tasks run on phantoms" not in out


def test_doctor_names_the_first_fault_and_what_is_absent(sfdabench, monkeypatch, tmp_path):
    code, *_ = sfdabench("data", "phantom", "tiny_target", "--out", tmp_path)
    assert code == 0
    image = min(tmp_path.rglob("Images/*.png"))
    image.unlink()
    monkeypatch.setenv("SFDABENCH_DATA", str(tmp_path))
    code, out, _ = sfdabench("doctor")
    assert code == 0
    (broken,) = [line for line in out.splitlines() if line.startswith("data: tiny_target cannot")]
    assert image.stem in broken
    assert broken.endswith("`sfdabench data verify tiny_target` lists all")
    (absent,) = [line for line in out.splitlines() if line.startswith("data absent: ")]
    assert {"brats2018", "chaos", "scgm"} <= set(absent.removeprefix("data absent: ").split(", "))
    assert "brats2018" not in out.replace(absent, "")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["list", "methods"],
        ["list", "tables"],
        ["plot"],
        ["run", "--help"],
        ["sweep", "--help"],
        ["regress", "--help"],
        ["adapt", "--help"],
        ["cache", "--help"],
        ["source", "--help"],
    ],
)
def test_light_commands_import_no_heavy_library(arguments):
    """Times drift with the machine; what is imported does not."""
    done = without(HEAVY, arguments)
    assert done.returncode == 0, done.stderr


def test_help_and_lists_are_lighter_still():
    for arguments in (["--help"], ["list", "methods"]):
        done = without({*HEAVY, "pydantic", "importlib.metadata", "filelock"}, arguments)
        assert done.returncode == 0, done.stderr


def test_a_committed_record_is_found_without_heavy_libraries(tmp_path):
    """Its key did not move, and the answer needs no array, no lock and no torch."""
    results = tmp_path / "results"
    shutil.copytree(shipped("results") / "phantom" / "refuge2rimone", results / "refuge2rimone")
    arguments = ["--method", "cbmt", "--task", "refuge2rimone", "--device", "cpu", "--phantom"]
    run = RunRequest("cbmt", "refuge2rimone", device="cpu", phantom=True, out=results).resolve()
    assert run.record_path.is_file()
    done = without({*HEAVY, "filelock"}, ["run", *arguments, "--out", str(results)])
    assert done.returncode == 0, done.stderr
    assert f"found {run.record_path}" in done.stderr
    assert "adapted" in done.stdout


HEAVY = {"torch", "monai", "numpy", "scipy", "pandas", "rich", "PIL", "matplotlib"}


def without(modules, arguments):
    """`sfdabench ARGUMENTS` in a process that fails where it imported one of the modules."""
    code = (
        "import sys; from sfdabench.cli import main\n"
        "unwanted = set(sys.argv.pop(1).split(','))\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    ended = stop.code\n"
        "unwanted &= set(sys.modules)\n"
        "sys.exit(f'imported {unwanted}' if unwanted else ended)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, ",".join(modules), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "--method", "source_only", "--task", "tiny"), "PHANTOM data"),
        (("source", "list"), "trained on tiny_source"),
        (("cache", "list"), "source_training-"),
    ],
    ids=["run", "source", "cache"],
)
def test_what_is_there_is_told_without_torch(sfdabench, tmp_path, arguments, says):
    run = ("run", "--method", "source_only", "--task", "tiny", "--out", tmp_path)
    code, *_ = sfdabench(*run)
    assert code == 0
    more = ("--out", tmp_path, "--plugins", PLUGINS) if arguments[0] == "run" else ()
    script = (
        "import sys; sys.argv = ['sfdabench', *sys.argv[1:]]\n"
        "from sfdabench.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert stop.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, (*arguments, *more))],
        check=True,
        capture_output=True,
        text=True,
    )
    assert says in done.stdout
    assert time.monotonic() - start < 60
