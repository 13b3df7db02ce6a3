"""Embedding: one vector for every value of a list, or for every row of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapsto.data.encoding import EncodedRows
from mapsto.data.rows import Rows, bind_to
from mapsto.data.table import Table
from mapsto.errors import UsageError, near
from mapsto.inference.forward import forward_batches, prefetch
from mapsto.inference.predictor import Predictor, read_value
from mapsto.model.config import Pooling
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch, Example
from mapsto.task.arrow import Arrow

Pool = Callable[[Tensor, Batch], Tensor]  # computes one vector per example, (n, d), from hidden states (r, l, d)


class Embedder(Predictor):
    """A predictor whose answer to a row is a vector: {"vector": [d numbers]}.

    pooling: how hidden states are pooled into the vector: "first", "mean" or another Pooling; None for the pooling that
        the model was trained with.
    """

    def __init__(
        self, mapping: Mapping, device: str = "auto", precision: str = "auto", pooling: str | None = None
    ) -> None:
        super().__init__(mapping, device, precision)
        self._pool, self._max_tokens = choose_pool(self.mapping, pooling)

    @property
    def max_tokens(self) -> int:
        """Return the maximum number of tokens per example, special tokens included; longer examples are cut."""
        return self._max_tokens

    def bind(self, table: Table) -> Arrow:
        """Return the arrow with its sources bound to a table's columns. Raises UsageError if a column is missing."""
        return bind_to(self.arrow, table, answers=False)

    def _make_examples(self, encoded: EncodedRows) -> list[Example]:
        """Return an example for each encoded row, without answers to predict, since an embedder reads no target port."""
        return [Example(pieces, (), int(row)) for pieces, row in zip(encoded.pieces, encoded.row_indices, strict=True)]

    def _decode(self, examples: Sequence[Example], rows: Rows) -> list[dict[str, Any]]:
        """Run the forward pass over the examples of some rows, and return {"vector": [d numbers]} for each row."""
        vectors = embed_examples(self.mapping, examples, len(rows), self.device, self._pool)
        return [{"vector": vector} for vector in vectors.tolist()]


def embed(
    mapping: Mapping, values: Sequence[Any], device: torch.device, pooling: str | None = None
) -> NDArray[np.float32]:
    """Return one vector per value, (n, d).

    values: n values of the kind that the model reads, such as texts.
    pooling: "first", "mean" or another Pooling; None for the pooling that the model was trained with.

    Raises UsageError for a model with several sources, and for an unknown pooling.
    """
    if len(mapping.arrow.sources) != 1:
        raise UsageError(f"embed takes values of one source; this model reads {mapping.arrow}")
    # A text would be taken for the list of its characters.
    if isinstance(values, str) or not len(values):
        raise UsageError("embed takes a list of at least one value")
    pool, max_tokens = choose_pool(mapping, pooling)
    source = mapping.sources[mapping.arrow.sources[0].kind]
    read_values = [read_value(source, value, index) for index, value in enumerate(values)]

    def encode_chunk(chunk: list[tuple[int, Any]]) -> list[Example]:
        rows, chunk_values = zip(*chunk, strict=True)
        pieces = source.encode(chunk_values, 0)
        return [
            Example((piece if len(piece) <= max_tokens else source.cut(piece, max_tokens),), (), row)
            for row, piece in zip(rows, pieces, strict=True)
        ]

    def iterate_examples() -> Iterator[Example]:
        for chunk in prefetch(enumerate(read_values), source.defaults.rows_at_once, encode_chunk):
            yield from chunk

    return embed_examples(mapping, iterate_examples(), len(read_values), device, pool)


def choose_pool(mapping: Mapping, pooling: str | None) -> tuple[Pool, int]:
    """Return (function that pools hidden states into vectors, maximum number of tokens per example).

    pooling: None for the pooling that the model was trained with. Raises UsageError for an unknown one, and for a
        linear model.
    """
    if mapping.config.is_linear:
        raise UsageError("a linear model has no vectors: it adds up what each n-gram says of the answers")
    choices = get_args(Pooling)
    if pooling is not None and pooling not in choices:
        raise UsageError(f"no pooling {pooling!r}{near(str(pooling), choices)}; there are: {', '.join(choices)}")
    if pooling is not None:
        # Bypasses the pooling and the length that a sentence encoder was trained with.
        return lambda hidden, batch: mapping.pool(hidden, batch, pooling), mapping.config.max_tokens
    # A sentence encoder may have been trained on shorter texts than the model could read.
    sentence = mapping.config.sentence
    return mapping.sentence_vectors, mapping.config.max_tokens if sentence is None else sentence.max_tokens


def embed_examples(
    mapping: Mapping, examples: Iterable[Example], count: int, device: torch.device, pool: Pool
) -> NDArray[np.float32]:
    """Return the pooled vector of every example, (count, d); `vectors[i]` is that of the example with row number i.

    count: number of rows, one per example. pool: computes the vectors of a batch from its hidden states.
    """
    vectors: NDArray[np.float32] | None = None
    for batch, hidden in forward_batches(mapping, examples, device):
        batch_vectors = pool(hidden, batch).float().cpu().numpy()
        if vectors is None:  # the width is known by the first batch
            vectors = np.zeros((count, batch_vectors.shape[1]), np.float32)
        # Packing changes the order of the examples.
        vectors[batch.rows] = batch_vectors
    assert vectors is not None
    return vectors
