"""Tables from files and objects: nothing lost, nothing guessed, every fault named; and the order rows are read in."""

from __future__ import annotations

import codecs
import gzip
import json
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mapsto.data import file_part, readers, sampling, writers
from mapsto.data.formats import separated
from mapsto.data.rows import load_rows
from mapsto.data.table import Table, read_table, write_rows
from mapsto.errors import DataError, MapstoError, UsageError, places
from mapsto.options import TextFormat
from mapsto.task.arrow import parse

quick = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
TEXTS = st.text(
    st.one_of(
        st.sampled_from(list("ab ,\t\"'\\\n\r\u2028\u2029\x85\x0b\x0c\x1c\ufeff你好é🙂")),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    ),
    max_size=12,
)


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def faults(part: readers.FilePart | Table) -> list[tuple[int | None, str | None, str]]:
    return [(finding.row, finding.column, finding.reason) for finding in part.rejected]


# Names


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "ndjson", "json", "txt"])
def test_a_format_is_read_off_the_name_in_any_case_and_gzipped(form: str) -> None:
    assert form in readers.READERS
    for name in (f"a.{form}", f"a.{form.upper()}", f"a.b.{form}.gz", f"a.{form}.GZ"):
        assert readers.file_format(Path(name)) == form
    assert readers.file_format(Path(f"a{form}")) is None


def test_names_without_a_format_are_refused_with_the_list_of_formats(tmp_path: Path) -> None:
    for name in ("a.docx", "a", "a.gz", "a.parquet.gz", ".csv"):
        with pytest.raises(DataError, match="csv, tsv, jsonl, ndjson, json, parquet, txt"):
            readers.read_file(put(tmp_path, name, "x"))
    with pytest.raises(UsageError, match="csv, tsv, jsonl, parquet or xlsx"):
        writers.write_file(tmp_path / "a.txt", ["a"], [])


def test_a_missing_file_is_named_with_its_neighbour(tmp_path: Path) -> None:
    put(tmp_path, "train.csv", "a\n1\n")
    with pytest.raises(DataError, match="no file .*trian.csv .did you mean 'train.csv'"):
        read_table(tmp_path / "trian.csv")
    for path in (
        tmp_path / "none" / "a.csv",
        Path("a\0b.csv"),
        Path("a" * 300 + ".csv"),
        tmp_path / "train.csv" / "b.csv",
    ):
        with pytest.raises(DataError):
            read_table(path)


def test_what_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, "a.csv", "a\n1\n")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    for method in ("open", "exists", "stat"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, refuse)
            with pytest.raises(DataError, match="cannot be read: Permission denied"):
                read_table(path)
    put(tmp_path, "b.csv", "a\n1\n")
    (tmp_path / "inner").mkdir()
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda at: refuse() if str(at).endswith("inner") else scan(at))
    with pytest.raises(DataError, match="cannot be read: Permission denied"):  # never the rest of the folder in silence
        read_table(tmp_path)


# Encodings and newlines


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.txt"])
def test_only_lf_crlf_and_cr_end_a_row(tmp_path: Path, name: str, newline: str) -> None:
    texts = ["one\u2028two", "three\u2029four", "five\x85six", "a\x0bb\x0cc\x1cd\x1ee", "last"]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts] if "json" in name else texts
    head = ["text"] if name[-3:] in ("csv", "tsv") else []
    for end in ("", newline):
        part = readers.read_file(put(tmp_path, name, newline.join([*head, *lines]) + end))
        assert part.data == {"text": texts}
        assert part.rows == [len(head) + row for row in range(1, 6)]
        assert not part.rejected


@pytest.mark.parametrize("encode", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"])
def test_utf_8_and_marked_utf_16_need_no_encoding(tmp_path: Path, encode: str) -> None:
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encode, b"")
    path = put(tmp_path, "a.csv", mark + "text,b\n你好é🙂,1\n".encode(encode))
    asked = [None, "utf-16", encode] if mark else [None, "utf-8", "utf-8-sig"]
    for encoding in asked:
        assert readers.read_file(path, TextFormat(encoding)).data == {"text": ["你好é🙂"], "b": ["1"]}


