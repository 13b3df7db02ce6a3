"""An index of unit vectors that finds the most similar ones exactly, faster than by a product of all numbers in fp32.

A product with bytes screens all vectors: it reads a quarter of the memory, which is what a search waits for. The rounding of each
vector is known, so each score lies within known bounds. Only vectors that can be among the best by these bounds are compared
again in fp32, so the result is that of the full product. Of equal scores the earlier vector comes first.
Legend of shapes: c vectors, q queries, d width, k results.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor

from mapsto import files
from mapsto.errors import CheckpointError

# The largest byte of a rounded number.
LARGEST = 127
# Approximate scores in memory at a time: 256 MB.
SCORES_AT_ONCE = 64 * 2**20
# Vectors that are rounded at a time, which bounds memory.
ROUNDED_AT_ONCE = 2**15
# The relative error of sums in fp32, with room to spare; bounds are widened by it.
FP32_ERROR = 1e-5


@dataclass(frozen=True)
class RoundedVectors:
    """Vectors rounded to bytes: vector i is about scales[i] · codes[i].

    codes: (c, d) int8. scales: (c,). errors: (c,), the norm of what rounding took from each vector.
    """

    codes: Tensor
    scales: Tensor
    errors: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> RoundedVectors:
        """Return vectors (c, d) in fp32 rounded to bytes, each with a scale of its own."""
        parts = [cls._round(part) for part in torch.split(vectors, ROUNDED_AT_ONCE)]
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("codes", "scales", "errors")))

    @classmethod
    def _round(cls, vectors: Tensor) -> RoundedVectors:
        """Return vectors rounded to bytes; it takes several times their memory."""
        scales = vectors.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny * LARGEST) / LARGEST
        codes = (vectors / scales[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8)
        errors = torch.linalg.vector_norm(vectors - scales[:, None] * codes, dim=1)
        # The product of bytes in torch 2.13 is wrong for vectors of a single number, so these get a second one, 0.
        return cls(F.pad(codes, (0, 1)) if codes.shape[1] == 1 else codes, scales, errors)


class VectorIndex:
    """An index of vectors of length 1.

    vectors: (c, d) in fp32, on the CPU. rounded: the same vectors as bytes; None rounds them.
    """

    def __init__(self, vectors: Tensor, rounded: RoundedVectors | None = None) -> None:
        self.vectors, self.rounded = vectors, rounded or RoundedVectors.of(vectors)

    def __len__(self) -> int:
        return len(self.vectors)

    @cached_property
    def _largest_error(self) -> float:
        return float(self.rounded.errors.max())

    def search(self, queries: Tensor, top: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return for each query the cosines of the `top` most similar vectors, (k,), and their numbers, (k,), the best first.

        queries: (q, d) in fp32, of length 1.
        """
        scores: list[Tensor] = []
        numbers: list[Tensor] = []
        at_once = max(1, SCORES_AT_ONCE // max(len(self), 1))
        for part in torch.split(queries, at_once):
            for query, candidates in zip(part, self._screen(part, min(top, len(self))), strict=True):
                best_scores, best = rank_candidates(self.vectors, query, candidates, top)
                scores.append(best_scores)
                numbers.append(best)
        return scores, numbers

    def _screen(self, queries: Tensor, top: int) -> list[Tensor]:
        """Return for each query the sorted numbers of all vectors that can be among the `top` most similar ones."""
        rounded, query = self.rounded, RoundedVectors.of(queries)
        products = torch._int_mm(query.codes, rounded.codes.T).float()
        approximate = products.mul_(query.scales[:, None]).mul_(rounded.scales)
        # q·v − q̂·v̂ = q̂·(v − v̂) + (q − q̂)·v, by the Cauchy–Schwarz inequality with |v| = 1 and |q̂| ≤ 1 + |q − q̂|.
        bounds = (1 + query.errors) * self._largest_error + query.errors + FP32_ERROR
        lowest = approximate.topk(top, dim=1).values[:, -1] - 2 * bounds
        return [(scores >= limit).nonzero()[:, 0] for scores, limit in zip(approximate, lowest, strict=True)]

    def save(self, path: Path) -> None:
        """Write the vectors to a safetensors file. Raises RunError if the disk is full."""
        tensors = {
            "vectors": self.vectors,
            "codes": self.rounded.codes,
            "scales": self.rounded.scales,
            "errors": self.rounded.errors,
        }
        files.require_space(path.parent, sum(tensor.numel() * tensor.element_size() for tensor in tensors.values()))
        with files.replacing(path) as stream:
            # By name, since the bytes of a file in memory would be a second copy of all vectors.
            safetensors.torch.save_file(tensors, stream.name)

    @classmethod
    def open(cls, path: Path) -> VectorIndex:
        """Return the index that `save` wrote. Raises CheckpointError for a damaged file."""
        tensors = files.open_tensors(path)
        if {*tensors} != {"vectors", "codes", "scales", "errors"}:
            raise CheckpointError(f"{path} holds no index of vectors")
        return cls(tensors["vectors"], RoundedVectors(tensors["codes"], tensors["scales"], tensors["errors"]))


def rank_candidates(vectors: Tensor, query: Tensor, candidates: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Return the cosines of the `top` candidates that are most similar to a query, (k,), and their numbers, the best first.

    vectors: (c, d). query: (d,). candidates: sorted numbers of vectors; of equal cosines the smaller number comes first.
    """
    cosines = (vectors[candidates] * query).sum(1)
    order = torch.argsort(cosines, descending=True, stable=True)[:top]
    return cosines[order], candidates[order]


def index_bytes(count: int, width: int) -> int:
    """Return the bytes of an index of vectors (count, width): in fp32 and rounded, with the scale and error of each."""
    return count * (4 * width + width + 4 + 4)


def unit(vectors: Tensor, size: int | None = None) -> Tensor:
    """Return vectors (n, d) scaled to length 1, of their first `size` numbers only if a size is named."""
    return F.normalize(vectors[:, :size].float(), dim=-1).contiguous()
