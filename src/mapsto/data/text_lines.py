"""Read the lines of a text file, plain or gzipped, in UTF-8, UTF-16 with a byte order mark, or an encoding that is named."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from mapsto.errors import DataError, Finding, UsageError

# Line ends.
ROW = re.compile(r"\r\n|\r|\n")
ROW_BEFORE_END = re.compile(r"\r\n|\r(?!\Z)|\n")  # a CR at the end may be half of a CRLF

# Bytes of a file that are read at once.
BLOCK = 2**20
# Byte order marks, and the encodings to suggest for a file that has no mark and is not UTF-8.
MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
GUESSES = ("gb18030", "cp1252")


def read_lines(path: Path, encoding: str | None) -> Iterator[str]:
    """Yield the lines of a text file, each with its line end (CR, LF or CRLF), without the byte order mark.

    encoding: None for the one that the byte order mark names, or else UTF-8.
    Raises DataError for an empty file, a damaged .gz file, and bytes that cannot be decoded, whose line and offset it names;
    UsageError for an unknown encoding.
    """
    codec = encoding or _encoding_of_mark(path) or "utf-8"
    empty = True
    try:
        # newline="" keeps the line ends, since quoted cells of csv may contain them.
        with _open_binary(path) as stream, io.TextIOWrapper(stream, encoding=codec, newline="") as text:
            for line in text:
                content = line.removeprefix("\ufeff") if empty else line
                if content or not empty:
                    empty = False
                    yield content
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


def _open_binary(path: Path) -> BinaryIO:
    """Open a file for reading bytes; return the stream, which decompresses a .gz file."""
    stream = path.open("rb")
    if path.suffix.lower() != ".gz":
        return stream
    unpacking = gzip.GzipFile(fileobj=stream)
    unpacking.myfileobj = stream  # type: ignore[assignment]  # so that closing it also closes the file
    return cast(BinaryIO, io.BufferedReader(unpacking, BLOCK))


def _encoding_of_mark(path: Path) -> str | None:
    """Return the encoding that a file's byte order mark names; None for a file without a mark."""
    with _open_binary(path) as stream:
        try:
            start = stream.read(3)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise DataError(f"{path} is no whole gzip file: {error}") from error
    return next((name for mark, name in MARKS if start.startswith(mark)), None)


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
                    if encoding is None and _encoding_of_mark(path)
                    else _guess(content, is_whole_file=len(content) < BLOCK)
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


def _guess(content: bytes, is_whole_file: bool) -> str:
    """Return the advice that ends the error message about undecodable bytes: to name the encoding with `--encoding`.

    The advice proposes the first of GUESSES that decodes `content` plausibly, and no encoding if none does.
    content: bytes of the file. is_whole_file: False if the file goes on after them, so that the last character may be cut.
    """
    for name in GUESSES:
        try:
            decoded = codecs.getincrementaldecoder(name)().decode(content, final=is_whole_file)
        except UnicodeDecodeError:
            continue
        # A Chinese character is mostly two high bytes. In Western text a high byte is a single letter. Read as gb18030, it
        # forms a character with the ASCII letter after it, so there is only about one high byte for each character.
        high = sum(byte >= 0x80 for byte in content)
        if name != "gb18030" or high >= 1.5 * sum(not character.isascii() for character in decoded):
            return f"; if they are {name}, say --encoding {name}"
    return "; say which they are with --encoding"


def nonblank_lines(path: Path, encoding: str | None) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its line end) for each line of a text file that is not blank."""
    for number, line in enumerate(read_lines(path, encoding), 1):
        if line.strip():
            yield number, line.rstrip("\r\n")
