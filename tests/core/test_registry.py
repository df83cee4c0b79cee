import pytest

from sfdabench.core import registry
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
