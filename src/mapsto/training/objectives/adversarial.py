"""Adversarial loss: a discriminator learns to tell predicted images from real ones, and the mapping to deceive it.

The discriminator judges patches of 31 × 31 pixels (PatchGAN, Isola et al. 2017, https://arxiv.org/abs/1611.07004). With
pairs of images it also sees the source. Losses are squared distances (LSGAN, Mao et al. 2017,
https://arxiv.org/abs/1611.04076). The discriminator is a module of the mapping during training, so that the optimizer
and the checkpoints include it.
Legend of shapes: n images, h × w pixels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mapsto.model.mapping import Mapping

# Channels of the discriminator's layers, and the negative slope of its activations.
WIDTHS = (32, 64, 128)
LEAK = 0.2


class AdversarialLoss:
    """The generator loss of a mapping against a discriminator, plus the discriminator's own loss.

    weight: the weight of the generator loss.
    real_image: an image (3, h, w) from 0 to 1 whose random crops are the real images; None takes the target images as
        the real ones.
    """

    def __init__(self, mapping: Mapping, weight: float, real_image: Tensor | None = None) -> None:
        self.weight, self.real_image = weight, real_image
        device = next(mapping.parameters()).device
        mapping.discriminator = discriminator(3 if real_image is not None else 6).to(device)

    def __call__(self, mapping: Mapping, predicted: Tensor, target: Tensor, source: Tensor) -> Tensor:
        """Return the weighted generator loss plus the discriminator loss, summed over images.

        The generator loss trains only the mapping, the discriminator loss only the discriminator.
        predicted, target, source: images (n, 3, h, w).
        """
        network = mapping.get_submodule("discriminator")
        if self.real_image is None:
            fake, real = (torch.cat([source, images], dim=1) for images in (predicted, target))
        else:
            fake = predicted
            real = torch.stack([_random_crop(self.real_image, predicted.shape[2:]) for _ in predicted])
        # Detached weights: the generator loss must reach the mapping through the discriminator without training that.
        frozen = {name: weight.detach() for name, weight in network.named_parameters()}
        generator_loss = _squared_distance(functional_call(network, frozen, fake), 1.0)
        # Detached, so that the discriminator loss does not train the mapping.
        discriminator_loss = _squared_distance(network(fake.detach()), 0.0) + _squared_distance(network(real), 1.0)
        return self.weight * generator_loss + discriminator_loss / 2

    def finish(self, mapping: Mapping) -> None:
        """Remove the discriminator from the mapping."""
        del mapping.discriminator


def discriminator(channels: int) -> nn.Sequential:
    """Build the discriminator, from images (n, channels, h, w) to patch scores (n, 1, h / 8, w / 8).

    It is trained to give 1 to patches of real images and 0 to those of predicted images.
    """
    layers: list[nn.Module] = []
    for in_channels, out_channels in pairwise((channels, *WIDTHS)):
        layers += [nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1), nn.LeakyReLU(LEAK)]
    return nn.Sequential(*layers, nn.Conv2d(WIDTHS[-1], 1, 3, padding=1))


def _squared_distance(scores: Tensor, label: float) -> Tensor:
    """Return (scores − label)², averaged over the patches of each image and summed over images.

    scores: (n, 1, h, w), the discriminator's patch scores.
    """
    return ((scores - label) ** 2).flatten(1).mean(1).sum()


def _random_crop(image: Tensor, size: torch.Size) -> Tensor:
    """Return a random crop of an image (3, h, w); a smaller image is padded with its edge pixels.

    size: (height, width) of the crop.
    """
    margins = [max(0, length - side) for length, side in zip(image.shape[1:], size, strict=True)]
    y, x = (int(torch.randint(margin + 1, ())) for margin in margins)
    crop = image[:, y : y + size[0], x : x + size[1]]
    padding = (0, size[1] - crop.shape[2], 0, size[0] - crop.shape[1])
    return nn.functional.pad(crop, padding, mode="replicate")
