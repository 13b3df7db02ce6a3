"""Features of text that need no model: TF-IDF, and the check for characters that are no text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# The shortest and the longest n-grams.
WORD_NGRAMS, CHARACTER_NGRAMS = (1, 2), (1, 4)
MAX_FEATURES = 100_000
# NUL, and lone surrogates, which have no UTF-8 form.
INVALID_CHARACTER = re.compile("[\0\ud800-\udfff]")


def find_invalid_character(text: str) -> str | None:
    """Return the first character that no text can hold in words: NUL, or half a character, which has no UTF-8 form.

    None where there is no such character.
    """
    match = INVALID_CHARACTER.search(text)
    return None if match is None else "a NUL character" if match[0] == "\0" else f"{match[0]!r}, half a character"


def fit_tfidf(texts: Sequence[str]) -> Callable[[Sequence[str]], Any]:
    """Fit TF-IDF on training texts; return the function from texts to sparse vectors (n, f) of length 1.

    Terms are 1 to 2 words, and 1 to 4 characters within words, which are the words of Chinese. Each is weighted by
    1 + log(count in the text) and by its rarity in `texts` (Salton & Buckley 1988).
    """
    from scipy.sparse import hstack  # a second to import
    from sklearn.feature_extraction.text import TfidfVectorizer

    options = {"sublinear_tf": True, "max_features": MAX_FEATURES, "dtype": np.float32}
    vectorizers = [
        TfidfVectorizer(analyzer="char_wb", ngram_range=CHARACTER_NGRAMS, **options),
        TfidfVectorizer(ngram_range=WORD_NGRAMS, token_pattern=r"\w+", **options),
    ]
    fitted = []
    for vectorizer in vectorizers:
        try:
            fitted.append(vectorizer.fit(texts))
        except ValueError:  # no text has a word, only signs such as emoji
            continue
    # Each part has length 1, and so has their concatenation divided by the root of their number.
    return lambda texts: (
        hstack([vectorizer.transform(texts) for vectorizer in fitted], format="csr") / len(fitted) ** 0.5
    )
