"""Read the lines of text files, plain or gzipped, in UTF-8, UTF-16 with a byte order mark, or an encoding that is named.

In parallel files the lines of one number are one row, as the sentences of a text and of its translation are.
"""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import BinaryIO, cast

from mapsto.data.file_part import FilePart, Row, group_rows
from mapsto.data.formats.encodings import advise_encodings
from mapsto.errors import DataError, Finding, UsageError, place, shorten
from mapsto.text.pairs.parallel_lines import find_divergence

# Line ends.
ROW = re.compile(r"\r\n|\r|\n")
ROW_BEFORE_END = re.compile(r"\r\n|\r(?!\Z)|\n")  # a CR at the end may be half of a CRLF

# Bytes of a file that are read at once.
BLOCK = 2**20
# Largest number of bytes of a line, which is held in memory.
LONGEST_LINE = 256 * 2**20
# Byte order marks, the longer ones first as they begin with the shorter ones.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# Number of bytes by which a file in UTF-16 is recognised, and the share of bytes that are 0 in every second place.
NUM_SNIFFED, ZERO_SHARE = 256, 0.3


def read_lines(path: Path, encoding: str | None) -> Iterator[str]:
    """Yield the lines of a text file, each with its line end (CR, LF or CRLF), without the byte order mark.

    encoding: None for the one that the byte order mark names, or else UTF-8.
    Raises DataError for an empty file, a damaged .gz file, and bytes that cannot be decoded, whose line and offset it names;
    UsageError for an unknown encoding.
    """
    codec = encoding or encoding_of_mark(path) or "utf-8"
    if encoding is None and (wide := _unmarked_encoding(path)) is not None:
        raise DataError(f"{path} is {wide.upper()} without the mark that names it; say --encoding {wide}")
    empty = True
    try:
        # newline="" keeps the line ends, since quoted cells of csv may contain them.
        with _open_binary(path) as stream, io.TextIOWrapper(_limit(stream, path), encoding=codec, newline="") as text:
            for line in text:
                content = line.removeprefix("\ufeff") if empty else line
                if content or not empty:
                    empty = False
                    yield content
    except DataError:
        raise  # which is a ValueError, as an unknown encoding may be
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no whole gzip file: {error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be decoded:", [_undecodable(path, codec, encoding)]) from error
    except (LookupError, ValueError) as error:
        raise UsageError(
            f"there is no encoding {encoding!r}; common ones are utf-8, cp1252, gb18030, utf-16"
        ) from error
    if empty:
        raise DataError(f"{path} is empty")


def read_text(path: Path, encoding: str | None, longest: int) -> str:
    """Return the text of a file, without the byte order mark; errors as for `read_lines`.

    longest: the largest number of characters. Raises DataError for a longer text.
    """
    lines, size = [], 0
    for line in read_lines(path, encoding):
        size += len(line)
        if size > longest:
            raise DataError(f"{path} is longer than {longest:,} characters, and is read whole; write it as jsonl")
        lines.append(line)
    return "".join(lines)


class _LimitedLines(io.BufferedIOBase):
    """A stream of bytes that raises DataError at a line of more than LONGEST_LINE bytes, before it is in memory.

    stream: the bytes. path: the file that the error names.
    """

    def __init__(self, stream: BinaryIO, path: Path) -> None:
        self._stream, self._path = stream, path
        self._num_lines = self._line_bytes = 0

    def readable(self) -> bool:
        return True

    def read1(self, size: int = -1, /) -> bytes:
        block: bytes = self._stream.read1(size)  # type: ignore[attr-defined]
        end = max(block.rfind(b"\n"), block.rfind(b"\r"))
        self._line_bytes = len(block) - end - 1 + (self._line_bytes if end < 0 else 0)
        if self._line_bytes > LONGEST_LINE:
            raise DataError(f"{self._path} has a line of more than {LONGEST_LINE:,} bytes")
        return block

    def read(self, size: int | None = -1, /) -> bytes:
        return self.read1(-1 if size is None else size)


def _limit(stream: BinaryIO, path: Path) -> BinaryIO:
    """Return a stream that refuses lines of more than LONGEST_LINE bytes."""
    return cast(BinaryIO, _LimitedLines(stream, path))


def _unmarked_encoding(path: Path) -> str | None:
    """Return the encoding of a file in UTF-16 or UTF-32 without a byte order mark; None for all others.

    In such a file every second byte of a Latin letter, of a comma and of a line end is 0, which no other text has.
    """
    start = read_start(path, NUM_SNIFFED)
    if any(start.startswith(mark) for mark, _ in MARKS) or len(start) < 4:
        return None
    zeros = [start[offset::4].count(0) / len(start[offset::4]) for offset in range(4)]
    if min(zeros[1:]) > ZERO_SHARE and not zeros[0]:
        return "utf-32-le"
    if min(zeros[:3]) > ZERO_SHARE and not zeros[3]:
        return "utf-32-be"
    low, high = (zeros[0] + zeros[2]) / 2, (zeros[1] + zeros[3]) / 2
    if not low and high > ZERO_SHARE:
        return "utf-16-le"
    return "utf-16-be" if not high and low > ZERO_SHARE else None


def _open_binary(path: Path) -> BinaryIO:
    """Open a file for reading bytes; return the stream, which decompresses a .gz file."""
    stream = path.open("rb")
    if path.suffix.lower() != ".gz":
        return stream
    unpacking = gzip.GzipFile(fileobj=stream)
    unpacking.myfileobj = stream  # type: ignore[assignment]  # so that closing it also closes the file
    return cast(BinaryIO, io.BufferedReader(unpacking, BLOCK))


def encoding_of_mark(path: Path) -> str | None:
    """Return the encoding that a file's byte order mark names; None for a file without a mark."""
    start = read_start(path, 4)
    return next((name for mark, name in MARKS if start.startswith(mark)), None)


def read_start(path: Path, size: int) -> bytes:
    """Return the first bytes of a file, which is unpacked if it is gzipped."""
    with _open_binary(path) as stream:
        try:
            return stream.read(size)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path} is no whole gzip file: {error}") from error


