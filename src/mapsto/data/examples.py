"""Rows of a table → values → pieces → examples: reading cells, cutting what is too long, hiding what `~` hides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from mapsto.data.encoding import Encoded, lie_in_raw
from mapsto.data.rows import Rows
from mapsto.sequence.batch import Answer, Example
from mapsto.sequence.corruption import Corruption, generator
from mapsto.sequence.piece import Ints, Part, Piece
from mapsto.task.arrow import Arrow, restores
from mapsto.task.capabilities import Augmentable, Located, Mixable, require
from mapsto.task.source import Source
from mapsto.task.target import Target

Answered = tuple[Answer | None, ...]


class Pieces(Protocol):
    """The pieces of examples by number, in memory or read where they are stored."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> tuple[Piece, ...]: ...


@dataclass(frozen=True)
class Examples:
    """Examples by number. answers: those that are not made by `~`, None where all are. of: the index into Rows of each.

    What `~` hides, how a value is augmented, and which others it is mixed with, is a function of (seed, row, step, view) and of
    nothing else. augment, mixing: how; None for values as they are. recolour: whether they may look another way too. laid: by
    index into Rows the answers of an example, encoded against its pieces, where answers lie in them. mixed: the answers to pieces
    that were mixed, by the indices of those that they have parts of.
    """

    arrow: Arrow
    sources: Mapping[str, Source]
    pieces: Pieces
    answers: Sequence[Answered] | None
    of: Ints | None
    seed: int
    corruption: Corruption
    augment: str | None = None
    recolour: bool = True
    mixing: str | None = None
    laid: Callable[[int, tuple[Piece, ...]], Answered] | None = None
    mixed: Callable[[Sequence[int], tuple[Piece, ...], Sequence[Part]], Answered] | None = None

    def __len__(self) -> int:
        return len(self.pieces)

    def example(self, row: int, step: int, progress: float, view: int = 0) -> Example:
        """Example `row` as step `step` sees it; objectives that see a row several times number their views."""
        rng = generator(self.seed, row + view * len(self), step)
        pieces = self._varied(row, rng)
        answers = self.answers[row] if self.answers is not None else (None,) * len(self.arrow.targets)
        if self.mixing is not None:
            pieces, answers = self._mixed(self.mixing, row, pieces, rng)
        elif self.laid is not None and self.of is not None:
            answers = self.laid(int(self.of[row]), pieces)
        if not any(port.corrupted for port in self.arrow.sources):
            return Example(pieces, answers, row)
        shown = list(pieces)
        hidden: dict[int, Ints] = {}
        for i, port in enumerate(self.arrow.sources):
            if port.corrupted:
                shown[i], hidden[i] = self.sources[port.kind].mask(pieces[i], self.corruption, rng, progress)
        found = list(answers)
        for port_index, source in enumerate(restores(self.arrow)):
            if source in hidden and len(hidden[source]):
                told_at = sum(map(len, pieces[:source])) + hidden[source] - self.corruption.ahead
                known = told_at >= 0  # the first token of all has none before it
                found[port_index] = Answer(pieces[source].tokens[hidden[source][known]], told_at[known])
        return Example(tuple(shown), tuple(found), row, int(rng.integers(2**63)))

    def plain(self) -> Examples:
        """The same ones, neither varied nor mixed."""
        return replace(self, augment=None, mixing=None)

    def _varied(self, row: int, rng: np.random.Generator) -> tuple[Piece, ...]:
        pieces = self.pieces[row]
        if self.augment is None:
            return pieces
        how = self.augment, self.recolour
        return tuple(
            source.augment(piece, rng, *how) if isinstance(source := self.sources[piece.kind], Augmentable) else piece
            for piece in pieces
        )

    def _mixed(
        self, how: str, row: int, pieces: tuple[Piece, ...], rng: np.random.Generator
    ) -> tuple[tuple[Piece, ...], Answered]:
        """The value of example `row` with those of others at random, each varied in its own way."""
        assert self.mixed is not None and self.of is not None
        (piece,), rows = pieces, [row]
        source, parts = require(self.sources[piece.kind], Augmentable, "mixed"), [Part(1.0, piece)]
        mixture = source.mixtures[how]
        if rng.random() < mixture.probability:
            others = 1 + rng.integers(max(1, len(self) - 1), size=mixture.num_values - 1)
            rows += ((row + others) % len(self)).tolist()
            beside = [self._varied(other, rng)[0] for other in rows[1:]]
            piece, parts = source.mix([piece, *beside], rng, how)
        return (piece,), self.mixed(self.of[rows].tolist(), (piece,), parts)


def make_examples(
    arrow: Arrow,
    rows: Rows,
    encoded: Encoded,
    sources: Mapping[str, Source],
    targets: Sequence[Target],
    seed: int,
    corruption: Corruption,
) -> Examples:
    """Examples with their answers encoded once; those that `~` gives, or that lie in a piece, are made when an example is asked
    for. Ports of which `rows` has no values have no answers."""
    given = rows.targets or [[]] * len(targets)
    told = [bool(values) and source is None for values, source in zip(given, restores(arrow), strict=True)]

    def laid(index: int, pieces: tuple[Piece, ...]) -> Answered:
        return tuple(
            target.encode(rows.targets[port][index], pieces)
            if told[port] and (pieces or not isinstance(target, Located))
            else None
            for port, target in enumerate(targets)
        )

    def mixed(indices: Sequence[int], pieces: tuple[Piece, ...], parts: Sequence[Part]) -> Answered:
        return tuple(
            target.mix_answers([rows.targets[port][index] for index in indices], pieces, parts)
            if told[port] and isinstance(target, Mixable)
            else None
            for port, target in enumerate(targets)
        )

    answers = [laid(index, ()) for index in encoded.of.tolist()]
    moving = laid if lie_in_raw(targets) else None
    recolour = not any(isinstance(target, Located) and target.resembles for target in targets)
    return Examples(
        arrow,
        sources,
        encoded.pieces,
        answers,
        encoded.of,
        seed,
        corruption,
        recolour=recolour,
        laid=moving,
        mixed=mixed,
    )
