"""Replaced-token detection: a small generator fills in masked tokens, and the model learns which tokens were replaced.

ELECTRA (Clark et al. 2020, https://arxiv.org/abs/2003.10555): the model learns from every token, not only from masked
ones. The generator has the model's architecture with a third of its layers and shares its embeddings; it adds about a
third to the cost of a step.
Legend of shapes: t tokens, m masked tokens, v vocabulary, d width.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.data.sampling import mix_bits
from mapsto.model.layers import Linear, Transform, TransformConfig
from mapsto.model.mapping import Mapping
from mapsto.model.transformer import Transformer
from mapsto.sequence.batch import Batch, PackedAnswers
from mapsto.training.objectives import Objective, remove_targets, require_one_source

# The generator's layers as a share of the model's, and the weight of the detection loss, both as in the paper.
GENERATOR_SHARE = 1 / 3
DETECTION_WEIGHT = 50.0

# Tokens sampled at a time, to bound memory: each needs a row of logits as long as the vocabulary.
LOGIT_ROWS_AT_ONCE = 64


class ReplacedTokenDetection(Objective):
    """The ELECTRA objective: the generator's masked-token loss, and the model's loss of detecting replaced tokens."""

    trains_heads = False

    def __init__(self, mapping: Mapping) -> None:
        self.kind = require_one_source(mapping, "replaced")
        config, head = mapping.config.transformer, mapping.config.vocabulary_head or TransformConfig()
        device = next(mapping.parameters()).device
        generator = Transformer(replace(config, layers=max(1, round(config.layers * GENERATOR_SHARE))))
        mapping.generator = generator.to(device)
        mapping.detector = nn.Sequential(Transform(config.width, head), Linear(config.width, 1)).to(device)

    def num_terms(self, mapping: Mapping) -> int:
        """Return 2: the generator's loss and the detection loss."""
        return 2

    def losses(self, mapping: Mapping, batch: Batch) -> list[tuple[int, Tensor]]:
        readout = batch.answers[0]
        assert readout is not None
        generator, detector = mapping.get_submodule("generator"), mapping.get_submodule("detector")
        hidden = generator(mapping.embed(batch), batch)
        logits_mv = mapping.read(hidden, batch, 0)
        # Sampling has no gradient: the generator learns from its own loss alone.
        sampled_m = sample_tokens(logits_mv.detach(), uniform_draws(batch, readout))
        replaced_batch, is_replaced_t = replace_tokens(batch, self.kind, readout, sampled_m)
        hidden_td = mapping.hidden(replaced_batch).flatten(0, 1)[batch.slots[self.kind]]
        detection_t = detector(hidden_td)[:, 0].float()
        detection_loss = F.binary_cross_entropy_with_logits(detection_t, is_replaced_t, reduction="sum")
        generator_loss = mapping.targets[0].loss(logits_mv, readout.values)
        return [(0, generator_loss), (1, DETECTION_WEIGHT * detection_loss)]

    def counts(self, batch: Batch) -> dict[int, int]:
        """Return {0: number of masked tokens, 1: number of all tokens}, the losses summed in the two terms."""
        readout = batch.answers[0]
        return {0: 0 if readout is None else len(readout.values), 1: len(batch.tokens[self.kind])}

    def finish(self, mapping: Mapping) -> None:
        """Remove the generator, the detection head and the vocabulary head, which leaves the encoder."""
        del mapping.generator, mapping.detector
        remove_targets(mapping)


@torch.no_grad()
def sample_tokens(logits_mv: Tensor, uniform_m: Tensor) -> Tensor:
    """Sample a token id (m,) from each row of logits (m, v) by inverting the cumulative distribution.

    uniform_m: a random number from 0 to 1 for each row, which determines the sample.
    """
    sampled = []
    chunks = (torch.split(tensor, LOGIT_ROWS_AT_ONCE) for tensor in (logits_mv, uniform_m))
    for logits, uniform in zip(*chunks, strict=True):
        cumulative = torch.softmax(logits.float(), dim=-1).cumsum(dim=-1)
        # Rounding leaves the last cumulative probability a little off 1.
        sampled.append(torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0])
    return torch.cat(sampled).clamp(max=logits_mv.shape[1] - 1)


def uniform_draws(batch: Batch, readout: PackedAnswers) -> Tensor:
    """Draw a uniform number from 0 to 1 for each masked token, (m,).

    Each number depends only on the random number of the token's example and on how many masked tokens come before it
    there, not on the batch or the process.
    """
    examples = readout.examples.cpu().numpy()
    index_in_example = np.arange(len(examples)) - np.searchsorted(examples, examples)
    # The 24 highest bits, as many as a float32 holds exactly.
    bits = mix_bits(batch.draws[examples] + index_in_example.astype(np.uint64), 0) >> np.uint64(40)
    return torch.from_numpy(bits.astype(np.float32) / 2**24).to(readout.values.device)


def replace_tokens(batch: Batch, kind: str, readout: PackedAnswers, sampled_m: Tensor) -> tuple[Batch, Tensor]:
    """Return (batch with the sampled tokens at the masked positions, labels (t,): 1 for a replaced token, else 0).

    kind: the kind of the tokens. readout: the masked positions and the original tokens there.
    sampled_m: (m,), the sampled token ids. One that equals the original token counts as not replaced.
    """
    assert readout.at is not None
    token_at_place = torch.zeros(batch.segments.numel(), dtype=torch.long, device=sampled_m.device)
    token_at_place[batch.slots[kind]] = torch.arange(len(batch.slots[kind]), device=sampled_m.device)
    masked_m = token_at_place[readout.at]
    tokens = batch.tokens[kind].index_copy(0, masked_m, sampled_m)
    differs_m = (sampled_m != readout.values).float()
    is_replaced_t = torch.zeros(len(tokens), device=sampled_m.device).index_copy(0, masked_m, differs_m)
    return replace(batch, tokens={**batch.tokens, kind: tokens}), is_replaced_t
