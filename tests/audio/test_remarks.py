"""Remarks on the sounds of a table, in `check` and in the notes of a fit."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recordings

from mapsto.audio.remarks import inspect_sounds
from mapsto.audio.sound_value import Sound
from mapsto.data.checks import check_rows
from mapsto.data.rows import load_rows
from mapsto.data.split import MAX_WARNINGS, report_findings
from mapsto.data.table import read_table
from mapsto.errors import Finding
from mapsto.task.arrow import parse

pytest.importorskip("soundfile", reason="the extra [sound] is not here")

TONE = recordings.tone(seconds=0.5)[:, 0]


def sound(samples: Any, rate: int = 16_000) -> Sound:
    return Sound.from_samples(samples.astype(np.float32), rate)


def test_levels_and_channels_are_remarked_by_row() -> None:
    values = [sound(TONE), None, sound(0 * TONE), sound(TONE + 0.25), sound(np.stack([TONE, 0 * TONE], 1))]
    assert inspect_sounds(values) == [
        (2, "it is silent"),
        (3, "it has an offset (DC) of 0.25 of full scale"),
        (4, "channel 2 of 2 is silent and left out"),
    ]
    assert inspect_sounds([None]) == [] == inspect_sounds([])


def test_lengths_are_compared() -> None:
    long = np.tile(TONE, 80)
    values = [sound(TONE)] * 3 + [sound(TONE[:800]), sound(long)]
    assert inspect_sounds(values) == [
        (3, "it is very short: 0.050 s"),
        (4, "it is very long: 40.0 s, and half of all have at most 0.5 s"),
    ]
    assert inspect_sounds([sound(long)] * 3) == []


def test_rates_are_compared() -> None:
    ((place, remark),) = inspect_sounds([sound(TONE), sound(TONE), sound(TONE, 8000)])
    assert place == 2 and "such as 8,000 Hz here" in remark
    assert "resampled to 16,000 Hz: 16,000 Hz (2), 8,000 Hz (1); those of a lower rate" in remark
    ((_, remark),) = inspect_sounds([sound(TONE, 44_100), sound(TONE, 48_000)])
    assert "lower" not in remark
    assert not inspect_sounds([sound(TONE, 8000)] * 2)


def test_check_names_the_file_of_a_remark(tmp_path: Path) -> None:
    for name, samples, label in (
        ("a", TONE, "x"),
        ("b", 0 * TONE, "x"),
        ("c", TONE + 0.1, "y"),
        ("d", 0.9 * TONE, "y"),
    ):
        (tmp_path / label).mkdir(exist_ok=True)
        pcm = np.rint(samples * 32767)[:, None]
        (tmp_path / label / f"{name}.wav").write_bytes(recordings.wav(pcm))
    rows = load_rows(parse("sound -> label"), read_table(tmp_path), keep_unreadable=True)
    warnings = [str(finding) for finding in check_rows(rows, rows).warnings]
    for name, remark in ((Path("x/b.wav"), "it is silent"), (Path("y/c.wav"), "it has an offset (DC) of 0.10")):
        assert sum(str(tmp_path / name) in text and remark in text for text in warnings) == 2, "training and test rows"


def test_a_fit_names_each_sort_of_finding_first() -> None:
    findings = [Finding("a.csv", row, "sound", None, f"{row}.0 % of its samples are clipped") for row in range(1, 9)]
    findings += [Finding("a.csv", 9, "sound", None, "it is silent")]
    lines: list[str] = []
    report_findings(findings, lines.append)
    assert len(lines) == 2 and "it is silent" in lines[1]
    assert lines[0].endswith("1.0 % of its samples are clipped (and 7 more like it)")
    lines.clear()
    sorts = [Finding("a.csv", 1, "sound", None, f"it is {word}") for word in "abcdefgh" for _ in range(2)]
    report_findings(sorts, lines.append)
    assert len(lines) == MAX_WARNINGS + 1
    hidden = len(sorts) - 2 * MAX_WARNINGS
    assert lines[-1] == f"note: {hidden} more; `mapsto check` lists them all"
