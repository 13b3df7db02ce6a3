"""SimCLR: two augmented views of a value get similar vectors, views of different values dissimilar ones.

SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709). It has no teacher network and no moving averages, so a run's
state is its weights, and small models learn by it in minutes of a CPU (benchmarks/picturing.py). A step costs two forward
passes a value.
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
from mapsto.training.objectives import Objective, remove_targets, require_one_source
from mapsto.training.objectives.supervised_contrastive import contrastive_loss

# Widths of the layers of the projection head.
PROJECTION_WIDTHS = (512, 512, 128)


class SimCLR(Objective):
    """The contrastive loss between two views of each value of the one source, after a projection head.

    augment: how views are varied; "auto": as strongly as the source's kind can.
    """

    trains_heads = False
    single_process_option = "--objective simclr"
    num_views = 2

    def __init__(self, mapping: Mapping, augment: str) -> None:
        source = require(mapping.sources[require_one_source(mapping, "simclr")], Augmentable, "augmented")
        if augment == "none":
            raise UsageError("--objective simclr compares two views of a value, and with --augment none they are equal")
        self.augment = source.augmentations[-1] if augment == "auto" else augment
        device = next(mapping.parameters()).device
        mapping.projection = projection_head(mapping.config.pooled_width).to(device)

    def num_terms(self, mapping: Mapping) -> int:
        """Return 1: the contrastive loss."""
        return 1

    def adapt(self, examples: Examples) -> Examples:
        """Return the examples uncorrupted, with this objective's augmentation."""
        return replace(examples, arrow=examples.arrow.body, augment=self.augment)

    def losses(self, mapping: Mapping, batch: Batch) -> list[tuple[int, Tensor]]:
        """Return the contrastive loss of a packed batch, with the row of each view as its class."""
        vectors = mapping.pool(mapping.hidden(batch), batch)
        projected = mapping.get_submodule("projection")(vectors)
        return [(0, contrastive_loss(projected, torch.from_numpy(batch.rows).to(projected.device)))]

    def counts(self, batch: Batch) -> dict[int, int]:
        """Return the number of views."""
        return {0: len(batch.rows)}

    def finish(self, mapping: Mapping) -> None:
        """Keep the encoder without the projection head, which drops what views do not share."""
        del mapping.projection
        remove_targets(mapping)


def projection_head(width: int) -> nn.Sequential:
    """Build a network from vectors (n, width) to those that are compared, (n, 128).

    Normalised over the batch, since at first all vectors are much alike.
    """
    layers: list[nn.Module] = []
    for in_width, out_width in pairwise((width, *PROJECTION_WIDTHS)):
        # Without running statistics: a checkpoint holds parameters alone, so a resumed run would lose them.
        layers += [nn.Linear(in_width, out_width), nn.BatchNorm1d(out_width, track_running_stats=False), nn.GELU()]
    return nn.Sequential(*layers[:-2])  # the last layer is linear
