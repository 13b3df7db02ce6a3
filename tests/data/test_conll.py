"""Files of words and tags are read as texts with spans, whatever their columns, comments and schemes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mapsto.data.table import read_table
from mapsto.errors import DataError


def put(folder: Path, name: str, content: str) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith(".gz") else content.encode())
    return path


def found(table: Any) -> list[list[tuple[str, str]]]:
    """Return the (text, label) of the spans of each row."""
    return [
        [(text[span["start"] : span["end"]], span["label"]) for span in spans]
        for text, spans in zip(table.column("text"), table.column("tags"), strict=True)
    ]


ONE = "EU\tB-ORG\nrejects\tO\nGerman\tB-MISC\ncall\tO\n\nPeter\tB-PER\nBlackburn\tI-PER\n"


@pytest.mark.parametrize("name", ["a.conll", "a.txt", "a.iob", "a.bio", "a.conll.gz"])
@pytest.mark.parametrize("change", ["", "spaces", "crlf", "columns", "document", "comments", "blank lines"])
def test_columns_comments_and_line_ends(name: str, change: str, tmp_path: Path) -> None:
    text = {
        "": ONE,
        "spaces": ONE.replace("\t", " "),
        "crlf": ONE.replace("\n", "\r\n"),
        "columns": ONE.replace("\t", "\tNNP\tB-NP\t"),
        "document": "-DOCSTART-\tO\n\n" + ONE,
        "comments": "# id = 1\n" + ONE,
        "blank lines": "\n\n" + ONE.replace("\n\n", "\n \n\n\n") + "\n\n",
    }[change]
    if name == "a.txt" and change == "comments":
        return  # the first lines decide whether a .txt file has words and tags
    table = read_table(put(tmp_path, name, text))
    assert table.column("text") == ["EU rejects German call", "Peter Blackburn"]
    assert found(table) == [[("EU", "ORG"), ("German", "MISC")], [("Peter Blackburn", "PER")]]
    assert [row for _, row in table.origins] == sorted(row for _, row in table.origins) and not table.rejected


def test_a_hash_can_be_a_word(tmp_path: Path) -> None:
    table = read_table(put(tmp_path, "a.conll", "We O\n# O\n1 B-N\n"))
    assert table.column("text") == ["We # 1"]


def test_chinese_characters_stand_without_spaces(tmp_path: Path) -> None:
    table = read_table(put(tmp_path, "a.txt", "中 B-ORG\n共 I-ORG\n致 O\n1 O\n9 O\n"))
    assert table.column("text") == ["中共致19"] and found(table) == [[("中共", "ORG")]]


def test_universal_dependencies(tmp_path: Path) -> None:
    lines = [
        "# sent_id = 1",
        "# text = Vámonos al mar",
        "1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_",
        "1\tVamos\tir\tVERB\t_\t_\t0\troot\t_\t_",
        "2\tnos\tnosotros\tPRON\t_\t_\t1\tobj\t_\t_",
        "2.1\tx\t_\tX\t_\t_\t_\t_\t_\t_",
        "3\tmar\tmar\tNOUN\t_\t_\t1\tobl\t_\t_",
    ]
    table = read_table(put(tmp_path, "a.conllu", "\n".join(lines)))
    assert found(table) == [[("Vamos", "VERB"), ("nos", "PRON"), ("mar", "NOUN")]]


def test_a_line_without_its_tag_is_a_faulty_row(tmp_path: Path) -> None:
    table = read_table(put(tmp_path, "a.conll", ONE + "\nLondon\nis\tO\n\nParis\tB-LOC\n"))
    assert found(table)[-1] == [("Paris", "LOC")] and len(table) == 3
    (finding,) = table.rejected
    assert finding.row == 9 and "1 cells, most others 2" in finding.reason and finding.value == "London"


def test_stray_tags_are_remarked(tmp_path: Path) -> None:
    table = read_table(put(tmp_path, "a.conll", ONE + "\nBonn\tI-LOC\n"))
    (remark,) = table.remarks
    assert "1 entities begin with I-" in remark.reason and found(table)[-1] == [("Bonn", "LOC")]


def test_plain_text_stays_plain(tmp_path: Path) -> None:
    for text in ("A B-2\nbomber flies\n", "one line\n", "a O\nb c O\n", "vitamin B-12\n"):
        assert read_table(put(tmp_path, "a.txt", text)).columns == ("text",)


def test_a_file_without_words(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_table(put(tmp_path, "a.conll", "# nothing\n\n"))


@pytest.mark.parametrize("form", [list, tuple, np.array])
def test_lists_of_words_and_tags_become_text_and_spans(form: Any) -> None:
    rows = [
        {"tokens": form(["New", "York", "calls"]), "ner_tags": form(["B-LOC", "I-LOC", "O"]), "id": 1},
        {"tokens": form(["Yes"]), "ner_tags": form(["O"]), "id": 2},
    ]
    table = read_table(rows)
    assert table.column("tokens") == ["New York calls", "Yes"] and table.column("id") == [1, 2]
    assert table.column("ner_tags") == [[{"start": 0, "end": 8, "label": "LOC"}], []]


def test_lists_that_are_no_words_with_tags_stay() -> None:
    rows = [{"text": "one", "labels": ["a", "b"]}, {"text": "two", "labels": ["b"]}]
    assert read_table(rows).column("labels") == [["a", "b"], ["b"]]
    rows = [{"keywords": ["one", "two"], "labels": ["a", "b"]}, {"keywords": ["three"], "labels": ["b"]}]
    assert read_table(rows).column("labels") == [["a", "b"], ["b"]], "equal lengths alone make no tags"
    rows = [{"tokens": ["one", "two"], "upos": ["NUM", "NUM"]}]
    assert [span["label"] for span in read_table(rows).column("upos")[0]] == ["NUM", "NUM"]
    unequal = [{"tokens": ["a", "b"], "tags": ["O"]}]
    assert read_table(unequal).column("tokens") == [["a", "b"]]


def test_lists_of_labels_stay_lists() -> None:
    rows = [{"text": "one", "authors": ["x"], "tags": ["news"]}, {"text": "two", "authors": ["y"], "tags": ["art"]}]
    assert read_table(rows).column("tags") == [["news"], ["art"]]


def test_a_missing_cell_costs_its_row_alone() -> None:
    rows = [{"tokens": ["Ada", "wrote"], "ner_tags": ["B-PER", "O"]}] * 5 + [{"tokens": ["It", "is"], "ner_tags": None}]
    table = read_table(rows)
    assert table.column("tokens")[5] == "It is" and table.column("ner_tags")[5] is None
    assert table.column("ner_tags")[0] == [{"start": 0, "end": 3, "label": "PER"}]


def test_chinese_spaces_are_words(tmp_path: Path) -> None:
    table = read_table(put(tmp_path, "a.conll", "中 B-ORG\n\u3000 O\n国 B-ORG\n"))
    assert table.column("text") == ["中\u3000国"] and not table.rejected


def test_numbers_of_a_hugging_face_data_set_get_their_names() -> None:
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["O", "B-PER", "I-PER"])
    features = datasets.Features({"tokens": [datasets.Value("string")], "ner_tags": [names]})
    data = datasets.Dataset.from_dict({"tokens": [["Ada", "wrote"]], "ner_tags": [[1, 0]]}, features=features)
    assert read_table(data).column("ner_tags") == [[{"start": 0, "end": 3, "label": "PER"}]]


@pytest.mark.parametrize("odd", ["X-LOC", "LOC", "B-"])
def test_one_tag_without_a_prefix_costs_its_sentence_alone(odd: str, tmp_path: Path) -> None:
    table = read_table(put(tmp_path, "a.conll", ONE * 3 + f"\nin\tO\nBonn\t{odd}\n"))
    assert len(table) == 6 - 2 and ("EU", "ORG") in found(table)[0]
    (finding,) = table.rejected
    assert repr(odd) in finding.reason and "no prefix" in finding.reason and finding.row is not None
    rows = [{"tokens": ["Bonn", "is"], "tags": ["B-LOC", "O"]}] * 3 + [{"tokens": ["Bonn"], "tags": [odd]}]
    cells = read_table(rows).column("tags")
    assert cells[0] == [{"start": 0, "end": 4, "label": "LOC"}] and "no prefix" in cells[3]["fault"]


@pytest.mark.parametrize("change", [str.lower, lambda tag: "-".join(reversed(tag.split("-")))])
def test_other_forms_of_prefixes(change: Any, tmp_path: Path) -> None:
    tags = ["B-per", "I-per", "O", "B-loc"]
    lines = "".join(f"w\t{tag if tag == 'O' else change(tag)}\n" for tag in tags)
    assert [label for _, label in found(read_table(put(tmp_path, "a.conll", lines)))[0]] == ["per", "loc"]


def test_other_words_for_outside(tmp_path: Path) -> None:
    for outside in ("-", "0", "OUT"):
        table = read_table(put(tmp_path, "a.conll", ONE.replace("\tO\n", f"\t{outside}\n")))
        assert found(table) == [[("EU", "ORG"), ("German", "MISC")], [("Peter Blackburn", "PER")]]


def test_a_header_costs_its_sentence_and_a_tsv_is_recognised(tmp_path: Path) -> None:
    table = read_table(put(tmp_path, "a.conll", "word\ttag\n" + ONE + "\n" + ONE))
    assert len(table) == 3 and "'tag' has no prefix" in table.rejected[0].reason
    assert read_table(put(tmp_path, "a.tsv", ONE)).column("text")[1] == "Peter Blackburn"
    assert read_table(put(tmp_path, "b.tsv", "text\tlabel\na\tb\n")).columns == ("text", "label")
    with pytest.raises(DataError, match="holds a word and its tag"):
        read_table(put(tmp_path, "b.conll", "one\ntwo\n"))


def test_a_faulty_row_of_word_lists_costs_itself_alone() -> None:
    good = {"tokens": ["Ada", "wrote"], "ner_tags": ["B-PER", "O"]}
    bad = [
        ({"tokens": ["Ada", "wrote"], "ner_tags": ["B-PER"]}, "2 words and 1 tags"),
        ({"tokens": ["Ada", None], "ner_tags": ["B-PER", "O"]}, "a word is no text"),
        ({"tokens": ["Ada", "wrote"], "ner_tags": [1, 0]}, "the tag 1 is a number"),
        ({"tokens": ["Ada", "wrote"], "ner_tags": ["B-PER", None]}, "a tag is no text"),
    ]
    table = read_table([good] * 20 + [row for row, _ in bad])
    assert table.column("tokens")[0] == "Ada wrote"
    for cell, (_, reason) in zip(table.column("ner_tags")[20:], bad, strict=True):
        assert reason in cell["fault"]


def test_parquet_files_of_hugging_face_have_names(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["O", "B-PER", "I-PER"])
    features = datasets.Features({"tokens": [datasets.Value("string")], "ner_tags": [names]})
    data = datasets.Dataset.from_dict({"tokens": [["Ada", "wrote"]], "ner_tags": [[1, 0]]}, features=features)
    data.to_parquet(str(tmp_path / "a.parquet"))
    assert read_table(tmp_path / "a.parquet").column("ner_tags") == [[{"start": 0, "end": 3, "label": "PER"}]]


def test_rows_of_spacy_and_label_studio(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('["Ada wrote", {"entities": [[0, 3, "PER"]]}]\n', encoding="utf-8")
    assert read_table(tmp_path / "a.jsonl").column("tags") == [[[0, 3, "PER"]]]
    span = {
        "from_name": "tags",
        "to_name": "text",
        "type": "labels",
        "value": {"start": 0, "end": 3, "labels": ["PER"]},
    }
    tasks = [
        {"data": {"text": "Ada wrote"}, "annotations": [{"result": [span]}]},
        {"data": {"text": "nobody"}, "annotations": [{"result": []}]},
        {"data": {"text": "not yet"}, "annotations": []},
    ]
    (tmp_path / "b.json").write_text(json.dumps(tasks), encoding="utf-8")
    assert read_table(tmp_path / "b.json").column("tags") == [[span["value"]], [], None]
