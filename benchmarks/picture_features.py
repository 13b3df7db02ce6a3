"""Features of pictures for linear models: edges (HOG) and colours of cells beside histograms of 4 × 4 parts; and the default.

Logistic regression with a cross-validated penalty, over draws of the labels; then fits with nothing set, which measure the
linear model beside a Transformer. Digits of scikit-learn (8 × 8, also enlarged to 28 × 28) and CIFAR-10.
`python benchmarks/picture_features.py --help`.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from common import DATA, Kept, record
from numpy.typing import NDArray
from PIL import Image

import mapsto
from mapsto.demo.data import digits
from mapsto.device import keep_memory
from mapsto.model.linear_probe import fit_logistic_regression
from mapsto.vision.features import CELLS_PER_BLOCK, COLOUR_NORM, NUM_DIRECTIONS, cell_features
from mapsto.vision.pixels import GREY_WEIGHTS, Pixels

Row = dict[str, Any]
Extract = Callable[[Sequence[Pixels]], NDArray[np.float32]]

NUM_EDGES = CELLS_PER_BLOCK**2 * NUM_DIRECTIONS


def cifar(part: str) -> list[Row]:
    """Return the rows of CIFAR-10's part, "train" or "test"."""
    rows = pq.read_table(DATA.parent / "image" / "cifar10" / f"{part}.parquet").to_pylist()
    return [
        {"image": np.array(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")), "label": str(row["label"])}
        for row in rows
    ]


def read_tasks() -> dict[str, tuple[list[Row], list[Row]]]:
    """Return the training and test rows of each task."""
    rows = digits()
    rows = [rows[row] for row in np.random.default_rng(0).permutation(len(rows))]
    enlarged = [
        {**row, "image": np.array(Image.fromarray(row["image"]).resize((28, 28), Image.Resampling.BICUBIC))}
        for row in rows
    ]
    return {
        "digits, 8 × 8": (rows[600:], rows[:600]),
        "digits, 28 × 28": (enlarged[600:], enlarged[:600]),
        "CIFAR-10": (cifar("train"), cifar("test")[:1000]),
    }


def part_histograms(images: Sequence[Pixels]) -> NDArray[np.float32]:
    """Return square roots of the histograms of 64 colours and 8 edge directions in 4 × 4 parts, each kind of unit norm.

    They were the features of the baseline before.
    """
    return np.stack([np.concatenate(_histograms_of_parts(pixels)) for pixels in images])


def _histograms_of_parts(pixels: Pixels) -> list[NDArray[np.float32]]:
    colours = (pixels // 64).astype(np.int64) @ np.array([16, 4, 1])
    y, x = np.gradient(pixels.astype(np.float32) @ GREY_WEIGHTS)
    directions = ((np.arctan2(y, x) % np.pi) / np.pi * 8).astype(np.int64) % 8
    found = []
    for bins, weights, size in ((colours, np.ones(colours.shape), 64), (directions, np.hypot(y, x), 8)):
        parts = zip(_parts(bins), _parts(weights), strict=True)
        values = np.sqrt(np.concatenate([np.bincount(b.ravel(), w.ravel(), size) for b, w in parts]))
        found.append((values / (np.linalg.norm(values) or 1)).astype(np.float32))
    return found


def _parts(values: NDArray[Any]) -> list[NDArray[Any]]:
    return [part for row in np.array_split(values, 4, 0) for part in np.array_split(row, 4, 1)]


def cells_with(colour_norm: float) -> Extract:
    """Return the function from images to features of cells, their colours with this norm beside edges of unit norm."""

    def extract(images: Sequence[Pixels]) -> NDArray[np.float32]:
        cells = cell_features(images)
        cells[:, :, NUM_EDGES:] *= colour_norm / COLOUR_NORM
        return cells.reshape(len(images), -1)

    return extract


FEATURES: dict[str, Extract] = {
    "histograms of 4 × 4 parts": part_histograms,
    "HOG": cells_with(0.0),
    **{f"HOG and colours, norm {norm}": cells_with(norm) for norm in (0.5, 0.7, 1.0)},
}


def linear_accuracies(
    extract: Extract, rows: Sequence[Row], test: Sequence[Row], count: int, draws: int
) -> dict[str, Any]:
    """Return accuracies in % of the draws of `count` labels, and the milliseconds that a picture's features take."""
    began = time.process_time()
    test_features = extract([row["image"] for row in test])
    milliseconds = 1000 * (time.process_time() - began) / len(test)
    answers, accuracies = np.array([row["label"] for row in test]), []
    for draw in range(draws):
        drawn = [rows[row] for row in np.random.default_rng(draw).permutation(len(rows))[:count]]
        labels = np.array([row["label"] for row in drawn])
        model = fit_logistic_regression(extract([row["image"] for row in drawn]), labels, draw)
        accuracies.append(100 * float((model.predict(test_features) == answers).mean()))
    return {"accuracies": accuracies, "milliseconds": milliseconds}


def default_fit(rows: Sequence[Row], test: Sequence[Row], count: int, method: str, draw: int) -> dict[str, Any]:
    """Return the accuracy in %, the CPU seconds and the method of a fit without a start to a draw of `count` labels."""
    drawn = [rows[row] for row in np.random.default_rng(draw).permutation(len(rows))[:count]]
    began = time.process_time()
    model = mapsto.fit("image -> label", drawn, method=method, device="cpu")
    seconds = time.process_time() - began
    chosen = "linear" if model.mapping.config.is_linear else "full"
    return {"accuracy": 100 * model.evaluate(test).scores["accuracy"].value, "seconds": seconds, "chosen": chosen}


def summary(values: Sequence[float]) -> str:
    """Return "mean (minimum–maximum)" as text for a table; the value alone of a single draw."""
    span = f" ({min(values):.1f}–{max(values):.1f})" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{span}"


def main(given: argparse.Namespace) -> None:
    keep_memory()
    kept, tasks = Kept("picture_features"), read_tasks()
    lines = [
        f"Accuracy in % on 600 digits and on 1,000 photographs, mean (range) over {given.draws} draws of the labels; CPU",
        "milliseconds that the features of a picture take. Square roots of histograms were the baseline before.",
        "",
        "| pictures | labels | features | accuracy | ms a picture |",
        "|---|---|---|---|---|",
    ]
    for task, (rows, test) in tasks.items():
        for count in (100, 1000):
            for name, extract in FEATURES.items():
                work = partial(linear_accuracies, extract, rows, test, count, given.draws)
                found = kept.once(f"{task}, {count}, {name}, {given.draws}", work)
                accuracy, milliseconds = summary(found["accuracies"]), found["milliseconds"]
                lines.append(f"| {task} | {count:,} | {name} | {accuracy} | {milliseconds:.1f} |")
                print(lines[-1], flush=True)
    lines += [
        "",
        "Fits without a starting model; `auto` has nothing set, and measures `linear` beside `full`, a Transformer.",
        "",
        "| pictures | labels | method | draws | accuracy | CPU seconds | chosen |",
        "|---|---|---|---|---|---|---|",
    ]
    task = "digits, 28 × 28"
    for method, draws in (("linear", given.draws), ("auto", given.fits)):
        fits = [
            kept.once(f"{task}, fit, {method}, {draw}", partial(default_fit, *tasks[task], 100, method, draw))
            for draw in range(draws)
        ]
        accuracy, taken = (summary([fit[key] for fit in fits]) for key in ("accuracy", "seconds"))
        chosen = ", ".join(sorted({fit["chosen"] for fit in fits}))
        lines.append(f"| {task} | 100 | `{method}` | {draws} | {accuracy} | {taken} | {chosen} |")
        print(lines[-1], flush=True)
    record("Features of pictures (benchmarks/picture_features.py)", lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=3, help="draws of the labels for linear models")
    parser.add_argument("--fits", type=int, default=1, help="draws of the labels for fits that train")
    main(parser.parse_args())
