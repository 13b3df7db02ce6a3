"""The characters of a text: which are invalid or invisible, which are equal, and which together are one for a reader.

Two texts are canonically equal if they have the same canonical composition (NFC; Unicode Standard Annex 15), as "é" in one
character and in two. A grapheme cluster (Annex 29) is what a reader takes for one character, such as a letter with its marks.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

Places = NDArray[np.int64]

# NUL, and lone surrogates, which UTF-8 cannot encode.
INVALID_CHARACTER = re.compile("[\0\ud800-\udfff]")
# Unicode categories of spaces, control and format characters.
INVISIBLE = frozenset(["Zs", "Zl", "Zp", "Cc", "Cf"])
# Letters, marks and symbols without ink: fillers of Korean, a joiner, vowels of Khmer, the empty pattern of Braille, selectors.
WITHOUT_INK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | {
    chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))
}
# A character that may be in one grapheme cluster with the one before or behind it: all but those of these ranges.
JOINING = re.compile(
    "[^\0-\x0c\x0e-\u02ff\u0370-\u0482\u048a-\u0590\u1e00-\u200a\u2010-\u2029\u202f-\u205f\u2070-\u20cf\u2100-\u2cee"
    "\u2e00-\u3029\u3030-\u3098\u309b-\ua66e\uac00-\ud7a3\uf900-\ufaff\uff01-\uff9d"
    "\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff\U00020000-\U0003ffff]"
)


def find_invalid_character(text: str) -> str | None:
    """Return a description of the first invalid character of a text; None if there is none.

    Invalid are NUL and lone surrogates (halves of a character), which UTF-8 cannot encode.
    """
    match = INVALID_CHARACTER.search(text)
    return None if match is None else "a NUL character" if match[0] == "\0" else f"{match[0]!r}, half a character"


def has_visible(text: str) -> bool:
    """Return whether a text has a character that can be seen: no space, control or format character, and none without ink."""
    # Nearly every text begins with a letter or a digit.
    if text[:1].isalnum() and text[0] not in WITHOUT_INK:
        return True
    return any(unicodedata.category(character) not in INVISIBLE and character not in WITHOUT_INK for character in text)


def canonical(text: str) -> str:
    """Return the canonical composition (NFC) of a text, which is the same for all canonically equal texts."""
    return text if unicodedata.is_normalized("NFC", text) else unicodedata.normalize("NFC", text)


def grapheme_starts(text: str) -> Places:
    """Return the index of the first character of each grapheme cluster of a text, (g,)."""
    if JOINING.search(text) is None:
        return np.arange(len(text))
    return np.array([start for _, (start, _) in _cluster_splitter().pre_tokenize_str(text)], np.int64)


def widen(places: NDArray[Any], starts: Places, length: int) -> Places:
    """Return places in a text moved outwards to the ends of grapheme clusters; those that cover nothing stay.

    places: (t, 2), start and end of each, in characters. starts: from `grapheme_starts`. length: of the text.
    """
    if len(starts) == length or not len(places):
        return places.astype(np.int64)
    ends = np.append(starts[1:], length)
    cluster_of_start = np.searchsorted(starts, places[:, 0], side="right") - 1
    cluster_of_end = np.searchsorted(ends, places[:, 1], side="left")
    is_empty = places[:, 0] >= places[:, 1]
    first, last = starts[cluster_of_start], ends[np.minimum(cluster_of_end, len(ends) - 1)]
    return np.where(is_empty[:, None], places, np.stack([first, last], axis=1))


def canonical_places(text: str) -> Places:
    """Return for each character of `canonical(text)` start and end in `text` of the grapheme cluster that holds it, (n, 2)."""
    edges = [*grapheme_starts(text).tolist(), len(text)]
    # Characters of different clusters are never composed.
    sizes = [len(canonical(text[start:end])) for start, end in pairwise(edges)]
    return np.repeat(np.array(list(pairwise(edges)), np.int64).reshape(-1, 2), sizes, axis=0)


@cache
def _cluster_splitter() -> tokenizers.pre_tokenizers.PreTokenizer:
    """Return the library's splitter at the ends of grapheme clusters."""
    return tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\X"), "isolated")


def to_integer(number: Any) -> int:
    """Return a whole number of a cell, such as 3.0, as an integer. Raises TypeError, ValueError or OverflowError for others."""
    if isinstance(number, bool | str) or int(number) != number:
        raise ValueError(number)
    return int(number)
