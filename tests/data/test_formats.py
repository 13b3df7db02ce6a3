"""Formats of tables: what programs write is read as it is meant, or named."""

from __future__ import annotations

import codecs
import copy
import csv
import datetime
import gzip
import io
import json
import pickle
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapsto import kinds
from mapsto.data.checks import check_rows
from mapsto.data.file_part import UnreadableCell
from mapsto.data.files import join_paths
from mapsto.data.formats.columns import UnnamedColumn
from mapsto.data.rows import load_rows
from mapsto.data.table import Table, read_table, write_rows
from mapsto.data.writers import TextStyle, style_of
from mapsto.errors import BadCell, DataError, LineNumber, UsageError, place
from mapsto.options import DEFAULT_FORMAT, TextFormat
from mapsto.task.arrow import Arrow, Port, parse

DATA = {"text": ["a", "b; c", "d, e"], "label": ["x", "y", "x"]}


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def separated(delimiter: str, quoting: Any = csv.QUOTE_MINIMAL) -> str:
    """Return DATA as csv with a delimiter."""
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator="\n")
    writer.writerows([list(DATA), *zip(*DATA.values(), strict=True)])
    return stream.getvalue()


def reasons(table: Table) -> str:
    return " ".join(str(remark) for remark in table.remarks)


# Delimiters


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
def test_every_delimiter_is_followed(tmp_path: Path, delimiter: str, quoting: Any, name: str) -> None:
    content = separated(delimiter, quoting)
    pack = gzip.compress if name.endswith("gz") else bytes
    named = put(tmp_path, name, pack(f"sep={delimiter}\r\n{content}".encode()))
    assert read_table(named).data == DATA and not read_table(named).remarks
    told = put(tmp_path, f"told-{name}", pack(content.encode()))
    assert read_table(told, TextFormat(delimiter=delimiter)).data == DATA
    usual = "\t" if "tsv" in name else ","
    table = read_table(told)
    assert table.data == DATA and ("separated by" in reasons(table)) == (delimiter != usual)


def test_a_single_column_is_not_split(tmp_path: Path) -> None:
    assert read_table(put(tmp_path, "a.csv", "text\na;b\nc\n")).data == {"text": ["a;b", "c"]}


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n"])
def test_a_delimiter_is_one_character(delimiter: str) -> None:
    with pytest.raises(UsageError, match="delimiter= is one character"):
        TextFormat(delimiter=delimiter)
    assert TextFormat(delimiter="tab") == TextFormat(delimiter="\t")


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE])
def test_what_is_written_has_the_style_of_the_input(tmp_path: Path, mark: bytes, delimiter: str) -> None:
    encoding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(mark, "utf-8")
    path = put(tmp_path, "a.csv", mark + separated(delimiter).encode(encoding))
    table, style = read_table(path), style_of(path, DEFAULT_FORMAT)
    write_rows(
        tmp_path / "b.csv",
        table.columns,
        [dict(zip(DATA, row, strict=True)) for row in zip(*DATA.values(), strict=True)],
        style,
    )
    assert (tmp_path / "b.csv").read_bytes() == path.read_bytes()
    assert style_of([{"text": "a"}], DEFAULT_FORMAT) == TextStyle()


# Columns without a name


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "Unnamed: 0.1", " "])
def test_columns_without_a_name_are_left_aside(tmp_path: Path, name: str) -> None:
    rows = [{name: index, "text": text} for index, text in enumerate("ab")]
    content = "\n".join(json.dumps(row) for row in rows)
    sources = [
        put(tmp_path, "a.csv", f"{name},text\n0,a\n1,b\n"),
        put(tmp_path, "a.jsonl", content if name.strip() else content.replace('" "', '""')),
        {name.strip(): [0, 1], "text": ["a", "b"]},
    ]
    for source in sources:
        table = read_table(source)
        assert list(table.data.values())[1] == ["a", "b"] and "column 1 without a name" in reasons(table)
        assert table.columns == (name.strip() or "column 1", "text") and isinstance(table.columns[0], UnnamedColumn)
        assert load_rows(parse("text -> text"), table, answers=False).arrow.sources[0].column == "text"
    for header in (f"{name},{name}", f"{name},"):
        with pytest.raises(DataError, match="no column of the header has a name"):
            read_table(put(tmp_path, "b.csv", f"{header}\n" + ",".join("1" for _ in header.split(",")) + "\n"))


