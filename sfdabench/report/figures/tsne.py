"""t-SNE of what a network predicts, by site, before and after adaptation.

After Perone et al., NeuroImage 2019, §8 and Fig. 8.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfdabench.core.errors import BadInput
from sfdabench.report.figures import style

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PERPLEXITY = 30.0  # paper §8
LEARNING_RATE = 10.0  # paper §8
ITERATIONS = 1000  # paper §8
FEWEST = 10  # planes; below, there is no neighbourhood to keep


@dataclass(frozen=True)
class Features:
    """A vector (N, D) for each plane, and the site (N names) that it is from."""

    vectors: np.ndarray
    sites: tuple[str, ...]


def perplexity(count: int) -> float:
    """The paper's, or the most that `count` points allow: each needs thrice as many neighbours."""
    return min(PERPLEXITY, (count - 1) / 3)


def embed(features: Features) -> np.ndarray:
    """(N, D) -> (N, 2); the same features give the same map.

    Raises BadInput for fewer than FEWEST planes.
    """
    from sklearn.manifold import TSNE

    count = len(features.vectors)
    if count < FEWEST:
        raise BadInput(f"t-SNE of {count} planes says nothing; give at least {FEWEST}")
    return TSNE(
        perplexity=perplexity(count),
        learning_rate=LEARNING_RATE,
        max_iter=ITERATIONS,
        init="pca",
        random_state=0,
    ).fit_transform(features.vectors)


def draw(panels: Mapping[str, Features], title: Sequence[str], caption: Sequence[str]) -> Figure:
    """A panel a model, in the order given; a colour and a marker a site."""
    first = next(iter(panels.values()))
    sites = list(dict.fromkeys(first.sites))
    with style.styled():
        figure = style.blank(style.WIDTH, 3)
        line = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (name, features) in zip(line, panels.items(), strict=True):
            _scatter(axes, embed(features), features.sites, sites)
            axes.set_title(name)
        count = len(first.sites)
        style.frame(
            figure,
            title,
            [
                *caption,
                f"n = {count} planes, "
                + ", ".join(f"{site} {first.sites.count(site)}" for site in sites),
                f"perplexity {perplexity(count):.3g}, learning rate {LEARNING_RATE:g}, "
                f"{ITERATIONS} iterations; axes of a t-SNE have no unit",
            ],
            *line[0].get_legend_handles_labels(),
        )
    return figure


def _scatter(axes: Axes, points: np.ndarray, of: Sequence[str], sites: Sequence[str]) -> None:
    import numpy as np

    for site, ink in zip(sites, style.inks(len(sites)), strict=True):
        here = points[np.array(of) == site]
        axes.scatter(here[:, 0], here[:, 1], 16, marker=ink.marker, label=site, alpha=0.75,
                     facecolors="none", edgecolors=ink.colour, linewidths=1)  # fmt: skip
    axes.set_xticks([])
    axes.set_yticks([])
