"""Limits of tables: each past its limit is one named fault, in time and memory that grow with the file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mapsto.data.formats import json_tables, separated, text_lines
from mapsto.data.origins import Origins
from mapsto.data.table import read_table
from mapsto.errors import DataError, LineNumber


def put(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_keys_of_their_own_in_each_row_are_refused(tmp_path: Path, name: str) -> None:
    lines = [json.dumps({f"k{row}": 1}) for row in range(20_000)]
    content = "\n".join(lines) if name == "a.jsonl" else f"[{','.join(lines)}]"
    with pytest.raises(DataError, match=r"different columns|has 20,000 columns"):
        read_table(put(tmp_path, name, content))
    shared = [json.dumps({f"k{row % 300}": 1}) for row in range(3_000)]
    assert len(read_table(put(tmp_path, "b.jsonl", "\n".join(shared))).columns) == 300


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "object"])
def test_too_many_columns_are_one_fault(tmp_path: Path, form: str) -> None:
    names = [f"c{index}" for index in range(20_000)]
    source: Any = {name: [1] for name in names}
    if form == "csv":
        source = put(tmp_path, "a.csv", f"{','.join(names)}\n{','.join('1' * 20_000)}\n")
    elif form == "jsonl":
        source = put(tmp_path, "a.jsonl", json.dumps(dict.fromkeys(names, 1)))
    elif form == "parquet":
        pq.write_table(pa.table(dict(list(source.items())[:10_001])), tmp_path / "a.parquet")
        source = tmp_path / "a.parquet"
    with pytest.raises(DataError, match="at most 10,000"):
        read_table(source)


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv"])
def test_a_very_long_line_is_one_fault(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_lines, "LONGEST_LINE", 2**20)
    with pytest.raises(DataError, match="has a line of more than 1,048,576 bytes"):
        read_table(put(tmp_path, name, "text\n" + "a" * 2**21))


def test_a_very_long_cell_is_one_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(separated, "LARGEST_CELL", 2**16)
    with pytest.raises(DataError, match=r"a.csv, row 3: a cell of more than 65,536 characters"):
        read_table(put(tmp_path, "a.csv", 'text,label\na,b\n"' + "line\n" * 2**16 + '",x\n'))


def test_a_json_file_that_is_read_whole_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_tables, "LARGEST_JSON", 100)
    with pytest.raises(DataError, match="longer than 100 characters"):
        read_table(put(tmp_path, "a.json", json.dumps([{"text": "a"}] * 100)))


@pytest.mark.parametrize("depth", [101, 400, 100_000])
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_deep_json_is_a_named_fault(tmp_path: Path, depth: int, brackets: str) -> None:
    opening = "[" if brackets == "[]" else '{"a":'
    deep = f'{{"text": {opening * depth}1{brackets[1] * depth}}}'
    table = read_table(put(tmp_path, "a.jsonl", f'{deep}\n{{"text": "b"}}'))
    assert table.data == {"text": ["b"]} and "nested more than 100 deep" in str(table.rejected[0])
    path = put(tmp_path, "a.json", f'[{deep}, {{"text": "b"}}]')
    if depth > sys.getrecursionlimit():
        with pytest.raises(DataError, match="nested more than 100 deep"):
            read_table(path)
    else:
        assert read_table(path).data == {"text": ["b"]}


def test_a_dictionary_that_expands_is_refused_or_shared(tmp_path: Path) -> None:
    indices = pa.array([0] * 2_000_000, pa.int32())
    pq.write_table(pa.table({"text": pa.DictionaryArray.from_arrays(indices, ["x" * 10_000])}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="take more than 100 times the file's"):
        read_table(tmp_path / "a.parquet")
    pq.write_table(pa.table({"label": ["positive"] * 50_000}), tmp_path / "b.parquet")
    labels = read_table(tmp_path / "b.parquet").column("label")
    assert len(set(map(id, labels))) < 50


def test_the_places_of_rows_take_no_memory() -> None:
    runs = [("a", list(range(2, 5000))), ("a", list(range(5000, 9000))), ("b", [3, 7, 8]), ("b", [LineNumber(12, 9)])]
    origins = Origins(runs)
    pairs = [(file, row) for file, rows in runs for row in rows]
    assert list(origins) == pairs and origins == pairs and len(origins) == len(pairs)
    assert [origins[index] for index in range(-len(pairs), len(pairs))] == pairs * 2 and origins[3:5] == pairs[3:5]
    assert len(origins._runs) == 3 and origins[-1][1].record == 9
    assert Origins.join([Origins(runs[:2]), Origins(runs[2:])]) == pairs
    with pytest.raises(IndexError):
        origins[len(pairs)]
