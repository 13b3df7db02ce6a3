"""A vector for every value: of a list, or of the rows of tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapsto.data.encoding import EncodedRows
from mapsto.data.rows import bind_to
from mapsto.data.table import Table
from mapsto.errors import UsageError, near
from mapsto.inference.forward import ahead, over
from mapsto.inference.predictor import Predictor, read_value
from mapsto.model.config import Pooling
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch, Example
from mapsto.task.arrow import Arrow

Read = Callable[[Tensor, Batch], Tensor]


class Embedder(Predictor):
    """A mapping made ready to give vectors: the answer of a row is {"vector": [d numbers]}, read as `embed` says."""

    def __init__(
        self, mapping: Mapping, device: str = "auto", precision: str = "auto", pooling: str | None = None
    ) -> None:
        super().__init__(mapping, device, precision)
        self._read, self._longest = reading(self.mapping, pooling)

    @property
    def longest(self) -> int:
        """How many tokens of an example are read."""
        return self._longest

    def bound(self, table: Table) -> Arrow:
        """The arrow with the columns of a table; nothing is answered. Raises UsageError."""
        return bind_to(self.arrow, table, answers=False)

    def _examples(self, encoded: EncodedRows) -> list[Example]:
        return [Example(pieces, (), int(of)) for pieces, of in zip(encoded.pieces, encoded.row_indices, strict=True)]

    def _decode(self, examples: Sequence[Example], count: int) -> list[dict[str, Any]]:
        return [{"vector": row} for row in vectors(self.mapping, examples, count, self.device, self._read).tolist()]


def embed(
    mapping: Mapping, values: Sequence[Any], device: torch.device, pooling: str | None = None
) -> NDArray[np.float32]:
    """One vector a value, (n, d): values of the arrow's one source, read as `pooling` says, by default as a sentence encoder was
    trained to give them, else as the model pools. Raises UsageError."""
    if len(mapping.arrow.sources) != 1:
        raise UsageError(f"embed takes values of one source; this model reads {mapping.arrow}")
    if isinstance(values, str) or not len(values):
        raise UsageError("embed takes a list of at least one value")
    read, longest = reading(mapping, pooling)
    source = mapping.sources[mapping.arrow.sources[0].kind]
    known = [read_value(source, value, row) for row, value in enumerate(values)]

    def encoded(part: list[tuple[int, Any]]) -> list[Example]:
        rows, told = zip(*part, strict=True)
        pieces = source.encode(told, 0)
        return [
            Example((piece if len(piece) <= longest else source.cut(piece, longest),), (), row)
            for row, piece in zip(rows, pieces, strict=True)
        ]

    def examples() -> Iterator[Example]:
        for part in ahead(enumerate(known), source.defaults.rows_at_once, encoded):
            yield from part

    return vectors(mapping, examples(), len(known), device, read)


def reading(mapping: Mapping, pooling: str | None) -> tuple[Read, int]:
    """How a vector is read out of hidden states, and how many tokens are read for it. Raises UsageError."""
    if pooling is not None and pooling not in (known := get_args(Pooling)):
        raise UsageError(f"no pooling {pooling!r}{near(str(pooling), known)}; there are: {', '.join(known)}")
    if pooling is not None:
        return lambda hidden, batch: mapping.pool(hidden, batch, pooling), mapping.config.max_tokens
    said = mapping.config.sentence
    return mapping.sentence, mapping.config.max_tokens if said is None else said.max_tokens


def vectors(
    mapping: Mapping, examples: Iterable[Example], count: int, device: torch.device, read: Read
) -> NDArray[np.float32]:
    """`read` of the hidden states of `count` examples, (count, d), each at the place of its row."""
    found: NDArray[np.float32] | None = None
    for batch, hidden in over(mapping, examples, device):
        part = read(hidden, batch).float().cpu().numpy()
        found = np.zeros((count, part.shape[1]), np.float32) if found is None else found
        found[batch.rows] = part
    assert found is not None
    return found
