"""The code in keys: what changes it, what does not, and that revisions.json is up to date."""

import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sfdabench.core import code, registry
from sfdabench.core.errors import BadInput
from sfdabench.methods.cbmt import CBMT

SCRIPT = Path(__file__).parents[2] / "docs" / "write_revisions.py"
CURE = "then, in both cases, run `python docs/write_revisions.py`"


def in_a_new_process(function):
    """What a process that starts now is told; one that runs has looked at our code already."""

    def fresh(*arguments):
        code._unit_code.cache_clear()
        code._ours.cache_clear()
        return function(*arguments)

    return fresh


entry_code, shared_code = in_a_new_process(code.entry_code), in_a_new_process(code.shared_code)


@pytest.fixture(autouse=True)
def forgotten():
    """No test leaves what it made of our code to the next."""
    yield
    code._unit_code.cache_clear()
    code._ours.cache_clear()


def digest(text):
    return code.tree_digest(text.encode())


PLAIN = """
import os

def f(x, *, a, b=1):
    if x > 0.5:
        return {**a, "k": None}[f"{x:>{b}.2f}!"]
    return (x + 1) * 2
"""
READ_BETTER = '''"""What the module does."""
import os   # for nothing


def f(
    x,
    *,
    a,  # a mapping
    b = 1,
):
    """What f does."""
    if (x > .5):
        return {**a, 'k': None}[f'{x:>{b}.2f}!']
    pass
    "a bare string"
    return ((x + 1) * 2)
'''


def test_comments_docstrings_and_formatting_change_no_digest():
    assert digest(READ_BETTER) == digest(PLAIN)
    assert digest("class A:\n    '''Doc.'''") == digest("class A:\n    pass")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.5", "0.25"),
        ("x > ", "x >= "),
        ("+ 1) * 2", "+ 1 * 2)"),
        ("* 2", "* 2.0"),
        ("None", "True"),
        ("None", "0"),
        ("{**a,", "{None: a,"),
        ("b=1", "b"),
        (".2f", ".3f"),
        ("!", ""),
        ("!", "!!"),
        ("{x:", "{x!r:"),
        ("def f", "async def f"),
        ("import os", "import os as f"),
        ("    return (", "        return ("),
    ],
)
def test_what_may_move_a_number_changes_the_digest(old, new):
    assert PLAIN.count(old) == 1
    assert digest(PLAIN.replace(old, new)) != digest(PLAIN)


def test_a_digest_is_the_same_under_every_python():
    """Written down under 3.11, 3.12 and 3.13; 3.12.1 has an empty text after {b} in its tree."""
    text = "class A(int):\n    def f(self, x): ...\n"
    text += 'y = f"{a!r:>{b}}" f"" u"é\u0378"\nmatch y:\n    case None | A(x=1): 1j\n'
    assert digest(text) == "34c91dd22f501d68"


def test_a_long_sum_is_not_too_deep():
    assert digest("+".join("1" * 2000)) != digest("+".join("1" * 2001))


def test_code_that_cannot_be_parsed_is_named():
    with pytest.raises(SyntaxError) as error:
        code.tree_digest(b"def", "methods/mine.py")
    assert error.value.filename == "methods/mine.py"


