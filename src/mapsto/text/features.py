"""Features of text that need no model (TF-IDF), and the check for invalid characters."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# The lengths of the shortest and the longest n-grams.
WORD_NGRAMS, CHARACTER_NGRAMS = (1, 2), (1, 4)
MAX_FEATURES = 100_000
# NUL, and lone surrogates, which UTF-8 cannot encode.
INVALID_CHARACTER = re.compile("[\0\ud800-\udfff]")


def find_invalid_character(text: str) -> str | None:
    """Return a description of the first invalid character of a text; None if there is none.

    Invalid are NUL and lone surrogates (halves of a character), which UTF-8 cannot encode.
    """
    match = INVALID_CHARACTER.search(text)
    return None if match is None else "a NUL character" if match[0] == "\0" else f"{match[0]!r}, half a character"


def fit_tfidf(texts: Sequence[str]) -> Callable[[Sequence[str]], Any]:
    """Fit TF-IDF on training texts; return the function from texts to sparse features (n, f), rows of unit norm.

    Terms are n-grams of 1 to 2 words, and of 1 to 4 characters within words. Character n-grams serve languages without spaces,
    such as Chinese. A term's weight is (1 + log count in the text) · inverse document frequency (Salton & Buckley 1988).
    """
    from scipy.sparse import hstack  # imported here since it takes a second
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
        except ValueError:  # texts without words, such as emoji only
            continue
    # Rows of each part have unit norm. Dividing by the root of the number of parts gives rows of unit norm again.
    return lambda texts: (
        hstack([vectorizer.transform(texts) for vectorizer in fitted], format="csr") / len(fitted) ** 0.5
    )
