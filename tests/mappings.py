"""Make a table with a column for every kind, and small mappings with random weights that read and answer its columns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from runs import sentences

from mapsto import kinds
from mapsto.data.encoding import encode_rows
from mapsto.data.examples import Examples, make_examples
from mapsto.data.rows import load_rows
from mapsto.data.table import read_table
from mapsto.fitting.answer_way import choose_answer_way
from mapsto.fitting.build_model import add_answer_decoder, make_config, make_mapping, make_sources
from mapsto.fitting.starting_model import StartingModel
from mapsto.model.mapping import Mapping
from mapsto.options import Options
from mapsto.sequence.corruption import Corruption
from mapsto.task.arrow import parse
from mapsto.task.generation import Generated, bind_target
from mapsto.task.target_capabilities import Located, Reconstruction

CPU = torch.device("cpu")


LONGEST = 65  # tokens of an example: the larger pictures have 8 × 8 patches and a class token


def make_table(count: int = 40) -> Any:
    """Make a table of sentences, images, short videos, sounds and answers of every kind.

    Most answers depend on whether the text contains "winter", so that they can be learnt.
    """
    texts, english, german = sentences(count, 1), sentences(count, 2), sentences(count, 3)
    rows = [
        {
            "text": t,
            "en": e,
            "de": g,
            "label": "ab"["winter" in t],
            "other": "xyz"[i % 3],
            "image": make_picture(i, "winter" in t),
            "video": np.stack([np.roll(make_picture(i, "winter" in t), at, 0)[:8, :8] for at in range(4)]),
            "sound": (make_sound(i, "winter" in t), 8000),
            "quiet": (make_sound(i, "winter" in t) / 2, 8000),
            "clean": 255 - make_picture(i, "winter" in t)[::2],
            "word": t.split()[1],
            "spoken": (make_sound(i, "winter" in t), 8000),
            "labels": [w for w in ("winter", "summer", "train") if w in t],
            "number": len(t) / 7 + 10 * ("winter" in t),
            "answer": t.split()[1],
            "tags": [
                {"start": t.index(w), "end": t.index(w) + len(w), "label": "season"}
                for w in ("winter", "spring")
                if w in t
            ],
            "boxes": [{"label": "spot", "box": [3, i % 10, 9, min(i % 10 + 4, 12)]}],
        }
        for i, (t, e, g) in enumerate(zip(texts, english, german, strict=True))
    ]
    return read_table(rows)


def table_for(arrow: str) -> Any:
    """Return the table of make_table, or only the source's column of it for an arrow that restores hidden values."""
    if arrow not in ("~text -> text", "~image -> image", "~video -> video", "~sound -> sound"):
        return make_table()
    (column,) = {port.kind for port in parse(arrow).sources}
    return read_table([{column: value} for value in make_table().column(column)])


def make_picture(number: int, striped: bool) -> Any:
    """Make a small image (h, w, 3) of a light spot on a gradient; stripes show its class.

    number: decides position, height and colours.
    """
    y, x = np.mgrid[: 12 + 4 * (number % 2), :16]
    pixels = np.stack([(number % 5 + 1) * y, 5 * x, 0 * x + 9 * (number % 7)], axis=-1).astype(np.uint8)
    pixels[number % 10 : number % 10 + 4, 3:9] += 100
    if striped:
        pixels[:, ::4, 0] += 70
    return pixels


def make_sound(number: int, high: bool) -> Any:
    """Make samples (n,) at 8 kHz of a tone of 0.3 to 0.5 seconds, high or low to show its class.

    number: decides length and pitch.
    """
    times = np.arange(2400 + 400 * (number % 5)) / 8000
    pitch = (1600 if high else 400) + 20 * (number % 7)
    return (0.3 * np.sin(2 * np.pi * pitch * times)).astype(np.float32)


def small_mapping(
    arrow: str, objective: str = "masked", seed: int = 0, mixing: str | None = None
) -> tuple[Mapping, Examples]:
    """Return a small mapping with random weights for an arrow, and the examples of the table for it.

    mixing: the method by which images are mixed in training.
    """
    rows = load_rows(choose_answer_way(parse(arrow), StartingModel()), table_for(arrow))
    bound = rows.arrow
    targets = [target() for target in kinds.answering(bound)]
    is_spelled = any(isinstance(target, Located) and target.spells for target in targets)
    vocabulary = 300 if "text" in kinds.embedded(bound) and not is_spelled else None
    size = {"layers": 2, "width": 64, "heads": 2, "vocabulary": vocabulary}
    # One answer is written by a decoder, several by the stack that reads the sources.
    is_generating = any(isinstance(target, Generated) for target in targets)
    architecture = "prefix" if is_generating and len(targets) > 1 else "auto"
    options = Options(objective=objective, architecture=architecture, **size)  # type: ignore[arg-type]
    sources = make_sources(StartingModel(), bound, rows, options, lambda text: None)
    config = add_answer_decoder(
        make_config(StartingModel(), options, bound.corrupted, sources), StartingModel(), options, targets
    )
    for target in targets:
        bind_target(target, sources, config, bound)
    corruption = Corruption.of(objective, 0.75 if objective == "mae" else 0.3, "token")
    for port, target in enumerate(targets):
        if bound.targets[port].restores is None:
            target.learn(rows.targets[port])
        else:
            assert isinstance(target, Reconstruction)
            target.restore(corruption)
    torch.manual_seed(seed)
    mapping = make_mapping(bound, config, sources, targets, StartingModel())
    encoded = encode_rows(rows, sources, LONGEST, "cut", aligned=True)
    examples = make_examples(rows, encoded, sources, targets, seed, corruption)
    augment = "mirror" if "image" in arrow or "video" in arrow else "spec" if "sound" in arrow else None
    return mapping, replace(examples, augment=augment, mixing=mixing)
