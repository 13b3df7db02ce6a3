"""Checks of a labelled table (`mapsto check`): suspicious labels, repeated rows, and test rows seen in training.

A test row is a leak if its normalised source values equal those of a training row. Test rows that are only similar to a
training row (near-duplicates) are found by MinHash.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mapsto import kinds
from mapsto.data.duplicates.near_duplicates import HashBatch, find_near_duplicates
from mapsto.data.label_hints import are_ids, header_hints, label_hints, missing_hints, score_hints
from mapsto.data.rows import Rows, row_keys, side_keys
from mapsto.errors import DataError, Finding, place, shorten
from mapsto.task.label_spelling import describe_alike, look_alikes, same_value
from mapsto.task.shingles import Hashes
from mapsto.task.source import Source
from mapsto.task.source_capabilities import Describable, Inspectable, Spoken
from mapsto.task.target_capabilities import (
    Classes,
    Located,
    Paired,
    Standardised,
    Transcribed,
    Voiced,
    has_exclusive_classes,
    is_located,
    located_port,
)

# Rows whose hashes are in memory at a time.
ROWS_AT_ONCE = 2048

# What speaks for two scales: so many scores between 0 and 1, the smallest maximum of the others, the end of the gap from 1 on.
MIN_SHARES, LARGE_SCORE, GAP = 3, 10.0, 5.0


@dataclass
class DataReport:
    """The problems that `check_rows` finds in training and test rows.

    errors: problems that must be fixed before training, leaks included.
    warnings: problems that do not prevent training, such as repeated rows or near-duplicates.
    leaks: one finding for each test row whose sources equal those of a training row.
    """

    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    leaks: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class _Values:
    """Rows, and for each row what the checks compare: a key of its source values, and its label.

    source_kinds: the source kind of each source column, in order.
    column: the name of the first source column, which findings about sources name.
    keys: for each row a string that is equal for equal sources, see `row_keys`; None if a source cell cannot be read.
    labels: the label of each row at the first target with exclusive classes; None if no target has such classes.
    label_column: the column of these labels.
    """

    rows: Rows
    source_kinds: Sequence[type[Source]]
    column: str | None
    keys: Sequence[str | None]
    labels: Sequence[str | None] | None
    label_column: str | None

    def finding(self, index: int, reason: str, of_label: bool = False) -> Finding:
        """Return a finding about row `index` that quotes the source values of the row.

        reason: the problem in words.
        of_label: quote the label of the row instead, if the rows have labels.
        """
        file, line = self.rows.origin(index)
        if of_label and self.labels is not None:
            return Finding(file, line, self.label_column, self.labels[index], reason)
        return Finding(file, line, self.column, self.as_text(index), reason)

    def as_text(self, index: int) -> str:
        """Return the source values of row `index` as text, one value per line."""
        return "\n".join(str(column[index]) for column in self.rows.sources[: len(self.source_kinds)])

    @property
    def noun(self) -> str:
        """The word that messages use for a row: the source kind, such as "text", or "row" if there are several sources."""
        return self.source_kinds[0].kind if len(self.source_kinds) == 1 else "row"

    def _described_columns(self) -> list[tuple[type[Describable], Sequence[Any]]]:
        """Return (source kind, values) of each column whose values have hashes."""
        return [
            (kind, values)
            for kind, values in zip(self.source_kinds, self.rows.sources, strict=False)
            if issubclass(kind, Describable)
        ]

    def sketch(self, index: int) -> Hashes:
        """Return the sorted distinct hashes of the source values of row `index`: the union of those of all its sources."""
        columns = self._described_columns()
        return np.unique(np.concatenate([kind.sketch(values[index]) for kind, values in columns]))

    def sketches(self, indices: Sequence[int]) -> Iterator[HashBatch]:
        """Yield the hashes of the source values of rows, in batches, by which near-duplicates are found.

        Source kinds without `Describable.sketch` give no hashes. Rows that cannot be read are left out.
        """
        columns = self._described_columns()
        readable = [index for index in indices if self.keys[index] is not None] if columns else []
        for start in range(0, len(readable), ROWS_AT_ONCE):
            batch = readable[start : start + ROWS_AT_ONCE]
            parts = [kind.sketch_batch([values[index] for index in batch]) for kind, values in columns]
            # Of several sources, all hashes of a row stand together.
            order = np.argsort(
                np.concatenate([np.repeat(np.arange(len(batch)), counts) for _, counts in parts]), kind="stable"
            )
            hashes = np.concatenate([hashes for hashes, _ in parts])
            counts = np.sum([counts for _, counts in parts], axis=0)
            yield HashBatch(np.array(batch), hashes[order] if len(parts) > 1 else hashes, counts)

    def place(self, index: int) -> str:
        """Return the file and row number of row `index` as text for messages, such as "train.csv, row 3"."""
        file, line = self.rows.origin(index)
        return place(file, line)


def check_rows(rows: Rows, test: Rows | None = None) -> DataReport:
    """Return the problems found in training rows; with test rows also leaks, near-duplicates and labels seen only in the test.

    rows: the training rows. test: the test rows.
    Unreadable cells, which are None in both, are skipped, because `Rows.faults` already reports them.
    """
    report, arrow = DataReport(), rows.arrow
    columns = [port.column for port in (*arrow.sources, *arrow.targets)]
    for table in (rows.table, *([] if test is None else [test.table])):
        report.warnings += table.remarks_on(columns)
    train = _values(rows)
    report.errors += _one_class(train)
    report.errors += _unlearnable(rows)
    report.warnings += _labels(train)
    report.warnings += _label_names(rows, test)
    report.warnings += _label_columns(rows) + ([] if test is None else _label_columns(test))
    report.warnings += _outliers(rows)
    report.warnings += _misread(rows)
    for checked in (rows, *([] if test is None else [test])):
        report.warnings += _inspected(checked)
    report.warnings += _repeated(train)
    for checked in (rows, *([] if test is None else [test])) if arrow.symmetric else ():
        report.warnings += _lone_texts(checked) if arrow.is_grouped else _pairs(checked)
        report.warnings += _mixed_scales(checked) if arrow.is_scored else []
        report.warnings += [] if arrow.is_scored or arrow.is_grouped else score_hints(arrow, checked.table)
    for checked in (rows, *([] if test is None else [test])):
        report.warnings += [finding for _, finding in find_repairs(checked)]
        report.warnings += _pair_faults(checked)
        report.warnings += _transcript_faults(checked)
    if test is not None:
        test_values = _values(test)
        report.warnings += _unseen(train, test_values)
        report.leaks, near_duplicates = _shared(train, test_values)
        report.errors += report.leaks
        report.warnings += near_duplicates
    return report


def _unlearnable(rows: Rows) -> list[Finding]:
    """Return an error for each target that nothing can be learnt from, such as tags of which no row has one."""
    errors = []
    for port, kind, answers in zip(rows.arrow.targets, kinds.answering(rows.arrow), rows.targets, strict=True):
        readable = [answer for answer in answers if answer is not None]
        if port.restores is None and issubclass(kind, Located) and readable:
            try:
                kind().learn(readable)
            except DataError as error:
                errors.append(Finding(rows.table.origin(0)[0], None, port.column, None, str(error)))
    return errors


def _outliers(rows: Rows) -> list[Finding]:
    """Return a warning for each number that is so far from all others that it alone makes the deviation of a target."""
    return [
        Finding(*rows.origin(index), port.column, str(target.brief(answers[index])), reason)
        for port, kind, answers in zip(rows.arrow.targets, kinds.answering(rows.arrow), rows.targets, strict=True)
        if issubclass(kind, Standardised) and port.restores is None
        for target in (kind(),)
        for index, reason in target.find_outliers(answers)
    ]


def _inspected(rows: Rows) -> list[Finding]:
    """Return a warning for each fact about source values that a user should know, such as a silent recording."""
    findings = []
    for port, values in zip(rows.arrow.sources, rows.sources, strict=True):
        kind = kinds.source(port.kind)
        for index, remark in kind.inspect(values) if issubclass(kind, Inspectable) else ():
            findings.append(Finding(*rows.origin(index), port.column, str(values[index]), remark))
    return findings


def _label_names(rows: Rows, test: Rows | None) -> list[Finding]:
    """Return warnings on the names of classes in answers that have several: names that look alike, or are only in the test."""
    findings = []
    for port, kind in enumerate(kinds.answering(rows.arrow)):
        if not issubclass(kind, Classes) or kind.exclusive:
            continue
        target, column = kind(), rows.arrow.targets[port].column
        counts, test_counts = (
            Counter(name for answer in part.targets[port] if answer is not None for name in target.class_names(answer))
            for part in (rows, test or rows)
        )
        file = rows.table.origin(0)[0]
        findings += missing_hints(counts, rows.table, column)
        for group in look_alikes(counts):
            findings.append(Finding(file, None, column, None, _describe_alike(group, counts)))
        test_file = file if test is None else test.table.origin(0)[0]
        findings += [
            Finding(
                test_file,
                None,
                column,
                name,
                f"a label of the test ({count:,}) that no training row has{describe_alike(name, counts)}",
            )
            for name, count in test_counts.items()
            if name not in counts and same_value(name, counts) is None
        ]
    return findings


def _label_columns(rows: Rows) -> list[Finding]:
    """Return a warning for each column of classes with a cell that is probably read otherwise than it is meant."""
    findings = []
    for port, kind in zip(rows.arrow.targets, kinds.answering(rows.arrow), strict=True):
        if port.column is None or port.restores is not None or not issubclass(kind, Classes):
            continue
        cells = rows.table.column(port.column)
        if fault := kind.find_column_fault(cells):
            index, reason = fault
            findings.append(Finding(*rows.table.origin(index), port.column, str(cells[index]), reason))
    return findings


def _describe_alike(group: Sequence[str], counts: Mapping[str, int], noun: str = "") -> str:
    """Return the reason of a finding about labels that look alike. noun: what is counted, such as " rows"."""
    spellings = ", ".join(f"{name!r} ({counts[name]:,}{noun})" for name in group)
    return f"labels that look alike: {spellings}; if they are the same, fit with --fold-labels"


def find_repairs(rows: Rows) -> list[tuple[tuple[int, str, Any], Finding]]:
    """Return probable corrections of answers that lie in a source value: (index of the row, column, new cell), and a finding."""
    repairs = []
    for port, target, answers in zip(rows.arrow.targets, kinds.answering(rows.arrow), rows.targets, strict=True):
        if not is_located(target) or port.restores is not None or port.column is None:
            continue
        if all(source.kind != target.lies_in for source in rows.arrow.sources):
            continue
        values = rows.sources[located_port(target, [source.kind for source in rows.arrow.sources])]
        for repair in target.find_repairs(answers, values):
            finding = Finding(*rows.origin(repair.row), port.column, repair.quoted, repair.reason)
            repairs.append(((int(rows.indices[repair.row]), port.column, repair.cell), finding))
    return repairs


def _pair_faults(rows: Rows) -> list[Finding]:
    """Return a warning for each answer that is probably wrong beside its source, such as one that is swapped with it."""
    findings = []
    for port, target, answers in zip(rows.arrow.targets, kinds.answering(rows.arrow), rows.targets, strict=True):
        pairs = zip(rows.arrow.sources, rows.sources, strict=True)
        columns = [values for source, values in pairs if source.kind == target.kind]
        if port.restores is not None or not issubclass(target, Paired) or not columns:
            continue
        sources = [None if None in values else values for values in zip(*columns, strict=True)]
        for fault in target.find_faults(sources, answers):
            reason = (
                fault.reason
                if fault.earlier_row is None
                else f"{fault.reason} {place(*rows.origin(fault.earlier_row))}"
            )
            findings.append(Finding(*rows.origin(fault.row), port.column, target.key(answers[fault.row]), reason))
    return findings


def _transcript_faults(rows: Rows) -> list[Finding]:
    """Return a warning for each text that is probably not what is said in its recording, and for texts in several spellings."""
    findings: list[Finding] = []
    source = kinds.source(rows.arrow.sources[0].kind) if rows.arrow.sources else None
    if source is None or not issubclass(source, Spoken) or not issubclass(source, Describable):
        return findings
    seconds = [None if value is None else source.size(value) for value in rows.sources[0]]
    for port, target, answers in zip(rows.arrow.targets, kinds.answering(rows.arrow), rows.targets, strict=True):
        if port.restores is None and issubclass(target, Transcribed):
            for fault in target.find_transcript_faults(seconds, answers):
                quoted = target.key(answers[fault.row])
                findings.append(Finding(*rows.origin(fault.row), port.column, quoted, fault.reason))
    return findings


def _misread(rows: Rows) -> list[Finding]:
    """Return a warning for each recording that is probably not one of its row's text."""
    return [
        Finding(*rows.origin(fault.row), port.column, target().brief(answers[fault.row]), fault.reason)
        for port, target, answers in zip(rows.arrow.targets, kinds.answering(rows.arrow), rows.targets, strict=True)
        if port.restores is None and issubclass(target, Voiced)
        for fault in target.find_misread(answers)
    ]


