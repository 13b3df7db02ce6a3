"""Forward passes over any number of examples, in packed batches and bounded memory.

Examples are packed as in training, so that no padding is computed. They are encoded in chunks: a thread encodes the
next chunk while the model computes the current one, so at most two chunks are in memory.
Legend of shapes: m outputs of a target port, n rows, r rows of a batch, l row length, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapsto.data.streamed_rows import StreamedRows
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Answer, Batch, Example
from mapsto.sequence.packing import make_batches
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.generation import Decoding, Generated, Searched
from mapsto.task.source_capabilities import LinearFeatures
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Composed, Located, Reconstruction, TwiceRead, gather_outputs

TOKENS_PER_BATCH = 4096
# The most bytes of the pieces of examples that are encoded ahead, but for the last example: 14 windows of 30 seconds of sound.
MAX_CHUNK_BYTES = 2**25

Report = Callable[[int], None]  # is called after each batch with its number of examples, to report progress

Pool = Callable[[Tensor, Batch], Tensor]  # computes one vector per example, (n, d), from hidden states (r, l, d)

# Computes a tensor on the CPU for each example of a batch from (hidden states, batch, pieces of each example).
ReadExamples = Callable[[Tensor, Batch, Sequence[Sequence[Piece]]], Sequence[Tensor] | Tensor]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class RowReader:
    """A computation of one tensor for each row from the hidden states of its examples, of which a long row has several (windows).

    read: computes a tensor for each example of a batch: (n, …), or a list of n tensors whose sizes differ.
    target: composes the tensors of a row's windows; None if their mean is taken.
    """

    read: ReadExamples
    target: Composed | None = None


@dataclass(frozen=True)
class Evidence:
    """The outputs of one target port for examples with labels, in the form in which the target's metrics take them.

    evidence: (m, …), the outputs, or for large outputs the part that the metrics need.
    values: (m, …), the encoded labels.
    rows: (m,), the row number of each entry of `evidence`.
    """

    evidence: Tensor
    values: Tensor
    rows: Ints


def forward_batches(
    mapping: Mapping, examples: Iterable[Example], device: torch.device
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each packed batch of examples with its hidden states (r, l, d).

    `batch.rows` has the row number of each example.
    """
    for chunk in iterate_chunks(mapping, examples):
        with torch.inference_mode():
            for batch in make_batches(chunk, TOKENS_PER_BATCH):
                batch_on_device = batch.to(device)
                yield batch_on_device, mapping.hidden(batch_on_device)