def test_the_index_of_pandas_is_left_aside(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(DATA, index=[5, 6, 7])
    frame.to_csv(tmp_path / "a.csv")
    frame.to_parquet(tmp_path / "a.parquet")
    pd.read_csv(tmp_path / "a.csv").to_csv(tmp_path / "b.csv")
    for source in (*(tmp_path / name for name in ("a.csv", "b.csv", "a.parquet")), pd.read_csv(tmp_path / "a.csv")):
        table = read_table(source)
        assert {name: cells for name, cells in table.data.items() if not isinstance(name, UnnamedColumn)} == DATA
        assert len(table.columns) > len(DATA)


# Lines and records


def test_lines_and_records_are_named_where_they_differ(tmp_path: Path) -> None:
    table = read_table(put(tmp_path, "a.csv", 'text,n\nb,1\n"c\nd",2\n"e\nf\ng",3\nh\ni,4\n'))
    assert list(table.origins) == [(str(tmp_path / "a.csv"), line) for line in (2, 3, 5, 9)]
    assert [place("a", row) for _, row in table.origins] == [
        "a, row 2",
        "a, row 3",
        "a, line 5, record 4",
        "a, line 9, record 6",
    ]
    assert "line 8, record 5" in str(table.rejected[0])
    number = LineNumber(8, 5)
    for same in (copy.deepcopy(number), pickle.loads(pickle.dumps(number))):
        assert same == 8 and same.record == 5


# JSON


def test_the_orients_of_pandas_are_read(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(DATA)
    for orient in ("records", "split", "columns", "index", "table"):
        assert read_table(put(tmp_path, f"{orient}.json", frame.to_json(orient=orient))).data == DATA
    values = read_table(put(tmp_path, "values.json", frame.to_json(orient="values")))
    assert list(values.data.values()) == list(DATA.values()) and "called 0, 1" in reasons(values)
    lines = frame.to_json(orient="records", lines=True)
    assert read_table(put(tmp_path, "lines.json", lines)).data == DATA
    for indent in (None, 2):
        array = read_table(put(tmp_path, "array.jsonl", frame.to_json(orient="records", indent=indent)))
        assert array.data == DATA and "one JSON array" in reasons(array)


@pytest.mark.parametrize("row", ['{"a": 1, "a": 2}', '{"b": {"c": 1, "c": 1}}', '{"b": [{"c": 1, "c": 1}]}'])
def test_a_key_that_stands_twice_costs_its_row(tmp_path: Path, row: str) -> None:
    for name, content in (("a.jsonl", f'{row}\n{{"a": 3}}'), ("a.json", f'[{row}, {{"a": 3}}]')):
        table = read_table(put(tmp_path, name, content))
        assert table.data["a"] == [3] and "stands twice" in str(table.rejected[0]) and table.rejected[0].row == 1


# Types


def test_decimals_are_numbers_and_labels() -> None:
    number, label = kinds.target("number"), kinds.target("label")
    assert number.read(Decimal("3.50")) == 3.5 and number.fits([Decimal("1.00")])
    assert [label.read(Decimal(text)) for text in ("3.00", "3", "2.50", "1E+3")] == ["3", "3", "2.5", "1000"]
    assert label.read(3) == label.read(3.0) == label.read(Decimal("3.0"))
    with pytest.raises(BadCell):
        number.read(Decimal("NaN"))


@pytest.mark.parametrize(
    ("text", "point"),
    [("3,5", "3.5"), ("1.234,50", "1234.50"), ("1,234.5", "1234.5"), ("1 234,5", "1234.5"), ("1,234,567", "1234567")],
)
def test_a_decimal_comma_is_named_with_what_to_write(text: str, point: str) -> None:
    with pytest.raises(BadCell, match=f"as {point}$"):
        kinds.target("number").read(text)


COLUMNS = {
    "duration": pa.array([1, 2**62], pa.duration("s")),
    "interval": pa.array([pa.MonthDayNano([1, 2, 3])] * 2),
    "map": pa.array([[("a", 1)]] * 2, pa.map_(pa.string(), pa.int64())),
    "struct": pa.array([{"x": 1}, None]),
    "dictionary": pa.array(["u", None]).dictionary_encode(),
    "large": pa.array(["u"] * 2, pa.large_string()),
    "view": pa.array([b"u"] * 2, pa.binary_view()),
    "null": pa.nulls(2),
    "decimal": pa.array([Decimal("3.00")] * 2),
    "uuid": pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"0123456789abcdef"] * 2, pa.binary(16))),
    "union": pa.UnionArray.from_dense(
        pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([1]), pa.array(["x"])]
    ),
    "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array(["z"])),
    "far": pa.array([2**48] * 2, pa.timestamp("ms")),
    "zone": pa.array([1] * 2, pa.timestamp("us", tz="Mars/Olympus")),
    "day": pa.array([2**30] * 2, pa.date32()),
    "latin": pa.array([b"caf\xe9", b"x"]).view(pa.string()),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_any_type_is_passed_over_and_refused_by_row_where_it_is_used(tmp_path: Path, name: str) -> None:
    columns = pa.table({"text": ["a", "b"], "score": [1.0, 2.0], name: COLUMNS[name]})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as stream, pa.ipc.new_stream(stream, columns.schema) as writer:
        writer.write_table(columns)
    paths = [tmp_path / "a.arrow"]
    if name not in ("interval", "union", "runs"):  # which parquet does not have
        pq.write_table(columns, tmp_path / "a.parquet")
        paths.append(tmp_path / "a.parquet")
    for source in (*paths, columns):
        table = read_table(source)
        assert load_rows(parse("text -> score:number"), table).sources == [["a", "b"]]
        rows = load_rows(parse(f"text -> {name}:label"), table)
        unreadable = [cell for cell in table.column(name) if isinstance(cell, UnreadableCell)]
        assert len(rows.faults) >= len(unreadable) and all(fault.column == name for fault in rows.faults)
        for form in ("csv", "jsonl", "parquet"):
            records = [{key: table.column(key)[row] for key in table.columns} for row in range(2)]
            assert write_rows(tmp_path / f"out.{form}", table.columns, records) == 2
            assert read_table(tmp_path / f"out.{form}").data["text"] == ["a", "b"]


