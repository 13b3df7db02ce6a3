"""Random codes of sounds, which pretraining predicts where tokens are hidden (BEST-RQ, Chiu et al. 2022).

The frames of a token are projected by a random matrix, and the nearest of random vectors is the token's code. Neither is
learnt. The frames must be standardised, or most tokens would get one code.
Legend of shapes: m tokens, f numbers of a token's frames, e numbers of a projection, c codes.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# The numbers of codes and of entries of a projection, and the seed of both tables.
NUM_CODES, PROJECTED, SEED = 1024, 16, 0


@cache
def code_tables(num_features: int) -> tuple[Tensor, Tensor]:
    """Return the projection (f, e) and the vectors of the codes (c, e), of length 1, for tokens with this number of features."""
    rng = np.random.Generator(np.random.Philox(key=[SEED, num_features]))
    projection = rng.normal(size=(num_features, PROJECTED)).astype(np.float32)
    vectors = torch.from_numpy(rng.normal(size=(NUM_CODES, PROJECTED)).astype(np.float32))
    return torch.from_numpy(projection), F.normalize(vectors, dim=-1)


def find_codes(features: Tensor) -> Tensor:
    """Return the code of each token, (m,). features: (m, f), the standardised frames of tokens."""
    projection, vectors = (table.to(features.device) for table in code_tables(features.shape[1]))
    # Of vectors of one length, the nearest has the largest product.
    return (features @ projection @ vectors.T).argmax(dim=-1)
