"""Lists of recordings without a header, as data sets for speech from text have them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("soundfile", reason="the extra [sound] is not here")

from recordings import by_soundfile, voice

from mapsto.data.rows import bind_to, load_rows
from mapsto.data.table import read_table
from mapsto.errors import UsageError
from mapsto.options import TextFormat
from mapsto.task.arrow import parse


def write(folder: Path, inner: str, names: list[str]) -> None:
    (folder / inner).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        (folder / inner / name).write_bytes(by_soundfile(voice(0, number, 0.5), 8000, "WAV", "PCM_16"))


@pytest.mark.parametrize(
    ("inner", "names", "lines", "texts"),
    [
        # LJSpeech, with quotes that are part of the text.
        ("wavs", ["LJ-1.wav", "LJ-2.wav"], ['LJ-1|Say "1|Say "one', "LJ-2|Dr. No|Doctor No"], ['Say "one', "Doctor No"]),
        # Piper, in German, with an umlaut in the name of a file.
        ("clips", ["ü 1.wav", "ü 2.wav"], ["ü 1|Guten Tag.", "", "ü 2|今天, ja."], ["Guten Tag.", "今天, ja."]),
        # VITS: paths.
        ("x", ["a.wav", "b.wav"], ["x/a.wav|One.", "x/b.wav|Two."], ["One.", "Two."]),
        ("", ["a.wav", "b.wav"], ["a|One.", "b|Two."], ["One.", "Two."]),
        # Other endings than the list has, of each file its own; and a header above bare names.
        ("wavs", ["a.ogg", "b.wav"], ["a.wav|One.", "b.wav|Two."], ["One.", "Two."]),
        ("wavs", ["a.wav", "b.wav"], ["id|text", "a|One.", "b|Two."], ["One.", "Two."]),
        ("wavs", ["a.wav", "b.wav"], ["file|text", "a.wav|One.", "b.wav|Two."], ["One.", "Two."]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("arrow", ["text -> sound", "sound -> text"])
def test_files_and_texts_are_found(
    tmp_path: Path, arrow: str, inner: str, names: list[str], lines: list[str], texts: list[str]
) -> None:
    write(tmp_path, inner, names)
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = read_table(tmp_path / "metadata.csv")
    (remark,) = table.remarks
    assert "read as a list of recordings" in remark.reason
    rows = load_rows(bind_to(parse(arrow), table), table)
    assert not rows.faults and len(rows) == 2
    (read,) = rows.sources if arrow.startswith("text") else rows.targets
    assert read == texts


def test_a_line_without_its_text_is_named(tmp_path: Path) -> None:
    write(tmp_path, "wavs", ["a.wav", "b.wav"])
    lines = ["a|One.", *["b|Two."] * 5, "b", "missing|Three."]
    (tmp_path / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = read_table(tmp_path / "metadata.csv")
    (rejected,) = table.rejected
    assert rejected.row == 7 and "this line has 1 cells between vertical bars, the first one has 2" in rejected.reason
    (fault,) = load_rows(bind_to(parse("sound -> text"), table), table).faults
    assert fault.row == 8 and fault.column == "sound"


def test_a_first_recording_that_is_missing_is_one_fault(tmp_path: Path) -> None:
    write(tmp_path, "wavs", ["b.wav"])
    (tmp_path / "metadata.csv").write_text("a|One.\nb|Two.\n", encoding="utf-8")
    table = read_table(tmp_path / "metadata.csv")
    (fault,) = load_rows(bind_to(parse("sound -> text"), table), table).faults
    assert fault.row == 1 and fault.column == "sound"


@pytest.mark.parametrize(
    "text",
    ["sound|text\na.wav|One.\nb.wav|Two.\n", "a|b|c|d\n1|2|3|4\n", "nowhere|One.\nneither|Two.\n", "a,One.\nb,Two.\n"],
    ids=["header", "four cells", "no such file", "commas"],
)
def test_other_tables_are_read_as_they_are(tmp_path: Path, text: str) -> None:
    write(tmp_path, "wavs", ["a.wav", "b.wav"])
    (tmp_path / "table.csv").write_text(text, encoding="utf-8")
    assert list(read_table(tmp_path / "table.csv").columns) == text.split("\n")[0].replace(",", "|").split("|")


def test_a_delimiter_of_ones_own_reads_a_header(tmp_path: Path) -> None:
    write(tmp_path, "wavs", ["a.wav"])
    (tmp_path / "table.csv").write_text("a|One.\na|Two.\n", encoding="utf-8")
    table = read_table(tmp_path / "table.csv", TextFormat(delimiter=";"))
    with pytest.raises(UsageError):
        bind_to(parse("sound -> text"), table)
