"""text: text in any language, read as tokens; as an answer, generated token by token, read along a sound, or the hidden tokens
of `~text`.

A tokenizer splits a text into tokens of a vocabulary. The targets are in text/generated_text.py, text/transcripts/ and
text/masked_text.py.

Legend of shapes: t tokens, m hidden tokens, v vocabulary.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.errors import CheckpointError, DataError
from mapsto.files import read_json, write_atomic
from mapsto.model.convolution import ConvolutionConfig
from mapsto.sequence.corruption import Corruption, choose_hidden, hide_tokens, read_causally
from mapsto.sequence.piece import Alignment, FlatValues, Ints, Piece
from mapsto.task.generation import Prompted
from mapsto.task.generation_rules import FILE, settings_of_config
from mapsto.task.source_capabilities import Cased, Describable, Explainable, Outlinable, Tokenized
from mapsto.text import cells, perturb
from mapsto.text.bm25 import BM25
from mapsto.text.capitals import CapitalsEmbedding, patterns
from mapsto.text.generated_text import GeneratedTextTarget
from mapsto.text.masked_text import MaskedTextTarget
from mapsto.text.ngram_source import NgramSource
from mapsto.text.pairs.chat_template import ChatTemplate
from mapsto.text.pairs.dialogues import turns_of
from mapsto.text.tokenizer import Tokenizer
from mapsto.text.transcripts.aligned_text import AlignedTextTarget


class TextSource(Tokenized, Cased, Explainable, Describable, Outlinable, Prompted):
    """A source of text, split into tokens by a tokenizer.

    vocabulary: number of rows of the embedding table, at least the tokenizer's number of tokens. Published models often have
    more rows than tokens; the additional rows are not used.
    generation: content of generation_config.json, how other libraries generate text with the model; None for no such file.
    reads_capitals: whether each token is read with the capitals of its word (see text/capitals.py).
    """

    kind = "text"
    feature_name = "TF-IDF"
    objectives: ClassVar[Mapping[str, float]] = {"masked": 0.30, "causal": 0.30, "hybrid": 0.30, "replaced": 0.30}

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocabulary: int | None = None,
        generation: Mapping[str, Any] | None = None,
        reads_capitals: bool = False,
    ) -> None:
        self.tokenizer, self.generation, self.reads_capitals = tokenizer, generation, reads_capitals
        self.vocabulary = max(vocabulary or 0, tokenizer.size)

    def __str__(self) -> str:
        return f"a vocabulary of {self.tokenizer.size:,} tokens"

    @classmethod
    def new(cls, values: Sequence[str], size: int | None = None, share: float = 1.0) -> Self:
        """Return a source with a tokenizer trained on the texts `values`. Raises DataError if there are no texts.

        size: number of tokens of the vocabulary; None for one that grows with the amount of text in the corpus.
        share: the texts' share of the corpus, if they are a sample of it; used to estimate the amount of text.
        """
        if not values:
            raise DataError("there is no text to make a vocabulary from")
        return cls(Tokenizer.train(values, size, share=share))

    @classmethod
    def new_reversible(cls, values: Sequence[str], size: int | None = None, share: float = 1.0) -> Self:
        """Return a source with a byte-level tokenizer trained on the texts `values`: decoding its tokens gives the text back."""
        if not values:
            raise DataError("there is no text to make a vocabulary from")
        return cls(Tokenizer.train(values, size, "bytes", share))

    @classmethod
    def new_spelled(cls, values: Sequence[str]) -> Self:
        """Return a source with a token for each letter of the texts `values`."""
        if not values:
            raise DataError("there is no text to learn letters from")
        return cls(Tokenizer.train(values, style="letters"))

    @classmethod
    def open(cls, folder: Path, weights: Mapping[str, Tensor], front: ConvolutionConfig | None = None) -> Self:
        """Return the source of a saved model: the tokenizer in `folder`, and as many embeddings as the embedder's `weights` have.

        front: None, since no supported text model has a convolutional network that embeds the values.
        Raises CheckpointError if there are fewer embeddings than tokens in the vocabulary.
        """
        assert front is None, "no published network in front reads text"
        tokenizer = Tokenizer.open(folder)
        vocabulary = len(weights["weight"]) if "weight" in weights else tokenizer.size
        if tokenizer.size > vocabulary:
            raise CheckpointError(
                f"{folder}: the tokenizer knows {tokenizer.size:,} tokens, the model only {vocabulary:,}"
            )
        reads_capitals = "capitals" in weights
        if (folder / FILE).exists():
            return cls(tokenizer, vocabulary, read_json(folder / FILE), reads_capitals)
        config = folder / "config.json"
        generation = settings_of_config(read_json(config)) if config.exists() else None
        return cls(tokenizer, vocabulary, generation, reads_capitals)

    def with_capitals(self, is_wanted: bool) -> TextSource:
        """Return a source that reads each token with the capitals of its word, if the vocabulary folds case; or without."""
        return TextSource(self.tokenizer, self.vocabulary, self.generation, is_wanted and self.tokenizer.folds_case)

    def extend_vocabulary(self, words: Sequence[str]) -> tuple[TextSource, dict[int, Ints]]:
        """Return a source that reads each of `words` as one token, and {id of each new token: ids of the tokens it replaces}.

        The replaced tokens are those into which the word was split. Unused rows of the embedding table are taken before new rows
        are added.
        """
        tokenizer, old_tokens = self.tokenizer.extended(words)
        return TextSource(tokenizer, self.vocabulary, self.generation, self.reads_capitals), dict(old_tokens)

    def save(self, folder: Path, longest: int) -> dict[str, Any]:
        """Write the tokenizer's files to `folder`; return the vocabulary's size and the ids of special tokens for config.json.

        longest: number of tokens of the longest example, written as the tokenizer's maximum length.
        """
        tokenizer = self.tokenizer
        tokenizer.save(folder, longest)
        if self.generation is not None:
            write_atomic(folder / FILE, (json.dumps(self.generation, ensure_ascii=False, indent=1) + "\n").encode())
        return {"vocab_size": self.vocabulary, "pad_token_id": tokenizer.pad_id, **tokenizer.frame_ids}

    samples = staticmethod(cells.samples)
    fits = staticmethod(cells.fits)
    read = staticmethod(cells.read)

    def encode(self, values: Sequence[str], place: int, aligned: bool = False) -> list[Piece]:
        """Return a piece of token ids for each text, between the special tokens of the model family.

        place: index of the source port. A port after the first one opens with other special tokens than the first.
        aligned: whether each piece also has, for each token, its start and end in the text (in characters) and the index of its
        word.
        """
        opening = self.tokenizer.opening if place == 0 else self.tokenizer.joining
        closing = self.tokenizer.closing
        # Token ids alone are encoded faster and with less memory than offsets and words.
        if not aligned and not self.reads_capitals:
            return [self._filled(_frame(ids, opening, closing)) for ids in self.tokenizer.encode_ids(values)]
        pieces = []
        for encoded in self.tokenizer.encode_batch(values):
            ids = encoded.ids + self.vocabulary * patterns(encoded) if self.reads_capitals else encoded.ids
            pieces.append(self._filled(_frame(ids, opening, closing, encoded.regions, encoded.words)))
        return pieces

    def encode_prompts(self, values: Sequence[str], aligned: bool = False) -> list[Piece]:
        """Return a piece for each prompt: with a chat template the rendered dialogue, up to where the assistant's answer begins.

        A prompt without turns is one turn of the user. The tokens outside of the turns count as special. No further special
        tokens are added, since templates have those that begin a text.
        """
        if self.tokenizer.chat_template is None:
            return self.encode(values, 0, aligned)
        return [self._filled(self._prompt_piece(value, self.tokenizer.chat_template, aligned)) for value in values]

    def _prompt_piece(self, value: str, template: ChatTemplate, aligned: bool) -> Piece:
        """Return the piece of one prompt of a model with a chat template."""
        turns = turns_of(value)
        dialogue = template.render(turns)
        encodings = self.tokenizer.encode_sections(dialogue.sections)
        starts = np.cumsum([0, *(len(text) for text, _ in dialogue.sections)])
        offsets = np.concatenate([encoded.regions + start for encoded, start in zip(encodings, starts, strict=False)])
        ids = _concatenate([encoded.ids for encoded in encodings], np.int64)
        special, regions = np.ones(len(ids), np.bool_), np.zeros((len(ids), 2), np.int64)
        position = 0
        for turn, place in zip(turns, dialogue.contents, strict=True):
            content = turn["content"].strip()
            # The turns stand in the value in the same order.
            start = position = max(position, value.find(content, position))
            if place is not None:
                inside = (offsets[:, 0] < place[1]) & (offsets[:, 1] > place[0])
                special[inside] = False
                regions[inside] = np.clip(offsets[inside], *place) - place[0] + start
        piece = _frame(ids, (), (), regions if aligned else None, np.arange(len(ids)) if aligned else None)
        return replace(piece, special=special)

    @property
    def opens_answers(self) -> bool:
        """Return whether the model has a chat template, which ends a prompt with the beginning of the assistant's turn."""
        return self.tokenizer.chat_template is not None

    @property
    def turn_end(self) -> int | None:
        """Return the id of the token that ends the assistant's turns in the chat template; None for no such token."""
        template = self.tokenizer.chat_template
        marker = None if template is None else template.turn_end
        return None if marker is None else self.tokenizer.id_of(marker)

    def _filled(self, piece: Piece) -> Piece:
        """Return the piece; in place of one without any token, a piece of one special token.

        A tokenizer may add no special tokens, and a model cannot read nothing.
        """
        if len(piece):
            return piece
        has_words, has_regions = piece.units is not None, piece.alignment is not None
        nothing = np.zeros(0, np.int64)
        regions, words = np.zeros((0, 2), np.int64) if has_regions else None, nothing if has_words else None
        return _frame(nothing, (self.tokenizer.pad_id,), (), regions, words)

    def flatten(self, values: Sequence[str], units: bool = False) -> FlatValues:
        """Return the token ids of all texts in one array, without special tokens, and the number of tokens of each text.

        units: whether to return too, for each token, whether it begins a word.
        """
        if not units:
            return FlatValues(*self.tokenizer.encode_flat(values))
        encodings = self.tokenizer.encode_batch(values)
        lengths = np.array([len(encoded) for encoded in encodings], np.int64)
        begins = [np.diff(encoded.words, prepend=-1) > 0 for encoded in encodings]
        return FlatValues(
            _concatenate([encoded.ids for encoded in encodings], np.int32), lengths, _concatenate(begins, np.bool_)
        )

    def is_unknown(self, tokens: Ints) -> NDArray[np.bool_]:
        """Return which of the tokens are the unknown token; none if the vocabulary has no such token."""
        unknown = self.tokenizer.unknown_id
        return np.zeros(len(tokens), np.bool_) if unknown is None else self._token_ids(tokens) == unknown

    def _token_ids(self, numbers: Ints) -> Ints:
        """Return the ids of tokens without the capitals of their words. numbers: as they stand in pieces."""
        return numbers % self.vocabulary if self.reads_capitals else numbers

    def count_dropped(self, values: Sequence[str]) -> tuple[int, int]:
        """Return (number of visible characters for which there is no token, number of all visible characters) of texts.

        Some published tokenizers drop characters that they do not know, or the marks of letters, which in scripts such as
        Devanagari are vowels.
        """
        num_dropped = num_visible = 0
        for text, encoded in zip(values, self.tokenizer.encode_batch(values), strict=True):
            is_visible = np.array([unicodedata.category(character)[0] not in "ZC" for character in text], np.bool_)
            edges = np.zeros(len(text) + 1, np.int64)
            np.add.at(edges, encoded.offsets[:, 0], 1)
            np.add.at(edges, encoded.offsets[:, 1], -1)
            num_dropped += int((is_visible & (np.cumsum(edges)[:-1] == 0)).sum())
            num_visible += int(is_visible.sum())
        return num_dropped, num_visible

    def piece(self, tokens: Ints, begins: NDArray[np.bool_] | None = None) -> Piece:
        """Return the piece of a text with these token ids, between the special tokens used for the first source port.

        begins: (t,), True for each token that begins a word; None if words are not needed.
        """
        # Words are numbered from 0, also in a window that begins inside a word.
        words = None if begins is None else np.cumsum(begins) - int(begins[:1].sum())
        return self._filled(_frame(tokens, self.tokenizer.opening, self.tokenizer.closing, words=words))

    def cut(self, piece: Piece, length: int) -> Piece:
        """Return the piece cut to `length` tokens. The special tokens at its end are kept and are included in `length`."""
        # The model has seen every text end with the closing tokens, and every prompt with the beginning of an answer.
        inner = np.flatnonzero(~piece.special)
        num_closing = min(length, len(piece) - 1 - int(inner[-1]) if len(inner) else len(self.tokenizer.closing))
        keep = np.r_[0 : length - num_closing, len(piece) - num_closing : len(piece)]
        return _select(piece, keep)

    def windows(self, piece: Piece, length: int, overlap: float = 0.0) -> list[Piece]:
        """Return the text of a piece as consecutive pieces, each of at most `length` tokens.

        Each has the special tokens before and after the text, which are included in `length`.
        A window begins at a word, if the piece has words. overlap: the share of a window that the next one repeats.
        """
        inner = np.flatnonzero(~piece.special)
        if not len(inner):
            return [piece]
        # Special tokens before and after the text, as opposed to Source.windows, where all stand in front.
        frame = np.flatnonzero(piece.special)
        opening, closing = frame[frame < inner[0]], frame[frame > inner[-1]]
        room = length - len(frame)
        words = None if piece.units is None else piece.units[inner]
        starts = [*_window_starts(len(inner), room, overlap, words)]
        # A window that begins at a word ends the one before it, unless both are to overlap.
        ends = [start + room for start in starts] if overlap else [*starts[1:], len(inner)]
        return [
            _select(piece, np.concatenate([opening, inner[start:end], closing]))
            for start, end in zip(starts, ends, strict=True)
        ]

    def embedder(self, width: int) -> nn.Embedding:
        """Return a new embedding table (v, width), initialised as in BERT, from token ids to vectors."""
        table = (CapitalsEmbedding if self.reads_capitals else nn.Embedding)(self.vocabulary, width)
        # BERT's initialisation. PyTorch's default of 1 is too large for output weights, which the table is too.
        nn.init.normal_(table.weight, std=0.02)
        return table

    def mask(
        self, piece: Piece, corruption: Corruption, rng: np.random.Generator, progress: float
    ) -> tuple[Piece, Ints]:
        """Return the piece with some tokens hidden, and the indices (m,) of the tokens to predict.

        A hidden token is replaced by the mask token or a random token, or kept, by the shares in `corruption`. In the share
        `causal`
        of calls no token is hidden: the piece gets causal attention, and all tokens after the opening special ones are predicted.
        progress: the finished share of training, 0 to 1, on which the share of hidden tokens depends.
        """
        if corruption.causal and rng.random() < corruption.causal:
            return read_causally(piece)
        hidden = choose_hidden(corruption, piece, rng, progress)
        return hide_tokens(piece, hidden, self.tokenizer.mask_id, self.vocabulary, corruption, rng), hidden

    def token_names(self, piece: Piece) -> list[str]:
        """Return the spelling of each token in the vocabulary, such as "##ing"; "?" for an id that no token has."""
        return [self.tokenizer.token(int(token)) or "?" for token in self._token_ids(piece.tokens)]

    def remove_tokens(self, piece: Piece, tokens: Ints) -> Piece:
        """Return the piece without the tokens at these indices. The positions of the other tokens are renumbered without gaps."""
        return self._filled(_select(piece, np.setdiff1d(np.arange(len(piece)), tokens)))

    def blank(self, piece: Piece) -> Piece:
        """Return the piece with all tokens but the special ones replaced by the mask token.

        For a tokenizer without one it is the unknown token, or else the token that ends a text.
        """
        return replace(piece, tokens=np.where(piece.special, piece.tokens, self.tokenizer.blank_id))

    excerpt = staticmethod(cells.excerpt)
    highlight = staticmethod(cells.highlight)
    outline = staticmethod(cells.outline)

    ranker_name: ClassVar[str] = "BM25"

    @classmethod
    def fit_ranker(cls, candidates: Sequence[str]) -> Callable[[Sequence[str]], NDArray[Any]]:
        """Return the function from queries to their scores (q, c) by BM25, for the words that they share with candidates."""
        return BM25(candidates).scores

    @classmethod
    def fit_features(cls, values: Sequence[str]) -> Callable[[Sequence[str]], Any]:
        """Fit TF-IDF weights on texts; return the function from texts to a sparse matrix of features (n, f).

        A feature is a word or a character n-gram. Character n-grams serve languages written without spaces between words.
        """
        source = NgramSource.new(values)
        return lambda texts: source.features(source.encode(texts, 0))

    @classmethod
    def linear_source(cls) -> type[NgramSource]:
        """Return NgramSource, the source class by which linear models read texts: n-grams with TF-IDF weights."""
        return NgramSource

    @staticmethod
    def perturb(value: str, rng: np.random.Generator) -> dict[str, str]:
        """Return {name of the change: changed text}: with typing errors, in capitals, and without punctuation."""
        return {
            "typing errors": perturb.add_typos(value, rng),
            "all capitals": value.upper(),
            "no punctuation": perturb.remove_punctuation(value),
        }

    @property
    def fingerprint(self) -> str:
        """Return a hash of the tokenizer, and whether capitals are read. Sources with equal hashes encode a text alike."""
        return self.tokenizer.fingerprint + (" with capitals" if self.reads_capitals else "")


