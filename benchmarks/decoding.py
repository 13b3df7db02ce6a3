"""Measure how fast one core turns JPEG files of 224 × 224 pixels into tokens: decoding, patches, augmentation.

The peer is the image processor of `transformers` that works without torchvision (Pillow). It does not augment. Seconds are
processor time. The pictures are those of BCCD, resized. `python benchmarks/decoding.py`.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import torch
from common import DATA, ratio, record, spread, take_turns
from PIL import Image
from transformers import ViTImageProcessorPil

from mapsto.kinds.image import ImageSource
from mapsto.sequence.corruption import make_generator
from mapsto.vision.resize import Resizer

SIDE, PATCH, COUNT, ROUNDS = 224, 16, 200, 7
NORMAL = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def files() -> list[bytes]:
    """Return the pictures as JPEG files of quality 90."""
    found = []
    for path in sorted((DATA.parent / "image" / "bccd" / "JPEGImages").glob("*.jpg"))[:COUNT]:
        stream = io.BytesIO()
        Image.open(path).resize((SIDE, SIDE)).save(stream, "JPEG", quality=90)
        found.append(stream.getvalue())
    return found


def a_second(work: Callable[[bytes, int], object], pictures: list[bytes]) -> float:
    """Return the pictures per second of processor time. work: called with each picture and its index."""
    began = time.process_time()
    for at, content in enumerate(pictures):
        work(content, at)
    return len(pictures) / (time.process_time() - began)


def main() -> None:
    torch.set_num_threads(1)
    pictures = files()
    source = ImageSource(Resizer(PATCH, SIDE), NORMAL["image_mean"], NORMAL["image_std"])
    read = {content: source.read(content) for content in pictures}
    processor = ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}, **NORMAL)

    def ours(how: str | None) -> Callable[[bytes, int], object]:
        """Return a function that makes tokens of a picture, with the augmentation `how`, or without one if None."""

        def work(content: bytes, at: int) -> object:
            (piece,) = source.encode([read[content]], 0)
            return piece if how is None else source.augment(piece, make_generator(0, at, 0), how)

        return work

    ways = {
        "ours: decoded, patches": ours(None),
        **{f"the same, varied: {how}": ours(how) for how in source.augmentations},
        "transformers: decoded, processed": lambda content, at: processor(
            Image.open(io.BytesIO(content)), return_tensors="pt"
        ),
    }
    found = take_turns({name: lambda work=work: a_second(work, pictures) for name, work in ways.items()}, ROUNDS)
    (*_, peer) = found
    lines = [
        "| JPEGs of 224 × 224 | pictures a second of one core, median (range) | relative to the peer |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {spread(speeds)} | {ratio(speeds, found[peer])} |" for name, speeds in found.items()]
    record("Decoding pictures (benchmarks/decoding.py)", lines)


if __name__ == "__main__":
    main()
