"""Training examples by index: pieces augmented, mixed with other rows and partly hidden, with their answers.

Random choices depend on the seed, the row, the training step and the view (the number of the variant, if a step reads several
variants of an example), not on the examples computed before. So a run that was killed continues with bit-identical examples,
on any number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mapsto.data.encoding import EncodedRows, need_alignment
from mapsto.data.rows import Rows, make_partners
from mapsto.sequence.batch import Answer, Example
from mapsto.sequence.corruption import Corruption, make_generator
from mapsto.sequence.piece import Ints, MixturePart, Piece
from mapsto.task.arrow import Arrow
from mapsto.task.capabilities import require
from mapsto.task.source import Source
from mapsto.task.source_capabilities import Augmentable
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Located, Mixable
from mapsto.text.pairs.groups import Partners

# One answer for each target port; None for a port without an answer.
Answers = tuple[Answer | None, ...]


class Pieces(Protocol):
    """A sequence with one item for each example, in memory or on disk: a tuple with one piece for each source."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> tuple[Piece, ...]: ...


class RowAnswers:
    """The encoded answers of examples, computed once before training.

    Answers in raw coordinates of a source (located answers), such as boxes, are instead encoded anew for each augmented piece.
    A target that restores a hidden source gets None, and so does one whose answers were not read into `rows`.
    row_indices: the index into `rows` of each example. lie_in_pieces: True if a target has located answers.
    encoded: for each example one answer for each target; None for located answers.
    keep_colours: True if a target's answers are pictures computed from the source, which a recoloured source would not match.
    """

    def __init__(self, rows: Rows, row_indices: Ints, targets: Sequence[Target]) -> None:
        self.rows, self.row_indices, self.targets = rows, row_indices, targets
        # Rows that were read without answers have no columns of targets.
        columns = zip(rows.targets or [[]] * len(targets), rows.arrow.targets, strict=True)
        self.has_values = [bool(values) and port.restores is None for values, port in columns]
        self.lie_in_pieces = need_alignment(targets)
        self.keep_colours = any(isinstance(target, Located) and target.resembles for target in targets)
        self.encoded: list[Answers] = [self.encode(index, ()) for index in row_indices.tolist()]

    def encode(self, index: int, pieces: tuple[Piece, ...]) -> Answers:
        """Return the encoded answers of the row at `index` in `rows`, one for each target; None for a target without an answer.

        pieces: the pieces of the example, in which located answers are encoded; if empty, these answers are None.
        """
        return tuple(
            target.encode(self.rows.targets[port][index], pieces)
            if self.has_values[port] and (pieces or not isinstance(target, Located))
            else None
            for port, target in enumerate(self.targets)
        )

    def mix(self, indices: Sequence[int], pieces: tuple[Piece, ...], parts: Sequence[MixturePart]) -> Answers:
        """Return the encoded answers to a mixture of the rows at `indices` in `rows`, one for each target.

        None for a target that has no answers in `rows`, restores a source, or cannot answer to mixtures (is not `Mixable`).
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
    """The training examples, each computed when asked for from its index, the training step and the seed.

    arrow: the arrow, bound to columns. It says which sources are partly hidden and which targets restore them.
    sources: the sources by kind.
    pieces: the pieces of each example, before augmentation and hiding.
    answers: the encoded answers of each example; None if all targets restore a hidden source.
    seed: the seed of all random choices.
    corruption: how many tokens of a source behind `~` are hidden, and how.
    partners: draws the text that a text is compared with, for rows of groups; None for other rows.
    augment: name of the augmentation that varies each value; None for no augmentation.
    mixing: name of the mixture that combines a value with values of other rows; None for no mixing.
    weights: (n,), by which the loss of each example is multiplied; None if all count alike.
    """

    arrow: Arrow
    sources: Mapping[str, Source]
    pieces: Pieces
    answers: RowAnswers | None
    seed: int
    corruption: Corruption
    partners: Partners | None = None
    augment: str | None = None
    mixing: str | None = None
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.pieces)

    def example(self, row: int, step: int, progress: float, view: int = 0) -> Example:
        """Return example `row` as training step `step` reads it: randomly augmented, mixed and partly hidden.

        progress: the finished share of training, 0 to 1; the share of hidden tokens may depend on it.
        view: the number, from 0, of the random variant, for objectives that read several variants of an example in a step; in a
            matching arrow the number of the source, which becomes an example of its own, number `row + view · len(self)`.
        """
        # Views draw from rows beyond the last one, so that all of their random numbers differ.
        rng = make_generator(self.seed, row + view * len(self), step)
        pieces = self._augmented(row, rng)
        answers: Answers = (None,) * len(self.arrow.targets)
        weight = 1.0 if self.weights is None else float(self.weights[row])
        if self.mixing is not None:
            pieces, answers, weight = self._mixed(self.mixing, row, pieces, rng)
        elif self.answers is not None and self.answers.lie_in_pieces:
            answers = self.answers.encode(int(self.answers.row_indices[row]), pieces)
        elif self.answers is not None:
            answers = self.answers.encoded[row]
        if view == 1 and self.partners is not None:
            pieces = (pieces[0], self.pieces[self.partners.draw(row, rng)][1])
        if self.arrow.symmetric:
            # The values of a pair must not see each other, so each is an example of its own.
            return Example(pieces[view : view + 1], answers, row + view * len(self), weight=weight)
        if not self.arrow.corrupted:
            return Example(pieces, answers, row, weight=weight)
        corrupted, answers = self._corrupted(pieces, answers, rng, progress)
        return Example(corrupted, answers, row, int(rng.integers(2**63)))

    def without_augmentation(self) -> Examples:
        """Return the same examples with augmentation and mixing switched off. Tokens behind `~` are still hidden."""
        return replace(self, augment=None, mixing=None)

    def _augmented(self, row: int, rng: np.random.Generator) -> tuple[Piece, ...]:
        """Return the pieces of example `row`, randomly augmented if augmentation is on."""
        pieces = self.pieces[row]
        if self.augment is None:
            return pieces
        # Answers that look like the source, such as pictures, would not match its new colours.
        recolour = self.answers is None or not self.answers.keep_colours
        sources = (self.sources[piece.kind] for piece in pieces)
        return tuple(
            source.augment(piece, rng, self.augment, recolour) if isinstance(source, Augmentable) else piece
            for source, piece in zip(sources, pieces, strict=True)
        )

    def _mixed(
        self, mixing: str, row: int, pieces: tuple[Piece, ...], rng: np.random.Generator
    ) -> tuple[tuple[Piece, ...], Answers, float]:
        """Return (pieces, answers, weight) of a mixture of example `row` and other, randomly drawn examples.

        The weight is the mean of theirs by their shares.

        With probability 1 − `Mixture.probability`, example `row` is returned unmixed.
        mixing: name of the mixture.
        pieces: the single piece of `row`, already augmented. Pieces of the drawn examples are augmented here.
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
        answers = self.answers.mix(self.answers.row_indices[rows].tolist(), (piece,), parts)
        shares = [part.share for part in parts]
        weight = 1.0 if self.weights is None else float(np.average(self.weights[rows], weights=shares))
        return (piece,), answers, weight

    def _corrupted(
        self, pieces: tuple[Piece, ...], answers: Answers, rng: np.random.Generator, progress: float
    ) -> tuple[tuple[Piece, ...], Answers]:
        """Return (pieces, answers) with some tokens hidden in the sources behind `~`.

        The hidden tokens become the answers of the targets that restore these sources. The answers of other targets are returned
        unchanged. progress: the finished share of training, 0 to 1, on which the share of hidden tokens may depend.
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
    weights: NDArray[np.float32] | None = None,
) -> Examples:
    """Return the training examples of rows, without augmentation, with answers for each target that `rows` has values of.

    encoded: the pieces of `rows`. sources: the sources by kind. seed: the seed of all random choices.
    corruption: how many tokens of a source behind `~` are hidden, and how.
    weights: the weight of each of the rows in the loss; None if all count alike.
    """
    answers = RowAnswers(rows, encoded.row_indices, targets)
    example_weights = None if weights is None else weights[encoded.row_indices]
    partners = make_partners(rows)
    return Examples(rows.arrow, sources, encoded.pieces, answers, seed, corruption, partners, weights=example_weights)