@pytest.mark.parametrize("encoding", ["cp1252", "gb18030", "shift_jis", "utf-16-le"])
def test_other_encodings_are_read_when_named(tmp_path: Path, encoding: str) -> None:
    text = "café" if encoding == "cp1252" else "日本"
    assert readers.read_file(put(tmp_path, "a.txt", f"{text}\nb".encode(encoding)), TextFormat(encoding)).data[
        "text"
    ] == [
        text,
        "b",
    ]


def test_an_encoding_that_is_named_beats_a_mark(tmp_path: Path) -> None:
    path = put(tmp_path, "a.txt", "ÿþé\n".encode("cp1252"))  # the first two bytes are the mark of UTF-16
    assert readers.read_file(path, TextFormat("cp1252")).data == {"text": ["ÿþé"]}


@pytest.mark.parametrize("encoding", ["utf-9", "hex", "rot13", "undefined", "a\0b", "idna-2"])
def test_an_encoding_that_is_none_is_a_wrong_call(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(UsageError, match="there is no encoding"):
        readers.read_file(put(tmp_path, "a.txt", "ab"), TextFormat(encoding))


@pytest.mark.parametrize(
    ("content", "row", "byte", "advice"),
    [
        ("x\r\ny\rabc é".encode("cp1252"), 3, 5, "--encoding cp1252"),
        ("na\xefve".encode("cp1252"), 1, 3, "--encoding cp1252"),  # gb18030 would take it, as nonsense
        ("a,b\n你好,一\n".encode("gb18030"), 2, 1, "--encoding gb18030"),
        ("a\n你x\n".encode() + b"\xff\x81", 3, 1, "say which they are with --encoding"),
        (codecs.BOM_UTF8 + "é\né".encode() + b"\xff", 2, 3, "are no utf-8"),
        (codecs.BOM_UTF8 + "é".encode() + b"\xff", 1, 3, "are no utf-8"),
        (codecs.BOM_UTF16_LE + "\u0d15\u0a0a\r\nab".encode("utf-16-le") + b"\x00\xd8a\0", 2, 5, "are no utf-16-le"),
    ],
)
def test_undecodable_bytes_are_named_by_line_and_byte(
    tmp_path: Path, content: bytes, row: int, byte: int, advice: str
) -> None:
    with pytest.raises(DataError) as caught:
        readers.read_file(put(tmp_path, "a.txt", content))
    (finding,) = caught.value.findings
    assert finding.row == row and f"from byte {byte} of the line" in finding.reason and advice in finding.reason


@given(st.lists(st.text("aé你\n", max_size=8), max_size=4), st.text("aé你", max_size=4))
@quick
def test_the_place_of_a_bad_byte_is_right_wherever_it_is(tmp_path: Path, before: list[str], line: str) -> None:
    text = "".join(f"{part}\n" for part in before)
    with pytest.raises(DataError) as caught:
        readers.read_file(put(tmp_path, "a.txt", (text + line).encode() + b"\xff tail\n"))
    (finding,) = caught.value.findings
    assert finding.row == text.count("\n") + 1
    assert f"byte {len(line.encode()) + 1} of" in finding.reason


@pytest.mark.parametrize("content", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json", "a.txt", "a.csv.gz"])
def test_an_empty_file_says_so(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(DataError, match="is empty"):
        readers.read_file(put(tmp_path, name, gzip.compress(content) if name.endswith("gz") else content))


def test_damaged_gzip_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b"text\n" + bytes(range(32, 127)) * 20)
    for content in (
        whole[:-9],
        whole[:4],
        whole[:30] + b"\xff\xff\xff" + whole[33:],
        b"text\nplain\n",
        whole + b"junk",
    ):
        with pytest.raises(DataError, match="no whole gzip"):
            readers.read_file(put(tmp_path, "a.csv.gz", content))


# csv and tsv


def test_rows_are_numbered_as_an_editor_shows_them(tmp_path: Path) -> None:
    part = readers.read_file(put(tmp_path, "a.csv", 'text,n\none,1\n\n"two\r\nlines\nmore",2\n\r\nthree,3'))
    assert part.data == {"text": ["one", "two\r\nlines\nmore", "three"], "n": ["1", "2", "3"]}
    assert part.rows == [2, 4, 8] and not part.rejected


def test_ragged_rows_are_set_aside_with_their_counts(tmp_path: Path) -> None:
    part = readers.read_file(put(tmp_path, "a.csv", "a,b\n1\n1,2,3\n1,2\n"))
    assert part.data == {"a": ["1"], "b": ["2"]} and part.rows == [4]
    assert faults(part) == [
        (2, None, "this row has 1 cells, the header has 2"),
        (3, None, "this row has 3 cells, the header has 2"),
    ]
    assert part.rejected[1].value == "1,2,3"


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("a,b,a", "'a' more than once"),
        (",Unnamed: 0, ", "no column of the header has a name"),
        ('a,"b', "header"),
    ],
)
def test_a_header_with_a_fault_is_refused(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        readers.read_file(put(tmp_path, "a.csv", f"{header}\n1,2,3\n"))


def test_a_header_alone_has_columns_and_no_rows(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", "a,b\n")
    assert readers.read_file(path) == readers.FilePart(str(path), {"a": [], "b": []}, [], [])
    with pytest.raises(DataError, match="has no rows"):
        read_table(path)
    with pytest.raises(DataError, match="is empty"):
        readers.read_file(put(tmp_path, "b.csv", "\n\r\n"))


def test_an_unclosed_quote_costs_its_row_only(tmp_path: Path) -> None:
    part = readers.read_file(put(tmp_path, "a.csv", 'a,b\n1,2\n"7\n7",8\n3,"x\n5,6\n9,y'))
    assert part.data == {"a": ["1", "7\n7", "5", "9"], "b": ["2", "8", "6", "y"]} and part.rows == [2, 3, 6, 7]
    assert faults(part) == [(5, None, "a quote is opened and never closed")]


def test_text_behind_a_closing_quote_costs_its_row_only(tmp_path: Path) -> None:
    part = readers.read_file(put(tmp_path, "a.csv", 'a,b\n"x"y,1\n5" pipe,2\n'))
    assert part.data == {"a": ['5" pipe'], "b": ["2"]} and part.rows == [3]
    assert [finding.row for finding in part.rejected] == [2]


def test_too_many_unclosed_quotes_end_the_reading_and_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separated, "MOST_UNCLOSED", 1)
    part = readers.read_file(put(tmp_path, "a.csv", 'a,b\n1,2\n3,"x\n5,6\n7,8\n'))
    assert part.rows == [2]
    assert [finding.row for finding in part.rejected] == [3, 4]
    assert "the 2 lines from here on were not read" in part.rejected[1].reason


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt", "a.jsonl"])
def test_a_nul_costs_its_row_only(tmp_path: Path, name: str) -> None:
    lines = ["good", "b\0ad", "fine"]
    if name == "a.jsonl":
        lines = ['{"text": "good"}', '{"text": "b\\u0000ad"}', '{"text": "fine"}', '{"text": "b\0ad"}']
    head = ["text"] if name[-3:] in ("csv", "tsv") else []
    part = readers.read_file(put(tmp_path, name, "\n".join([*head, *lines])))
    assert part.data == {"text": ["good", "fine"]}
    assert part.rows == [len(head) + 1, len(head) + 3]
    assert [finding.row for finding in part.rejected] == [len(head) + 2, *([4] if name == "a.jsonl" else [])]
    assert all("NUL" in reason or "JSON" in reason for _, _, reason in faults(part))


def test_a_very_long_cell_is_read(tmp_path: Path) -> None:
    text = "long " * 200_000
    assert readers.read_file(put(tmp_path, "a.csv", f"a,b\n{text},1\n")).data["a"] == [text]


def test_a_hundred_thousand_rows_are_read(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", "text,label\n" + "some text of a row,good\n" * 100_000)
    assert len(readers.read_file(path).rows) == 100_000
    path = put(tmp_path, "b.csv", "text,label\n" + '"some"x text,good\n' * 20_000)  # endless if a row copied the rest
    assert len(readers.read_file(path).rejected) == 20_000


# txt, jsonl, json


def test_txt_has_one_text_a_line(tmp_path: Path) -> None:
    part = readers.read_file(put(tmp_path, "a.txt", "one\n\n  two \n   \nthree"))
    assert part.data == {"text": ["one", "  two ", "three"]} and part.rows == [1, 3, 5]


def test_lines_of_jsonl_with_faults_are_set_aside(tmp_path: Path) -> None:
    lines = [
        '{"text": "a", "n": 1}',
        '{"text": ',
        "[1, 2]",
        "",
        '{"text": {"x": 1}, "n": [1]}',
        '{"text": "b", "m": NaN, "n": -Infinity}',
        '{"text": "x", "text": "c"}',
        '{"text": "\\ud800"}',
        '{"n": ' + "1" * 5000 + "}",
        "[" * 100_000,
    ]
    part = readers.read_file(put(tmp_path, "a.jsonl", "\n".join(lines)))
    # What is nested is a cell, for kinds such as labels and boxes to read and for others to refuse.
    nested = {"x": 1}
    assert part.data == {"text": ["a", nested, "b"], "n": [1, [1], None], "m": [None] * 3}
    assert part.rows == [1, 5, 6]
    assert [(finding.row, finding.column) for finding in part.rejected] == [
        (2, None), (3, None), (7, None), (8, "text"), (9, None), (10, None),
    ]  # fmt: skip
    assert "the key 'text' stands twice" in part.rejected[2].reason
    assert "half a character" in part.rejected[3].reason
    "\n".join(map(str, part.rejected)).encode()  # every message can be printed


def test_json_holds_objects_or_columns(tmp_path: Path) -> None:
    rows = readers.read_file(put(tmp_path, "a.json", '[{"a": 1}, {"b": "x"}, 3]'))
    assert rows.data == {"a": [1, None], "b": [None, "x"]} and rows.rows == [1, 2]
    assert [finding.row for finding in rows.rejected] == [3]
    columns = readers.read_file(put(tmp_path, "b.json", '{"a": [1, NaN], "b": ["x", ""]}'))
    assert columns.data == {"a": [1, None], "b": ["x", None]} and columns.rows == [1, 2]
    for content, message in [
        ('{"a": [1], "b": []}', "different lengths"),
        ('{"a": 1, "b": [2]}', "neither"),
        ('"text"', "neither"),
        ("[1, ", "no JSON"),
        ("[" * 100_000, "no JSON"),
    ]:
        with pytest.raises(DataError, match=message):
            readers.read_file(put(tmp_path, "c.json", content))


# parquet


def test_parquet_keeps_structs_and_types(tmp_path: Path) -> None:
    picture = {"bytes": b"\x89PNG", "path": "a.png"}
    table = pa.table({"image": [picture, None], "n": [1.5, math.nan], "s": ["", "x"], "l": [[1], [2, 3]]})
    pq.write_table(table, tmp_path / "a.parquet")
    part = readers.read_file(tmp_path / "a.parquet")
    assert part.data == {"image": [picture, None], "n": [1.5, None], "s": [None, "x"], "l": [[1], [2, 3]]}
    assert part.rows == [1, 2]


def test_parquet_that_is_none_or_cut_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(100))}), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    for content in (b"text\n1\n", whole[:-20], whole[: len(whole) // 2], b"PAR1"):
        with pytest.raises(DataError, match="no whole parquet"):
            readers.read_file(put(tmp_path, "b.parquet", content))
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), tmp_path / "c.parquet")
    with pytest.raises(DataError):
        readers.read_file(tmp_path / "c.parquet")