def _values(rows: Rows) -> _Values:
    """Return the rows with a comparison key and a label for each row."""
    arrow = rows.arrow
    source_kinds = [kinds.source(port.kind) for port in (arrow.keys if arrow.is_grouped else arrow.sources)]
    targets = enumerate(kinds.answering(arrow))
    class_port = next((port for port, target in targets if has_exclusive_classes(target)), None)
    return _Values(
        rows,
        source_kinds,
        arrow.sources[0].column,
        row_keys(rows),
        None if class_port is None else rows.targets[class_port],
        None if class_port is None else arrow.targets[class_port].column,
    )


def _one_class(values: _Values) -> list[Finding]:
    """Return a list of one error if all labelled rows have the same label, else an empty list."""
    classes = {label for label in values.labels or () if label is not None}
    if len(classes) != 1:
        return []
    reason = f"every row has the label {classes.pop()!r}; two classes are needed"
    return [Finding(values.rows.table.origin(0)[0], None, values.label_column, None, reason)]


def _labels(values: _Values) -> list[Finding]:
    """Return a warning for each group of labels that look alike, and for each class with a single row."""
    labels = values.labels or []
    counts = Counter(label for label in labels if label is not None)
    # Reversed, so that a label's first row overwrites the later ones.
    first = {label: index for index, label in reversed(list(enumerate(labels)))}
    findings = []
    for group in look_alikes(counts):
        # The rarest spelling is the likely mistake, so the finding points to its first row.
        rare = min(group, key=lambda label: counts[label])
        findings.append(values.finding(first[rare], _describe_alike(group, counts, " rows"), of_label=True))
    findings += label_hints(counts, values.rows.table, values.label_column)
    findings += missing_hints(counts, values.rows.table, values.label_column)
    if not values.rows.arrow.corrupted and len(values.rows.table):
        findings += header_hints(values.rows.table, values.column, values.label_column, counts)
    single = [label for label, count in counts.items() if count == 1]
    # One warning says it for all.
    if are_ids(counts):
        return findings
    return findings + [values.finding(first[label], "the only row of its class", of_label=True) for label in single]


