"""How pictures are varied while they are learnt from: moved, cropped in other colours, or by RandAugment (Cubuk et al. 2020), two
operations out of a list, all equally strong.

Each way says where its picture comes from, as `Frame.framed` does: by a scale and a shift along each axis. Sheared and turned
is only what nothing lies in: these make of a rectangle none, so that a box could only be drawn about what has become of it,
larger than what it holds. Legend of shapes: h rows, w columns of pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.vision.pixels import GREY, Pixels, load_pillow
from mapsto.vision.resize import seen

MOVED, BRIGHTER = 1 / 8, 0.2


SMALLEST_PART, MOST_DRAWN = 0.2, 4 / 3  # of a random crop: share of the picture, and one side against the other


COLOURED, TURNED_HUE, GREYED = 0.4, 0.1, 0.2  # most change of light and the like, of the circle of hues; how often grey


AT_ONCE, STRENGTH = 2, 9 / 30  # the paper's N and M for ImageNet; M as a share of the greatest


# At the greatest strength, as AutoAugment has it (Cubuk et al. 2019).
SHIFTED, FAINTER, LOST_BITS, SHEARED, TURNED = 0.45, 0.9, 4, 0.3, np.radians(30)


AXES = 2


def varied(
    pixels: Pixels, rng: np.random.Generator, how: str, mirror: bool, recolour: bool, bends: bool
) -> tuple[Pixels, NDArray[np.float64]]:
    """The picture (h, w, 3) in the way `how`, and where it comes from. mirror: whether it may be seen in a mirror. recolour:
    whether in other colours. bends: whether it may come from where no scale and shift brings it."""
    if how == "crop":
        return cropped(pixels, rng, mirror, recolour)
    if how == "rand":
        return operated(pixels, rng, mirror, recolour, bends)
    return moved(pixels, rng, mirror and how == "mirror", recolour)


def moved(pixels: Pixels, rng: np.random.Generator, mirror: bool, relit: bool) -> tuple[Pixels, NDArray[np.float64]]:
    """The picture shifted by up to an eighth of its sides, its edge drawn out, where it may be `relit` a little brighter or
    darker, and with `mirror` as often as not seen in a mirror."""
    h, w = pixels.shape[:2]
    most = (max(1, round(h * MOVED)), max(1, round(w * MOVED)))
    shift = int(rng.integers(-most[0], most[0] + 1)), int(rng.integers(-most[1], most[1] + 1))
    turned = mirror and bool(rng.random() < 0.5)
    light = 1 + BRIGHTER * (2 * rng.random() - 1)
    found = shifted(shifted(pixels[:, ::-1] if turned else pixels, shift[0], 0), shift[1], 1)
    across = [-1.0, w + shift[1]] if turned else [1.0, -shift[1]]
    lit = np.clip(np.arange(256) * light, 0, 255).astype(np.uint8)
    return lit.take(found) if relit else found, np.array([[1.0, -shift[0]], across])


def cropped(
    pixels: Pixels, rng: np.random.Generator, mirror: bool, recoloured: bool
) -> tuple[Pixels, NDArray[np.float64]]:
    """A part of the picture at random, brought to the size of the whole, where it may be `recoloured` in other colours, with
    `mirror` as often as not seen in a mirror (SimCLR, Chen et al. 2020, without its blur, as it does for small pictures)."""
    size = np.array(pixels.shape[:2])
    share, drawn = rng.uniform(SMALLEST_PART, 1), MOST_DRAWN ** rng.uniform(-0.5, 0.5)
    part = size * np.minimum(1, np.sqrt(share) * np.array([drawn, 1 / drawn]))
    corner = rng.random(2) * (size - part)
    crop = seen(pixels, np.stack([corner, corner + part], axis=1), (len(pixels), pixels.shape[1]))
    origin = np.stack([part / size, corner], axis=1)
    if mirror and rng.random() < 0.5:
        crop, origin[1] = crop[:, ::-1], (-origin[1, 0], corner[1] + part[1])
    return _recoloured(crop, rng) if recoloured else crop, origin


def _recoloured(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """In another light, contrast, saturation and hue, now and then grey."""
    image = load_pillow().Image.fromarray(pixels)
    light, contrast, depth = 1 + COLOURED * rng.uniform(-1, 1, 3)
    angle = 2 * np.pi * TURNED_HUE * rng.uniform(-1, 1)
    depth = 0.0 if rng.random() < GREYED else depth
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    turned = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) * cross  # about the axis of greys
    colours = depth * turned + (1 - depth) * GREY
    mean = GREY @ colours @ np.asarray(image.resize((1, 1), load_pillow().Image.Resampling.BOX))[0, 0]
    added = np.full((3, 1), light * (1 - contrast) * mean)
    matrix = np.concatenate([light * contrast * colours, added], axis=1)
    return np.array(image.convert("RGB", matrix.ravel().tolist()))


def shifted(pixels: Pixels, by: int, axis: int) -> Pixels:
    """Moved by so many pixels along an axis, the edge drawn out."""
    n, edge = pixels.shape[axis], 0 if by > 0 else -1
    kept = pixels.take(range(max(0, -by), n - max(0, by)), axis)
    drawn = np.repeat(pixels.take([edge], axis), abs(by), axis)
    return np.concatenate([drawn, kept] if by > 0 else [kept, drawn], axis)


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


def _bent(image: Any, matrix: Sequence[Sequence[float]]) -> Any:
    """A picture whose pixel (x, y) off the middle shows what stood at matrix @ (x, y), its edge drawn out."""
    pixels, middle = np.asarray(image), np.array([image.width, image.height]) / 2
    beyond = np.ceil(np.abs(np.array(matrix) - np.eye(2)) @ middle).astype(int).max()
    wide = load_pillow().Image.fromarray(np.pad(pixels, ((beyond, beyond), (beyond, beyond), (0, 0)), mode="edge"))
    corner = middle + beyond - np.array(matrix) @ middle
    told = [value for row, start in zip(matrix, corner, strict=True) for value in (*row, start)]
    return wide.transform(
        image.size, load_pillow().Image.Transform.AFFINE, told, load_pillow().Image.Resampling.BILINEAR
    )


def _turned(image: Any, angle: float) -> Any:
    along, across = np.cos(angle), np.sin(angle)
    return _bent(image, [[along, -across], [across, along]])


BENDINGS: dict[str, Operation] = {
    "shear along x": lambda image, strength: _bent(image, [[1, SHEARED * strength], [0, 1]]),
    "shear along y": lambda image, strength: _bent(image, [[1, 0], [SHEARED * strength, 1]]),
    "turn": lambda image, strength: _turned(image, TURNED * strength),
}


def operated(
    pixels: Pixels, rng: np.random.Generator, mirror: bool, recoloured: bool, bends: bool
) -> tuple[Pixels, NDArray[np.float64]]:
    """The picture (h, w, 3), with `mirror` as often as not seen in a mirror, after two operations: shifted along an axis, its
    edge drawn out; where it may be `recoloured`, one that leaves everything in its place; with `bends`, sheared or turned,
    which where it comes from does not tell."""
    width, shift = pixels.shape[1], np.zeros(AXES)
    turned = mirror and bool(rng.random() < 0.5)
    found = pixels[:, ::-1] if turned else pixels
    others = [*(OPERATIONS.values() if recoloured else ()), *(BENDINGS.values() if bends else ())]
    for chosen in rng.integers(0, AXES + len(others), AT_ONCE).tolist():
        strength = STRENGTH if rng.random() < 0.5 else -STRENGTH
        if chosen < AXES:
            by = round(SHIFTED * strength * found.shape[chosen])
            found, shift[chosen] = shifted(found, by, chosen), shift[chosen] + by
        else:
            image = load_pillow().Image.fromarray(found)
            found = np.array(others[chosen - AXES](image, strength))
    across = [-1.0, width + shift[1]] if turned else [1.0, -shift[1]]
    return found, np.array([[1.0, -shift[0]], across])
