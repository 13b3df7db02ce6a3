"""Training rows, held-out rows and test rows. Rows with equal sources or of one dialogue are never in two of these sets.

Nor are, in training and held-out rows, those of one speaker or with one sentence (see grouping/row_groups.py), as far as enough
rows can be held out so; what cannot be kept apart is said.
Training and held-out rows share no near-duplicates either: a sentence with another number or name would be scored too well. They
are found by MinHash (near_duplicates.py), in about 0.3 ms for a text of 100 characters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mapsto import kinds
from mapsto.data import sampling
from mapsto.data.checks import check_rows, find_leaks
from mapsto.data.duplicates.near_duplicates import link_near_duplicates
from mapsto.data.grouping.row_groups import NO_GROUPS, RowGroups, are_sentences, describe_shared, find_groups
from mapsto.data.grouping.time_split import split_by_time
from mapsto.data.rows import Rows, link_rows, load_rows, report_skipped, require_readable
from mapsto.data.table import Int64s, Table
from mapsto.errors import DataError, Finding, UsageError
from mapsto.options import Options
from mapsto.task.arrow import Arrow
from mapsto.task.capabilities import FileBacked
from mapsto.task.source import Source
from mapsto.task.source_capabilities import Describable
from mapsto.task.target_capabilities import has_exclusive_classes
from mapsto.text.pairs.dialogues import DIALOGUE, MESSAGES

# A function of sampling.py that splits rows by groups, strata, share and seed.
SplitMethod = Callable[[int, Sequence[Hashable], Sequence[Hashable] | None, float, int], tuple[Int64s, Int64s]]

# The largest number of rows held out by default.
MAX_HELD_OUT = 1000
# Held-out rows are lost to training. Below these numbers of rows, that costs more than choosing weights by them gains.
FEWEST_TO_HOLD_OUT, HELD_OUT = 5000, 0.05
FEWEST_TO_HOLD_OUT_TEXT, HELD_OUT_TEXT = 200, 0.02
# The share of the rows that --time holds out by default.
SHARE_OF_LATEST = 0.2
# The most rows among which near-duplicates are searched for, which takes some seconds.
MAX_COMPARED = 20_000
# If fewer of the rows to hold out can be, since chains of near-duplicates are too long, only equal rows are kept together.
MIN_SHARE_HELD_OUT = 0.5
# If more of the rows than that would be held out, groups such as speakers are too large to be kept together.
MAX_SHARE_HELD_OUT = 2.0
# Number of warnings that a run prints.
MAX_WARNINGS = 5


def check_data(
    rows: Rows,
    test_table: Table | None,
    options: Options,
    say: Callable[[str], None],
) -> tuple[Table | None, list[Finding]]:
    """Check training and test rows by `check_rows`, print its warnings, and return (test table without leaks, warnings).

    Leaks are test rows whose sources equal those of a training row. Raises DataError for leaks unless `--bad-rows skip`.
    Without a test, rows for pretraining are not checked, and remarks on files that were not read are printed instead.
    rows: the training rows. test_table: None for no test, which returns None as the table. say: function that prints a line.
    """
    if rows.arrow.corrupted and test_table is None:  # a corpus may repeat itself, and the search would take long
        report_findings(rows.table.remarks_on(), say)
        return None, []
    test_rows = None if test_table is None else _read_test(rows.arrow, test_table, options, say)
    report = check_rows(rows, test_rows)
    report_findings(report.warnings, say)
    if test_table is not None and test_rows is not None:
        for sentence in describe_shared(rows, test_table, test_rows, options.group):
            say(f"note: {sentence}")
    return None if test_table is None else drop_leaks(report.leaks, test_table, options, say), report.warnings


def report_findings(findings: Sequence[Finding], say: Callable[[str], None]) -> None:
    """Print a line for each sort of finding: the first of it, and how many hint there are like it.

    say: function that prints a line.
    """
    counts = Counter(finding.group for finding in findings)
    firsts = {finding.group: finding for finding in reversed(findings)}
    groups = list(dict.fromkeys(finding.group for finding in findings))
    for group in groups[:MAX_WARNINGS]:
        hint = f" (and {counts[group] - 1:,} more like it)" if counts[group] > 1 else ""
        say(f"note: {firsts[group]}{hint}")
    num_shown = sum(counts[group] for group in groups[:MAX_WARNINGS])
    if num_shown < len(findings):
        say(f"note: {len(findings) - num_shown:,} more; `mapsto check` lists them all")


def drop_rows_in_corpus(
    arrow: Arrow,
    parts: Iterable[Table],
    test_table: Table,
    options: Options,
    say: Callable[[str], None],
) -> Table:
    """Return the test table without the rows whose sources equal those of a row of the pretraining corpus.

    arrow: the arrow by which both are read. parts: the corpus as a stream of tables. say: function that prints a line.
    Raises DataError if there are rows to drop, unless `--bad-rows skip` allows it.
    """
    test_rows = _read_test(arrow, test_table, options, say)
    read = (load_rows(replace(arrow, targets=()), part) for part in parts)
    return drop_leaks(find_leaks(read, test_rows), test_table, options, say)


def _read_test(arrow: Arrow, test_table: Table, options: Options, say: Callable[[str], None]) -> Rows:
    """Return the readable rows of a test table. Raises DataError for unreadable rows unless `--bad-rows skip` allows them.

    say: prints how many rows are left out.
    """
    test_rows = load_rows(arrow, test_table)
    report_skipped(require_readable(test_rows, options.row_policy), "the test", say)
    return test_rows


def drop_leaks(
    leaks: Sequence[Finding],
    test_table: Table,
    options: Options,
    say: Callable[[str], None],
    table_name: str = "the test",
) -> Table:
    """Return a test table without the rows that are also in the training data, and print their number.

    leaks: findings about these rows, each with file and row number. say: function that prints a line.
    table_name: words for the table in messages.
    Raises DataError if there are leaks and `--bad-rows` is "stop", or if no row is left.
    """
    if not leaks:
        return test_table
    if options.bad_rows == "stop":
        raise DataError(
            f"{len(leaks)} rows of {table_name} are also in the training data; take them out of one of the two, "
            "or score without them with --bad-rows skip:",
            leaks,
        )
    say(f"note: {len(leaks)} rows of {table_name} are also in the training data and are not scored")
    # A finding names a row by its place in the file, since indices shift when unreadable rows are left out.
    leaked = {(finding.file, finding.row) for finding in leaks}
    remaining = test_table.select(row for row in range(len(test_table)) if test_table.origin(row) not in leaked)
    if not len(remaining):
        raise DataError(f"every row of {table_name} is also in the training data, so there is nothing to score")
    return remaining


def held_out_share(rows: int, pretraining: bool, options: Options) -> float:
    """Return the share of rows to hold out: `--hold-out`, or by default 5 % (HELD_OUT) but at most MAX_HELD_OUT rows.

    The default is 0 for fewer than FEWEST_TO_HOLD_OUT rows, which are too few to spare any.
    rows: number of rows. pretraining: whether a source is hidden in part, as in `~text -> text`. Then the default is 2 % from
        FEWEST_TO_HOLD_OUT_TEXT rows on.
    """
    if options.hold_out is not None:
        return options.hold_out
    fewest, share = (FEWEST_TO_HOLD_OUT_TEXT, HELD_OUT_TEXT) if pretraining else (FEWEST_TO_HOLD_OUT, HELD_OUT)
    return min(share, MAX_HELD_OUT / rows) if rows >= fewest else 0.0


def split_rows(rows: Rows, options: Options, say: Callable[[str], None] = lambda text: None) -> tuple[Rows, Rows]:
    """Split rows at random; return (training rows, held-out rows). Rows with equal or similar sources are on the same side.

    The share to hold out is that of `held_out_share`; it may be 0. say: function that prints a line.
    Raises UsageError if no training row is left.
    """
    share = held_out_share(len(rows), rows.arrow.corrupted, options)
    if options.time is not None and not share:
        if options.hold_out is not None:
            raise UsageError("--time says which rows are held out, and --hold-out 0 holds out none")
        share = SHARE_OF_LATEST
    if not share:
        return rows, rows.select(np.zeros(0, np.int64))
    if options.time is not None:
        training, held_out = split_by_time(rows, share, options.time, say)
    else:
        training, held_out = split_indices(rows, share, options.seed, say, options.group)
    require_held_out(held_out, options)
    if not len(training):
        raise UsageError(f"--hold-out {share} keeps all {len(rows)} rows aside and leaves none to learn from")
    return rows.select(training), rows.select(held_out)


def require_held_out(held_out: Int64s, options: Options) -> None:
    """Raise UsageError if `--group` names columns by which all rows are one group, so that no row can be held out."""
    if options.group not in (None, NO_GROUPS) and not len(held_out):
        raise UsageError(
            f"--group {options.group}: all rows are in one group, so none can be held out; see --group none"
        )


def split_indices(
    rows: Rows,
    share: float,
    seed: int,
    say: Callable[[str], None] = lambda text: None,
    group: str | None = None,
) -> tuple[Int64s, Int64s]:
    """Split rows at random; return the sorted indices of training rows and of held-out rows.

    Rows with equal or similar sources or of one dialogue are on the same side, and so are pairs that share a text, and rows of
    one group, such as a speaker.
    share: fraction to hold out, of each class if a target has exclusive classes.
    say: prints which groups are kept on one side, and where near-duplicates are not.
    group: `--group`, see `find_groups`. Raises UsageError for a column that the table lacks.
    """
    groups, strata, method = _split_rule(rows, share, seed, say, group)
    return method(len(rows), groups, strata, share, seed)


def deal_rows(
    rows: Rows, num_folds: int, seed: int, say: Callable[[str], None] = lambda text: None, group: str | None = None
) -> list[Int64s]:
    """Deal rows into the folds of a cross-validation; return the sorted indices of the rows of each.

    Each row is in exactly one fold, and the same rows are kept together as by `split_indices`, as are values of one row of the
    table. seed, say, group: as there. Raises UsageError if there are fewer groups of such rows than folds.
    """
    groups, strata, _ = _split_rule(rows, 1 / num_folds, seed, say, group)
    groups = sampling.join_groups(groups, rows.indices.tolist())
    if (num_groups := len(set(groups))) < num_folds:
        columns = f" by --group {group}" if group not in (None, NO_GROUPS) else ""
        raise UsageError(
            f"--folds {num_folds}: the {len(rows):,} rows are {num_groups:,} groups{columns} that stay together, so there are at "
            f"most {num_groups:,} folds"
        )
    return sampling.deal_folds(len(rows), groups, strata, num_folds, seed)


def _split_rule(
    rows: Rows, share: float, seed: int, say: Callable[[str], None], group: str | None
) -> tuple[Sequence[Hashable], Sequence[Hashable] | None, SplitMethod]:
    """Return (the group of each row, the class of each row or None, the method to split them); see `split_indices`."""
    keys, targets_by_port = _equal_groups(rows), enumerate(kinds.answering(rows.arrow))
    strata = next((rows.targets[port] for port, target in targets_by_port if has_exclusive_classes(target)), None)
    groups, method = _join_rules(keys, find_groups(rows, group), strata, share, seed, say)
    columns = _comparable_columns(rows)
    if not columns:
        return groups, strata, method
    if len(rows) > MAX_COMPARED:
        say(
            f"note: {len(rows):,} rows, more than {MAX_COMPARED:,}: equal rows are held out together, similar ones are not"
        )
        return groups, strata, method
    similar = sampling.join_groups(groups, _similar_groups(columns, groups))
    num_equal, num_similar = (len(method(len(rows), rule, strata, share, seed)[1]) for rule in (groups, similar))
    if num_similar < MIN_SHARE_HELD_OUT * num_equal:
        size = max(Counter(similar).values())
        say(f"note: {size:,} of {len(rows):,} rows are similar; rows are held out although similar ones are trained on")
        return groups, strata, method
    return similar, strata, method


def _join_rules(
    keys: Sequence[Hashable],
    rules: Sequence[RowGroups],
    strata: Sequence[Hashable] | None,
    share: float,
    seed: int,
    say: Callable[[str], None],
) -> tuple[Sequence[Hashable], SplitMethod]:
    """Return the group of each row by all rules that a split can follow, and the method to split them.

    A rule that was found, not named by `--group`, is not followed if by far too few or too many rows could be held out.
    keys: the groups of equal rows. strata, share, seed: of the split. say: prints one line on all rules.
    """
    groups, method = keys, sampling.stratified_split
    wanted = len(method(len(keys), keys, strata, share, seed)[1]) if rules else 0
    kept, dropped = list[str](), list[str]()
    for rule in rules:
        joined = sampling.join_groups(groups, rule.numbers.tolist())
        num_held_out = len(sampling.grouped_split(len(keys), joined, strata, share, seed)[1])
        is_near = MIN_SHARE_HELD_OUT * wanted <= num_held_out <= MAX_SHARE_HELD_OUT * wanted
        if rule.is_explicit or (rule.separates and are_sentences(rule) and is_near):
            groups, method = joined, sampling.grouped_split
            kept.append(f"{rule}, {rule.count:,} groups")
        # Where each row is a group of its own, there is nothing to keep together.
        elif rule.count < len(keys):
            dropped.append(f"{rule}, {rule.count:,} groups")
    parts = [f"rows with the same {'; '.join(kept)}, are held out together (--group none: at random)"] if kept else []
    parts += [f"not held out together, since too few or too many would be: {'; '.join(dropped)}"] if dropped else []
    if parts:
        say(f"note: {'; '.join(parts)}")
    return groups, method


def _comparable_columns(rows: Rows) -> list[tuple[type[Source], list[Any]]]:
    """Return the kind and the values of each source by which near-duplicates are found, such as texts.

    Files, such as pictures, would all have to be opened.
    """
    ports = zip(rows.arrow.keys, rows.sources, strict=False)
    columns = [(kinds.source(port.kind), values) for port, values in ports]
    return [c for c in columns if issubclass(c[0], Describable) and not issubclass(c[0], FileBacked)]


def _similar_groups(columns: Sequence[tuple[type[Source], list[Any]]], groups: Sequence[Hashable]) -> list[int]:
    """Return a number for each row, equal for rows that a chain of near-duplicates joins.

    columns: kinds and values of the sources. groups: of each row; of rows of one group only the first is compared.
    """
    first_rows: dict[Hashable, int] = {}
    for row, group in enumerate(groups):
        first_rows.setdefault(group, row)
    sketched = [(kind, values) for kind, values in columns if issubclass(kind, Describable)]
    sketches = [
        np.unique(np.concatenate([kind.sketch(values[row]) for kind, values in sketched]))
        for row in first_rows.values()
    ]
    threshold = max(kind.defaults.near_duplicate_threshold for kind, _ in columns)
    numbers = dict(zip(first_rows, link_near_duplicates(sketches, threshold), strict=True))
    return [numbers[group] for group in groups]


def _equal_groups(rows: Rows) -> Sequence[Hashable]:
    """Return the group of each row: equal for rows with equal sources, of one dialogue, or linked by common texts of pairs."""
    keys = [kinds.source(port.kind).key for port in rows.arrow.sources]
    groups: Sequence[Hashable] = [
        tuple(key(value) for key, value in zip(keys, row, strict=True)) for row in zip(*rows.sources, strict=True)
    ]
    if rows.arrow.symmetric:
        # Otherwise a held-out query would have its answer among the training pairs.
        groups = link_rows(rows).tolist()
    if {MESSAGES, DIALOGUE} <= set(rows.table.columns):
        names = rows.table.column(DIALOGUE)
        # A row of another file, without a name, is a dialogue of its own.
        groups = sampling.join_groups(groups, [names[row] or row for row in rows.indices.tolist()])
    return groups