def _repeated(values: _Values) -> list[Finding]:
    """Return a warning for each row whose sources equal an earlier row's while their labels differ.

    Rows that repeat both sources and label are counted in one further warning; for targets that are Paired, those that also
    repeat the answer.
    """
    first_index: dict[str, int] = {}
    repeats: list[tuple[int, int]] = []
    findings = []
    labels = values.labels or [None] * len(values.keys)
    targets = zip(kinds.answering(values.rows.arrow), values.rows.targets, strict=True)
    paired = [answers for target, answers in targets if issubclass(target, Paired)]
    for index, key in enumerate(values.keys):
        if key is None:
            continue
        original = first_index.setdefault(key, index)
        if original == index:
            continue
        if labels[original] != labels[index]:
            reason = f"contradicting labels: {labels[index]!r} here, {labels[original]!r} in {values.place(original)}"
            findings.append(values.finding(index, reason))
        elif all(answers[original] == answers[index] for answers in paired):
            repeats.append((index, original))
    if repeats:
        index, original = repeats[0]
        number = "1 row repeats" if len(repeats) == 1 else f"{len(repeats):,} rows repeat"
        reason = f"{number} another one; this one repeats {values.place(original)}"
        findings.append(values.finding(index, reason))
    return findings


def _lone_texts(rows: Rows) -> list[Finding]:
    """Return a warning for each row of a grouped arrow without another text that means the same; it is left out."""
    used = {*rows.indices.tolist()}
    bad = {(fault.file, fault.row) for fault in rows.faults}
    column = rows.arrow.sources[0].column
    reason = "no other text of its group, or a text that the group has already: nothing can be learnt from it"
    return [
        Finding(*rows.table.origin(row), column, str(rows.table.column(column or "")[row]), reason)
        for row in range(len(rows.table))
        if row not in used and rows.table.origin(row) not in bad
    ]


