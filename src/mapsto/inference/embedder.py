"""Embedding: one vector for every value of a list, or for every row of a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from mapsto.data.encoding import EncodedRows
from mapsto.data.rows import Rows, bind_to
from mapsto.data.table import Table
from mapsto.errors import RunError, UsageError, near
from mapsto.inference.forward import Pool, embed_examples, prefetch
from mapsto.inference.predictor import NOT_FINITE, Predictor, read_value
from mapsto.model.config import Pooling
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Example
from mapsto.task.arrow import Arrow
from mapsto.task.source_capabilities import Windowed


class Embedder(Predictor):
    """A predictor whose answer to a row is a vector: {"vector": [d numbers]}.

    pooling: how hidden states are pooled into the vector: "first", "mean" or another Pooling; None for the pooling that
        the model was trained with.
    """

    def __init__(
        self, mapping: Mapping, device: str = "auto", precision: str = "auto", pooling: str | None = None
    ) -> None:
        super().__init__(mapping, device, precision, long="cut")
        self._pool, self._max_tokens = choose_pool(self.mapping, pooling)

    @classmethod
    def sharing(cls, predictor: Predictor, pooling: str | None = None) -> Self:
        """Return an embedder with the weights of a predictor, which takes no further memory. pooling: as for a new one."""
        embedder = cls.__new__(cls)
        vars(embedder).update(vars(predictor), cut_rows=0)
        embedder._pool, embedder._max_tokens = choose_pool(embedder.mapping, pooling)
        return embedder

    @property
    def max_tokens(self) -> int:
        """Return the maximum number of tokens per example, special tokens included; longer examples are cut."""
        return self._max_tokens

    def bind(self, table: Table) -> Arrow:
        """Return the arrow with its sources bound to a table's columns. Raises UsageError if a column is missing.

        Of a matching arrow one source is read: the first whose column the table has, such as the passage without a query.
        """
        if self.arrow.symmetric:
            return bind_side(self.arrow, table, (0, 1))
        return bind_to(self.arrow, table, answers=False)

    def _make_examples(self, encoded: EncodedRows) -> list[Example]:
        """Return an example for each encoded row, without answers to predict, since an embedder reads no target port."""
        return [Example(pieces, (), row) for pieces, row in encoded]

    def _decode(self, examples: Iterable[Example], rows: Rows) -> list[dict[str, Any]]:
        """Run the forward pass over the examples of some rows, and return {"vector": [d numbers]} for each row."""
        vectors = embed_examples(self.mapping, examples, len(rows), self.device, self._pool)
        return [
            {"vector": vector.tolist()} if np.isfinite(vector).all() else {"error": NOT_FINITE} for vector in vectors
        ]


def bind_side(arrow: Arrow, table: Table, sides: Sequence[int], column: str | None = None) -> Arrow:
    """Return an arrow with one of the sources of `arrow`, bound to a column of the table.

    sides: the numbers of the sources, the first choice first. The first whose column the table has is taken; if there is none,
        any column that fits. An arrow that does not match values has one source. column: another column to take.
    Raises UsageError if no column or several fit.
    """
    ports = [arrow.sources[side] for side in sides] if arrow.symmetric else list(arrow.sources)
    port = next((port for port in ports if port.column in table.columns), replace(ports[0], column=None))
    port = port if column is None else replace(port, column=column)
    return bind_to(Arrow((port,), ()), table, answers=False)


def embed(
    mapping: Mapping,
    values: Sequence[Any],
    device: torch.device,
    pooling: str | None = None,
    side: int | None = None,
    on_cut: Callable[[int], object] = lambda row: None,
) -> NDArray[np.float32]:
    """Return one vector per value, (n, d).

    values: n values of the kind that the model reads, such as texts.
    pooling: "first", "mean" or another Pooling; None for the pooling that the model was trained with.
    side: 0 for queries and 1 for what is searched, which may have prompts of their own; None for neither.
    on_cut: called with the index of each value that is longer than the model takes and is cut.

    Raises UsageError for a model with several sources, and for an unknown pooling; RunError for a vector that is not finite.
    """
    if len(mapping.arrow.sources) != 1 and not mapping.arrow.symmetric:
        raise UsageError(f"embed takes values of one source; this model reads {mapping.arrow}")
    # A text would be taken for the list of its characters.
    if isinstance(values, str) or not len(values):
        raise UsageError("embed takes a list of at least one value")
    pool, max_tokens = choose_pool(mapping, pooling)
    source = mapping.sources[mapping.arrow.sources[0].kind]
    if isinstance(source, Windowed):
        # A vector stands for the value, not for the silence to which a decoder wants it padded.
        source = source.with_padding(False)
    read_values = [read_value(source, value, index) for index, value in enumerate(values)]
    if pooling is None and mapping.config.sentence is not None and (prompt := mapping.config.sentence.prompt(side)):
        read_values = [prompt + value for value in read_values]

    def encode_chunk(chunk: list[tuple[int, Any]]) -> list[Example]:
        rows, chunk_values = zip(*chunk, strict=True)
        pieces = source.encode(chunk_values, 0)
        for index, piece in enumerate(pieces):
            if len(piece) > max_tokens:
                on_cut(rows[index])
                pieces[index] = source.cut(piece, max_tokens)
        return [Example((piece,), (), row) for row, piece in zip(rows, pieces, strict=True)]

    def iterate_examples() -> Iterator[Example]:
        for chunk in prefetch(enumerate(read_values), source.defaults.rows_at_once, encode_chunk):
            yield from chunk

    vectors = embed_examples(mapping, iterate_examples(), len(read_values), device, pool)
    if not np.isfinite(vectors).all():
        index = int(np.flatnonzero(~np.isfinite(vectors).all(1))[0])
        raise RunError(f"value {index} (counted from 0): {NOT_FINITE}")
    return vectors


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
