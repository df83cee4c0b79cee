"""Pictures and masks as PNG, JPEG or TIFF, in and out.

NumPy and Pillow are imported late: every run scans its data sets, whose adapters import this.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sfdabench.core.errors import DataFault

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike
    from PIL import Image


def few(values: ArrayLike) -> str:
    """The first five, for a fault."""
    import numpy as np

    return ", ".join(f"{value:g}" for value in np.ravel(values)[:5])


def read(path: Path, *, header: bool = False) -> Image.Image:
    """An image with its pixels, or its header only. Raises DataFault naming the file."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            if not header:
                image.load()
            return image
    except FileNotFoundError:
        raise DataFault(f"{path}: missing file") from None
    except UnidentifiedImageError:
        raise DataFault(
            f"{path}: not an image, whatever its name says; get this file again from the authors"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise DataFault(
            f"{path}: broken image file ({error}); get this file again from the authors"
        ) from error


def grey(path: Path) -> np.ndarray:
    """A mask as uint8 (H, W)."""
    import numpy as np

    image = read(path)
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise DataFault(f"{path}: a mask of mode {image.mode}; expected 8-bit grey values")
    return np.asarray(image.convert("L"))


def exact(path: Path, allowed: Sequence[int]) -> np.ndarray:
    """A mask (H, W) that holds none but the `allowed` grey values."""
    import numpy as np

    mask = grey(path)
    known = np.zeros(256, bool)
    known[list(allowed)] = True
    if not known[mask].all():
        other = np.unique(mask[~known[mask]])
        shown = few(other) + (", ..." if len(other) > 5 else "")
        raise DataFault(
            f"{path}: unknown grey values {shown}; this mask knows {', '.join(map(str, allowed))}; "
            "was it resized or saved as JPEG?"
        )
    return mask


def write(path: Path, pixels: np.ndarray) -> None:
    """Save an image or mask by its suffix, its folder included."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95, compress_level=1)  # JPEG, PNG
