"""Tokenizers made by others: ordinary ones are opened at once, others are proven first, and hostile ones are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mapsto.errors import CheckpointError
from mapsto.text.proof import process, structure
from mapsto.text.tokenizer import Tokenizer

TEXTS = ["The river runs past the old mill.", "今天天气真好！"] * 20
PADDING = {
    "strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": 10**9, "pad_id": 0, "pad_type_id": 0,
    "pad_token": "[PAD]",
}  # fmt: skip


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    return dict(json.loads(Tokenizer.train(TEXTS, 300).to_json()))


def replacement(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def sequence(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"normalizer": {"type": "Sequence", "normalizers": list(steps)}}


def opened(parts: dict[str, Any], folder: Path) -> Tokenizer:
    (folder / "tokenizer.json").write_text(json.dumps(parts))
    return Tokenizer.open(folder)


@pytest.mark.parametrize("style", ["wordpiece", "bytes"])
def test_own_tokenizers_are_ordinary(style: Any) -> None:
    assert structure.is_ordinary(json.loads(Tokenizer.train(TEXTS, 400, style).to_json()))


ORDINARY = [
    sequence(
        replacement("``", '"'),
        replacement("''", '"'),
        {"type": "NFKD"},
        {"type": "Lowercase"},
        replacement(" {2,}", " ", "Regex"),
    ),
    {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    {"normalizer": sequence({"type": "Prepend", "prepend": "▁"}, replacement(" ", "▁"))["normalizer"]},
    {"pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}},
    {"padding": PADDING},
]


@pytest.mark.parametrize("changes", ORDINARY)
def test_usual_parts_are_ordinary(changes: dict[str, Any], parts: dict[str, Any]) -> None:
    assert structure.is_ordinary({**parts, **changes})


UNUSUAL = [
    sequence(replacement("[A-Z]{3,}x", "b", "Regex")),
    sequence(*[replacement("zq", "zqzq")] * 3),
    {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "(a+)+"}, "behavior": "Isolated", "invert": False}},
    {"normalizer": {"type": "NewKind"}},
    {"added_tokens": [{"id": 0, "content": "x" * 2000}]},
]


@pytest.mark.parametrize("changes", UNUSUAL)
def test_unusual_parts_are_proven_first(changes: dict[str, Any], parts: dict[str, Any]) -> None:
    assert not structure.is_ordinary({**parts, **changes})


def test_padding_and_truncation_are_not_used(parts: dict[str, Any], tmp_path: Path) -> None:
    truncation = {"max_length": 1, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}
    tokenizer = opened({**parts, "padding": PADDING, "truncation": truncation}, tmp_path)
    assert tokenizer.encode_ids(TEXTS[:2])[0].tolist() == Tokenizer.train(TEXTS, 300).encode_ids(TEXTS[:2])[0].tolist()


HOSTILE = [
    sequence(*[replacement("a", "aa")] * 40),
    sequence(*[replacement(f"q{i}", f"q{i + 1}" * 9) for i in range(9)]),
    sequence(replacement(".", "x" * 5000, "Regex")),
    sequence(replacement("", "a")),
    sequence(replacement("(a{1,1000}){1,1000}" * 50, "b", "Regex")),
    sequence(replacement("(", "b", "Regex")),
    {"normalizer": {"type": "NewKind"}},
    {"model": {"type": "WordPiece", "vocab": {}}},
]


@pytest.mark.parametrize("changes", HOSTILE)
def test_hostile_tokenizers_are_refused(changes: dict[str, Any], parts: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        opened({**parts, **changes}, tmp_path)


def test_an_unusual_tokenizer_that_is_harmless_opens_and_is_proven_once(
    parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proofs: list[int] = []
    prove = process._prove

    def count(content: bytes, samples: list[str]) -> None:
        proofs.append(len(content))
        prove(content, samples)

    monkeypatch.setattr(process, "_prove", count)
    changes = sequence(replacement("[0-9]{3,}x", "b", "Regex"))
    assert opened({**parts, **changes}, tmp_path).size == opened({**parts, **changes}, tmp_path).size
    assert len(proofs) == 1


@pytest.mark.parametrize(("limit", "value"), [("MEMORY", 20 * 2**20), ("SECONDS", 0)])
def test_a_child_over_its_limit_is_a_refusal(
    limit: str, value: int, parts: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, limit, value)
    with pytest.raises(CheckpointError, match="more than"):
        opened({**parts, **sequence(replacement(f"[0-4]{{3,}}{value}", "b", "Regex"))}, tmp_path)
