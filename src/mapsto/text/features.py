"""Text without a model: how often its words stand in it, and how it looks when others type it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

WORDS, CHARACTERS = (1, 2), (1, 4)


MOST_FEATURES = 100_000


NO_TEXT = re.compile("[\0\ud800-\udfff]")


def no_text(text: str) -> str | None:
    """What keeps `text` from being text: a NUL, or half a character, which has no UTF-8 form; None for text."""
    found = NO_TEXT.search(text)
    return None if found is None else "a NUL character" if found[0] == "\0" else f"{found[0]!r}, half a character"


def tfidf(texts: Sequence[str]) -> Callable[[Sequence[str]], Any]:
    """From texts to sparse vectors (n, f) of length 1: runs of 1 to 2 words, and of 1 to 4 characters within words, each
    weighted by 1 + log of how often it stands in the text and by how rare it is in `texts` (Salton & Buckley 1988).
    """
    from scipy.sparse import hstack  # a second to import
    from sklearn.feature_extraction.text import TfidfVectorizer

    shared = {"sublinear_tf": True, "max_features": MOST_FEATURES, "dtype": np.float32}
    parts = [
        TfidfVectorizer(analyzer="char_wb", ngram_range=CHARACTERS, **shared),
        TfidfVectorizer(ngram_range=WORDS, token_pattern=r"\w+", **shared),
    ]
    known = []
    for part in parts:
        try:
            known.append(part.fit(texts))
        except ValueError:  # no text has a word: signs alone, such as emoji
            continue
    return lambda asked: hstack([part.transform(asked) for part in known], format="csr") / len(known) ** 0.5
