"""Encoder–decoder (Vaswani et al. 2017): one stack reads the sources, and a second one the answer, with cross-attention.

Sources and answers come packed in the same rows. They are separated here: each stack computes rows of its own tokens alone, and
the states go back to the places of their tokens, where heads read them.
Legend of shapes: r rows, l row length, d width, n examples, m tokens of answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mapsto.model.cross_attention import EncodedSources, Observer, cross_mask
from mapsto.model.kv_cache import KeyValueCache, Memory, Recorder
from mapsto.model.transformer import Transformer
from mapsto.sequence.batch import Batch
from mapsto.sequence.packing import drop_tokens


@dataclass(frozen=True)
class Part:
    """The tokens of one side, sources or answers, packed in rows of their own.

    batch: these rows. places: flat places of the tokens in the rows that hold both sides, in the order of the part's rows.
    """

    batch: Batch
    places: Tensor

    @property
    def own_places(self) -> Tensor:
        """Return the flat places of the tokens in the part's own rows, in the order of `places`."""
        return (self.batch.segments > 0).flatten().nonzero()[:, 0]

    def take(self, x: Tensor) -> Tensor:
        """Return the vectors of this part's tokens in its own rows, zero in padding. x: (r, l, d), of both sides."""
        rows = x.new_zeros(self.batch.segments.numel(), x.shape[-1])
        return rows.index_copy(0, self.own_places, F.embedding(self.places, x.flatten(0, 1))).view(
            *self.batch.segments.shape, -1
        )

    def scatter(self, states: Tensor, out: Tensor) -> Tensor:
        """Return `out` (r · l, d), of both sides, with the states (r, l', d) of this part at the places of its tokens."""
        return out.index_copy(0, self.places, F.embedding(self.own_places, states.flatten(0, 1)))

    def starts(self, places: Tensor) -> Tensor:
        """Return the flat places in this part's own rows of the tokens at these places of the rows that hold both sides."""
        return self.own_places[torch.searchsorted(self.places, places)]


def separate(batch: Batch) -> tuple[Part, Part]:
    """Return the sources and the answers of a packed batch. The positions of an answer's tokens count from 0."""
    is_answer = batch.is_answer.flatten()
    answers, sources = ((mask & (batch.segments.flatten() > 0)).nonzero()[:, 0] for mask in (is_answer, ~is_answer))
    positions = batch.positions.clone().flatten(0, 1)
    positions[answers, 0] -= batch.lengths[batch.examples_of(answers)]
    counted = replace(batch, positions=positions.view_as(batch.positions))
    return Part(*drop_tokens(batch, answers)), Part(*drop_tokens(counted, sources))


def encode_and_decode(encoder: Transformer, decoder: Transformer, x: Tensor, batch: Batch) -> Tensor:
    """Return the states (r, l, d) of all tokens: those of the sources by the encoder, those of the answers by the decoder.

    x: embedded tokens, (r, l, d).
    """
    hidden, _ = _run(encoder, decoder, x, batch)
    return hidden


def attention_weights(
    encoder: Transformer, decoder: Transformer, x: Tensor, batch: Batch, heads: Sequence[tuple[int, int]]
) -> Tensor:
    """Return the weights (k, l, s) with which the l answer tokens of an example attend to its s source tokens.

    x: embedded tokens, (r, l, d). batch: a single example with its answer. heads: layer and head of each of the k heads.
    """
    weights: dict[tuple[int, int], Tensor] = {}

    def observe(layer: int, queries: Tensor, keys: Tensor) -> None:
        for head in (head for own_layer, head in heads if own_layer == layer):
            scores = queries[0, :, head].float() @ keys[0, :, head].float().T
            if decoder.config.scaled_scores:
                scores = scores * queries.shape[-1] ** -0.5
            weights[layer, head] = scores[:num_answers, :num_sources].softmax(-1)

    num_answers, num_sources = int(batch.answer_lengths[0]), int(batch.lengths[0])
    _run(encoder, decoder, x, batch, observe=observe)
    return torch.stack([weights[head] for head in heads])


def start_decoding(encoder: Transformer, decoder: Transformer, x: Tensor, batch: Batch) -> tuple[Tensor, KeyValueCache]:
    """Return the states (r, l, d) of all tokens, and the cache from which the decoder goes on with the answers.

    x: embedded tokens, (r, l, d). batch: examples that have the first tokens of their answers.
    """
    self_recorder, cross_recorder = Recorder(), Recorder()
    hidden, (sources, answers) = _run(encoder, decoder, x, batch, (self_recorder, cross_recorder))
    memory = Memory(*cross_recorder.gather(sources.starts(batch.starts), batch.lengths), batch.lengths)
    keys, values = self_recorder.gather(answers.starts(batch.starts + batch.lengths), batch.answer_lengths)
    return hidden, KeyValueCache(keys, values, batch.answer_lengths, memory)


def _run(
    encoder: Transformer,
    decoder: Transformer,
    x: Tensor,
    batch: Batch,
    recorders: tuple[Recorder | None, Recorder | None] = (None, None),
    observe: Observer | None = None,
) -> tuple[Tensor, tuple[Part, Part]]:
    """Return the states (r, l, d) of all tokens, and the sources and the answers in rows of their own.

    recorders: keep the keys and values of the decoder's self-attention, and of its cross-attention.
    observe: is called with the queries and keys of each cross-attention.
    """
    sources, answers = separate(batch)
    encoded = encoder(sources.take(x), sources.batch)
    mask = cross_mask(answers.batch.segments, sources.batch.segments, encoded.dtype)
    attended = EncodedSources(encoded, mask, recorders[1], observe)
    decoded = decoder(answers.take(x), answers.batch, store=recorders[0], sources=attended)
    hidden = encoded.new_zeros(batch.segments.numel(), encoded.shape[-1])
    hidden = answers.scatter(decoded, sources.scatter(encoded, hidden))
    return hidden.view(*batch.segments.shape, -1), (sources, answers)
