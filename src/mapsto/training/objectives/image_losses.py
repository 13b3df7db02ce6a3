"""Losses of predicted images as a whole (style, adversarial), beside or instead of the loss by pixel.

Legend of shapes: n images, h × w pixels, m tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from mapsto.errors import UsageError
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch, PackedAnswers
from mapsto.training.objectives import Objective
from mapsto.vision.image_targets import ImageToImageTarget


class ImageLoss(Protocol):
    """A loss of predicted images."""

    def __call__(self, mapping: Mapping, predicted: Tensor, target: Tensor, source: Tensor) -> Tensor:
        """Return the loss summed over images; predicted, target and source: (n, 3, h, w) from 0 to 1."""
        ...

    def finish(self, mapping: Mapping) -> None:
        """Remove from the mapping what only its training needed."""
        ...


class ImageObjective(Objective):
    """The loss of every target port, and of the one image port each of `image_losses`.

    with_pixel_loss: whether predicted images are also compared with the target by pixel. Without it held-out rows, which are
    scored by pixel, choose nothing.
    """

    def __init__(self, mapping: Mapping, image_losses: Sequence[ImageLoss], with_pixel_loss: bool) -> None:
        self.port, self.image_losses, self.with_pixel_loss = image_port(mapping), image_losses, with_pixel_loss
        self.trains_heads = with_pixel_loss
        self.num_ports = len(mapping.targets)

    def num_terms(self, mapping: Mapping) -> int:
        """Return the number of ports and of image losses; terms are numbered in that order."""
        return self.num_ports + len(self.image_losses)

    def losses(self, mapping: Mapping, batch: Batch) -> list[tuple[int, Tensor]]:
        hidden = mapping.hidden(batch)  # once for all ports
        losses = []
        for port, readout in enumerate(batch.answers):
            if readout is None:
                continue
            output, target = mapping.read(hidden, batch, port), mapping.targets[port]
            if self.with_pixel_loss or port != self.port:
                losses.append((port, target.loss(output, readout.values)))
            if port == self.port:
                assert isinstance(target, ImageToImageTarget)
                # One group of images for each shape in the batch.
                for images in target.to_images(output, readout.values, _source_tokens(batch, readout, target.lies_in)):
                    losses += [
                        (self.num_ports + index, image_loss(mapping, *images))
                        for index, image_loss in enumerate(self.image_losses)
                    ]
        return losses

    def counts(self, batch: Batch) -> dict[int, int]:
        """Return the number of answers of each port, and of images for each image loss."""
        num_images = len(batch.starts)
        return super().counts(batch) | {self.num_ports + index: num_images for index in range(len(self.image_losses))}

    def finish(self, mapping: Mapping) -> None:
        for image_loss in self.image_losses:
            image_loss.finish(mapping)


def image_port(mapping: Mapping) -> int:
    """Return the index of the one target port that predicts images. Raises UsageError for another number of them."""
    ports = [port for port, target in enumerate(mapping.targets) if isinstance(target, ImageToImageTarget)]
    if len(ports) != 1:
        raise UsageError(f"--style and --adversarial are for arrows that predict one image, not {mapping.arrow}")
    return ports[0]


def _source_tokens(batch: Batch, readout: PackedAnswers, kind: str) -> Tensor:
    """Return the source tokens (m, …) of a kind at the places where a port is read."""
    assert readout.at is not None
    # The inverse of `slots`: from a place in the packed rows to the index of its token.
    token_at_place = torch.zeros(batch.segments.numel(), dtype=torch.long, device=readout.at.device)
    token_at_place[batch.slots[kind]] = torch.arange(len(batch.slots[kind]), device=readout.at.device)
    return batch.tokens[kind][token_at_place[readout.at]]