def _undecodable(path: Path, codec: str, encoding: str | None) -> Finding:
    """Read a file again to find the first bytes that cannot be decoded; return a finding with their line and their offset in it.

    codec: the encoding that failed. encoding: the encoding that the user named, or None.
    """
    decoder = codecs.getincrementaldecoder(codec)()
    # Decode block by block to know the line and byte, which the error of TextIOWrapper does not tell.
    number, line = 1, ""
    with _open_binary(path) as stream:
        while True:
            block = stream.read(BLOCK)
            try:
                line += decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                offset_in_block, content = error.start, error.object  # the codec may have taken a mark off
                lines = ROW.split(line + content[:offset_in_block].decode(codec))
                offset = 1 + len(lines[-1].removeprefix("\ufeff").encode(codec)) - len("".encode(codec))
                advice = (
                    ""
                    if encoding is None and encoding_of_mark(path)
                    else _guess(_from_line_start(content, offset_in_block), is_whole_file=len(content) < BLOCK)
                )
                reason = f"these bytes, from byte {offset} of the line on, are no {codec}{advice}"
                return Finding(
                    str(path),
                    number + len(lines) - 1,
                    None,
                    content[offset_in_block : offset_in_block + 8].hex(" "),
                    reason,
                )
            assert block, "the bytes could not be decoded before"
            *complete_lines, line = ROW_BEFORE_END.split(line)
            number += len(complete_lines)


def _from_line_start(content: bytes, index: int) -> bytes:
    """Return the bytes from the beginning of the line that holds the byte at `index`; all of those with NUL bytes."""
    return (
        content
        if b"\0" in content
        else content[max(content.rfind(b"\n", 0, index), content.rfind(b"\r", 0, index)) + 1 :]
    )


def _guess(content: bytes, is_whole_file: bool) -> str:
    """Return the advice that ends the error message about undecodable bytes: to name the encoding with `--encoding`.

    content: bytes of the file, from the beginning of the line that cannot be decoded. is_whole_file: False if the file goes on
        after them, so that the last character may be cut.
    """
    if b"\0" in content:
        # Of two bytes the second one of a line end and of a Latin letter is 0 in utf-16-le, the first one in utf-16-be.
        wide = "utf-16-le" if content[1::2].count(0) >= content[::2].count(0) else "utf-16-be"
        return f"; if they are {wide}, say --encoding {wide}"
    return advise_encodings(content, is_whole_file) or "; say which they are with --encoding"


