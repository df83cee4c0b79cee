"""The figure of translated images."""

import numpy as np
import pytest

from sfdabench.core.errors import BadInput
from sfdabench.report.figures import style, translations


def pictures(channels=1, count=3):
    rng = np.random.default_rng(0)
    return {kind: rng.random((count, channels, 8, 6)) for kind in translations.KINDS}


@pytest.mark.parametrize(("channels", "shape"), [(1, (8, 6)), (3, (8, 6, 3)), (4, (8, 6))])
def test_a_row_a_kind_and_a_column_an_image(channels, shape, tmp_path):
    shown = pictures(channels)
    figure = translations.draw(shown, ["title"], ["seed 0"])
    tiles = [axes for axes in figure.axes if axes.get_images()]
    assert len(tiles) == 12
    first = tiles[0].get_images()[0].get_array()
    assert first.shape == shape
    np.testing.assert_allclose(
        first[..., 0] if channels == 3 else first, (shown["source"][0, 0] + 1) / 2
    )
    assert [axes.get_ylabel() for axes in tiles[::3]] == [
        *("source", "source\nas target", "target", "target\nas source")
    ]
    style.save(figure, tmp_path, "translations")


def test_the_caption_tells_what_was_not_learnt():
    shown = pictures()
    shown["target"] = shown["source"] + 0.25
    shown["source_as_target"], shown["target_as_source"] = shown["source"], shown["source"]
    text = " ".join(t.get_text() for t in translations.draw(shown, ["t"], ["c"]).texts)
    text = text.replace("\n", " ")
    assert "grey values of the source are 0.250 from the target's, translated 0.250" in text
    assert "grey values of the target are 0.250 from the source's, translated 0.000" in text


def test_distance_of_grey_values_is_the_mean_over_channels():
    zero = np.zeros((2, 2, 3, 3))
    one = zero + np.array([0.5, 0.1])[None, :, None, None]
    assert translations.grey_distance(zero, one) == pytest.approx(0.3)
    assert translations.grey_distance(one, one[::-1]) == 0


@pytest.mark.parametrize("broken", [{}, {"source": np.zeros((0, 1, 2, 2))}])
def test_pictures_of_something_else_are_refused(broken):
    shown = pictures() | broken
    if not broken:
        del shown["target_as_source"]
    with pytest.raises(BadInput, match="hold no images of"):
        translations.draw(shown, ["t"], ["c"])
