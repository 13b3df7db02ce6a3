"""Decoder of a masked autoencoder (MAE, He et al. 2022).

The Transformer reads the visible tokens alone, which makes pretraining several times cheaper when most are hidden. The
decoder, a small stack, gets its hidden states, one learned mask token in each hidden place, and restores the hidden tokens.

Legend of shapes: r rows, l row length, d width of the Transformer, e width of the decoder, m hidden tokens, t tokens of a kind.
"""

from __future__ import annotations

from collections.abc import Mapping as Dict

import torch
from torch import Tensor, nn

from mapsto.model.config import TransformerConfig
from mapsto.model.transformer import Transformer, make_projection
from mapsto.sequence.batch import Batch


class MAEDecoder(nn.Module):
    """Small Transformer from the hidden states of visible tokens to those of all tokens.

    width: width d of the Transformer before it.
    config: shape of the decoder's stack.
    places: position embeddings by kind, (t, …) → (t, e), for kinds whose stacks have no positions of their own, else None.
    """

    def __init__(self, width: int, config: TransformerConfig, places: Dict[str, nn.Module | None]) -> None:
        super().__init__()
        self.embed = make_projection(width, config)
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.places = nn.ModuleDict({kind: module for kind, module in places.items() if module is not None})
        self.transformer = Transformer(config)
        for parameter in (self.embed.weight, self.mask_token):
            nn.init.normal_(parameter, std=0.02)
        if self.embed.bias is not None:
            nn.init.zeros_(self.embed.bias)

    def forward(self, hidden: Tensor, batch: Batch, masked: Tensor) -> Tensor:
        """Return hidden states (r, l, e) of all tokens of the batch.

        hidden: states (r, l, d) of the Transformer; those in masked places are ignored.
        masked: flat places (m,) of the hidden tokens.
        """
        x = self.embed(hidden).flatten(0, 1)
        x = x.index_copy(0, masked, self.mask_token[0].to(x.dtype).expand(len(masked), -1))
        for kind, positions in self.places.items():
            x = x.index_add(0, batch.slots[kind], positions(batch.tokens[kind]).to(x.dtype))
        out = self.transformer(x.view(*hidden.shape[:2], -1), batch)
        assert isinstance(out, Tensor)
        return out
