"""Read table files in parts of bounded size. Each row keeps its row number in the file; unreadable rows become findings.

Formats are csv, tsv, jsonl, json, txt, CoNLL, parquet, Arrow and workbooks, the texts among them also gzipped. Text is UTF-8, or
UTF-16 with a byte order mark, unless an encoding is named. Files may be larger than memory, except for json and workbooks, which
are read whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from mapsto.data.file_part import FilePart, Row, group_rows
from mapsto.data.formats import conll, excel, signatures
from mapsto.data.formats.json_tables import stream_json, stream_jsonl
from mapsto.data.formats.parquet import stream_arrow, stream_parquet
from mapsto.data.formats.separated import stream_separated
from mapsto.data.formats.text_lines import nonblank_lines, read_start
from mapsto.errors import DataError, Finding, near
from mapsto.options import DEFAULT_FORMAT, TextFormat

ARROW_SUFFIXES = ("arrow", "feather")
# Formats that compress themselves and are read out of order, so that they are not gzipped.
NEVER_GZIPPED = ("parquet", *ARROW_SUFFIXES, *excel.SUFFIXES)

Reader = Callable[[Path, TextFormat], Iterator[FilePart]]


def file_format(path: Path) -> str | None:
    """Return the table format that a file's suffix names, such as "csv" for data.CSV.gz; None if it names none."""
    suffixes = [suffix.lower().lstrip(".") for suffix in path.suffixes]
    packed = bool(suffixes) and suffixes[-1] == "gz"
    name = suffixes[-2] if packed and len(suffixes) > 1 else suffixes[-1] if suffixes else None
    return None if name not in READERS or (packed and name in NEVER_GZIPPED) else name


def read_file(path: Path, text_format: TextFormat = DEFAULT_FORMAT) -> FilePart:
    """Return all rows of a file as one part.

    text_format: how a text file is read, where the user says it.
    Raises DataError if the file cannot be read, UsageError for an unknown encoding.
    """
    parts = list(stream_file(path, text_format))
    names = dict.fromkeys(name for part in parts for name in part.data)
    return FilePart(
        str(path),
        {name: [value for part in parts for value in part.column(name)] for name in names},
        [row for part in parts for row in part.rows],
        [finding for part in parts for finding in part.rejected],
        [finding for part in parts for finding in part.remarks],
        all(part.names_columns for part in parts),
        sum(part.size for part in parts),
    )


def stream_file(path: Path, text_format: TextFormat = DEFAULT_FORMAT) -> Iterator[FilePart]:
    """Yield the rows of a file in parts of at most PART_ROWS rows.

    text_format: how a text file is read, where the user says it.
    Raises DataError if the file cannot be read, UsageError for an unknown encoding.
    """
    kind = file_format(path)
    try:
        require_exists(path)
        if kind is None:
            formats = ", ".join(READERS)
            reason = _other_format(path, "") or (
                f"the name says no format; read are {formats}, and the texts among them also as .gz; "
                "texts with one value on a line are named by their language, as a.en or a.en,a.de"
            )
            raise DataError(f"{path}: {reason}")
        if not path.stat().st_size:
            raise DataError(f"{path} is empty")
        if (advice := _other_format(path, kind)) is not None:
            noun = "workbook" if kind in excel.SUFFIXES else f"{kind} file"
            raise DataError(f"{path} is no whole {noun}: {advice}")
        yield from READERS[kind](path, text_format)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _other_format(path: Path, kind: str) -> str | None:
    """Return what a file is and what to do, if it is of another format than `kind`, which its suffix names; else None.

    Raises DataError for a name with .gz of a file that is not gzipped.
    """
    if path.is_dir() or (not kind and path.suffix.lower() == ".gz"):
        return None
    if path.suffix.lower() == ".gz":
        with path.open("rb") as stream:
            if not stream.read(2).startswith(b"\x1f\x8b"):
                raise DataError(f"{path} is no whole gzip file: its bytes are not gzipped; rename it to {path.stem}")
    return signatures.describe_other_format(path, kind, read_start(path, signatures.NUM_SNIFFED))


def require_exists(path: Path) -> None:
    """Raise DataError if a file or folder does not exist. The message suggests a similar name in the same folder."""
    if not path.exists():
        neighbours = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"there is no file {path}{near(path.name, neighbours)}")


def _stream_txt(path: Path, text_format: TextFormat) -> Iterator[FilePart]:
    """Yield the rows of a txt file in parts: each line that is not blank is a row with the single column "text".

    A file of words and their tags (CoNLL) is read as such.
    """
    encoding = text_format.encoding
    if conll.is_conll(path, encoding):
        return conll.stream_conll(path, encoding)

    def rows() -> Iterator[Row]:
        for number, line in nonblank_lines(path, encoding):
            if "\0" in line:
                yield [Finding(str(path), number, "text", line, "the line holds a NUL character")]
            else:
                yield number, {"text": line}, len(line)

    return group_rows(path, rows(), ("text",))


def _stream_csv(path: Path, text_format: TextFormat) -> Iterator[FilePart]:
    """Yield the rows of a file with comma-separated cells in parts."""
    return stream_separated(path, text_format, ",")


def _stream_tsv(path: Path, text_format: TextFormat) -> Iterator[FilePart]:
    """Yield the rows of a file with tab-separated cells in parts. A file of words and their tags (CoNLL) is read as such."""
    if text_format.delimiter is None and conll.is_conll(path, text_format.encoding):
        return conll.stream_conll(path, text_format.encoding)
    return stream_separated(path, text_format, "\t")


def _stream_conll(path: Path, text_format: TextFormat) -> Iterator[FilePart]:
    """Yield the sentences of a file of words and tags in parts."""
    return conll.stream_conll(path, text_format.encoding)


READERS: dict[str, Reader] = {
    "csv": _stream_csv,
    "tsv": _stream_tsv,
    "jsonl": stream_jsonl,
    "ndjson": stream_jsonl,
    "json": stream_json,
    "parquet": stream_parquet,
    "txt": _stream_txt,
    **dict.fromkeys(conll.SUFFIXES, _stream_conll),
    **dict.fromkeys(ARROW_SUFFIXES, stream_arrow),
    **dict.fromkeys(excel.SUFFIXES, excel.stream_excel),
}
