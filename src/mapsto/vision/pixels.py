"""Pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.errors import UsageError

Pixels = NDArray[np.uint8]


INSTALL = "pictures need the package Pillow: pip install 'mapsto[image]'"


PAPER = (255, 255, 255)  # what is seen through a picture


GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


class Unreadable(ValueError):
    """What keeps a file from being a picture."""


def load_pillow() -> Any:
    """The package that decodes pictures. Raises UsageError where it is not here."""
    try:
        import PIL.Image
        import PIL.ImageOps
    except ImportError as error:
        raise UsageError(INSTALL) from error
    return PIL
