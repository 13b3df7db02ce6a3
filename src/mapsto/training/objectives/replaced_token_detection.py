"""replaced: a small generator fills what is hidden, and the model learns which tokens are not the ones that stood there.

ELECTRA (Clark et al. 2020): every token teaches, not the hidden ones alone. The generator is the same stack with fewer layers
and shares the embeddings. Legend of shapes: t tokens, m hidden tokens, v vocabulary, d width.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.data.sampling import mix
from mapsto.model.layers import Linear, Transform, TransformConfig
from mapsto.model.mapping import Mapping
from mapsto.model.transformer import Transformer
from mapsto.sequence.batch import Batch, PackedAnswers
from mapsto.training.objectives import Objective, bare, only_source

GENERATOR_SHARE = 1 / 3


DETECTION_WEIGHT = 50.0


ROWS_AT_ONCE = 64


class Replaced(Objective):
    """Hidden tokens of the one corrupted source, filled by a generator that learns along, told apart by the model itself."""

    watches = False

    def __init__(self, mapping: Mapping) -> None:
        self.kind = only_source(mapping, "replaced")
        shape, head = mapping.config.transformer, mapping.config.vocabulary_head or TransformConfig()
        device = next(mapping.parameters()).device
        generator = Transformer(replace(shape, layers=max(1, round(shape.layers * GENERATOR_SHARE))))
        mapping.generator = generator.to(device)
        mapping.detector = nn.Sequential(Transform(shape.width, head), Linear(shape.width, 1)).to(device)

    def terms(self, mapping: Mapping) -> int:
        """The generator's, and the model's."""
        return 2

    def losses(self, mapping: Mapping, batch: Batch) -> list[tuple[int, Tensor]]:
        """The generator's loss over the hidden tokens, and the model's over all of them."""
        readout = batch.answers[0]
        assert readout is not None
        generator, detector = mapping.get_submodule("generator"), mapping.get_submodule("detector")
        hidden = generator(mapping.embed(batch), batch)
        guesses = mapping.read(hidden, batch, 0)
        filled, is_other = fill(batch, self.kind, readout, sample(guesses.detach(), chances(batch, readout)))
        seen = mapping.hidden(filled).flatten(0, 1)[batch.slots[self.kind]]
        told = F.binary_cross_entropy_with_logits(detector(seen)[:, 0].float(), is_other, reduction="sum")
        return [(0, mapping.targets[0].loss(guesses, readout.values)), (1, DETECTION_WEIGHT * told)]

    def counts(self, batch: Batch) -> dict[int, int]:
        """Hidden tokens, and all tokens."""
        readout = batch.answers[0]
        return {0: 0 if readout is None else len(readout.values), 1: len(batch.tokens[self.kind])}

    def finish(self, mapping: Mapping) -> None:
        """Keep the model: the generator and its head were its opponent."""
        del mapping.generator, mapping.detector
        bare(mapping)


@torch.no_grad()
def sample(logits_mv: Tensor, chances_m: Tensor) -> Tensor:
    """The token (m,) of each row of logits below which its chance, from 0 to 1, falls; a few rows at a time, since they are many
    numbers."""
    found = []
    parts = (torch.split(of_all, ROWS_AT_ONCE) for of_all in (logits_mv, chances_m))
    for logits, chances in zip(*parts, strict=True):
        below = torch.softmax(logits.float(), dim=-1).cumsum(dim=-1)
        found.append(torch.searchsorted(below, chances[:, None] * below[:, -1:], right=True)[:, 0])
    return torch.cat(found).clamp(max=logits_mv.shape[1] - 1)


def chances(batch: Batch, readout: PackedAnswers) -> Tensor:
    """A number from 0 to 1 for each hidden token (m,), from what is drawn for its row: the same in any batch and process."""
    of = readout.examples.cpu().numpy()
    nth = np.arange(len(of)) - np.searchsorted(of, of)
    drawn = mix(batch.draws[of] + nth.astype(np.uint64), 0) >> np.uint64(40)
    return torch.from_numpy(drawn.astype(np.float32) / 2**24).to(readout.values.device)


def fill(batch: Batch, kind: str, readout: PackedAnswers, guessed_m: Tensor) -> tuple[Batch, Tensor]:
    """The batch with the guesses in the hidden places, and for each of its tokens (t,) whether it is not what stood there."""
    assert readout.at is not None
    of_place = torch.zeros(batch.segments.numel(), dtype=torch.long, device=guessed_m.device)
    of_place[batch.slots[kind]] = torch.arange(len(batch.slots[kind]), device=guessed_m.device)
    hidden = of_place[readout.at]
    tokens = batch.tokens[kind].index_copy(0, hidden, guessed_m)
    is_other = torch.zeros(len(tokens), device=guessed_m.device).index_copy(
        0, hidden, (guessed_m != readout.values).float()
    )
    return replace(batch, tokens={**batch.tokens, kind: tokens}), is_other
