"""Make small published vision models with random weights, by `transformers`, and pictures and videos to read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import LABELS, NETWORKS, VIDEOS, VISION, Vgg
from torch import Tensor

pytest.importorskip("PIL", reason="the extra [image] is not here")

import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForVideoClassification,
    BitImageProcessorPil,
    CLIPImageProcessorPil,
    ConvNextImageProcessorPil,
    DeiTImageProcessorPil,
    SiglipImageProcessorPil,
    VideoMAEImageProcessorPil,
    ViTImageProcessorPil,
)
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from mapsto import zoo
from mapsto.inference.forward import make_questions
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Example
from mapsto.sequence.packing import collate

POOLERS = ("pooler.", "head.")  # weights of bodies that mapsto leaves out


VISION_CLASSES = {
    "image": {"body": AutoModel, "label": AutoModelForImageClassification},
    "video": {"body": AutoModel, "label": AutoModelForVideoClassification},
}


ALL_VISION = {**VISION, **NETWORKS, **VIDEOS}


SIDE = 32


# VideoMAE's loss in transformers expects pixels that are normalised with these values.
NORMAL = {"image_mean": IMAGENET_DEFAULT_MEAN, "image_std": IMAGENET_DEFAULT_STD}


def smooth_pictures(sizes: tuple[tuple[int, int], ...] = ((32, 32), (20, 44), (50, 31))) -> list[Any]:
    """Return smooth images (h, w, 3) of these sizes (h, w). Most have to be resized."""
    rng = np.random.default_rng(0)
    pixels = []
    for h, w in sizes:
        y, x = np.mgrid[:h, :w]
        waves = [np.sin(y * rng.uniform(0.1, 0.9) + x * rng.uniform(0.1, 0.9) + rng.uniform(0, 6)) for _ in range(3)]
        pixels.append(np.clip(127 + 90 * np.stack(waves, -1) + rng.normal(0, 20, (h, w, 3)), 0, 255).astype(np.uint8))
    return pixels


def kind_of(shape: str) -> str:
    """Return the kind of value that a family reads, "image" or "video". shape: key of ALL_VISION."""
    return zoo.get_family(shape.split(":")[0]).source_kind


def sample_values(shape: str) -> list[Any]:
    """Return images, or for families that read videos, videos of several lengths in which an image moves."""
    if kind_of(shape) == "image":
        return smooth_pictures()
    moving = zip(smooth_pictures(), (4, 9, 3), strict=True)
    return [np.stack([np.roll(picture, 3 * shift, axis=1) for shift in range(count)]) for picture, count in moving]


def edit_json(path: Path, **fields: Any) -> None:
    """Set fields in a JSON file. A value of None removes the field."""
    raw = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in raw.items() if value is not None}))


def make_processor(preprocessing: str, side: int) -> Any:
    """Return an image processor of transformers that makes squares of `side` pixels.

    preprocessing: name of the method of resizing and cropping.
    """
    normal = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
    square, larger = {"height": side, "width": side}, {"height": side + 5, "width": side + 5}
    if preprocessing == "middle":
        return BitImageProcessorPil(size={"shortest_edge": side + 5}, crop_size=square, resample=3, **normal)
    if preprocessing == "clip":
        return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square, **normal)
    if preprocessing == "convnext":
        return ConvNextImageProcessorPil(size={"shortest_edge": side}, crop_pct=0.8, **normal)
    if preprocessing == "deit":
        return DeiTImageProcessorPil(size=larger, crop_size=square, **normal)
    if preprocessing == "siglip":
        return SiglipImageProcessorPil(size=square, **normal)
    if preprocessing == "video, middle":
        return VideoMAEImageProcessorPil(size={"shortest_edge": side + 5}, crop_size=square, **NORMAL)
    if preprocessing == "video, squash":
        return VideoMAEImageProcessorPil(size=square, do_center_crop=False, **NORMAL)
    return ViTImageProcessorPil(size=square, resample=2, **normal)


def make_vision_model(shape: str, task: str, folder: Path, preprocessing: str = "squash") -> torch.nn.Module:
    """Make a model of transformers with random weights; save it in `folder` with its image processor and return it.

    shape: key of ALL_VISION. task: "body" or "label". preprocessing: see make_processor.
    """
    kind, settings = shape.split(":")[0], dict(ALL_VISION[shape])
    # A grid of another size than the positions were learned on, for families that interpolate them.
    side = settings.get("image_size", SIDE) - (settings["patch_size"] if kind.startswith("dinov2") else 0)
    labels, tower = {}, zoo.get_family(kind).tower
    if task == "label":
        labels = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
        labels |= {"architectures": [zoo.get_family(kind).architectures[task]]}
    if tower is not None:
        kind, settings = (kind, {tower.config_key: settings}) if task == "label" else (tower.model_type, settings)
    torch.manual_seed(0)
    model: torch.nn.Module
    if kind == "vgg":
        model = Vgg(**settings, **labels)
    else:
        model = VISION_CLASSES[kind_of(shape)][task].from_config(
            AutoConfig.for_model(kind, **settings, **labels), attn_implementation="eager"
        )
    with torch.no_grad():
        for weight in weights_of(model).values():  # variances stay above 0
            weight.add_(torch.randn_like(weight).abs() * 0.05 if weight.min() >= 1 else torch.randn_like(weight) * 0.05)
    model.eval().save_pretrained(folder)
    make_processor(f"video, {preprocessing}" if kind_of(shape) == "video" else preprocessing, side).save_pretrained(
        folder
    )
    return model


def weights_of(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a model and the statistics of its batch norms, by name."""
    weights = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: weight for name, weight in weights.items() if weight.is_floating_point()}


def reference_pixels(folder: Path, values: list[Any]) -> Tensor:
    """Return the pixels (n, c, h, w) or (n, k, c, h, w) that the processor of transformers makes of images or videos."""
    kind = json.loads((folder / "preprocessor_config.json").read_text())["image_processor_type"]
    processor = getattr(transformers, f"{kind}Pil")
    if values[0].ndim == 4:  # the processor does not choose the frames
        count = json.loads((folder / "config.json").read_text())["num_frames"]
        values = [[video[int((i + 0.5) * len(video) / count)] for i in range(count)] for video in values]
    pixels: Tensor = processor.from_pretrained(folder)(values, return_tensors="pt")["pixel_values"]
    return pixels


def pack_values(mapping: Mapping, values: list[Any], answers: list[Any] | None = None) -> Any:
    """Return a batch of values of a mapping's only source, one example each.

    answers: the encoded answers of each example; by default questions, which are answers without a value.
    """
    (source,) = mapping.sources.values()
    pieces = source.encode([source.read(value) for value in values], 0)
    answers = answers or [make_questions(mapping, (piece,)) for piece in pieces]
    return collate([Example((piece,), answers[i], i) for i, piece in enumerate(pieces)])
