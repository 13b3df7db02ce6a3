"""The check for characters that are not valid in a text."""

from __future__ import annotations

import re

# NUL, and lone surrogates, which UTF-8 cannot encode.
INVALID_CHARACTER = re.compile("[\0\ud800-\udfff]")


def find_invalid_character(text: str) -> str | None:
    """Return a description of the first invalid character of a text; None if there is none.

    Invalid are NUL and lone surrogates (halves of a character), which UTF-8 cannot encode.
    """
    match = INVALID_CHARACTER.search(text)
    return None if match is None else "a NUL character" if match[0] == "\0" else f"{match[0]!r}, half a character"
