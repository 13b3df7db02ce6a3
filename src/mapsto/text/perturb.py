"""Variants of a text with the same meaning, to test robustness: typing errors and missing punctuation."""

from __future__ import annotations

import unicodedata

import numpy as np

TYPO_RATE = 0.05  # share of letters and digits with an error


def add_typos(text: str, rng: np.random.Generator) -> str:
    """Return the text with about one letter in twenty, at random, deleted, doubled, or swapped with the next letter."""
    letters = list(text)
    index = 0
    while index < len(letters):
        if letters[index].isalnum() and rng.random() < TYPO_RATE:
            error = int(rng.integers(3))
            if error == 0 and len(letters) > 1:
                letters[index] = ""
            elif error == 1:
                letters[index] *= 2
            elif index + 1 < len(letters):
                letters[index], letters[index + 1] = letters[index + 1], letters[index]
                index += 1  # the swapped letter is not changed again
        index += 1
    return "".join(letters).strip() or text


def remove_punctuation(text: str) -> str:
    """Return the text without punctuation (Unicode category P); unchanged if nothing else would remain."""
    stripped = "".join(letter for letter in text if not unicodedata.category(letter).startswith("P"))
    return " ".join(stripped.split()) or text
