"""Results as tables: short text for a terminal, HTML for a notebook, a DataFrame of pandas for further work."""

from __future__ import annotations

import html
import importlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mapsto.errors import UsageError, printable, shorten
from mapsto.errors.wording import worded
from mapsto.metrics.intervals import Score

# The most rows of a table that are printed, and the most characters of a cell.
SHOWN_ROWS, SHOWN_CHARACTERS = 20, 48


@dataclass(frozen=True)
class ResultTable:
    """A table of results: columns, rows of cells, a title above them, and sentences below.

    total: number of all rows, where `rows` are the first of them.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    title: str = ""
    notes: Sequence[str] = ()
    total: int | None = None


class Tabular:
    """Base class of results that are shown as a table; a subclass says which, and what a DataFrame of it holds."""

    def table(self) -> ResultTable:
        """Return the table that is shown."""
        raise NotImplementedError

    def records(self) -> list[dict[str, Any]]:
        """Return the rows of the DataFrame, each as a dict of cells by column."""
        table = self.table()
        return [dict(zip(table.columns, row, strict=True)) for row in table.rows]

    def __str__(self) -> str:
        table = self.table()
        rows = [[_cell(cell) for cell in row] for row in table.rows]
        lines = _align([list(table.columns), *rows]) if rows else []
        return "\n".join(printable(line) for line in (*filter(None, [table.title]), *lines, *_notes(table)))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """Return the table as HTML, which notebooks show."""
        table = self.table()
        parts = [f"<p>{_escape(table.title)}</p>"] if table.title else []
        if table.rows:
            head = "".join(f"<th>{_escape(name)}</th>" for name in table.columns)
            body = "".join(
                f"<tr>{''.join(f'<td>{_escape(_cell(cell))}</td>' for cell in row)}</tr>" for row in table.rows
            )
            parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")
        parts += [f"<p>{_escape(note)}</p>" for note in _notes(table)]
        return "".join(parts)

    def to_pandas(self) -> Any:
        """Return the result as a DataFrame of pandas. Raises UsageError if pandas is not installed."""
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise UsageError("to_pandas needs the package pandas: pip install pandas") from error
        return pandas.DataFrame(self.records())


def score_table(
    title: str, scores: Mapping[str, Score], baseline: Mapping[str, Score], baseline_name: str, notes: Iterable[str]
) -> ResultTable:
    """Return the table of scores, each with its interval and the number of items, beside the baseline if there is one."""
    columns = ["metric", "score", "95 % interval", "n", *([baseline_name] if baseline else [])]
    rows = [
        [name, score.value, _interval(score), score.n, *([_value(baseline.get(name))] if baseline else [])]
        for name, score in scores.items()
    ]
    return ResultTable(columns, rows, title, list(notes))


def score_records(scores: Mapping[str, Score], baseline: Mapping[str, Score]) -> list[dict[str, Any]]:
    """Return the same as rows of a DataFrame, with the limits of the interval as numbers."""
    return [
        {"metric": name, "score": score.value, "low": score.low, "high": score.high, "n": score.n}
        | ({"baseline": baseline[name].value if name in baseline else None} if baseline else {})
        for name, score in scores.items()
    ]


class Answers(list[dict[str, Any]], Tabular):
    """The answers of a model to rows, in their order: a list of dicts that is shown as a table."""

    def table(self) -> ResultTable:
        """Return the first SHOWN_ROWS answers; the scores of all classes are left out."""
        answers = [_flatten(answer) for answer in self[:SHOWN_ROWS]]
        columns = list(dict.fromkeys(name for answer in answers for name in answer))
        return ResultTable(
            columns, [[answer.get(name, "") for name in columns] for answer in answers], "", (), len(self)
        )

    def records(self) -> list[dict[str, Any]]:
        """Return a row for each answer."""
        return [_flatten(answer) for answer in self]

    __str__ = Tabular.__str__
    __repr__ = list.__repr__


def _flatten(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return an answer without the scores of all classes, and with the parts of several answers as columns of their own."""
    flat: dict[str, Any] = {}
    for name, value in answer.items():
        if isinstance(value, dict) and name != "scores":
            flat |= {
                part if part == name else f"{name}_{part}": cell for part, cell in value.items() if part != "scores"
            }
        elif name != "scores":
            flat[name] = value
    return flat


def _notes(table: ResultTable) -> list[str]:
    """Return the sentences below a table, options worded for Python, and the number of rows that are not shown."""
    hidden = 0 if table.total is None else table.total - len(table.rows)
    return [*map(worded, table.notes), *([f"… and {hidden:,} more"] if hidden else [])]


def _cell(cell: Any) -> str:
    """Return a cell as it is shown."""
    if cell is None:
        return ""
    if isinstance(cell, float):
        return f"{cell:.4f}"
    return f"{cell:,}" if type(cell) is int else shorten(str(cell), SHOWN_CHARACTERS)


def _value(score: Score | None) -> float | None:
    return None if score is None else score.value


def _interval(score: Score) -> str:
    """Return the limits of the interval of a score as text; "" if it has none."""
    return "" if score.low != score.low else f"{score.low:.4f}–{score.high:.4f}"


def _escape(text: str) -> str:
    return html.escape(printable(text))


def _width(text: str) -> int:
    """Return the number of columns that a text takes on a terminal; Chinese characters take two."""
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines whose columns stand below each other."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    padded = [[cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)] for row in rows]
    return ["  ".join(cells).rstrip() for cells in padded]