def nonblank_lines(path: Path, encoding: str | None) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its line end) for each line of a text file that is not blank."""
    for number, line in enumerate(read_lines(path, encoding), 1):
        if line.strip():
            yield number, line.rstrip("\r\n")


def stream_parallel(
    paths: Sequence[Path], names: Sequence[str], encoding: str | None, title: Path
) -> Iterator[FilePart]:
    """Yield the lines of parallel files in parts: the lines of one number are a row, with a column for each file.

    Lines that are blank in all files are skipped and counted in a remark. A row with some lines blank is unreadable.
    paths: the files, which may also be a single one. names: the column of each. title: the name of all of them in messages.
    Raises DataError if a file cannot be read or has other than the number of lines of the first one.
    """
    num_blank = 0

    def rows() -> Iterator[Row]:
        nonlocal num_blank
        for number, lines in enumerate(zip_longest(*(_newline_lines(path, encoding) for path in paths)), 1):
            if None in lines:
                raise _unequal_lengths(paths, encoding)
            blank = [not line.strip() for line in lines]
            if all(blank):
                num_blank += 1
            elif faults := _line_faults(str(title), number, dict(zip(names, lines, strict=True))):
                yield faults
            else:
                yield number, dict(zip(names, lines, strict=True)), sum(map(len, lines))

    last: FilePart | None = None
    try:
        for part in group_rows(title, rows(), names):
            if last is not None:
                yield last
            last = part
    except OSError as error:
        raise DataError(f"{error.filename or title} cannot be read: {error.strerror or error}") from error
    assert last is not None, "files without rows have one part too"
    # Only after the last line is it known how many are blank.
    reason = f"lines that are blank{' in all of these files' * (len(paths) > 1)} and skipped: {num_blank:,}"
    yield replace(last, remarks=[Finding(str(title), None, None, None, reason)] if num_blank else [])


def _line_faults(title: str, number: int, lines: dict[str, str]) -> list[Finding]:
    """Return the findings on the lines of one number, by column; an empty list if they can be read."""
    faults = [
        Finding(title, number, name, None, "this line is blank, and its counterpart is not")
        for name, line in lines.items()
        if not line.strip()
    ]
    nul = [name for name, line in lines.items() if "\0" in line]
    return faults + [Finding(title, number, name, lines[name], "the line holds a NUL character") for name in nul]


def _newline_lines(path: Path, encoding: str | None) -> Iterator[str]:
    """Yield the lines of a text file without their ends. In a file with LF, a CR alone is a space and ends no line.

    Some corpora have such a CR inside of a sentence, by which all later lines would be beside the wrong translation.
    """
    parts: list[str] = []
    has_newlines = False
    for line in read_lines(path, encoding):
        parts.append(line.rstrip("\r\n"))
        if line.endswith("\n"):
            yield " ".join(parts)
            parts.clear()
            has_newlines = True
    # A file without LF has been held in memory, since one might have followed.
    yield from [" ".join(parts)] if has_newlines and parts else parts


def _unequal_lengths(paths: Sequence[Path], encoding: str | None) -> DataError:
    """Return the error about parallel files with different numbers of lines, and the place at which they probably diverge."""
    lengths = {path: [len(line) for line in _newline_lines(path, encoding)] for path in paths}
    counts = ", ".join(f"{path} has {len(lines):,}" for path, lines in lengths.items())
    shortest, longest = min(paths, key=lambda path: len(lengths[path])), max(paths, key=lambda path: len(lengths[path]))
    surplus = len(lengths[longest]) - len(lengths[shortest])
    message = f"parallel files need the same number of lines: {counts}"
    line = find_divergence(lengths[longest], lengths[shortest])
    if line is None:
        return DataError(f"{message}; the lengths of the lines do not tell where they diverge")
    (quoted,) = (text for number, text in enumerate(_newline_lines(longest, encoding), 1) if number == line)
    return DataError(
        f"{message}; by the lengths of the lines, {surplus:,} too many probably stand at about "
        f"{place(longest, line)}: {shorten(quoted)!r}"
    )
