"""Instructions and dialogues become prompts with answers: each turn of the assistant is learnt, and every fault is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.data import sampling
from mapsto.data.rows import bind_to, load_rows, require_readable
from mapsto.data.split import split_indices
from mapsto.data.table import Table, read_table, stream_tables
from mapsto.errors import DataError
from mapsto.task.arrow import parse
from mapsto.text.pairs.dialogues import read_dialogue

TURNS = [("user", "你好"), ("assistant", "您好！"), ("user", "1 + 1?"), ("assistant", "2")]


def messages(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def write(path: Path, rows: list[Any]) -> Path:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(json.dumps(rows) if path.suffix == ".json" else lines, encoding="utf-8")
    return path


def reasons(table: Table) -> list[tuple[int | None, str]]:
    return [(finding.row, finding.reason) for finding in table.rejected]


def forms(tmp_path: Path) -> dict[str, Any]:
    """Return the same dialogue in each form in which it may come."""
    chat = messages(*TURNS)
    share_gpt = [{"from": {"user": "human", "assistant": "gpt"}[role], "value": text} for role, text in TURNS]
    parts = messages(*((role, [{"type": "text", "text": text}]) for role, text in TURNS))
    pq.write_table(pa.Table.from_pylist([{"messages": chat}]), tmp_path / "chat.parquet")
    columns = {"from": [turn["from"] for turn in share_gpt], "value": [turn["value"] for turn in share_gpt]}
    return {
        "messages": write(tmp_path / "chat.jsonl", [{"messages": chat}]),
        "parts": write(tmp_path / "parts.jsonl", [{"messages": parts}]),
        "sharegpt": write(tmp_path / "share.json", [{"conversations": share_gpt}]),
        "parquet": tmp_path / "chat.parquet",
        "python": [{"talk": chat}],
        "hugging face": datasets.Dataset.from_list([{"messages": chat}]),
        "array": {"conversation": [np.array(share_gpt, dtype=object)]},
        "dict of lists": [{"conversations": columns}],
    }


@pytest.mark.parametrize(
    "form", ["messages", "parts", "sharegpt", "parquet", "python", "hugging face", "array", "dict of lists"]
)
def test_each_turn_of_the_assistant_is_a_row(form: str, tmp_path: Path) -> None:
    table = read_table(forms(tmp_path)[form])
    assert table.columns == ("prompt", "answer", "messages", "dialogue")
    assert table.data["prompt"] == ["你好", "User: 你好\nAssistant: 您好！\nUser: 1 + 1?"]
    assert table.data["answer"] == ["您好！", "2"]
    assert table.data["messages"] == [messages(*TURNS[:1]), messages(*TURNS[:3])]
    assert len(set(table.data["dialogue"])) == 1
    assert [row for _, row in table.origins] == [1, 1]
    assert not table.rejected
    assert not table.remarks


def test_instructions_of_alpaca_are_joined_with_their_input(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Translate.", "input": "猫", "output": "cat"},
        {"instruction": "Name a color.", "input": "", "output": "red"},
        {"instruction": "", "input": "x", "output": "y"},
    ]
    for name in ("alpaca.json", "alpaca.jsonl"):
        table = read_table(write(tmp_path / name, rows))
        assert table.columns == ("prompt", "answer", "instruction", "input", "output")
        assert table.data["prompt"] == ["Translate.\n\n猫", "Name a color.", None]
        assert table.data["answer"] == table.data["output"] == ["cat", "red", "y"]
    assert read_table([{"instruction": "a", "output": "b"}]).columns == ("instruction", "output")


def test_a_system_message_stands_in_front_or_in_a_column_of_its_own() -> None:
    for row in (
        {"messages": messages(("system", "Be brief."), *TURNS[:2])},
        {"system": "Be brief.", "messages": messages(*TURNS[:2])},
    ):
        table = read_table([row])
        assert table.data["prompt"] == ["System: Be brief.\nUser: 你好"]
        assert table.data["messages"] == [messages(("system", "Be brief."), TURNS[0])]


def test_other_columns_stay_and_those_of_the_same_name_are_kept_apart() -> None:
    table = read_table([{"prompt": "old", "messages": messages(*TURNS), "source": "web"}])
    assert table.data["raw_prompt"] == ["old", "old"]
    assert table.data["source"] == ["web", "web"]
    assert table.data["prompt"][0] == "你好"


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        ([("user", "a"), ("narrator", "b")], "turn 2 has the unknown role 'narrator'; known are user, human"),
        ([("user", "a"), ("assistant", " ")], "turn 2, of the assistant, is empty"),
        ([("user", None), ("assistant", "b")], "turn 1, of the user, is empty"),
        ([("user", 3), ("assistant", "b")], "turn 1, of the user, is int and no text"),
        ([("user", "a"), ("system", "s"), ("assistant", "b")], "turn 2 is a system message in the middle"),
        (
            [("user", [{"type": "image_url"}]), ("assistant", "b")],
            "turn 1, of the user, holds a part that is no text: image_url",
        ),
    ],
)
def test_a_faulty_turn_costs_its_dialogue_and_is_named(
    turns: list[tuple[str, Any]], reason: str, tmp_path: Path
) -> None:
    rows = [{"messages": messages(*TURNS)}, {"messages": messages(*turns)}, {"messages": messages(*TURNS)}]
    table = read_table(write(tmp_path / "chat.jsonl", rows))
    assert len(table) == 4
    ((row, message),) = reasons(table)
    assert row == 2
    assert message.startswith(reason)


def test_a_cell_that_is_no_dialogue_is_named() -> None:
    rows = [{"messages": messages(*TURNS)}] * 3 + [{"messages": []}, {"messages": None}, {"messages": "hello"}]
    assert [(row, reason[:32]) for row, reason in reasons(read_table(rows))] == [
        (row, "a dialogue is a list of turns, e") for row in (4, 5, 6)
    ]
    for cell in ([{"role": "user"}], "text", [1], {"role": 1, "content": 2}, [], [["a", "b"]]):
        assert read_dialogue(cell).faults


def test_turns_without_an_answer_are_counted_once_for_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mapsto.data.file_part.PART_ROWS", 1)
    rows = [{"messages": messages(*TURNS, ("user", "bye"))}, {"messages": messages(("assistant", "hi"), *TURNS)}] * 2
    rows = [{"messages": messages(*TURNS)}, *rows]
    tables = list(stream_tables(write(tmp_path / "chat.jsonl", rows)))
    # An answered dialogue has two answers; a last question is a row of its own.
    assert [len(table) for table in tables] == [2, 3, 2, 3, 2]
    assert [[remark.reason for remark in table.remarks] for table in tables] == [
        *([[]] * 4),
        [
            "dialogues that end with a turn of another than the assistant: it is no example to learn or to score, "
            "but predict answers it: 2",
            "dialogues that begin with a turn of the assistant, which answers nothing: 2",
        ],
    ]


def test_parts_with_nothing_but_faults_are_read_as_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mapsto.data.file_part.PART_ROWS", 1)
    rows: list[dict[str, Any]] = [{"messages": messages(*TURNS)}, {"messages": "hello"}, {"text": "?"}]
    table = read_table(write(tmp_path / "chat.jsonl", rows))
    assert [row for row, _ in reasons(table)] == [2, 3]
    assert len(table) == 2
    rows = [{"instruction": "a", "input": "b", "output": "c"}, {"instruction": "d", "output": "e"}]
    assert read_table(write(tmp_path / "alpaca.jsonl", rows)).data["prompt"] == ["a\n\nb", "d"]


def test_dialogues_without_any_answer_are_rows_to_answer(tmp_path: Path) -> None:
    table = read_table(
        write(tmp_path / "new.jsonl", [{"messages": messages(*TURNS[:3])}, {"messages": messages(("user", "?"))}])
    )
    assert table.columns == ("prompt", "messages", "dialogue")
    assert table.data["prompt"] == ["User: 你好\nAssistant: 您好！\nUser: 1 + 1?", "?"]
    assert (
        table.remarks[0].reason
        == "dialogues without an answer to their last turn, as all before them; each is one row: 2"
    )
    with pytest.raises(DataError, match="has no rows"):
        read_table(write(tmp_path / "bad.jsonl", [{"messages": messages(("user", ""))}]))


@pytest.mark.parametrize("content", [None, "", " "])
def test_calls_of_tools_are_read_but_are_no_answers(content: str | None) -> None:
    call = {"function": {"name": "weather", "arguments": '{"city": "北京"}'}}
    turns = [*messages(("user", "?")), {"role": "assistant", "content": content, "tool_calls": [call]}]
    table = read_table(
        [{"system": "Be brief.", "messages": [*turns, *messages(("tool", "sunny"), ("assistant", "It is sunny."))]}]
    )
    assert table.data["answer"] == ["It is sunny."]
    assert json.loads(table.data["messages"][0][2]["content"]) == [call]
    assert table.data["prompt"][0].endswith("\nTool: sunny")
    assert [remark.reason for remark in table.remarks] == [
        "turns that call a tool, which later turns read, but which are not learnt as answers: 1"
    ]


def test_calls_in_sharegpt_are_no_answers_either() -> None:
    turns = [("human", "a?"), ("function_call", "{}"), ("observation", "1"), ("gpt", "one"), ("human", "b?")]
    rows = [
        {"conversations": [{"from": role, "value": value} for role, value in turns[:count]]} for count in (4, 2, 3, 5)
    ]
    table = read_table(rows)
    # The second ends with a call, to which a program answers; the others end with an answer, or wait for one.
    assert [(table.origin(row)[1], answer) for row, answer in enumerate(table.data["answer"])] == [
        (1, "one"),
        (3, None),
        (4, "one"),
        (4, None),
    ]


@pytest.mark.parametrize("arrow", ["text -> text", "prompt:text -> answer:label"])
def test_last_questions_of_a_mixed_file_are_predicted_and_not_learnt(arrow: str) -> None:
    table = read_table([{"messages": messages(*TURNS)}, {"messages": messages(("user", "still open"))}])
    learnt = load_rows(parse(arrow), table, keep_unreadable=True)
    assert not learnt.faults and learnt.sources[0] == ["你好", "User: 你好\nAssistant: 您好！\nUser: 1 + 1?"]
    assert load_rows(parse(arrow), table, answers=False).sources[0][-1] == "still open"


def test_turns_of_a_dialogue_are_on_one_side_of_a_split() -> None:
    """Also those of dialogues that share a prompt."""
    rows = [
        {"messages": messages(("user", f"q{number}"), ("assistant", "a"), ("user", "more"), ("assistant", "b"))}
        for number in range(60)
    ]
    rows += [{"messages": messages(("user", f"q{number}"), ("assistant", "c"))} for number in range(30)]
    table = read_table(rows)
    bound = load_rows(parse("prompt:text -> answer:label"), table)
    training, held_out = split_indices(bound, 0.2, seed=0)
    names, prompts = table.data["dialogue"], table.data["prompt"]
    assert 20 < len(held_out) <= 31
    for column in (names, prompts):
        assert not {column[row] for row in training} & {column[row] for row in held_out}


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=20))
@settings(deadline=None)
def test_joined_groups_are_the_connected_rows(pairs: list[tuple[int, int]]) -> None:
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    groups = sampling.join_groups(first, second)
    adjacent = np.array([[a == c or b == d for c, d in pairs] for a, b in pairs], dtype=bool).reshape(
        len(pairs), len(pairs)
    )
    reachable = np.linalg.matrix_power(adjacent.astype(float), max(1, len(pairs))) > 0
    assert [[one == other for other in groups] for one in groups] == reachable.tolist()


def test_open_dialogues_are_no_bad_rows() -> None:
    turns = [[{"role": "user", "content": f"q {i}"}, {"role": "assistant", "content": f"a {i}"}] for i in range(6)]
    rows = [{"messages": [*dialogue, {"role": "user", "content": "and then?"}]} for dialogue in turns]
    table = read_table(rows + [{"messages": dialogue} for dialogue in turns])
    loaded = load_rows(bind_to(parse("prompt:text -> answer:text"), table), table)
    assert len(loaded) == 12 and require_readable(loaded) == []
