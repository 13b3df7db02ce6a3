"""The objective for losses of whole predicted images (style, adversarial), with or without the pixel loss.

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
    """A loss that judges predicted images as a whole and not pixel by pixel, such as a style loss."""

    def __call__(self, mapping: Mapping, predicted: Tensor, target: Tensor, source: Tensor) -> Tensor:
        """Return the loss summed over images; predicted, target and source: images (n, 3, h, w) from 0 to 1."""
        ...

    def finish(self, mapping: Mapping) -> None:
        """Remove modules that only training needed, such as a discriminator, from the mapping."""
        ...


class ImageObjective(Objective):
    """The losses of all targets, as in `Objective`, plus `image_losses` for the one target that predicts images.

    with_pixel_loss: whether the target's own loss, by pixel, stays. Without it held-out rows are not used to choose the
        best weights, because they are scored by pixel.
    """

    def __init__(self, mapping: Mapping, image_losses: Sequence[ImageLoss], with_pixel_loss: bool) -> None:
        self.port, self.image_losses, self.with_pixel_loss = image_port(mapping), image_losses, with_pixel_loss
        self.trains_heads = with_pixel_loss
        self.num_ports = len(mapping.targets)

    def num_terms(self, mapping: Mapping) -> int:
        """Return the number of loss terms: first one for each target, then one for each image loss."""
        return self.num_ports + len(self.image_losses)

    def losses(self, mapping: Mapping, batch: Batch) -> list[tuple[int, Tensor]]:
        hidden = mapping.hidden(batch)  # once for all ports
        losses = []
        for port, readout in enumerate(batch.answers):
            if readout is None:
                continue
            output, target = mapping.read(hidden, batch, port), mapping.targets[port]
            if self.with_pixel_loss or port != self.port:
                losses.append((port, readout.sum_weighted(target.loss, output)))
            if port == self.port:
                assert isinstance(target, ImageToImageTarget)
                # Images of one shape at a time, since images of different shapes cannot be stacked.
                for images in target.to_images(output, readout.values, _source_tokens(batch, readout, target.lies_in)):
                    losses += [
                        (self.num_ports + index, image_loss(mapping, *images))
                        for index, image_loss in enumerate(self.image_losses)
                    ]
        return losses

    def counts(self, batch: Batch) -> dict[int, int]:
        """Return by index of the loss term how many losses it sums: a target's answers, or an image loss's images."""
        num_images = len(batch.starts)
        return super().counts(batch) | {self.num_ports + index: num_images for index in range(len(self.image_losses))}

    def finish(self, mapping: Mapping) -> None:
        for image_loss in self.image_losses:
            image_loss.finish(mapping)


def image_port(mapping: Mapping) -> int:
    """Return the index of the one target that predicts images. Raises UsageError when there is none, or several."""
    ports = [port for port, target in enumerate(mapping.targets) if isinstance(target, ImageToImageTarget)]
    if len(ports) != 1:
        raise UsageError(f"--style and --adversarial are for arrows that predict one image, not {mapping.arrow}")
    return ports[0]


def _source_tokens(batch: Batch, readout: PackedAnswers, kind: str) -> Tensor:
    """Return the tokens of the source image (m, …) at the m positions of the packed batch where the output is read.

    readout: the target's answers in the batch, with these positions. kind: the kind of the source.
    """
    assert readout.at is not None
    # The inverse of `slots`: from a position in the packed rows to the index of the token there.
    token_at_place = torch.zeros(batch.segments.numel(), dtype=torch.long, device=readout.at.device)
    token_at_place[batch.slots[kind]] = torch.arange(len(batch.slots[kind]), device=readout.at.device)
    return batch.tokens[kind][token_at_place[readout.at]]
