"""Tell the format of a file by its first bytes, where it is another one than its name says.

The bytes are those that `file` (https://github.com/file/file) knows each format by.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

# The first bytes of a format, the name of the format, and what to do with a file of it.
SIGNATURES = (
    (b"\x1f\x8b", "a gzipped file", "rename it to {stem}.gz"),
    (b"%PDF-", "a PDF document", "copy its table into a spreadsheet and save it as csv"),
    (b"PAR1", "a parquet file", "rename it to {stem}.parquet"),
    (b"ARROW1", "an Arrow file", "rename it to {stem}.arrow"),
    (b"\xd0\xcf\x11\xe0", "a document of an older Office, as xls is", "if it is a workbook, rename it to {stem}.xls"),
    (b"BZh", "a file packed by bzip2", "unpack it"),
    (b"\xfd7zXZ", "a file packed by xz", "unpack it"),
    (b"\x28\xb5\x2f\xfd", "a file packed by zstd", "unpack it"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it"),
    (b"Rar!", "a rar archive", "unpack it"),
    (b"SQLite format 3", "an SQLite data base", "export its table as csv"),
    (b"\x89HDF", "an HDF5 file", "save its table as parquet or csv"),
    (b"\x93NUMPY", "a NumPy array", "save its rows as parquet or csv"),
    (b"\x89PNG", "a picture", "a table names pictures in a column; a folder of pictures is read as it is"),
    (b"\xff\xd8\xff", "a picture", "a table names pictures in a column; a folder of pictures is read as it is"),
    (b"\x80\x04\x95", "a pickle", "which may run code and is never read; save it as parquet or csv"),
    (b"\x80\x05\x95", "a pickle", "which may run code and is never read; save it as parquet or csv"),
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file with git lfs pull"),
)
# Signatures of formats that begin as text does.
TEXTUAL = (b"%PDF-", b"version https://git-lfs")
ZIP = b"PK\x03\x04"
# The format that a file's suffix says, by the name of the one that its bytes say: then nothing is wrong.
EXPECTED = {"a parquet file": ("parquet",), "an Arrow file": ("arrow", "feather")}
WORKBOOKS = ("xlsx", "xlsm", "xls", "ods")
# Formats of which no row begins as a page of HTML does.
TABLES = (*WORKBOOKS, "csv", "tsv", "parquet", "jsonl", "json")
HTML = (b"<!doctype html", b"<html", b"<table")
# Number of bytes by which a format is recognised.
NUM_SNIFFED = 512


def describe_other_format(path: Path, kind: str, start: bytes) -> str | None:
    """Return what a file is and what to do, if its first bytes are those of another format than `kind`; else None.

    start: the first bytes of the file, after unpacking. kind: the format that its suffix names, such as "csv", or "".
    """
    stem = path.name.split(".")[0] or path.stem
    if start.startswith(ZIP):
        return None if kind in WORKBOOKS else _describe_zip(path)
    beginning = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if kind in TABLES and beginning.startswith(HTML):
        return "it is a page of HTML; open it in a spreadsheet program and save it as xlsx or csv"
    for signature, noun, advice in SIGNATURES:
        # A header may begin with such letters, but a file of text has no control characters.
        if start.startswith(signature) and (signature in TEXTUAL or not _is_text(start)):
            is_old_workbook = kind in WORKBOOKS and signature == b"\xd0\xcf\x11\xe0"
            name = path.name if signature == b"\x1f\x8b" else stem
            return (
                None
                if kind in EXPECTED.get(noun, ()) or is_old_workbook
                else f"it is {noun}: {advice.format(stem=name)}"
            )
    if kind in (*WORKBOOKS, "parquet") and start and _is_text(start):
        return f"it is text, such as csv; rename it to {stem}.csv, or {stem}.tsv with tabs, or {stem}.jsonl with JSON"
    return None


def _is_text(start: bytes) -> bool:
    """Return whether the first bytes of a file are text: without control characters but tabs and line ends."""
    return all(byte >= 32 or byte in b"\t\r\n\f" for byte in start)


def _describe_zip(path: Path) -> str:
    """Return what a zip archive holds, and what to do with it."""
    stem = path.name.split(".")[0] or path.stem
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            kind = archive.read("mimetype")[:100] if "mimetype" in names else b""
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError):
        names, kind = [], b""
    if any(name.lower() == "xl/workbook.xml" for name in names):
        return f"it is a workbook of Excel; rename it to {stem}.xlsx"
    if b"spreadsheet" in kind:
        return f"it is a workbook of LibreOffice; rename it to {stem}.ods"
    if any(name.startswith("word/") for name in names):
        return "it is a document of Word; copy its table into a spreadsheet and save it as csv"
    return f"it is a zip archive{f' with {names[0]}' if names else ''}: unpack it"