def test_parquet_text_that_is_no_utf_8_costs_its_row_only(tmp_path: Path) -> None:
    cells = pa.array([b"good", b"caf\xe9", None, b"fine"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": cells, "n": [1, 2, 3, 4]}), tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    assert table.data["n"] == [1, 2, 3, 4]
    rows = load_rows(parse("text -> n:number"), table)
    reasons = [(fault.row, fault.column, fault.value, fault.reason) for fault in rows.faults]
    assert reasons[0] == (2, "text", "e9", "these bytes, from byte 4 of the cell on, are no utf-8")
    assert rows.sources == [["good", "fine"]]


# Writing


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.parquet", "a.csv.gz", "a.tsv.gz", "a.jsonl.gz"])
@given(rows=st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
@quick
def test_what_was_written_is_read(tmp_path: Path, name: str, rows: list[tuple[str, str]]) -> None:
    columns = ["text", "你"]
    writers.write_file(tmp_path / name, columns, [dict(zip(columns, row, strict=True)) for row in rows])
    part = readers.read_file(tmp_path / name)
    assert not part.rejected
    assert part.data == {column: [row[i] or None for row in rows] for i, column in enumerate(columns)}


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
@given(rows=st.lists(TEXTS, min_size=1, max_size=5))
@quick
def test_a_single_column_keeps_its_empty_cells(tmp_path: Path, name: str, rows: list[str]) -> None:
    writers.write_file(tmp_path / name, ["text"], [{"text": row} for row in rows])
    assert readers.read_file(tmp_path / name).data == {"text": [row or None for row in rows]}


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    writers.write_file(path, ["a"], [{"a": "before", "left out": 1}])
    before = path.read_bytes()

    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(MapstoError):
        writers.write_file(path, ["a"], [{"a": "after"}])
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [name]


def test_what_cannot_be_written_is_a_wrong_call(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        writers.write_file(tmp_path / "none" / "a.csv", ["a"], [])
    assert not list(tmp_path.iterdir())


def test_cells_of_several_types_are_text_in_parquet(tmp_path: Path) -> None:
    writers.write_file(tmp_path / "a.parquet", ["a"], [{"a": "x"}, {"a": 1}, {"a": [1]}, {"a": None}])
    assert readers.read_file(tmp_path / "a.parquet").data == {"a": ["x", "1", "[1]", None]}


# Cells and objects


def test_a_cell_is_plain_python() -> None:
    pd = pytest.importorskip("pandas")
    nothing = [None, "", math.nan, np.float32("nan"), pd.NA, pd.NaT, np.datetime64("NaT"), np.datetime64("NaT", "ns")]
    assert [file_part.clean_cell(value) for value in nothing] == [None] * len(nothing)
    assert file_part.clean_cell(np.int64(3)) == 3 and type(file_part.clean_cell(np.int64(3))) is int
    assert file_part.clean_cell(np.datetime64("2020-01-02", "ns")).isoformat() == "2020-01-02T00:00:00"
    for value in (" ", "\n", 0, False, [], {}):
        assert file_part.clean_cell(value) is value


def test_every_kind_of_table_gives_the_same(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    datasets = pytest.importorskip("datasets")
    rows = [{"text": "a", "n": 1.0}, {"text": "你", "n": None}, {"text": "c", "n": 3.0}]
    columns = {"text": ["a", "你", "c"], "n": [1.0, None, 3.0]}
    for name in ("a.jsonl", "a.parquet"):
        write_rows(tmp_path / name, ["text", "n"], rows)
    sources = [
        rows, iter(rows), columns, pa.table(columns), pa.RecordBatch.from_pylist(rows), pd.DataFrame(rows),
        datasets.Dataset.from_list(rows), tmp_path / "a.jsonl", str(tmp_path / "a.parquet"),
    ]  # fmt: skip
    tables = [read_table(source) for source in sources]
    assert all(table.data == columns for table in tables)
    assert len({table.fingerprint for table in tables}) == 1
    assert tables[0].origins == [("data", 1), ("data", 2), ("data", 3)]
    assert read_table(tables[0]) is tables[0]
    with pytest.raises(UsageError, match="one split"):
        read_table(datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}))


def test_records_are_joined_by_name() -> None:
    table = read_table([{"a": 1}, {"b": "x", 7: "seven"}])
    assert table.data == {"a": [1, None], "b": [None, "x"], "7": [None, "seven"]}
    part = file_part.from_records("f", [(4, {"a": 1}), (9, {})], [])
    assert part == readers.FilePart("f", {"a": [1, None]}, [4, 9], [])


def test_objects_that_are_no_table_are_refused() -> None:
    pd = pytest.importorskip("pandas")
    for source in (3, None, [1], ["text"], {"text": "abc"}, {"text": 3}, b"bytes"):
        with pytest.raises(UsageError):
            read_table(source)
    with pytest.raises(DataError, match="'a' more than once"):
        read_table(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(DataError, match="'a' more than once"):
        read_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]))
    with pytest.raises(DataError, match="different lengths"):
        read_table({"a": [1], "b": []})
    with pytest.raises(DataError, match="no rows"):
        read_table([])


def test_a_folder_is_its_files_in_order_of_name(tmp_path: Path) -> None:
    put(tmp_path, "b.csv", "text,n\nb,2\n,\n")
    put(tmp_path, "a.jsonl", '{"n": "1", "text": "a"}\nbroken\n')
    for aside in ("notes.md", ".hidden.csv"):
        put(tmp_path, aside, "z\n1\n")
    for inner in ("c", ".ipynb_checkpoints"):
        (tmp_path / inner).mkdir()
        put(tmp_path / inner, "c.tsv.gz", gzip.compress(b"text\tn\nc\t3\n"))
    table = read_table(tmp_path)
    assert table.data == {"n": ["1", "2", None, "3"], "text": ["a", "b", None, "c"]}
    assert [(Path(file).name, row) for file, row in table.origins] == [
        ("a.jsonl", 1), ("b.csv", 2), ("b.csv", 3), ("c.tsv.gz", 2),
    ]  # fmt: skip
    assert [finding.row for finding in table.rejected] == [2]
    assert [remark.reason for remark in table.remarks] == ["left out by their endings: .md (1)"]
    put(tmp_path, "d.csv", "text\nd\n")
    with pytest.raises(DataError, match="d.csv has no column 'n'"):
        read_table(tmp_path)


def test_a_folder_without_data_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "notes.md", "z")
    with pytest.raises(DataError, match="holds no file of these kinds: csv"):
        read_table(tmp_path)


