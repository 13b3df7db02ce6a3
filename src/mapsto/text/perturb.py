"""Perturb."""

from __future__ import annotations

import unicodedata

import numpy as np

MISTYPED = 0.05  # of the letters


def mistyped(text: str, rng: np.random.Generator) -> str:
    """About one letter in twenty left out, doubled, or in the place of the next one."""
    letters = list(text)
    at = 0
    while at < len(letters):
        if letters[at].isalnum() and rng.random() < MISTYPED:
            kind = int(rng.integers(3))
            if kind == 0 and len(letters) > 1:
                letters[at] = ""
            elif kind == 1:
                letters[at] *= 2
            elif at + 1 < len(letters):
                letters[at], letters[at + 1] = letters[at + 1], letters[at]
                at += 1
        at += 1
    return "".join(letters).strip() or text


def unpunctuated(text: str) -> str:
    """Without the characters that Unicode calls punctuation; a text of nothing else stays."""
    bare = "".join(letter for letter in text if not unicodedata.category(letter).startswith("P"))
    return " ".join(bare.split()) or text
