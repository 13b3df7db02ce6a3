"""Names and faults of parallel text files: the line of a number in one file is the translation of that line in the others.

Legend of shapes: n lines of the shorter file, m lines of the longer one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# The codes of languages (ISO 639-1) by which files are named, and other names of a side.
CODES = """aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo
    es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki kj kk
    kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc
    oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn
    to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"""
LANGUAGES = frozenset(CODES.split())
SIDES = frozenset(["src", "tgt", "trg", "source", "target"])
REGION = re.compile(r"[-_][a-z]{2,4}")
# The share by which the best place must fit better than lines that are paired at random.
MIN_GAIN = 0.1


def side_name(path: Path) -> str | None:
    """Return the side that a file's suffix names, such as "de" for a.de or a.de.gz; None if it names no language and no side."""
    suffix = _bare(path).suffix.lstrip(".")
    language = REGION.sub("", suffix.lower(), count=1)
    return suffix if language in LANGUAGES or suffix.lower() in SIDES else None


def column_names(paths: Sequence[Path]) -> list[str]:
    """Return the names of the columns for parallel files: their suffixes if these differ, else their stems, else their folders.

    [] if none of them tells the files apart.
    """
    bare = [_bare(path) for path in paths]
    candidates = (
        [path.suffix.lstrip(".") for path in bare],
        [path.stem for path in bare],
        [path.parent.name for path in bare],
    )
    return next((names for names in candidates if all(names) and max(Counter(names).values()) == 1), [])


def find_divergence(longer: Sequence[int], shorter: Sequence[int]) -> int | None:
    """Return the number (from 1) of the line at which the longer of two files probably begins to have lines too many.

    The lengths of lines that belong together are in proportion (Gale & Church 1993). So for each place the surplus lines are
    left out there, and the place is returned for which the pairs' log ratios of lengths vary least; None if no place fits
    much better than lines that do not belong together.
    longer, shorter: the number of characters of each line, (m,) and (n,).
    """
    first, second = (np.log1p(np.array(lengths, np.float64)) for lengths in (longer, shorter))
    n, surplus = len(second), len(first) - len(second)
    if n < 2 or surplus < 1:
        return None
    unshifted_cost, shifted_cost = _deviations(first[:n], second), _deviations(first[surplus:], second)
    # The cost of place p: pairs (i, i) before it and (i + surplus, i) from it on.
    cost = np.append(0.0, np.cumsum(unshifted_cost)) + np.append(np.cumsum(shifted_cost[::-1])[::-1], 0.0)
    place = int(cost.argmin())
    unrelated = np.random.Generator(np.random.Philox(0)).permutation(n)
    return place + 1 if cost[place] < (1 - MIN_GAIN) * _deviations(first[unrelated], second).sum() else None


def _deviations(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the absolute deviations of the log ratios of lengths from their median, (n,)."""
    ratios = first - second
    deviations: NDArray[np.float64] = np.abs(ratios - np.median(ratios))
    return deviations


def _bare(path: Path) -> Path:
    """Return a path without the suffix .gz."""
    return path.with_suffix("") if path.suffix.lower() == ".gz" else path
