"""The files in which annotation tools and data sets write tags: GLiNER, brat, Label Studio, CoNLL-U and CoNLL-2012."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import mapsto
from mapsto.data.rows import load_rows
from mapsto.data.table import Table, read_table
from mapsto.errors import DataError, UsageError
from mapsto.task.arrow import parse


def spans_of(table: Table) -> list[list[tuple[str, str]]]:
    """Return the (text, label) of the spans of each readable row of a table of texts and tags."""
    rows = load_rows(parse("text -> tags"), table)
    return [
        [(text[span.start : span.end], span.label) for span in spans]
        for text, spans in zip(rows.sources[0], rows.targets[0], strict=True)
    ]


def faults_of(table: Table) -> list[str]:
    """Return the reasons of the rows that cannot be read."""
    return [fault.reason for fault in load_rows(parse("text -> tags"), table).faults]


class TestGliner:
    ROWS = (
        {"tokenized_text": ["Ada", "Lovelace", "wrote", "."], "ner": [[0, 1, "person"]]},
        {"tokenized_text": ["Nothing", "here"], "ner": []},
    )

    @pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
    def test_words_by_number_with_the_last_one_included(self, name: str, tmp_path: Path) -> None:
        lines = [json.dumps(row) for row in self.ROWS]
        (tmp_path / name).write_text("\n".join(lines) if name.endswith("l") else f"[{','.join(lines)}]")
        assert spans_of(read_table(tmp_path / name)) == [[("Ada Lovelace", "person")], []]

    def test_chinese_words_of_one_character(self) -> None:
        table = read_table([{"tokenized_text": list("我在北京"), "ner": [[2, 3, "地点"]]}])
        assert spans_of(table) == [[("北京", "地点")]]

    @pytest.mark.parametrize("entity", [[0, 4, "x"], [-1, 0, "x"], [2, 1, "x"], [0, "x"], "text", [0, None, "x"]])
    def test_an_entity_that_is_not_there_costs_its_row(self, entity: Any) -> None:
        table = read_table([*self.ROWS, {"tokenized_text": ["a", "b", "c", "d"], "ner": [entity]}])
        (reason,) = faults_of(table)
        assert "among the words" in reason or "an entity is [first word" in reason
        assert len(spans_of(table)) == 2


class TestBrat:
    TEXT = "Alice met Bob\nin 北京 today.\n"
    ANNOTATIONS = "T1\tPerson 0 5\tAlice\nT2\tPerson 10 13\tBob\nT3\tPlace 17 19\t北京\n"

    def write(self, folder: Path, annotations: str, text: str = TEXT, name: str = "doc") -> Path:
        (folder / f"{name}.txt").write_bytes(text.encode())
        (folder / f"{name}.ann").write_bytes(annotations.encode())
        return folder

    @pytest.mark.parametrize("which", ["", "doc.txt", "doc.ann"])
    def test_folder_and_files(self, which: str, tmp_path: Path) -> None:
        table = read_table(self.write(tmp_path, self.ANNOTATIONS) / which)
        assert spans_of(table) == [[("Alice", "Person"), ("Bob", "Person"), ("北京", "Place")]]
        assert table.column("text") == [self.TEXT] and not table.remarks

    def test_line_ends_of_two_characters_count_as_the_annotations_count_them(self, tmp_path: Path) -> None:
        text = self.TEXT.replace("\n", "\r\n")
        shifted = self.ANNOTATIONS.replace("17 19", "18 20")
        for lines in (self.ANNOTATIONS, shifted):
            (row,) = spans_of(read_table(self.write(tmp_path, lines, text)))
            assert ("北京", "Place") in row

    def test_nested_spans_are_read_and_others_are_remarked(self, tmp_path: Path) -> None:
        others = (
            "T4\tPlace 14 25\tin 北京 today\nT5\tPerson 0 5;10 13\tAlice Bob\nR1\tMet Arg1:T1 Arg2:T2\n"
            "A1\tSure T1\nE1\tMeet:T1\n#1\tAnnotatorNotes T1\tsure\nN1\tReference T1 Wikipedia:1\tAlice\n*\tEquiv T1 T2\n"
        )
        table = read_table(self.write(tmp_path, self.ANNOTATIONS + others))
        (row,) = spans_of(table)
        assert ("in 北京 today", "Place") in row and len(row) == 4
        (remark,) = table.remarks
        for name in ("spans of several parts", "2 relations", "attributes", "events", "notes", "normalizations"):
            assert name in remark.reason

    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("T9\tPerson 1 6\tAlice", "'Alice' stands at 0"),
            ("T9\tPerson 0 99\tAlice", "27 characters"),
            ("T9 Person 0 5", "no annotation of brat"),
            ("T9\tPerson 5 5\t", "from 5 to 5"),
        ],
    )
    def test_a_line_that_does_not_fit_costs_its_document(self, line: str, reason: str, tmp_path: Path) -> None:
        self.write(tmp_path, self.ANNOTATIONS)
        table = read_table(self.write(tmp_path, f"{self.ANNOTATIONS}{line}\n", name="bad"))
        (fault,) = faults_of(table)
        assert reason in fault and "line 4" in fault and len(spans_of(table)) == 1

    def test_annotations_without_their_text(self, tmp_path: Path) -> None:
        (tmp_path / "doc.ann").write_text(self.ANNOTATIONS)
        with pytest.raises(DataError, match=r"annotates doc\.txt"):
            read_table(tmp_path)


def task(*annotations: dict[str, list[Any]], cancelled: int = 0) -> dict[str, Any]:
    """Make a Label Studio task of "Ada wrote" with the answers of each annotator by question; the first ones are cancelled."""
    return {
        "data": {"text": "Ada wrote"},
        "annotations": [
            {
                "was_cancelled": number < cancelled,
                "result": [{"from_name": name, "value": value} for name, values in answers.items() for value in values],
            }
            for number, answers in enumerate(annotations)
        ],
    }


PERSON = {"start": 0, "end": 3, "labels": ["person"], "text": "Ada"}
VERB = {"start": 4, "end": 9, "labels": ["verb"], "text": "wrote"}
TOPIC = {"choices": ["books"]}


def read_tasks(folder: Path, *tasks: dict[str, Any]) -> Table:
    """Return the table of a Label Studio export."""
    (folder / "tasks.json").write_text(json.dumps(tasks))
    return read_table(folder / "tasks.json")


def test_of_several_annotators_the_first_complete_one_counts(tmp_path: Path) -> None:
    complete = {"tags": [PERSON], "topic": [TOPIC]}
    table = read_tasks(
        tmp_path,
        task({"tags": [PERSON, VERB]}, complete),
        task({"tags": [VERB], "topic": [TOPIC]}, complete, cancelled=1),
        task(complete, complete),
        task({"topic": [TOPIC]}),
    )
    assert spans_of(table) == [[("Ada", "person")]] * 3 + [[]]
    assert table.column("topic") == ["books"] * 4
    (remark,) = table.remarks
    assert "2 tasks have several annotations, and in 1 of them these differ" in remark.reason


def test_a_single_annotator_needs_no_remark(tmp_path: Path) -> None:
    table = read_tasks(tmp_path, task({"tags": [PERSON]}), task({"tags": [PERSON]}, {"tags": [VERB]}, cancelled=1))
    assert spans_of(table) == [[("Ada", "person")], [("wrote", "verb")]] and not table.remarks


def test_no_space_stands_where_universal_dependencies_say_so(tmp_path: Path) -> None:
    lines = [
        ("1", "Don", "AUX", "SpaceAfter=No"),
        ("2", "’t", "PART", "_"),
        ("3-4", "gimme", "_", "Typo=Yes|SpaceAfter=No"),
        ("3", "gim", "VERB", "_"),
        ("4", "me", "PRON", "_"),
        ("5", "!", "PUNCT", "_"),
    ]
    content = "".join(f"{number}\t{word}\t_\t{tag}\t_\t_\t_\t_\t_\t{more}\n" for number, word, tag, more in lines)
    (tmp_path / "a.conllu").write_text(content, encoding="utf-8")
    table = read_table(tmp_path / "a.conllu")
    assert table.column("text") == ["Don’t gim me!"]
    assert spans_of(table)[0] == [(word, tag) for number, word, tag, _ in lines if "-" not in number]


COLUMNS = {
    "W-NUT 2017": ["{word}", "{tag}"],
    "CoNLL-2003": ["{word}", "NNP", "B-NP", "{tag}"],
    "tag before others": ["{word}", "{tag}", "NNP", "_"],
    "GermEval 2014": ["{number}", "{word}", "{tag}", "O"],
    "number and document": ["doc1", "{number}", "{word}", "NN", "{tag}"],
}


@pytest.mark.parametrize("columns", COLUMNS.values(), ids=COLUMNS)
def test_the_columns_of_words_and_tags_are_found(columns: list[str], tmp_path: Path) -> None:
    words = [("1", "Ada", "B-PER"), ("2", "Lovelace", "I-PER"), ("3", "saw", "O"), ("4", "北", "B-LOC")]
    lines = ["\t".join(columns).format(number=number, word=word, tag=tag) for number, word, tag in words]
    (tmp_path / "a.conll").write_text("\n".join([*lines, "", *lines[2:]]), encoding="utf-8")
    assert spans_of(read_table(tmp_path / "a.conll")) == [[("Ada Lovelace", "PER"), ("北", "LOC")], [("北", "LOC")]]


def test_ontonotes_has_its_tags_in_brackets(tmp_path: Path) -> None:
    sentence = [
        ("Ada", "(TOP(S(NP*", "(PERSON*", "(ARG0*", "(1"),
        ("Lovelace", "*)", "*)", "*)", "1)"),
        ("saw", "(VP*", "*", "(V*)", "-"),
        ("Rome", "(NP*))))", "(GPE)", "(ARG1*)", "(2)"),
    ]
    lines = [
        f"bc/x 0 {number} {word} NN {parse_bit} - - - - {tag} {role} {chain}"
        for number, (word, parse_bit, tag, role, chain) in enumerate(sentence)
    ]
    # A sentence with two predicates has a column more.
    longer = [f"{line.rpartition(' ')[0]} * -" for line in lines[2:]]
    content = "\n".join(["#begin document (bc/x); part 000", *lines, "", *longer, "", "#end document"])
    (tmp_path / "a.v4_gold_conll").write_text(content)
    table = read_table(tmp_path / "a.v4_gold_conll")
    assert spans_of(table) == [[("Ada Lovelace", "PERSON"), ("Rome", "GPE")], [("Rome", "GPE")]]


def test_a_file_without_names_of_columns_is_scored_by_a_model_with_other_names(tmp_path: Path) -> None:
    rows = [{"sentence": f"Ada {i} wrote", "entities": [[0, 3, "PER"]]} for i in range(12)]
    model = mapsto.fit("sentence:text -> entities:tags", rows, layers=1, width=64, vocabulary=300, steps=1)
    (tmp_path / "a.conll").write_text("Ada B-PER\nwrote O\n\nIt O\nrains O\n")
    (tmp_path / "doc.txt").write_text("Ada wrote")
    (tmp_path / "doc.ann").write_text("T1\tPER 0 3\tAda\n")
    assert model.evaluate(tmp_path / "a.conll").num_rows == 2 and model.evaluate(tmp_path / "doc.ann").num_rows == 1
    assert len(model.predict(tmp_path / "a.conll")) == 2
    with pytest.raises(UsageError, match="no column 'sentence'"):
        model.evaluate([{"text": "Ada wrote", "tags": [[0, 3, "PER"]]}])


@pytest.mark.parametrize("suffix", ["jsonl", "json", None])
def test_rows_that_prodigy_rejected_are_left_out(suffix: str | None, tmp_path: Path) -> None:
    answers = ["accept", "reject", "ignore", "accept", "reject"]
    records = [
        {"text": f"Ada {i}", "spans": [{"start": 0, "end": 3, "label": "PER"}], "_input_hash": i, "answer": answer}
        for i, answer in enumerate(answers)
    ]
    source: Any = records
    if suffix is not None:
        source = tmp_path / f"export.{suffix}"
        lines = [json.dumps(record) for record in records]
        source.write_text("\n".join(lines) if suffix == "jsonl" else f"[{','.join(lines)}]")
    table = read_table(source)
    assert table.column("text") == ["Ada 0", "Ada 3"] and [table.origin(row)[1] for row in range(2)] == [1, 4]
    (remark,) = [remark.reason for remark in table.remarks_on() if "left out" in remark.reason]
    assert "1 with the answer 'ignore'" in remark and "2 with the answer 'reject'" in remark
    plain = [{"question": f"q{i}", "answer": answer} for i, answer in enumerate(answers)]
    assert len(read_table(plain)) == 5, "a column of answers of another program"
