"""Find in a generated text what its source does not hold: numbers, names and word n-grams, as hints at invented facts.

Numbers are compared by value, so that 1,000 supports 1000 and 1.000, but not with numbers in words. Names are words with a
capital inside of a sentence. New n-grams also measure how far a summary is from a copy (See et al. 2017).
Legend of shapes: n rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from mapsto.metrics.intervals import Floats, bounded
from mapsto.text.pairs.metric_tokens import tokenize_words

# Digits, with groups behind points, commas, apostrophes or spaces that do not break a line; then 万 or 亿.
NUMBER = re.compile(r"\d+(?:[.,'’\u00a0\u2009\u202f]\d+)*[万亿]?")
GROUPING = re.compile(r"['’\u00a0\u2009\u202f]")
MULTIPLIERS = {"万": Decimal(10**4), "亿": Decimal(10**8)}
WORD = re.compile(r"(?<!\w)[^\W\d_][\w'’-]*")
# What stands before the first word of a sentence: the end of another one, but no initial or short title (J., Mr.), then quotes,
# brackets or bullets.
OPENING = re.compile(r"""(?:^|(?<!\b[A-Z])(?<!\b[A-Z][a-z])\.|[!?:…。！？：\n])[\s"'“”„«»‘’(\[*•–—-]*$""")
# The most characters of an opening that are looked at.
OPENING_LENGTH = 12
# The length of n-grams, in words, that are looked up in the source.
NGRAM_ORDER = 2


class Unsupported(NamedTuple):
    """Hold the parts of an answer that its source lacks, in the order of the answer.

    numbers, names: as they are written. num_numbers, num_names: the numbers of all in the answer.
    ngrams: word n-grams, as words separated by spaces. num_ngrams: the number of all in the answer.
    """

    numbers: tuple[str, ...]
    names: tuple[str, ...]
    ngrams: tuple[str, ...]
    num_numbers: int
    num_names: int
    num_ngrams: int


def find_unsupported(source: str, answer: str, order: int = NGRAM_ORDER) -> Unsupported:
    """Return the numbers, names and word n-grams of an answer that its source does not hold.

    order: length of the n-grams in words; a character of a script without spaces is a word.
    """
    source_words = tokenize_words(source)
    numbers, names, ngrams = find_numbers(answer), find_names(answer), _ngrams(tokenize_words(answer), order)
    source_values = frozenset().union(*map(readings, find_numbers(source)))
    known_words, known_ngrams = set(source_words), set(_ngrams(source_words, order))
    return Unsupported(
        tuple(number for number in numbers if not readings(number) & source_values),
        tuple(name for name in names if not known_words.issuperset(tokenize_words(_base(name)))),
        tuple(" ".join(ngram) for ngram in ngrams if ngram not in known_ngrams),
        len(numbers),
        len(names),
        len(ngrams),
    )


def unsupported_counts(rows: Sequence[Unsupported]) -> dict[str, tuple[Floats, Floats]]:
    """Return, by "numbers", "names" and "ngrams", two counts of each row: of unsupported ones and of all, (n,) each.

    The share of a corpus is `share(unsupported, all)`, a metric that a bootstrap can resample.
    """
    kinds = ("numbers", "names", "ngrams")
    counts = {kind: [(len(getattr(row, kind)), getattr(row, f"num_{kind}")) for row in rows] for kind in kinds}
    arrays = {kind: np.array(pairs, np.float64).reshape(-1, 2) for kind, pairs in counts.items()}
    return {kind: (pairs[:, 0], pairs[:, 1]) for kind, pairs in arrays.items()}


@bounded()
def share(unsupported: Floats, total: Floats) -> float:
    """Return the share of unsupported ones among all of all rows, 0 if there are none. unsupported, total: (n,)."""
    return float(unsupported.sum() / total.sum()) if total.sum() else 0.0


def find_numbers(text: str) -> list[str]:
    """Return the numbers that a text writes in digits, also full-width ones, such as "3.14", "1,000" or "5万"."""
    return NUMBER.findall(text.replace("．", "."))


def readings(number: str) -> frozenset[Decimal]:
    """Return the values that a number from `find_numbers` may have.

    The last point or comma may separate decimals or thousands. Three digits behind a single one leave both open (1.234), unless
    they are 000 or the first digit is 0; 3.5万 may be 35000, or 3.5 beside another unit.
    """
    digits = number.rstrip("".join(MULTIPLIERS))
    values = {Decimal(form) for form in _plain_forms(GROUPING.sub("", digits))}
    unit = number[len(digits) :]
    return frozenset(values | ({value * MULTIPLIERS[unit] for value in values} if unit else set()))


def _plain_forms(digits: str) -> set[str]:
    """Return the ways to write a number with at most one decimal point. digits: with points and commas."""
    groups, marks = re.split("[.,]", digits), re.findall("[.,]", digits)
    thousands, decimal = "".join(groups), "".join(groups[:-1]) + "." + groups[-1]
    is_grouped = len(groups[0]) <= 3 and groups[0] != "0" and all(len(group) == 3 for group in groups[1:-1])
    may_be_thousands = is_grouped and len(groups[-1]) == 3 and len(set(marks)) == 1
    if not marks:
        return {digits}
    if len(marks) == 1:
        return {thousands} if may_be_thousands and groups[-1] == "000" else {decimal, *[thousands] * may_be_thousands}
    if may_be_thousands:
        return {thousands}
    if is_grouped and len(set(marks[:-1])) == 1 and marks[-1] != marks[0]:
        return {decimal}
    # A date such as 24.12.2025 or a version such as 1.2.3 is no number; it only has to be equal to itself.
    return {"".join(group.zfill(3) for group in groups)}


def find_names(text: str) -> list[str]:
    """Return the words that begin with a capital inside of a sentence, such as "Berlin"; "I" is none.

    Scripts without capitals, such as Chinese, have none. In German all nouns are among them.
    """
    words = [match for match in WORD.finditer(text) if match[0][0].isupper() and len(_base(match[0])) > 1]
    return [match[0] for match in words if not _opens_sentence(text, match.start())]


def _opens_sentence(text: str, start: int) -> bool:
    return OPENING.search(text, max(0, start - OPENING_LENGTH), start) is not None


def _base(name: str) -> str:
    """Return a name without the ending of a genitive ('s) or a contraction (I'm)."""
    return re.split("['’]", name)[0] or name


def _ngrams(words: Sequence[str], order: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + order]) for start in range(len(words) - order + 1)]
