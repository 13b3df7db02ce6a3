"""Judge a tokenizer.json by its parts: ordinary, to be proven in a child process, or refused.

Most tokenizers consist of parts whose cost is in proportion to the text. A replacement may lengthen the text, and a chain of
replacements multiplies it; a regular expression may take exponential time, or much memory to be compiled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

# The parts of a tokenizer.json that are one step or a sequence of steps.
STEPS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
# Types of steps and models whose cost is in proportion to the text, whatever their settings.
PLAIN_TYPES = frozenset(
    [
        "BertNormalizer",
        "NFC",
        "NFD",
        "NFKC",
        "NFKD",
        "Lowercase",
        "StripAccents",
        "Strip",
        "Nmt",
        "Precompiled",
        "ByteLevel",
        "BertPreTokenizer",
        "Whitespace",
        "WhitespaceSplit",
        "Metaspace",
        "Punctuation",
        "Digits",
        "CharDelimiterSplit",
        "UnicodeScripts",
        "BertProcessing",
        "RobertaProcessing",
        "TemplateProcessing",
        "WordPiece",
        "BPEDecoder",
        "CTC",
        "Fuse",
        "ByteFallback",
        "Prepend",
        "Replace",
        "Split",
        "Sequence",
    ]
)
MODEL_TYPES = frozenset(["WordPiece", "WordLevel", "BPE", "Unigram"])
# Regular expressions of widely used tokenizers (GPT-2, GPT-4 and those that follow them, sentencepiece), known to be harmless.
KNOWN_PATTERNS = frozenset(
    [
        " {2,}",
        r"\s+",
        r"\d",
        r"\n",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ]
)
# Above these numbers a tokenizer is proven first.
MOST_STEPS, MOST_ADDED, MOST_PIECES, LONGEST_WORD, LONGEST_STRING = 32, 20_000, 64, 1_000, 1_000
ORDINARY_GROWTH = 4.0
# A text that may become longer than this many times is refused.
MOST_GROWTH = 100.0


def growth(parts: Mapping[str, Any]) -> float:
    """Return how many times longer a text may become by the replacements of the normalizer, and of each other part.

    Raises ValueError for a replacement of nothing by something, which has no limit.
    """
    return max(math.prod(_ratio(step) for step in _steps(parts.get(name))) for name in STEPS)


def _ratio(step: Mapping[str, Any]) -> float:
    """Return how many times longer a step may make a text; 1 for steps that replace nothing."""
    if step.get("type") != "Replace":
        return 1.0
    kind, pattern = _pattern(step)
    # A regular expression may match a single byte.
    length = len(pattern.encode()) if kind == "String" else 1
    if not length and step["content"]:
        raise ValueError("a replacement of the empty text, which would not end")
    return max(1.0, len(step["content"].encode()) / max(1, length))


def is_ordinary(parts: Mapping[str, Any]) -> bool:
    """Return whether a tokenizer.json has only parts whose cost is known to be in proportion to the text.

    parts: the content of the file. False too where a part is not as it should be, which the library then refuses.
    """
    try:
        model, steps = parts["model"], [step for name in STEPS for step in _steps(parts.get(name))]
        return (
            model.get("type") in MODEL_TYPES
            and model.get("max_input_chars_per_word", 0) <= LONGEST_WORD
            and not model.get("dropout")
            and len(parts.get("added_tokens") or ()) <= MOST_ADDED
            and all(len(token["content"]) <= LONGEST_STRING for token in parts.get("added_tokens") or ())
            and len(steps) <= MOST_STEPS
            and growth(parts) <= ORDINARY_GROWTH
            and all(map(_is_ordinary_step, steps))
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def _is_ordinary_step(step: Mapping[str, Any]) -> bool:
    """Return whether a step of a tokenizer is of a plain type and within the ordinary numbers."""
    if step.get("type") not in PLAIN_TYPES:
        return False
    if step["type"] == "TemplateProcessing":
        pieces = [step["single"], step["pair"], *(token["ids"] for token in step["special_tokens"].values())]
        return all(len(piece) <= MOST_PIECES for piece in pieces) and len(pieces) <= MOST_PIECES
    if step["type"] in ("Split", "Replace"):
        kind, pattern = _pattern(step)
        return pattern in KNOWN_PATTERNS if kind == "Regex" else len(pattern) <= LONGEST_STRING
    strings = (value for value in step.values() if isinstance(value, str))
    return step["type"] == "Precompiled" or all(len(value) <= LONGEST_STRING for value in strings)


def samples(parts: Mapping[str, Any]) -> list[str]:
    """Return texts on which a tokenizer is proven: of several scripts, long runs, and each text that it replaces or splits at."""
    patterns = []
    for name in STEPS:
        for step in _steps(parts.get(name)):
            if step.get("type") in ("Split", "Replace"):
                patterns.append(_pattern(step)[1][:LONGEST_STRING])
    texts = ["a \U000e0fff一\x07", "It's 10 o'clock, and THE café is open.\n", "今天天气真好！" * 10]
    runs = [character * 2000 + end for character in "a 0_一" for end in ("", "!")]
    return [*texts, *runs, *patterns[:1000], " ".join(patterns)[:100_000]]


def _pattern(step: Mapping[str, Any]) -> tuple[str, str]:
    """Return ("String" or "Regex", text) of the pattern of a step that splits or replaces."""
    pattern = step["pattern"]
    if isinstance(pattern, str):
        return "String", pattern
    ((kind, text),) = pattern.items()
    return kind, text


def _steps(part: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the steps of a part, with those of sequences in sequences, in order."""
    if isinstance(part, dict):
        yield part
        inner = next((part[key] for key in part if isinstance(part[key], list) and part.get("type") == "Sequence"), ())
        for step in inner:
            yield from _steps(step)
