"""Checks of a labelled table (`mapsto check`): suspicious labels, repeated rows, and leaks between training and test rows.

Leaks are exact matches of normalised values; near-duplicates are found by MinHash.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from mapsto import kinds
from mapsto.data.near_duplicates import find_near_duplicates
from mapsto.data.rows import Rows
from mapsto.errors import Finding, place, shorten
from mapsto.task.capabilities import Describable, has_exclusive_classes
from mapsto.task.source import Source
from mapsto.text.shingles import Hashes


@dataclass
class DataReport:
    """The findings of the checks.

    errors: must be fixed.
    warnings: deserve a look.
    leaks: test rows that are also training rows; they are among the errors.
    """

    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    leaks: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class _Values:
    """Rows as the checks compare them.

    read: the source kind of each column.
    column: the first source column.
    keys: a key of the sources of each row; None where a cell cannot be read.
    labels: the label of each row, where a target has exclusive classes.
    label_column: the column of these labels.
    """

    rows: Rows
    read: Sequence[type[Source]]
    column: str | None
    keys: Sequence[str | None]
    labels: Sequence[str | None] | None
    label_column: str | None

    def finding(self, index: int, reason: str, of_label: bool = False) -> Finding:
        file, line = self.rows.origin(index)
        if of_label and self.labels is not None:
            return Finding(file, line, self.label_column, self.labels[index], reason)
        return Finding(file, line, self.column, self.shown(index), reason)

    def shown(self, index: int) -> str:
        """Return the sources of a row as text."""
        return "\n".join(str(column[index]) for column in self.rows.sources)

    @property
    def noun(self) -> str:
        """The word for a row in messages, such as "text"."""
        return self.read[0].kind if len(self.read) == 1 else "row"

    def sketches(self, indices: Iterable[int]) -> list[Hashes | None]:
        """Return the hashes of the rows `indices`, see Describable.sketch; None for other rows."""
        sketches: list[Hashes | None] = [None] * len(self.rows)
        columns = [
            (kind, values)
            for kind, values in zip(self.read, self.rows.sources, strict=True)
            if issubclass(kind, Describable)
        ]
        for index in indices if columns else ():
            if self.keys[index] is not None:
                sketches[index] = np.unique(np.concatenate([kind.sketch(values[index]) for kind, values in columns]))
        return sketches

    def place(self, index: int) -> str:
        file, line = self.rows.origin(index)
        return place(file, line)


def check_rows(rows: Rows, test: Rows | None = None) -> DataReport:
    """Check rows, and test rows against them. Cells that could not be read are None; they are in `rows.faults`."""
    report, arrow = DataReport(), rows.arrow
    columns = [port.column for port in (*arrow.sources, *arrow.targets)]
    for table in (rows.table, *([] if test is None else [test.table])):
        report.warnings += table.remarks_on(columns)
    train = _values(rows)
    report.errors += _one_class(train)
    report.warnings += _labels(train)
    report.warnings += _repeated(train)
    if test is not None:
        tested = _values(test)
        report.warnings += _unseen(train, tested)
        report.leaks, near = _shared(train, tested)
        report.errors += report.leaks
        report.warnings += near
    return report


def _values(rows: Rows) -> _Values:
    arrow = rows.arrow
    read = [kinds.source(port.kind) for port in arrow.sources]
    keys = [
        None
        if any(value is None for value in values)
        else "\n".join(kind.key(value) for kind, value in zip(read, values, strict=True))
        for values in zip(*rows.sources, strict=True)
    ]
    answered = enumerate(kinds.answering(arrow))
    named = next((port for port, target in answered if has_exclusive_classes(target)), None)
    return _Values(
        rows,
        read,
        arrow.sources[0].column,
        keys,
        None if named is None else rows.targets[named],
        None if named is None else arrow.targets[named].column,
    )


def _one_class(values: _Values) -> list[Finding]:
    classes = {label for label in values.labels or () if label is not None}
    if len(classes) != 1:
        return []
    reason = f"every row has the label {classes.pop()!r}; two classes are needed"
    return [Finding(values.rows.table.origin(0)[0], None, values.label_column, None, reason)]


def _labels(values: _Values) -> list[Finding]:
    """Find labels that differ only by case or spaces, and classes of a single row."""
    labels = values.labels or []
    counts = Counter(label for label in labels if label is not None)
    first = {label: index for index, label in reversed(list(enumerate(labels)))}
    alike: dict[str, list[str]] = {}
    for label in counts:
        alike.setdefault(" ".join(unicodedata.normalize("NFKC", label).casefold().split()), []).append(label)
    found = []
    for group in alike.values():
        if len(group) > 1:
            rare = min(group, key=lambda label: counts[label])
            listed = ", ".join(f"{label!r} ({counts[label]:,} rows)" for label in group)
            reason = f"labels that differ by case or spaces alone: {listed}"
            found.append(values.finding(first[rare], reason, of_label=True))
    single = [label for label, count in counts.items() if count == 1]
    return found + [values.finding(first[label], "the only row of its class", of_label=True) for label in single]


def _exact(text: str) -> str:
    """Normalise a text for exact comparison: composed characters, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _repeated(values: _Values) -> list[Finding]:
    """Find equal values with different labels, and count the rows that repeat another one."""
    first_index: dict[str, int] = {}
    again: list[tuple[int, int]] = []
    found = []
    labels = values.labels or [None] * len(values.keys)
    for index, key in enumerate(values.keys):
        if key is None:
            continue
        before = first_index.setdefault(_exact(key), index)
        if before == index:
            continue
        if labels[before] != labels[index]:
            reason = f"contradicting labels: {labels[index]!r} here, {labels[before]!r} in {values.place(before)}"
            found.append(values.finding(index, reason))
        else:
            again.append((index, before))
    if again:
        index, before = again[0]
        reason = f"{len(again):,} rows repeat another one; this one repeats {values.place(before)}"
        found.append(values.finding(index, reason))
    return found


