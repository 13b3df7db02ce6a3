"""The small stack behind the Transformer. In a masked autoencoder (MAE, He et al. 2022) the Transformer reads what is left of a
value, and this puts the rest back. Behind a convolutional network, which has no layers in which tokens see one another, this
reads answers that are laid there (DETR, Carion et al. 2020).

Legend of shapes: r rows, l row length, d width of the stack, e width of the decoder, m hidden tokens.
"""

from __future__ import annotations

from collections.abc import Mapping as Dict

import torch
from torch import Tensor, nn

from mapsto.sequence import Batch
from mapsto.transformer import Linear, Transformer, TransformerConfig, make_norm


class Decoder(nn.Module):
    """From hidden states of the tokens that were read to those of all tokens. places: for kinds whose stacks are not told
    positions, from tokens to vectors (t, e) of where they stand. bare: whether it reads the grid of a network, of any scale and
    with nothing hidden, which it normalises."""

    def __init__(
        self, width: int, config: TransformerConfig, places: Dict[str, nn.Module | None], bare: bool = False
    ) -> None:
        super().__init__()
        self.norm = make_norm(config, width) if bare else nn.Identity()
        self.embed = Linear(width, config.width)
        self.mask_token = None if bare else nn.Parameter(torch.empty(1, 1, config.width))
        self.places = nn.ModuleDict({kind: module for kind, module in places.items() if module is not None})
        self.transformer = Transformer(config)
        for parameter in (self.embed.weight, self.mask_token):
            if parameter is not None:
                nn.init.normal_(parameter, std=0.02)
        nn.init.zeros_(self.embed.bias)

    def forward(self, hidden: Tensor, batch: Batch, at: Tensor | None) -> Tensor:
        """Hidden states (r, l, e) of the whole batch, from those (r, l, d) of the tokens that do not stand at the flat places
        `at` (m,); None where all were read."""
        x = self.embed(self.norm(hidden)).flatten(0, 1)
        if at is not None and self.mask_token is not None:
            x = x.index_copy(0, at, self.mask_token[0].to(x.dtype).expand(len(at), -1))
        for kind, places in self.places.items():
            x = x.index_add(0, batch.slots[kind], places(batch.tokens[kind]).to(x.dtype))
        out = self.transformer(
            x.view(*hidden.shape[:2], -1), batch.segments, batch.roles, batch.positions, batch.places
        )
        assert isinstance(out, Tensor)
        return out
