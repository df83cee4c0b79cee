import pytest

from sfdabench.core.errors import BadInput
from sfdabench.core.threads import same_threads


def test_work_goes_on_with_the_threads_that_it_was_begun_with(tmp_path):
    said = []
    work = tmp_path / "work"
    assert [same_threads(work, now, said.append) for now in (3, 3, 1)] == [3, 3, 3]
    assert said == ["work: begun with 3 threads, goes on with as many (not 1)"]


@pytest.mark.parametrize("text", ["", "two", "0", "-1"])
def test_a_file_without_a_count_of_threads_is_named(tmp_path, text):
    (tmp_path / "threads").write_text(text)
    with pytest.raises(BadInput, match="threads: holds no number"):
        same_threads(tmp_path, 1, print)
