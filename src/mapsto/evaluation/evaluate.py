"""How good is it: scores of a mapping on rows it has not seen, each with its number of items and a 95 % interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mapsto.data.encoding import Encoded, encode, lie_in_raw
from mapsto.data.examples import Examples, make_examples
from mapsto.data.rows import Rows, bind_to, read_rows, require_whole
from mapsto.data.table import Table
from mapsto.errors import UsageError
from mapsto.inference.forward import Done, asking, evidence, made, questions, row_outputs, told_by
from mapsto.metrics.intervals import Floats, Score, with_intervals
from mapsto.model.mapping import Mapping
from mapsto.progress import Progress
from mapsto.sequence.batch import Example
from mapsto.sequence.corruption import Corruption, generator
from mapsto.task.arrow import Arrow, restores
from mapsto.task.capabilities import Classes, Located, Reconstruction
from mapsto.task.target import Target

SHOWN = 8  # rows of which what was made is kept


@dataclass(frozen=True)
class Answers:
    """What one target said of some rows: outputs (n, …) beside the truths. name: stands before its scores, where there are other
    answers too."""

    arrow: Arrow
    target: Target
    rows: Rows
    truths: list[Any]
    outputs: Tensor
    name: str = ""

    def calibration(self) -> tuple[Floats, Floats] | None:
        """How sure each answer was (n,) and how far it turned out so (n,); None where they carry no probability."""
        if not isinstance(self.target, Classes):
            return None
        confidence = self.target.confidence(self.outputs)
        return confidence, self.target.correctness(self.outputs, self.truths).astype(np.float64)


@dataclass(frozen=True)
class Made:
    """What a target that lies in a source made of the value `read` in one row, and what is true."""

    target: Located
    file: str
    row: int
    read: Any
    answer: Any
    truth: Any


@dataclass(frozen=True)
class Evaluation:
    """Scores by name, what a model that reads nothing reaches, how often each true class got each answer, and notes.

    answers: of every target that gives one output a row, for a closer look. made: of the others that lie in a source, a few rows
    drawn at random.
    """

    rows: int
    scores: dict[str, Score]
    baseline: dict[str, Score] = field(default_factory=dict)
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    answers: list[Answers] = field(default_factory=list, repr=False)
    made: list[Made] = field(default_factory=list, repr=False)

    def record(self) -> dict[str, Any]:
        """All but the answers, as JSON."""
        return asdict(replace(self, answers=[], made=[]))


def evaluate(
    mapping: Mapping,
    table: Table,
    device: torch.device,
    bad_rows: str = "stop",
    seed: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Score every target on `table`. Raises DataError for rows that cannot be read."""
    if not mapping.targets:
        raise UsageError("this model has no answers to score; fit it to a table with labels first")
    arrow = bind_to(mapping.arrow, table)
    rows = read_rows(arrow, table, mapping.sources, mapping.targets)
    faults = require_whole(rows, table.rejected, len(table), bad_rows)
    encoded = encode(arrow, rows, mapping.sources, mapping.config.max_tokens, "cut", lie_in_raw(mapping.targets))
    notes = [f"left out, as it cannot be read: {fault}" for fault in faults]
    if len(encoded.long):
        notes.append(f"{len(encoded.long)} rows are longer than the model takes; {encoded.lost:,} tokens were cut off")
    scores: dict[str, Score] = {}
    baseline: dict[str, Score] = {}
    confusion: dict[str, dict[str, int]] = {}
    whole = mapping.ports_per_example
    by_token = [port for port in range(len(mapping.targets)) if port not in whole]
    passes = bool(by_token) + bool(whole)
    done = _telling(progress or Progress(), len(encoded.of) * passes, len(rows))
    if by_token:
        scores |= score_examples(mapping, _told(mapping, arrow, rows, encoded, by_token, seed), rows, device, done)
    said: list[Answers] = []
    told = row_outputs(mapping, asking(mapping, encoded), len(rows), whole, device, done)
    for port, outputs in zip(whole, told, strict=True):
        target, answers = mapping.targets[port], rows.targets[port]
        name = f"{arrow.targets[port].column}: " if len(mapping.targets) > 1 else ""
        said.append(Answers(arrow, target, rows, answers, outputs, name))
        scores |= {f"{name}{key}": value for key, value in with_intervals(target.metrics(outputs, answers)).items()}
        baseline |= {f"{name}{key}": value for key, value in target.baseline(answers).items()}
        if isinstance(target, Classes):
            confusion |= {f"{name}{truth}": row for truth, row in target.confusion(outputs, answers).items()}
            notes += target.notes(answers)
    shown = [
        row
        for port in by_token
        if isinstance(mapping.targets[port], Located)
        for row in _made(mapping, rows, encoded, port, device)
    ]
    return Evaluation(len(rows), scores, baseline, confusion, notes, said, shown)


