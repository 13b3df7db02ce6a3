"""Read csv and tsv files, whose first line is the header, also with another delimiter than the comma or the tab.

A line `sep=;` before the header, as Excel reads it, names the delimiter. Without it the header decides: where it is one single
cell by the usual delimiter and several by another, as in the files that Excel writes in Germany or France, the other one is
taken, with a remark.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from mapsto.data.file_part import FilePart, Row, from_cells, group_rows
from mapsto.data.formats.columns import REPEATED_HEADER, name_columns, repeats_header, require_few_columns
from mapsto.data.formats.recording_lists import DELIMITER, find_recordings, stream_recordings
from mapsto.data.formats.text_lines import read_lines
from mapsto.errors import DataError, Finding, LineNumber, place
from mapsto.options import TextFormat

# Number of unclosed quotes after which the rest of a file is not read.
MOST_UNCLOSED = 100
# Largest number of characters of a cell.
LARGEST_CELL = 100 * 2**20
# A line before the header that names the delimiter.
SEPARATOR_LINE = re.compile(r'"?sep=(?P<delimiter>[^"\r\n])"?[\r\n]*', re.IGNORECASE)
# Delimiters that the header is tried with, besides the usual one of the format.
OTHER_DELIMITERS = (";", "\t", "|", ",")
# Number of lines by which another delimiter is recognised.
NUM_SNIFFED = 5
NAMES = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "vertical bars"}


@dataclass(frozen=True)
class Layout:
    """The layout of a csv file.

    delimiter: the character between two cells. has_separator_line: whether the first line names it.
    remarks: a note on a delimiter that only the header tells.
    """

    delimiter: str
    has_separator_line: bool
    remarks: list[Finding]


def find_layout(path: Path, lines: Sequence[str], default: str, option: str | None) -> Layout:
    """Return the layout of a csv file.

    lines: the first lines of the file. default: the delimiter of the format. option: the one of `--delimiter`; None if not set.
    """
    line = SEPARATOR_LINE.fullmatch(lines[0]) if lines else None
    if option is not None or line is not None:
        return Layout(option or (line["delimiter"] if line else default), line is not None, [])
    alternative = next((mark for mark in OTHER_DELIMITERS if mark != default and _is_separated(lines, mark)), None)
    if alternative is None or max(_count_cells(lines, default)[:1], default=0) > 1:
        return Layout(default, False, [])
    reason = f"the cells are separated by {NAMES[alternative]}, as the header shows (--delimiter says it for sure)"
    return Layout(alternative, False, [Finding(str(path), None, None, None, reason)])


def _is_separated(lines: Sequence[str], delimiter: str) -> bool:
    """Return whether the first records of a file have the same number of cells, two or more, between these delimiters."""
    counts = _count_cells(lines, delimiter)
    # The last record may go on behind the lines that are looked at.
    counts = counts if len(lines) < NUM_SNIFFED else counts[:-1]
    return len(set(counts)) == 1 and counts[0] > 1


def _count_cells(lines: Sequence[str], delimiter: str) -> list[int]:
    """Return the number of cells of each record that is not blank in some lines."""
    return [len(cells) for cells in csv.reader(lines, delimiter=delimiter) if cells]


def stream_separated(path: Path, text_format: TextFormat, default: str) -> Iterator[FilePart]:
    """Yield the rows of a csv or tsv file, whose first line is the header, in parts.

    default: the delimiter of the format: a comma or a tab.
    Raises DataError if the file or its header cannot be read; a bad row only becomes a finding.
    """
    # Python's own limit of 131,072 characters is too small for long documents.
    csv.field_size_limit(LARGEST_CELL)
    lines = read_lines(path, text_format.encoding)
    first_lines = list(islice(lines, NUM_SNIFFED))
    recordings = find_recordings(path, first_lines) if text_format.delimiter in (None, DELIMITER) else None
    if recordings is not None:
        yield from stream_recordings(path, chain(first_lines, lines), recordings)
        return
    layout = find_layout(path, first_lines, default, text_format.delimiter)
    delimiter = layout.delimiter
    records = _records(path, chain(first_lines, lines), delimiter)
    if layout.has_separator_line:
        next(records)
    _, header, fault = next(records, (1, [], None))
    if not header:
        raise DataError(f"{path} is empty")
    if fault is not None:
        raise DataError(
            f"{path}: the header cannot be read: {fault}; --delimiter names another delimiter than {delimiter!r}"
        )
    require_few_columns(path, len(header))
    names, remarks = name_columns(path, [name.strip() for name in header])
    size = len(names)

    def rows() -> Iterator[Row]:
        for number, record, fault in records:
            characters = "".join(record)
            if fault is None and len(record) != size:
                fault = f"this row has {len(record)} cells, the header has {size}"
                # A title above the header is taken for a header of one cell.
                fault += "; if this row is the header, delete those above it" if size == 1 else ""
            if fault is None and repeats_header(record, names):
                fault = REPEATED_HEADER
            if fault is None and "\0" in characters:
                fault = "the row holds a NUL character"
            if fault is not None:
                yield [Finding(str(path), number, None, delimiter.join(record), fault)]
            else:
                yield number, record, len(characters)

    parts = group_rows(path, rows(), names, from_cells)
    for index, part in enumerate(parts):
        yield part if index else replace(part, remarks=[*layout.remarks, *remarks, *part.remarks])


def _records(path: Path, lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str], str | None]]:
    """Yield (line number, cells, fault) for each record of a csv or tsv file; blank lines are skipped.

    The line number is that of the record's first line, as a LineNumber where it differs from the number of the record.
    fault: the reason, in words, why the record is invalid; None for a valid one.
    A quote that never closes would swallow the rest of the file. So its line is reported as a fault, and reading continues
    at the next line. Raises DataError for a cell of more than LARGEST_CELL characters.
    """
    pending: deque[str] = deque()  # lines to read before the next ones of the file
    record_lines: list[str] = []  # lines of the record at hand
    line_number = unclosed = num_spanned = 0  # num_spanned: line ends in quoted cells so far

    def feed() -> Iterator[str]:
        """Yield lines to the csv reader, and store them in `record_lines` to be read again if a quote never closes."""
        while (line := pending.popleft() if pending else next(lines, None)) is not None:
            record_lines.append(line)
            yield line

    def number(line: int) -> int:
        return LineNumber(line, line - num_spanned) if num_spanned else line

    while unclosed < MOST_UNCLOSED:
        # Only a strict reader raises an error for a quote that never closes.
        reader = csv.reader(feed(), delimiter=delimiter, strict=True)
        try:
            for record in reader:
                first = line_number + 1
                num_lines = len(record_lines)
                line_number += num_lines
                record_lines.clear()
                if record:
                    yield number(first), record, None
                num_spanned += num_lines - 1
            return
        except csv.Error as error:
            # Such a cell may hold millions of lines, each of which would be a fault of its own.
            if "field larger" in str(error):
                raise DataError(
                    f"{place(path, number(line_number + 1))}: a cell of more than {LARGEST_CELL:,} characters, or a quote "
                    "that is never closed"
                ) from error
            endless = "unexpected end" in str(error)
            unclosed += endless
            reason = "a quote is opened and never closed" if endless else f"broken quotes: {error}"
            # Report the first line of the record, and read the others again.
            quoted = record_lines.pop(0)
            line_number += 1
            yield number(line_number), [quoted.rstrip("\r\n")], reason
            pending.extendleft(reversed(record_lines))
            record_lines.clear()
    # Each unclosed quote costs a pass over the rest of the file, so there is a limit.
    if num_rest := len(pending) + sum(1 for _ in lines):
        yield (
            number(line_number + 1),
            [],
            f"{MOST_UNCLOSED} quotes are never closed; the {num_rest:,} lines from here on were not read",
        )
