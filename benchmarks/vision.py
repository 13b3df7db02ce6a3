"""Compare the speed of fitting and predicting with DINOv2-small at 224 pixels with the Trainer, the pipeline and OpenVINO.

The pictures are photographs of blood cells (JPEG, 640 × 480), labelled with the number of kinds of cells in them. All methods
decode, resize and crop the files. The folder of the starting model is written by benchmarks/dinov2.py (its docstring says where
the weights are from). `python benchmarks/vision.py --start runs/benchmarks/dinov2-small`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from boxes import parts
from common import profiled, ratio, record, seconds, spread, take_turns
from engines import compiled_bf16
from PIL import Image
from transformers import (
    BitImageProcessorPil,
    Dinov2ForImageClassification,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    pipeline,
)

import mapsto
from mapsto.device import keep_memory

BATCH, SIZES = 32, (1, 4, 8, 16, 32)
Way = Callable[[Sequence[str]], list[int]]


def labelled(count: int) -> list[dict[str, str]]:
    """Return the first `count` rows: path of the picture, and number of kinds of cells in it as the label."""
    train, _ = parts()
    cells = zip(train.column("image"), train.column("boxes"), strict=True)
    return [{"image": str(name), "label": str(len({box["label"] for box in boxes}))} for name, boxes in cells][:count]


def opened(paths: Sequence[str]) -> list[Image.Image]:
    """Return the decoded pictures of these files."""
    return [Image.open(path).convert("RGB") for path in paths]


class Files(torch.utils.data.Dataset[dict[str, Any]]):
    """Data set for the Trainer, which decodes and prepares each file when the row is read.

    start: folder of the model, with its image processor.
    """

    def __init__(self, rows: Sequence[dict[str, str]], start: Path, classes: Sequence[str]) -> None:
        self.rows, self.classes = rows, classes
        self.processor = BitImageProcessorPil.from_pretrained(start)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: int) -> dict[str, Any]:
        (values,) = self.processor(opened([self.rows[at]["image"]]), return_tensors="pt")["pixel_values"]
        return {"pixel_values": values, "labels": self.classes.index(self.rows[at]["label"])}


def trainer(start: Path, rows: Sequence[dict[str, str]], **more: Any) -> float:
    """Return the pictures per second of one epoch of the Trainer, in batches as large as ours.

    more: further TrainingArguments.
    """
    classes = sorted({row["label"] for row in rows})
    model = Dinov2ForImageClassification.from_pretrained(start, num_labels=len(classes))
    arguments = TrainingArguments(
        tempfile.mkdtemp(), num_train_epochs=1, per_device_train_batch_size=BATCH, save_strategy="no", report_to=[],
        disable_tqdm=True, logging_strategy="no", use_cpu=True, **more,
    )  # fmt: skip
    run = Trainer(model, arguments, train_dataset=Files(rows, start, classes))
    return len(rows) / seconds(run.train)


def ours(start: Path, rows: list[dict[str, str]]) -> float:
    """Return the pictures per second of one epoch of `mapsto.fit` on all weights, over the time of the whole fit."""
    options = {"method": "full", "epochs": 1, "batch": BATCH, "hold_out": 0}
    return len(rows) / seconds(lambda: mapsto.fit("image -> label", rows, start=start, **options))


def openvino_bf16(model: PreTrainedModel, processor: BitImageProcessorPil, size: int) -> Way:
    """Return a function that classifies files with OpenVINO in bf16, in batches of `size`."""
    compiled = compiled_bf16(model, {"pixel_values": torch.zeros(2, 3, 224, 224)})

    def answer(paths: Sequence[str]) -> list[int]:
        found = []
        for at in range(0, len(paths), size):
            values = processor(opened(paths[at : at + size]), return_tensors="np")["pixel_values"]
            found.append(compiled({"pixel_values": np.asarray(values)})[0])
        return np.concatenate(found).argmax(-1).tolist()

    return answer


def every_way(folder: Path, sample: Sequence[str]) -> dict[str, Way]:
    """Return the methods by name: functions from files to class numbers, all with the classifier in `folder`.

    The batch sizes of the tuned peers are those that are fastest on the sample.
    """
    model, processor = mapsto.load(folder), BitImageProcessorPil.from_pretrained(folder)
    plain = Dinov2ForImageClassification.from_pretrained(folder).eval()
    rough = Dinov2ForImageClassification.from_pretrained(folder, dtype=torch.bfloat16).eval()
    piped = [pipeline("image-classification", model=one, image_processor=processor) for one in (plain, rough)]

    def classes(answers: Sequence[Any]) -> list[int]:
        tops = [answer[0] if isinstance(answer, list) else answer for answer in answers]
        return [plain.config.label2id[top["label"]] for top in tops]

    def tuned(size: int) -> Way:
        return lambda paths: classes(piped[1](list(paths), batch_size=size))

    def best(make: Callable[[int], Way]) -> Way:
        """Return the fastest of the functions that `make` returns for the batch sizes SIZES."""
        ways = {size: make(size) for size in SIZES}
        for way in ways.values():
            way(sample)
        return min(ways.values(), key=lambda way: seconds(lambda: way(sample)))

    return {
        "ours": lambda paths: classes(model.predict(list(paths))),
        "pipeline, defaults": lambda paths: classes(piped[0](list(paths))),
        "pipeline, bf16, best batch size": best(tuned),
        "OpenVINO, bf16, best batch size": best(partial(openvino_bf16, plain, processor)),
    }


def table(found: dict[str, list[float]], head: str, more: dict[str, str]) -> list[str]:
    """Return the lines of a table of pictures per second.

    found: results of each method, one a round. head: title of the first column. more: cells of a further column, if any.
    """
    return [
        f"| {head} | pictures a second, median (range) | ours is × faster |{' same answer as in fp32, % |' if more else ''}",
        f"|---|---|---|{'---|' if more else ''}",
        *(
            f"| {name} | {spread(values, 1)} | {ratio(found['ours'], values)} |{f' {more[name]} |' if more else ''}"
            for name, values in found.items()
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=Path, required=True)
    parser.add_argument("--fitted", type=int, default=128, help="pictures of a fit")
    parser.add_argument("--asked", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    keep_memory()  # as the command line does; the reference gains by it as well
    rows = labelled(given.fitted)
    fits = {
        "ours": lambda: ours(given.start, rows),
        "Trainer, defaults": lambda: trainer(given.start, rows),
        "Trainer, bf16": lambda: trainer(given.start, rows, bf16=True),
    }
    lines = table(take_turns(fits, given.rounds), f"fitting, all weights, batches of {BATCH}", {})
    folder = Path(tempfile.mkdtemp()) / "clf"
    mapsto.fit("image -> label", rows, folder, start=given.start, method="probe")
    paths = [row["image"] for row in labelled(given.asked)]
    ways = every_way(folder, paths[:BATCH])
    answers = {name: np.array(way(paths)) for name, way in ways.items()}
    plain = answers["pipeline, defaults"]
    same = {name: f"{100 * np.mean(said == plain):.1f}" for name, said in answers.items()}
    turns = {name: lambda way=way: len(paths) / seconds(lambda: way(paths)) for name, way in ways.items()}
    lines += ["", *table(take_turns(turns, given.rounds), f"predicting {len(paths)} files", same)]
    lines += ["", f"Predicting {BATCH} files. {profiled(partial(ways['ours'], paths[:BATCH]))}"]
    record("DINOv2-small at 224 pixels (benchmarks/vision.py)", lines)


if __name__ == "__main__":
    main()