def _mixed_scales(rows: Rows) -> list[Finding]:
    """Return a warning if scores of pairs are probably in two scales: some from 0 to 1, others from 0 to 10 or 100.

    A sign is a gap: several scores lie between 0 and 1, others are at least 10, and none lies between 1 and 5.
    """
    scores = np.array([np.nan if score is None else score for score in rows.targets[0]], np.float64)
    shares, large = (scores > 0) & (scores < 1), scores > 1
    if shares.sum() < MIN_SHARES or not large.any() or np.nanmax(scores) < LARGE_SCORE or (scores[large] < GAP).any():
        return []
    rare = shares if shares.sum() < large.sum() else large
    row = int(np.flatnonzero(rare)[0])
    reason = (
        f"scores in two scales: {int(shares.sum()):,} lie between 0 and 1, {int(large.sum()):,} between {GAP:g} and "
        f"{np.nanmax(scores):g}, none between; a score counts by its place in the order of all"
    )
    return [Finding(*rows.origin(row), rows.arrow.targets[0].column, f"{scores[row]:g}", reason)]


def _pairs(rows: Rows) -> list[Finding]:
    """Return warnings on pairs: equal texts, hard negatives that are right, and queries with several passages."""
    sides, columns = side_keys(rows), [port.column for port in rows.arrow.sources]
    readable = [row for row in range(len(rows)) if all(values[row] is not None for values in rows.sources)]
    right: dict[str, set[str]] = {}
    for row in readable:
        right.setdefault(sides[0][row], set()).add(sides[1][row])
    findings = []
    for row in readable:
        query = sides[0][row]
        if query == sides[1][row]:
            reason = f"the same text as in column {columns[0]!r}: nothing can be learnt from this pair"
            findings.append(Finding(*rows.origin(row), columns[1], rows.sources[1][row], reason))
        for side in range(2, len(sides)):
            if sides[side][row] in right[query]:
                reason = "a hard negative that is right for its query in some row; it is left out"
                findings.append(Finding(*rows.origin(row), columns[side], rows.sources[side][row], reason))
    if several := sum(len(passages) > 1 for passages in right.values()):
        reason = f"{several:,} queries have several right texts; all count, and they stay on one side of a split"
        findings.append(Finding(rows.table.origin(0)[0], None, columns[0], None, reason))
    return findings


