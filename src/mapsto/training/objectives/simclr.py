"""SimCLR: two augmented views of a value get similar vectors, views of different values dissimilar ones.

SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709) has no teacher network and no moving averages, so the
weights are all that a checkpoint must hold. Small models learn with it in minutes on a CPU (benchmarks/picturing.py). A
step costs two forward passes per value.
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
from mapsto.task.capabilities import require
from mapsto.task.source_capabilities import Augmentable
from mapsto.training.objectives import Objective, remove_targets, require_one_source
from mapsto.training.objectives.supervised_contrastive import contrastive_loss

# Widths of the layers of the projection head.
PROJECTION_WIDTHS = (512, 512, 128)


class SimCLR(Objective):
    """The contrastive loss between two augmented views of each value, computed on the output of a projection head.

    augment: name of the augmentation that makes the views; "auto" takes the strongest that the kind of value has.
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
        """Return the examples without hidden tokens and with this objective's augmentation."""
        return replace(examples, arrow=examples.arrow.body, augment=self.augment)

    def losses(self, mapping: Mapping, batch: Batch) -> list[tuple[int, Tensor]]:
        """Return [(0, contrastive loss)] of a packed batch, in which the two views of a row count as one class."""
        vectors = mapping.pool(mapping.hidden(batch), batch)
        projected = mapping.get_submodule("projection")(vectors)
        return [(0, contrastive_loss(projected, torch.from_numpy(batch.rows).to(projected.device)))]

    def counts(self, batch: Batch) -> dict[int, int]:
        """Return {0: number of views in the batch}: the only loss term has one loss per view."""
        return {0: len(batch.rows)}

    def finish(self, mapping: Mapping) -> None:
        """Remove the projection head and the targets, which leaves the encoder.

        The encoder's own vectors are better features: the projection head discards what differs between views.
        """
        del mapping.projection
        remove_targets(mapping)


def projection_head(width: int) -> nn.Sequential:
    """Build the projection head, from vectors (n, width) to the vectors (n, 128) whose similarity the loss compares.

    It has batch normalisation, because an untrained encoder gives nearly equal vectors for all values.
    """
    layers: list[nn.Module] = []
    for in_width, out_width in pairwise((width, *PROJECTION_WIDTHS)):
        # Without running statistics: a checkpoint holds parameters alone, so a resumed run would lose them.
        layers += [nn.Linear(in_width, out_width), nn.BatchNorm1d(out_width, track_running_stats=False), nn.GELU()]
    return nn.Sequential(*layers[:-2])  # the last layer is linear
