"""Rows of a table as values: bind an arrow to the columns, read the cells, and refuse rows that cannot be read."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from mapsto import kinds
from mapsto.data.file_part import UnreadableCell
from mapsto.data.formats.columns import UnnamedColumn
from mapsto.data.formats.header_hints import describe_header
from mapsto.data.table import Table
from mapsto.errors import BadCell, DataError, Finding
from mapsto.options import RowPolicy
from mapsto.sequence.piece import Ints
from mapsto.task.arrow import GROUP, MATCH, Arrow, ArrowError, Port, Role, bind, require_kinds
from mapsto.task.capabilities import FileBacked
from mapsto.task.label_spelling import merged_spellings
from mapsto.task.source import Source
from mapsto.task.target import Target
from mapsto.task.target_capabilities import Advising, Classes, Located, is_located, located_port
from mapsto.text.characters import canonical
from mapsto.text.pairs.dialogues import ANSWER, DIALOGUE, MESSAGES, PROMPT
from mapsto.text.pairs.groups import Partners, number_components, pair_in_rings

# Number of cells by which it is decided what kinds a column can hold.
FITTING_SAMPLE = 2000
# The policy of commands that have no options for it.
NO_OPTIONS = RowPolicy(is_set_by_user=False)
# Types of cells that a message can quote.
QUOTABLE = str | int | float | Decimal


def bind_to(arrow: Arrow, table: Table, answers: bool = True) -> Arrow:
    """Return the arrow with every port bound to a column of `table`. Raises ArrowError if no column or several fit a port.

    A column of media file names, such as paths of images, is bound to a port of another kind only if the arrow names it.
    answers: whether targets are bound too. If False, `table` need not have columns for them, and sources are returned without
        `~`, as no target is left to restore what it hides.
    """
    require_kinds(arrow, kinds.names("source"), kinds.names("target"))
    arrow = _name_dialogue_columns(_with_canonical_columns(arrow, table), table)
    if not table.names_columns:
        arrow = _without_missing_columns(arrow, table)
    samples: dict[str, list[object]] = {}

    def fits(kind: str, column: str, side: str) -> bool:
        """Return whether the first FITTING_SAMPLE cells of a column can be read as values of `kind`.

        side: "source" or "target", the place of the port in the arrow.
        """
        if isinstance(column, UnnamedColumn):
            return False
        sample = table.column(column)[:FITTING_SAMPLE]
        values = samples.setdefault(column, [None if isinstance(cell, UnreadableCell) else cell for cell in sample])
        # Names of media files are also texts, so without this test two ports could take the column.
        if kind not in kinds.media() and any(kinds.source(medium).fits(values) for medium in kinds.media()):
            return False
        return kinds.source(kind).fits(values) if side == "source" else kinds.target(kind).fits(values)

    try:
        if (arrow := _name_list_column(arrow, table)).is_grouped:
            return _bind_groups(arrow, table, fits, answers)
        if answers:
            return bind(arrow, table.columns, fits, lambda kind: _advise(arrow, table, kind))
        return replace(arrow, sources=bind(arrow.body, table.columns, fits, is_fixed=True).sources)
    except ArrowError as error:
        names = {port.column or port.kind for port in (*arrow.sources, *arrow.targets)}
        if hint := describe_header(names, table.data, table.origins):
            raise ArrowError(f"{error}{hint}") from error
        raise


def _with_canonical_columns(arrow: Arrow, table: Table) -> Arrow:
    """Return the arrow with the names of columns as the table writes them, where they are only canonically equal."""
    names = {canonical(name): name for name in table.columns}

    def spell(port: Port) -> Port:
        if port.column is None or port.column in table.columns:
            return port
        return replace(port, column=names.get(canonical(port.column), port.column))

    return replace(arrow, sources=tuple(map(spell, arrow.sources)), targets=tuple(map(spell, arrow.targets)))


def _advise(arrow: Arrow, table: Table, missing: str) -> str:
    """Return what to do with a table of which no column fits a port, as the kinds of the answers know it; "" if none does.

    missing: the kind of the port, that of an answer or of what it lies in.
    """
    columns = {name: table.column(name)[:FITTING_SAMPLE] for name in table.columns}
    folder = Path(table.origin(0)[0]).parent if len(table) else Path()
    advising = [kind for kind in kinds.answering(arrow) if issubclass(kind, Advising)]
    advising = [kind for kind in advising if missing in (kind.kind, getattr(kind, "lies_in", None))]
    return next((advice for kind in advising if (advice := kind.advise(columns, folder))), "")


def _without_missing_columns(arrow: Arrow, table: Table) -> Arrow:
    """Return the arrow without the names of columns that the table lacks, so that ports are bound by their kinds."""
    sources, targets = (
        tuple(port if port.column in table.columns else replace(port, column=None) for port in ports)
        for ports in (arrow.sources, arrow.targets)
    )
    return replace(arrow, sources=sources, targets=targets)


def _name_list_column(arrow: Arrow, table: Table) -> Arrow:
    """Return an arrow such as `text <-> text` with the one column whose cells are lists of values, if no column is named."""
    if not arrow.symmetric or len(arrow.sources) > 2 or any(port.column is not None for port in arrow.sources):
        return arrow
    kind = kinds.source(arrow.sources[0].kind)
    names = [name for name in _named_columns(table) if _are_lists(kind, table.column(name)[:FITTING_SAMPLE])]
    if len(names) != 1 or arrow.targets[0].kind != MATCH:
        return arrow
    return replace(arrow, sources=tuple(replace(port, column=names[0]) for port in arrow.sources))


def _named_columns(table: Table) -> list[str]:
    """Return the columns of a table that have a name, such as those of an index have not."""
    return [name for name in table.columns if not isinstance(name, UnnamedColumn)]


def _are_lists(kind: type[Source], cells: Sequence[object]) -> bool:
    """Return whether all cells of a column that are not empty are lists of values of a kind."""
    lists = [cell for cell in cells if cell is not None]
    return bool(lists) and all(isinstance(cell, list | tuple | np.ndarray) and kind.fits(list(cell)) for cell in lists)


def _bind_groups(arrow: Arrow, table: Table, fits: Callable[[str, str, Role], bool], answers: bool) -> Arrow:
    """Return a grouped arrow with one column of the table on both sides, and with the column of the groups if `answers`."""
    port = next((port for port in arrow.sources if port.column is not None), arrow.sources[0])
    targets = arrow.targets if answers else ()
    bound = bind(Arrow((port,), targets), table.columns, fits)
    return replace(arrow, sources=bound.sources * 2, targets=bound.targets if answers else arrow.targets)


def bind_pair(arrow: Arrow, table: Table) -> Arrow:
    """Return a grouped arrow as one of pairs, bound to the two columns of a table that can be its values, to be scored.

    Raises ArrowError if another number of columns can be.
    """
    kind = kinds.source(arrow.sources[0].kind)
    names = [name for name in _named_columns(table) if kind.fits(table.column(name)[:FITTING_SAMPLE])]
    if len(names) != 2:
        raise ArrowError(
            f"{arrow} has learnt from one column; pairs to score are a table with two columns of {kind.kind}, and "
            f"{len(names)} can be read so here: {', '.join(map(repr, names)) or 'none'}"
        )
    return Arrow(tuple(Port(kind.kind, name) for name in names), (Port(MATCH),), symmetric=True)


def _name_dialogue_columns(arrow: Arrow, table: Table) -> Arrow:
    """Return an arrow such as `text -> text` with the columns of dialogues, if the table has dialogues and no column is named."""
    if not arrow.is_prompted or len(arrow.targets) > 1 or not {PROMPT, MESSAGES} <= set(table.columns):
        return arrow
    (source,), (target,) = arrow.sources, arrow.targets
    sources = (replace(source, column=source.column or PROMPT),)
    return replace(arrow, sources=sources, targets=(replace(target, column=target.column or ANSWER),))


@dataclass(frozen=True)
class Rows:
    """Rows of a table, with the cells of an arrow's columns read as values of their kinds.

    arrow: the arrow, bound to the columns of the table.
    table: the table, which may have more rows than these.
    sources, targets: for each port the values of all rows; all None for a target that restores a hidden source, and for the
        match of `<->` without a score.
    indices: the index in `table` of each row.
    faults: findings about cells that could not be read, also of rows that were left out.
    """

    arrow: Arrow
    table: Table
    sources: list[list[Any]]
    targets: list[list[Any]]
    indices: Ints
    faults: list[Finding]

    def __len__(self) -> int:
        return len(self.indices)

    def origin(self, index: int) -> tuple[str, int]:
        """Return (file, row number in the file) of row `index`, for messages."""
        return self.table.origin(int(self.indices[index]))

    def select(self, indices: Ints) -> Rows:
        """Return the rows at `indices`, in that order. All findings are kept."""
        selected = [int(index) for index in indices]
        return replace(
            self,
            sources=[[column[index] for index in selected] for column in self.sources],
            targets=[[column[index] for index in selected] for column in self.targets],
            indices=self.indices[indices],
        )

    def own_table(self) -> Table:
        """Return the rows of the table that have these values, each once: a list of values gives several rows."""
        return self.table.select(dict.fromkeys(self.indices.tolist()))

    def readable(self) -> Rows:
        """Return the rows without those that have an unreadable cell. All findings are kept."""
        bad = {(fault.file, fault.row) for fault in self.faults}
        return self.select(np.array([index for index in range(len(self)) if self.origin(index) not in bad], np.int64))


def fold_labels(
    arrow: Arrow, table: Table, test: Table | None, say: Callable[[str], None]
) -> tuple[Table, Table | None]:
    """Return training and test rows in which class names that look alike are written in one way; `say` tells what was merged.

    It is the spelling that is the commonest in the training rows, or for other names in the test rows.
    arrow: bound to the columns of the table.
    """
    tables = [table] if test is None else [table, test]
    for port, kind in zip(arrow.targets, kinds.answering(arrow), strict=True):
        column = port.column
        if column is None or port.restores is not None or not issubclass(kind, Classes):
            continue
        if any(column not in part.data for part in tables):
            continue  # reported when the rows are loaded
        target = kind()
        answers = [[_read_or_none(kind, cell) for cell in kind.prepare_column(part.column(column))] for part in tables]
        counts, *test_counts = (
            Counter(name for answer in part if answer is not None for name in target.class_names(answer))
            for part in answers
        )
        spellings = merged_spellings({**dict.fromkeys(chain(*test_counts), 0), **counts})
        if not spellings:
            continue
        for index, part in enumerate(tables):
            cells = [
                cell if answer is None else target.rename(answer, spellings)
                for cell, answer in zip(part.column(column), answers[index], strict=True)
            ]
            tables[index] = replace(part, data={**part.data, column: cells})
        merged = ", ".join(f"{name!r} into {spelling!r}" for name, spelling in spellings.items())
        say(f"note: --fold-labels writes labels of column {column!r} that look alike in one way: {merged}")
    return tables[0], None if test is None else tables[1]


def _read_or_none(kind: type[Target], cell: object) -> Any:
    """Return the answer in a cell; None if it cannot be read, which is reported when the rows are loaded."""
    try:
        return kind.read(cell)
    except BadCell:
        return None


@dataclass
class _Reader:
    """A reader of a table's columns, which collects findings about unreadable cells.

    faults: the findings by row index.
    """

    table: Table
    faults: dict[int, list[Finding]] = field(default_factory=dict)

    def column(
        self,
        port: Port,
        kind: type[Source] | type[Target],
        prepare: Callable[[object], object] = lambda cell: cell,
        skipped: Collection[int] = (),
    ) -> list[Any]:
        """Return the values in a port's column; None for each unreadable cell, about which a finding is added.

        kind: the kind as which cells are read. prepare: changes each cell before. skipped: rows that get None without a finding.
        """
        assert port.column is not None
        values: list[Any] = []
        locate = kind.locate if issubclass(kind, FileBacked) else None
        column = self.table.column(port.column)
        prepared = kind.prepare_column(column) if issubclass(kind, Classes) else column
        for row, (cell, form) in enumerate(zip(column, prepared, strict=True)):
            if row in skipped:
                values.append(None)
                continue
            try:
                if isinstance(cell, UnreadableCell):
                    raise BadCell(cell.reason)
                values.append(kind.read(prepare(form) if locate is None else locate(cell, self.table.beside(row))))
            except BadCell as error:
                # A report is UTF-8, which cannot hold the lone surrogates of an undecodable file name.
                text = cell.text if isinstance(cell, UnreadableCell) else cell
                text = text.get("path") if isinstance(text, dict) else text  # a file of Hugging Face
                quoted = str(text).encode(errors="backslashreplace").decode() if isinstance(text, QUOTABLE) else None
                self.add_fault(row, port.column, quoted, error)
                values.append(None)
        return values

    def place_answers(self, port: Port, target: Located | type[Located], answers: list[Any], values: list[Any]) -> None:
        """Complete each answer by the source value of its row; add a finding if it cannot lie there, such as a box outside.

        answers, values: for each row the answer at `port`, which is replaced, and the source value that it refers to.
        """
        for row, (answer, value) in enumerate(zip(answers, values, strict=True)):
            if answer is None or value is None:
                continue
            try:
                answers[row] = target.place(answer, value)
            except BadCell as error:
                self.add_fault(row, port.column, None, error)
                continue
            if reason := target.misplaced(answers[row], value):
                self.add_fault(row, port.column, None, reason)

    def items(self, port: Port, kind: type[Source], row: int, cell: object) -> list[Any]:
        """Return the values of a cell that is a list of at least two different ones; [] with a finding for any other cell."""
        if not isinstance(cell, list | tuple | np.ndarray):
            reason = f"a list of texts that mean the same was expected, not {type(cell).__name__}"
            self.add_fault(row, port.column, str(cell) if isinstance(cell, QUOTABLE) else None, reason)
            return []
        values = []
        for number, item in enumerate(cell, 1):
            try:
                values.append(kind.read(item))
            except BadCell as error:
                self.add_fault(row, port.column, None, f"item {number} of the list: {error}")
                return []
        if len({normalize(kind.key(value)).casefold() for value in values}) < 2:
            self.add_fault(
                row, port.column, str(list(values)), "a list of texts that mean the same has two different ones"
            )
            return []
        return values

    def add_fault(self, row: int, column: str | None, value: str | None, reason: object) -> None:
        """Add a finding about a cell.

        row: index of the row in the table. column: the column of the cell. reason: an error or message.
        value: the cell as text, to be quoted in messages; None if it cannot be quoted.
        """
        finding = Finding(*self.table.origin(row), column, value, str(reason))
        self.faults.setdefault(row, []).append(finding)

    def all_faults(self) -> list[Finding]:
        """Return the findings about all cells, in the order of the rows."""
        return list(chain(*(self.faults[row] for row in sorted(self.faults))))


def load_rows(arrow: Arrow, table: Table, answers: bool = True, keep_unreadable: bool = False) -> Rows:
    """Bind an arrow to a table's columns and read their cells as values; return the rows.

    Rows with an unreadable cell are left out; findings about these cells are in `Rows.faults`.

    answers: whether targets are read. If False, the table need not have their columns.
    keep_unreadable: keep all rows, with None for each unreadable cell.
    Raises ArrowError if a port cannot be bound to a column.
    """
    arrow = bind_to(arrow, table, answers)
    if arrow.is_grouped:
        return _load_groups(arrow, table, answers)
    reader = _Reader(table)
    # A kind that is also a source has no forms of its own; without `~` it may not even be answered.
    own_targets = [] if arrow.symmetric else [port for port in arrow.targets if port.kind not in kinds.names("source")]
    targets_of_sources = [kinds.target(port.kind) for port in own_targets]
    located = [target for target in targets_of_sources if is_located(target)]

    def read_source(port: Port) -> list[Any]:
        forms = [target.prepare_source for target in located if target.lies_in == port.kind]
        return reader.column(
            port, kinds.source(port.kind), lambda cell: reduce(lambda value, form: form(value), forms, cell)
        )

    sources = [read_source(port) for port in arrow.sources]
    answer_ports = list(zip(arrow.targets, kinds.answering(arrow), strict=True)) if answers else []
    questions = _find_questions(arrow, table) if answers else set()
    targets = [
        [None] * len(table)
        if port.restores is not None or port.column is None
        else reader.column(port, target, skipped=questions)
        for port, target in answer_ports
    ]
    # An answer in raw coordinates can only be checked together with the source value that it refers to.
    for (port, target), column in zip(answer_ports, targets, strict=True):
        if not is_located(target):
            continue
        if any(source.kind == target.lies_in for source in arrow.sources):
            values = sources[located_port(target, [source.kind for source in arrow.sources])]
            reader.place_answers(port, target, column, values)
    rows = Rows(arrow, table, sources, targets, np.arange(len(table)), reader.all_faults())
    if questions:
        rows = rows.select(np.array([row for row in range(len(table)) if row not in questions], np.int64))
    return rows if keep_unreadable or not rows.faults else rows.readable()


def _find_questions(arrow: Arrow, table: Table) -> set[int]:
    """Return the rows of a table that are the last turn of a dialogue without an answer, which only prediction reads."""
    if not {ANSWER, MESSAGES, DIALOGUE} <= set(table.columns) or all(port.column != ANSWER for port in arrow.targets):
        return set()
    return {row for row, answer in enumerate(table.column(ANSWER)) if answer is None}


def _load_groups(arrow: Arrow, table: Table, answers: bool) -> Rows:
    """Return the rows of a grouped arrow, one for each text that has a different one in its group; `targets` has the groups.

    The sources of a row are its text and the next one of its group. Unreadable rows are left out.
    answers: whether a column with the groups is read; without one, a cell that is no list is a group of its own.
    """
    reader, source, target = _Reader(table), arrow.sources[0], arrow.targets[:1]
    kind, column = kinds.source(source.kind), table.column(source.column or "")
    is_single = not answers and not _are_lists(kind, column[:FITTING_SAMPLE])
    # Text by text: the index of its row, the text and its group.
    texts: list[tuple[int, Any, Any]]
    if is_single or (answers and any(port.kind == GROUP for port in target)):
        groups = column if is_single else reader.column(target[0], kinds.target(GROUP))
        pairs = zip(reader.column(source, kind), groups, strict=True)
        texts = [(row, *pair) for row, pair in enumerate(pairs) if None not in pair]
    else:
        texts = [
            (row, value, row) for row, cell in enumerate(column) for value in reader.items(source, kind, row, cell)
        ]
    keys = [normalize(kind.key(value)).casefold() for _, value, _ in texts]
    order, partners = (range(len(texts)),) * 2 if is_single else pair_in_rings(keys, [group for *_, group in texts])
    sources = [[texts[index][1] for index in side] for side in (order, partners)]
    indices = np.array([texts[index][0] for index in order], np.int64)
    return Rows(arrow, table, sources, [[texts[index][2] for index in order]], indices, reader.all_faults())


def set_aside_unlabelled(arrow: Arrow, table: Table, unlabelled: str) -> tuple[Table, Table | None]:
    """Return (table without the rows that lack a label, table of these rows); (table, None) where none lacks one.

    A row lacks a label if the cell of a target is blank, and a blank cell is no answer of its kind.
    arrow: the task, bound to columns here if it is not. unlabelled: "stop" keeps all rows, so that these count as unreadable.
    Raises ArrowError if a port cannot be bound to a column, DataError if no row has a label.
    """
    if unlabelled == "stop" or arrow.symmetric:
        return table, None
    arrow = bind_to(arrow, table)
    columns = [
        table.column(port.column)
        for port, kind in zip(arrow.targets, kinds.answering(arrow), strict=True)
        if port.restores is None and port.column is not None and not _reads_blank(kind)
    ]
    blank = [any(_is_blank(column[row]) for column in columns) for row in range(len(table))]
    if not any(blank):
        return table, None
    if all(blank):
        raise DataError(f"{table.name}: no row has a label in the columns of {arrow}")
    labelled = table.select(row for row, is_blank in enumerate(blank) if not is_blank)
    rest = table.select(row for row, is_blank in enumerate(blank) if is_blank)
    return replace(labelled, rejected=table.rejected, remarks=table.remarks), rest


def _is_blank(cell: object) -> bool:
    """Return whether a cell is empty or has only spaces."""
    return cell is None or (isinstance(cell, str) and not cell.strip())


def _reads_blank(kind: type[Source] | type[Target]) -> bool:
    """Return whether an empty cell is an answer of a kind."""
    try:
        kind.read(None)
    except BadCell:
        return False
    return True


def require_readable(rows: Rows, policy: RowPolicy = NO_OPTIONS) -> list[Finding]:
    """Raise DataError if more rows are unreadable than the policy allows; else return the findings about all unreadable rows.

    policy: by default that of commands without options for it, where no row may be unreadable.
    """
    rejected = rows.table.rejected
    faults = [*rejected, *rows.faults]
    # A last turn without an answer is no bad row.
    total = len(rows.table) + len(rejected) - len(_find_questions(rows.arrow, rows.table))
    require_few_bad_rows(faults, len(faults), total - len(rows), total, policy, _count_unlabelled(rows))
    return faults


def report_skipped(faults: Sequence[Finding], table_name: str, say: Callable[[str], None]) -> None:
    """Print how many rows of a table are left out because they cannot be read, and the first reason, if there are some.

    faults: findings about these rows. table_name: words for the table, such as "the test".
    """
    if faults:
        count = len({(fault.file, fault.row) for fault in faults})
        noun = "row is" if count == 1 else "rows are"
        say(f"note: {count:,} {noun} left out of {table_name}; the first: {faults[0]}")


def _count_unlabelled(rows: Rows) -> int:
    """Return the number of unreadable rows whose only fault is a blank label."""
    columns = {port.column for port in rows.arrow.targets} if not rows.arrow.symmetric else set()
    blank: dict[tuple[str, int | None], bool] = {}
    for fault in rows.faults:
        is_blank = fault.column in columns and not (fault.value or "").strip() and "blank" in fault.reason
        blank[fault.file, fault.row] = is_blank and blank.get((fault.file, fault.row), True)
    return sum(blank.values())


def require_any_readable(rows: Rows) -> list[Finding]:
    """Return the findings about all unreadable rows; raise DataError if no row is readable.

    Prediction calls this, since there an unreadable row costs only its own answer.
    """
    faults = [*rows.table.rejected, *rows.faults]
    if not len(rows):
        raise DataError("no row can be read:", faults)
    return faults


def require_few_bad_rows(
    findings: Sequence[Finding],
    num_faults: int,
    num_bad: int,
    num_rows: int,
    policy: RowPolicy,
    num_unlabelled: int = 0,
) -> None:
    """Raise DataError if any row is bad, or with `--bad-rows skip` only if more than `--most-skipped` or all rows are bad.

    The message advises only options that help.
    findings: findings for the message to list, at least the first ones. num_faults: the number of all findings.
    num_bad, num_rows: the number of bad rows, and of all rows, bad ones included.
    num_unlabelled: the number of rows that are only bad as they have no label.
    """
    num_skipped = num_bad - num_unlabelled if num_bad > num_unlabelled else num_bad
    is_too_many = num_bad > policy.most_skipped * num_rows
    options = []
    # Where no row is good, no option helps.
    can_help = policy.is_set_by_user and num_bad < num_rows
    if can_help and num_unlabelled:
        options.append(f"--unlabelled drop leaves out the {num_unlabelled:,} rows without a label")
    if can_help and num_unlabelled < num_bad:
        # After the unlabelled rows are dropped, the same number of bad rows is a larger share.
        share = num_skipped / (num_rows - num_unlabelled)
        limit = "" if share <= policy.most_skipped else f" --most-skipped {math.ceil(100 * share) / 100:g}"
        options.append(f"--bad-rows skip{limit} drops {'the others' if num_unlabelled else 'them'}")
    advice = f", or: {', and '.join(options)}" if options else ""
    if num_faults and policy.bad_rows != "skip":
        raise DataError(f"{num_faults} bad cells or rows; fix them{advice}:", findings, num_faults)
    if num_bad == num_rows:
        raise DataError(f"no rows are left{advice}", findings, num_faults)
    if is_too_many:
        limit_text = f"{100 * policy.most_skipped:g} %"
        message = (
            f"{num_bad} of {num_rows} rows are bad, more than the {limit_text} that may be skipped; fix them{advice}:"
        )
        raise DataError(message, findings, num_faults)


def row_keys(rows: Rows) -> list[str | None]:
    """Return a key of each row's sources, which is equal for equal rows; None for a row with an unreadable source.

    Texts that differ only in spaces or in the composition of characters (Unicode's NFC) are equal. Pictures and videos are
    equal if their bytes are, whatever their file names. Pairs are equal whatever their hard negatives, texts of groups whatever
    their group.
    """
    ports = rows.arrow.keys
    keys = [kinds.source(port.kind).key for port in ports]
    return [
        None
        if any(value is None for value in values)
        else "\n".join(normalize(key(value)) for key, value in zip(keys, values, strict=True))
        for values in zip(*rows.sources[: len(ports)], strict=True)
    ]


def side_keys(rows: Rows) -> list[list[str]]:
    """Return for each source a key of every row's value, equal for values that differ only by case, spaces or composition."""
    return [
        [normalize(kinds.source(port.kind).key(value)).casefold() for value in values]
        for port, values in zip(rows.arrow.sources, rows.sources, strict=True)
    ]


def link_rows(rows: Rows) -> Ints:
    """Return a number for each pair of a symmetric arrow, (n,): equal for pairs that a chain of common texts or groups joins."""
    queries, passages = side_keys(rows)[:2]
    links: list[tuple[Sequence[Hashable], Sequence[Hashable]]] = [(queries, passages)]
    if rows.arrow.is_grouped:
        links.append((queries, [("group", group) for group in rows.targets[0]]))
    return number_components(*links)


def make_partners(rows: Rows) -> Partners | None:
    """Return the draw of the text that each row of a grouped arrow is compared with; None for other arrows."""
    if not rows.arrow.is_grouped or not rows.targets:
        return None
    texts, partners = side_keys(rows)[:2]
    return Partners(texts, partners, rows.targets[0])


def fingerprint_rows(rows: Rows) -> str:
    """Return one SHA-256 of the table and of the files, such as pictures, that its cells name."""
    source_kinds = [kinds.source(port.kind) for port in rows.arrow.sources]
    read: list[type[Source] | type[Target]] = [*source_kinds, *kinds.answering(rows.arrow)]
    columns = zip(read, [*rows.sources, *rows.targets], strict=True)
    # A table of file names stays the same when a file's content changes, so the files count too.
    keys = [kind.key(value) for kind, values in columns if issubclass(kind, FileBacked) for value in values]
    fingerprint = rows.table.fingerprint
    return hashlib.sha256("".join([fingerprint, *keys]).encode()).hexdigest() if keys else fingerprint


def normalize(text: str) -> str:
    """Return a text with composed characters and single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())