def _unseen(train: _Values, test: _Values) -> list[Finding]:
    """Return a warning for each label that test rows have and no training row has."""
    if train.labels is None or test.labels is None:
        return []
    training_labels = {label for label in train.labels if label is not None}
    counts = Counter(label for label in test.labels if label is not None)
    return [
        test.finding(
            test.labels.index(label),
            f"{count:,} test rows have a label that training never sees{describe_alike(label, training_labels)}",
            of_label=True,
        )
        for label, count in counts.items()
        # Labels of the same number or boolean are scored as one.
        if label not in training_labels and same_value(label, training_labels) is None
    ]


def _shared(train: _Values, test: _Values) -> tuple[list[Finding], list[Finding]]:
    """Return (leaks, near-duplicates): findings about test rows whose sources equal, or only resemble, a training row's.

    A leak is not also reported as a near-duplicate.
    """
    # Reversed, so that a key's first row overwrites the later ones.
    index_by_key = {key: index for index, key in reversed(list(enumerate(train.keys))) if key is not None}
    leaks, remaining = [], []
    for index, key in enumerate(test.keys):
        if key is None:
            continue
        if (train_index := index_by_key.get(key)) is not None:
            reason = f"the same {test.noun} is also in the training data: {train.place(train_index)}"
            leaks.append(test.finding(index, reason))
        else:
            remaining.append(index)
    near_duplicates = []
    # Leaks are reported already, so only the remaining test rows are compared by their hashes.
    # With several sources the strictest threshold decides.
    threshold = max(kind.defaults.near_duplicate_threshold for kind in train.source_kinds)
    for index, train_index, similarity in find_near_duplicates(
        train.sketches(range(len(train.keys))), test.sketches(remaining), train.sketch, test.sketch, threshold
    ):
        location, text = train.place(train_index), train.as_text(train_index)
        # A media file is its own location, which need not be quoted again.
        location += "" if text == location else f": {shorten(text, 40)!r}"
        reason = f"almost the same {test.noun} ({100 * similarity:.0f} % alike) in the training data: {location}"
        near_duplicates.append(test.finding(index, reason))
    return leaks, near_duplicates


def find_leaks(parts: Iterable[Rows], test: Rows) -> list[Finding]:
    """Return a finding for each test row whose sources equal those of a corpus row, in the order of the test rows.

    parts: the rows of the corpus, part by part. They are read once, and only one part is in memory at a time.
    """
    test_values = _values(test)
    # The test rows are indexed and not the corpus, which may be larger than memory.
    indices_by_key: dict[str, list[int]] = {}
    for index, key in enumerate(test_values.keys):
        if key is not None:
            indices_by_key.setdefault(key, []).append(index)
    leaks: list[tuple[int, Finding]] = []
    for part in parts:
        train = _values(part)
        for train_index, key in enumerate(train.keys):
            # `pop` reports each test row once, at its first match in the corpus.
            for index in () if key is None else indices_by_key.pop(key, ()):
                reason = f"the same {test_values.noun} is also in the training data: {train.place(train_index)}"
                leaks.append((index, test_values.finding(index, reason)))
    return [finding for _, finding in sorted(leaks, key=lambda leak: leak[0])]
