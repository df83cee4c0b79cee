import sys
import zipfile

import pytest

from sfdabench.core import code, registry
from sfdabench.core.errors import BadInput


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_plugins", [])
    (tmp_path / "methods").mkdir()
    return tmp_path


def test_unknown_name_suggests_near_ones():
    with pytest.raises(BadInput, match=r"unknown method 'cbmtt': did you mean cbmt"):
        registry.load("methods", "cbmtt")


def test_listing_imports_nothing(plugins):
    (plugins / "methods" / "broken.py").write_text("raise RuntimeError('imported')")
    registry.add_plugins(plugins)
    assert "broken" in registry.names("methods")


def test_an_import_error_surfaces_as_it_is(plugins):
    (plugins / "methods" / "broken.py").write_text("import no_such_module_anywhere")
    registry.add_plugins(plugins)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        registry.load("methods", "broken")


def test_a_plugin_method_is_loaded_by_its_file_name(plugins):
    (plugins / "methods" / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from sfdabench.core.method import Method\n"
        "@dataclass(frozen=True)\n"
        "class Mine(Method):\n"
        "    '''Nothing.'''\n"
        "    rate: float = 1.0\n"
    )
    registry.add_plugins(plugins)
    assert registry.load("methods", "mine")().rate == 1.0
    assert registry.load("methods", "mine") is registry.load("methods", "mine")


def test_a_name_given_twice_is_an_error(plugins):
    (plugins / "methods" / "cbmt.py").write_text("")
    registry.add_plugins(plugins)
    with pytest.raises(BadInput, match="two methods are called 'cbmt'"):
        registry.names("methods")


@pytest.mark.parametrize("name", ["my-method", "2nd", "my method", "a.b"])
def test_a_name_that_no_record_could_bear_is_an_error(plugins, name):
    (plugins / "methods" / f"{name}.py").write_text("")
    registry.add_plugins(plugins)
    with pytest.raises(BadInput, match=rf"{name}\.py: '{name}' cannot name one of the methods: .*"):
        registry.names("methods")


def test_a_file_without_an_entry_is_an_error(plugins):
    (plugins / "methods" / "empty.py").write_text("x = 1")
    registry.add_plugins(plugins)
    with pytest.raises(BadInput, match=r"empty\.py: expected one Method class, found 0"):
        registry.load("methods", "empty")


def test_a_folder_that_adds_nothing_is_an_error(tmp_path):
    with pytest.raises(BadInput, match="no sub-folder methods"):
        registry.add_plugins(tmp_path)


def test_entry_points_add_entries(monkeypatch, tmp_path):
    (tmp_path / "third_party.py").write_text(
        "from sfdabench.methods.source_only import SourceOnly\n"
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class ThirdParty(SourceOnly):\n"
        "    '''From a package.'''\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    info = tmp_path / "third_party-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sfdabench.methods]\nthird = third_party\n")
    assert "third" in registry.names("methods")
    assert registry.load("methods", "third").__name__ == "ThirdParty"
    del sys.modules["third_party"]


@pytest.mark.parametrize("place", ["folder", "egg", "zip"])
def test_a_package_is_noticed_wherever_python_finds_it(monkeypatch, tmp_path, place):
    info = {"folder": "other-1.0.dist-info", "egg": "EGG-INFO", "zip": "other-1.0.dist-info"}[place]
    points = "[console_scripts]\nother = other:main\n\n[sfdabench.methods]\nother = other\n"
    if place == "zip":
        root = tmp_path / "other.zip"
        with zipfile.ZipFile(root, "w") as archive:
            archive.writestr(f"{info}/METADATA", "Name: other\n")
            archive.writestr(f"{info}/entry_points.txt", points)
    else:
        root = tmp_path / ("other.egg" if place == "egg" else "site-packages")
        (root / info).mkdir(parents=True)
        (root / info / "PKG-INFO").write_text("Name: other\n")
        (root / info / "METADATA").write_text("Name: other\n")
        (root / info / "entry_points.txt").write_text(points)
    assert "other" not in registry.names("methods")
    monkeypatch.syspath_prepend(root)
    assert "other" in registry.names("methods")


METHOD = """
from dataclasses import dataclass
from sfdabench.core.method import Method
{imports}
@dataclass(frozen=True)
class Mine(Method):
    '''Nothing.'''
    rate: float = {rate}
"""


def put(folder, files):
    """put(DIR, {"methods/mine": "..."}): the file DIR/methods/mine.py."""
    for name, text in files.items():
        path = folder / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("imports", "rate"),
    [
        ("from sfdabench_plugins.methods._helper import RATE", "RATE"),
        ("from . import _helper", "_helper.RATE"),
        ("from ._helper import RATE", "RATE"),
        ("import sfdabench_plugins.methods._helper as h", "h.RATE"),
        ("from sfdabench_plugins import shared", "shared.RATE"),
        ("import sfdabench_plugins.shared", "sfdabench_plugins.shared.RATE"),
        ("from ..shared import RATE", "RATE"),
        ("from ..parts.rates import RATE", "RATE"),
    ],
)
def test_plugin_files_share_helpers(plugins, imports, rate):
    put(plugins, {"shared": "RATE = 0.5", "parts/__init__": "", "parts/rates": "RATE = 0.5"})
    put(plugins, {"methods/_helper": "from sfdabench_plugins.shared import RATE"})
    put(plugins, {"methods/mine": METHOD.format(imports=imports, rate=rate)})
    registry.add_plugins(plugins)
    assert "_helper" not in registry.names("methods")
    assert registry.load("methods", "mine")().rate == 0.5


