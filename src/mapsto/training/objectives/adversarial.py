"""adversarial: a second network learns along to tell pictures that are made from real ones, and the map to deceive it.

It looks at small parts of a picture (PatchGAN, Isola et al. 2017), beside the source where there are pairs, and the losses are
squared distances (LSGAN, Mao et al. 2017). Its weights stand in the mapping while that learns, so they have their own moments in
the optimizer, are saved with the checkpoints and go on exactly.
Legend of shapes: n pictures, h × w pixels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mapsto.model.mapping import Mapping

WIDTHS = (32, 64, 128)


LEAK = 0.2


class Adversarial:
    """How easily pictures are told from real ones: from those that are true beside their source, or from parts of `like`
    (3, h, w), where that is given. weight: of deceiving it in the loss of the map."""

    def __init__(self, mapping: Mapping, weight: float, like: Tensor | None = None) -> None:
        self.weight, self.like = weight, like
        device = next(mapping.parameters()).device
        mapping.discriminator = discriminator(3 if like is not None else 6).to(device)

    def __call__(self, mapping: Mapping, said: Tensor, truth: Tensor, source: Tensor) -> Tensor:
        """The map's loss and the discriminator's; neither moves the weights of the other."""
        judge = mapping.get_submodule("discriminator")
        if self.like is None:
            made, real = (torch.cat([source, pictures], dim=1) for pictures in (said, truth))
        else:
            made, real = said, torch.stack([_part(self.like, said.shape[2:]) for _ in said])
        fixed = {name: weight.detach() for name, weight in judge.named_parameters()}
        deceives = _far(functional_call(judge, fixed, made), 1.0)
        tells = _far(judge(made.detach()), 0.0) + _far(judge(real), 1.0)
        return self.weight * deceives + tells / 2

    def finish(self, mapping: Mapping) -> None:
        """Keep the map: the discriminator was its opponent."""
        del mapping.discriminator


def discriminator(channels: int) -> nn.Sequential:
    """From pictures (n, channels, h, w) to (n, 1, h / 8, w / 8): how real each part of 31 × 31 pixels looks."""
    layers: list[nn.Module] = []
    for into, out in pairwise((channels, *WIDTHS)):
        layers += [nn.Conv2d(into, out, 3, stride=2, padding=1), nn.LeakyReLU(LEAK)]
    return nn.Sequential(*layers, nn.Conv2d(WIDTHS[-1], 1, 3, padding=1))


def _far(told: Tensor, wanted: float) -> Tensor:
    """The squared distance of what is told of the parts from what is wanted, the mean over parts, summed over pictures."""
    return ((told - wanted) ** 2).flatten(1).mean(1).sum()


def _part(picture: Tensor, size: torch.Size) -> Tensor:
    """As large a part of a picture (3, h, w), drawn out at its edge where it is smaller, at random by torch's generator."""
    room = [max(0, whole - side) for whole, side in zip(picture.shape[1:], size, strict=True)]
    top, left = (int(torch.randint(most + 1, ())) for most in room)
    part = picture[:, top : top + size[0], left : left + size[1]]
    beyond = (0, size[1] - part.shape[2], 0, size[0] - part.shape[1])
    return nn.functional.pad(part, beyond, mode="replicate")
