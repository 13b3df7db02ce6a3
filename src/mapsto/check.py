"""The data doctor: what is wrong with a labelled table, and what stands in both the training data and the test.

Near duplicates: MinHash over character shingles (Broder 1997) with banding, then the exact Jaccard similarity.
Legend of shapes: n texts, p permutations, b bands.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mapsto.data import Table
from mapsto.errors import Finding, shorten

SHINGLE = 5
SHORTEST_NEAR = 20
SIMILAR = 0.7
PERMUTATIONS, BANDS = 96, 24
MOST_SHINGLES = 2000
LARGEST_BUCKET = 50
Hashes = NDArray[np.uint64]


@dataclass
class Report:
    """Errors must be mended; warnings deserve a look. `leaks`, test rows that training sees, are among the errors."""

    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    leaks: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class _Rows:
    """The texts of a table, one string a row, and its labels; None where a cell is blank."""

    table: Table
    column: str | None
    texts: list[str | None]
    labels: list[str | None]
    label_column: str | None

    def finding(self, row: int, reason: str, of_label: bool = False) -> Finding:
        file, line = self.table.origin(row)
        value = self.labels[row] if of_label else self.texts[row]
        return Finding(file, line, self.label_column if of_label else self.column, value, reason)

    def place(self, row: int) -> str:
        file, line = self.table.origin(row)
        return f"{file}, row {line}"


def doctor(table: Table, text_columns: Sequence[str], label_column: str | None, test: Table | None = None) -> Report:
    """Look a training table over, alone and beside its test."""
    report = Report()
    train = _rows(table, text_columns, label_column)
    tested = None if test is None else _rows(test, text_columns, label_column)
    for rows in (train, tested):
        if rows is not None:
            report.errors += _blanks(rows)
    report.errors += _one_class(train)
    report.warnings += _labels(train)
    report.warnings += _repeated(train)
    if tested is not None:
        report.warnings += _unseen(train, tested)
        report.leaks, near = _shared(train, tested)
        report.errors += report.leaks
        report.warnings += near
    return report


def _rows(table: Table, text_columns: Sequence[str], label_column: str | None) -> _Rows:
    columns = [table.column(name) for name in text_columns if name in table.columns]
    texts = [
        None if any(_blank(cell) for cell in cells) else "\n".join(map(str, cells))
        for cells in zip(*columns, strict=True)
    ] or [None] * len(table)
    labelled = label_column is not None and label_column in table.columns
    cells = table.column(label_column) if labelled and label_column is not None else [None] * len(table)
    labels = [None if _blank(cell) else str(cell) for cell in cells]
    return _Rows(table, text_columns[0] if text_columns else None, texts, labels, label_column if labelled else None)


def _blank(cell: object) -> bool:
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _blanks(rows: _Rows) -> list[Finding]:
    found = []
    for row in range(len(rows.table)):
        if rows.texts[row] is None:
            found.append(rows.finding(row, "the text is blank"))
        if rows.label_column is not None and rows.labels[row] is None:
            found.append(rows.finding(row, "the label is blank", of_label=True))
    return found


def _one_class(rows: _Rows) -> list[Finding]:
    classes = {label for label in rows.labels if label is not None}
    if rows.label_column is None or len(classes) != 1:
        return []
    reason = f"every row has the label {classes.pop()!r}; two classes are needed"
    return [Finding(rows.table.origin(0)[0], None, rows.label_column, None, reason)]


def _labels(rows: _Rows) -> list[Finding]:
    """Labels that differ by case or spaces alone, and classes of a single row."""
    counts = Counter(label for label in rows.labels if label is not None)
    first = {label: row for row, label in reversed(list(enumerate(rows.labels))) if label is not None}
    alike: dict[str, list[str]] = {}
    for label in counts:
        alike.setdefault(" ".join(unicodedata.normalize("NFKC", label).casefold().split()), []).append(label)
    found = []
    for group in alike.values():
        if len(group) > 1:
            rare = min(group, key=lambda label: counts[label])
            listed = ", ".join(f"{label!r} ({counts[label]:,} rows)" for label in group)
            reason = f"labels that differ by case or spaces alone: {listed}"
            found.append(rows.finding(first[rare], reason, of_label=True))
    single = [label for label, count in counts.items() if count == 1]
    return found + [rows.finding(first[label], "the only row of its class", of_label=True) for label in single]


def _exact(text: str) -> str:
    """Texts equal under this are the same text: composed characters, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _repeated(rows: _Rows) -> list[Finding]:
    """The same text under two labels, and how many rows only repeat another one."""
    seen: dict[str, int] = {}
    again: list[tuple[int, int]] = []
    found = []
    for row, text in enumerate(rows.texts):
        if text is None:
            continue
        before = seen.setdefault(_exact(text), row)
        if before == row:
            continue
        if rows.labels[before] != rows.labels[row]:
            reason = f"contradicting labels: {rows.labels[row]!r} here, {rows.labels[before]!r} in {rows.place(before)}"
            found.append(rows.finding(row, reason))
        else:
            again.append((row, before))
    if again:
        row, before = again[0]
        found.append(
            rows.finding(row, f"{len(again):,} rows repeat another one; this one repeats {rows.place(before)}")
        )
    return found


