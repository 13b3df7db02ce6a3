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

from mapsto import kinds
from mapsto.arrow import Arrow
from mapsto.errors import Finding, place, shorten
from mapsto.examples import Rows

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
class _Values:
    """What the doctor compares: for each row a key of all that is read, and the name that is answered, where it is one.

    None where a cell cannot be read.
    """

    rows: Rows
    column: str | None
    keys: Sequence[str | None]
    labels: Sequence[str | None] | None
    label_column: str | None

    def finding(self, index: int, reason: str, of_label: bool = False) -> Finding:
        file, line = self.rows.table.origin(int(self.rows.rows[index]))
        if of_label and self.labels is not None:
            return Finding(file, line, self.label_column, self.labels[index], reason)
        return Finding(file, line, self.column, self.keys[index], reason)

    def place(self, index: int) -> str:
        file, line = self.rows.table.origin(int(self.rows.rows[index]))
        return place(file, line)


def doctor(arrow: Arrow, rows: Rows, test: Rows | None = None) -> Report:
    """Look all rows over, alone and beside those of a test; cells that cannot be read are None, and in `rows.faults`."""
    report = Report()
    train = _values(arrow, rows)
    report.errors += _one_class(train)
    report.warnings += _labels(train)
    report.warnings += _repeated(train)
    if test is not None:
        tested = _values(arrow, test)
        report.warnings += _unseen(train, tested)
        report.leaks, near = _shared(train, tested)
        report.errors += report.leaks
        report.warnings += near
    return report


def _values(arrow: Arrow, rows: Rows) -> _Values:
    key_of = [kinds.source(port.kind).key for port in arrow.sources]
    keys = [
        None
        if any(value is None for value in values)
        else "\n".join(key(value) for key, value in zip(key_of, values, strict=True))
        for values in zip(*rows.sources, strict=True)
    ]
    named = next((i for i, port in enumerate(arrow.targets) if kinds.target(port.kind).named), None)
    return _Values(
        rows,
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
    """Labels that differ by case or spaces alone, and classes of a single row."""
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
    """Texts equal under this are the same text: composed characters, single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _repeated(values: _Values) -> list[Finding]:
    """The same text under two labels, and how many rows only repeat another one."""
    seen: dict[str, int] = {}
    again: list[tuple[int, int]] = []
    found = []
    labels = values.labels or [None] * len(values.keys)
    for index, key in enumerate(values.keys):
        if key is None:
            continue
        before = seen.setdefault(_exact(key), index)
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
    """Classes that only the test has."""
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
    """Test rows whose text also stands in the training data: exactly, and nearly."""
    known = {_exact(key): index for index, key in reversed(list(enumerate(train.keys))) if key is not None}
    leaks, others = [], []
    for index, key in enumerate(test.keys):
        if key is None:
            continue
        if (same := known.get(_exact(key))) is not None:
            leaks.append(test.finding(index, f"the same text also stands in the training data: {train.place(same)}"))
        else:
            others.append(index)
    near = []
    for index, twin, similarity in near_duplicates(train.keys, test.keys, others):
        shown = shorten(str(train.keys[twin]), 40)
        reason = f"almost the same text ({100 * similarity:.0f} % alike) in the training data: {train.place(twin)}: {shown!r}"
        near.append(test.finding(index, reason))
    return leaks, near


def seen(arrow: Arrow, parts: Iterable[Rows], test: Rows) -> list[Finding]:
    """Test rows whose text also stands, exactly, in a corpus; its parts are gone through once and not held."""
    tested = _values(arrow, test)
    wanted: dict[str, list[int]] = {}
    for index, key in enumerate(tested.keys):
        if key is not None:
            wanted.setdefault(_exact(key), []).append(index)
    leaks: list[tuple[int, Finding]] = []
    for part in parts:
        train = _values(arrow, part)
        for at, key in enumerate(train.keys):
            for index in () if key is None else wanted.pop(_exact(key), ()):
                reason = f"the same text also stands in the training data: {train.place(at)}"
                leaks.append((index, tested.finding(index, reason)))
    return [finding for _, finding in sorted(leaks, key=lambda leak: leak[0])]


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
