"""text: text in any language, read as tokens; as an answer, the hidden tokens of `~text`.

A tokenizer cuts text into tokens of a vocabulary. Masked language modelling (BERT, Devlin et al. 2019) predicts the
hidden ones, with the token embeddings as output weights.

Legend of shapes: t tokens, m hidden tokens, d width, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.errors import CheckpointError, DataError, UsageError
from mapsto.metrics import intervals
from mapsto.metrics.intervals import Score
from mapsto.model.convolution import ConvolutionConfig
from mapsto.model.layers import Transform, TransformConfig
from mapsto.sequence.batch import Answer
from mapsto.sequence.corruption import FILLS_NOTHING, Corruption, choose_hidden, hide_tokens, read_causally
from mapsto.sequence.piece import Alignment, FlatValues, Ints, Piece
from mapsto.task.capabilities import Describable, Explainable, Reconstruction, Tokenized
from mapsto.task.readout import PerToken, ask_at
from mapsto.task.source import Source
from mapsto.task.target import Metric, State
from mapsto.text import cells, perturb
from mapsto.text.ngram_source import NgramSource
from mapsto.text.tokenizer import Tokenizer

ROWS_AT_ONCE = 32  # rows of logits that are exponentiated in fp32 at a time, which bounds memory


class TextSource(Tokenized, Explainable, Describable):
    """A source of text, cut into tokens by a tokenizer.

    vocabulary: number of embeddings, at least the tokenizer's size; published models often have more, which are unused.
    """

    kind = "text"
    feature_name = "TF-IDF"
    objectives: ClassVar[Mapping[str, float]] = {"masked": 0.30, "causal": 0.30, "hybrid": 0.30, "replaced": 0.30}

    def __init__(self, tokenizer: Tokenizer, vocabulary: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.vocabulary = max(vocabulary or 0, tokenizer.size)

    def __str__(self) -> str:
        return f"a vocabulary of {self.tokenizer.size:,} tokens"

    @classmethod
    def new(cls, values: Sequence[str], size: int | None = None, share: float = 1.0) -> Self:
        """Return a source with a tokenizer trained on the texts `values`. Raises DataError if there are no texts.

        size: size of the vocabulary; by default it grows with the amount of text.
        share: the share of the whole corpus that `values` are.
        """
        if not values:
            raise DataError("there is no text to make a vocabulary from")
        return cls(Tokenizer.train(values, size, share=share))

    @classmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """Return the source of a saved model: the folder's tokenizer, and as many embeddings as the weights have.

        Raises CheckpointError if there are fewer embeddings than tokens in the vocabulary.
        """
        assert front is None, "no published network in front reads text"
        tokenizer = Tokenizer.open(folder)
        vocabulary = len(weights["weight"]) if "weight" in weights else tokenizer.size
        if tokenizer.size > vocabulary:
            raise CheckpointError(
                f"{folder}: the tokenizer knows {tokenizer.size:,} tokens, the model only {vocabulary:,}"
            )
        return cls(tokenizer, vocabulary)

    def extend_vocabulary(self, words: Sequence[str]) -> tuple[TextSource, dict[int, Ints]]:
        """Return a source that reads each of these words as one token, and {new id: earlier ids} of the words.

        The earlier ids are the tokens into which a word was split before. Unused embeddings are taken before new ones are added.
        """
        tokenizer, old_tokens = self.tokenizer.extended(words)
        return TextSource(tokenizer, self.vocabulary), dict(old_tokens)

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """Write the tokenizer's files; return the vocabulary's size and the ids of special tokens as entries of config.json.

        longest: number of tokens of the longest example.
        """
        tokenizer = self.tokenizer
        tokenizer.save(folder, longest)
        ids = {"vocab_size": self.vocabulary, "pad_token_id": tokenizer.pad_id}
        for names, frame in (
            (("bos_token_id", "cls_token_id"), tokenizer.opening[:1]),
            (("eos_token_id", "sep_token_id"), tokenizer.closing[-1:]),
        ):
            ids |= {name: int(token) for name in names for token in frame}
        return ids

    samples = staticmethod(cells.samples)
    fits = staticmethod(cells.fits)
    read = staticmethod(cells.read)

    def encode(self, values: Sequence[str], place: int, aligned: bool = False) -> list[Piece]:
        """Return a piece of token ids for each text, between the special tokens of the model family.

        place: index of the source port; a second text opens with other special tokens than the first.
        aligned: whether pieces also have the word index and the start and end (in characters) of each token.
        """
        opening = self.tokenizer.opening if place == 0 else self.tokenizer.joining
        closing = self.tokenizer.closing
        # Token ids alone are encoded faster and with less memory than offsets and words.
        if not aligned:
            return [_frame(ids, opening, closing) for ids in self.tokenizer.encode_ids(values)]
        return [
            _frame(encoded.ids, opening, closing, encoded.offsets, encoded.words)
            for encoded in self.tokenizer.encode_batch(values)
        ]

    def flatten(self, values: Sequence[str], units: bool = False) -> FlatValues:
        """Return the token ids of all texts end to end, without special tokens, and the number of tokens of each text.

        units: whether to also mark the tokens that begin a word.
        """
        if not units:
            return FlatValues(*self.tokenizer.encode_flat(values))
        encodings = self.tokenizer.encode_batch(values)
        lengths = np.array([len(encoded) for encoded in encodings], np.int64)
        begins = [np.diff(encoded.words, prepend=-1) > 0 for encoded in encodings]
        return FlatValues(
            _concatenate([encoded.ids for encoded in encodings], np.int32), lengths, _concatenate(begins, np.bool_)
        )

    def count_unknown(self, tokens: Ints) -> int:
        """Return how many of the tokens are the unknown token; 0 if the vocabulary has no such token."""
        return int((tokens == self.tokenizer.unknown_id).sum()) if self.tokenizer.unknown_id is not None else 0

    def piece(self, tokens: Ints, begins: NDArray[np.bool_] | None = None) -> Piece:
        """Return the piece of these token ids, between the special tokens of a first text.

        begins: (t,), True for each token that begins a word.
        """
        # Words are numbered from 0, also in a window that begins inside a word.
        words = None if begins is None else np.cumsum(begins) - int(begins[:1].sum())
        return _frame(tokens, self.tokenizer.opening, self.tokenizer.closing, words=words)

    def cut(self, piece: Piece, length: int) -> Piece:
        """Shorten a piece to `length` tokens. Its closing special tokens stay and count towards `length`."""
        # The model has seen every text end with the closing tokens, so these are kept.
        num_closing = len(self.tokenizer.closing)
        keep = np.r_[0 : length - num_closing, len(piece) - num_closing : len(piece)]
        return _select(piece, keep)

    def windows(self, piece: Piece, length: int) -> list[Piece]:
        """Return the text as consecutive pieces of at most `length` tokens, which include special tokens at both ends of each."""
        inner = np.flatnonzero(~piece.special)
        # Special tokens before and after the text, as opposed to Source.windows, where all stand in front.
        frame = np.flatnonzero(piece.special)
        opening, closing = frame[frame < inner[0]], frame[frame > inner[-1]]
        room = length - len(frame)
        return [
            _select(piece, np.concatenate([opening, inner[start : start + room], closing]))
            for start in range(0, len(inner), room)
        ]

    def embedder(self, width: int) -> nn.Embedding:
        """Return an embedding table (v, width) with a vector for each token of the vocabulary."""
        table = nn.Embedding(self.vocabulary, width)
        # BERT's initialisation. PyTorch's default of 1 is too large for output weights, which the table is too.
        nn.init.normal_(table.weight, std=0.02)
        return table

    def mask(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """Return the piece with some tokens hidden, and the indices (m,) of the tokens to predict.

        A hidden token is replaced by the mask token or as `corruption` says. In an example of causal modelling no token is
        replaced: the piece is read from left to right, and all tokens after the opening special tokens are predicted.
        progress: the finished share of training, from 0 to 1.
        """
        if corruption.causal and rng.random() < corruption.causal:
            return read_causally(piece)
        hidden = choose_hidden(corruption, piece, rng, progress)
        return hide_tokens(piece, hidden, self.tokenizer.mask_id, self.vocabulary, corruption, rng), hidden

    def token_names(self, piece: Piece) -> list[str]:
        """Return each token as the vocabulary spells it."""
        return [self.tokenizer.token(int(token)) or "?" for token in piece.tokens]

    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """Return the piece without the tokens at these indices. The remaining tokens get consecutive positions."""
        return _select(piece, np.setdiff1d(np.arange(len(piece)), tokens))

    def blank(self, piece: Piece) -> Piece:
        """Return the piece with all tokens but the special ones replaced by the mask token."""
        return replace(piece, tokens=np.where(piece.special, piece.tokens, self.tokenizer.mask_id))

    excerpt = staticmethod(cells.excerpt)
    highlight = staticmethod(cells.highlight)

    @classmethod
    def fit_features(cls, values: Sequence[str]) -> Callable[[Sequence[str]], Any]:
        """Fit TF-IDF on texts; return the function from texts to sparse features (n, f).

        The features weight words and character n-grams, which stand in for words in languages written without spaces.
        """
        source = NgramSource.new(values)
        return lambda texts: source.features(source.encode(texts, 0))

    @classmethod
    def linear_source(cls) -> type[NgramSource]:
        """Return the source of n-grams with TF-IDF weights."""
        return NgramSource

    @staticmethod
    def perturb(value: str, rng: np.random.Generator) -> dict[str, str]:
        """Return variants of the text by name: with typing errors, in capitals, and without punctuation."""
        return {
            "typing errors": perturb.add_typos(value, rng),
            "all capitals": value.upper(),
            "no punctuation": perturb.remove_punctuation(value),
        }

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the tokenizer, which decides how a text is encoded."""
        return self.tokenizer.fingerprint


