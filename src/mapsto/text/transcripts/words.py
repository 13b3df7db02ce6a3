"""The words of a transcript that was generated token by token, with the times of their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mapsto.text.encoding import unspaced
from mapsto.text.tokenizer import Tokenizer

# Stands for the bytes of a character that are not complete.
INCOMPLETE = "\ufffd"


def find_words(tokenizer: Tokenizer, tokens: Sequence[int], edges: Sequence[float], size: int) -> list[dict[str, Any]]:
    """Return {"start", "end", "text"} for each word of the tokens of a window, in seconds.

    A word begins behind a space; in scripts without spaces, such as Chinese, each token is one. Marks belong to the word before
    them. edges: where the tokens begin, and the end of the last. size: ids from here on are no text.
    """
    words: list[dict[str, Any]] = []
    ids: list[int] = []
    text, start = "", None
    for number, token in enumerate(tokens):
        if token >= size:
            continue
        ids.append(token)
        start = edges[number] if start is None else start
        current = tokenizer.decode(ids)
        if current.endswith(INCOMPLETE):
            # The character goes on in the next token, which belongs to the same word.
            continue
        part, is_apart, text = current[len(text) :], text[-1:].isspace() or current[len(text) :][:1].isspace(), current
        is_new = not words or is_apart or _has_no_spaces(part[:1]) or _has_no_spaces(words[-1]["text"][-1])
        if is_new and any(map(str.isalnum, part)):
            words.append({"start": start, "end": edges[number + 1], "text": part.lstrip()})
        elif words:
            words[-1] |= {"end": edges[number + 1], "text": words[-1]["text"] + part}
        elif part.strip():
            words.append({"start": start, "end": edges[number + 1], "text": part.lstrip()})
        start = None
    return [
        {"start": round(word["start"], 2), "end": round(word["end"], 2), "text": word["text"].strip()} for word in words
    ]


def _has_no_spaces(character: str) -> bool:
    """Return whether a character is of a script without spaces; False for none."""
    return bool(character) and bool(unspaced(character)[0])
