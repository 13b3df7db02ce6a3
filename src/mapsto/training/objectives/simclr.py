"""simclr: two views of a value, varied at random, are drawn together, and apart from the views of all others.

SimCLR (Chen et al. 2020). Without a teacher or a centre there is nothing to keep but weights, and small models learn by it in
minutes of a CPU (benchmarks/picturing.py).
Legend of shapes: n views, d width.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from mapsto.data.examples import Examples
from mapsto.errors import UsageError
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch
from mapsto.task.capabilities import Augmentable, require
from mapsto.training.objectives import Objective, bare, only_source
from mapsto.training.objectives.supervised_contrastive import contrast

PROJECTED = (512, 512, 128)


class Simclr(Objective):
    """Whole values of the one source, each in two views, told apart by what a projection makes of their pooled vectors."""

    watches = False
    compares = "--objective simclr"
    views = 2

    def __init__(self, mapping: Mapping, augment: str) -> None:
        source = require(mapping.sources[only_source(mapping, "simclr")], Augmentable, "seen in two views")
        if augment == "none":
            raise UsageError("--objective simclr compares two views of a value, and with --augment none they are equal")
        self.augment = source.augmentations[-1] if augment == "auto" else augment
        device = next(mapping.parameters()).device
        mapping.projection = projection(mapping.config.pooled_width).to(device)

    def terms(self, mapping: Mapping) -> int:
        """One: the contrast."""
        return 1

    def asked(self, examples: Examples) -> Examples:
        """Whole, and varied as strongly as the kind can unless told otherwise."""
        return replace(examples, arrow=examples.arrow.body, augment=self.augment)

    def losses(self, mapping: Mapping, batch: Batch) -> list[tuple[int, Tensor]]:
        """The contrast of all views of a packed batch, in which those of one row are of one class."""
        vectors = mapping.pool(mapping.hidden(batch), batch)
        projected = mapping.get_submodule("projection")(vectors)
        return [(0, contrast(projected, torch.from_numpy(batch.rows).to(projected.device)))]

    def counts(self, batch: Batch) -> dict[int, int]:
        """Views."""
        return {0: len(batch.rows)}

    def finish(self, mapping: Mapping) -> None:
        """Keep the model without its projection, which forgets what the views do not share."""
        del mapping.projection
        bare(mapping)


def projection(width: int) -> nn.Sequential:
    """From vectors (n, d) to those that are compared; normalised over the batch, since at first all vectors are much alike."""
    layers: list[nn.Module] = []
    for size, out in pairwise((width, *PROJECTED)):
        layers += [nn.Linear(size, out), nn.BatchNorm1d(out, track_running_stats=False), nn.GELU()]
    return nn.Sequential(*layers[:-2])
