"""Images of both domains, before and after a method translated them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sfdabench.core.errors import BadInput
from sfdabench.report.figures import style

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

KINDS = ("source", "source_as_target", "target", "target_as_source")  # as methods show them
TILE = 1.25  # inches


def draw(
    pictures: Mapping[str, np.ndarray], title: Sequence[str], caption: Sequence[str]
) -> Figure:
    """A row a kind of `KINDS`, a column an image. pictures: kind -> (N, C, H, W) in -1..1.

    Three channels are colours; of others the first is shown. The caption tells how far grey values
    are from the other domain's, before and after: a translator that has not learnt leaves them.
    Raises BadInput where a kind is missing, or is no images.
    """
    for kind in KINDS:
        if kind not in pictures or pictures[kind].ndim != 4 or not len(pictures[kind]):
            raise BadInput(f"the pictures hold no images of '{kind}'; run the method with --force")
    columns = max(len(images) for images in pictures.values())
    with style.styled():
        figure = style.blank(TILE * columns + 0.6, TILE * len(KINDS))
        panels = figure.subplots(len(KINDS), columns, squeeze=False)
        for line, kind in zip(panels, KINDS, strict=True):
            line[0].set_ylabel(kind.replace("_", "\n", 1).replace("_", " "), fontsize=style.SMALL)
            for axes in line:
                axes.set_xticks([])
                axes.set_yticks([])
                axes.grid(visible=False)
                for spine in axes.spines.values():
                    spine.set_visible(False)
            for axes, image in zip(line, pictures[kind], strict=False):
                shown = (image.transpose(1, 2, 0).clip(-1, 1) + 1) / 2
                axes.imshow(shown if image.shape[0] == 3 else shown[..., 0], "gray", vmin=0, vmax=1)
        style.frame(figure, title, [*caption, *_distances(pictures)], [], [])
    return figure


def _distances(pictures: Mapping[str, np.ndarray]) -> list[str]:
    """How far grey values are from those of the domain that a translation imitates."""
    lines = []
    for kind, imitated in (("source", "target"), ("target", "source")):
        before, after = (
            grey_distance(pictures[name], pictures[imitated])
            for name in (kind, f"{kind}_as_{imitated}")
        )
        lines.append(f"grey values of the {kind} are {before:.3f} from the {imitated}'s, "
                     f"translated {after:.3f}")  # fmt: skip
    return [*lines, "of these images, where the range is 2"]


def grey_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The Wasserstein distance of all values, the mean over channels; both (N, C, H, W)."""
    import numpy as np
    from scipy.stats import wasserstein_distance

    channels = zip(first.swapaxes(0, 1), second.swapaxes(0, 1), strict=True)
    return float(np.mean([wasserstein_distance(a.ravel(), b.ravel()) for a, b in channels]))