def test_names_of_classes_are_the_labels(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["neg", "pos"])
    listed = datasets.Features({
        "text": datasets.Value("string"), "label": names, "tags": datasets.List(names), "object": {"kind": names},
    })  # fmt: skip
    rows = {"text": ["a", "b"], "label": [1, -1], "tags": [[0, 1], []], "object": [{"kind": 0}, {"kind": 1}]}
    data_set = datasets.Dataset.from_dict(rows, features=listed)
    data_set.to_parquet(tmp_path / "a.parquet")
    data_set.save_to_disk(str(tmp_path / "saved"))
    expected = {
        "text": ["a", "b"],
        "label": ["pos", None],
        "tags": [["neg", "pos"], []],
        "object": [{"kind": "neg"}, {"kind": "pos"}],
    }
    for source in (data_set, tmp_path / "a.parquet", tmp_path / "saved", pq.read_table(tmp_path / "a.parquet")):
        assert read_table(source).data == expected
    datasets.DatasetDict({"train": data_set, "test": data_set}).save_to_disk(str(tmp_path / "both"))
    assert read_table(tmp_path / "both" / "train").data == expected
    with pytest.raises(DataError, match="splits test, train: name one"):
        read_table(tmp_path / "both")


# Workbooks


def test_a_workbook_is_read_and_written(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    pytest.importorskip("python_calamine")
    book = openpyxl.Workbook()
    sheet = book.active
    for cells in (
        [None, "text", "label", "day", "n"],
        [0, "a", "x", datetime.date(2020, 1, 2), "5"],
        [1, "b", None, None, 6],
        [2, "c", "y", True, 1.5],
    ):
        sheet.append(cells)
    sheet.merge_cells("C2:C3")
    book.create_sheet("more").append(["q"])
    book.save(tmp_path / "a.xlsx")
    table = read_table(tmp_path / "a.xlsx")
    assert table.data == {
        "column 1": [0, 1, 2],
        "text": ["a", "b", "c"], "label": ["x", "x", "y"], "day": [datetime.date(2020, 1, 2), None, True], "n": ["5", 6, 1.5],
    }  # fmt: skip
    assert "not 'more'" in reasons(table) and "column 1 without a name" in reasons(table)
    assert [row for _, row in table.origins] == [2, 3, 4]
    rows = [{"text": "=1+1", "n": 2, "list": [1]}, {"text": "x\0\ud800", "n": None, "list": None}]
    assert write_rows(tmp_path / "b.xlsx", ["text", "n", "list"], rows) == 2
    assert read_table(tmp_path / "b.xlsx").data == {
        "text": ["=1+1", "x\\u0000\\ud800"],
        "n": [2, None],
        "list": ["[1]", None],
    }
    whole = (tmp_path / "a.xlsx").read_bytes()
    for content in (b"text", whole[:2000], b"PK\x03\x04"):
        with pytest.raises(DataError, match="no whole workbook"):
            read_table(put(tmp_path, "c.xlsx", content))


# Several files


def test_several_files_are_one_table(tmp_path: Path) -> None:
    first, second = put(tmp_path, "part-1.csv", "text,n\na,1\n"), put(tmp_path, "part-2.csv", "n;text\n2;b\n")
    for source in ([first, str(second)], f"{first},part-2.csv", f"{tmp_path}/part-*.csv", join_paths([first, second])):
        table = read_table(source)
        assert table.data == {"text": ["a", "b"], "n": ["1", "2"]}
        assert [Path(file).name for file, _ in table.origins] == ["part-1.csv", "part-2.csv"]
        assert read_table(table.path).fingerprint == table.fingerprint and "2 files are read as one" in reasons(table)
    put(tmp_path, "part-3.csv", "text,m\na,1\n")
    with pytest.raises(DataError, match="part-3.csv has no column 'n'"):
        read_table(f"{tmp_path}/part-*.csv")
    with pytest.raises(DataError, match="no file matches"):
        read_table(f"{tmp_path}/none-*.csv")
    with pytest.raises(UsageError, match="is none"):
        join_paths([first, tmp_path])


# Encodings


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.csv", "a.txt", "a.jsonl", "a.json"])
def test_an_encoding_without_its_mark_is_named_once(tmp_path: Path, name: str, encoding: str) -> None:
    content = json.dumps([{"text": "good film"}]) if name == "a.json" else '{"text": "good film"}\n' * 3
    path = put(tmp_path, name, content.encode(encoding))
    with pytest.raises(DataError, match=f"say encoding=.{encoding}.") as caught:
        read_table(path)
    assert not caught.value.findings
    assert read_table(path, TextFormat(encoding)).origins


def test_names_of_files_in_any_bytes_are_written(tmp_path: Path) -> None:
    rows = [{"image": "caf\udce9.png"}, {"image": "a.png"}]
    for name in ("a.csv", "a.jsonl", "a.parquet"):
        assert write_rows(tmp_path / name, ["image"], rows) == 2
    assert read_table(tmp_path / "a.csv").data == {"image": ["caf\\udce9.png", "a.png"]}
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0]) == rows[0]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz", "xlsx"])
def test_a_header_that_is_repeated_is_a_bad_row(suffix: str, tmp_path: Path) -> None:
    rows = [["text", "label"], ["good", "pos"], ["text", "label"], ["bad", "neg"], ["text", "text"]]
    path = tmp_path / f"joined.{suffix}"
    if suffix == "xlsx":
        book = pytest.importorskip("openpyxl").Workbook()
        for row in rows:
            book.active.append(row)
        book.save(path)
    else:
        text = "\n".join(("\t" if suffix == "tsv" else ",").join(row) for row in rows)
        path.write_bytes(
            gzip.compress(text.encode()) if suffix == "csv.gz" else text.replace("pos\n", "pos\n\ufeff").encode()
        )
    table = read_table(path)
    assert table.column("text") == ["good", "bad", "text"]
    (finding,) = table.rejected
    assert finding.row == 3 and "header once more" in finding.reason


def test_a_column_of_one_cell_may_hold_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_text("word\nother\nword\n")
    assert read_table(tmp_path / "words.csv").column("word") == ["other", "word"]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["a good film,pos", "a bad film,neg", "good,pos", "bad,neg"], "'pos' is the name of the column and a label"),
        (["今天的电影很好,1", "今天的书很坏,2", "电影好,3", "书坏,2", "很好,3"], "reads as the texts below it"),
        (["text,label", "a bad film,neg", "good,pos", "bad,neg"], ""),
    ],
)
def test_a_table_without_a_header_is_named(lines: list[str], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("\n".join([*lines, *lines[1:]]), encoding="utf-8")
    table = read_table(path)
    first, second = table.columns
    rows = load_rows(Arrow((Port("text", first),), (Port("label", second),)), table)
    hints = [finding.reason for finding in check_rows(rows).warnings if "if the file has no header" in finding.reason]
    assert len(hints) == bool(reason) and all(reason in hint for hint in hints)
