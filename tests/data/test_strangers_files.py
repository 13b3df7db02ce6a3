"""Ordinary files of newcomers: what they hold is read, or the message says what to do."""

from __future__ import annotations

import gzip
import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mapsto.data.file_part import UnreadableCell
from mapsto.data.rows import load_rows
from mapsto.data.table import read_table, write_rows
from mapsto.data.writers import find_binary
from mapsto.errors import DataError
from mapsto.task.arrow import ArrowError, parse


def write_sheets(path: Path, sheets: dict[str, list[list[Any]]]) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


def test_formulas_without_a_value_and_errors_are_rows(tmp_path: Path) -> None:
    rows = [["text", "label", "n"], ["a", "x", 1], ["=A2", "=B2", None], [None, "#N/A", 2], ["d", "y", 3], ["#REF!"]]
    table = read_table(write_sheets(tmp_path / "a.xlsx", {"Daten 1": rows}))
    assert [row for _, row in table.origins] == [2, 3, 4, 5, 6]
    formula, error = table.column("text")[1], table.column("label")[2]
    assert isinstance(formula, UnreadableCell) and formula.text == "=A2" and "paste values" in formula.reason
    assert isinstance(error, UnreadableCell) and "#N/A" in error.reason
    assert table.column("n") == [1, None, 2, 3, None]


def test_the_first_sheet_with_rows_is_read(tmp_path: Path) -> None:
    sheets = {"Info": [["About this file"]], "Data": [["text", "label"], ["a", "x"]], "更多": [["b"], ["c"]]}
    table = read_table(write_sheets(tmp_path / "a.xlsx", sheets))
    assert table.column("text") == ["a"]
    assert "only the sheet 'Data' is read, not 'Info', '更多'" in table.remarks[0].reason
    with pytest.raises(DataError, match="has no rows"):
        read_table(write_sheets(tmp_path / "b.xlsx", {"Info": sheets["Info"], "B": [["text"]]}))


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def reasons(source: Any) -> str:
    return "\n".join(str(remark) for remark in read_table(source).remarks)


@pytest.mark.parametrize(
    "names",
    [
        ("train.csv", "test.csv"),
        ("train/a.csv", "dev/b.csv"),
        ("de_train-0-of-2.csv", "x/valid.csv"),
        ("Test.csv", "train.csv"),
    ],
)
def test_the_parts_of_a_folder_are_named(names: tuple[str, ...], tmp_path: Path) -> None:
    for name in names:
        put(tmp_path / name, "text,label\na,x\n")
    assert "are read as one; name one of them" in reasons(tmp_path)


def test_files_of_one_part_need_no_remark(tmp_path: Path) -> None:
    for name in ("train-1.csv", "train-2.csv", "latest.csv"):
        put(tmp_path / name, "text,label\na,x\n")
    assert reasons(tmp_path) == ""


def test_the_folders_of_partitions_are_columns(tmp_path: Path) -> None:
    put(tmp_path / "year=2024/label=a%20b/1.csv", "text\nx\n")
    put(tmp_path / "year=2025/label=__HIVE_DEFAULT_PARTITION__/2.csv", "text\ny\n")
    for source in (tmp_path, f"{tmp_path}/*/*/*.csv"):
        assert read_table(source).data == {"text": ["x", "y"], "year": ["2024", "2025"], "label": ["a b", None]}
        assert "the names of folders give the columns 'year', 'label'" in reasons(source)


TEXTS = {
    "shift_jis": "これは映画の感想です。", "euc_kr": "이 영화는 정말 재미있었어요", "big5": "這部電影非常好看",
    "cp1255": "הסרט היה מצוין", "cp874": "หนังเรื่องนี้ดีมาก", "cp1251": "Очень хороший фильм",
    "koi8-r": "Очень хороший фильм", "cp1253": "Πολύ καλή ταινία", "cp1254": "Çok güzel değil mi",
    "gb18030": "这部电影很好看", "cp1252": "très bon café", "cp1250": "Příliš žluťoučký kůň",
    "cp1256": "فيلم جميل جدا", "cp850": "très bon café", "euc_jp": "とても面白かった",
}  # fmt: skip


