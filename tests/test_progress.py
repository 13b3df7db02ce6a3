"""How a run tells how many rows are done."""

from __future__ import annotations

import io

import numpy as np
import pytest

from mapsto.progress import Lines, Live

KNOWN = [(done, 90) for done in range(15, 105, 15)]
UNKNOWN = [(0, None), (20, None), (40, None), (60, None), (60, 60)]


@pytest.mark.parametrize(
    ("kind", "told", "said"),
    [
        (Lines, KNOWN, "done 45/90 rows, 30 s left\ndone 75/90 rows, 10 s left\n"),
        (Live, KNOWN, "done 75/90 rows, 10 s left\r\x1b[2Kdone 90/90 rows, 0 s left\r\x1b[2K"),
        (Lines, UNKNOWN, "done 40 rows, 2 rows/s\ndone 60/60 rows, 0 s left\n"),
        (Live, UNKNOWN, "done 60 rows, 2 rows/s\r\x1b[2Kdone 60/60 rows, 0 s left\r\x1b[2K"),
    ],
)
def test_rows_are_told_of_as_they_come(
    kind: type[Lines], told: list[tuple[int, int | None]], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a log every 15 s with the time that is left, or the speed; on a screen in one line, which is gone at the end."""
    stream, now = io.StringIO(), iter(np.arange(1000.0, 1100.0, 10.0).repeat(2).tolist())
    monkeypatch.setattr("mapsto.progress.time.monotonic", now.__next__)
    shown = kind(stream)
    for done, total in told:
        shown.rows("done", done, total)
    assert stream.getvalue().endswith(said)
