"""The pool, with workers of a few milliseconds."""

import dataclasses
import io
import os
import queue
import signal
import sys
import time
from pathlib import Path

import pytest

from sfdabench.campaign.board import Lines, Live, board, line
from sfdabench.campaign.workers import (
    Job,
    Outcome,
    Servers,
    Worker,
    carry_out,
    command,
    next_job,
    threads,
)
from sfdabench.confine import client
from sfdabench.core import registry
from sfdabench.report.units import duration
from sfdabench.run import artefacts
from sfdabench.run.request import RunRequest

DONE = 'print(\'{"status": "done"}\')'
SLEEPS = "import time; time.sleep(100)"

pytestmark = pytest.mark.usefixtures("python_workers")


def job(tmp_path, code, seed=0, makes="a"):
    """makes: a letter for the card of each stage."""
    record = tmp_path / "record.json"
    record.touch()
    cards = tuple(tmp_path / letter for letter in makes)
    return Job("tiny", "cbmt", seed, (code,), cards, record)


def go(jobs, at_once=1, board=None, **variables):
    board = board or Lines(len(jobs))
    with Servers(variables) as servers:
        named = {"at_once": at_once, "variables": variables, "board": board, "servers": servers}
        return list(carry_out(jobs, **named))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (DONE, None),
        ('print(\'{"status": "failed", "reason": "ValueError: no"}\')', "ValueError: no"),
        (
            "import sys; sys.exit('x\\nsfdabench: --data /d: no such folder')",
            "the worker ended with exit code 1 and no result: --data /d: no such folder",
        ),
        ("import sys; sys.exit(3)", "exit code 3 and no result: it said nothing"),
        (
            "import os, sys; print('source training: 3/8', file=sys.stderr, flush=True);"
            "os.kill(os.getpid(), 9)",
            "the worker was killed, as the system does when memory runs out; what it saved stays, "
            "and the same command goes on; it last said: source training: 3/8",
        ),
        ("import os; os.kill(os.getpid(), 11)", "the worker died of SIGSEGV"),
    ],
    ids=["done", "failed", "bad input", "silent", "killed", "segfault"],
)
def test_every_end_of_a_worker_is_one_line(tmp_path, capfd, code, reason):
    (outcome,) = go([job(tmp_path, code)])
    if reason is None:
        assert outcome.reason is None
    else:
        assert reason in outcome.reason
    started, ended = capfd.readouterr().err.splitlines()
    assert started == "[0/1] started cbmt on tiny, seed 0"
    assert ended.startswith(f"[1/1] {'failed' if reason else 'done'} cbmt on tiny, seed 0 (")


def test_the_others_go_on_after_a_crash(tmp_path):
    crash = job(tmp_path, "import os; os.kill(os.getpid(), 9)")
    outcomes = go([crash, job(tmp_path, DONE, 1), job(tmp_path, DONE, 2)])
    assert [outcome.reason is None for outcome in outcomes] == [False, True, True]


def test_a_worker_that_leaves_no_record_has_failed(tmp_path):
    one = job(tmp_path, DONE)
    one.record.unlink()
    (outcome,) = go([one])
    assert outcome.reason == f"the worker left no record {one.record}; was the code edited?"


def test_one_source_model_is_in_one_hand(tmp_path):
    """Two workers at once: the second job of a source waits, one of another source does not."""
    diary = tmp_path / "diary"

    def write(seed, makes):
        enter = f"open({str(diary)!r}, 'a').write('+{seed} ')"
        leave = f"open({str(diary)!r}, 'a').write('-{seed} ')"
        make = f"open({str(tmp_path / makes)!r}, 'w')"
        return job(
            tmp_path, f"import time;{enter};time.sleep(.4);{make};{leave};{DONE}", seed, makes
        )

    go([write(0, "a"), write(1, "a"), write(2, "b")], at_once=2)
    told = diary.read_text().split()
    assert set(told[:2]) == {"+0", "+2"}
    assert told.index("+1") > told.index("-0")


def test_who_goes_next(tmp_path):
    first, second, other = (job(tmp_path, SLEEPS, seed, m) for seed, m in enumerate("aab"))
    with_first = [type("Running", (), {"job": first})()]
    assert next_job([first, second], []) is first
    assert next_job([second], with_first) is None
    assert next_job([second, other], with_first) is other
    (tmp_path / "a").touch()
    assert next_job([second, other], with_first) is second


def test_an_adapted_model_that_two_chains_begin_with_is_in_one_hand(tmp_path):
    """The source model is there; the first method of both chains is in the first one's hands."""
    (tmp_path / "s").touch()
    chained, alike, other = (
        job(tmp_path, SLEEPS, i, m) for i, m in enumerate(("sab", "sac", "sd"))
    )
    with_chained = [type("Running", (), {"job": chained})()]
    assert next_job([alike, other], with_chained) is other
    (tmp_path / "a").touch()
    assert next_job([alike, other], with_chained) is alike


