"""text: words in any language, read as tokens; and, behind `~`, the hidden tokens put back.

Legend of shapes: t tokens, m hidden tokens, d width, v vocabulary.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.errors import BadCell, CheckpointError, DataError, UsageError
from mapsto.metrics import intervals
from mapsto.metrics.intervals import Score
from mapsto.model.convolution import ConvolutionConfig
from mapsto.model.layers import Transform, TransformConfig
from mapsto.sequence.batch import Answer
from mapsto.sequence.corruption import READS_ON, Corruption, choose, hide, read_on
from mapsto.sequence.piece import Alignment, Flat, Ints, Piece
from mapsto.task.capabilities import FAINTEST_SHADE, Describable, Explainable, Reconstruction, Tokenized
from mapsto.task.readout import PerToken, ask_at
from mapsto.task.source import Source
from mapsto.task.target import Metric, State
from mapsto.text import perturb
from mapsto.text.features import find_invalid_character, fit_tfidf
from mapsto.text.tokenizer import Tokenizer

ROWS_AT_ONCE = 32


def _samples() -> list[str]:
    """Short, long, Chinese, mixed."""
    return [
        "A plain sentence.",
        "今天天气真好！",
        "Mixed 中文 and English, with 3 numbers and 1,000 more.",
        "a " * 40 + "end",
    ]


def _fits(values: Sequence[object]) -> bool:
    known = [value for value in values if value is not None]
    return bool(known) and all(isinstance(value, str) for value in known)


def _read(cell: object) -> str:
    """The text itself, unchanged."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        raise BadCell("the text is blank")
    if not isinstance(cell, str):
        raise BadCell(f"text was expected, not {type(cell).__name__}")
    if (fault := find_invalid_character(cell)) is not None:
        raise BadCell(f"the text holds {fault}")
    return cell


