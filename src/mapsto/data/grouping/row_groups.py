"""Find the rows that belong together: those of one speaker, one dialogue, or with one repeated sentence.

Kinds whose values come in groups (`Grouped`) have them found by the names of columns; `--group COLUMN` names the columns for any
kind, and `--group none` turns the search off. Splits keep groups on one side, and intervals resample them, since rows of one
speaker are alike: counted one by one, they make a score too good and its interval too narrow.
Legend of shapes: n rows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

from mapsto import kinds
from mapsto.data.formats.columns import UnnamedColumn
from mapsto.data.rows import Rows, normalize
from mapsto.data.table import Int64s, Table
from mapsto.errors import UsageError, near
from mapsto.task.arrow import Arrow, Port
from mapsto.task.group_names import group_noun
from mapsto.task.source_capabilities import Grouped, Tokenized
from mapsto.text.pairs.groups import number_components

# The value of `--group` that turns groups off.
NO_GROUPS = "none"
# What rows with an equal text have in common.
SENTENCE = "sentence"
# With fewer different texts for the number of rows, a column of texts has words or classes and not sentences.
MIN_DIFFERENT_TEXTS = 0.1
# With fewer groups, intervals are said to be rough.
FEW_GROUPS = 10


@dataclass(frozen=True)
class RowGroups:
    """A rule by which rows belong together.

    noun: what the rows of a group have in common, such as "speaker". columns: of the table, in which they have an equal cell.
    numbers: (n,), the number of the group of each row, from 0. A row with blank cells is a group of its own.
    is_explicit: whether `--group` names the columns.
    """

    noun: str
    columns: tuple[str, ...]
    numbers: Int64s
    is_explicit: bool = False

    @property
    def count(self) -> int:
        """The number of groups."""
        return len(set(self.numbers.tolist()))

    @property
    def separates(self) -> bool:
        """Return whether there are several groups, and one of them has several rows."""
        return 1 < self.count < len(self.numbers)

    def select(self, indices: Int64s) -> RowGroups:
        """Return the groups of the rows at `indices`."""
        return replace(self, numbers=self.numbers[indices])

    def __str__(self) -> str:
        columns = " and ".join(f"'{column}'" for column in self.columns)
        return f"value of column {columns}" if self.is_explicit else f"{self.noun} (column {columns})"


def find_groups(rows: Rows, group: str | None = None) -> list[RowGroups]:
    """Return the rules by which rows belong together, the most important one first; empty if none is known.

    group: `--group`: names of columns separated by commas, "none" for no groups, or None to find them where a source kind of the
        arrow comes in groups.
    Raises UsageError for a column that the table lacks.
    """
    if group is not None:
        return _named_groups(rows, group)
    nouns = group_nouns(rows.arrow)
    used = {port.column for port in (*rows.arrow.sources, *rows.arrow.targets)}
    columns_of: dict[str, list[str]] = {noun: [] for noun in nouns}
    for column in rows.table.columns:
        if column not in used and not isinstance(column, UnnamedColumn) and (noun := group_noun(column)) in columns_of:
            columns_of[str(noun)].append(column)
    groups = [_group_rows(rows, noun, columns) for noun, columns in columns_of.items() if columns and noun != SENTENCE]
    if SENTENCE in nouns:
        groups += [_group_texts(rows, column) for column in (*_text_columns(rows.arrow), *columns_of[SENTENCE])]
    return groups


def group_nouns(arrow: Arrow) -> tuple[str, ...]:
    """Return what groups of an arrow's values have in common, such as "speaker"; empty for kinds that do not come in groups."""
    sources = [kinds.source(port.kind) for port in arrow.sources]
    return next((source.group_nouns for source in sources if issubclass(source, Grouped)), ())


def find_independent_groups(rows: Rows, group: str | None = None) -> RowGroups | None:
    """Return the groups that an interval resamples: of the first rule by which rows are separated; None if there is none.

    Equal sentences are no such group, since their speakers differ. group: as for `find_groups`. Raises UsageError as it does.
    """
    rules = find_groups(rows, group)
    return next((rule for rule in rules if rule.is_explicit or (rule.noun != SENTENCE and rule.separates)), None)