class MaskedTextTarget(Reconstruction):
    """A target that predicts the hidden tokens of `~text` from the hidden states at their places.

    transform: shape of the layer before the output weights, as arguments of TransformConfig; None for no layer.
    corruption: how tokens are hidden, as arguments of Corruption.
    """

    kind = "text"
    readout = PerToken()
    head_name = "vocabulary_head"
    yields_to_classifier = True
    hub_tasks: ClassVar[Mapping[str, str]] = {"~text": "fill-mask"}
    source: TextSource

    def __init__(self, transform: dict[str, Any] | None = None, corruption: dict[str, Any] | None = None) -> None:
        self.transform = None if transform is None else TransformConfig(**transform)
        self.corruption = Corruption(**(corruption or {}))

    def bind(self, sources: Mapping[str, Source], transform: TransformConfig | None) -> None:
        """Store the text source with its tokenizer, and the shape of the family's vocabulary head (`transform`)."""
        source = sources[self.kind]
        assert isinstance(source, TextSource)
        self.source, self.transform = source, transform

    samples = staticmethod(cells.samples)
    fits = staticmethod(cells.fits)
    read = staticmethod(cells.read)

    def learn(self, answers: Sequence[str], balance: bool = False) -> None:
        """Learn nothing, since the vocabulary belongs to the source."""

    def complete(self, value: str, piece: Piece, hidden: Ints, output: Tensor) -> str:
        """Return the text with the likeliest token in each hidden place; all other characters stay as they are.

        piece: the piece of `value`, with its alignment. hidden: (h,), indices of the hidden tokens. output: (h, v), logits.
        """
        assert piece.alignment is not None
        predictions = dict(zip(hidden.tolist(), output.argmax(dim=-1).tolist(), strict=True))
        parts, position = [], 0
        for token in np.flatnonzero(~piece.special).tolist():
            start, end = piece.alignment.regions[token, 0].tolist()
            text = value[start:end]
            if token in predictions:
                # WordPiece marks a token inside a word by ##.
                predicted = self.source.tokenizer.decode([predictions[token]]).strip().removeprefix("##")
                text = text[: len(text) - len(text.lstrip())] + predicted  # the space before the token stays
            parts += [value[position:start], text]
            position = end
        return "".join([*parts, value[position:]])

    def encode(self, answer: str, pieces: Sequence[Piece]) -> Answer:
        """Raise UsageError, since texts cannot be answered yet except by filling in hidden tokens."""
        raise UsageError("`text` as an answer needs `~text` as its source; generated text is not here yet")

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Return an empty answer that asks for the mask tokens written in the text; None if the text has none.

        Also None for a causal model, which does not see the text after a mask token.
        """
        if self.corruption.causal == 1:
            return None
        is_mask = np.concatenate([piece.tokens for piece in pieces]) == self.source.tokenizer.mask_id
        return ask_at(np.flatnonzero(is_mask) - self.corruption.ahead)

    @property
    def nothing_hidden(self) -> str:
        """Return the error message for a text without hidden tokens, which says how to hide tokens."""
        if self.corruption.causal == 1:
            return FILLS_NOTHING
        mask = self.source.tokenizer.token(self.source.tokenizer.mask_id)
        return f"nothing is hidden: write {mask} for each token to put back, or say which share to hide (--hide 0.3)"

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return a module from hidden states (m, d) to logits (m, v).

        It is the family's dense layer, activation and norm, then the embeddings as output weights (Press & Wolf 2017).
        """
        assert isinstance(embedder, nn.Embedding)
        return VocabularyHead(width, self.transform, embedder)

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the summed cross-entropy of logits (m, v) against token ids (m,)."""
        return cast(Tensor, CrossEntropy.apply(output, values))  # type: ignore[no-untyped-call]

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """Return (m, 2): the loss of each hidden token, and 1 if it was predicted correctly, else 0.

        They replace the logits (m, v), which would not fit in memory for all batches.
        """
        losses = F.cross_entropy(output.float(), values, reduction="none")
        return torch.stack([losses, (output.argmax(dim=-1) == values).float()], dim=1)

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"token", "probability"} for each hidden token: the likeliest token as text, and its probability."""
        best = torch.softmax(output.float(), dim=-1).max(dim=-1)
        return [
            {"token": self.source.tokenizer.decode([token]), "probability": probability}
            for token, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Metric]:
        """Return the mean loss in nats ("masked_loss"), and the share of correctly predicted tokens ("token_accuracy").

        output: (m, 2), from `evidence`. answers: not used.
        """
        losses, is_correct = output.double().numpy().T
        return {"masked_loss": (np.mean, losses), "token_accuracy": (intervals.mean_score, is_correct)}

    def baseline(self, answers: Sequence[Any]) -> dict[str, Score]:
        """Return the loss of a unigram model, which predicts every token with its frequency in `answers`, as "masked_loss".

        answers: token ids of the hidden tokens.
        """
        ids = np.asarray(answers, np.int64)
        # These frequencies are those of the scored tokens, so no other constant prediction has a lower loss.
        frequency = np.bincount(ids, minlength=self.source.vocabulary) / max(1, len(ids))
        return {"masked_loss": intervals.with_interval(np.mean, -np.log(frequency[ids]))}

    def state(self) -> State:
        """Return the shape of the head, and how tokens were hidden."""
        transform = None if self.transform is None else asdict(self.transform)
        return {"transform": transform, "corruption": asdict(self.corruption)}


