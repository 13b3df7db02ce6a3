"""Forward passes over any number of examples, in packed batches and bounded memory.

Examples are packed as in training, so that no padding is computed. They are encoded in chunks; a thread encodes the next chunk
while the model computes the current one, so that at most two chunks are in memory.
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
from torch import Tensor

from mapsto.data.encoding import EncodedRows
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Answer, Batch, Example
from mapsto.sequence.packing import make_batches
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.capabilities import Located, Reconstruction, gather_outputs
from mapsto.task.target import Target

TOKENS_PER_BATCH = 4096

Report = Callable[[int], None]  # is called with the number of examples of each batch, for progress

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Evidence:
    """The evidence (m, …) of one target port for its metrics, with the encoded answers (m, …) and the row of each, (m,)."""

    evidence: Tensor
    values: Tensor
    rows: Ints


def forward_batches(
    mapping: Mapping, examples: Iterable[Example], device: torch.device
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield each packed batch of examples with its hidden states (r, l, d); `batch.rows` are the examples' row numbers."""
    for chunk in iterate_chunks(mapping, examples):
        with torch.inference_mode():
            for batch in make_batches(chunk, TOKENS_PER_BATCH):
                batch_on_device = batch.to(device)
                yield batch_on_device, mapping.hidden(batch_on_device)


def iterate_chunks(mapping: Mapping, examples: Iterable[Example]) -> Iterator[list[Example]]:
    """Yield the examples in chunks that fit the memory budget of their kinds."""
    return prefetch(examples, chunk_size(mapping), list)


def chunk_size(mapping: Mapping) -> int:
    """Return how many rows may be in memory as pieces at a time."""
    return min(source.defaults.rows_at_once for source in mapping.sources.values())


def prefetch(items: Iterable[T], size: int, convert: Callable[[list[T]], R]) -> Iterator[R]:
    """Yield `convert(chunk)` for chunks of `size` items, in order; a thread converts the next one meanwhile."""
    iterator = iter(items)

    def convert_next() -> tuple[int, R | None]:
        chunk = list(islice(iterator, size))
        return len(chunk), convert(chunk) if chunk else None

    # The first chunk is converted here: of short inputs it is the only one, and no thread is needed.
    count, converted = convert_next()
    with ThreadPoolExecutor(1) as pool:
        while converted is not None:
            future = pool.submit(convert_next) if count == size else None
            yield converted
            count, converted = future.result() if future else (0, None)


def collect_evidence(
    mapping: Mapping, examples: Iterable[Example], device: torch.device, report: Report = lambda count: None
) -> dict[int, Evidence]:
    """Return the evidence on the CPU, by target port, for every port of which `examples` carry answers."""
    parts: dict[int, list[Evidence]] = {}
    for chunk in iterate_chunks(mapping, examples):
        pieces = {example.row: example.pieces for example in chunk}
        for batch, hidden in forward_batches(mapping, chunk, device):
            for port, answers in enumerate(batch.answers):
                if answers is None:
                    continue
                target = mapping.targets[port]
                evidence = target.evidence(mapping.read(hidden, batch, port), answers.values).float().cpu()
                rows = batch.rows[answers.examples.cpu().numpy()]
                if isinstance(target, Located):
                    rows = batch.rows[torch.unique_consecutive(answers.examples).cpu().numpy()]
                    evidence = target.by_example(evidence, [pieces[row] for row in rows.tolist()])
                parts.setdefault(port, []).append(Evidence(evidence, answers.values.cpu(), rows))
            report(len(batch.rows))
    return {
        port: Evidence(
            torch.cat([part.evidence for part in port_parts]),
            torch.cat([part.values for part in port_parts]),
            np.concatenate([part.rows for part in port_parts]),
        )
        for port, port_parts in sorted(parts.items())
    }


def make_questions(mapping: Mapping, pieces: Sequence[Piece]) -> tuple[Answer | None, ...]:
    """Return an empty answer for every target port, with the places where an example of `pieces` is read."""
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


def question_examples(mapping: Mapping, encoded: EncodedRows) -> Iterator[Example]:
    """Yield examples that ask every target port and carry no true answers, each with the number of its row."""
    for pieces, row in zip(encoded.pieces, encoded.row_indices, strict=True):
        yield Example(pieces, make_questions(mapping, pieces), int(row))


def token_outputs(
    mapping: Mapping, examples: Iterable[Example], port: int, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """Yield the row of each example that asks target `port`, and its outputs (m, …) on the CPU."""
    for batch, hidden in forward_batches(mapping, examples, device):
        answers = batch.answers[port]
        if answers is not None:
            output = mapping.read(hidden, batch, port).float().cpu()
            examples_asked, counts = torch.unique_consecutive(answers.examples.cpu(), return_counts=True)
            rows = batch.rows[examples_asked.numpy()].tolist()
            yield from zip(rows, torch.split(output, counts.tolist()), strict=True)


def build_value(target: Target, pieces: Sequence[Piece], output: Tensor) -> Any:
    """Return the value that a target builds out of the source that it resembles, from the outputs (m, …) for one example."""
    assert isinstance(target, Located) and isinstance(target, Reconstruction)
    (piece,) = (piece for piece in pieces if piece.kind == target.lies_in)
    return target.complete(None, piece, np.flatnonzero(~piece.special), output)


def row_outputs(
    mapping: Mapping,
    examples: Iterable[Example],
    count: int,
    ports: Sequence[int],
    device: torch.device,
    report: Report = lambda count: None,
) -> list[Tensor]:
    """Return the outputs (n, …) of each of these ports, which give one answer an example, for `count` rows.

    The windows of one long row share the mean of their outputs.
    """
    if not ports:
        return []
    sums: dict[int, Tensor] = {}
    num_windows = torch.zeros(count)
    for chunk in iterate_chunks(mapping, examples):
        pieces = {example.row: example.pieces for example in chunk}
        for batch, hidden in forward_batches(mapping, chunk, device):
            rows = torch.from_numpy(batch.rows)
            for port in ports:
                token_output = mapping.read(hidden, batch, port).float().cpu()
                batch_pieces = [pieces[row] for row in batch.rows.tolist()]
                output = gather_outputs(mapping.targets[port], token_output, batch_pieces)
                if port not in sums:
                    sums[port] = torch.zeros(count, *output.shape[1:])
                sums[port].index_add_(0, rows, output)
            num_windows.index_add_(0, rows, torch.ones(len(rows)))
            report(len(rows))
    return [sums[port] / num_windows.view(-1, *[1] * (sums[port].ndim - 1)) for port in ports]