class TextSource(Tokenized, Explainable, Describable):
    """Text through a tokenizer. `vocabulary` is the number of embeddings, at least the tokenizer's size."""

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
        """A tokenizer trained on the values; its size from how much text there is in all, unless given."""
        if not values:
            raise DataError("there is no text to make a vocabulary from")
        return cls(Tokenizer.train(values, size, share=share))

    @classmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """The folder's tokenizer, beside a table of embeddings that may have rows to spare."""
        assert front is None, "no published network in front reads text"
        tokenizer = Tokenizer.open(folder)
        vocabulary = len(weights["weight"]) if "weight" in weights else tokenizer.size
        if tokenizer.size > vocabulary:
            raise CheckpointError(
                f"{folder}: the tokenizer knows {tokenizer.size:,} tokens, the model only {vocabulary:,}"
            )
        return cls(tokenizer, vocabulary)

    def extend_vocabulary(self, words: Sequence[str]) -> tuple[TextSource, dict[int, Ints]]:
        """The tokenizer with these words as tokens; spare rows of the table are used first."""
        tokenizer, cut = self.tokenizer.extended(words)
        return TextSource(tokenizer, self.vocabulary), dict(cut)

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """The tokenizer's files; the ids that a config repeats."""
        tokenizer = self.tokenizer
        tokenizer.save(folder, longest)
        ids = {"vocab_size": self.vocabulary, "pad_token_id": tokenizer.pad_id}
        for names, frame in (
            (("bos_token_id", "cls_token_id"), tokenizer.opening[:1]),
            (("eos_token_id", "sep_token_id"), tokenizer.closing[-1:]),
        ):
            ids |= {name: int(token) for name in names for token in frame}
        return ids

    samples = staticmethod(_samples)
    fits = staticmethod(_fits)
    read = staticmethod(_read)

    def encode(self, values: Sequence[str], place: int, aligned: bool = False) -> list[Piece]:
        """Token ids framed as the tokenizer's family does; with `aligned`, also words and character regions."""
        before = self.tokenizer.opening if place == 0 else self.tokenizer.joining
        behind = self.tokenizer.closing
        if not aligned:
            return [_framed(ids, before, behind) for ids in self.tokenizer.encode_ids(values)]
        return [
            _framed(encoded.ids, before, behind, encoded.offsets, encoded.words)
            for encoded in self.tokenizer.encode_batch(values)
        ]

    def flatten(self, values: Sequence[str], units: bool = False) -> Flat:
        """Token ids without frames; units are words."""
        if not units:
            return Flat(*self.tokenizer.encode_flat(values))
        found = self.tokenizer.encode_batch(values)
        lengths = np.array([len(encoded) for encoded in found], np.int64)
        begins = [np.diff(encoded.words, prepend=-1) > 0 for encoded in found]
        return Flat(_joined([encoded.ids for encoded in found], np.int32), lengths, _joined(begins, np.bool_))

    def count_unknown(self, tokens: Ints) -> int:
        """How many of them are the tokenizer's unknown one."""
        return int((tokens == self.tokenizer.unknown_id).sum()) if self.tokenizer.unknown_id is not None else 0

    def piece(self, tokens: Ints, begins: NDArray[np.bool_] | None = None) -> Piece:
        """The tokens in the frame of a first text."""
        words = None if begins is None else np.cumsum(begins) - int(begins[:1].sum())
        return _framed(tokens, self.tokenizer.opening, self.tokenizer.closing, words=words)

    def cut(self, piece: Piece, length: int) -> Piece:
        """The first tokens and the closing frame."""
        behind = len(self.tokenizer.closing)
        keep = np.r_[0 : length - behind, len(piece) - behind : len(piece)]
        return _select(piece, keep)

    def windows(self, piece: Piece, length: int) -> list[Piece]:
        """Consecutive windows, each framed like the whole."""
        inner = np.flatnonzero(~piece.special)
        frame = np.flatnonzero(piece.special)
        before, behind = frame[frame < inner[0]], frame[frame > inner[-1]]
        room = length - len(frame)
        return [
            _select(piece, np.concatenate([before, inner[at : at + room], behind])) for at in range(0, len(inner), room)
        ]

    def embedder(self, width: int) -> nn.Embedding:
        """One vector a token."""
        table = nn.Embedding(self.vocabulary, width)
        nn.init.normal_(table.weight, std=0.02)
        return table

    def mask(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """Some tokens replaced by the mask; or all of them read from the start on."""
        if corruption.causal and rng.random() < corruption.causal:
            return read_on(piece)
        hidden = choose(corruption, piece, rng, progress)
        return hide(piece, hidden, self.tokenizer.mask_id, self.vocabulary, corruption, rng), hidden

    def token_names(self, piece: Piece) -> list[str]:
        """The tokens as the vocabulary spells them."""
        return [self.tokenizer.token(int(token)) or "?" for token in piece.tokens]

    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """The other tokens, as near to each other as if nothing had stood between them."""
        return _select(piece, np.setdiff1d(np.arange(len(piece)), tokens))

    def blank(self, piece: Piece) -> Piece:
        """Masks in its frame."""
        return replace(piece, tokens=np.where(piece.special, piece.tokens, self.tokenizer.mask_id))

    @staticmethod
    def excerpt(value: str, region: Any) -> str:
        """The characters from the start to the end."""
        ((start, end),) = region
        return value[int(start) : int(end)]

    @classmethod
    def highlight(cls, value: str, regions: Sequence[Any], shades: Sequence[float]) -> str:
        """The text with its parts in the colour of what they speak for, the stronger the more."""
        found, at = [], 0
        for ((start, end),), shade in zip(regions, shades, strict=True):
            found.append(html.escape(value[at : int(start)]))
            side, said = "against" if shade < 0 else "for", html.escape(value[int(start) : int(end)])
            weak = abs(shade) < FAINTEST_SHADE
            found.append(said if weak else f'<mark class="{side}" style="--shade:{abs(shade):.2f}">{said}</mark>')
            at = int(end)
        return "".join([*found, html.escape(value[at:])])

    @classmethod
    def fit_features(cls, values: Sequence[str]) -> Callable[[Sequence[str]], Any]:
        """Of words and of runs of characters, which are the words of Chinese."""
        return fit_tfidf(values)

    @staticmethod
    def perturb(value: str, rng: np.random.Generator) -> dict[str, str]:
        """With typing errors, in capitals, without punctuation."""
        return {
            "typing errors": perturb.mistyped(value, rng),
            "all capitals": value.upper(),
            "no punctuation": perturb.unpunctuated(value),
        }

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokenizer."""
        return self.tokenizer.fingerprint


class MaskedTextTarget(Reconstruction):
    """The hidden tokens of `~text`, read where they were hidden."""

    kind = "text"
    readout = PerToken()
    head_name = "vocabulary_head"
    yields_to_classifier = True
    hub_tasks: ClassVar[Mapping[str, str]] = {"~text": "fill-mask"}
    reader: TextSource

    def __init__(self, transform: dict[str, Any] | None = None, corruption: dict[str, Any] | None = None) -> None:
        self.transform = None if transform is None else TransformConfig(**transform)
        self.corruption = Corruption(**(corruption or {}))

    def bind(self, sources: Mapping[str, Source], transform: TransformConfig | None) -> None:
        """Take the tokenizer from the text source."""
        source = sources[self.kind]
        assert isinstance(source, TextSource)
        self.reader, self.transform = source, transform

    samples = staticmethod(_samples)
    fits = staticmethod(_fits)
    read = staticmethod(_read)

    def learn(self, answers: Sequence[str], balance: bool = False) -> None:
        """Nothing: the vocabulary is the source's."""

    def complete(self, value: str, piece: Piece, hidden: Ints, output: Tensor) -> str:
        """The text with the likeliest tokens; what was not hidden stays as it was written."""
        assert piece.alignment is not None
        told = dict(zip(hidden.tolist(), output.argmax(dim=-1).tolist(), strict=True))
        found, at = [], 0
        for token in np.flatnonzero(~piece.special).tolist():
            start, end = piece.alignment.regions[token, 0].tolist()
            written = value[start:end]
            if token in told:
                said = self.reader.tokenizer.decode([told[token]]).strip().removeprefix("##")
                written = written[: len(written) - len(written.lstrip())] + said
            found += [value[at:start], written]
            at = end
        return "".join([*found, value[at:]])

    def encode(self, answer: str, pieces: Sequence[Piece]) -> Answer:
        """Raise UsageError: the answer is only what `~text` hides."""
        raise UsageError("`text` as an answer needs `~text` as its source; generated text is not here yet")

    def questions(self, pieces: Sequence[Piece]) -> Answer | None:
        """Ask for the mask tokens written in the text; for none where a model only reads on, and would see what stands behind
        them."""
        if self.corruption.causal == 1:
            return None
        masks = np.concatenate([piece.tokens for piece in pieces]) == self.reader.tokenizer.mask_id
        return ask_at(np.flatnonzero(masks) - self.corruption.ahead)

    @property
    def nothing_hidden(self) -> str:
        """Return how tokens are hidden, where any can be filled in."""
        if self.corruption.causal == 1:
            return READS_ON
        mask = self.reader.tokenizer.token(self.reader.tokenizer.mask_id)
        return f"nothing is hidden: write {mask} for each token to put back, or say which share to hide (--hide 0.3)"

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Dense, activation and norm where the family has them, then the embeddings themselves as output weights (Press &
        Wolf 2017)."""
        assert isinstance(embedder, nn.Embedding)
        return VocabularyHead(width, self.transform, embedder)

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Cross-entropy of logits (m, v) against ids (m,), summed."""
        return cast(Tensor, CrossEntropy.apply(output, values))  # type: ignore[no-untyped-call]

    def evidence(self, output: Tensor, values: Tensor) -> Tensor:
        """(m, 2): the loss of each hidden token and whether it was found; logits would not fit in memory."""
        losses = F.cross_entropy(output.float(), values, reduction="none")
        return torch.stack([losses, (output.argmax(dim=-1) == values).float()], dim=1)

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """The likeliest token at each place, with its probability."""
        best = torch.softmax(output.float(), dim=-1).max(dim=-1)
        return [
            {"token": self.reader.tokenizer.decode([token]), "probability": probability}
            for token, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def metrics(self, output: Tensor, answers: Sequence[Any]) -> dict[str, Metric]:
        """Mean loss (nats a token) and share found, over the hidden tokens."""
        losses, hits = output.double().numpy().T
        return {"masked_loss": (np.mean, losses), "token_accuracy": (intervals.mean_score, hits)}

    def baseline(self, answers: Sequence[Any]) -> dict[str, Score]:
        """The unigram model: always the distribution of the tokens themselves. `answers` are ids of hidden tokens."""
        ids = np.asarray(answers, np.int64)
        frequency = np.bincount(ids, minlength=self.reader.vocabulary) / max(1, len(ids))
        return {"masked_loss": intervals.with_interval(np.mean, -np.log(frequency[ids]))}

    def state(self) -> State:
        """The shape of the head, and how tokens were hidden."""
        transform = None if self.transform is None else asdict(self.transform)
        return {"transform": transform, "corruption": asdict(self.corruption)}


class CrossEntropy(torch.autograd.Function):
    """The sum of −log softmax (m, v) at the values (m,), computed in fp32 a few rows at a time.

    The gradient falls out of the same exponentials, so it is made at once, and the logits need not be kept.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, values: Tensor) -> Tensor:
        found = torch.empty_like(logits) if ctx.needs_input_grad[0] else None
        loss = torch.zeros((), device=logits.device)
        for at in range(0, len(logits), ROWS_AT_ONCE):
            rows = slice(at, at + ROWS_AT_ONCE)
            true, shares = values[rows, None], logits[rows].to(torch.float32, copy=True)
            highest = shares.amax(dim=-1, keepdim=True)
            loss += (highest - shares.gather(1, true)).sum()
            sums = shares.sub_(highest).exp_().sum(dim=-1, keepdim=True)
            loss += sums.log().sum()
            if found is not None:
                shares.div_(sums).scatter_add_(1, true, -torch.ones_like(sums))
                found[rows] = shares
        ctx.save_for_backward(found)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (found,) = ctx.saved_tensors
        return found * gradients[0], None


class VocabularyHead(nn.Module):
    """Logits over the vocabulary, (m, d) → (m, v)."""

    def __init__(self, width: int, transform: TransformConfig | None, embedding: nn.Embedding) -> None:
        super().__init__()
        self.transform = Transform(width, transform, embedding.embedding_dim) if transform else nn.Identity()
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))
        self.embedding = (embedding,)  # in a tuple: the table belongs to the embedder and is saved there once

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.transform(x), self.embedding[0].weight.to(x.dtype), self.bias.to(x.dtype))


def _framed(
    ids: Ints, before: Sequence[int], behind: Sequence[int], offsets: Ints | None = None, words: Ints | None = None
) -> Piece:
    count = len(before) + len(ids) + len(behind)
    special = np.ones(count, np.bool_)
    special[len(before) : len(before) + len(ids)] = False
    tokens = np.concatenate([np.asarray(before, np.int64), ids, np.asarray(behind, np.int64)]).astype(np.int64)
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


def _joined(arrays: Sequence[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, kind), *arrays]).astype(kind)


def _select(piece: Piece, keep: Ints) -> Piece:
    return replace(
        piece,
        tokens=piece.tokens[keep],
        positions=np.arange(len(keep))[:, None],
        special=piece.special[keep],
        alignment=None if piece.alignment is None else Alignment(piece.alignment.regions[keep]),
        units=None if piece.units is None else piece.units[keep],
    )


source = TextSource


restored = MaskedTextTarget
