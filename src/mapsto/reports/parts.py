"""What several pages show: how far confidence can be trusted, what is confused, rows to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mapsto.evaluate import Answers
from mapsto.page import DASHES, SERIES, Table, drawing
from mapsto.scores import Floats
from mapsto.scrutiny import Case

BINS = 10
FEWEST_IN_A_BIN = 5
SHOWN_CONFUSIONS, LONGEST_SHOWN = 12, 400


def reliability(ways: Sequence[tuple[str, Floats, Floats]], gain: str) -> str:
    """An SVG: for each way, with its name, how sure it was (n,) and what its answers were worth (n,), by bins of the former."""
    with drawing(
        "How often an answer is right against how sure it is; on the diagonal confidence can be trusted"
    ) as drawn:
        drawn.axes.plot([0, 1], [0, 1], color=SERIES[0], linestyle="dotted", label="to be trusted")
        for at, (name, sure, worth) in enumerate(ways):
            which = np.clip((sure * BINS).astype(int), 0, BINS - 1)
            counts = np.bincount(which, minlength=BINS)
            kept = counts >= max(FEWEST_IN_A_BIN, len(sure) // 200)
            x, y = (np.bincount(which, of, BINS)[kept] / counts[kept] for of in (sure, worth))
            colour, dash = SERIES[(at + 2 * (len(ways) == 1)) % len(SERIES)], DASHES[at // len(SERIES) % len(DASHES)]
            drawn.axes.plot(x, y, color=colour, marker="o", linestyle=dash, label=name)
        drawn.axes.set(xlabel="confidence", ylabel=f"{gain} of such answers")
        drawn.axes.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return drawn.svg


def confusions(answers: Answers, caption: str) -> Table | None:
    """What is answered in place of what, the commonest first."""
    counts = answers.target.confusion(answers.outputs, answers.truths)
    pairs = sorted(
        ((n, truth, said) for truth, row in counts.items() for said, n in row.items() if n and said != truth),
        reverse=True,
    )
    rows = [
        [f"{truth} → {said}", n, f"{100 * n / sum(counts[truth].values()):.0f} %"]
        for n, truth, said in pairs[:SHOWN_CONFUSIONS]
    ]
    return Table(caption, ["truth → answer", "rows", "of the rows of that truth"], rows) if rows else None


def cases(listed: Sequence[Case], caption: str) -> Table | None:
    """Rows to look at."""
    rows = [
        [f"{Path(case.file).name}, row {case.row}", _short(case.read), case.truth, f"{case.answer} ({case.percent})"]
        for case in listed
    ]
    return Table(caption, ["where", "what was read", "truth", "answer"], rows, texts=(1,)) if rows else None


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
