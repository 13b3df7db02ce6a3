"""Measures how many transcripts of other recordings `mapsto check --listen` finds, and how many right ones it names.

Of the first rows of a table (`sound`, `text`), 5 % get the text of another row. Beside it stand those that the pace of the text
alone gives away (characters a second), without a model.

    python benchmarks/misplaced_transcripts.py --start runs/tiny.en --data train.csv --rows 300
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
from common import record

from mapsto.data.checks import check_rows
from mapsto.data.rows import bind_to, load_rows
from mapsto.data.table import read_table
from mapsto.device import choose_device
from mapsto.evaluation.transcripts import find_misplaced
from mapsto.fitting.transcript_beginning import choose_beginnings
from mapsto.inference.predictor import Predictor
from mapsto.kinds.sound import SoundSource
from mapsto.pretrained.model_folder import load_mapping
from mapsto.task.arrow import parse

SHARE = 0.05


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--start", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--rows", type=int, default=300)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with Path(options.data).open(encoding="utf-8", newline="") as file:
        named = [row for row in csv.DictReader(file) if row["text"].strip()]
    chosen = [named[row] for row in rng.permutation(len(named))[: options.rows]]
    texts = [row["text"] for row in chosen]
    wrong = set(rng.permutation(len(chosen))[: max(1, round(SHARE * len(chosen)))].tolist())
    for row in wrong:
        texts[row] = str(rng.choice([text for text in texts if text != texts[row]]))
    cells = [{"sound": SoundSource.read(row["sound"]), "text": text} for row, text in zip(chosen, texts, strict=True)]
    table = read_table(cells)
    rows = load_rows(bind_to(parse("sound -> text"), table), table)
    mapping = Predictor(load_mapping(options.start)).mapping
    choose_beginnings(mapping, mapping.sources, rows, None, None, print)
    listening = find_misplaced(mapping, rows, choose_device("auto"))
    lines = [f"{Path(options.start).name}, {len(chosen):,} rows of {options.data}, {len(wrong)} with another text:"]
    by_pace = [finding for finding in check_rows(rows).warnings if "a second" in finding.reason]
    for name, findings in (("--listen", listening.findings), ("pace alone", by_pace)):
        suspected = {int(finding.row or 0) - 1 for finding in findings}
        false = suspected - wrong
        lines.append(
            f"- {name}: {len(suspected & wrong)} of {len(wrong)} found, {len(false)} of {len(chosen) - len(wrong)} others "
            f"named ({100 * len(false) / (len(chosen) - len(wrong)):.1f} %): {[texts[row] for row in sorted(false)][:8]}"
        )
    record("misplaced_transcripts", lines)


if __name__ == "__main__":
    main()
