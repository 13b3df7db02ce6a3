"""The tokenizers of a Marian folder: source.spm and target.spm split texts into pieces, whose ids are in vocab.json.

Sources and answers share the ids, but are split by models of their own; a piece that is not in vocab.json is unknown. A source
may begin with the name of a language, such as ">>fra<<". The same in `transformers.MarianTokenizer`.
Legend of shapes: n tokens of one text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from mapsto.errors import CheckpointError
from mapsto.text.spm.backend import make_backend
from mapsto.text.spm.model_proto import MOST_PIECES, ModelType, PieceType, SpmModel, SpmPiece, read_model

SOURCE_FILE, TARGET_FILE, VOCABULARY_FILE = "source.spm", "target.spm", "vocab.json"
FILES = (SOURCE_FILE, TARGET_FILE, VOCABULARY_FILE)
ROLES = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
LANGUAGE = re.compile(">>.*?<<", re.DOTALL)


@dataclass(frozen=True)
class Pieces:
    """The tokens of one text, with the attributes of an encoding of the `tokenizers` library.

    ids: (n,), numbers in vocab.json. offsets: start and end of each token in characters. word_ids: the word of each token.
    """

    ids: list[int]
    offsets: list[tuple[int, int]]
    word_ids: list[int | None]

    def __len__(self) -> int:
        return len(self.ids)


class Segmenter:
    """A sentencepiece model whose pieces have the ids of another vocabulary.

    backend: the tokenizer of the model. vocabulary: {piece: id}. unknown: name of the unknown token.
    """

    def __init__(self, backend: tokenizers.Tokenizer, vocabulary: Mapping[str, int], unknown: str) -> None:
        self.backend, self.unknown, self.vocabulary = backend, vocabulary[unknown], vocabulary
        self.languages = {name: number for name, number in vocabulary.items() if LANGUAGE.fullmatch(name)}
        special = {token.content for token in backend.get_added_tokens_decoder().values()}
        self.texts = {name: number for name, number in vocabulary.items() if name not in {*special, *self.languages}}

    def encode_batch(self, texts: Sequence[str], literally: bool = False) -> list[Pieces]:
        """Return the tokens of each text, without special tokens around it.

        literally: whether the names of special tokens in a text are text like any other.
        """
        codes = ["" if literally else self._code(text) for text in texts]
        # Set anew each time, because the library loses the setting when it copies a tokenizer.
        self.backend.encode_special_tokens = literally
        encodings = self.backend.encode_batch(
            [text[len(code) :] for text, code in zip(texts, codes, strict=True)], add_special_tokens=False
        )
        vocabulary = self.texts if literally else self.vocabulary
        return [self._look_up(encoding, code, vocabulary) for encoding, code in zip(encodings, codes, strict=True)]

    def _code(self, text: str) -> str:
        """Return the name of a language with which a text begins; "" for none."""
        match = LANGUAGE.match(text) if text.startswith(">>") else None
        return "" if match is None else match[0]

    def _look_up(self, encoding: tokenizers.Encoding, code: str, vocabulary: Mapping[str, int]) -> Pieces:
        """Return the tokens of an encoded text behind the name of a language, "" for none.

        Characters that the model does not know are a piece of their own, which the vocabulary may have.
        """
        begin, shift = int(bool(code)), len(code)
        first = [self.languages.get(code, self.unknown)] * begin
        words = [None if word is None else word + begin for word in encoding.word_ids]
        return Pieces(
            [*first, *(vocabulary.get(piece, self.unknown) for piece in encoding.tokens)],
            [(0, shift)] * begin + [(start + shift, end + shift) for start, end in encoding.offsets],
            [*([0] * begin), *words],
        )


@dataclass(frozen=True)
class MarianVocabulary:
    """The tokenizers of a Marian folder.

    backend: the pieces by the ids of vocab.json, from which ids are decoded. source, target: split texts of each side.
    files: {name: content} of the files, which are saved again as they are.
    """

    backend: tokenizers.Tokenizer
    source: Segmenter
    target: Segmenter
    files: Mapping[str, bytes]


def open_marian(folder: Path, vocabulary: Mapping[str, Any], config: dict[str, Any]) -> MarianVocabulary:
    """Return the tokenizers of a Marian folder, and add its special tokens to `config`.

    vocabulary: content of vocab.json. config: the tokenizer's settings.
    Raises CheckpointError if a file is missing or damaged, and for two vocabularies.
    """
    if config.get("separate_vocabs"):
        raise CheckpointError(
            f"{folder}: two vocabularies, one for each language (separate_vocabs), are not supported; "
            "models with one vocab.json for both are"
        )
    for role, name in ROLES.items():
        config.setdefault(role, name)
    config.setdefault("tokenizer_class", "MarianTokenizer")
    roles = [token.get("content") if isinstance(token := config[role], dict) else token for role in ROLES]
    numbers = _require_numbers(folder / VOCABULARY_FILE, vocabulary, roles)
    end, unknown, _ = map(str, roles)
    models = [read_model(folder / name) for name in (SOURCE_FILE, TARGET_FILE)]
    source, target = (Segmenter(make_backend(model, map(str, roles)), numbers, unknown) for model in models)
    backend = make_backend(_join(models, numbers, unknown), map(str, roles))
    backend.post_processor = processors.TemplateProcessing(
        single=["$A", end], pair=["$A", "$B", end], special_tokens=[(end, numbers[end])]
    )
    return MarianVocabulary(backend, source, target, {name: (folder / name).read_bytes() for name in FILES})


def _require_numbers(file: Path, vocabulary: Mapping[str, Any], special: Sequence[Any]) -> dict[str, int]:
    """Return {piece: id} of a vocab.json.

    Raises CheckpointError unless the ids are 0 … n - 1 and the special tokens are among the pieces.
    """
    numbers = [number for number in vocabulary.values() if isinstance(number, int) and not isinstance(number, bool)]
    if len(numbers) < len(vocabulary) or len(numbers) > MOST_PIECES or sorted(numbers) != [*range(len(numbers))]:
        raise CheckpointError(f"{file}: the ids of its {len(vocabulary):,} pieces are not 0 … {len(vocabulary) - 1:,}")
    missing = [name for name in special if name not in vocabulary]
    if missing:
        raise CheckpointError(f"{file}: the special token {missing[0]!r} is not among its {len(vocabulary):,} pieces")
    return dict(vocabulary)


def _join(models: Sequence[SpmModel], numbers: Mapping[str, int], unknown: str) -> SpmModel:
    """Return a Unigram model of the pieces of several models, by the ids of vocab.json.

    Ids are decoded by it. It splits texts only for other libraries, as no model with one list of pieces does exactly.
    """
    scores = {piece.text: piece.score for model in reversed(models) for piece in model.pieces}
    lowest = min(scores.values(), default=0.0)
    pieces = tuple(
        SpmPiece(name, scores.get(name, lowest), PieceType.UNKNOWN if name == unknown else PieceType.NORMAL)
        for name in sorted(numbers, key=numbers.__getitem__)
    )
    return replace(models[0], pieces=pieces, type=ModelType.UNIGRAM, roles=(), byte_fallback=False)
