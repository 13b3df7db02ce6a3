"""Forward."""

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
from mapsto.sequence.packing import batches
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.capabilities import Located, Reconstruction, gather_outputs
from mapsto.task.target import Target

TOKENS_AT_ONCE = 4096


Done = Callable[[int], None]


T = TypeVar("T")


R = TypeVar("R")


def over(mapping: Mapping, examples: Iterable[Example], device: torch.device) -> Iterator[tuple[Batch, Tensor]]:
    """Each packed batch of `examples` with its hidden states; `batch.rows` are the examples' own row numbers. No more of them are
    held at once than their kind allows, twice over: the next ones are made meanwhile."""
    for part in held(mapping, examples):
        with torch.inference_mode():
            for batch in batches(part, TOKENS_AT_ONCE):
                moved = batch.to(device)
                yield moved, mapping.hidden(moved)


def held(mapping: Mapping, examples: Iterable[Example]) -> Iterator[list[Example]]:
    """The examples in parts, as many at a time as may be held as pieces."""
    return ahead(examples, rows_at_once(mapping), list)


def rows_at_once(mapping: Mapping) -> int:
    """How many rows may be held as pieces."""
    return min(source.defaults.rows_at_once for source in mapping.sources.values())


def ahead(items: Iterable[T], at_once: int, make: Callable[[list[T]], R]) -> Iterator[R]:
    """What `make` makes of so many items at a time, in order; while one part is used, a thread takes and makes the next."""
    rest = iter(items)

    def following() -> tuple[int, R | None]:
        part = list(islice(rest, at_once))
        return len(part), make(part) if part else None

    count, made = following()
    with ThreadPoolExecutor(1) as pool:
        while made is not None:
            waiting = pool.submit(following) if count == at_once else None
            yield made
            count, made = waiting.result() if waiting else (0, None)


@dataclass(frozen=True)
class Evidence:
    """What one target said over some examples: `shown` (m, …), the true `values` (m,), and the `rows` (m,) asked about."""

    shown: Tensor
    values: Tensor
    rows: Ints


def evidence(
    mapping: Mapping, examples: Iterable[Example], device: torch.device, done: Done = lambda count: None
) -> dict[int, Evidence]:
    """For each target port that is told of what it said of the answers that `examples` carry, on the CPU. done: is told of how
    many examples it was, batch by batch."""
    kept: dict[int, list[Evidence]] = {}
    for part in held(mapping, examples):
        pieces = {example.row: example.pieces for example in part}
        for batch, hidden in over(mapping, part, device):
            for port, readout in enumerate(batch.answers):
                if readout is not None:
                    target = mapping.targets[port]
                    shown = target.evidence(mapping.read(hidden, batch, port), readout.values).float().cpu()
                    rows = batch.rows[readout.examples.cpu().numpy()]
                    if isinstance(target, Located):
                        rows = batch.rows[torch.unique_consecutive(readout.examples).cpu().numpy()]
                        shown = target.by_example(shown, [pieces[row] for row in rows.tolist()])
                    kept.setdefault(port, []).append(Evidence(shown, readout.values.cpu(), rows))
            done(len(batch.rows))
    return {
        port: Evidence(
            torch.cat([part.shown for part in parts]),
            torch.cat([part.values for part in parts]),
            np.concatenate([part.rows for part in parts]),
        )
        for port, parts in sorted(kept.items())
    }


def questions(mapping: Mapping, pieces: Sequence[Piece]) -> tuple[Answer | None, ...]:
    """Empty answers that say where each target is to be read."""
    found: list[Answer | None] = []
    for target, port in zip(mapping.targets, mapping.arrow.targets, strict=True):
        source = port.restores
        if source is None:
            found.append(target.questions(pieces))
        else:
            asked, before = target.questions(pieces[source : source + 1]), sum(map(len, pieces[:source]))
            found.append(None if asked is None or asked.at is None else replace(asked, at=asked.at + before))
    return tuple(found)


def asking(mapping: Mapping, encoded: EncodedRows) -> Iterator[Example]:
    """Examples without answers, each with the number of its row."""
    for pieces, of in zip(encoded.pieces, encoded.row_indices, strict=True):
        yield Example(pieces, questions(mapping, pieces), int(of))


def told_by(
    mapping: Mapping, examples: Iterable[Example], port: int, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """The row of each example that asks target `port` about tokens, and what is said of these, (m, …) on the CPU."""
    for batch, hidden in over(mapping, examples, device):
        readout = batch.answers[port]
        if readout is not None:
            output = mapping.read(hidden, batch, port).float().cpu()
            asked, counts = torch.unique_consecutive(readout.examples.cpu(), return_counts=True)
            yield from zip(batch.rows[asked.numpy()].tolist(), torch.split(output, counts.tolist()), strict=True)


def made(target: Target, pieces: Sequence[Piece], output: Tensor) -> Any:
    """Return the value that a target makes of the source that it resembles, from its outputs (m, …) for one example."""
    assert isinstance(target, Located) and isinstance(target, Reconstruction)
    (piece,) = (piece for piece in pieces if piece.kind == target.lies_in)
    return target.complete(None, piece, np.flatnonzero(~piece.special), output)


def row_outputs(
    mapping: Mapping,
    examples: Iterable[Example],
    count: int,
    ports: Sequence[int],
    device: torch.device,
    done: Done = lambda count: None,
) -> list[Tensor]:
    """What each of these targets, which give one answer a row, says of `count` rows, (count, …); windows of one long row share
    their mean. done: as of `evidence`."""
    if not ports:
        return []
    sums: dict[int, Tensor] = {}
    windows = torch.zeros(count)
    for part in held(mapping, examples):
        pieces = {example.row: example.pieces for example in part}
        for batch, hidden in over(mapping, part, device):
            rows = torch.from_numpy(batch.rows)
            for port in ports:
                read = mapping.read(hidden, batch, port).float().cpu()
                output = gather_outputs(mapping.targets[port], read, [pieces[row] for row in batch.rows.tolist()])
                if port not in sums:
                    sums[port] = torch.zeros(count, *output.shape[1:])
                sums[port].index_add_(0, rows, output)
            windows.index_add_(0, rows, torch.ones(len(rows)))
            done(len(rows))
    return [sums[port] / windows.view(-1, *[1] * (sums[port].ndim - 1)) for port in ports]
