"""The head that predicts tokens of a vocabulary, and its loss.

Legend of shapes: m tokens, d width, v vocabulary, k of the likeliest tokens.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.model import matmul
from mapsto.model.layers import Transform, TransformConfig

# With output weights of 4 bits, so many of the likeliest tokens get logits from the weights that were rounded.
REFINED_TOKENS = 64

ROWS_AT_ONCE = 32  # rows of logits that are exponentiated in fp32 at a time, which bounds memory


class VocabularyHead(nn.Module):
    """A head from hidden states (m, d) to logits over the vocabulary (m, v).

    Its output weights are the token embeddings (Press & Wolf 2017), unless `transform` says that it has weights of its own.
    transform: settings of a layer before the output weights, and of these; None for no layer.
    """

    # For prediction, the output weights in the precision of the hidden states, or in a layout for products.
    converted: Tensor | None = None
    packed: matmul.PackedWeight | None = None

    def __init__(self, width: int, transform: TransformConfig | None, embedding: nn.Embedding) -> None:
        super().__init__()
        self.transform = Transform(width, transform, embedding.embedding_dim) if transform else nn.Identity()
        has_bias = transform is None or transform.head_bias
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings)) if has_bias else None
        self.weight: nn.Parameter | None = None
        if transform is not None and transform.head_weight:
            self.weight = nn.Parameter(torch.empty_like(embedding.weight))
            nn.init.normal_(self.weight, std=0.02)
        self.scale = embedding.embedding_dim**-0.5 if transform is not None and transform.head_scaled else None
        self.embedding = (embedding,)  # in a tuple: the table belongs to the embedder and is saved there once

    def forward(self, x: Tensor) -> Tensor:
        x = self.transform(x)
        x = x if self.scale is None else x * self.scale
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if self.packed is not None:
            logits = self.packed.linear(x, bias)
            return self._refine(logits, x) if isinstance(self.packed, matmul.Int4Weight) else logits
        weight = self._output_weight if self.converted is None else self.converted
        return F.linear(x, weight.to(x.dtype), bias)

    def _refine(self, logits: Tensor, x: Tensor) -> Tensor:
        """Return the logits (m, v) in fp32, those of the likeliest tokens computed from the weights that were not rounded.

        The choice among these tokens thus does not suffer from the rounding.
        logits: (m, v), from weights of 4 bits. x: (m, d), what the output weights multiply.
        """
        likeliest = logits.topk(min(REFINED_TOKENS, logits.shape[-1])).indices
        refined = (F.embedding(likeliest, self._output_weight).float() @ x.float()[..., None])[..., 0]
        if self.bias is not None:
            refined += self.bias[likeliest]
        return logits.float().scatter_(-1, likeliest, refined)

    def pack(self, dtype: torch.dtype, quantize: bool = False) -> None:
        """Keep a copy of the output weights in `dtype`, so that a step of decoding need not convert the whole table.

        Afterwards the head cannot be trained any more. quantize: whether the copy has 4 bits for each number, where its
        dimensions allow it.
        """
        weight = self._output_weight.detach()
        if weight.dtype == dtype:
            return
        self.converted = weight.to(dtype)
        self.packed = matmul.pack_weight(self.converted, quantize)
        if self.packed is not None:
            self.converted = None

    @property
    def _output_weight(self) -> Tensor:
        """Return the output weights (v, d): the head's own, or the token embeddings."""
        return self.embedding[0].weight if self.weight is None else self.weight


def cross_entropy(logits: Tensor, values: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the summed cross-entropy of logits (m, v) with token ids (m,), as an fp32 scalar.

    smoothing: label smoothing (Szegedy et al. 2016), the share of each label that is spread over the whole vocabulary.
    """
    return cast(Tensor, CrossEntropy.apply(logits, values, smoothing))  # type: ignore[no-untyped-call]


class CrossEntropy(torch.autograd.Function):
    """The summed cross-entropy of logits (m, v) with token ids (m,), computed in fp32 for a few rows at a time to save memory.

    The forward pass also computes the gradient, since both need the same exponentials. The gradient is saved for the backward
    pass, and the logits are not.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor, smoothing: float = 0.0) -> Tensor:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        loss = torch.zeros((), device=logits.device)
        num_tokens = logits.shape[-1]
        for start in range(0, len(logits), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            # `scores` is overwritten in place: first logits, then exponentials, then the gradient.
            ids, scores = values[rows, None], logits[rows].to(torch.float32, copy=True)
            highest = scores.amax(dim=-1, keepdim=True)
            # −log softmax = highest − score + log Σ exp(score − highest), which cannot overflow.
            answer_loss = (highest - scores.gather(1, ids)).sum()
            if smoothing:
                mean_loss = (highest - scores.mean(dim=-1, keepdim=True)).sum()
                answer_loss = torch.lerp(answer_loss, mean_loss, smoothing)
            loss += answer_loss
            sums = scores.sub_(highest).exp_().sum(dim=-1, keepdim=True)
            loss += sums.log().sum()
            if gradient is not None:
                scores.div_(sums).scatter_add_(1, ids, torch.full_like(sums, smoothing - 1))
                gradient[rows] = scores.sub_(smoothing / num_tokens) if smoothing else scores
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None, None