@pytest.mark.parametrize("encoding", TEXTS)
def test_plausible_encodings_are_named_with_a_sample(encoding: str, tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", f"text,label\n{TEXTS[encoding]},x\n".encode(encoding))
    with pytest.raises(DataError, match="are no utf-8; (look which one|if .* reads right)") as caught:
        read_table(path)
    assert f'encoding="{encoding}"' in str(caught.value) and TEXTS[encoding] in str(caught.value)


OTHER_FORMATS = [
    ("a.csv", b"PK\x03\x04 and more", "zip archive"),
    ("a.csv", gzip.compress(b"text\na\n", mtime=0), "rename it to a.csv.gz"),
    ("a.csv.gz", b"text\na\n", "rename it to a.csv"),
    ("a.jsonl", b"%PDF-1.4\n", "PDF"),
    ("a.csv", b"PAR1\x15\x04", "rename it to a.parquet"),
    ("a.xlsx", b"text,label\na,x\n", "rename it to a.csv"),
    ("a.xls", b"\n<html><table>", "HTML"),
    ("a.parquet", b"text,label\na,x\n", "rename it to a.csv"),
    ("a.db", b"SQLite format 3\0", "export its table"),
]


@pytest.mark.parametrize(("name", "content", "advice"), OTHER_FORMATS)
def test_another_format_than_the_name_says_is_named(name: str, content: bytes, advice: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=advice) as caught:
        read_table(put(tmp_path / name, content))
    assert "--encoding" not in str(caught.value)


def test_a_workbook_named_csv_is_named(tmp_path: Path) -> None:
    workbook = write_sheets(tmp_path / "a.xlsx", {"A": [["text"], ["a"]]})
    with pytest.raises(DataError, match="workbook of Excel; rename it to b.xlsx"):
        read_table(workbook.rename(tmp_path / "b.csv"))


def test_a_header_may_begin_as_a_signature_does(tmp_path: Path) -> None:
    assert read_table(put(tmp_path / "a.csv", "PAR1,Rar!\na,b\n")).columns == ("PAR1", "Rar!")


def test_the_row_that_looks_like_the_header_is_named(tmp_path: Path) -> None:
    titled = put(tmp_path / "a.csv", "Survey 2024,\n,\ntext,label\na,x\n")
    with pytest.raises(ArrowError, match="Row 3 of .*a.csv looks like the header"):
        load_rows(parse("text -> label"), read_table(titled))
    sheet = write_sheets(tmp_path / "a.xlsx", {"A": [["Umfrage"], [None], ["评论", "标签"], ["a", "x"]]})
    with pytest.raises(ArrowError, match="Row 3 of .*a.xlsx looks like the header"):
        load_rows(parse("评论:text -> 标签:label"), read_table(sheet))
    with pytest.raises(DataError, match="if this row is the header"):
        read_table(put(tmp_path / "b.csv", "Survey 2024\ntext,label\na,x\n"))


@pytest.mark.parametrize(
    ("line", "advice"), [("a\tx", "rename the file to .tsv"), ("__label__x a", "fastText"), ("a", "one text a line")]
)
def test_a_txt_file_without_labels_is_explained(line: str, advice: str, tmp_path: Path) -> None:
    with pytest.raises(ArrowError, match=advice):
        load_rows(parse("text -> label"), read_table(put(tmp_path / "a.txt", f"{line}\n")))


def test_names_of_columns_match_canonically(tmp_path: Path) -> None:
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        path = put(tmp_path / "a.csv", f"{unicodedata.normalize(form, 'café')},label\na,x\n")
        rows = load_rows(parse(f"{unicodedata.normalize(other, 'café')}:text -> label"), read_table(path))
        assert rows.sources == [["a"]]


def test_a_document_without_annotations_is_named(tmp_path: Path) -> None:
    put(tmp_path / "a.txt", "Ada"), put(tmp_path / "a.ann", "T1\tPER 0 3\tAda\n"), put(tmp_path / "b.txt", "Bob")
    assert "b.txt (b.ann is missing)" in reasons(tmp_path)


def test_printed_lists_of_words_and_tags_are_texts_and_spans(tmp_path: Path) -> None:
    content = "tokens,ner_tags\n\"['Ada', 'met']\",\"['B-PER', 'O']\"\n\"['我', '来']\",\"['O', 'O']\"\n"
    table = read_table(put(tmp_path / "a.csv", content))
    assert table.column("tokens")[0] == "Ada met"
    assert table.column("ner_tags")[0] == [{"start": 0, "end": 3, "label": "PER"}]
    other = read_table(put(tmp_path / "b.csv", "text,labels\nx,\"['a', 'b']\"\n"))
    assert other.column("labels") == ["['a', 'b']"]


@pytest.mark.parametrize("part", ['[{"text": "a"}]', '{"text": ["a"]}'])
def test_the_parts_of_a_json_file_are_named(part: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"parts 'train', 'test' of a data set.*train.jsonl"):
        read_table(put(tmp_path / "a.json", f'{{"train": {part}, "test": {part}}}'))


def test_columns_without_a_name_and_bytes_are_written_again_or_noted(tmp_path: Path) -> None:
    put(tmp_path / "1.csv", ",text\n5,a\n"), put(tmp_path / "2.csv", "text\nb\n")
    table = read_table(tmp_path)
    assert table.data == {"column 1": ["5", None], "text": ["a", "b"]}
    out = tmp_path / "out.csv"
    write_rows(out, table.columns, [{name: table.data[name][row] for name in table.columns} for row in range(2)])
    assert out.read_text() == "column 1,text\n5,a\n,b\n"
    cells = {"a": [None, b"x"], "b": [{"bytes": b"x", "path": None}], "c": [{"bytes": b"x", "path": "p"}], "d": ["x"]}
    assert find_binary(cells) == ["a", "b"]


def test_the_folders_of_pictures_may_be_partitions(tmp_path: Path) -> None:
    for name in ("label=cat/a.png", "label=a%20dog/b.png"):
        put(tmp_path / name, b"")
    assert read_table(tmp_path).column("label") == ["a dog", "cat"]
    assert "give the columns 'label'" in reasons(tmp_path)


ODS = """<?xml version="1.0"?><office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0" xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0">
<office:body><office:spreadsheet><table:table table:name="A">{}</table:table></office:spreadsheet></office:body>
</office:document-content>"""


def test_blank_rows_of_an_ods_are_counted(tmp_path: Path) -> None:
    cell = '<table:table-cell office:value-type="string"><text:p>{}</text:p></table:table-cell>'
    cells = [cell.format("text"), cell.format("a"), "<table:table-cell/>", cell.format("b")]
    with zipfile.ZipFile(tmp_path / "a.ods", "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        rows = "".join(f"<table:table-row>{text}</table:table-row>" for text in cells)
        manifest = '<manifest:manifest xmlns:manifest="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"/>'
        archive.writestr("META-INF/manifest.xml", manifest)
        archive.writestr("content.xml", ODS.format(rows))
    assert read_table(tmp_path / "a.ods").column("text") == ["a", "b"]
    assert "rows without a value are skipped: 1, first row 3" in reasons(tmp_path / "a.ods")


def test_a_cell_far_outside_of_a_sheet_is_refused(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active["A1"], book.active["A2"], book.active["XFD1048576"] = "text", "a", "=A2"
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(DataError, match="far outside"):
        read_table(tmp_path / "a.xlsx")
