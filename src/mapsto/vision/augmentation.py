"""Random augmentation of training images: shifts, random crops with colour jitter, or RandAugment (Cubuk et al. 2020).

Each function returns the new image, in the same size, and its origin: a scale and a shift along y and x, (2, 2), with old
coordinate = scale · new coordinate + shift. The origin serves to move boxes along with the image. Shears and rotations have
no such origin, so they are used only if no answer is a place in the image.
Legend of shapes: h rows, w columns of pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.vision.pixels import GREY_WEIGHTS, Pixels, load_pillow
from mapsto.vision.resize import resample_box

# Method "move": the largest shift as a share of a side, and the largest change of brightness.
MAX_SHIFT, MAX_BRIGHTNESS = 1 / 8, 0.2

# Method "crop": the smallest share of the area, and the largest change of the aspect ratio.
MIN_AREA, MAX_ASPECT = 0.2, 4 / 3

# Method "crop": the largest change of brightness, contrast and saturation; of the hue (turns); the probability of grey.
MAX_JITTER, MAX_HUE, GREY_PROBABILITY = 0.4, 0.1, 0.2

# RandAugment's N (operations) and M (strength, as a share of its maximum), as published for ImageNet.
NUM_OPERATIONS, STRENGTH = 2, 9 / 30

# RandAugment's changes at full strength, from AutoAugment (Cubuk et al. 2019): shift as a share of the side, change of a
# property as a share of it, bits that posterising removes, shear factor, and rotation in radians.
SHIFT, ENHANCEMENT, POSTERISED_BITS, SHEAR, ROTATION = 0.45, 0.9, 4, 0.3, np.radians(30)

# Axes along which RandAugment can shift.
NUM_AXES = 2

# A function from a Pillow image and a strength from −1 to 1 to another Pillow image.
Operation = Callable[[Any, float], Any]


def augment_image(
    pixels: Pixels, rng: np.random.Generator, method: str, mirror: bool, recolour: bool, warp: bool
) -> tuple[Pixels, NDArray[np.float64]]:
    """Return a randomly changed copy of an image (h, w, 3), in the same size, and its origin (2, 2).

    The origin is the scale and shift along y and x from pixel coordinates of the copy to those of the image.
    method: "move" (shift), "mirror" (mirror and shift), "crop" (random crop) or "rand" (RandAugment).
    mirror: whether the image may be mirrored left to right; "move" never does. recolour: whether its colours may change.
    warp: whether "rand" may shear and rotate the image, which the origin does not express.
    """
    if method == "crop":
        return random_crop(pixels, rng, mirror, recolour)
    if method == "rand":
        return rand_augment(pixels, rng, mirror, recolour, warp)
    return move(pixels, rng, mirror and method == "mirror", recolour)


def move(pixels: Pixels, rng: np.random.Generator, mirror: bool, relight: bool) -> tuple[Pixels, NDArray[np.float64]]:
    """Return the image (h, w, 3) shifted at random by up to an eighth of its height and width, in the same size, and its origin.

    Edge pixels are repeated in the gap. The origin, (2, 2), is the scale and shift along y and x from pixel coordinates of the
    result to those of `pixels`. mirror: whether to mirror the image before, with probability 1/2.
    relight: whether to multiply its brightness by a random factor from 0.8 to 1.2.
    """
    h, w = pixels.shape[:2]
    limits = (max(1, round(h * MAX_SHIFT)), max(1, round(w * MAX_SHIFT)))
    shift = int(rng.integers(-limits[0], limits[0] + 1)), int(rng.integers(-limits[1], limits[1] + 1))
    mirrored = mirror and bool(rng.random() < 0.5)
    brightness = 1 + MAX_BRIGHTNESS * (2 * rng.random() - 1)
    shifted = shift_pixels(shift_pixels(pixels[:, ::-1] if mirrored else pixels, shift[0], 0), shift[1], 1)
    # Columns of a mirrored image count down from its right edge.
    x_origin = [-1.0, w + shift[1]] if mirrored else [1.0, -shift[1]]
    # A table of the 256 byte values is far cheaper than arithmetic on every pixel.
    curve = np.clip(np.arange(256) * brightness, 0, 255).astype(np.uint8)
    return curve.take(shifted) if relight else shifted, np.array([[1.0, -shift[0]], x_origin])


def random_crop(
    pixels: Pixels, rng: np.random.Generator, mirror: bool, recolour: bool
) -> tuple[Pixels, NDArray[np.float64]]:
    """Return a random crop of the image, enlarged to the image's size (h, w, 3), and its origin (2, 2).

    The crop covers 20 to 100 % of the area; the method is SimCLR's (Chen et al. 2020) without blur. The origin is the scale
    and shift along y and x from pixel coordinates of the result to those of `pixels`.
    mirror: whether to mirror the crop with probability 1/2. recolour: whether to change its colours at random.
    """
    size = np.array(pixels.shape[:2])
    # The aspect ratio is drawn on a log scale, so that wide and tall crops are equally likely.
    area, aspect = rng.uniform(MIN_AREA, 1), MAX_ASPECT ** rng.uniform(-0.5, 0.5)
    part = size * np.minimum(1, np.sqrt(area) * np.array([aspect, 1 / aspect]))
    corner = rng.random(2) * (size - part)
    crop = resample_box(pixels, np.stack([corner, corner + part], axis=1), (len(pixels), pixels.shape[1]))
    origin = np.stack([part / size, corner], axis=1)
    # A mirrored crop starts at its right edge and runs to the left: scale −1.
    if mirror and rng.random() < 0.5:
        crop, origin[1] = crop[:, ::-1], (-origin[1, 0], corner[1] + part[1])
    return _jitter_colours(crop, rng) if recolour else crop, origin


def _jitter_colours(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Return the image with random brightness, contrast, saturation and hue; without colour with probability 0.2.

    All changes together are one linear map of (red, green, blue, 1).
    """
    image = load_pillow().Image.fromarray(pixels)
    brightness, contrast, saturation = 1 + MAX_JITTER * rng.uniform(-1, 1, 3)
    angle = 2 * np.pi * MAX_HUE * rng.uniform(-1, 1)
    # Grey crops keep the model from telling objects by colour alone.
    saturation = 0.0 if rng.random() < GREY_PROBABILITY else saturation
    # Hues turn around the axis of greys (Rodrigues' formula).
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    rotation = np.cos(angle) * np.eye(3) + (1 - np.cos(angle)) / 3 + np.sin(angle) * cross
    colours = saturation * rotation + (1 - saturation) * GREY_WEIGHTS
    # Contrast is the distance from the mean grey; the 1 × 1 resize computes that mean fast.
    mean = GREY_WEIGHTS @ colours @ np.asarray(image.resize((1, 1), load_pillow().Image.Resampling.BOX))[0, 0]
    offset = np.full((3, 1), brightness * (1 - contrast) * mean)
    matrix = np.concatenate([brightness * contrast * colours, offset], axis=1)
    return np.array(image.convert("RGB", matrix.ravel().tolist()))


