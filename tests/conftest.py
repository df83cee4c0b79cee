"""One cache for the session, the test plug-ins, one thread, and no data from outside."""

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
    yield
    # Plug-ins that a test wrote: the next one may write others of the same name.
    for name, module in list(sys.modules.items()):
        if name.startswith(registry.PLUGINS) and not is_ours(module):
            del sys.modules[name]


def is_ours(module):
    return module.__file__ is not None and PLUGINS in Path(module.__file__).parents


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


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu"):
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="torch finds no CUDA device here"))
