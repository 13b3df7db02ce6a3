"""The embedder of samples: convolutions, in most families a norm and a linear map (wav2vec 2.0, Baevski et al. 2020).

The tokens of a clip are put together to its samples, which the convolutions read alone: they are never padded, nor packed with
other clips, since a group norm runs over all of a clip. Positions are added behind it, in the Transformer.
Legend of shapes: t tokens, s samples, d width.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from mapsto.model.layers import LayerNorm, Linear
from mapsto.model.wave.network import WaveConfig

# Numbers in front of a token's samples: whether it is hidden, whether it begins the clip, and the number of its samples that
# belong to the clip if it ends the clip, else 0.
HEADER = 3
HIDDEN_ENTRY, FIRST_ENTRY, COUNT_ENTRY = 0, 1, 2


def token_samples(front: WaveConfig) -> int:
    """Return the number of samples in a token: those that it is computed from, and at most what is left at the end of a clip."""
    return front.field + front.stride - 1


class WaveEmbedder(nn.Module):
    """An embedder from tokens of samples (t, 3 + s) to vectors (t, d).

    masked: whether hidden tokens have a learnt vector; else they are zero.
    """

    # Why `mapsto export` refuses it.
    untraceable = "reads the samples of one recording after another, which no exported graph does"

    def __init__(self, front: WaveConfig, width: int, masked: bool) -> None:
        super().__init__()
        self.front = front
        self.network = front.network()
        epsilon = front.projection_epsilon
        self.norm = nn.Identity() if epsilon is None else LayerNorm(front.width, eps=epsilon)
        self.projection = Linear(front.width, width) if front.projected else nn.Identity()
        if isinstance(self.projection, Linear):
            nn.init.normal_(self.projection.weight, std=0.02)
            nn.init.zeros_(self.projection.bias)
        self.mask_token = nn.Parameter(torch.zeros(width)) if masked else None
        if self.mask_token is not None:
            nn.init.uniform_(self.mask_token)

    def forward(self, tokens: Tensor) -> Tensor:
        features = torch.cat([self.network(clip)[0].T for clip in self.clips(tokens)])
        x: Tensor = self.projection(self.norm(features))
        vector = torch.zeros_like(x[0]) if self.mask_token is None else self.mask_token.to(x.dtype)
        return torch.where(tokens[:, HIDDEN_ENTRY, None].bool(), vector, x)

    def clips(self, tokens: Tensor) -> list[Tensor]:
        """Return the samples (1, 1, s) of each clip, from the own samples of its tokens and all that its last one holds."""
        is_first = tokens[:, FIRST_ENTRY].bool()
        is_first[:1] = True
        starts = [*is_first.nonzero()[:, 0].tolist(), len(tokens)]
        samples, clips = tokens[:, HEADER:].float(), []
        for start, end in itertools.pairwise(starts):
            count = int(tokens[end - 1, COUNT_ENTRY]) or self.front.field
            own = samples[start : end - 1, : self.front.stride].flatten()
            clips.append(torch.cat([own, samples[end - 1, :count]])[None, None])
        return clips
