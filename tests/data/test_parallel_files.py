"""Parallel text files are one table: a row for each line, a column for each file, and no line beside a wrong one."""

from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

import mapsto
from mapsto.data.table import file_signatures, fingerprint_source, is_table_name, read_table, stream_tables
from mapsto.errors import DataError, UsageError
from mapsto.options import TextFormat
from mapsto.text.pairs.parallel_lines import find_divergence, side_name

ENGLISH, GERMAN = "A man.\nA dog.\n", "Ein Mann.\nEin Hund.\n"


def put(folder: Path, **contents: str) -> None:
    for name, content in contents.items():
        (folder / name.replace("_", ".")).write_text(content, encoding="utf-8", newline="")


def test_files_become_columns_by_their_suffixes(tmp_path: Path) -> None:
    put(tmp_path, a_en=ENGLISH, a_de=GERMAN)
    for names in (f"{tmp_path}/a.en,{tmp_path}/a.de", f"{tmp_path}/a.en,a.de", Path(f"{tmp_path}/a.en,a.de")):
        table = read_table(names)
        assert table.data == {"en": ["A man.", "A dog."], "de": ["Ein Mann.", "Ein Hund."]}
        assert table.origins == [(str(names), 1), (str(names), 2)]
    assert table.name == "a.en,a.de"
    assert table.path == tmp_path.resolve() / "a.en,a.de"
    assert read_table(table.path).data == table.data
    assert not table.remarks


def test_other_names_of_columns(tmp_path: Path) -> None:
    put(tmp_path, src_txt=ENGLISH, tgt_txt=GERMAN, a_zh=ENGLISH)
    assert read_table(f"{tmp_path}/src.txt,tgt.txt").columns == ("src", "tgt")
    assert read_table(f"{tmp_path}/src.txt,a.zh,tgt.txt").columns == ("src", "a", "tgt")
    for side in ("en", "de"):
        (tmp_path / side).mkdir()
        put(tmp_path / side, a_txt=ENGLISH)
    assert read_table(f"{tmp_path}/en/a.txt,{tmp_path}/de/a.txt").columns == ("en", "de")
    with pytest.raises(DataError, match="cannot be named"):
        read_table(f"{tmp_path}/en/a.txt,{tmp_path}/en/a.txt")


def test_compressed_files_and_encodings(tmp_path: Path) -> None:
    (tmp_path / "a.en.gz").write_bytes(gzip.compress(ENGLISH.encode()))
    (tmp_path / "a.zh-CN").write_bytes("一个人。\n一只狗。\n".encode("gb18030"))
    table = read_table(f"{tmp_path}/a.en.gz,a.zh-CN", TextFormat("gb18030"))
    assert table.data == {"en": ["A man.", "A dog."], "zh-CN": ["一个人。", "一只狗。"]}
    with pytest.raises(DataError, match=r"a\.zh-CN, row 1.*no utf-8"):
        read_table(f"{tmp_path}/a.en.gz,a.zh-CN")


def test_the_source_alone_is_a_table(tmp_path: Path) -> None:
    put(tmp_path, new_en=ENGLISH, new_py=ENGLISH, new_src="\n" + ENGLISH)
    assert read_table(tmp_path / "new.en").data == {"en": ["A man.", "A dog."]}
    table = read_table(tmp_path / "new.src")
    assert table.data == {"src": ["A man.", "A dog."]}
    assert [remark.reason for remark in table.remarks] == ["lines that are blank and skipped: 1"]
    with pytest.raises(DataError, match="no format"):
        read_table(tmp_path / "new.py")
    assert [side_name(Path(name)) for name in ("a.pt_BR.gz", "a.csv", "a", "a.ENG")] == ["pt_BR", None, None, None]


def test_blank_lines_on_both_sides_are_counted_and_on_one_side_named(tmp_path: Path) -> None:
    put(tmp_path, a_en="one\n \n\nfour\nfive\0\n\n", a_de="eins\n\n\t\n\nfünf\n\n")
    table = read_table(f"{tmp_path}/a.en,a.de")
    assert table.data == {"en": ["one"], "de": ["eins"]}
    assert [remark.reason for remark in table.remarks] == ["lines that are blank in all of these files and skipped: 3"]
    reasons = [(finding.row, finding.column, finding.reason) for finding in table.rejected]
    assert reasons == [
        (4, "de", "this line is blank, and its counterpart is not"),
        (5, "en", "the line holds a NUL character"),
    ]


