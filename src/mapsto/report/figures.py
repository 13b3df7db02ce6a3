"""Figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mapsto.errors import Finding, places
from mapsto.metrics.intervals import Floats
from mapsto.report.page import DASHES, SERIES, Section, Table, drawing

BINS = 10


FEWEST_IN_A_BIN = 5


SHOWN_CONFUSIONS, SHOWN_SLICES, SHOWN_FINDINGS, LONGEST_SHOWN = 12, 20, 20, 400


COLOURS = (
    "Green speaks for the answer, red (in text underlined with dots) against it; the stronger the colour, the more."
)


def reliability(ways: Sequence[tuple[str, Floats, Floats]]) -> str:
    """An SVG: for each way, with its name, how sure it was (n,) and how far its answers bore that out (n,), by bins of the
    former."""
    with drawing(
        "How often an answer is right against how sure it is; on the diagonal confidence can be trusted"
    ) as drawn:
        drawn.axes.plot([0, 1], [0, 1], color=SERIES[0], linestyle="dotted", label="to be trusted")
        for at, (name, sure, right) in enumerate(ways):
            which = np.clip((sure * BINS).astype(int), 0, BINS - 1)
            counts = np.bincount(which, minlength=BINS)
            kept = counts >= max(FEWEST_IN_A_BIN, len(sure) // 200)
            x, y = (np.bincount(which, of, BINS)[kept] / counts[kept] for of in (sure, right))
            colour, dash = SERIES[(at + 2 * (len(ways) == 1)) % len(SERIES)], DASHES[at // len(SERIES) % len(DASHES)]
            drawn.axes.plot(x, y, color=colour, marker="o", linestyle=dash, label=name)
        drawn.axes.set(xlabel="confidence", ylabel="share of such answers that is right")
        drawn.legend()
    return drawn.svg


def data_findings(findings: Sequence[Finding]) -> list[Section]:
    """What looks wrong in the rows."""
    shown = findings[:SHOWN_FINDINGS]
    rows = [
        [where, found.reason, "" if found.value is None else _short(found.value)]
        for where, found in zip(places([(found.file, found.row) for found in shown]), shown, strict=True)
    ]
    if not rows:
        return []
    more = len(findings) - len(rows)
    text = [f"{more:,} more are not shown; mapsto check lists them all."] if more else []
    table = Table(
        "Repeated and nearly repeated rows, contradicting labels, rare classes",
        ["where", "what", "value"],
        rows,
        texts=(1, 2),
    )
    return [Section("What was found in the data", text, tables=[table])]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
