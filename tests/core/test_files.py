"""Files that are written whole or not at all, and read only as they were written."""

import json
import os
import stat

import pytest

from sfdabench.core.errors import BadInput
from sfdabench.core.files import (
    atomic,
    hashed,
    read_hashed,
    read_typed,
    remove,
    remove_leftovers,
    unhashed,
    write_hashed,
)
from sfdabench.core.toml import Part


@pytest.mark.skipif(os.name != "posix", reason="a umask is POSIX's")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_file_is_as_open_as_the_users_umask_says(umask, tmp_path):
    before = os.umask(umask)
    try:
        with atomic(tmp_path / "a.json") as file:
            file.write("x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o666 & ~umask


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    (tmp_path / "a.json").write_text("old")

    def half_way():
        with atomic(tmp_path / "a.json") as file:
            file.write("ne")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        half_way()
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


BODY = {"b": [1, 2.5, None, True], "a": {"é": "\ud800", "n": -0.0}}


def test_hashed_values_come_back(tmp_path):
    write_hashed(tmp_path / "x" / "a.json", BODY)
    assert read_hashed(tmp_path / "x" / "a.json") == BODY
    assert unhashed(hashed(BODY)) == BODY


def test_the_hash_is_of_the_values_not_of_their_order_or_spaces(tmp_path):
    whole = json.loads(hashed(BODY))
    text = json.dumps({"body": dict(reversed(whole["body"].items())), "sha256": whole["sha256"]})
    (tmp_path / "a.json").write_text(text.replace(",", " ,\n"))
    assert read_hashed(tmp_path / "a.json") == BODY


@pytest.mark.parametrize(
    "text",
    [
        *("", "[]", "null", "1", '"a"', "{", "{}", "[" * 100_000, '{"a":' * 100_000, "1" * 5000),
        *('{"sha256": "0", "body": {}}', '{"sha256": null, "body": []}', '{"body": {}}'),
        hashed(BODY).replace("2.5", "2.6"),
        hashed(BODY).replace("true", "1"),
        hashed(BODY).replace("[1,", "[1.0,"),
        hashed(BODY)[:-1] + ', "more": 1}',
        hashed(BODY)[:-2],
        "\ufeff" + hashed(BODY),
    ],
)
def test_anything_else_is_refused_with_the_file_and_the_cure(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=r"a\.json: cannot be used \(.+\); import it again"):
        read_hashed(path, "import it again")


def test_text_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(hashed({"a": 1}).encode("utf-16"))
    with pytest.raises(BadInput, match=r"a\.json: cannot be used \(.*utf-8"):
        read_hashed(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("put", "fault"),
    [
        (lambda path: None, "missing file"),
        (lambda path: path.mkdir(), "is not a file"),
        (lambda path: path.symlink_to("/nowhere"), "missing file"),
        (lambda path: path.symlink_to(path.name), "cannot be reached"),
        (lambda path: os.mkfifo(path), "is not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "is not a file"),
    ],
    ids=["missing", "folder", "dangling", "loop", "pipe", "device"],
)
@pytest.mark.skipif(os.name != "posix", reason="pipes and devices are POSIX's")
def test_what_is_no_file_is_refused_at_once(tmp_path, put, fault):
    put(tmp_path / "a.json")
    with pytest.raises(BadInput, match=rf"a\.json: {fault}.*; remove it, and it is made anew"):
        read_hashed(tmp_path / "a.json")


class Two(Part):
    name: str
    sizes: tuple[int, ...]


def test_values_become_a_model_or_the_field_is_named(tmp_path):
    path = tmp_path / "a.json"
    write_hashed(path, {"name": "x", "sizes": [1, 2]})
    assert read_typed(path, Two) == Two(name="x", sizes=(1, 2))
    for body, field in (
        ({"name": "x"}, "sizes: "),
        ({"name": "x", "sizes": [1, None]}, r"sizes\.1: "),
        ({"name": "x", "sizes": [], "more": 1}, "more: "),
    ):
        write_hashed(path, body)
        with pytest.raises(BadInput, match=rf"a\.json: {field}.*; remove it"):
            read_typed(path, Two)


def test_remove_takes_a_link_and_leaves_what_it_points_to(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file").write_text("x")
    (tmp_path / "link").symlink_to("folder")
    remove(tmp_path / "link")
    remove(tmp_path / "nothing")
    assert (tmp_path / "folder" / "file").exists()
    remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_are_those_of_this_name_only(tmp_path):
    for name in (".a.json.12.tmp", ".a[b].12.tmp", ".a.12", ".ab.12.tmp", "a.json"):
        (tmp_path / name).write_text("x")
    remove_leftovers(tmp_path / "a[b]")
    remove_leftovers(tmp_path / "a.json")
    assert {path.name for path in tmp_path.iterdir()} == {".a.12", ".ab.12.tmp", "a.json"}