class CrossEntropy(torch.autograd.Function):
    """The summed cross-entropy of logits (m, v) with ids (m,), computed in fp32 for a few rows at a time to save memory.

    Loss and gradient need the same exponentials, so the gradient is computed in the forward pass and kept in place of the logits.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor) -> Tensor:
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        loss = torch.zeros((), device=logits.device)
        for start in range(0, len(logits), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            # `scores` is overwritten in place: first logits, then exponentials, then the gradient.
            ids, scores = values[rows, None], logits[rows].to(torch.float32, copy=True)
            highest = scores.amax(dim=-1, keepdim=True)
            # −log softmax = highest − score + log Σ exp(score − highest), which cannot overflow.
            loss += (highest - scores.gather(1, ids)).sum()
            sums = scores.sub_(highest).exp_().sum(dim=-1, keepdim=True)
            loss += sums.log().sum()
            if gradient is not None:
                scores.div_(sums).scatter_add_(1, ids, -torch.ones_like(sums))
                gradient[rows] = scores
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0], None


class VocabularyHead(nn.Module):
    """A head that computes logits over the vocabulary, (m, d) → (m, v), with the embeddings as output weights.

    transform: shape of a layer before the output weights; None for no layer.
    """

    def __init__(self, width: int, transform: TransformConfig | None, embedding: nn.Embedding) -> None:
        super().__init__()
        self.transform = Transform(width, transform, embedding.embedding_dim) if transform else nn.Identity()
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))
        self.embedding = (embedding,)  # in a tuple: the table belongs to the embedder and is saved there once

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.transform(x), self.embedding[0].weight.to(x.dtype), self.bias.to(x.dtype))


def _frame(
    ids: Ints, opening: Sequence[int], closing: Sequence[int], offsets: Ints | None = None, words: Ints | None = None
) -> Piece:
    """Return the piece of token ids between opening and closing special tokens.

    offsets: (t, 2), start and end of each token in characters. words: (t,), index of each token's word.
    """
    count = len(opening) + len(ids) + len(closing)
    special = np.ones(count, np.bool_)
    special[len(opening) : len(opening) + len(ids)] = False
    tokens = np.concatenate([np.asarray(opening, np.int64), ids, np.asarray(closing, np.int64)]).astype(np.int64)
    regions = units = None
    if offsets is not None:
        regions = np.zeros((count, 1, 2), np.int64)
        regions[~special, 0] = offsets
    if words is not None:
        units = np.full(count, -1, np.int64)
        units[~special] = words
    return Piece(
        kind="text",
        tokens=tokens,
        positions=np.arange(count)[:, None],
        special=special,
        alignment=None if regions is None else Alignment(regions),
        units=units,
    )


def _concatenate(arrays: Sequence[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    """Return the arrays end to end, with the type `kind`; an empty array if there are no arrays."""
    return np.concatenate([np.zeros(0, kind), *arrays]).astype(kind)


def _select(piece: Piece, keep: Ints) -> Piece:
    """Return the piece with only the tokens at the indices `keep`, at consecutive positions."""
    return replace(piece.select(keep), positions=np.arange(len(keep))[:, None])


source = TextSource
restored = MaskedTextTarget