def test_places_are_told_apart_without_what_they_share() -> None:
    assert places([("in/a.csv", 2), ("in/a.csv", 3)]) == ["a.csv, row 2", "a.csv, row 3"]
    assert places([("in/cat/1.png", 0), (os.path.abspath("in/狗/1.png"), None)]) == ["cat/1.png", "狗/1.png"]
    assert places([("in/cat/1.png", 0), ("in", None)]) == ["cat/1.png", "in"]
    assert places([("data", 7)]) == ["data, row 7"] and places([]) == []


def test_a_selection_keeps_values_and_origins() -> None:
    table = read_table([{"a": value} for value in "wxyz"])
    chosen = table.select(np.array([3, 0]))
    assert chosen.column("a") == ["z", "w"] and chosen.columns == ("a",) and len(chosen) == 2
    assert chosen.origin(0) == ("data", 4)


CELLS = st.one_of(st.none(), st.booleans(), st.integers(), st.text(min_size=1, max_size=4))


@given(st.lists(CELLS, min_size=2, max_size=6), st.data())
@quick
def test_the_fingerprint_changes_when_a_cell_changes(values: list[Any], draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(values) - 1))
    other = draw.draw(CELLS.filter(lambda value: repr(value) != repr(values[at])))
    changed = [*values[:at], other, *values[at + 1 :]]
    before = read_table({"a": values, "b": changed}).fingerprint
    assert before == read_table({"a": list(values), "b": list(changed)}).fingerprint
    assert before != read_table({"a": changed, "b": changed}).fingerprint
    assert before != read_table({"a": values, "c": changed}).fingerprint
    assert before != read_table({"b": changed, "a": values}).fingerprint