def shift_pixels(pixels: Pixels, distance: int, axis: int) -> Pixels:
    """Return the image (h, w, 3) shifted by `distance` pixels, in the same size, with edge pixels repeated in the gap.

    axis: 0 to shift along y, 1 along x. A positive distance shifts down or to the right.
    """
    # The gap opens behind the image, at the edge from which it moves away.
    n, edge = pixels.shape[axis], 0 if distance > 0 else -1
    inner = pixels.take(range(max(0, -distance), n - max(0, distance)), axis)
    border = np.repeat(pixels.take([edge], axis), abs(distance), axis)
    return np.concatenate([border, inner] if distance > 0 else [inner, border], axis)


def _enhancement(name: str) -> Operation:
    """Return a function from a Pillow image and a strength (−1 to 1) to the image with one property, such as contrast, changed.

    name: class of Pillow's ImageEnhance that changes the property: Color, Contrast, Brightness or Sharpness.
    """

    def operation(image: Any, strength: float) -> Any:
        from PIL import ImageEnhance

        return getattr(ImageEnhance, name)(image).enhance(1 + ENHANCEMENT * strength)

    return operation


# Operations that move no pixel, so that the origin stays as it is.
OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, strength: image,
    "autocontrast": lambda image, strength: load_pillow().ImageOps.autocontrast(image),
    "equalise": lambda image, strength: load_pillow().ImageOps.equalize(image),
    "solarise": lambda image, strength: load_pillow().ImageOps.solarize(image, round(256 * (1 - abs(strength)))),
    "posterise": lambda image, strength: load_pillow().ImageOps.posterize(
        image, 8 - round(POSTERISED_BITS * abs(strength))
    ),
    **{name.lower(): _enhancement(name) for name in ("Color", "Contrast", "Brightness", "Sharpness")},
}