def test_two_folders_add_entries_and_helpers(plugins):
    for name, rate in (("one", 1.0), ("two", 2.0)):
        entry = METHOD.format(imports=f"from ._{name} import RATE", rate="RATE")
        files = {f"methods/_{name}": f"RATE = {rate}", f"methods/{name}": entry}
        registry.add_plugins(put(plugins / name, {**files, "setup": "1 / 0"}))
    assert registry.load("methods", "one")().rate == 1.0
    assert registry.load("methods", "two")().rate == 2.0


@pytest.mark.parametrize("helper", ["methods/_helper", "shared"])
def test_a_helper_of_two_folders_is_an_error_that_names_both(plugins, helper):
    module = f"sfdabench_plugins.{helper.replace('/', '.')}"
    for name in ("one", "two"):
        entry = METHOD.format(imports=f"from {module} import RATE", rate="RATE")
        put(plugins / name, {helper: "RATE = 1.0", f"methods/{name}": entry})
    both = rf"one/{helper}\.py and .*two/{helper}\.py are both called {module}: rename one"
    registry.add_plugins(plugins / "one")
    registry.load("methods", "one")
    with pytest.raises(BadInput, match=both):
        registry.add_plugins(plugins / "two")
    with pytest.raises(BadInput, match=both):
        code.entry_code("methods", "two")


def test_a_helper_of_two_folders_is_an_error_when_it_is_imported(plugins):
    for name in ("one", "two"):
        entry = METHOD.format(imports="from ._h import RATE", rate="RATE")
        registry.add_plugins(put(plugins / name, {"methods/_h": "", f"methods/{name}": entry}))
    with pytest.raises(BadInput, match=r"_h\.py and .*_h\.py are both called"):
        registry.load("methods", "one")


def test_an_error_in_a_helper_surfaces_as_it_is(plugins):
    put(plugins, {"methods/_helper": "import no_such_module_anywhere"})
    put(plugins, {"methods/mine": METHOD.format(imports="from . import _helper", rate="1.0")})
    registry.add_plugins(plugins)
    with pytest.raises(ModuleNotFoundError, match="no_such_module_anywhere"):
        registry.load("methods", "mine")


def test_another_name_for_a_method_stands_for_field_values():
    assert registry.resolve("methods", "tent_online") == ("tent", {"online": True})
    assert registry.resolve("methods", "tent") == ("tent", {})
    assert registry.resolve("tasks", "mr2ct") == ("chaos2malbcv", {})
    assert registry.variants("tent") == {"tent_online": {"online": True}}
    assert registry.variants("cbmt") == {}
    assert registry.kinds_of("tent_online") == ["methods"]
    assert "tent_online" not in registry.names("methods")
    line = "self_ensembling_sf is another name for self_ensembling --set source=false"
    assert registry.explain("methods", "self_ensembling_sf") == line
    assert registry.explain("tasks", "mr2ct") == "mr2ct is another name for chaos2malbcv"
    assert registry.explain("methods", "tent") is None


def test_its_field_values_are_never_lost():
    for ask in (registry.load, registry.canonical):
        with pytest.raises(BadInput, match="'tent_online' is another name for tent with online="):
            ask("methods", "tent_online")


def test_names_of_variants_are_methods_with_such_fields():
    for name, (own, fields) in registry.ALIASES["methods"].items():
        assert own in registry.names("methods")
        method = registry.load("methods", own)
        changed = method(**fields)
        assert changed != method(), name
        assert changed.needs != method().needs, "else no name of its own is needed"


def test_no_entry_may_bear_another_s_other_name(plugins):
    (plugins / "methods" / "tent_online.py").write_text("")
    registry.add_plugins(plugins)
    with pytest.raises(BadInput, match=r"tent_online\.py: tent_online is another name for tent"):
        registry.names("methods")


def test_modules_of_entries_are_the_only_ones(plugins):
    (plugins / "methods" / "mine.py").write_text("import os\n")
    registry.add_plugins(plugins)
    assert registry.entry_module("sfdabench_plugins.methods.mine").os
    assert registry.entry_module("sfdabench.methods.tent").Tent is registry.load("methods", "tent")
    for name in ("os", "os.path", "sfdabench.core.files", "mine", "tent", "", "sfdabench.tent"):
        with pytest.raises(BadInput, match="no file of an entry"):
            registry.entry_module(name)
