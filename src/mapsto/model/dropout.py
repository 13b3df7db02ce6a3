"""Dropout whose random numbers cost no more than the product they go into (Srivastava et al. 2014)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def keeping(like: Tensor, share: float) -> Tensor:
    """What to multiply a value of the shape of `like` by: 0 for `share` of the places, else 1 / (1 − share).

    Drawn from torch's generator, on which alone it depends. On a CPU, where torch draws one number at a time, each place
    takes one random byte, so that shares are whole 256ths.
    """
    if like.device.type != "cpu":
        return F.dropout(torch.ones_like(like), share)
    dropped = round(256 * share)
    key = int(torch.randint(2**62, ()))
    drawn = np.frombuffer(np.random.Generator(np.random.SFC64(key)).bytes(like.numel()), np.uint8)
    kept = torch.from_numpy(drawn >= dropped).view(like.shape)
    return kept.to(like.dtype).mul_(256 / (256 - dropped))


class Dropout(nn.Module):
    """Drop `share` of the places in training."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return x * keeping(x, self.share) if self.training and self.share else x