def test_the_fingerprint_sees_the_middle_of_a_long_array() -> None:
    plain = np.zeros(5000)
    dented = plain.copy()
    dented[2500] = 1
    prints = [read_table({"a": [array]}).fingerprint for array in (plain, dented, plain.astype(np.float32))]
    assert len(set(prints)) == 3


# Order


@given(st.integers(0, 2**31), st.integers(0, 50), st.integers(1, 200))
@quick
def test_an_order_is_a_function_of_seed_and_epoch(seed: int, epoch: int, n: int) -> None:
    order = sampling.permute_rows(seed, epoch, n)
    assert np.array_equal(order, sampling.permute_rows(seed, epoch, n))
    assert sorted(order.tolist()) == list(range(n))
    places = np.arange(n)[::3]
    assert np.array_equal(sampling.permute_positions(seed, epoch, n, places), order[::3])  # each place alone


def test_an_order_of_any_number_of_rows_takes_no_memory() -> None:
    rows = sampling.rows_of_step(0, 10**6, 4096, 10**12)
    assert len(set(rows.tolist())) == 4096 and rows.min() >= 0 and rows.max() < 10**12
    assert 0.45 < rows.mean() / 10**12 < 0.55


def test_every_row_comes_to_every_place_about_equally_often() -> None:
    for n in (2, 5, 17):
        counts = np.zeros((n, n))
        for seed in range(2000):
            counts[np.arange(n), sampling.permute_rows(seed, 3, n)] += 1
        expected = 2000 / n
        statistic = ((counts - expected) ** 2 / expected).sum()
        assert statistic < 1.5 * (n - 1) ** 2 + 20, (n, statistic)


