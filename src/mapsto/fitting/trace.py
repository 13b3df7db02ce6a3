"""One example after every stage, from the cell to the loss: the living documentation of the idea."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from mapsto import kinds
from mapsto.data.encoding import encode_rows
from mapsto.data.examples import Examples, make_examples
from mapsto.data.rows import Rows, load_rows, require_few_bad_rows
from mapsto.data.table import Table, read_table
from mapsto.data.writers import legible
from mapsto.device import seed_all
from mapsto.errors import UsageError, place, shorten
from mapsto.fitting.build_model import make_config, make_mapping, make_sources
from mapsto.fitting.starting_model import open_start
from mapsto.model.mapping import Mapping
from mapsto.options import Options
from mapsto.sequence.batch import Batch, Example
from mapsto.sequence.corruption import Corruption
from mapsto.sequence.packing import collate
from mapsto.sequence.piece import Piece
from mapsto.task.arrow import parse
from mapsto.task.capabilities import Explainable, Located, gather_outputs

NEIGHBOURS = 16


SHOWN_TOKENS = 24


def trace(arrow: str, data: Path, start: str | None, row: int, encoding: str | None = None) -> Iterator[str]:
    """The lines that show row `row` (from 1) of the table on its way. Raises UsageError, DataError, CheckpointError."""
    table = read_table(data, encoding=encoding)
    if not 1 <= row <= len(table):
        raise UsageError(f"--row {row}: the table has the rows 1 to {len(table)}")
    mapping, rows = _made(arrow, table, start)
    at = next((i for i, number in enumerate(rows.indices.tolist()) if number == row - 1), None)
    if at is None:
        raise UsageError(f"row {row} cannot be read; `mapsto check` says why")
    near = np.array([at, *(i for i in range(min(NEIGHBOURS, len(rows))) if i != at)])
    examples = _encoded(mapping, rows.select(near))
    yield from _cells(mapping, table, row - 1)
    yield from _tokens(mapping, examples)
    example = examples.example(0, 0, 0.0)
    yield from _hidden(mapping, examples, example)
    batch = collate([examples.example(i, 0, 0.0) for i in range(len(examples))])
    yield from _row(batch)
    yield from _forward(mapping, batch, example, rows, at)


def _made(arrow: str, table: Table, start: str | None) -> tuple[Mapping, Rows]:
    """The start, or a small new model with random weights, for this arrow and table."""
    rows = load_rows(parse(arrow), table)
    bound = rows.arrow
    options = Options(layers=2, width=128) if start is None else Options()
    beginning = open_start(start)
    targets = [target() for target in kinds.answering(bound)]
    sources = make_sources(beginning, bound, rows, options, lambda text: None)
    config = make_config(beginning, options, bound.corrupted, sources)
    for target in targets:
        target.bind(sources, config.vocabulary_head)
    require_few_bad_rows([], 0, 0, len(rows), "skip")
    for port, target in enumerate(targets):
        if bound.targets[port].restores is None:
            target.learn(rows.targets[port])
    seed_all(0)
    return make_mapping(bound, config, sources, targets, beginning).eval(), rows


def _encoded(mapping: Mapping, rows: Rows) -> Examples:
    longest = mapping.config.max_tokens
    encoded = encode_rows(rows, mapping.sources, longest, "cut", aligned=True)
    return make_examples(rows, encoded, mapping.sources, mapping.targets, 0, Corruption())


def _cells(mapping: Mapping, table: Table, row: int) -> Iterator[str]:
    yield f"arrow    {mapping.arrow}"
    file, line = table.origin(row)
    seen = set()
    for port in (*mapping.arrow.sources, *mapping.arrow.targets):
        if port.column is not None and port.column not in seen:
            seen.add(port.column)
            cell = legible({"": table.column(port.column)[row]})[""]
            size = f", {len(cell)} characters" if isinstance(cell, str) else ""
            yield f"cell     {place(file, line)}, column {port.column!r}{size}: {shorten(str(cell), 90)!r}"


def _tokens(mapping: Mapping, examples: Examples) -> Iterator[str]:
    """Each token, its id, and the raw region that the alignment gives for it."""
    for port, piece in zip(mapping.arrow.sources, examples.pieces[0], strict=True):
        names = _names(mapping, piece)
        yield f"tokens   {port.column}: {len(piece)}, of which {int(piece.special.sum())} are the frame"
        for i in range(min(len(piece), SHOWN_TOKENS)):
            raw = None if piece.alignment is None else piece.alignment.to_raw([i])
            where = "frame" if raw is None else ", ".join(f"{low}–{high}" for low, high in raw.tolist())
            token = f"id {piece.tokens[i]!s:<7}" if piece.tokens.ndim == 1 else f"{piece.tokens.shape[1]} values"
            yield f"         {i:>4}  {names[i]:<16} {token} {where}"
        if len(piece) > SHOWN_TOKENS:
            yield f"         … and {len(piece) - SHOWN_TOKENS} more"


def _names(mapping: Mapping, piece: Piece) -> list[str]:
    """Return what each token of a piece is, in words; its number where the kind has no names."""
    source = mapping.sources[piece.kind]
    return source.token_names(piece) if isinstance(source, Explainable) else list(map(str, range(len(piece))))


def _hidden(mapping: Mapping, examples: Examples, example: Example) -> Iterator[str]:
    """What `~` takes away in step 1, and what is seen in its place."""
    for i, port in enumerate(mapping.arrow.sources):
        if port.corrupted:
            before, after = examples.pieces[0][i], example.pieces[i]
            different = before.tokens != after.tokens
            changed = np.flatnonzero(different if different.ndim == 1 else different.any(axis=1))
            named = _names(mapping, before)
            places = ", ".join(f"{at} {named[at]!r}" for at in changed[:SHOWN_TOKENS])
            yield f"hidden   {len(changed)} of {int((~before.special).sum())} tokens in step 1: {places}"
            yield f"seen     {shorten(' '.join(_names(mapping, after)), 110)}"


def _row(batch: Batch) -> Iterator[str]:
    length = batch.segments.shape[1]
    start = int(batch.starts[0])
    size = int((batch.owner == 0).sum())
    place = start % length
    yield (
        f"row      packed with {len(batch.starts) - 1} other examples into {batch.segments.shape[0]} rows of {length} places, "
        f"{100 * batch.fill:.0f} % full; this one: row {start // length}, places {place}–{place + size - 1}, "
        f"segment {int(batch.segments.flatten()[start])}"
    )
    yield f"mask     each of its {size} tokens sees those {size} and none of the others"


@torch.no_grad()
def _forward(mapping: Mapping, batch: Batch, example: Example, rows: Rows, at: int) -> Iterator[str]:
    config = mapping.config.transformer
    hidden = mapping.hidden(batch)
    yield f"embed    {tuple(hidden.shape)}: rows, places, width"
    if mapping.config.backbone is not None:
        yield f"front    {mapping.config.backbone}"
    yield f"stack    {config.layers} layers of {config.heads} heads, {config.norm_place}-norm, {config.positions} positions"
    for port, target in enumerate(mapping.targets):
        readout = batch.answers[port]
        if readout is None:
            continue
        output = mapping.read(hidden, batch, port)
        own = (readout.examples == 0).nonzero()[:, 0]
        where = target.readout.describe(len(own), mapping.config.pooling)
        yield f"read     {target.kind}: {where} → {tuple(output[own].shape)}"
        answers = target.decode(gather_outputs(target, output[own], [example.pieces]))
        for answer in answers[:5]:
            said = shorten(repr(answer.get(target.kind, answer.get("token", answer))), 60)
            sure = f" with probability {answer['probability']:.4f}" if "probability" in answer else ""
            yield f"answer   {said}{sure}"
        if mapping.arrow.targets[port].restores is None:
            yield f"truth    {target.brief(rows.targets[port][at])!r}"
        loss = float(target.loss(output[own], readout.values[own])) / max(1, len(own))
        is_likelihood = not isinstance(target, Located) and any("probability" in answer for answer in answers)
        meaning = f" nats, the −log of a probability of {math.exp(-loss):.4f} for the truth" if is_likelihood else ""
        yield f"loss     {loss:.4f}{meaning}"
