"""Pixel arrays, and the optional package that decodes images (Pillow)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.errors import UsageError

# (h, w, 3) of bytes: red, green and blue; frames of a video have one axis more in front.
Pixels = NDArray[np.uint8]

INSTALL_PILLOW = "pictures need the package Pillow: pip install 'mapsto[image]'"

# The colour behind transparent pixels.
BACKGROUND = (255, 255, 255)

# The weights of red, green and blue in a grey value (ITU-R BT.601).
GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)


def load_pillow() -> Any:
    """Import and return Pillow with its modules Image and ImageOps. Raises UsageError if Pillow is not installed."""
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise UsageError(INSTALL_PILLOW) from error
    return PIL