def iterate_chunks(mapping: Mapping, examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Yield the examples in lists of at most `chunk_size(mapping)`, or of MAX_CHUNK_BYTES, so that memory stays bounded.

    A thread reads and encodes the next list while the caller uses the current one.
    """

    def size_of(example: Example) -> int:
        return sum(piece.nbytes for piece in example.pieces)

    return prefetch(examples, chunk_size(mapping), list, size_of)


def chunk_size(mapping: Mapping) -> int:
    """Return how many examples may be in memory at a time: the smallest such limit of the model's source kinds."""
    return min(source.defaults.rows_at_once for source in mapping.sources.values())


def prefetch(
    items: Iterable[T], size: int, convert: Callable[[list[T]], R], size_of: Callable[[T], int] | None = None
) -> Iterator[R]:
    """Yield `convert(chunk)` for consecutive chunks of `size` items, or fewer where they have more than MAX_CHUNK_BYTES.

    A thread converts the next chunk while the caller uses the current one.
    size_of: returns the bytes of an item; None for items that do not count.
    """
    iterator = iter(items)

    def convert_next() -> tuple[bool, R | None]:
        chunk: list[T] = []
        num_bytes = 0
        while len(chunk) < size and num_bytes < MAX_CHUNK_BYTES:
            for item in islice(iterator, 1):
                chunk.append(item)
                num_bytes += 0 if size_of is None else size_of(item)
                break
            else:
                return False, convert(chunk) if chunk else None
        return True, convert(chunk)

    # The first chunk is converted without a thread. Short inputs have no other chunk.
    goes_on, converted = convert_next()
    with ThreadPoolExecutor(1) as pool:
        while converted is not None:
            future = pool.submit(convert_next) if goes_on else None
            yield converted
            goes_on, converted = future.result() if future else (False, None)


def collect_evidence(
    mapping: Mapping,
    examples: Iterable[Example],
    device: torch.device,
    report: Report = lambda count: None,
    of_windows: bool = False,
) -> dict[int, Evidence]:
    """Return by target port its evidence (outputs and labels), on the CPU; only ports for which examples carry labels.

    report: called after each batch with its number of examples.
    of_windows: whether composed targets, whose answers are those of rows, have evidence too: the outputs at the tokens of each
        window, from which calibration fits a temperature.
    """
    parts: dict[int, list[Evidence]] = {}
    for chunk in iterate_chunks(mapping, examples):
        pieces = {example.row: example.pieces for example in chunk}
        for batch, hidden in forward_batches(mapping, chunk, device):
            for port, answers in enumerate(batch.answers):
                if answers is None:
                    continue
                target = mapping.targets[port]
                # Its answers are those of rows, or are generated; see `row_outputs`.
                if isinstance(target, Generated) or (isinstance(target, Composed) and not of_windows):
                    continue
                evidence = target.evidence(mapping.read(hidden, batch, port), answers.values).float().cpu()
                rows = batch.rows[answers.examples.cpu().numpy()]
                # An answer in raw coordinates, such as boxes, is one value per example, computed from several outputs.
                if isinstance(target, Located) and not isinstance(target, Composed):
                    rows = batch.rows[torch.unique_consecutive(answers.examples).cpu().numpy()]
                    evidence = target.by_example(evidence, [pieces[row] for row in rows.tolist()])
                parts.setdefault(port, []).append(Evidence(evidence, answers.values.cpu(), rows))
            report(len(batch.rows))
    return {
        # Sorted, so that scores are printed in the order of the target ports.
        port: Evidence(
            torch.cat([part.evidence for part in port_parts]),
            torch.cat([part.values for part in port_parts]),
            np.concatenate([part.rows for part in port_parts]),
        )
        for port, port_parts in sorted(parts.items())
    }


def familiarity_vectors(mapping: Mapping, hidden: Tensor, batch: Batch, pieces: Sequence[Sequence[Piece]]) -> Tensor:
    """Return the vector of each example that its familiarity depends on, (n, d) in fp32 on the CPU.

    It stands for the sources, see `Mapping.source_vectors`; in a linear model it is made of the classical features.
    hidden: hidden states (r, l, d). pieces: the pieces of each example, one per source.
    """
    for source in mapping.sources.values():
        if isinstance(source, LinearFeatures):
            return torch.from_numpy(source.feature_vectors([own[0] for own in pieces]))
    return mapping.source_vectors(hidden, batch).float().cpu()


def make_questions(mapping: Mapping, pieces: Sequence[Piece]) -> tuple[Answer | None, ...]:
    """Return for each target port an empty answer (a question) that says at which tokens of an example the port is read.

    The entry is None for a port with nothing to read, such as a text without masked tokens.
    pieces: the pieces of the example, one per source.
    """
    questions: list[Answer | None] = []
    for target, port in zip(mapping.targets, mapping.arrow.targets, strict=True):
        source = port.restores
        if source is None:
            questions.append(target.questions(pieces))
            continue
        # A restored source is asked alone, as if it stood first; its places move behind the pieces before it.
        question, offset = target.questions(pieces[source : source + 1]), sum(map(len, pieces[:source]))
        questions.append(
            None if question is None or question.at is None else replace(question, at=question.at + offset)
        )
    return tuple(questions)


def question_examples(mapping: Mapping, encoded: Iterable[tuple[tuple[Piece, ...], int]]) -> Iterator[Example]:
    """Yield an example per entry of `encoded`, with an empty answer for every target port, so that all ports are read.

    encoded: (pieces, row) of each example, such as EncodedRows.
    """
    for pieces, row in encoded:
        yield Example(pieces, make_questions(mapping, pieces), row)


@dataclass(frozen=True)
class StreamedExamples:
    """The examples of rows that are encoded at each reading, since they need not fit into memory (`StreamedRows`)."""

    mapping: Mapping
    rows: StreamedRows

    def __iter__(self) -> Iterator[Example]:
        return question_examples(self.mapping, self.rows)


def token_outputs(
    mapping: Mapping, examples: Iterable[Example], port: int, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """Yield (row number, outputs (m, …) on the CPU) of each example in which target `port` is read at m tokens.

    Of a target that is read twice they are those of the second reading. examples: each with a row number of its own.
    """
    target = mapping.targets[port]
    if not isinstance(target, TwiceRead):
        yield from _read_tokens(mapping, examples, port, device)
        return
    by_row = {example.row: example for example in examples}
    again = []
    for row, output in _read_tokens(mapping, by_row.values(), port, device):
        answers = list(by_row[row].answers)
        answers[port] = target.ask_again(by_row[row].pieces, output)
        again.append(replace(by_row[row], answers=tuple(answers)))
    yield from _read_tokens(mapping, again, port, device)


def _read_tokens(
    mapping: Mapping, examples: Iterable[Example], port: int, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """Yield (row number, outputs (m, …) on the CPU) for the answers of target `port` of each example, in one reading."""
    for batch, hidden in forward_batches(mapping, examples, device):
        answers = batch.answers[port]
        if answers is not None:
            output = mapping.read(hidden, batch, port).float().cpu()
            # The outputs of one example stand together.
            examples_asked, counts = torch.unique_consecutive(answers.examples.cpu(), return_counts=True)
            rows = batch.rows[examples_asked.numpy()].tolist()
            yield from zip(rows, torch.split(output, counts.tolist()), strict=True)


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


def build_value(target: Target, pieces: Sequence[Piece], output: Tensor) -> Any:
    """Return the value, such as a picture, that a target generates for one example.

    pieces: the example's pieces; the value takes its shape from the piece of the source that the target lies in.
    output: (m, …), the target's outputs at all m tokens of this piece but the special ones.
    """
    assert isinstance(target, Located) and isinstance(target, Reconstruction)
    (piece,) = (piece for piece in pieces if piece.kind == target.lies_in)
    # All tokens of the value are predicted, which excludes the special tokens.
    return target.complete(None, piece, np.flatnonzero(~piece.special), output)


def port_reader(mapping: Mapping, port: int, decoding: Decoding | None = None) -> RowReader:
    """Return the reader of the outputs of target number `port` for each row. decoding: how its answers are chosen."""
    target = decoded_target(mapping.targets[port], decoding)

    def read(hidden: Tensor, batch: Batch, pieces: Sequence[Sequence[Piece]]) -> Sequence[Tensor] | Tensor:
        if isinstance(target, Composed) and batch.answers[port] is None:
            return [torch.zeros(0)] * len(pieces)  # no example has a word
        output = mapping.read(hidden, batch, port).float().cpu()
        return target.split(output, pieces) if isinstance(target, Composed) else gather_outputs(target, output, pieces)

    return RowReader(read, target if isinstance(target, Composed) else None)


def decoded_target(target: Target, decoding: Decoding | None) -> Target:
    """Return the target with the settings of decoding, if it has any. Raises UsageError for settings that it ignores."""
    return target if decoding is None or not isinstance(target, Searched) else target.with_decoding(decoding)


def read_rows(
    mapping: Mapping,
    examples: Iterable[Example],
    count: int,
    readers: Sequence[RowReader],
    device: torch.device,
    report: Report = lambda count: None,
) -> list[Tensor]:
    """Return for each reader its results for all rows, (count, …).

    count: number of rows. report: called after each batch with its number of examples.
    """
    if not readers:
        return []
    collectors = [
        _MeanOfWindows(count) if reader.target is None else _Windows(reader.target, count) for reader in readers
    ]
    for chunk in iterate_chunks(mapping, examples):
        # Examples are numbered within the chunk, so that each finds its own pieces: windows of a row share its number.
        numbered = [replace(example, row=index) for index, example in enumerate(chunk)]
        for batch, hidden in forward_batches(mapping, numbered, device):
            batch_examples = [chunk[index] for index in batch.rows.tolist()]
            rows, pieces = [example.row for example in batch_examples], [example.pieces for example in batch_examples]
            for reader, collector in zip(readers, collectors, strict=True):
                collector.add(rows, reader.read(hidden, batch, pieces))
            report(len(rows))
    return [collector.result() for collector in collectors]


class _MeanOfWindows:
    """A collector of the tensors of all windows, which keeps for each of `count` rows only their sum and number."""

    def __init__(self, count: int) -> None:
        self.sums: Tensor | None = None
        self.num_windows = torch.zeros(count)

    def add(self, rows: Sequence[int], outputs: Sequence[Tensor] | Tensor) -> None:
        """Add the outputs (n, …) of n windows, which belong to these rows."""
        assert isinstance(outputs, Tensor)
        if self.sums is None:
            self.sums = torch.zeros(len(self.num_windows), *outputs.shape[1:])
        indices = torch.tensor(rows)
        self.sums.index_add_(0, indices, outputs)
        self.num_windows.index_add_(0, indices, torch.ones(len(rows)))

    def result(self) -> Tensor:
        """Return the mean over the windows of each row, (count, …)."""
        assert self.sums is not None
        return self.sums / self.num_windows.view(-1, *[1] * (self.sums.ndim - 1))


class _Windows:
    """A collector of the tensors of all windows, which a target composes to one answer for each of `count` rows."""

    def __init__(self, target: Composed, count: int) -> None:
        self.target, self.windows = target, [[] for _ in range(count)]  # type: ignore[var-annotated]

    def add(self, rows: Sequence[int], outputs: Sequence[Tensor] | Tensor) -> None:
        """Add the outputs of some windows, which belong to these rows."""
        for row, output in zip(rows, outputs, strict=True):
            self.windows[row].append(output)

    def result(self) -> Tensor:
        """Return the composed answer of each row, (count, …)."""
        return self.target.pad([self.target.compose(windows) for windows in self.windows])
