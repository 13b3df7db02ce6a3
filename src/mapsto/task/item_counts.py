"""Counts of right, answered and true items by row and class, from which precision, recall and F1 are computed.

An item is what an answer names: the class of a row, one of several labels, a span of a text, a box in a picture.
Legend of shapes: n rows, k pairs of a row and a class, c classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class ItemCounts:
    """The items of n rows.

    names: of the c classes. rows, classes: (k,), the row and the class of each pair that has an item.
    counts: (k, 3), the numbers of right, answered and true items of each pair.
    """

    names: list[str]
    num_rows: int
    rows: Counts
    classes: Counts
    counts: Counts

    @classmethod
    def collect(cls, items: Iterable[tuple[Counter[str], Counter[str], Counter[str]]]) -> ItemCounts:
        """Return the counts of rows, of each of which `items` has the right, the answered and the true items by class."""
        index: dict[str, int] = {}
        pairs: list[tuple[int, int, int, int, int]] = []
        num_rows = 0
        for row, (right, answers, true) in enumerate(items):
            num_rows = row + 1
            for name in dict.fromkeys((*true, *answers)):
                number = index.setdefault(name, len(index))
                pairs.append((row, number, right[name], answers[name], true[name]))
        table = np.array(pairs, np.int64).reshape(-1, 5)
        return cls(list(index), num_rows, table[:, 0], table[:, 1], table[:, 2:])

    @property
    def by_class(self) -> dict[str, tuple[int, int, int]]:
        """The numbers of right, answered and true items of each class."""
        sums = np.zeros((len(self.names), 3), np.int64)
        np.add.at(sums, self.classes, self.counts)
        num_right, num_answers, num_true = sums.T.tolist()
        return {name: (num_right[index], num_answers[index], num_true[index]) for index, name in enumerate(self.names)}

    @property
    def by_row(self) -> Counts:
        """The numbers of right, answered and true items of each row, (n, 3)."""
        sums = np.zeros((self.num_rows, 3), np.int64)
        np.add.at(sums, self.rows, self.counts)
        return sums
