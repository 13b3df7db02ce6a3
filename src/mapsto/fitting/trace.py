"""The command `mapsto trace`: show one row of a table after each stage of the model, from its cells to the loss.

The row is packed together with NEIGHBOURS other rows, as in training, to show packing and attention masks too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mapsto import kinds
from mapsto.data.encoding import encode_rows
from mapsto.data.examples import Examples, make_examples
from mapsto.data.rows import Rows, load_rows, require_few_bad_rows
from mapsto.data.table import Table, read_table
from mapsto.data.writers import to_text_cells
from mapsto.device import seed_all
from mapsto.errors import UsageError, place, shorten
from mapsto.fitting.answer_way import choose_answer_way
from mapsto.fitting.build_model import make_config, make_mapping, make_sources, read_sources
from mapsto.fitting.starting_model import open_start
from mapsto.model.mapping import Mapping
from mapsto.options import DEFAULT_FORMAT, Options, RowPolicy, TextFormat
from mapsto.sequence.batch import Batch, Example
from mapsto.sequence.corruption import Corruption
from mapsto.sequence.packing import collate
from mapsto.sequence.piece import Piece
from mapsto.task.arrow import parse
from mapsto.task.generation import Generated, bind_target
from mapsto.task.source_capabilities import Explainable
from mapsto.task.target_capabilities import Located, gather_outputs

# The number of other rows that are packed with the traced row.
NEIGHBOURS = 16
# The most tokens that are listed for one value.
SHOWN_TOKENS = 24


def trace(
    arrow: str, data: Path, start: str | None, row: int, text_format: TextFormat = DEFAULT_FORMAT
) -> Iterator[str]:
    """Yield lines of text that show row number `row` (from 1) of a table after each stage of the model.

    arrow: the task, such as "text -> label". data: the table's file. text_format: how a text file is read.
    start: the folder or hub name of a model; None for a small new one.

    Raises UsageError, DataError, CheckpointError.
    """
    table = read_table(data, text_format)
    if not 1 <= row <= len(table):
        raise UsageError(f"--row {row}: the table has the rows 1 to {len(table)}")
    mapping, rows = _load_example_model(arrow, table, start)
    position = next((i for i, index in enumerate(rows.indices.tolist()) if index == row - 1), None)
    if position is None:
        raise UsageError(f"row {row} cannot be read; `mapsto check` says why")
    # The traced row comes first, so that it is example 0 everywhere below.
    selected = np.array([position, *(i for i in range(min(NEIGHBOURS, len(rows))) if i != position)])
    examples = _encode(mapping, rows.select(selected))
    yield from _cells(mapping, table, row - 1)
    yield from _tokens(mapping, examples)
    example = examples.example(0, 0, 0.0)
    yield from _hidden(mapping, examples, example)
    batch = collate([examples.example(i, 0, 0.0) for i in range(len(examples))])
    yield from _row(batch)
    labels = [answers[position] if len(answers) else None for answers in rows.targets]
    yield from _forward(mapping, batch, example, labels)


def _load_example_model(arrow: str, table: Table, start: str | None) -> tuple[Mapping, Rows]:
    """Return (mapping, readable rows of the table).

    start: the folder or hub name of the starting model; None for a small new one with random weights.
    """
    model = open_start(start)
    rows = load_rows(choose_answer_way(parse(arrow), model), table)
    if rows.arrow.symmetric:
        raise UsageError(f"trace follows a row to its answer; {rows.arrow} compares rows with each other and has none")
    options = Options(layers=2, width=128) if start is None else Options()
    targets = [target() for target in kinds.answering(rows.arrow)]
    sources = make_sources(model, rows.arrow, rows, options, lambda text: None)
    config = make_config(model, options, rows.arrow.corrupted, read_sources(rows.arrow, sources))
    for target in targets:
        bind_target(target, sources, config, rows.arrow)
    require_few_bad_rows([], 0, 0, len(rows), RowPolicy("skip"))  # a table without a readable row is an error
    for port, target in enumerate(targets):
        if rows.arrow.targets[port].restores is None:
            target.learn(rows.targets[port])
    # Heads, and a new model, have random weights: the same ones at every call.
    seed_all(0)
    return make_mapping(rows.arrow, config, sources, targets, model).eval(), rows


def _encode(mapping: Mapping, rows: Rows) -> Examples:
    """Return the rows as encoded examples, with the alignment from tokens to characters or pixels."""
    encoded = encode_rows(rows, mapping.sources, mapping.config.max_tokens, "cut", aligned=True)
    return make_examples(rows, encoded, mapping.sources, mapping.targets, 0, Corruption())


def _cells(mapping: Mapping, table: Table, row: int) -> Iterator[str]:
    """Yield lines for the arrow and for each cell of row `row` (from 0) that the arrow reads or answers."""
    yield f"arrow    {mapping.arrow}"
    file, line = table.origin(row)
    # A column may be both source and target, but is shown once.
    columns = set()
    for port in (*mapping.arrow.sources, *mapping.arrow.targets):
        if port.column is not None and port.column not in columns:
            columns.add(port.column)
            cell = to_text_cells({"": table.column(port.column)[row]})[""]
            size = f", {len(cell)} characters" if isinstance(cell, str) else ""
            yield f"cell     {place(file, line)}, column {port.column!r}{size}: {shorten(str(cell), 90)!r}"


def _tokens(mapping: Mapping, examples: Examples) -> Iterator[str]:
    """Yield a line for each token of the first example: name, id, and the characters, pixels or seconds it covers."""
    for port, piece in zip(mapping.arrow.sources, examples.pieces[0], strict=True):
        names = _token_names(mapping, piece)
        yield f"tokens   {port.column}: {len(piece)}, of which {int(piece.special.sum())} are the frame"
        for i in range(min(len(piece), SHOWN_TOKENS)):
            raw = None if piece.alignment is None else piece.alignment.to_raw([i])
            region = "frame" if raw is None else ", ".join(f"{low}–{high}" for low, high in raw.tolist())
            token = f"id {piece.tokens[i]!s:<7}" if piece.tokens.ndim == 1 else f"{piece.tokens.shape[1]} values"
            yield f"         {i:>4}  {names[i]:<16} {token} {region}"
        if len(piece) > SHOWN_TOKENS:
            yield f"         … and {len(piece) - SHOWN_TOKENS} more"


def _token_names(mapping: Mapping, piece: Piece) -> list[str]:
    """Return the name of each token of an encoded value, such as a word; its number if the kind has no names."""
    source = mapping.sources[piece.kind]
    return source.token_names(piece) if isinstance(source, Explainable) else list(map(str, range(len(piece))))


def _hidden(mapping: Mapping, examples: Examples, example: Example) -> Iterator[str]:
    """Yield lines for the tokens that `~` hides in the first training step, and for the tokens as the model sees them.

    examples: their first one is the traced row. example: that row with hidden tokens.
    """
    for source, port in enumerate(mapping.arrow.sources):
        if port.corrupted:
            clean, corrupted = examples.pieces[0][source], example.pieces[source]
            is_different = clean.tokens != corrupted.tokens
            hidden_positions = np.flatnonzero(is_different if is_different.ndim == 1 else is_different.any(axis=1))
            names = _token_names(mapping, clean)
            hidden = ", ".join(f"{i} {names[i]!r}" for i in hidden_positions[:SHOWN_TOKENS])
            yield f"hidden   {len(hidden_positions)} of {int((~clean.special).sum())} tokens in step 1: {hidden}"
            yield f"seen     {shorten(' '.join(_token_names(mapping, corrupted)), 110)}"


def _row(batch: Batch) -> Iterator[str]:
    """Yield lines for the position of the first example in the packed rows and for the tokens it can attend to."""
    length = batch.segments.shape[1]
    start = int(batch.starts[0])
    size = int((batch.owner == 0).sum())
    position = start % length
    yield (
        f"row      packed with {len(batch.starts) - 1} other examples into {batch.segments.shape[0]} rows of {length} positions, "
        f"{100 * batch.fill:.0f} % full; this one: row {start // length}, positions {position}–{position + size - 1}, "
        f"segment {int(batch.segments.flatten()[start])}"
    )
    yield f"mask     each of its {size} tokens sees those {size} and none of the others"
    if count := int(batch.answer_lengths[0]):
        yield f"         each of the {count} tokens of its answer sees those {size} and the answer's tokens up to itself"


@torch.no_grad()
def _forward(mapping: Mapping, batch: Batch, example: Example, labels: list[object]) -> Iterator[str]:
    """Yield lines for the model's layers and output shapes, then for each answer with its true label and its loss.

    example: the traced row, the first of the batch. labels: its true answer for each target.
    """
    config = mapping.config.transformer
    hidden = mapping.hidden(batch)
    yield f"embed    {tuple(hidden.shape)}: rows, positions, width"
    if mapping.config.backbone is not None:
        yield f"front    {mapping.config.backbone}"
    yield f"stack    {config.layers} layers of {config.heads} heads, {config.norm_place}-norm, {config.positions} positions"
    if (decoder := mapping.config.answer_decoder) is not None:
        yield f"decoder  {decoder.layers} layers of {decoder.heads} heads for the answers, with cross-attention to the sources"
    for port, target in enumerate(mapping.targets):
        readout = batch.answers[port]
        if readout is None:
            continue
        output = mapping.read(hidden, batch, port)
        selected = (readout.examples == 0).nonzero()[:, 0]
        location = target.readout.describe(len(selected), mapping.config.pooling)
        yield f"read     {target.kind}: {location} → {tuple(output[selected].shape)}"
        answers = []
        if isinstance(target, Generated):
            yield from _answer_tokens(target, output[selected], readout.values[selected])
        else:
            answers = target.decode(gather_outputs(target, output[selected], [example.pieces]))
        for answer in answers[:5]:
            text = shorten(repr(answer.get(target.kind, answer.get("token", answer))), 60)
            probability = f" with probability {answer['probability']:.4f}" if "probability" in answer else ""
            yield f"answer   {text}{probability}"
        if mapping.arrow.targets[port].restores is None:
            yield f"truth    {target.brief(labels[port])!r}"
        # Targets sum their losses; the mean is per answer.
        loss = float(target.loss(output[selected], readout.values[selected])) / max(1, len(selected))
        is_likelihood = isinstance(target, Generated) or (
            not isinstance(target, Located) and any("probability" in answer for answer in answers)
        )
        truth = "a true token" if isinstance(target, Generated) else "the truth"
        meaning = f" nats, the −log of a probability of {math.exp(-loss):.4f} for {truth}" if is_likelihood else ""
        yield f"loss     {loss:.4f}{meaning}"


def _answer_tokens(target: Generated, output: Tensor, tokens: Tensor) -> Iterator[str]:
    """Yield a line for each token of a true answer: its probability behind the tokens before it, and the likeliest token.

    output: (m, …), of the head. tokens: (m,), those of the answer, with the end token.
    """
    names, likeliest = (
        ["(end)" if token in target.ends else str(target.to_value([token])) for token in column.tolist()]
        for column in (tokens, output.argmax(-1))
    )
    probabilities = target.log_probabilities(output, tokens).exp().tolist()
    for i, token in enumerate(tokens.tolist()[:SHOWN_TOKENS]):
        probability = f"probability {probabilities[i]:.4f}, likeliest {likeliest[i]!r}"
        yield f"         {i:>4}  {names[i]:<16} id {token:<7} {probability}"
    if len(names) > SHOWN_TOKENS:
        yield f"         … and {len(names) - SHOWN_TOKENS} more"