def _warp(image: Any, matrix: Sequence[Sequence[float]]) -> Any:
    """Return the Pillow image mapped linearly about its centre, in the same size, with edge pixels repeated in the gaps.

    matrix: (2, 2), from (x, y) in the result to (x, y) in `image`, both measured from the centre.
    """
    pixels, centre = np.asarray(image), np.array([image.width, image.height]) / 2
    # Pad by the farthest that a corner moves, so that no pixel outside the image is black.
    beyond = np.ceil(np.abs(np.array(matrix) - np.eye(2)) @ centre).astype(int).max()
    padded = load_pillow().Image.fromarray(np.pad(pixels, ((beyond, beyond), (beyond, beyond), (0, 0)), mode="edge"))
    corner = centre + beyond - np.array(matrix) @ centre
    coefficients = [value for row, start in zip(matrix, corner, strict=True) for value in (*row, start)]
    return padded.transform(
        image.size, load_pillow().Image.Transform.AFFINE, coefficients, load_pillow().Image.Resampling.BILINEAR
    )


def _rotate(image: Any, angle: float) -> Any:
    """Return the Pillow image rotated about its centre, in the same size, with edge pixels repeated outside.

    angle: radians, counter-clockwise.
    """
    cosine, sine = np.cos(angle), np.sin(angle)
    return _warp(image, [[cosine, -sine], [sine, cosine]])


# Operations that do not map rectangles to rectangles, so that boxes cannot follow them.
WARPS: dict[str, Operation] = {
    "shear along x": lambda image, strength: _warp(image, [[1, SHEAR * strength], [0, 1]]),
    "shear along y": lambda image, strength: _warp(image, [[1, 0], [SHEAR * strength, 1]]),
    "turn": lambda image, strength: _rotate(image, ROTATION * strength),
}


def rand_augment(
    pixels: Pixels, rng: np.random.Generator, mirror: bool, recolour: bool, warp: bool
) -> tuple[Pixels, NDArray[np.float64]]:
    """Return the image (h, w, 3) after two random operations (RandAugment), in the same size, and its origin (2, 2).

    Operations are shifts along y or x, changes of colour if `recolour`, and shears and rotations if `warp`. Each has 0.3 of its
    maximum strength, with a random sign. The origin is the scale and shift along y and x from pixel coordinates of the result to
    those of `pixels`; it leaves shears and rotations out.
    mirror: whether to mirror the image before, with probability 1/2.
    """
    width, shift = pixels.shape[1], np.zeros(NUM_AXES)
    mirrored = mirror and bool(rng.random() < 0.5)
    image = pixels[:, ::-1] if mirrored else pixels
    operations = [*(OPERATIONS.values() if recolour else ()), *(WARPS.values() if warp else ())]
    for number in rng.integers(0, NUM_AXES + len(operations), NUM_OPERATIONS).tolist():
        strength = STRENGTH if rng.random() < 0.5 else -STRENGTH
        if number < NUM_AXES:
            distance = round(SHIFT * strength * image.shape[number])
            image, shift[number] = shift_pixels(image, distance, number), shift[number] + distance
        else:
            operation = operations[number - NUM_AXES]
            image = np.array(operation(load_pillow().Image.fromarray(image), strength))
    # Only shifts and mirroring count: warps are used where nothing needs the origin.
    x_origin = [-1.0, width + shift[1]] if mirrored else [1.0, -shift[1]]
    return image, np.array([[1.0, -shift[0]], x_origin])
