"""Word and character error rates of transcripts: edits that turn an answer into the true text, for each true word or character.

The rates belong to a corpus: edits and lengths are summed over all rows before they are divided, as jiwer does, so they can be
above 1. The plain rates compare texts as they are written. The normalised one ignores case, punctuation and marks, as Whisper's
normalizer for any language does (Radford et al. 2022, appendix C).
Legend of shapes: n rows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]

BRACKETS = re.compile(r"[<\[][^>\]]*[>\]]|\([^)]+?\)")


def edit_distance(answer: Sequence[str], reference: Sequence[str]) -> int:
    """Return the fewest insertions, deletions and substitutions that turn one sequence into another (Levenshtein 1966)."""
    numbers = {item: number for number, item in enumerate(dict.fromkeys([*answer, *reference]))}
    target = np.array([numbers[item] for item in reference], np.int64)
    order = np.arange(len(target) + 1)
    costs = order.copy()
    for row, item in enumerate(answer, 1):
        changed = np.minimum(costs[1:] + 1, costs[:-1] + (target != numbers[item]))
        # An insertion costs one more than the place before it: the running minimum of what is left without insertions.
        costs = np.minimum.accumulate(np.concatenate([[row], changed]) - order) + order
    return int(costs[-1])


def split_words(text: str) -> list[str]:
    """Return the words of a text, which white space separates."""
    return text.split()


def split_characters(text: str) -> list[str]:
    """Return the characters of a text, with single spaces between its words."""
    return list(" ".join(text.split()))


def split_normalised_words(text: str) -> list[str]:
    """Return the words of a text in lower case, without punctuation, symbols, marks of letters and what stands in brackets."""
    plain = BRACKETS.sub("", text.lower())
    normalised = unicodedata.normalize("NFKC", plain)
    return "".join(
        " " if unicodedata.category(character)[0] in "MSP" else character for character in normalised
    ).split()


def error_counts(
    answers: Sequence[str], references: Sequence[str], split: Callable[[str], list[str]] = split_words
) -> Counts:
    """Return for each row the number of edits and the length of the true text, (n, 2). split: the parts that are compared."""
    pairs = [(split(answer), split(reference)) for answer, reference in zip(answers, references, strict=True)]
    return np.array([[edit_distance(*pair), len(pair[1])] for pair in pairs], np.int64).reshape(-1, 2)


def error_rate(counts: Counts) -> float:
    """Return the edits of all rows divided by the length of all true texts, see `error_counts`; 0 if nothing is to be said."""
    edits, length = counts.sum(0).tolist()
    return edits / length if length else float(edits > 0)
