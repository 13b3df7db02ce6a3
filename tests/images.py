"""Make images as files, in folders and in pairs; and small settings to fit on them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import write_photos

pytest.importorskip("PIL", reason="the extra [image] is not here")

from PIL import Image

from mapsto.data.examples import Examples
from mapsto.model.mapping import Mapping
from mapsto.sequence.packing import collate
from mapsto.training.objectives.image_losses import ImageObjective

SMALL_ARGUMENTS = ["--layers", "1", "--width", "64", "--device", "cpu", "--steps", "4"]
SMALL_OPTIONS: dict[str, Any] = {"layers": 2, "width": 64, "device": "cpu", "precision": "fp32"}


def encode_image(image: Any, kind: str = "PNG", **how: Any) -> bytes:
    """Return the bytes of an image file made of a Pillow image. kind: Pillow's name of the format. how: its options."""
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


def two_coloured_image(size: tuple[int, int] = (8, 4)) -> Any:
    """Make an image that is red on the left and blue on the right."""
    image = Image.new("RGB", size, (255, 0, 0))
    image.paste((0, 0, 255), (size[0] // 2, 0, *size))
    return image


def write_photo_folder(folder: Path, count: int = 40, bad: int = 0) -> Path:
    """Write the `count` images of write_photos and `bad` files that cannot be decoded; return the folder."""
    write_photos(folder, count)
    for i in range(bad):
        (folder / "bright" / f"{i:03}-bad.png").write_bytes(
            (b"no picture", b"", encode_image(two_coloured_image((60, 60)))[:-30])[i % 3]
        )
    return folder


def smooth_image(h: int, w: int, seed: int = 0) -> Any:
    """Make an image (h, w, 3) without fine detail, so that resizing changes it little."""
    rough = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    return np.array(Image.fromarray(rough).resize((w, h), Image.Resampling.BICUBIC))


IMAGE_PAIRS = [{"image": smooth_image(16, 16, i), "clean": 255 - smooth_image(16, 16, i)} for i in range(12)]


def check_judged_one_by_one(judge: Any, mapping: Mapping, examples: Examples) -> None:
    """Check that a judge's loss on packed images equals the sum of its losses on the single images.

    judge: a further loss of generated images, such as a perceptual one. The images have two shapes.
    """
    objective = ImageObjective(mapping, [judge], with_pixel_loss=False)
    listed = [examples.example(row, 0, 0.0) for row in range(6)]
    together, alone = dict(objective.losses(mapping.eval(), collate(listed))), 0.0
    counted = objective.counts(collate(listed))
    assert counted[1] == 6 and objective.num_terms(mapping) == 2
    for example in listed:
        alone += sum(float(loss.detach()) for term, loss in objective.losses(mapping, collate([example])) if term == 1)
    by_shape = [float(loss.detach()) for term, loss in objective.losses(mapping, collate(listed)) if term == 1]
    assert len(by_shape) == 2 and sum(by_shape) == pytest.approx(alone, rel=1e-4) and 0 not in together
