"""Phantoms drawn once, one cache a worker, the test plug-ins, one thread, no data from outside."""

import contextlib
import importlib.util
import os
import shutil
import socket
import sys
import threading
from pathlib import Path

import pytest

from sfdabench import cli
from sfdabench.confine import child, client
from sfdabench.confine.channel import Channel, Closed
from sfdabench.core import registry
from sfdabench.prepare import phantoms
from sfdabench.store import cases, records

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is first imported; workers share the cores

PLUGINS = Path(__file__).parent / "plugins"
# Tests of these folders look at a parent, which never imports the methods of plug-ins.
OF_PARENTS = {"campaign", "confine", "present", "run", "tests"}


def pytest_configure(config):
    registry.add_plugins(PLUGINS)


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


class Drawings:
    """Phantoms of registered data sets: each is drawn once, for all workers and all caches.

    They lie in a cache of their own, so the package's lock lets one process draw while others
    wait, and its index shows whether a test has edited a file.
    """

    def __init__(self, folder):
        self.folder, self.draw = folder, phantoms._draw

    def root(self, name, dataset=None):
        """The phantom of a data set, which a test may read and may not edit."""
        dataset = dataset or registry.load("datasets", name)()
        return phantoms.phantom_root(name, dataset, self.folder, self._must_be_unchanged)

    def copy(self, folder, *names):
        """Copy these phantoms into one folder, as a user has them; a test may edit the copy."""
        for name in names:
            shutil.copytree(self.root(name), folder, dirs_exist_ok=True)
        return folder

    def fill(self, cache, *names):
        """Put these phantoms into a cache, for processes that know nothing of this class."""
        for name in names:
            phantoms.phantom_root(name, registry.load("datasets", name)(), cache, lambda line: None)

    def draw_or_copy(self, dataset, root, index):
        """Stand in for the drawing in a cache: copy what is there already.

        A class that a test wrote and did not register is drawn: the test may be about that.
        """
        name = root.name.rpartition("-")[0]
        registered = name in registry.names("datasets")
        if (
            self.folder not in root.parents
            and registered
            and type(dataset) is registry.load("datasets", name)
        ):
            dataset = Copying(self.root(name, dataset))
        self.draw(dataset, root, index)

    def _must_be_unchanged(self, message):
        assert "drawn anew" not in message, f"a test has edited a phantom of all tests: {message}"


class Copying:
    """Stands for a data set whose phantom is drawn already."""

    def __init__(self, root):
        self.root = root

    def phantom(self, root, seed):
        assert seed == 0, "what is shared was drawn with the seed of the caches"
        shutil.copytree(self.root, root, dirs_exist_ok=True)


@pytest.fixture(scope="session", autouse=True)
def drawings(tmp_path_factory):
    """The phantoms of this test run; caches of this process get copies of them."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the workers of a run have it in common
    shared = Drawings(folder / "drawings")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantoms, "_draw", shared.draw_or_copy)
        yield shared


@pytest.fixture(autouse=True)
def surroundings(request, monkeypatch, session_cache):
    monkeypatch.setenv("SFDABENCH_CACHE", str(session_cache))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    trusting = request.path.parent.name not in OF_PARENTS
    monkeypatch.setattr(registry, "_foreign_code_allowed", trusting)
    if request.node.get_closest_marker("data") is None:
        monkeypatch.delenv("SFDABENCH_DATA", raising=False)
    yield
    # Plug-ins that a test wrote: the next one may write others of the same name.
    for name, module in list(sys.modules.items()):
        if name.startswith(registry.PLUGINS) and not is_ours(module):
            del sys.modules[name]


def is_ours(module):
    return module.__file__ is not None and PLUGINS in Path(module.__file__).parents


@pytest.fixture
def in_process(monkeypatch):
    """Jobs run in threads of this process, without a lock: so a test can replace their code."""

    class Ending:
        def __init__(self, channel):
            self.thread, self.stop = threading.Thread(target=self.run, args=[channel]), None
            self.thread.start()

        def run(self, channel):
            try:
                with contextlib.suppress(Closed):
                    channel.send(self.outcome(channel))
            except BaseException as error:  # it stands for a kill, which a parent does not survive
                self.stop = error
            finally:
                channel.close()

        def outcome(self, channel):
            try:
                return {"result": child.run(channel, channel.receive())}
            except Exception as error:
                return {"error": child.describe(error)}

        def wait(self):
            self.thread.join()
            if self.stop is not None:
                raise self.stop
            return 0, client.Usage()

        def kill(self):
            """It ends with its channel."""

    def launch():
        own, its = socket.socketpair()
        with own, its:
            ours, theirs = (Channel(s.makefile("rb"), s.makefile("wb")) for s in (own, its))
        return ours, Ending(theirs)

    monkeypatch.setattr(client, "launch", launch)


@pytest.fixture
def sfdabench(monkeypatch, capsys):
    """Exit code, standard output, standard error of `sfdabench ARGUMENTS` in this process."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["sfdabench", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return stop.value.code, out, err

    return call


@pytest.fixture
def mutated(tmp_path, monkeypatch):
    """The module of a source file in which each of some texts is replaced by another one."""

    def load(path, changes):
        text = path.read_text(encoding="utf-8")
        for old, new in changes.items():
            assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
            text = text.replace(old, new)
        copy = tmp_path / f"mutated_{path.name}"
        copy.write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(copy.stem, copy)
        module = importlib.util.module_from_spec(spec)
        # dataclasses look their own module up while it is executed
        monkeypatch.setitem(sys.modules, copy.stem, module)
        spec.loader.exec_module(module)
        return module

    return load


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu"):
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="torch finds no CUDA device here"))


