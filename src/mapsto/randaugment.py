"""RandAugment (Cubuk et al. 2020): two operations out of a list, all equally strong.

Shearing and turning are left out. They make of a rectangle none, so that a box could only be drawn about what has become of it,
larger than what it holds. Legend of shapes: h rows, w columns of pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.pictures import Pixels, load_pillow, shifted

AT_ONCE, STRENGTH = 2, 9 / 30  # the paper's N and M for ImageNet; M as a share of the greatest
SHIFTED, FAINTER, LOST_BITS = 0.45, 0.9, 4  # at the greatest strength, as AutoAugment has it (Cubuk et al. 2019)
AXES = 2

Operation = Callable[[Any, float], Any]


def _enhanced(name: str) -> Operation:
    """More or less of a property, as Pillow counts it."""

    def operation(image: Any, strength: float) -> Any:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, name)(image).enhance(1 + FAINTER * strength)

    return operation


OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, strength: image,
    "autocontrast": lambda image, strength: load_pillow().ImageOps.autocontrast(image),
    "equalise": lambda image, strength: load_pillow().ImageOps.equalize(image),
    "solarise": lambda image, strength: load_pillow().ImageOps.solarize(image, round(256 * (1 - abs(strength)))),
    "posterise": lambda image, strength: load_pillow().ImageOps.posterize(image, 8 - round(LOST_BITS * abs(strength))),
    **{name.lower(): _enhanced(name) for name in ("Color", "Contrast", "Brightness", "Sharpness")},
}


def varied(
    pixels: Pixels, rng: np.random.Generator, mirror: bool, recoloured: bool = True
) -> tuple[Pixels, NDArray[np.float64]]:
    """The picture (h, w, 3), with `mirror` as often as not seen in a mirror, after two operations: shifted along an axis, its
    edge drawn out, or, where it may be `recoloured`, one that leaves everything in its place; and where it comes from, as
    `Frame.framed` says it."""
    width, shift = pixels.shape[1], np.zeros(AXES)
    turned = mirror and bool(rng.random() < 0.5)
    found = pixels[:, ::-1] if turned else pixels
    for chosen in rng.integers(0, AXES + recoloured * len(OPERATIONS), AT_ONCE).tolist():
        strength = STRENGTH if rng.random() < 0.5 else -STRENGTH
        if chosen < AXES:
            by = round(SHIFTED * strength * found.shape[chosen])
            found, shift[chosen] = shifted(found, by, chosen), shift[chosen] + by
        else:
            image = load_pillow().Image.fromarray(found)
            found = np.array(list(OPERATIONS.values())[chosen - AXES](image, strength))
    across = [-1.0, width + shift[1]] if turned else [1.0, -shift[1]]
    return found, np.array([[1.0, -shift[0]], across])