def _unseen(train: _Values, test: _Values) -> list[Finding]:
    """Find classes that only the test rows have."""
    if train.labels is None or test.labels is None:
        return []
    known, counts = set(train.labels), Counter(label for label in test.labels if label is not None)
    return [
        test.finding(
            test.labels.index(label), f"{count:,} test rows have a label that training never sees", of_label=True
        )
        for label, count in counts.items()
        if label not in known
    ]


def _shared(train: _Values, test: _Values) -> tuple[list[Finding], list[Finding]]:
    """Find test rows of which the sources are also in the training data: (exact matches, near-duplicates)."""
    known = {_exact(key): index for index, key in reversed(list(enumerate(train.keys))) if key is not None}
    leaks, others = [], []
    for index, key in enumerate(test.keys):
        if key is None:
            continue
        if (same := known.get(_exact(key))) is not None:
            reason = f"the same {test.noun} is also in the training data: {train.place(same)}"
            leaks.append(test.finding(index, reason))
        else:
            others.append(index)
    near = []
    sketches, alike = (
        train.sketches(range(len(train.keys))),
        max(kind.defaults.near_duplicate_threshold for kind in train.read),
    )
    for index, twin, similarity in find_near_duplicates(sketches, test.sketches(others), others, alike):
        where, shown = train.place(twin), train.shown(twin)
        where += "" if shown == where else f": {shorten(shown, 40)!r}"
        reason = f"almost the same {test.noun} ({100 * similarity:.0f} % alike) in the training data: {where}"
        near.append(test.finding(index, reason))
    return leaks, near


def find_leaks(parts: Iterable[Rows], test: Rows) -> list[Finding]:
    """Find test rows of which the sources are also in a corpus, exactly; its parts are read once and not kept."""
    tested = _values(test)
    wanted: dict[str, list[int]] = {}
    for index, key in enumerate(tested.keys):
        if key is not None:
            wanted.setdefault(_exact(key), []).append(index)
    leaks: list[tuple[int, Finding]] = []
    for part in parts:
        train = _values(part)
        for at, key in enumerate(train.keys):
            for index in () if key is None else wanted.pop(_exact(key), ()):
                reason = f"the same {tested.noun} is also in the training data: {train.place(at)}"
                leaks.append((index, tested.finding(index, reason)))
    return [finding for _, finding in sorted(leaks, key=lambda leak: leak[0])]
