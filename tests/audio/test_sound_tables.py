"""Tables and folders of sounds with the names, links and damaged files that occur: each bad file costs one cell."""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import recordings

from mapsto.data.checks import check_rows
from mapsto.data.rows import Rows, load_rows
from mapsto.data.table import read_table
from mapsto.task.arrow import parse

pytest.importorskip("soundfile", reason="the extra [sound] is not here")
pytest.importorskip("av", reason="the extra [sound] is not here: no PyAV")

WAV = recordings.wav(np.rint(recordings.tone(seconds=0.3) * 32767))


def load(path: Path) -> Rows:
    return load_rows(parse("sound -> label"), read_table(path), keep_unreadable=True)


def faults(rows: Rows) -> dict[str, str]:
    """Return {last part of a cell: reason} of the cells that cannot be read."""
    return {Path((fault.value or "").replace("\\", "/")).name: fault.reason for fault in rows.faults}


def write_wav(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(recordings.wav(np.rint(recordings.tone(seconds=0.3, pitch=300.0 + number) * 32767)))
    return path


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_folder_of_sounds_as_people_have_them(tmp_path: Path) -> None:
    root = tmp_path / "声音 文件夹"
    for number, name in enumerate(("录音 1.wav", "UPPER.WAV", "a b.Wav", "ключ.wav", "x'y\"z.wav", "#1 50%.wav")):
        write_wav(root / "cat" / name, number)
        write_wav(root / "dog" / name, 10 + number)
    (root / "cat" / "link.wav").symlink_to(root / "cat" / "录音 1.wav")
    (root / "cat" / "gone.wav").symlink_to(root / "nothing.wav")
    (root / "cat" / "._录音 1.wav").write_bytes(b"\0\x05\x16\x07" + bytes(4000))
    (root / "cat" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (root / "dog" / "empty.wav").touch()
    (root / "dog" / "cut.wav").write_bytes(WAV[: len(WAV) // 2])
    (root / "dog" / "page.mp3").write_bytes(b"<!DOCTYPE html><html>404</html>")
    (root / "dog" / "really.wav").write_bytes(recordings.make("mp3"))
    (root / "dog" / "notes.db").write_bytes(b"?")
    os.mkfifo(root / "dog" / "pipe.wav")
    rows = load(root)
    assert len(rows) == 18 and sum(value is not None for value in rows.sources[0]) == 14
    assert faults(rows).keys() == {"gone.wav", "empty.wav", "cut.wav", "page.mp3"}
    assert "0.15 of 0.30 s" in faults(rows)["cut.wav"] and "an HTML page" in faults(rows)["page.mp3"]
    remarks = [str(remark) for remark in rows.table.remarks_on()]
    assert any("pipes and devices are not read: dog/pipe.wav" in remark for remark in remarks)
    assert any("left out by their endings: .db" in remark for remark in remarks)
    warnings = [str(finding) for finding in check_rows(rows).warnings]
    assert any("1 row repeats another one" in text and "link.wav" in text for text in warnings)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_that_is_given_alone_is_a_bad_cell(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    rows = load_rows(parse("sound -> label"), read_table(tmp_path / "pipe.wav"), answers=False, keep_unreadable=True)
    assert faults(rows) == {"pipe.wav": "this is no file"}


def test_a_table_of_paths(tmp_path: Path) -> None:
    for number, name in enumerate(("a b.wav", "子/录音.wav", "c.WAV")):
        write_wav(tmp_path / name, number)
    (tmp_path / "cut.wav").write_bytes(WAV[: len(WAV) // 2])
    cells = ["a b.wav", "子/录音.wav", "c.WAV", " c.WAV ", "子\\录音.wav", str(tmp_path / "c.WAV")]
    bad = ["cut.wav", "none.wav", "https://x.org/web.wav", "file:///x/url.wav", "../out.wav", ""]
    with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sound", "label"])
        writer.writerows([cell, "xy"[number % 2]] for number, cell in enumerate(cells + bad))
    rows = load(tmp_path / "t.csv")
    values = rows.sources[0]
    assert [value is not None for value in values] == [True] * len(cells) + [False] * len(bad)
    assert values[2] == values[3] == values[5] and values[1] == values[4]
    assert [fault.row for fault in rows.faults] == list(range(len(cells) + 2, len(cells) + len(bad) + 2))


@pytest.mark.parametrize("form", ["dict", "bytes", "array"])
def test_columns_of_hugging_face(form: str, tmp_path: Path) -> None:
    """Audio of datasets: bytes with a path, and decoded samples with their rate."""
    cells: list[Any] = [{"bytes": WAV, "path": "a.wav"}, {"bytes": WAV[:-2000], "path": "cut.wav"}]
    cells += [{"bytes": b"junk", "path": "junk.wav"}, {"bytes": None, "path": None}, None]
    if form == "bytes":
        cells = [WAV, WAV[:-2000], b"junk", b"", None]
    if form == "array":
        tone = recordings.tone(seconds=0.3)[:, 0].astype(float).tolist()
        arrays = [(tone, 16_000), (tone, 0), (tone, 3_000_000_000), ([], 16_000), ([0.0, float("nan")], 16_000)]
        cells = [{"path": f"{rate}.wav", "array": values, "sampling_rate": rate} for values, rate in arrays]
    table = pa.table({"audio": cells, "label": ["x", "y", "x", "y", "x"]})
    pq.write_table(table, tmp_path / "t.parquet")
    rows = load(tmp_path / "t.parquet")
    assert [value is not None for value in rows.sources[0]] == [True, False, False, False, False]
    assert len(rows.faults) == 4 and rows.arrow.sources[0].column == "audio"
    if form == "dict":
        assert "0.24 of 0.30 s" in faults(rows)["cut.wav"] and "no sound but text" in faults(rows)["junk.wav"]
