"""Text as n-grams with TF-IDF weights: what a linear model reads in place of tokens.

Each n-gram that occurs in a text is a token with a weight. Its vector is its row of a table, times the weight. So the
sum of a text's vectors is a linear map of its TF-IDF features.
Legend of shapes: t tokens, v n-grams of the vocabulary, n texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from torch import Tensor, nn

from mapsto import files
from mapsto.errors import CheckpointError, DataError, UsageError
from mapsto.model.convolution import ConvolutionConfig
from mapsto.sequence.corruption import Corruption
from mapsto.sequence.piece import Alignment, Ints, Piece
from mapsto.task.capabilities import Explainable, LinearFeatures
from mapsto.text import cells
from mapsto.text.ngrams import NgramEncoder, WeightedNgrams, sparse_features, split_into_units

NGRAMS_FILE = "ngrams.json"


class NgramSource(LinearFeatures, Explainable):
    """A source of text that a linear model reads as weighted n-grams; see ngrams.py.

    Its tokens are pairs (number of the n-gram, weight).
    """

    kind = "text"
    family = "linear"
    objectives: ClassVar[Mapping[str, float]] = {}

    def __init__(self, encoder: NgramEncoder) -> None:
        self.encoder = encoder

    def __str__(self) -> str:
        return f"a vocabulary of {self.encoder.size:,} n-grams"

    @classmethod
    def new(cls, values: Sequence[str], size: int | None = None, share: float = 1.0) -> Self:
        """Return a source whose n-grams are those of the texts. Raises DataError if no text has any."""
        encoder = NgramEncoder.learn(values)
        if not encoder.size:
            raise DataError("there is no text to make a vocabulary from")
        return cls(encoder)

    @classmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """Return the source of a saved linear model. Raises CheckpointError for a vocabulary that does not fit the weights."""
        try:
            encoder = NgramEncoder.from_json(files.read_json(folder / NGRAMS_FILE))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{folder / NGRAMS_FILE} holds no n-grams: {error}") from error
        if "weight" in weights and len(weights["weight"]) != encoder.size:
            raise CheckpointError(
                f"{folder}: the vocabulary has {encoder.size:,} n-grams, the model {len(weights['weight']):,}"
            )
        return cls(encoder)

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """Write the vocabulary; return the entry of config.json for its size."""
        content = json.dumps(self.encoder.to_json(), ensure_ascii=False)
        files.write_atomic(folder / NGRAMS_FILE, content.encode("utf-8", "surrogatepass"))
        return {"vocab_size": self.encoder.size}

    samples = staticmethod(cells.samples)
    fits = staticmethod(cells.fits)
    read = staticmethod(cells.read)
    excerpt = staticmethod(cells.excerpt)
    highlight = staticmethod(cells.highlight)

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the vocabulary."""
        return self.encoder.fingerprint

    @property
    def num_features(self) -> int:
        """Return the number of n-grams of the vocabulary."""
        return self.encoder.size

    def encode(self, values: Sequence[str], place: int, aligned: bool = False) -> list[Piece]:
        """Return a piece of weighted n-grams for each text.

        aligned: whether pieces also carry the word and the character region of each token. An n-gram that touches
            several words is then divided into a token for each, which together have its weight.
        """
        if not aligned:
            return [_piece(self.encoder.encode(value)) for value in values]
        return [_piece(*split_into_units(value, self.encoder.encode(value, with_places=True))) for value in values]

    def embedder(self, width: int) -> nn.Module:
        """Return a table (v, width) whose rows are multiplied by the tokens' weights."""
        return WeightedTable(self.encoder.size, width)

    def features(self, pieces: Sequence[Piece]) -> Any:
        """Return the TF-IDF features of pieces as a sparse matrix (n, v)."""
        return sparse_features([piece.tokens for piece in pieces], self.encoder.size)

    def mask(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """Raise UsageError: a linear model fills nothing in."""
        raise UsageError("a linear model has no tokens to hide; pretraining needs a model that reads tokens")

    def token_names(self, piece: Piece) -> list[str]:
        """Return the n-gram of each token."""
        return [self.encoder.ngrams[int(number)] for number in piece.tokens[:, 0]]

    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """Return the piece without the tokens at these indices; the weights of the others stay as they are."""
        return piece.select(np.setdiff1d(np.arange(len(piece)), tokens))

    def blank(self, piece: Piece) -> Piece:
        """Return the piece with all weights 0, as of a text without a known n-gram."""
        return replace(piece, tokens=piece.tokens * np.array([1, 0], np.float32))


class WeightedTable(nn.Module):
    """A table of vectors; a token (number, weight) gets the vector of its number times its weight."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(Tensor(size, width))
        nn.init.zeros_(self.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return vectors (t, width) of tokens (t, 2)."""
        return nn.functional.embedding(tokens[:, 0].long(), self.weight) * tokens[:, 1:]


def _piece(ngrams: WeightedNgrams, units: Ints | None = None) -> Piece:
    """Return the piece of a text's n-grams. units: the word of each, with which the piece gets its alignment."""
    count = len(ngrams.numbers)
    tokens = np.stack([ngrams.numbers.astype(np.float32), ngrams.weights], axis=1)
    return Piece(
        kind="text",
        tokens=tokens,
        positions=np.arange(count)[:, None],
        special=np.zeros(count, np.bool_),
        alignment=None if ngrams.places is None else Alignment(ngrams.places[:, None]),
        units=units,
    )
