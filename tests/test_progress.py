"""Progress lines that report how many rows are done."""

from __future__ import annotations

import io

import numpy as np
import pytest

from mapsto.progress import Lines, Live

KNOWN = [(count, 90) for count in range(15, 105, 15)]
UNKNOWN = [(0, None), (20, None), (40, None), (60, None), (60, 60)]


@pytest.mark.parametrize(
    ("kind", "counts", "output"),
    [
        (Lines, KNOWN, "done 45/90 rows, 30 s left\ndone 75/90 rows, 10 s left\n"),
        (Live, KNOWN, "done 75/90 rows, 10 s left\r\x1b[2Kdone 90/90 rows, 0 s left\r\x1b[2K"),
        (Lines, UNKNOWN, "done 40 rows, 2 rows/s\ndone 60/60 rows, 0 s left\n"),
        (Live, UNKNOWN, "done 60 rows, 2 rows/s\r\x1b[2Kdone 60/60 rows, 0 s left\r\x1b[2K"),
    ],
)
def test_rows_are_reported_at_intervals(
    kind: type[Lines], counts: list[tuple[int, int | None]], output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log file gets a line every 15 s, with the time left or the speed. A terminal gets one line, erased at the end."""
    stream, clock = io.StringIO(), iter(np.arange(1000.0, 1100.0, 10.0).repeat(2).tolist())
    monkeypatch.setattr("mapsto.progress.time.monotonic", clock.__next__)
    progress = kind(stream)
    for count, total in counts:
        progress.rows("done", count, total)
    assert stream.getvalue().endswith(output)
