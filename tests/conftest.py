"""One cache for the session, the test plug-ins, one thread, and no data from outside."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from sfdabench import cli
from sfdabench.core import registry

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is first imported; workers share the cores

PLUGINS = Path(__file__).parent / "plugins"


def pytest_configure(config):
    registry.add_plugins(PLUGINS)


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def surroundings(request, monkeypatch, session_cache):
    monkeypatch.setenv("SFDABENCH_CACHE", str(session_cache))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    if request.node.get_closest_marker("data") is None:
        monkeypatch.delenv("SFDABENCH_DATA", raising=False)


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
