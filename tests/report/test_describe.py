"""The page that `sfdabench show` prints of a method with other names."""

from sfdabench.report.describe import describe_entry


def test_another_name_is_explained_in_one_line():
    first, blank, title, *_ = describe_entry("methods", "tent_online").splitlines()
    assert first == "tent_online is another name for tent --set online=true"
    assert (blank, title) == ("", "tent (method)")


def test_a_method_names_its_variants_and_their_settings():
    lines = describe_entry("methods", "self_ensembling").splitlines()
    assert lines[0] == "self_ensembling (method)"
    assert any(line.startswith("setting: UDA; ") for line in lines)
    other = "self_ensembling_sf is another name for self_ensembling --set source=false"
    assert f"{other} (setting: SFDA)" in lines
    assert "another name" not in describe_entry("methods", "cbmt")
