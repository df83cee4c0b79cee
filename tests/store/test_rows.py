"""CSV files of known columns."""

import pytest

from sfdabench.core.errors import BadInput
from sfdabench.store import rows


def test_rows_have_the_numbers_of_their_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('a,b\n1,"x\ny"\n2,z\n', encoding="utf-8")
    assert rows.read(path, ("a", "b")) == [(3, {"a": "1", "b": "x\ny"}), (4, {"a": "2", "b": "z"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"a\.csv: columns must be a,b"),
        (b"b,a\n1,2\n", r"a\.csv: columns must be a,b"),
        (b"a,b\n\xff,1\n", r"a\.csv: cannot be read"),
        (None, r"a\.csv: cannot be read"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        rows.read(tmp_path / "a.csv", ("a", "b"))
