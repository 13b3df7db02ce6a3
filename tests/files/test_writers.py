"""Files written by several at once, and links in the place of files."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mapsto import files
from mapsto.data.writers import write_file
from mapsto.errors import RunError
from mapsto.fitting import run_folder


def write_together(path: Path, contents: list[bytes]) -> list[RunError | None]:
    """Write each content in a thread of its own, all opened before the first is finished; return the errors."""
    barrier, errors = threading.Barrier(len(contents)), [None] * len(contents)

    def write(number: int) -> None:
        try:
            with files.replacing(path) as stream:
                barrier.wait()
                for byte in contents[number]:
                    stream.write(bytes([byte]))
        except RunError as error:
            errors[number] = error  # type: ignore[call-overload]

    threads = [threading.Thread(target=write, args=(number,)) for number in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.parametrize("count", [2, 5])
def test_of_several_writers_the_last_wins_and_the_others_are_told(tmp_path: Path, count: int) -> None:
    path, contents = tmp_path / "out.csv", [bytes([number]) * 200 for number in range(count)]
    for _ in range(100 // count):
        errors = write_together(path, contents)
        (winner,) = [number for number, error in enumerate(errors) if error is None]
        assert path.read_bytes() == contents[winner]
        assert all("also being written" in str(error) for error in errors if error is not None)
        assert os.listdir(tmp_path) == ["out.csv"]


def test_who_announces_to_write_is_seen_by_who_writes_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    with files.announcing(path):
        thread_errors: list[RunError] = []

        def write() -> None:
            try:
                files.write_atomic(path, b"of another command")
            except RunError as error:
                thread_errors.append(error)

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        assert len(thread_errors) == 1 and path.read_bytes() == b"of another command"
        files.write_atomic(path, b"of this command")
    assert path.read_bytes() == b"of this command" and os.listdir(tmp_path) == ["out.csv"]
    with files.announcing(None):
        files.write_atomic(path, b"again")


def test_writers_of_different_files_do_not_meet(tmp_path: Path) -> None:
    with files.replacing(tmp_path / "a") as first, files.replacing(tmp_path / "a-12345678") as second:
        first.write(b"1")
        second.write(b"2")
    assert (tmp_path / "a").read_bytes() == b"1" and (tmp_path / "a-12345678").read_bytes() == b"2"


def test_what_a_crash_leaves_is_deleted_by_the_next_writer(tmp_path: Path) -> None:
    (tmp_path / ".unfinished-a.csv-00c0ffee").write_bytes(b"half")
    (tmp_path / ".unfinished-b.csv-00c0ffee").write_bytes(b"of another file")
    write_file(tmp_path / "a.csv", ["x"], [{"x": 1}])
    assert sorted(os.listdir(tmp_path)) == [".unfinished-b.csv-00c0ffee", "a.csv"]


def test_a_writer_that_fails_leaves_the_other_alone(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with files.replacing(path) as stream:
        stream.write(b"first")
        with pytest.raises(ZeroDivisionError), files.replacing(path) as other:
            other.write(b"second")
            raise ZeroDivisionError
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["a"]


def test_files_of_a_folder_are_replaced_together(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "last").write_text("old")
    (folder / "kept").write_text("kept")
    with pytest.raises(ZeroDivisionError), files.replacing_files(folder, "last") as staging:
        (staging / "last").write_text("new")
        raise ZeroDivisionError
    assert sorted(os.listdir(folder)) == ["kept", "last"] and (folder / "last").read_text() == "old"
    with files.replacing_files(folder, "last") as staging:
        (staging / "inner").mkdir()
        (staging / "inner" / "file").write_text("new")
        (staging / "last").write_text("new")
    assert (folder / "last").read_text() == "new" and (folder / "inner" / "file").read_text() == "new"
    assert (folder / "kept").read_text() == "kept"


@pytest.mark.parametrize("target", ["file", "nothing", "fifo", "folder"])
@pytest.mark.parametrize("linked", [True, False])
def test_a_lock_never_touches_what_a_link_leads_to(tmp_path: Path, target: str, linked: bool) -> None:
    folder, path = tmp_path / "run", tmp_path / "victim"
    folder.mkdir()
    lock = folder / run_folder.LOCK
    place = path if linked else lock
    if target == "file":
        place.write_text("content")
    elif target == "fifo":
        os.mkfifo(place)
    elif target == "folder":
        place.mkdir()
    if linked:
        lock.symlink_to(path)
    if not linked and target in ("file", "nothing"):
        with run_folder.locked(folder, lambda text: None):
            assert not place.exists() or place.read_text() in ("content", "")
        return
    with pytest.raises(RunError, match=run_folder.LOCK), run_folder.locked(folder, lambda text: None):
        pass
    assert not linked or target != "file" or path.read_text() == "content"


def test_a_log_is_not_appended_to_what_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("content")
    (tmp_path / "log").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError):
        files.open_for_appending(tmp_path / "log")
    assert (tmp_path / "victim").read_text() == "content"


def test_a_folder_of_outputs_has_one_writer(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with files.writing_alone(folder):
        with pytest.raises(RunError, match="another process or thread is writing"), files.writing_alone(folder):
            pass
        with pytest.raises(RunError, match="another process or thread is writing"), files.writing_alone(folder):
            pass
    with files.writing_alone(folder):
        assert os.listdir(folder) == [".unfinished-lock"]
    assert not os.listdir(folder)