def _telling(progress: Progress, total: int, rows: int) -> Done:
    """What tells of the rows that are scored, when told of examples, of which there are `total`."""
    seen = 0

    def done(count: int) -> None:
        nonlocal seen
        seen += count
        progress.rows("scored", seen * rows // total, rows)

    return done


def said_of(mapping: Mapping, arrow: Arrow, rows: Rows, port: int, device: torch.device) -> Tensor:
    """What target `port` says of every row, (n, …): its outputs; the evidence of a kind that makes its answers of a source."""
    encoded = encode(arrow, rows, mapping.sources, mapping.config.max_tokens, "cut", lie_in_raw(mapping.targets))
    if mapping.targets[port].readout.per_example:
        (found,) = row_outputs(mapping, asking(mapping, encoded), len(rows), [port], device)
        return found
    examples = _told(mapping, arrow, rows, encoded, [port], 0)
    said = evidence(mapping, as_scored(examples), device)[port]
    return said.shown[np.argsort(said.rows)]


def _told(mapping: Mapping, arrow: Arrow, rows: Rows, encoded: Encoded, ports: Sequence[int], seed: int) -> Examples:
    """Examples that carry the answers of these ports alone."""
    given = replace(rows, targets=[values if port in ports else [] for port, values in enumerate(rows.targets)])
    restored = [mapping.targets[port] for port in ports if restores(arrow)[port] is not None]
    hides = next((target.corruption for target in restored if isinstance(target, Reconstruction)), None)
    return make_examples(arrow, given, encoded, mapping.sources, mapping.targets, seed, hides or Corruption())


def _made(mapping: Mapping, rows: Rows, encoded: Encoded, port: int, device: torch.device) -> list[Made]:
    """A few rows drawn at random, always the same, with what target `port` makes of them."""
    target, count = mapping.targets[port], len(rows)
    assert isinstance(target, Located)
    drawn = np.sort(generator(0, count, 0).permutation(count)[:SHOWN]).tolist()
    pieces = {row: encoded.pieces[row] for row in drawn}
    asked = [Example(pieces[row], questions(mapping, pieces[row]), row) for row in drawn]
    said = dict(told_by(mapping, asked, port, device))
    (of,) = (at for at, source in enumerate(mapping.arrow.sources) if source.kind == target.lies_in)
    return [
        Made(
            target,
            *rows.table.origin(int(rows.rows[row])),
            read=rows.sources[of][row],
            answer=made(target, pieces[row], said[row]),
            truth=rows.targets[port][row],
        )
        for row in drawn
    ]


def as_scored(examples: Examples) -> Iterator[Example]:
    """All examples as scoring sees them: hidden tokens chosen by row alone, at the final rate."""
    return (examples.example(row, 0, 1.0) for row in range(len(examples)))


def score_examples(
    mapping: Mapping, examples: Examples, rows: Rows | None, device: torch.device, done: Done = lambda count: None
) -> dict[str, Score]:
    """Scores over examples that carry their answers, as held-out ones do; `rows` has those not made by `~` in the user's
    words. done: as of `evidence`."""
    found: dict[str, Score] = {}
    restored = restores(mapping.arrow)
    for port, said in evidence(mapping, as_scored(examples), device, done).items():
        answers = said.values.tolist()
        name = f"{mapping.arrow.targets[port].column}: " if len(mapping.targets) > 1 else ""
        if restored[port] is None:
            assert rows is not None and examples.of is not None
            answers = [rows.targets[port][examples.of[row]] for row in said.rows]
        scores = with_intervals(mapping.targets[port].metrics(said.shown, answers))
        found |= {f"{name}{key}": value for key, value in scores.items()}
    return found