def test_a_carriage_return_inside_of_a_line_moves_no_translation(tmp_path: Path) -> None:
    put(tmp_path, a_en="A\r man.\nA dog.\r", a_de="Ein Mann.\r\nEin Hund.\r\n", b_en="A man.\rA dog.\r")
    assert read_table(f"{tmp_path}/a.en,a.de").data["en"] == ["A  man.", "A dog."]
    assert read_table(f"{tmp_path}/b.en,a.de").data["en"] == ["A man.", "A dog."]
    assert read_table(f"{tmp_path}/b.en").data["en"] == ["A man.", "A dog."]


def test_different_numbers_of_lines_name_the_place(tmp_path: Path, shared_data: Path) -> None:
    with (shared_data / "text/multi30k/dev.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for name in ("en", "de"):
        lines = [row[name] for index, row in enumerate(rows) if name == "en" or index not in (400, 401)]
        (tmp_path / f"dev.{name}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"dev\.en has 1,014, \S*dev\.de has 1,012; .* 2 too many .*dev\.en, row 40[0-3]: 'A"
    ):
        read_table(f"{tmp_path}/dev.en,dev.de")


def test_lengths_that_do_not_tell_the_place() -> None:
    rng = np.random.default_rng(0)
    assert find_divergence(rng.integers(1, 200, 500).tolist(), rng.integers(1, 200, 400).tolist()) is None
    assert find_divergence([3], []) is None
    lengths = rng.integers(1, 200, 50).tolist()
    for place in (0, 20, 49):
        assert find_divergence(lengths, lengths[:place] + lengths[place + 1 :]) == place + 1


def test_lists_that_are_none_are_refused(tmp_path: Path) -> None:
    put(tmp_path, a_en=ENGLISH, a_csv="x\n1\n", b_en="")
    with pytest.raises(DataError, match=r"no file \S*/a\.fr"):
        read_table(f"{tmp_path}/a.en,a.fr")
    with pytest.raises(DataError, match="not tables"):
        read_table(f"{tmp_path}/a.en,a.csv")
    with pytest.raises(DataError, match=r"b\.en is empty"):
        read_table(f"{tmp_path}/a.en,b.en")
    with pytest.raises(UsageError, match="parallel files are one path: '.*a.en,.*a.csv'"):
        read_table([tmp_path / "a.en", f"{tmp_path}/a.csv"])
    put(tmp_path, **{"x,y_csv": "x\n1\n"})
    assert read_table(f"{tmp_path}/x,y.csv").columns == ("x",)


def test_a_list_is_the_name_of_a_table_and_a_sentence_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, a_en=ENGLISH, a_de=GERMAN)
    monkeypatch.chdir(tmp_path)
    assert is_table_name("a.en,a.de")
    assert not is_table_name("a.en, a.de")
    assert not is_table_name("Yes,no")


def test_all_files_are_watched_and_rows_come_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, a_en=ENGLISH, a_de=GERMAN)
    names = f"{tmp_path}/a.en,a.de"
    before, signatures = fingerprint_source(names), file_signatures(names)
    assert [Path(path).name for path, *_ in signatures] == ["a.en", "a.de"]
    monkeypatch.setattr("mapsto.data.file_part.PART_ROWS", 1)
    assert [len(table) for table in stream_tables(names)] == [1, 1]
    put(tmp_path, a_de=GERMAN.replace("Hund", "Kater"))
    os.utime(tmp_path / "a.de", ns=(0, 0))
    assert fingerprint_source(names) != before
    assert file_signatures(names) != signatures


def test_a_model_is_fitted_to_parallel_files_and_read_the_source_alone(tmp_path: Path) -> None:
    """Answers are matched to their lines, by the command of fitting, of scoring and of predicting."""
    put(tmp_path, a_en="a good day\na bad day\n" * 8, a_mood="up\ndown\n" * 8, new_en="good\n\nbad\n")
    model = mapsto.fit("en:text -> mood:label", f"{tmp_path}/a.en,a.mood", method="linear", seed=0)
    assert model.evaluate(f"{tmp_path}/a.en,a.mood").scores["accuracy"].value == 1
    assert [answer["label"] for answer in model.predict(tmp_path / "new.en")] == ["up", "down"]


def test_translations_of_hugging_face_get_a_column_for_each_language(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    rows = [{"id": str(i), "translation": {"en": f"house {i}", "zh": f"房子 {i}"}} for i in range(3)]
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    table = read_table(path)
    assert list(table.columns) == ["id", "en", "zh"] and table.column("zh")[2] == "房子 2"
    # Another column of that name stays as it is.
    assert list(read_table([{"translation": "ein Haus"}]).columns) == ["translation"]
