"""Cross-attention: the tokens of an answer attend to the states of the source tokens that an encoder has computed.

Sources and answers lie in packed rows of their own. The sources of the examples in a row of answers are in the row with the same
number, so the product of both is as small as that of the answers with themselves.
Legend of shapes: r rows, l length of a row of answers, s length of a row of sources, d width, h heads, e width of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.model.attention import attend
from mapsto.model.config import TransformerConfig
from mapsto.model.kv_cache import Recorder
from mapsto.model.layers import Linear

# Is called with the number of a layer, its queries and its keys.
Observer = Callable[[int, Tensor, Tensor], None]


class Sources(Protocol):
    """The source tokens that the layers of a decoder attend to."""

    @property
    def observe(self) -> Observer | None:
        """Return what is called with the queries and keys of each layer; None for nothing."""

    @property
    def mask(self) -> Tensor | None:
        """Return the mask to add to the scores, (r, 1, l, s); None if every token of a row sees all source tokens of the row."""

    def keys_values(self, layer: int, attention: CrossAttention) -> tuple[Tensor, Tensor]:
        """Return the keys and values (r, s, h, e) of the source tokens for a layer. attention: the module of this layer."""
        ...


@dataclass(frozen=True)
class EncodedSources:
    """The states (r, s, d) of the source tokens, of which each layer computes its own keys and values.

    mask: mask to add to the scores, (r, 1, l, s). recorder: keeps the keys and values, for the steps of decoding.
    observe: called with the number of each layer, its queries (r, l, h, e) and its keys (r, s, h, e).
    """

    states: Tensor
    mask: Tensor | None
    recorder: Recorder | None = None
    observe: Observer | None = None

    def keys_values(self, layer: int, attention: CrossAttention) -> tuple[Tensor, Tensor]:
        keys, values = attention.keys_values(self.states)
        if self.recorder is not None:
            self.recorder.extend(layer, keys, values)
        return keys, values


class CrossAttention(nn.Module):
    """Multi-head attention from the tokens of answers to source tokens, without positions."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.attention_dropout
        self.scale = None if config.scaled_scores else 1.0
        self.query = Linear(config.width, config.query_width, bias=config.has_qkv_bias)
        self.key_value = Linear(config.width, 2 * config.query_width, bias=config.has_qkv_bias and config.key_bias)
        has_value_bias = config.has_qkv_bias and not config.key_bias
        self.value_bias = nn.Parameter(torch.zeros(config.query_width)) if has_value_bias else None
        self.out = Linear(config.query_width, config.width, bias=config.has_out_bias)

    def keys_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and the values (r, s, h, e) of source states (r, s, d)."""
        mapped = self.key_value(states)
        if self.value_bias is not None:
            mapped = mapped + F.pad(self.value_bias, (len(self.value_bias), 0)).to(mapped.dtype)
        keys, values = mapped.view(*states.shape[:2], 2 * self.heads, -1).chunk(2, dim=2)
        return keys, values

    def forward(self, x: Tensor, layer: int, sources: Sources) -> Tensor:
        """Return the output of cross-attention, (r, l, d) → (r, l, d). layer: number of the layer, from 0."""
        keys, values = sources.keys_values(layer, self)
        # In a beam search all answers of an example attend to the same sources: they become the tokens of one row.
        queries = self.query(x).view(keys.shape[0], -1, self.heads, keys.shape[-1])
        if sources.observe is not None:
            sources.observe(layer, queries, keys)
        dropout = self.dropout if self.training else 0.0
        out: Tensor = self.out(attend(queries, keys, values, sources.mask, dropout, self.scale))
        return out.view_as(x)


def cross_mask(answer_segments: Tensor, source_segments: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the mask to add to the scores, (r, 1, l, s): 0 where answer and source token are of the same example, else −∞.

    answer_segments, source_segments: number of each token's example within the row, (r, l) and (r, s); 0 is padding.
    """
    allowed = answer_segments[:, :, None] == source_segments[:, None, :]
    # Padding that saw no token would get NaN from the softmax.
    allowed |= (answer_segments == 0)[:, :, None]
    return torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, -torch.inf)[:, None]
