"""Conversion between preprocessor_config.json of `transformers`' image processors and our resizing and normalisation.

A size that is a bare number is the shorter side for some processors and both sides for others, so the processor's name
decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mapsto.vision.patch_embedding import MAX_GRID_SIDE
from mapsto.vision.resize import Resizer

# Our own entry, for Resizer.fit "inside", which no processor of `transformers` has.
FIT = "mapsto_fit"

# The processor of `transformers` that resizes by each of these methods (Resizer.fit).
PROCESSORS = {
    "middle": "BitImageProcessor",
    "squash_middle": "DeiTImageProcessor",
    "shorter": "YolosImageProcessor",
}

# Parts of the names of processors that take a bare number as the size of the shorter side.
SHORTER_SIDE_PROCESSORS = ("CLIP", "Bit", "ConvNext", "VideoMAE")

# The processor that keeps the aspect ratio of images, and the number of which their sides then are multiples.
SHAPE_KEEPING_PROCESSOR, SIDE_MULTIPLE = "Yolos", 16

# The processor that crops to a share of the resized side; its default share; the side from which on it squashes.
SHARE_CROPPING_PROCESSOR, DEFAULT_CROP_SHARE, MIN_SQUASHED_SIDE = "ConvNext", 224 / 256, 384

# Resampling filters, by the numbers that Pillow gives them.
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")


def read_normalisation(config: Mapping[str, Any]) -> tuple[Sequence[float], Sequence[float]]:
    """Return the mean and the standard deviation by which pixels are normalised, by channel; 0 and 1 if they are not normalised.

    config: the content of preprocessor_config.json. Raises KeyError if it demands normalisation but states no mean or deviation.
    """
    if config.get("do_normalize", True):
        return config["image_mean"], config["image_std"]
    return [0.0] * 3, [1.0] * 3


def read_resizer(config: Mapping[str, Any], patch: int) -> Resizer:
    """Return the resizer that preprocessor_config.json describes.

    config: the file's content. patch: side of the model's patches in pixels.
    Raises ValueError, KeyError or TypeError if the file is damaged or describes a way of resizing that is not supported.
    """
    if not config.get("do_resize", True) or abs(float(config.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-6:
        raise ValueError("only pictures that are resized, with pixels from 0 to 1, are supported")
    resampling: Any = FILTERS[int(config.get("resample", 2))]
    name = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    if SHAPE_KEEPING_PROCESSOR in name and (config.get("max_size") or "longest_edge" in config["size"]):
        return _shape_keeping(config["size"], config.get("max_size"), patch, resampling)
    size, is_shorter_side = _size(config, name)
    if SHARE_CROPPING_PROCESSOR in name:
        side = _square(size, patch)
        share = config.get("crop_pct") or DEFAULT_CROP_SHARE
        if side < MIN_SQUASHED_SIDE:
            return Resizer(patch, side, "middle", int(side / share), resampling)
        return Resizer(patch, side, "squash", 0, resampling)
    if config.get("do_center_crop"):
        side = _square(config["crop_size"], patch)
        if is_shorter_side:
            return Resizer(patch, side, "middle", size, resampling)
        return Resizer(patch, side, "squash_middle", _square(size, 1), resampling)
    if is_shorter_side:
        raise ValueError("only square pictures are supported, and the shorter side alone is said")
    return Resizer(patch, _square(size, patch), config.get(FIT, "squash"), 0, resampling)


def _size(config: Mapping[str, Any], name: str) -> tuple[Any, bool]:
    """Return the size to which a processor resizes, and whether it is the length of the image's shorter side.

    Otherwise the size holds for height and width: it is a number, or a dict of both. name: class name of the processor.
    Raises ValueError if neither config nor name tells which of the two a number means.
    """
    size = config["size"]
    if not isinstance(size, int):
        return (int(size["shortest_edge"]), True) if "shortest_edge" in size else (size, False)
    if config.get("do_center_crop") and not name:
        raise ValueError(f"nothing says whether a size of {size} is that of both sides")
    return size, any(part in name for part in SHORTER_SIDE_PROCESSORS)


def _shape_keeping(size: Any, longest: Any, patch: int, resampling: Any) -> Resizer:
    """Return the resizer that keeps the aspect ratio and sets the length of the shorter side, with a limit of the longer (YOLOS).

    size, longest: this length and this limit in pixels; or `size` is a dict of both, and `longest` is ignored.
    Raises ValueError if the patch side is not 16, or if the lengths are not between one patch and MAX_GRID_SIDE patches.
    """
    shorter, longest = (size, longest) if isinstance(size, int) else (size["shortest_edge"], size["longest_edge"])
    if patch != SIDE_MULTIPLE:
        raise ValueError(f"pictures in their own shape are of whole {SIDE_MULTIPLE} pixels, not of patches of {patch}")
    if not patch <= int(shorter) <= int(longest) <= MAX_GRID_SIDE * patch:
        raise ValueError(f"pictures from {shorter} to {longest} pixels are not supported")
    return Resizer(patch, int(longest), "shorter", int(shorter), resampling)


def _square(size: Any, patch: int) -> int:
    """Return the height, equal to the width, of a square size, which is a number or a dict with height and width, in pixels.

    patch: height and width of a patch. Raises ValueError if the size is not square, or not from 1 to MAX_GRID_SIDE patches.
    """
    height, width = (size, size) if isinstance(size, int) else (int(size["height"]), int(size["width"]))
    if height != width or not 0 < height // patch <= MAX_GRID_SIDE:
        raise ValueError(
            f"pictures must be square, of a patch at least and at most {MAX_GRID_SIDE} to a side, not {size}"
        )
    return height


def to_config(resizer: Resizer, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """Return the content of preprocessor_config.json for a resizer and a normalisation.

    It is the inverse of `read_resizer` and `read_normalisation`. mean, std: of pixels by channel, on the scale from 0 to 1.
    """
    full = {"height": resizer.size, "width": resizer.size}
    sizes: dict[str, Any] = {"size": full}
    if resizer.crops:
        before_crop = {"height": resizer.shorter, "width": resizer.shorter}
        size = {"shortest_edge": resizer.shorter} if resizer.fit == "middle" else before_crop
        sizes = {"size": size, "do_center_crop": True, "crop_size": full}
    if resizer.fit == "shorter":
        sizes = {"size": {"shortest_edge": resizer.shorter, "longest_edge": resizer.size}}
    config = {
        "image_processor_type": PROCESSORS.get(resizer.fit, "ViTImageProcessor"),
        "do_resize": True, **sizes, "resample": FILTERS.index(resizer.filter), "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": mean, "image_std": std,
        "do_convert_rgb": True,
    }  # fmt: skip
    return config | ({FIT: resizer.fit} if resizer.fit == "inside" else {})
