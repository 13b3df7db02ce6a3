"""How good is it: scores of a mapping on rows it has not seen, each with its number of items and a 95 % interval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mapsto.arrow import Arrow, restores
from mapsto.data import Table
from mapsto.errors import UsageError
from mapsto.examples import Examples, Rows, bind_to, encode, lie_in_raw, make_examples, read_rows, require_whole
from mapsto.kinds import Target
from mapsto.mapping import Mapping
from mapsto.predict import asking, evidence, row_outputs
from mapsto.scores import Score
from mapsto.sequence import Example


@dataclass(frozen=True)
class Answers:
    """What one target said of some rows: outputs (n, …) beside the truths."""

    arrow: Arrow
    target: Target
    rows: Rows
    truths: list[Any]
    outputs: Tensor


@dataclass(frozen=True)
class Evaluation:
    """Scores by name, what a model that reads nothing reaches, how often each true class got each answer, and notes.

    answers: of every pooled target, for a closer look.
    """

    rows: int
    scores: dict[str, Score]
    baseline: dict[str, Score] = field(default_factory=dict)
    confusion: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    answers: list[Answers] = field(default_factory=list, repr=False)

    def record(self) -> dict[str, Any]:
        """All but the answers, as JSON."""
        return asdict(replace(self, answers=[]))


def evaluate(mapping: Mapping, table: Table, device: torch.device, bad_rows: str = "stop", seed: int = 0) -> Evaluation:
    """Score every target on `table`. Raises DataError for rows that cannot be read."""
    if not mapping.targets:
        raise UsageError("this model has no answers to score; fit it to a table with labels first")
    arrow = bind_to(mapping.arrow, table)
    rows = read_rows(arrow, table, mapping.sources, mapping.targets)
    faults = require_whole(rows, table.rejected, len(table), bad_rows)
    encoded = encode(arrow, rows, mapping.sources, mapping.config.longest, "cut", lie_in_raw(mapping.targets))
    notes = [f"left out, as it cannot be read: {fault}" for fault in faults]
    if len(encoded.long):
        notes.append(f"{len(encoded.long)} rows are longer than the model takes; {encoded.lost:,} tokens were cut off")
    scores: dict[str, Score] = {}
    baseline: dict[str, Score] = {}
    confusion: dict[str, dict[str, int]] = {}
    restored = restores(arrow)
    putting_back = [target for target, port in zip(mapping.targets, restored, strict=True) if port is not None]
    if putting_back:
        bare, corruption = replace(rows, targets=[]), putting_back[0].corruption
        hidden = make_examples(arrow, bare, encoded, mapping.sources, mapping.targets, seed, corruption)
        scores |= score_examples(mapping, hidden, rows, device)
    said: list[Answers] = []
    for port, target in enumerate(mapping.targets):
        if restored[port] is not None:
            continue
        outputs = row_outputs(mapping, asking(mapping, encoded), len(rows), port, device)
        answers = rows.targets[port]
        said.append(Answers(arrow, target, rows, answers, outputs))
        name = f"{arrow.targets[port].column}: " if len(mapping.targets) > 1 else ""
        scores |= {f"{name}{key}": value for key, value in target.score(outputs, answers).items()}
        baseline |= {f"{name}{key}": value for key, value in target.baseline(answers).items()}
        confusion |= target.confusion(outputs, answers)
        notes += target.notes(answers)
    return Evaluation(len(rows), scores, baseline, confusion, notes, said)


def as_scored(examples: Examples) -> Iterator[Example]:
    """All examples as scoring sees them: hidden tokens chosen by row alone, at the final rate."""
    return (examples.example(row, 0, 1.0) for row in range(len(examples)))


def score_examples(mapping: Mapping, examples: Examples, rows: Rows | None, device: torch.device) -> dict[str, Score]:
    """Scores over examples that carry their answers, as held-out ones do; `rows` has those not made by `~` in the user's
    words."""
    found: dict[str, Score] = {}
    restored = restores(mapping.arrow)
    for port, said in evidence(mapping, as_scored(examples), device).items():
        answers: list[Any] = said.values.tolist()
        if restored[port] is None:
            assert rows is not None and examples.of is not None
            answers = [rows.targets[port][examples.of[row]] for row in said.rows]
        found |= mapping.targets[port].score(said.shown, answers)
    return found