def test_a_job_makes_all_stages_of_its_run(tmp_path):
    request = RunRequest(method="adabn+cbmt", task="tiny", out=tmp_path, device="cpu")
    run = request.resolve()
    made = Job.of(run, request, "adabn+cbmt")
    assert [card.parent for card in made.makes] == [
        artefacts.place(run.cache, stage) for stage in (run.source, *run.links)
    ]
    assert {card.name for card in made.makes} == {"card.json"}
    alone = dataclasses.replace(request, method="source_only").resolve()
    assert Job.of(alone, request, "source_only").makes == made.makes[:1]


def test_leaving_the_loop_stops_what_runs(tmp_path):
    pid = tmp_path / "pid"
    sleeps = f"import os; open({str(pid)!r}, 'w').write(str(os.getpid())); {SLEEPS}"
    jobs = [job(tmp_path, sleeps, 1, "b"), job(tmp_path, f"import time; time.sleep(1); {DONE}")]
    with Servers({}) as servers:
        outcomes = carry_out(jobs, at_once=2, variables={}, board=Lines(2), servers=servers)
        assert next(outcomes).job.seed == 0
        running = int(pid.read_text())
        os.kill(running, 0)
        outcomes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(running, 0)


def servers_of(pid):
    """The children of a process."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return list(map(int, children))


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_server_that_is_killed_costs_the_runs_that_it_had(tmp_path):
    """The others get a new one."""
    before = servers_of(os.getpid())
    jobs = [job(tmp_path, SLEEPS), *(job(tmp_path, DONE, seed) for seed in (1, 2))]

    class Killing(Lines):
        """Kills the servers while the first job runs."""

        killed = False

        def show(self, running, waiting):
            super().show(running, waiting)
            if not self.killed and running:
                time.sleep(1)
                for server in set(servers_of(os.getpid())) - set(before):
                    os.kill(server, signal.SIGKILL)
                self.killed = True

    outcomes = go(jobs, board=Killing(3))
    assert [outcome.reason is None for outcome in outcomes] == [False, True, True]
    assert "the server of the confined processes was killed" in outcomes[0].reason
    assert servers_of(os.getpid()) == before


def test_where_no_process_can_be_forked(tmp_path, monkeypatch):
    """As on macOS and Windows: each worker is a new interpreter."""
    monkeypatch.setattr(client, "forks", lambda: False)
    crash = "import os; os.kill(os.getpid(), 9)"
    jobs = [job(tmp_path, crash), job(tmp_path, DONE, 1)]
    assert [outcome.reason is None for outcome in go(jobs)] == [False, True]


def test_plugins_and_variables_reach_the_workers(tmp_path, monkeypatch):
    (tmp_path / "mine" / "methods").mkdir(parents=True)
    registry.add_plugins(tmp_path / "mine")
    code = (
        "import json, os; from sfdabench.core import registry;"
        "reason = f'{registry.plugin_folders()[-1]} ' + os.environ['OMP_NUM_THREADS'];"
        "print(json.dumps({'status': 'failed', 'reason': reason}))"
    )
    (outcome,) = go([job(tmp_path, code)], OMP_NUM_THREADS="3")
    registry._plugins.pop()
    assert outcome.reason == f"{tmp_path / 'mine'} 3"


def test_a_share_of_the_cores_or_what_the_user_set(monkeypatch):
    monkeypatch.setattr(sys, "platform", "other")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert threads(3) == {"OMP_NUM_THREADS": "1"}  # conftest.py
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [threads(jobs)["OMP_NUM_THREADS"] for jobs in (1, 3, 20)] == ["8", "2", "1"]


def test_the_command_says_all_that_the_plan_decided(tmp_path):
    request = RunRequest(
        method="cbmt",
        task="tiny",
        seed=4,
        out=tmp_path,
        settings=("cbmt.epochs=2",),
        source_settings=("epochs=3",),
        protocols=("dpl",),
        device="cpu",
    )

    words = " ".join(command(request, request.resolve()))
    for part in (
        *("run --method cbmt --task tiny --seed 4", f"--out {tmp_path.resolve()}"),
        *("--phantom", "--profile phantom", "--device cpu", "--precision float32"),
        *("--set cbmt.epochs=2", "--source-set epochs=3", "--protocol dpl"),
        "--json",
    ):
        assert part in words
    assert "--data" not in words


def test_the_live_table_shows_each_job(tmp_path):
    from rich.console import Console

    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    code = f"import sys; print('[red]3/20', file=sys.stderr, flush=True)\n{SLEEPS}"
    with Servers({}) as servers:
        worker = Worker(job(tmp_path, code), {}, servers, queue.SimpleQueue())
        while not worker.said:
            time.sleep(0.01)
        with Live(3, console) as live:
            live.ended(Outcome(job(tmp_path, "", 7), "out of\nmemory", 100))
            live.show([worker], 1)
        worker.stop()
    text = screen.getvalue()
    for part in ("1 of 3 ended, 1 waiting", "running", "[red]3/20", "cbmt on tiny, seed 7"):
        assert part in text
    assert "out of memory" in text
    assert isinstance(board(1), Lines), "standard error is no terminal here"


def test_durations_and_reasons_in_one_line(tmp_path):
    assert [duration(s) for s in (0.4, 48, 720, 12600)] == ["0 s", "48 s", "12 min", "3.5 h"]
    assert line(Outcome(job(tmp_path, ""), "a\n  b", 5)) == "failed cbmt on tiny, seed 0 (5 s): a b"