def _unseen(train: _Rows, test: _Rows) -> list[Finding]:
    """Classes that only the test has."""
    known = set(train.labels)
    counts = Counter(label for label in test.labels if label is not None and label not in known)
    return [
        test.finding(
            test.labels.index(label), f"{count:,} test rows have a label that training never sees", of_label=True
        )
        for label, count in counts.items()
        if train.label_column is not None
    ]


def _shared(train: _Rows, test: _Rows) -> tuple[list[Finding], list[Finding]]:
    """Test rows whose text also stands in the training data: exactly, and nearly."""
    known = {_exact(text): row for row, text in reversed(list(enumerate(train.texts))) if text is not None}
    leaks, others = [], []
    for row, text in enumerate(test.texts):
        if text is None:
            continue
        if (same := known.get(_exact(text))) is not None:
            leaks.append(test.finding(row, f"the same text also stands in the training data: {train.place(same)}"))
        else:
            others.append(row)
    near = []
    for row, twin, similarity in near_duplicates(train.texts, test.texts, others):
        shown = shorten(str(train.texts[twin]), 40)
        reason = f"almost the same text ({100 * similarity:.0f} % alike) in the training data: {train.place(twin)}: {shown!r}"
        near.append(test.finding(row, reason))
    return leaks, near


def near_duplicates(
    texts: Sequence[str | None], wanted: Sequence[str | None], rows: Iterable[int]
) -> list[tuple[int, int, float]]:
    """(row of `wanted`, row of `texts`, Jaccard similarity) for those of `rows` with a near twin; the nearest one."""
    shingles = [None if text is None else _shingles(text) for text in texts]
    buckets: list[dict[bytes, list[int]]] = [{} for _ in range(BANDS)]
    for row, found in enumerate(shingles):
        if found is not None:
            for bucket, key in zip(buckets, _bands(found), strict=True):
                members = bucket.setdefault(key, [])
                if len(members) < LARGEST_BUCKET:
                    members.append(row)
    twins = []
    for row in rows:
        text = wanted[row]
        own = None if text is None else _shingles(text)
        if own is None:
            continue
        candidates = {c for bucket, key in zip(buckets, _bands(own), strict=True) for c in bucket.get(key, ())}
        best = max(((_jaccard(own, shingles[c]), c) for c in candidates), default=(0.0, -1))
        if best[0] >= SIMILAR:
            twins.append((row, best[1], best[0]))
    return twins


def _multipliers() -> Hashes:
    rng = np.random.Generator(np.random.Philox(key=[0, 1]))
    return rng.integers(0, 2**63, size=(PERMUTATIONS, 2), dtype=np.uint64) | np.uint64(1)


MULTIPLIERS = _multipliers()


def _shingles(text: str) -> Hashes | None:
    """Sorted hashes of the different runs of SHINGLE characters; None for texts too short to be near anything."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    if len(folded) < SHORTEST_NEAR:
        return None
    codes = np.frombuffer(folded.encode("utf-32-le"), np.uint32).astype(np.uint64)
    hashed = np.zeros(len(codes) - SHINGLE + 1, np.uint64)
    for i in range(SHINGLE):
        hashed = hashed * np.uint64(1_099_511_628_211) + codes[i : len(codes) - SHINGLE + 1 + i]
    hashed ^= hashed >> np.uint64(29)
    return np.unique(hashed * np.uint64(0xBF58476D1CE4E5B9))[:MOST_SHINGLES]


def _bands(shingles: Hashes) -> list[bytes]:
    """The smallest hash under each permutation, in bands: texts that are alike share one."""
    mixed = (shingles[None, :] ^ (shingles[None, :] >> np.uint64(31))) * MULTIPLIERS[:, :1] + MULTIPLIERS[:, 1:]
    smallest = (mixed >> np.uint64(16)).min(axis=1).reshape(BANDS, -1)
    return [band.tobytes() for band in smallest]


def _jaccard(one: Hashes, other: Hashes | None) -> float:
    if other is None:
        return 0.0
    both = len(np.intersect1d(one, other, assume_unique=True))
    return both / (len(one) + len(other) - both)
