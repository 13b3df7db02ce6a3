"""Checks of the characters of a text, and of the numbers of characters that give places in it."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

# NUL, and lone surrogates, which UTF-8 cannot encode.
INVALID_CHARACTER = re.compile("[\0\ud800-\udfff]")
# Unicode categories of spaces, control and format characters.
INVISIBLE = frozenset(["Zs", "Zl", "Zp", "Cc", "Cf"])


def find_invalid_character(text: str) -> str | None:
    """Return a description of the first invalid character of a text; None if there is none.

    Invalid are NUL and lone surrogates (halves of a character), which UTF-8 cannot encode.
    """
    match = INVALID_CHARACTER.search(text)
    return None if match is None else "a NUL character" if match[0] == "\0" else f"{match[0]!r}, half a character"


def has_visible(text: str) -> bool:
    """Return whether a text has a character that a tokenizer reads: no space, control or format character."""
    return any(unicodedata.category(character) not in INVISIBLE for character in text)


def to_integer(number: Any) -> int:
    """Return a whole number of a cell, such as 3.0, as an integer. Raises TypeError, ValueError or OverflowError for others."""
    if isinstance(number, bool | str) or int(number) != number:
        raise ValueError(number)
    return int(number)