def describe_intervals(rows: Rows, group: str | None = None) -> list[str]:
    """Return the sentences that say over which groups intervals are, if not over rows. group: as for `find_groups`."""
    groups = find_independent_groups(rows, group)
    if groups is None:
        single = [rule for rule in find_groups(rows, group) if rule.noun != SENTENCE and rule.count == 1 < len(rows)]
        return [f"all rows have one {rule}, so intervals do not say how good the model is on others" for rule in single]
    if groups.count == 1:
        return [f"there are no intervals, since all rows have one {groups}"]
    few = f"; with fewer than {FEW_GROUPS} they are rough" if groups.count < FEW_GROUPS else ""
    return [f"intervals resample the {groups.count:,} groups of rows with one {groups}, and not single rows{few}"]


def _named_groups(rows: Rows, group: str) -> list[RowGroups]:
    """Return the groups of the columns that `--group` names. Raises UsageError for a column that the table lacks."""
    table = rows.table
    if group == NO_GROUPS and group not in table.columns:
        return []
    names = [group] if group in table.columns else [name.strip() for name in group.split(",")]
    for name in names:
        if name not in table.columns:
            listing = ", ".join(map(repr, table.columns))
            raise UsageError(f"--group: no column {name!r}{near(name, table.columns)}; the columns are: {listing}")
    return [replace(_group_rows(rows, name, [name]), is_explicit=True) for name in names]


def _group_rows(rows: Rows, noun: str, columns: Sequence[str]) -> RowGroups:
    """Return the groups of rows that a chain of equal cells joins. columns: one, or one for each side of a pair."""
    return RowGroups(noun, tuple(columns), _number(rows, columns, lambda cell: normalize(str(cell))))


def _group_texts(rows: Rows, column: str) -> RowGroups:
    """Return the groups of rows with equal texts in a column, whatever their case and punctuation."""
    return RowGroups(SENTENCE, (column,), _number(rows, [column], _text_key))


def _text_key(cell: object) -> str:
    """Return a key of a text that is equal for texts with the same letters and digits."""
    text = normalize(str(cell)).casefold()
    return "".join(character for character in text if character.isalnum()) or text


def _number(rows: Rows, columns: Sequence[str], key: Callable[[object], str]) -> Int64s:
    """Return the number of the group of each row, (n,). key: returns for a cell a text that is equal for equal cells."""
    sides: list[list[Hashable]] = []
    for column in columns:
        cells = rows.table.column(column)
        values = [cells[row] for row in rows.indices.tolist()]
        keys = [None if cell is None else key(cell) for cell in values]
        # A blank cell is equal to no other cell.
        sides.append([value or ("row", index) for index, value in enumerate(keys)])
    return number_components(*[(sides[0], side) for side in sides])


def _text_columns(arrow: Arrow) -> list[str]:
    """Return the columns of the texts beside the values that come in groups: first those of answers, then those of sources."""
    ports = [*arrow.targets, *arrow.sources]
    return list(dict.fromkeys(port.column for port in ports if port.column is not None and _is_text(port)))


def _is_text(port: Port) -> bool:
    """Return whether a port has values with a vocabulary, such as texts."""
    return port.kind in kinds.names("source") and issubclass(kinds.source(port.kind), Tokenized)


def are_sentences(groups: RowGroups) -> bool:
    """Return whether the texts of a column are sentences, of which few are equal, and not words or classes."""
    return groups.noun != SENTENCE or groups.count >= MIN_DIFFERENT_TEXTS * len(groups.numbers)


def describe_shared(rows: Rows, test_table: Table, test: Rows, group: str | None = None) -> list[str]:
    """Return a sentence for each rule by which test rows are in a group of training rows, such as those of one speaker."""
    sentences = []
    for groups in find_groups(rows, group):
        for column in groups.columns if groups.noun != SENTENCE else ():
            if column not in test_table.columns:
                continue
            cells = rows.table.column(column)
            seen = {normalize(str(cells[row])) for row in rows.indices.tolist() if cells[row] is not None}
            tested = [test_table.column(column)[row] for row in test.indices.tolist()]
            count = sum(cell is not None and normalize(str(cell)) in seen for cell in tested)
            if count:
                sentences.append(
                    f"{count:,} of {len(tested):,} test rows have a {groups.noun} of the training rows (column {column!r}): "
                    "the scores do not say how good the model is on others"
                )
    return sentences