def _frame(
    ids: Ints, opening: Sequence[int], closing: Sequence[int], offsets: Ints | None = None, words: Ints | None = None
) -> Piece:
    """Return the piece of these token ids, with `opening` and `closing` special tokens added before and after them.

    offsets: (t, 2), start and end of each token of `ids` in the text, in characters; None for a piece without alignment.
    words: (t,), index of each token's word; None for a piece without words.
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


def _window_starts(count: int, room: int, overlap: float, words: Ints | None) -> Iterator[int]:
    """Yield the index of the first token of each window, for windows of `room` of the `count` tokens of a text.

    overlap: the share of a window that the next one repeats. words: (count,), the word of each token, of which a window holds
    the first token whole; None if windows may begin inside of words.
    """
    start = 0
    yield start
    while start + room < count:
        following = start + max(1, room - int(overlap * room))
        if words is not None:
            begin = following
            while begin > start + 1 and words[begin] == words[begin - 1]:
                begin -= 1
            # A word as long as a window is cut after all.
            following = begin if words[begin] != words[begin - 1] else following
        start = following
        yield start


def _concatenate(arrays: Sequence[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    """Return the arrays concatenated, with the data type `kind`; an empty array if there are no arrays."""
    return np.concatenate([np.zeros(0, kind), *arrays]).astype(kind)


def _select(piece: Piece, keep: Ints) -> Piece:
    """Return the piece with only the tokens at the indices `keep`, their positions renumbered without gaps."""
    return replace(piece.select(keep), positions=np.arange(len(keep))[:, None])


source = TextSource
target = GeneratedTextTarget
aligned = AlignedTextTarget
restored = MaskedTextTarget
