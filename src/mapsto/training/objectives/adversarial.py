"""Adversarial loss of predicted images: a discriminator learns to tell them from real ones, and the mapping to deceive it.

The discriminator judges patches of 31 × 31 pixels (PatchGAN, Isola et al. 2017, https://arxiv.org/abs/1611.07004), beside the
source where there are pairs. Its losses are squared distances (LSGAN, Mao et al. 2017, https://arxiv.org/abs/1611.04076). Its
weights are part of the mapping during training, so that the optimizer and the checkpoints hold them too and a run goes on
exactly.
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
    """The loss of the mapping against a discriminator, plus the discriminator's own.

    weight: of the mapping's loss. real_image: (3, h, w) from 0 to 1; real images are crops of it. None: they are the targets.
    """

    def __init__(self, mapping: Mapping, weight: float, real_image: Tensor | None = None) -> None:
        self.weight, self.real_image = weight, real_image
        device = next(mapping.parameters()).device
        mapping.discriminator = discriminator(3 if real_image is not None else 6).to(device)

    def __call__(self, mapping: Mapping, predicted: Tensor, target: Tensor, source: Tensor) -> Tensor:
        """Return both losses summed; neither has a gradient for the weights of the other's network."""
        network = mapping.get_submodule("discriminator")
        if self.real_image is None:
            fake, real = (torch.cat([source, images], dim=1) for images in (predicted, target))
        else:
            fake = predicted
            real = torch.stack([_random_crop(self.real_image, predicted.shape[2:]) for _ in predicted])
        # The same weights without gradients: the generator loss reaches the mapping through the discriminator, and stops there.
        frozen = {name: weight.detach() for name, weight in network.named_parameters()}
        generator_loss = _squared_distance(functional_call(network, frozen, fake), 1.0)
        # Without the gradient of `fake`, so that this loss does not train the mapping.
        discriminator_loss = _squared_distance(network(fake.detach()), 0.0) + _squared_distance(network(real), 1.0)
        return self.weight * generator_loss + discriminator_loss / 2

    def finish(self, mapping: Mapping) -> None:
        """Remove the discriminator."""
        del mapping.discriminator


def discriminator(channels: int) -> nn.Sequential:
    """Build a network from images (n, channels, h, w) to (n, 1, h / 8, w / 8): how real each patch looks, 1 for real."""
    layers: list[nn.Module] = []
    for in_channels, out_channels in pairwise((channels, *WIDTHS)):
        layers += [nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1), nn.LeakyReLU(LEAK)]
    return nn.Sequential(*layers, nn.Conv2d(WIDTHS[-1], 1, 3, padding=1))


def _squared_distance(scores: Tensor, label: float) -> Tensor:
    """Compute the squared distance of patch scores (n, 1, h, w) from a label: the mean over patches, summed over images."""
    return ((scores - label) ** 2).flatten(1).mean(1).sum()


def _random_crop(image: Tensor, size: torch.Size) -> Tensor:
    """Crop an image (3, h, w) to `size` at random, by torch's generator; a smaller image is padded by repeating its edge."""
    margins = [max(0, length - side) for length, side in zip(image.shape[1:], size, strict=True)]
    y, x = (int(torch.randint(margin + 1, ())) for margin in margins)
    crop = image[:, y : y + size[0], x : x + size[1]]
    padding = (0, size[1] - crop.shape[2], 0, size[0] - crop.shape[1])
    return nn.functional.pad(crop, padding, mode="replicate")
