"""Laws of sentencepiece models: the ids and texts of sentencepiece itself, whatever a text holds and a model says."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from sentencepieces import TEXTS, train

from mapsto.errors import CheckpointError
from mapsto.text.characters import canonical
from mapsto.text.spm import model_proto
from mapsto.text.tokenizer import Tokenizer

SYMBOLS = {"user_defined_symbols": ["<sep>", "<x>"]}
BPE = {"model_type": "bpe"}
BLANKS = {"remove_extra_whitespaces": False}
SETTINGS: dict[str, dict[str, Any]] = {
    "unigram": {},
    "identity": {"normalization_rule_name": "identity"},
    "case folding": {"normalization_rule_name": "nfkc_cf"},
    "all blanks": BLANKS,
    "no prefix": {"add_dummy_prefix": False},
    "bytes": {"vocab_size": 500, "byte_fallback": True},
    "symbols": SYMBOLS,
    "across blanks": {"split_by_whitespace": False},
    "blank pieces": {"allow_whitespace_only_pieces": True, **BLANKS},
    "other ids": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1},
    "bpe": BPE,
    "bpe as llama": {
        **BPE,
        **BLANKS,
        "vocab_size": 500,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
    },
    "bpe symbols": {**BPE, **SYMBOLS},
    "bpe as gemma": {**BPE, **BLANKS, **SYMBOLS, "add_dummy_prefix": False},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_ids_and_texts_are_those_of_sentencepiece(name: str, tmp_path: Path) -> None:
    content = train(**SETTINGS[name])
    import sentencepiece

    oracle = sentencepiece.SentencePieceProcessor(model_proto=content)
    (tmp_path / "tokenizer.model").write_bytes(content)
    tokenizer = Tokenizer.open(tmp_path)
    assert tokenizer.size == oracle.get_piece_size() and tokenizer.unknown_id == oracle.unk_id()
    tokenizer.save(tmp_path / "saved")
    reopened = Tokenizer.open(tmp_path / "saved")
    assert reopened == tokenizer
    # To sentencepiece, names of special tokens are text.
    texts = [canonical(text) for text in (*TEXTS, "</s> <s> <unk> names")]
    for text, ids, aligned in zip(
        texts, tokenizer.encode_literally(texts), tokenizer.encode_sections([(t, False) for t in texts]), strict=True
    ):
        expected = oracle.encode(text)
        assert ids.tolist() == aligned.ids.tolist() == expected, (text, [tokenizer.token(i) for i in ids])
        if oracle.unk_id() not in expected:
            assert tokenizer.decode(ids) == oracle.decode(expected)
    assert [ids.tolist() for ids in tokenizer.encode_ids(TEXTS)] == [oracle.encode(canonical(text)) for text in TEXTS]
    long = " ".join(TEXTS[:6] * 40)
    assert tokenizer.encode_ids([long])[0].tolist() == oracle.encode(canonical(long))


def field(number: int, value: bytes | int) -> bytes:
    """Return a field of a message in the wire format: a number below 128, or bytes."""
    if isinstance(value, int):
        return bytes([number % 16 << 3 | 128, number >> 4, value]) if number > 15 else bytes([number << 3, value])
    return bytes([number << 3 | 2, len(value)]) + value


def piece(text: bytes, kind: int = 1, score: float = -1.0) -> bytes:
    return field(1, field(1, text) + bytes([2 << 3 | 5]) + struct.pack("<f", score) + field(3, kind))


WHOLE = piece(b"<unk>", 2) + piece(b"a") + piece("▁".encode())


def test_a_model_is_read_from_its_bytes() -> None:
    model = model_proto.parse_model(
        WHOLE + field(2, field(3, 2) + field(35, 1)) + field(3, field(3, 0) + field(1, b"x"))
    )
    assert [(p.text, p.score) for p in model.pieces] == [("<unk>", -1.0), ("a", -1.0), ("▁", -1.0)]
    assert model.type == model_proto.ModelType.BPE and model.byte_fallback and model.rules == "x"
    assert not model.adds_prefix and model.removes_blanks and model.roles == (("unk_token", 0),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "exactly one unknown piece"),
        (WHOLE[:-3], "bytes at byte"),
        (WHOLE + b"\xff" * 12, "has no end"),
        (WHOLE + b"\x0a", "ends inside of a number"),
        (WHOLE + b"\x0b", "wire type 3"),
        (WHOLE + piece(b"<two>", 2), "exactly one unknown piece"),
        (WHOLE + piece(b"a"), "two pieces are equal"),
        (WHOLE + piece(b"\xff"), "utf-8"),
        (WHOLE + piece(b"b", 9), "9 is not a valid PieceType"),
        (WHOLE + piece(b"b", 1, float("nan")), "the score nan"),
        (WHOLE + field(1, b""), "a piece of 0 bytes"),
        (WHOLE + field(2, field(3, 3)), "models of the type 3 are not supported"),
        (WHOLE + field(2, field(24, 1)), "blanks behind words"),
        (WHOLE + field(3, field(2, b"\xff\xff\xff\x7f----")), "rules of normalisation are damaged"),
        (WHOLE + field(3, field(2, b"\x04\x00\x00\x00\xff\xff\xff\xff")), "cannot open it"),
    ],
)
def test_a_damaged_model_is_refused_with_its_reason(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "spiece.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as refusal:
        Tokenizer.open(tmp_path)
    assert "spiece.model" in str(refusal.value)


def test_a_huge_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spiece.model").write_bytes(WHOLE)
    monkeypatch.setattr(model_proto, "LARGEST_FILE", len(WHOLE) - 1)
    with pytest.raises(CheckpointError, match="bytes are too many"):
        Tokenizer.open(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(model_proto, "MOST_PIECES", 2)
    with pytest.raises(CheckpointError, match="more than 2 pieces"):
        Tokenizer.open(tmp_path)
