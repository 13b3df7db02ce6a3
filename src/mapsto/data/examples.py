"""Training examples by index: pieces augmented, mixed and partly hidden, with their answers.

All randomness is a function of (seed, row, step, view); nothing depends on the examples computed before. So a run that was
killed continues with bit-identical examples, on any number of processes.
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

# One answer for each target port; None for a port without an answer.
Answers = tuple[Answer | None, ...]


class Pieces(Protocol):
    """A sequence of the pieces of examples, in memory or on disk.

    Item i is a tuple with one piece for each source of example i.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> tuple[Piece, ...]: ...


class RowAnswers:
    """The answers of rows, encoded once.

    Answers that lie in a piece, such as boxes, are instead encoded again for each augmented piece.
    A target that restores a hidden source has no answers here. Nor has a target for which `rows` has no values.

    row_indices: the index into `rows` of each example.
    encoded: the answers of each example; None for those that lie in a piece.
    lie_in_pieces: True if some answers lie in a piece.
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
        """Return the answers of row `index`, one for each target.

        pieces: the pieces of the example. If it is empty, answers that lie in a piece are None.
        """
        return tuple(
            target.encode(self.rows.targets[port][index], pieces)
            if self.has_values[port] and (pieces or not isinstance(target, Located))
            else None
            for port, target in enumerate(self.targets)
        )

    def mix(self, indices: Sequence[int], pieces: tuple[Piece, ...], parts: Sequence[MixturePart]) -> Answers:
        """Return the answers of an example that mixes the rows `indices`, one for each target.

        pieces: the mixed pieces. parts: the contribution of each row to the mixture.
        """
        return tuple(
            target.mix_answers([self.rows.targets[port][index] for index in indices], pieces, parts)
            if self.has_values[port] and isinstance(target, Mixable)
            else None
            for port, target in enumerate(self.targets)
        )


@dataclass(frozen=True)
class Examples:
    """Examples by index. Each is a function of (seed, row, step, view) and of nothing else.

    arrow: the bound arrow, which says what sources are partly hidden and what targets restore them.
    sources: the sources by kind.
    pieces: the pieces of each example, before augmentation and hiding.
    answers: None if all targets restore a hidden source.
    seed: the seed of all random choices.
    corruption: how many tokens `~` hides, and how.
    augment, mixing: methods of `--augment` to vary a value, and to mix it with values of other rows; None for neither.
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
        """Return example `row` as training reads it at step `step`.

        progress: the finished share of training, 0 to 1; the share of hidden tokens may depend on it.
        view: the number of this random variant, for objectives that read several variants of a row in a step.
        """
        # Views draw from rows beyond the last one, so that all of their random numbers differ.
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
        """Return the same examples without augmentation and mixing."""
        return replace(self, augment=None, mixing=None)

    def _augmented(self, row: int, rng: np.random.Generator) -> tuple[Piece, ...]:
        """Return the pieces of example `row`, randomly augmented if augmentation is on."""
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
        """Return (pieces, answers) of example `row`, randomly mixed with examples drawn from all others.

        pieces: the single piece of `row`, already augmented. The other examples are augmented one by one here.
        mixing: name of the mixture.
        """
        assert self.answers is not None
        (piece,), rows = pieces, [row]
        source, parts = require(self.sources[piece.kind], Augmentable, "mixed"), [MixturePart(1.0, piece)]
        mixture = source.mixtures[mixing]
        if rng.random() < mixture.probability:
            # An offset from 1 to n − 1 never leads back to the row itself.
            offsets = 1 + rng.integers(max(1, len(self) - 1), size=mixture.num_values - 1)
            rows += ((row + offsets) % len(self)).tolist()
            partners = [self._augmented(partner, rng)[0] for partner in rows[1:]]
            piece, parts = source.mix([piece, *partners], rng, mixing)
        return (piece,), self.answers.mix(self.answers.row_indices[rows].tolist(), (piece,), parts)

    def _corrupted(
        self, pieces: tuple[Piece, ...], answers: Answers, rng: np.random.Generator, progress: float
    ) -> tuple[tuple[Piece, ...], Answers]:
        """Return (pieces, answers), with some tokens of the sources behind `~` hidden.

        The hidden tokens become the answers of the targets that restore these sources.
        """
        corrupted = list(pieces)
        hidden: dict[int, Ints] = {}
        for i, port in enumerate(self.arrow.sources):
            if port.corrupted:
                corrupted[i], hidden[i] = self.sources[port.kind].mask(pieces[i], self.corruption, rng, progress)
        restored = list(answers)
        for number, port in enumerate(self.arrow.targets):
            source = port.restores
            if source is not None and len(hidden[source]):
                # Indices count over the whole example. With `ahead` = 1 a token is predicted at the place before it.
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
    """Return the examples of encoded rows, with answers for each target for which `rows` has values.

    encoded: the pieces of `rows`. seed, corruption: see Examples.
    """
    answers = RowAnswers(rows, encoded.row_indices, targets)
    return Examples(rows.arrow, sources, encoded.pieces, answers, seed, corruption)
