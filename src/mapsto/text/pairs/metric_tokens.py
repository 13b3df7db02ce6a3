"""Divide text into tokens for metrics of generated text, which must not depend on the tokenizer of a model.

BLEU uses the tokenizers that sacrebleu (Post 2018) calls `13a` (the rules of NIST's mteval-v13a), `zh` and `char`; ROUGE uses
words, of which a script without spaces has one for each character.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from mapsto.text.encoding import unspaced

# In this order: marks that always stand alone; full stop and comma unless between digits; a dash behind a digit.
MARKS = (
    (re.compile(r"""([!"#$%&()*+/:;<=>?@\[\\\]^_`{|}~ ])"""), r" \1 "),
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
# The characters that `zh` takes apart, first and last. That they begin at U+2001, with marks such as “ and …, is sacrebleu's
# reading of "U+20000", the start of extension B; the characters of the extension are not taken apart.
CHINESE = (
    *((0x2001, 0x2A6D), (0x2E80, 0x2FDF), (0x2FF0, 0x303F), (0x3100, 0x312F), (0x31A0, 0x31BF), (0x31C0, 0x31EF)),
    *((0x3200, 0x33FF), (0x3400, 0x4DB5), (0x4E00, 0x9FBB), (0xF900, 0xFA2D), (0xFA30, 0xFA6A), (0xFA70, 0xFAD9)),
    *((0xFE10, 0xFE1F), (0xFE30, 0xFE4F), (0xFF00, 0xFFEF)),
)
# The share of Han characters among those of scripts without spaces from which a text is Chinese; Japanese has about a half.
MIN_HAN = 0.8

Tokenizer = Callable[[str], list[str]]


class _Spaced(dict[int, str]):
    """A table for `str.translate` that computes the replacement of a character when it first occurs."""

    def __init__(self, replace: Callable[[str], str]) -> None:
        self._replace = replace

    def __missing__(self, code: int) -> str:
        self[code] = self._replace(chr(code))
        return self[code]


def tokenize_13a(text: str) -> list[str]:
    """Return the tokens of a text in a language with spaces, as sacrebleu's tokenizer `13a`."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in ENTITIES:
        text = text.replace(entity, character)
    return _split_marks(f" {text} ")


def tokenize_chinese(text: str) -> list[str]:
    """Return the tokens of a Chinese text, as sacrebleu's tokenizer `zh`: each character, and words of other scripts."""
    return _split_marks(text.strip().translate(_CHINESE_SPACED))


def tokenize_characters(text: str) -> list[str]:
    """Return all characters but white space, as sacrebleu's tokenizer `char`."""
    return list("".join(text.split()))


def tokenize_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without marks; a character of a script without spaces is a word.

    On ASCII text these are the tokens of rouge-score, which drops all other letters.
    """
    return text.lower().translate(_WORDS_SPACED).split()


BLEU_TOKENIZERS: Mapping[str, Tokenizer] = {
    "13a": tokenize_13a,
    "zh": tokenize_chinese,
    "char": tokenize_characters,
}


def choose_bleu_tokenizer(references: Iterable[str]) -> str:
    """Return the name, in `BLEU_TOKENIZERS`, of the tokenizer for these references.

    It is "13a" if most letters belong to scripts with spaces, else "zh" if they are Chinese, or "char" (Japanese, Thai, …).
    """
    letters = "".join(character for reference in references for character in reference if character.isalpha())
    if not letters or (is_unspaced := unspaced(letters)).mean() <= 0.5:
        return "13a"
    codes = np.frombuffer(letters.encode("utf-32-le"), dtype="<u4")[is_unspaced]
    is_han = ((codes >= 0x3400) & (codes <= 0x9FFF)) | ((codes >= 0xF900) & (codes <= 0xFAFF)) | (codes >= 0x20000)
    return "zh" if is_han.mean() >= MIN_HAN else "char"


def _split_marks(text: str) -> list[str]:
    for pattern, replacement in MARKS:
        text = pattern.sub(replacement, text)
    return text.split()


def _space_chinese(character: str) -> str:
    is_chinese = any(first <= ord(character) <= last for first, last in CHINESE)
    return f" {character} " if is_chinese else character


def _space_word(character: str) -> str:
    """Return a space for a mark, the character between spaces if it is a word, else the character."""
    if unicodedata.category(character)[0] not in "LNM":
        return " "
    return f" {character} " if unspaced(character)[0] else character


_CHINESE_SPACED, _WORDS_SPACED = _Spaced(_space_chinese), _Spaced(_space_word)
