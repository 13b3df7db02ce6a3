"""Find out how the starts and ends of spans in a data set are counted, where they do not fit the words of its texts.

A span fits if it begins where a word begins and ends where a word ends. Tools count in different ways: with the last character
included, from 1, in bytes, in UTF-16 units as JavaScript does, or with line ends of two characters; and people mark a blank too
much. Each way is tried on all spans, and the one by which most fit is proposed. In scripts without spaces between words, and in
those that attach particles to names (Korean, Hebrew, Arabic), every place fits, so nothing is found.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate

from mapsto.text.tagging.word_tags import written_words

Region = tuple[int, int]  # start, and end behind the last character
# Converts the regions of a text, as they were counted, to characters. They may lie outside of the text.
Count = Callable[[str, Sequence[Region]], list[Region]]

# A way of counting is proposed for all spans if it leaves at most this share of the misfits, and repairs at least so many.
MAX_MISFITS_LEFT, MIN_REPAIRED = 0.2, 3
# If more of the spans do not fit, single ones are not moved: names may be parts of words, as before Korean particles.
MAX_MOVED = 0.05
# Characters of scripts in which names stand in a word with particles.
ATTACHING = re.compile("[\u0590-\u06ff\uac00-\ud7af]")
# Shifts of start and end that are tried for a single span.
SHIFTS = [(1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0)]


def _shift(first: int, second: int) -> Count:
    """Return the conversion that adds `first` to starts and `second` to ends."""
    return lambda text, regions: [(start + first, end + second) for start, end in regions]


def _from_units(size: Callable[[str], int]) -> Count:
    """Return the conversion from units of which each character has one or more. size: their number in a character."""

    def convert(text: str, regions: Sequence[Region]) -> list[Region]:
        ends = list(accumulate(map(size, text)))
        # A place behind the text stays behind it.
        last = ends[-1] if ends else 0
        places = [
            [bisect_right(ends, place) if place <= last else len(text) + 1 for place in region] for region in regions
        ]
        return [(start, end) for start, end in places]

    return convert


WAYS: dict[str, Count] = {
    "with the last character included": _shift(0, 1),
    "from 1, with the last character included": _shift(-1, 0),
    "from 1": _shift(-1, -1),
    "in bytes of UTF-8": _from_units(lambda character: len(character.encode())),
    "in UTF-16 units": _from_units(lambda character: 1 + (ord(character) > 0xFFFF)),
    "with two characters at each line end": _from_units(lambda character: 1 + (character == "\n")),
}


def find_repairs(texts: Sequence[str], regions: Sequence[Sequence[Region]]) -> tuple[str | None, list[list[Region]]]:
    """Return (key in WAYS by which nearly all spans fit, or None; the regions of each text as they fit).

    Spaces at the ends of a span are left out. If few spans do not fit then, those are moved by a character that fit there.
    regions: the spans of each text, as the data says.
    """
    words = [_Edges(text) for text in texts]
    way = _find_way(texts, regions, words)
    if way is not None:
        regions = [WAYS[way](text, spans) for text, spans in zip(texts, regions, strict=True)]
    trimmed = [[edges.trim(*region) for region in spans] for edges, spans in zip(words, regions, strict=True)]
    num_misfits = sum(not edges.fit(*region) for edges, spans in zip(words, trimmed, strict=True) for region in spans)
    if num_misfits > MAX_MOVED * sum(map(len, trimmed)):
        return way, trimmed
    return way, [[edges.move(*region) for region in spans] for edges, spans in zip(words, trimmed, strict=True)]


def _find_way(texts: Sequence[str], regions: Sequence[Sequence[Region]], words: Sequence[_Edges]) -> str | None:
    """Return the key in WAYS by which nearly all spans fit, although they do not as they are; None if there is none."""

    def count_misfits(count: Count) -> int:
        return sum(
            not edges.fit(*region)
            for edges, text, spans in zip(words, texts, regions, strict=True)
            for region in count(text, spans)
        )

    misfits = count_misfits(_shift(0, 0))
    num_left = {name: count_misfits(count) for name, count in WAYS.items()} if misfits >= MIN_REPAIRED else {}
    fewest = min(num_left.values(), default=misfits)
    is_better = fewest <= MAX_MISFITS_LEFT * misfits and misfits - fewest >= MIN_REPAIRED
    return next(name for name, count in num_left.items() if count == fewest) if is_better else None


class _Edges:
    """The places in a text where words begin and end."""

    def __init__(self, text: str) -> None:
        words = written_words(text)
        self.text = text
        self.begins, self.ends = {start for start, _ in words}, {end for _, end in words}
        for start, end in words:
            if ATTACHING.search(text, start, end):
                self.begins.update(range(start, end))
                self.ends.update(range(start + 1, end))

    def fit(self, start: int, end: int) -> bool:
        """Return whether a region begins and ends with a word."""
        return start < end and start in self.begins and end in self.ends

    def trim(self, start: int, end: int) -> Region:
        """Return a region without the spaces at its ends if it fits then, else unchanged."""
        inner = self.text[max(0, start) : end]
        trimmed = max(0, start) + len(inner) - len(inner.lstrip()), max(0, start) + len(inner.rstrip())
        return trimmed if self.fit(*trimmed) else (start, end)

    def move(self, start: int, end: int) -> Region:
        """Return the only region that fits and is a character away; if there is none or several, the region as it is."""
        if self.fit(start, end):
            return start, end
        fitting = [(start + first, end + second) for first, second in SHIFTS if self.fit(start + first, end + second)]
        return fitting[0] if len(fitting) == 1 else (start, end)