def test_orders_differ_by_seed_and_epoch() -> None:
    orders = {tuple(sampling.permute_rows(seed, epoch, 50).tolist()) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


@given(st.integers(0, 99), st.integers(1, 12), st.integers(1, 30), st.integers(0, 40))
@quick
def test_steps_read_every_epoch_once_and_need_no_state(seed: int, batch: int, n: int, step: int) -> None:
    alone = sampling.rows_of_step(seed, step, batch, n)
    assert len(alone) == batch
    run = np.concatenate([sampling.rows_of_step(seed, s, batch, n) for s in range(step + 1)])
    assert np.array_equal(run[-batch:], alone)
    for epoch in range(len(run) // n):
        assert np.array_equal(run[epoch * n : (epoch + 1) * n], sampling.permute_rows(seed, epoch, n))


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 4)), min_size=1, max_size=12),
    st.integers(0, 9),
    st.integers(0, 99),
)
@quick
def test_a_split_keeps_groups_whole_and_gives_each_stratum_its_share(
    sizes: list[tuple[int, int]], tenths: int, seed: int
) -> None:
    groups = [group for group, (_, size) in enumerate(sizes) for _ in range(size)]
    strata = [sizes[group][0] % 3 for group in groups]  # a group lies in one stratum
    n = len(groups)
    share = tenths / 10
    kept, held = sampling.stratified_split(n, groups, strata, share, seed)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(n))
    assert kept.tolist() == sorted(kept) and held.tolist() == sorted(held)
    assert not {groups[row] for row in kept} & {groups[row] for row in held}
    wanted, got = Counter(strata), Counter(strata[row] for row in held)
    for stratum, count in wanted.items():
        largest = max(size for key, size in sizes if key % 3 == stratum)
        assert -0.5 - 1e-6 <= count * share - got[stratum] <= largest - 0.5 + 1e-6
    again = sampling.stratified_split(n, groups, strata, share, seed)
    assert np.array_equal(kept, again[0]) and np.array_equal(held, again[1])


def test_a_split_of_single_rows_is_the_share_within_half_a_row() -> None:
    strata = ["a"] * 700 + ["b"] * 250 + ["c"] * 50
    for seed in range(5):
        _, held = sampling.stratified_split(1000, range(1000), strata, 0.1, seed)
        counts = Counter(strata[row] for row in held)
        assert all(abs(counts[name] - wanted) <= 1 for name, wanted in {"a": 70, "b": 25, "c": 5}.items())
        assert len(sampling.stratified_split(1000, range(1000), None, 0.2, seed)[1]) == pytest.approx(200, abs=1)


def test_a_table_knows_its_file_or_the_folder_of_its_files(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).write_text("text\nhello\n", encoding="utf-8")
    assert read_table(tmp_path / "a.csv").path == (tmp_path / "a.csv").resolve()
    assert read_table(tmp_path).path == tmp_path.resolve()
    assert read_table([{"text": "hello"}]).path is None
