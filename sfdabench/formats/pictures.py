"""Pictures and masks as PNG, JPEG or TIFF, in and out.

NumPy and Pillow are imported late: every run scans its data sets, whose adapters import this.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sfdabench.core.errors import DataFault
from sfdabench.core.files import regular
from sfdabench.core.system_errors import explained

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike
    from PIL import Image


ORIENTATION = 0x0112  # EXIF
AGAIN = "get this file again from the authors"


def few(values: ArrayLike) -> str:
    """The first five, for a fault."""
    import numpy as np

    return ", ".join(f"{value:g}" for value in np.ravel(values)[:5])


def read(path: Path, *, header: bool = False, cure: str = AGAIN) -> Image.Image:
    """An image with its pixels, or its header only, turned as its EXIF entry says.

    Raises DataFault naming the file and the `cure` where it is missing, broken, no file that can
    be read from start to end, or of more pixels than Pillow takes for an image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    regular(path, cure, DataFault)
    try:
        with explained(path, DataFault), Image.open(path) as image:
            turned = _turned(image, header=header)
            if turned or not header:
                image.load()
            return ImageOps.exif_transpose(image) if turned else image
    except UnidentifiedImageError:
        raise DataFault(f"{path}: not an image, whatever its name says; {cure}") from None
    except Image.DecompressionBombError as error:
        raise DataFault(f"{path}: claims more pixels than any photograph has ({error})") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataFault(f"{path}: broken image file ({error}); {cure}") from error


def _turned(image: Image.Image, *, header: bool) -> bool:
    """Whether viewers show the image turned or mirrored.

    Of a PNG whose header alone is wanted, an entry behind the pixels is not looked for.
    """
    if header and image.format == "PNG" and "exif" not in image.info:
        return False
    return image.getexif().get(ORIENTATION, 1) != 1


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
