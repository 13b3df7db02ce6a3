"""Decoder of a masked autoencoder (MAE, He et al. 2022).

The Transformer reads only the visible tokens, which makes pretraining several times cheaper when most tokens are hidden. The
decoder is a small Transformer. It reads the hidden states of the visible tokens, and a learnt mask token for each hidden token.

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
    """Small Transformer that computes states of all tokens, hidden ones too, from the hidden states of the visible tokens.

    width: width d of the hidden states that the decoder reads.
    config: shape of the decoder's stack.
    places: for each source kind a module from tokens (t, …) to position embeddings (t, e), or None if the stack itself adds
    positions.
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
        """Return the decoder's states (r, l, e) of all tokens of the batch.

        hidden: the Transformer's states (r, l, d); at masked tokens the mask embedding replaces them.
        masked: indices (m,) of the masked tokens among all r × l tokens.
        """
        x = self.embed(hidden).flatten(0, 1)
        # The states of hidden tokens are zero, as the Transformer did not read them; the mask token takes their place.
        x = x.index_copy(0, masked, self.mask_token[0].to(x.dtype).expand(len(masked), -1))
        for kind, positions in self.places.items():
            x = x.index_add(0, batch.slots[kind], positions(batch.tokens[kind]).to(x.dtype))
        out = self.transformer(x.view(*hidden.shape[:2], -1), batch)
        assert isinstance(out, Tensor)
        return out
