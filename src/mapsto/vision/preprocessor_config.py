"""preprocessor_config.json: how the image processors of `transformers` bring pictures to their size, read and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mapsto.vision.patch_embedding import MOST_SIDE
from mapsto.vision.resize import Frame

FIT = "mapsto_fit"


# What prepares pictures so, in `transformers`; and parts of the names of those that take a bare number for the shorter side.
PROCESSORS = {
    "middle": "BitImageProcessor",
    "squash_middle": "DeiTImageProcessor",
    "shorter": "YolosImageProcessor",
}


OF_SHORTER_SIDE = ("CLIP", "Bit", "ConvNext", "VideoMAE")


# The one that keeps the shape of pictures, and the multiples of which their sides are.
KEEPS_SHAPE, WHOLE = "Yolos", 16


# The one that cuts off a share: what it keeps, where nothing is said, and the side from which it squashes.
CUTS_A_SHARE, SHARE, SQUASHED = "ConvNext", 224 / 256, 384


FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by the number that Pillow gives them


def normal_of(said: Mapping[str, Any]) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of the pixels, by channel. Raises KeyError."""
    return (said["image_mean"], said["image_std"]) if said.get("do_normalize", True) else ([0.0] * 3, [1.0] * 3)


def frame_of(said: Mapping[str, Any], patch: int) -> Frame:
    """How a preprocessor_config.json brings pictures to their size. Raises ValueError, KeyError, TypeError."""
    if not said.get("do_resize", True) or abs(float(said.get("rescale_factor", 1 / 255)) * 255 - 1) > 1e-6:
        raise ValueError("only pictures that are resized, with pixels from 0 to 1, are supported")
    how: Any = FILTERS[int(said.get("resample", 2))]
    name = str(said.get("image_processor_type") or said.get("feature_extractor_type") or "")
    if KEEPS_SHAPE in name and (said.get("max_size") or "longest_edge" in said["size"]):
        return _in_shape(said["size"], said.get("max_size"), patch, how)
    size, shorter = _size(said, name)
    if CUTS_A_SHARE in name:
        side = _square(size, patch)
        share = said.get("crop_pct") or SHARE
        return Frame(patch, side, *(("middle", int(side / share)) if side < SQUASHED else ("squash", 0)), how)
    if said.get("do_center_crop"):
        side = _square(said["crop_size"], patch)
        return Frame(patch, side, "middle" if shorter else "squash_middle", size if shorter else _square(size, 1), how)
    if shorter:
        raise ValueError("only square pictures are supported, and the shorter side alone is said")
    return Frame(patch, _square(size, patch), said.get(FIT, "squash"), 0, how)


def _size(said: Mapping[str, Any], name: str) -> tuple[Any, bool]:
    """The size that the processor `name` brings pictures to, and whether it is that of their shorter side alone."""
    size = said["size"]
    if not isinstance(size, int):
        return (int(size["shortest_edge"]), True) if "shortest_edge" in size else (size, False)
    if said.get("do_center_crop") and not name:
        raise ValueError(f"nothing says whether a size of {size} is that of both sides")
    return size, any(part in name for part in OF_SHORTER_SIDE)


def _in_shape(size: Any, longest: Any, patch: int, how: Any) -> Frame:
    """Of a size that says the shorter side and the most of the longer one, in either of the two ways. Raises ValueError."""
    shorter, longest = (size, longest) if isinstance(size, int) else (size["shortest_edge"], size["longest_edge"])
    if patch != WHOLE:
        raise ValueError(f"pictures in their own shape are of whole {WHOLE} pixels, not of patches of {patch}")
    if not patch <= int(shorter) <= int(longest) <= MOST_SIDE * patch:
        raise ValueError(f"pictures from {shorter} to {longest} pixels are not supported")
    return Frame(patch, int(longest), "shorter", int(shorter), how)


def _square(size: Any, patch: int) -> int:
    height, width = (size, size) if isinstance(size, int) else (int(size["height"]), int(size["width"]))
    if height != width or not 0 < height // patch <= MOST_SIDE:
        raise ValueError(f"pictures must be square, of a patch at least and at most {MOST_SIDE} to a side, not {size}")
    return height


def written(frame: Frame, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """The inverse of `frame_of` and `normal_of`."""
    read = {"height": frame.size, "width": frame.size}
    sizes: dict[str, Any] = {"size": read}
    if frame.cuts:
        both = {"height": frame.shorter, "width": frame.shorter}
        size = {"shortest_edge": frame.shorter} if frame.fit == "middle" else both
        sizes = {"size": size, "do_center_crop": True, "crop_size": read}
    if frame.fit == "shorter":
        sizes = {"size": {"shortest_edge": frame.shorter, "longest_edge": frame.size}}
    said = {
        "image_processor_type": PROCESSORS.get(frame.fit, "ViTImageProcessor"),
        "do_resize": True, **sizes, "resample": FILTERS.index(frame.filter), "do_rescale": True,
        "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": mean, "image_std": std,
        "do_convert_rgb": True,
    }  # fmt: skip
    return said | ({FIT: frame.fit} if frame.fit == "inside" else {})