class Factory:
    """Makes valid records, and keeps them in a folder as runs do."""

    def score(self, mean, n=3, undefined=0):
        """A score over `n` cases; over none where there is no mean."""
        n = 0 if mean is None else n
        return {"mean": mean, "std": 0.1 if n > 1 else None, "n": n, "undefined": undefined}

    def means(self, protocols, classes, **metrics):
        """The same scores for each protocol and class; Dice 0.5 where no Dice is given."""
        one = {name: self.score(mean) for name, mean in ({"dice": 0.5} | metrics).items()}
        return {protocol: dict.fromkeys(classes, one) for protocol in protocols}

    def audit(self, dice, best=None, epochs=None):
        """Of Dice by epoch, the same for each protocol of `best`, the scores of the best epoch."""
        best = best or self.means(["strict"], ["cup", "disc"], dice=max(dice))
        at = max(range(len(dice)), key=dice.__getitem__)
        return {
            "criterion": "mean Dice over classes",
            "best": {"oracle": True, "epoch": dict.fromkeys(best, at), "scores": best},
            "last": {"epoch": len(dice) - 1},
            "epochs": epochs or list(range(len(dice))),
            "dice_by_epoch": {protocol: list(dice) for protocol in best},
            "gap": dict.fromkeys(best, dice[at] - dice[-1]),
        }

    def __call__(self, method="source_only", seed=0, **changes):
        """A finished run on the phantom; `changes` of any key, key and hashes follow from them."""
        names = method.split("+")
        failed = changes.get("status") == "failed"
        value = {
            **{"status": "done", "reason": "diverged" if failed else None},
            **{"task": "refuge2rimone", "method": method, "seed": seed},
            "setting": {"source_only": "none", "supervised": "supervised"}.get(method, "SFDA"),
            **{"fields": {name: {} for name in names}, "overrides": {name: {} for name in names}},
            **{"profile": "phantom", "data": "phantom", "recipe": {"size": 72}},
            **{"source_overrides": {}, "manifest_sha256": records.digest({"target": 0})},
            "source": {"selected_epoch": 2, "validation_dice": 0.9, "seconds": 40.0},
            **{"spacing_unit": "pixel", "scored_on_training_cases": False},
            **{"cases": {"adapt": 9, "test": 3}, "device": "cpu", "device_name": "x86_64"},
            **{"precision": "float32", "memory_format": "channels_last", "threads": 1},
            **{"versions": {"torch": "2.13.0"}, "commit": None, "peak_memory_bytes": 1},
            "lock": None if failed else "landlock",
            "seconds": {"source": 0.5, "adapt": 8.0, "evaluate": 2.0, "total": 10.5},
            "scores": {} if failed else self.means(["strict"], ["cup", "disc"]),
        } | changes
        start = {name: value[name] for name in ("task", "seed", "recipe")}
        value = {
            "source_key": records.digest(start),
            "source_sha256": records.digest(start | {"of": "weights"}),
            "empties": {
                protocol: {n: dict.fromkeys(("prediction", "reference", "both"), 0) for n in of}
                for protocol, of in value["scores"].items()
            },
        } | value
        value.setdefault("key", self._key(value))
        if not failed:
            deployed = value["key"] if method != "source_only" else value["source_sha256"]
            value = {"deployed_sha256": deployed, "unadapted": self._unadapted(value)} | value
        return records.Record.model_validate(value)

    def _key(self, value):
        names = ("task", "method", "seed", "fields", "profile", "data", "recipe", "source_sha256")
        names += ("manifest_sha256", "device", "precision")
        return records.digest(
            {name: value[name] for name in names} | {"protocols": list(value["scores"])}
        )

    def _unadapted(self, value):
        """The key of the record of the same source model on the same data."""
        if value["method"] == "source_only":
            return None
        return self._key(value | {"method": "source_only", "fields": {"source_only": {}}})

    def keep_source(self, out, record, scores, by_case=None, **changes):
        """Write the record of a run's source model, where there is none, with these scores.

        Returns the record of the run, which names it. A supervised run may learn from another
        split than the others: `changes` is what its source model does not share with it.
        """
        same = {"task", "seed", "profile", "data", "recipe", "source_overrides", "source_key"}
        same |= {"source_sha256", "manifest_sha256", "spacing_unit", "cases", "device"}
        same |= {"device_name", "precision"}
        source = self(scores=scores, **record.model_dump(include=same) | changes)
        if not records.record_path(out, source.task, "source_only", source.key).exists():
            self.keep(out, source, by_case)
        return record.model_copy(update={"unadapted": source.key})

    def keep(self, out, record, by_case=None, name=None):
        """Write it where a run would, or beside as `name`; by_case: class -> case -> Dice, the
        same for each protocol. Returns the path.
        """
        path = records.record_path(out, record.task, record.method, record.key)
        path = path.with_name(f"{name}.json") if name else path
        records.write(path, record)
        if by_case is not None:
            cases.write(
                path.with_suffix(".csv"),
                [
                    {"protocol": protocol, "case": case, "class": class_, "metric": "dice",
                     "value": "" if value is None else repr(value), "undefined": int(value is None)}
                    for protocol in record.scores
                    for class_, of_class in by_case.items()
                    for case, value in of_class.items()
                ],
            )  # fmt: skip
        return path


@pytest.fixture(scope="session")
def make_record():
    return Factory()
