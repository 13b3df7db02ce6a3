"""Read a sentencepiece model file: a vocabulary of pieces with scores, and how texts are normalised.

The file is a message in the wire format of protocol buffers (protobuf.dev/programming-guides/encoding), of the type ModelProto
in sentencepiece_model.proto. Only the fields that encoding needs are read. Nothing of the file is run, and a length in it is
never trusted: each field must lie inside of its message.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from mapsto.errors import CheckpointError

# Bytes and numbers above which a file is refused; the largest published ones have 5 MB and 256,000 pieces.
LARGEST_FILE, MOST_PIECES, LONGEST_PIECE = 64 << 20, 2_000_000, 4096
# Wire types: an integer, 8 bytes, bytes with their length before them, 4 bytes.
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MOST_VARINT_BYTES = 10

Field = tuple[int, int | bytes]


class PieceType(IntEnum):
    """The types of pieces, by their numbers in the file."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class ModelType(IntEnum):
    """The algorithms that split a text into pieces, by their numbers in the file."""

    UNIGRAM = 1
    BPE = 2
    WORD = 3
    CHAR = 4


@dataclass(frozen=True)
class SpmPiece:
    """One piece of a vocabulary. score: its log-probability (Unigram), or minus the rank of its merge (BPE)."""

    text: str
    score: float = 0.0
    type: int = PieceType.NORMAL


@dataclass(frozen=True)
class SpmModel:
    """The content of a sentencepiece model file.

    pieces: the vocabulary, in the order of the ids. byte_fallback: whether unknown characters are split into their bytes.
    roles: {role: id}, such as {"eos_token": 1}, for the special tokens that the model has.
    charsmap: the rules of normalisation in the library's compiled form; empty for none. rules: their name, such as "nmt_nfkc".
    adds_prefix: whether a blank is put before a text. removes_blanks: whether blanks at the ends of a text and double ones are
    removed.
    """

    pieces: tuple[SpmPiece, ...]
    type: ModelType = ModelType.UNIGRAM
    byte_fallback: bool = False
    roles: tuple[tuple[str, int], ...] = ()
    charsmap: bytes = b""
    rules: str = ""
    adds_prefix: bool = True
    removes_blanks: bool = True

    @property
    def unknown_id(self) -> int:
        """Return the id of the unknown piece."""
        return next(i for i, piece in enumerate(self.pieces) if piece.type == PieceType.UNKNOWN)


def read_model(file: Path) -> SpmModel:
    """Return the content of a sentencepiece model file.

    Raises CheckpointError if it cannot be read, is damaged or too large, or has settings that are not supported.
    """
    try:
        if (size := file.stat().st_size) > LARGEST_FILE:
            raise CheckpointError(f"{file}: {size:,} bytes are too many; at most {LARGEST_FILE:,} are read")
        return parse_model(file.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror or error})") from error
    except (ValueError, struct.error) as error:
        raise CheckpointError(f"{file} is no model of sentencepiece: {error}; fetch it again") from error


