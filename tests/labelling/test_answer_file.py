"""The file of answers: what a crash, a torn line, a second server and a repeated request leave of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mapsto.errors import DataError, RunError, UsageError
from mapsto.serve.labelling.answer_file import DETAILS, Answer, AnswerFile


def answer(number: int, by: str = "ann", cell: str = "好") -> Answer:
    details = {"key": f"key-{number}", "id": f"id-{number:06}", "by": by, "when": f"2026-01-01T00:00:{number:02}Z"}
    record = {"text": f"row {number}", "label": cell, DETAILS: details}
    return Answer(details["key"], details["id"], by, details["when"], cell, record)


def lines(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "labels.jsonl"


def filled(path: Path, count: int = 3) -> None:
    file = AnswerFile(path, "label")
    for number in range(count):
        file.add(answer(number))
    file.close()


def test_answers_are_there_again(path: Path) -> None:
    filled(path)
    file = AnswerFile(path, "label")
    assert list(file.answers) == ["key-0", "key-1", "key-2"] and file.answers["key-1"].cell == "好"
    assert file.keys_by_id["id-000002"] == "key-2"
    file.close()


@pytest.mark.parametrize("cut", [1, 30])
def test_a_torn_last_line_is_cut_off_or_completed(path: Path, cut: int) -> None:
    """A crash between the append and the reply leaves a part of a line, or all of it but its end."""
    filled(path)
    content = path.read_bytes()
    path.write_bytes(content[:-cut])
    notes: list[str] = []
    file = AnswerFile(path, "label", notes.append)
    # A whole line is kept and known by its id, so that the page, which sends it again, does not double it.
    expected = 3 if cut == 1 else 2
    assert len(file.answers) == expected and bool(notes) == (cut > 1)
    file.add(answer(7))
    file.close()
    assert lines(path)[-1] == "row 7" and len(lines(path)) == expected + 1


def test_taking_an_answer_back_leaves_the_others(path: Path) -> None:
    filled(path)
    file = AnswerFile(path, "label")
    removed = file.remove("id-000001")
    assert removed is not None and removed.key == "key-1"
    assert file.remove("id-000001") is None and lines(path) == ["row 0", "row 2"]
    file.add(answer(1))
    file.close()
    assert lines(path) == ["row 0", "row 2", "row 1"]


def test_skips_outlive_the_server(path: Path) -> None:
    file = AnswerFile(path, "label")
    file.skip("key-5", "id-skip-5", "ann", "2026")
    file.skip("key-6", "id-skip-6", "ann", "2026")
    assert file.unskip("id-skip-5") == "key-5" and file.unskip("id-skip-5") is None
    file.add_point({"num_labels": 20})
    file.close()
    with file.journal_path.open("ab") as journal:
        journal.write(b'\n{"skip": "ke')
    file = AnswerFile(path, "label")
    file.skip("key-7", "id-skip-7", "bob", "2026")
    file.close()
    file = AnswerFile(path, "label")
    assert [skip["key"] for skip in file.skips.values()] == ["key-6", "key-7"] and file.points == [{"num_labels": 20}]
    file.close()


def test_foreign_files_and_second_servers_are_refused(path: Path, tmp_path: Path) -> None:
    path.write_text('{"text": "mine", "label": "a"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 1 was not written by"):
        AnswerFile(path, "label")
    assert path.read_text(encoding="utf-8") == '{"text": "mine", "label": "a"}\n'
    path.unlink()
    first = AnswerFile(path, "label")
    with pytest.raises(RunError, match="another `mapsto label` writes"):
        AnswerFile(path, "label")
    first.close()
    for name in ("labels.csv", "none/labels.jsonl"):
        with pytest.raises(UsageError):
            AnswerFile(tmp_path / name, "label")


WRITER = """
import sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from test_answer_file import answer
from mapsto.serve.labelling.answer_file import AnswerFile
file = AnswerFile(Path({path!r}), "label")
print("open", flush=True)
for number in range(100000):
    file.add(answer(number))
    print(number, flush=True)
"""


def test_a_kill_loses_no_confirmed_answer(path: Path) -> None:
    code = WRITER.format(tests=str(Path(__file__).parent), path=str(path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        confirmed = -1
        for line in process.stdout:
            confirmed = int(line) if line.strip().isdecimal() else confirmed
            if confirmed == 20:
                os.kill(process.pid, signal.SIGKILL)
                break
        rest = process.stdout.read().split("\n")
    confirmed = max([confirmed, *(int(line) for line in rest[:-1] if line.strip().isdecimal())])
    file = AnswerFile(path, "label")
    file.close()
    # The one that was on its way may be there too.
    assert lines(path)[: confirmed + 1] == [f"row {number}" for number in range(confirmed + 1)]
    assert len(lines(path)) <= confirmed + 2