# -- Built-in code


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that may be edited, with its revisions.json written anew."""
    copy = tmp_path / "sfdabench"
    shutil.copytree(registry.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(registry, "PACKAGE", copy)
    write_revisions()
    return copy


def write_revisions():
    """What docs/write_revisions.py says."""
    spec = importlib.util.spec_from_file_location("write_revisions", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = []
    module.main(lines.append)
    return lines


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


ALL = [("methods", "cbmt"), ("networks", "unet_small"), ("datasets", "refuge")]
ALL += [("stages", "source_training")]


REVISIONS = {name: f"r{group.revision}" for name, group in code.GROUPS.items()}


def test_released_code_is_a_revision_and_is_not_parsed(package, monkeypatch):
    parsed = []
    monkeypatch.setattr(code, "tree_digest", parsed.append)
    assert [entry_code(*entry) for entry in ALL] == ["r1"] * 4
    assert entry_code("datasets", "btcv") == entry_code("datasets", "malbcv") == "r1"
    assert shared_code(*code.GROUPS) == REVISIONS
    assert shared_code("models", "core") == {g: REVISIONS[g] for g in ("core", "models")}
    assert not parsed


def test_an_edited_entry_is_a_digest_and_nothing_else_is(package):
    path = package / "methods" / "cbmt.py"
    path.write_text("# A comment.\n" + path.read_text())
    assert entry_code("methods", "cbmt") == "r1"
    edit(path, "0.9", "0.8")
    edited = entry_code("methods", "cbmt")
    assert len(edited) == 16
    assert entry_code("methods", "tent") == "r1"
    edit(path, "0.8", "0.7")
    assert entry_code("methods", "cbmt") not in (edited, "r1")


def test_an_entry_that_is_not_released_is_a_digest(package):
    shutil.copy(package / "methods" / "tent.py", package / "methods" / "newer.py")
    assert len(entry_code("methods", "newer")) == 16


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("core", "core/streams.py"),
        ("models", "models/unet.py"),
        ("primitives", "primitives/losses.py"),
        ("prepare", "prepare/planes.py"),
        ("datasets", "formats/volumes.py"),
        ("evaluate", "evaluate/metrics.py"),
    ],
)
def test_an_edited_file_of_a_group_makes_it_a_digest(package, group, name):
    (package / name).write_text((package / name).read_text() + "\nEDITED = 1\n")
    codes = shared_code(*code.GROUPS)
    assert len(codes.pop(group)) == 16
    assert codes == {name: text for name, text in REVISIONS.items() if name != group}
    (package / name).unlink()
    assert code.changed(group) == [name]


def test_a_file_more_changes_a_group_unless_it_is_an_exception(package):
    (package / "models" / "another.py").write_text("x = 1\n")
    edit(package / "prepare" / "fetch.py", "import stat", "import shutil, stat")
    assert len(shared_code("models")["models"]) == 16
    assert shared_code("prepare") == {"prepare": REVISIONS["prepare"]}


def test_every_pattern_of_a_group_is_of_files_that_are_there():
    for group in code.GROUPS.values():
        for pattern in (*group.files, *group.but):
            assert list(registry.PACKAGE.glob(pattern)), pattern


def test_the_revisions_are_those_that_the_code_says():
    for unit, held in code.released().items():
        group = code.GROUPS.get(unit)
        says = group.revision if group else registry.load(*unit.split("/")).revision
        assert says == held.revision, f"{unit}: revision {says}; run `python {SCRIPT}`"


@pytest.mark.parametrize("unit", sorted(code.units().keys() | code.released().keys()))
def test_code_changes_with_its_revision_or_by_decision(unit):
    where = f"GROUPS[{unit!r}] in core/code.py" if unit in code.GROUPS else "its class"
    assert unit in code.units(), f"{unit} is gone; run `python docs/write_revisions.py`"
    assert not code.changed(unit), (
        f"{unit} has changed ({', '.join(code.changed(unit))}). If its numbers change, raise the "
        f"`revision` of {where}; {CURE}"
    )


def test_writing_revisions_lists_what_is_accepted(package, monkeypatch):
    assert write_revisions() == []
    before = code.released_path().read_bytes()
    path = package / "methods" / "cbmt.py"
    path.write_text("# A comment.\n" + path.read_text())
    assert write_revisions() == []
    assert code.released_path().read_bytes() != before, "the digest of its bytes"
    edit(path, "0.9", "0.8")
    edit(package / "models" / "unet.py", "import torch", "import os, torch")
    as_before = "revision 1 as before, so no number moves"
    assert write_revisions() == [
        f"models: {as_before}: models/unet.py",
        f"methods/cbmt: {as_before}: methods/cbmt.py",
    ]
    assert entry_code("methods", "cbmt") == "r1"
    edit(path, "0.8", "0.7")
    monkeypatch.setattr(CBMT, "revision", 2)
    (package / "networks" / "unet_dual.py").unlink()
    assert write_revisions() == ["methods/cbmt: revision 1 -> 2", "networks/unet_dual: gone"]
    assert entry_code("methods", "cbmt") == "r2"


@pytest.mark.parametrize("unit", ["core", "methods/cbmt"])
def test_a_revision_that_went_down_is_refused(package, monkeypatch, unit):
    edit(package / "methods" / "cbmt.py", "0.9", "0.8")
    before = code.released_path().read_bytes()
    if unit == "core":
        lower = dataclasses.replace(code.GROUPS["core"], revision=0)
        monkeypatch.setitem(code.GROUPS, "core", lower)
    else:
        monkeypatch.setattr(CBMT, "revision", 0)
    with pytest.raises(SystemExit) as stop:
        write_revisions()
    assert stop.value.code == 1
    assert code.released_path().read_bytes() == before


def test_revisions_need_no_torch_and_no_import_of_an_entry():
    program = (
        "import sys; from sfdabench.core import code;"
        "code.entry_code('networks', 'unet_small'); code.shared_code(*code.GROUPS);"
        "sys.exit(bool({'torch', 'numpy', 'pydantic', 'sfdabench.networks'} & set(sys.modules)))"
    )
    root = registry.PACKAGE.parent
    assert subprocess.run((sys.executable, "-c", program), cwd=root, check=False).returncode == 0


def test_values_have_no_code():
    with pytest.raises(ValueError, match="tasks are values"):
        entry_code("tasks", "refuge2rimone")
    with pytest.raises(BadInput, match="did you mean cbmt"):
        entry_code("methods", "cbmtt")


# -- Plug-ins

ENTRY = """
from sfdabench.core.method import Method
from . import _helper
class Mine(Method):
    def adapt(self, context):
        from ..shared import rates
        return rates.RATE, _helper.RATE