def parse_model(content: bytes) -> SpmModel:
    """Return a model from the content of its file. Raises ValueError for a damaged one, and for unsupported settings."""
    pieces: list[SpmPiece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(content):
        if number == 1:
            pieces.append(_read_piece(_bytes(value)))
            if len(pieces) > MOST_PIECES:
                raise ValueError(f"more than {MOST_PIECES:,} pieces")
        elif number == 2:
            trainer |= dict(_fields(_bytes(value)))
        elif number == 3:
            normalizer |= dict(_fields(_bytes(value)))
        elif number == 5 and dict(_fields(_bytes(value))).get(2):
            raise ValueError("rules by which decoded texts are changed are not supported")
    if sum(piece.type == PieceType.UNKNOWN for piece in pieces) != 1:
        raise ValueError("it does not have exactly one unknown piece")
    if len({piece.text for piece in pieces}) < len(pieces):
        raise ValueError("two pieces are equal")
    if trainer.get(24) or normalizer.get(5) == 0:
        raise ValueError("blanks behind words, or unescaped blanks, are not supported")
    algorithm = trainer.get(3, ModelType.UNIGRAM)
    if algorithm not in (ModelType.UNIGRAM, ModelType.BPE):
        raise ValueError(f"models of the type {algorithm!r} are not supported, only Unigram (1) and BPE (2)")
    charsmap = _bytes(normalizer.get(2, b""))
    _require_charsmap(charsmap)
    return SpmModel(
        tuple(pieces),
        ModelType(_int(algorithm)),
        bool(trainer.get(35)),
        tuple(_roles(trainer, pieces)),
        charsmap,
        _bytes(normalizer.get(1, b"")).decode(),
        bool(normalizer.get(3, 1)),
        bool(normalizer.get(4, 1)),
    )


def _fields(message: bytes) -> Iterator[Field]:
    """Yield (number, value) of each field of a message: an int, or bytes. Raises ValueError for a damaged message."""
    place, end = 0, len(message)
    while place < end:
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire == BYTES:
            length, place = _varint(message, place)
        elif wire in (FIXED32, FIXED64):
            length = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"byte {place} has the wire type {wire}")
        if length > end - place:
            raise ValueError(f"a field of {length:,} bytes at byte {place}, where {end - place:,} are left")
        yield number, message[place : place + length]
        place += length


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Return the integer that begins at a place of a message, and the place behind it. Raises ValueError for a damaged one."""
    value = 0
    for count in range(MOST_VARINT_BYTES):
        if place + count >= len(message):
            raise ValueError("it ends inside of a number")
        byte = message[place + count]
        value |= (byte & 127) << 7 * count
        if byte < 128:
            return value, place + count + 1
    raise ValueError(f"a number at byte {place} has no end")


def _read_piece(message: bytes) -> SpmPiece:
    """Return the piece in a message. Raises ValueError for a damaged one."""
    values = dict(_fields(message))
    text = _bytes(values.get(1, b""))
    (score,) = struct.unpack("<f", _bytes(values.get(2, bytes(4))))
    if not text or len(text) > LONGEST_PIECE:
        raise ValueError(f"a piece of {len(text):,} bytes")
    if not -1e30 < score < 1e30:
        raise ValueError(f"a piece with the score {score}")
    # Nine digits tell any two scores of 32 bits apart, and are read from JSON as they were written.
    return SpmPiece(text.decode(), float(f"{score:.9g}"), PieceType(_int(values.get(3, PieceType.NORMAL))))


def _roles(trainer: dict[int, int | bytes], pieces: list[SpmPiece]) -> Iterator[tuple[str, int]]:
    """Yield (role, id) of the special tokens that a TrainerSpec names and that are pieces."""
    # The numbers of the fields and their default values.
    for role, number, default in (("unk", 40, 0), ("bos", 41, 1), ("eos", 42, 2), ("pad", 43, -1)):
        place = _int(trainer.get(number, default))
        # A negative number is stored as 64 bits; it says that there is no such token.
        if place < len(pieces) and place >= 0 and pieces[place].type in (PieceType.UNKNOWN, PieceType.CONTROL):
            yield f"{role}_token", place


def _require_charsmap(charsmap: bytes) -> None:
    """Raise ValueError if compiled rules of normalisation are not a trie with its length before it, and texts behind it."""
    if not charsmap:
        return
    length = int.from_bytes(charsmap[:4], "little")
    if len(charsmap) < 8 or length % 4 or not 0 < length <= len(charsmap) - 4:
        raise ValueError("its rules of normalisation are damaged")


def _bytes(value: int | bytes) -> bytes:
    """Return the bytes of a field. Raises ValueError for a number."""
    if isinstance(value, int):
        raise ValueError("a number stands where a text is needed")
    return value


def _int(value: int | bytes) -> int:
    """Return the number of a field. Raises ValueError for bytes."""
    if isinstance(value, bytes):
        raise ValueError("a text stands where a number is needed")
    return value
