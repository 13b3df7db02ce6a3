"""Examples by number: pieces augmented, mixed and corrupted as (seed, row, step, view) say, with their answers.

Nothing depends on what ran before, so a run that is killed goes on with the same bits, on any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from mapsto.data.encoding import EncodedRows, need_alignment
from mapsto.data.rows import Rows
from mapsto.sequence.batch import Answer, Example
from mapsto.sequence.corruption import Corruption, make_generator
from mapsto.sequence.piece import Ints, MixturePart, Piece
from mapsto.task.arrow import Arrow
from mapsto.task.capabilities import Augmentable, Located, Mixable, require
from mapsto.task.source import Source
from mapsto.task.target import Target

# One answer for each target; None where a port has none.
Answers = tuple[Answer | None, ...]


class Pieces(Protocol):
    """The pieces of examples by number, in memory or read where they are stored."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> tuple[Piece, ...]: ...


class RowAnswers:
    """The answers of rows, encoded once; those that lie in a piece, such as boxes, are encoded for each augmented piece.

    Targets that restore a corrupted source have none here, nor have those of which `rows` has no values.

    row_indices: the index into `rows` of each example.
    encoded: the answers of each example, but those that lie in a piece.
    lie_in_pieces: True if some answers must be encoded against the pieces of their example.
    keep_colours: True if an answer resembles its source, so that augmentation must not recolour the source.
    """

    def __init__(self, rows: Rows, row_indices: Ints, targets: Sequence[Target]) -> None:
        self.rows, self.row_indices, self.targets = rows, row_indices, targets
        columns = zip(rows.targets or [[]] * len(targets), rows.arrow.targets, strict=True)
        self.has_values = [bool(values) and port.restores is None for values, port in columns]
        self.lie_in_pieces = need_alignment(targets)
        self.keep_colours = any(isinstance(target, Located) and target.resembles for target in targets)
        self.encoded: list[Answers] = [self.encode(index, ()) for index in row_indices.tolist()]

    def encode(self, index: int, pieces: tuple[Piece, ...]) -> Answers:
        """Encode the answers of row `index`; without pieces those that lie in one are None."""
        return tuple(
            target.encode(self.rows.targets[port][index], pieces)
            if self.has_values[port] and (pieces or not isinstance(target, Located))
            else None
            for port, target in enumerate(self.targets)
        )

    def mix(self, indices: Sequence[int], pieces: tuple[Piece, ...], parts: Sequence[MixturePart]) -> Answers:
        """Mix the answers of the rows `indices`, of whose pieces `pieces` was mixed."""
        return tuple(
            target.mix_answers([self.rows.targets[port][index] for index in indices], pieces, parts)
            if self.has_values[port] and isinstance(target, Mixable)
            else None
            for port, target in enumerate(self.targets)
        )


@dataclass(frozen=True)
class Examples:
    """Examples by number; each is a function of (seed, row, step, view) and of nothing else.

    arrow: bound; it says which sources are corrupted, and which targets restore them.
    sources: by kind.
    pieces: of each example, before augmentation and corruption.
    answers: None where all targets restore a corrupted source.
    seed: of everything random.
    corruption: how `~` hides tokens.
    augment, mixing: how values are augmented and mixed with those of other rows, as of `--augment`; None: not at all.
    """

    arrow: Arrow
    sources: Mapping[str, Source]
    pieces: Pieces
    answers: RowAnswers | None
    seed: int
    corruption: Corruption
    augment: str | None = None
    mixing: str | None = None

    def __len__(self) -> int:
        return len(self.pieces)

    def example(self, row: int, step: int, progress: float, view: int = 0) -> Example:
        """Return example `row` as it is at step `step`.

        progress: the share of training that is done, 0 to 1; corruption may depend on it.
        view: the number of this view, for objectives that see a row several times in a step.
        """
        rng = make_generator(self.seed, row + view * len(self), step)
        pieces = self._augmented(row, rng)
        answers: Answers = (None,) * len(self.arrow.targets)
        if self.mixing is not None:
            pieces, answers = self._mixed(self.mixing, row, pieces, rng)
        elif self.answers is not None and self.answers.lie_in_pieces:
            answers = self.answers.encode(int(self.answers.row_indices[row]), pieces)
        elif self.answers is not None:
            answers = self.answers.encoded[row]
        if not self.arrow.corrupted:
            return Example(pieces, answers, row)
        corrupted, answers = self._corrupted(pieces, answers, rng, progress)
        return Example(corrupted, answers, row, int(rng.integers(2**63)))

    def without_augmentation(self) -> Examples:
        """Return the same examples, neither augmented nor mixed."""
        return replace(self, augment=None, mixing=None)

    def _augmented(self, row: int, rng: np.random.Generator) -> tuple[Piece, ...]:
        pieces = self.pieces[row]
        if self.augment is None:
            return pieces
        recolour = self.answers is None or not self.answers.keep_colours
        sources = (self.sources[piece.kind] for piece in pieces)
        return tuple(
            source.augment(piece, rng, self.augment, recolour) if isinstance(source, Augmentable) else piece
            for source, piece in zip(sources, pieces, strict=True)
        )

    def _mixed(
        self, mixing: str, row: int, pieces: tuple[Piece, ...], rng: np.random.Generator
    ) -> tuple[tuple[Piece, ...], Answers]:
        """Mix the value of example `row` with those of others drawn at random, each augmented by itself."""
        assert self.answers is not None
        (piece,), rows = pieces, [row]
        source, parts = require(self.sources[piece.kind], Augmentable, "mixed"), [MixturePart(1.0, piece)]
        mixture = source.mixtures[mixing]
        if rng.random() < mixture.probability:
            offsets = 1 + rng.integers(max(1, len(self) - 1), size=mixture.num_values - 1)
            rows += ((row + offsets) % len(self)).tolist()
            partners = [self._augmented(partner, rng)[0] for partner in rows[1:]]
            piece, parts = source.mix([piece, *partners], rng, mixing)
        return (piece,), self.answers.mix(self.answers.row_indices[rows].tolist(), (piece,), parts)

    def _corrupted(
        self, pieces: tuple[Piece, ...], answers: Answers, rng: np.random.Generator, progress: float
    ) -> tuple[tuple[Piece, ...], Answers]:
        """Corrupt the sources behind `~`; the tokens that were hidden are the answers of the targets that restore them."""
        corrupted = list(pieces)
        hidden: dict[int, Ints] = {}
        for i, port in enumerate(self.arrow.sources):
            if port.corrupted:
                corrupted[i], hidden[i] = self.sources[port.kind].mask(pieces[i], self.corruption, rng, progress)
        restored = list(answers)
        for number, port in enumerate(self.arrow.targets):
            source = port.restores
            if source is not None and len(hidden[source]):
                indices = sum(map(len, pieces[:source])) + hidden[source] - self.corruption.ahead
                readable = indices >= 0  # the first token of an example has none before it
                tokens = pieces[source].tokens[hidden[source][readable]]
                restored[number] = Answer(tokens, indices[readable])
        return tuple(corrupted), tuple(restored)


def make_examples(
    rows: Rows,
    encoded: EncodedRows,
    sources: Mapping[str, Source],
    targets: Sequence[Target],
    seed: int,
    corruption: Corruption,
) -> Examples:
    """Make examples of rows with their answers; targets of which `rows` has no values have no answers."""
    answers = RowAnswers(rows, encoded.row_indices, targets)
    return Examples(rows.arrow, sources, encoded.pieces, answers, seed, corruption)