"""


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    files = {
        "methods/mine.py": ENTRY,
        "methods/_helper.py": "from sfdabench_plugins.deep import RATE",
        "methods/_other.py": "RATE = 0.5",
        "methods/__init__.py": "",
        "deep.py": "RATE = 0.5",
        "shared/__init__.py": "",
        "shared/rates.py": "RATE = 0.5",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(registry, "_plugins", [])
    registry.add_plugins(tmp_path)
    return tmp_path


def test_a_plugin_is_a_digest_of_its_file_and_of_the_helpers_it_imports(plugins):
    def code_of():
        return entry_code("methods", "mine")

    before = code_of()
    assert len(before) == 16
    for name in ("methods/_other.py", "methods/__init__.py"):
        (plugins / name).write_text("RATE = 9")
        assert code_of() == before, f"{name} is not imported"
    for name in ("methods/mine.py", "methods/_helper.py", "deep.py", "shared/rates.py"):
        text = (plugins / name).read_text()
        (plugins / name).write_text(f"# A comment.\n{text}")
        assert code_of() == before
        (plugins / name).write_text(f"{text}\nEDITED = 1")
        assert code_of() != before, name
        (plugins / name).write_text(text)
    (plugins / "shared" / "__init__.py").write_text("rates = None")
    assert code_of() != before
    assert "sfdabench_plugins.methods.mine" not in sys.modules


def test_a_plugin_does_not_depend_on_where_its_folder_is(plugins, tmp_path_factory, monkeypatch):
    before = entry_code("methods", "mine")
    copy = shutil.copytree(plugins, tmp_path_factory.mktemp("elsewhere") / "copy")
    monkeypatch.setattr(registry, "_plugins", [])
    registry.add_plugins(copy)
    assert entry_code("methods", "mine") == before


def test_a_plugin_that_extends_an_entry_of_ours_changes_with_it(plugins, package):
    mine = plugins / "methods" / "mine.py"
    mine.write_text("from sfdabench.methods.cbmt import CBMT\nclass Mine(CBMT): pass\n")
    before = entry_code("methods", "mine")
    edit(package / "methods" / "tent.py", "import", "import os\nimport")
    assert entry_code("methods", "mine") == before
    edit(package / "methods" / "cbmt.py", "0.9", "0.8")
    assert entry_code("methods", "mine") != before


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """installed(module): a package whose entry point "third" is that module."""

    def install(module, files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / name).write_text(text)
        info = tmp_path / "third_party-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[sfdabench.methods]\nthird = {module}\n")
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    return install


@pytest.mark.parametrize(
    ("module", "files", "helper"),
    [
        (
            "third_party",
            {"third_party.py": "import third_helper, json", "third_helper.py": "x = 1"},
            "third_helper.py",
        ),
        (
            "third.methods.mine",
            {
                "third/__init__.py": "1 / 0",
                "third/methods/__init__.py": "",
                "third/methods/mine.py": "from third.losses import dice",
                "third/losses.py": "from .parts import *",
                "third/parts.py": "dice = 1",
            },
            "third/parts.py",
        ),
        (
            "space.third.mine",
            {"space/third/mine.py": "from .helper import x", "space/third/helper.py": "x = 1"},
            "space/third/helper.py",
        ),
    ],
    ids=["module", "package", "namespace"],
)
def test_an_entry_point_is_a_digest_of_its_module_and_of_its_package(
    installed, module, files, helper
):
    folder = installed(module, files)
    before = entry_code("methods", "third")
    assert module not in sys.modules
    (folder / helper).write_text("x = dice = 2")
    assert entry_code("methods", "third") not in (before, "r1")


def test_an_entry_point_without_a_file_is_named(installed):
    installed("third_gone", {})
    with pytest.raises(BadInput, match="third_gone: there is no file of this module"):
        entry_code("methods", "third")


def test_a_plugin_that_cannot_be_parsed_surfaces_as_it_is(plugins):
    (plugins / "methods" / "_helper.py").write_text("def")
    with pytest.raises(SyntaxError):
        entry_code("methods", "mine")


def test_the_wheel_carries_the_revisions():
    text = (registry.PACKAGE.parent / "setup.cfg").read_text()
    assert "sfdabench.core = revisions.json" in text
    assert json.loads(code.released_path().read_text()).keys() >= set(code.GROUPS)
