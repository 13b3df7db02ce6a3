"""Outcome."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from mapsto.data.examples import Examples
from mapsto.data.table import write_rows
from mapsto.distributed import Ranks
from mapsto.errors import Finding, UsageError
from mapsto.evaluation.error_analysis import analyse_evaluation
from mapsto.evaluation.evaluate import Evaluation, evaluate, score_examples, scoring_examples
from mapsto.evaluation.report import Provenance, evaluation_page, headline, write_page
from mapsto.fitting import run_folder
from mapsto.fitting.setup import Work
from mapsto.inference.forward import over
from mapsto.metrics.intervals import Score
from mapsto.model.mapping import Mapping
from mapsto.progress import Progress
from mapsto.training.loggers import read_metrics


def _watcher(
    watched: Examples | None, device: torch.device, ranks: Ranks
) -> Callable[[Mapping], dict[str, float]] | None:
    """A look at the held-out rows, each process at its part: the mean loss and error of the first target."""
    if watched is None:
        return None
    listed = ranks.own_share(list(scoring_examples(watched)))

    def look(mapping: Mapping) -> dict[str, float]:
        target, loss, error, count = mapping.targets[0], 0.0, 0.0, 0
        for batch, hidden in over(mapping, listed, device):
            readout = batch.answers[0]
            if readout is not None:
                output = mapping.read(hidden, batch, 0)
                loss += float(target.loss(output, readout.values))
                error += float(target.validation_error(output, readout.values))
                count += len(readout.values)
        loss, error, total = ranks.sum([loss, error, count])
        return {"loss": loss / max(total, 1), "error": error / max(total, 1)}

    return look


def _scored(work: Work, progress: Progress) -> tuple[dict[str, Score], Evaluation | None]:
    """Scores on the test rows, with all that was found there, else on the held-out ones."""
    mapping = work.mapping.eval()
    scores: dict[str, Score] = {}
    found = None
    if not mapping.targets:
        progress.say("note: what was asked in training was for that alone, so there is nothing to score yet")
    elif work.test is not None:
        found = evaluate(mapping, work.test, work.device, work.options.bad_rows, progress=progress)
        scores = found.scores
        for note in found.notes:
            progress.say(f"note: {note}")
    elif work.watched is not None:
        held = score_examples(mapping, work.watched, work.held, work.device)
        scores = {f"held-out {name}": value for name, value in held.items()}
    progress.scores(scores)
    return scores, found


def _command(work: Work, data: Any, test: Any, start: Any) -> str:
    """What makes the run again, into a folder of another name."""
    words = ["mapsto", "fit", str(work.mapping.arrow), str(data), "--test", str(test)]
    words += [] if start is None else ["--start", str(start)]
    return shlex.join([*words, *work.options.flags(), "--out", "FOLDER"])


def _report(run: Path, found: Evaluation, work: Work, command: str | None, say: Callable[[str], None]) -> list[str]:
    """report.html of what the test rows showed, where its package is here; the same in a few words."""
    looks = analyse_evaluation(found, work.mapping, work.device)
    if looks or found.samples:
        try:
            steps = read_metrics(run, say)
            provenance = Provenance(f"How good is {run.name}?", command, work.findings, steps)
            page = evaluation_page(found, looks, provenance)
            write_page(run / run_folder.REPORT, page, found, looks)
        except UsageError as error:
            say(f"note: no {run_folder.REPORT}: {error}")
    return headline(found, looks)


def write_rejected(run: Path, rejected: Iterable[Finding]) -> None:
    """rejected.csv: file, row, column, value and reason of everything that was left out."""
    rows = iter(rejected)
    if (first := next(rows, None)) is None:
        return
    columns = ["file", "row", "column", "value", "reason"]
    write_rows(run / "rejected.csv", columns, map(asdict, chain([first], rows)))
