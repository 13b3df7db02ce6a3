"""Overlap: rows of a scored table that the model, or a model that it started from, was fitted to.

On such rows scores are too good. Every mapping keeps a filter of the rows of each fit that it went through
(model/row_filter.py), and each scored table is held against all of them. Two rows are the same if their sources are,
whatever their labels, as in the checks of test rows against training rows (checks.py). Pretraining is not counted: it sees
no labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mapsto.data.rows import Rows, row_keys
from mapsto.model.row_filter import RowFilter

# With false alarms alone, one table in a thousand has as many matches as count as overlap.
MAX_ERROR = 0.001


@dataclass(frozen=True)
class Overlap:
    """The rows of a table that are in the training data of a model or of its starting models; true if there are any.

    num_rows: of the table.
    num_overlapping: rows that were trained on.
    num_possible: rows that match the training data, but are so few that they may be false alarms.
    data: the training data with these rows. checked: all training data that is recorded; empty where none is.
    """

    num_rows: int = field(default=0, metadata={"key": "of"})
    num_overlapping: int = field(default=0, metadata={"key": "rows"})
    num_possible: int = field(default=0, metadata={"key": "possible"})
    data: tuple[str, ...] = field(default=(), metadata={"key": "trained_on"})
    checked: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.num_overlapping > 0

    @property
    def counts(self) -> str:
        """The numbers of rows in words: "37 of 200 rows"."""
        return f"{self.num_overlapping:,} of {self.num_rows:,} rows"

    @property
    def mark(self) -> str:
        """The words that stand behind every score that rests on the overlap; empty without overlap."""
        return f" – too good: {self.counts} were trained on" if self else ""

    @property
    def warning(self) -> str:
        """The sentence about these rows for notes and pages; empty where no row matches."""
        fitted = f"by this model or by a model that it started from ({', '.join(self.data)})"
        if self:
            return f"{self.counts} were trained on {fitted}: the scores are too good"
        if self.num_possible:
            return (
                f"{self.num_possible:,} of {self.num_rows:,} rows may have been trained on {fitted}; so few may also be "
                "false alarms, as only short hashes of those rows are kept"
            )
        return ""


def filter_rows(*parts: Rows) -> RowFilter:
    """Return the filter of the rows of a fit, whose training rows and held-out rows are parts of one table."""
    keys = [key for rows in parts for key in row_keys(rows) if key is not None]
    return RowFilter.from_keys(keys, str(parts[0].arrow), parts[0].table.name)


def find_overlap(filters: Sequence[RowFilter], rows: Rows) -> Overlap:
    """Count the rows of a table that are in at least one of the filters.

    Every row that was trained on matches, and 0.006 % of the others: false alarms. So matches count as overlap only if
    false alarms alone would rarely be as many: in MAX_ERROR of all tables, by the binomial distribution over the table's
    distinct rows. The expected number of false alarms is then subtracted. Fewer matches are only possible overlap, such as
    a single row among hundreds.
    """
    keys = [key for key in row_keys(rows) if key is not None]
    checked = tuple(dict.fromkeys(map(str, filters)))
    distinct = list(dict.fromkeys(keys))
    matches = [row_filter.contains(distinct) for row_filter in filters]
    rates = [row_filter.false_alarm_rate for row_filter in filters]
    is_match = np.any(matches, axis=0) if filters else np.zeros(len(distinct), np.bool_)
    if not is_match.any():
        return Overlap(len(rows), checked=checked)
    matching_keys = {key for key, matched in zip(distinct, is_match.tolist(), strict=True) if matched}
    num_matches = sum(key in matching_keys for key in keys)
    rate = float(1 - np.prod([1 - rate for rate in rates]))
    if not _exceeds_false_alarms(is_match, rate):
        data = [str(row_filter) for row_filter, match in zip(filters, matches, strict=True) if match.any()]
        return Overlap(len(rows), num_possible=num_matches, data=tuple(dict.fromkeys(data)), checked=checked)
    # Of the rows that do not overlap, the share `rate` matches.
    count = max(1, round((num_matches - rate * len(keys)) / (1 - rate)))
    data = [
        str(row_filter)
        for row_filter, match, own_rate in zip(filters, matches, rates, strict=True)
        if _exceeds_false_alarms(match, own_rate)
    ]
    return Overlap(len(rows), count, data=tuple(dict.fromkeys(data)) or checked, checked=checked)


def _exceeds_false_alarms(is_match: NDArray[np.bool_], rate: float) -> bool:
    """Return whether false alarms alone would make as many matches with probability MAX_ERROR at most.

    is_match: (n,), of distinct rows. rate: the probability of a false alarm.
    """
    num_matches = int(is_match.sum())
    if not num_matches:
        return False
    from scipy.special import bdtrc  # takes a second to import, and most tables have no match

    # The binomial probability of more than num_matches - 1.
    return bool(bdtrc(num_matches - 1, len(is_match), rate) <= MAX_ERROR)
