"""The decoder of a masked autoencoder (MAE, He et al. 2022): the stack reads what is left of a value, and a small one behind it
puts the rest back.

Legend of shapes: r rows, l row length, d width of the stack, e width of the decoder, m hidden tokens.
"""

from __future__ import annotations

from collections.abc import Mapping as Dict

import torch
from torch import Tensor, nn

from mapsto.model.config import TransformerConfig
from mapsto.model.transformer import Transformer, make_map
from mapsto.sequence.batch import Batch


class Decoder(nn.Module):
    """From hidden states of the tokens that were read to those of all tokens. places: for kinds whose stacks are not told
    positions, from tokens to vectors (t, e) of where they stand."""

    def __init__(self, width: int, config: TransformerConfig, places: Dict[str, nn.Module | None]) -> None:
        super().__init__()
        self.embed = make_map(width, config)
        self.mask_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.places = nn.ModuleDict({kind: module for kind, module in places.items() if module is not None})
        self.transformer = Transformer(config)
        for parameter in (self.embed.weight, self.mask_token):
            nn.init.normal_(parameter, std=0.02)
        if self.embed.bias is not None:
            nn.init.zeros_(self.embed.bias)

    def forward(self, hidden: Tensor, batch: Batch, at: Tensor) -> Tensor:
        """Hidden states (r, l, e) of the whole batch, from those (r, l, d) of the tokens that do not stand at the flat places
        `at` (m,)."""
        x = self.embed(hidden).flatten(0, 1)
        x = x.index_copy(0, at, self.mask_token[0].to(x.dtype).expand(len(at), -1))
        for kind, places in self.places.items():
            x = x.index_add(0, batch.slots[kind], places(batch.tokens[kind]).to(x.dtype))
        out = self.transformer(
            x.view(*hidden.shape[:2], -1), batch.segments, batch.roles, batch.positions, batch.places
        )
        assert isinstance(out, Tensor)
        return out
