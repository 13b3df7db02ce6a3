"""Text as n-grams with TF-IDF weights, the input of linear models.

A token is an n-gram that occurs in the text, with a weight. Its vector is the n-gram's row of a table times the weight, so
the sum of a text's vectors is a linear map of its TF-IDF features.
Legend of shapes: t tokens, v n-grams of the vocabulary, n texts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto import files
from mapsto.errors import CheckpointError, DataError, UsageError
from mapsto.model.convolution import ConvolutionConfig
from mapsto.sequence.corruption import Corruption, make_generator
from mapsto.sequence.piece import Alignment, Ints, Piece
from mapsto.task.source_capabilities import Explainable, LinearFeatures
from mapsto.text import cells
from mapsto.text.ngrams import NgramEncoder, WeightedNgrams, sparse_features, split_into_units

NGRAMS_FILE = "ngrams.json"
# The width of `feature_vectors`; the error of a cosine is about one over its root.
SKETCH_WIDTH = 1024


class NgramSource(LinearFeatures, Explainable):
    """A source that reads a text as weighted n-grams, for linear models; see ngrams.py.

    Its tokens are pairs (index of the n-gram in the vocabulary, weight).
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
        """Return a source with a vocabulary of n-grams learnt from the texts `values`.

        Raises DataError if they contain no n-gram.
        size, share: not used.
        """
        encoder = NgramEncoder.learn(values)
        if not encoder.size:
            raise DataError("there is no text to make a vocabulary from")
        return cls(encoder)

    @classmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """Return the source of the linear model saved in `folder`.

        Raises CheckpointError if its vocabulary is damaged, or has another size than the embedder's `weights`. front: not used.
        """
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
        """Write the vocabulary to a JSON file in `folder`; return its size as the entry "vocab_size" of config.json.

        longest: not used.
        """
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
        """Return the SHA-256 of the vocabulary and its weights. Sources with equal hashes encode a text in the same way."""
        return self.encoder.fingerprint

    @property
    def num_features(self) -> int:
        """Return the number of n-grams of the vocabulary."""
        return self.encoder.size

    def encode(self, values: Sequence[str], place: int, aligned: bool = False) -> list[Piece]:
        """Return a piece of weighted n-grams for each text.

        aligned: whether each token also has its word and that word's place in the text. An n-gram over several words is then
            divided into one token for each word, and its weight equally among them. place: not used.
        """
        if not aligned:
            return [_piece(self.encoder.encode(value)) for value in values]
        return [_piece(*split_into_units(value, self.encoder.encode(value, with_places=True))) for value in values]

    def embedder(self, width: int) -> nn.Module:
        """Return a WeightedTable (v, width): the vector of a token is the row of its n-gram times its weight."""
        return WeightedTable(self.encoder.size, width)

    def features(self, pieces: Sequence[Piece]) -> Any:
        """Return the TF-IDF features of pieces as a sparse matrix (n, v)."""
        return sparse_features([piece.tokens for piece in pieces], self.encoder.size)

    def feature_vectors(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """Return a sketch (n, SKETCH_WIDTH) of the TF-IDF features, which keeps their inner products on average.

        Each n-gram adds its weight, with a random sign, to a random entry (Charikar et al. 2002, "Finding frequent items in
        data streams", https://doi.org/10.1007/3-540-45465-9_59).
        """
        entries, signs = self._sketch
        vectors = np.zeros((len(pieces), SKETCH_WIDTH), np.float32)
        for vector, piece in zip(vectors, pieces, strict=True):
            ngrams, weights = piece.tokens[:, 0].astype(np.int64), piece.tokens[:, 1]
            np.add.at(vector, entries[ngrams], signs[ngrams] * weights)
        return vectors

    @cached_property
    def _sketch(self) -> tuple[Ints, NDArray[np.float32]]:
        """The entry of the sketch and the sign of each n-gram, (v,) each."""
        rng = make_generator(0, self.encoder.size, 0)
        signs = rng.integers(2, size=self.encoder.size).astype(np.float32)
        return rng.integers(SKETCH_WIDTH, size=self.encoder.size), 2 * signs - 1

    def mask(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """Raise UsageError, since a linear model cannot predict hidden tokens."""
        raise UsageError("a linear model has no tokens to hide; pretraining needs a model that reads tokens")

    def token_names(self, piece: Piece) -> list[str]:
        """Return the text of each token's n-gram."""
        return [self.encoder.ngrams[int(number)] for number in piece.tokens[:, 0]]

    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """Return the piece without the tokens at these indices.

        The weights of the remaining tokens are not scaled to unit norm again.
        """
        return piece.select(np.setdiff1d(np.arange(len(piece)), tokens))

    def blank(self, piece: Piece) -> Piece:
        """Return the piece with the weights of all tokens set to 0, which has the features of a text without known n-grams."""
        return replace(piece, tokens=piece.tokens * np.array([1, 0], np.float32))


class WeightedTable(nn.Module):
    """An embedding table for tokens (index, weight): the vector of a token is the row at its index times its weight."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(Tensor(size, width))
        nn.init.zeros_(self.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the vectors (t, width) of tokens (t, 2), each an index and a weight."""
        return nn.functional.embedding(tokens[:, 0].long(), self.weight) * tokens[:, 1:]


def _piece(ngrams: WeightedNgrams, units: Ints | None = None) -> Piece:
    """Return the piece of a text's n-grams; with an alignment if `ngrams` has their places in the text.

    units: (t,), index of the word of each n-gram; None if words are not needed.
    """
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
