"""Does an explanation name what the model goes by? Parts are left out in its order, in a random one and in the reverse.

Comprehensiveness and sufficiency as in ERASER (DeYoung et al. 2020), and the area under the curve of deletion (Petsiuk et
al. 2018), here with the parts really gone, not masked. What is followed is the probability of the answer where it has one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from mapsto.data.rows import Rows, require_some
from mapsto.data.table import Table
from mapsto.errors import Finding
from mapsto.explain.attribution import ROWS_AT_ONCE, Explainer, Explanation, parts_of
from mapsto.metrics.intervals import Floats, Score, with_interval
from mapsto.progress import Progress
from mapsto.sequence.batch import Example
from mapsto.sequence.piece import Ints
from mapsto.task.capabilities import has_exclusive_classes

DELETED = tuple(tenth / 10 for tenth in range(1, 10))


KEPT = (0.1, 0.2, 0.5)


SAMPLE, MEASURED_AT_ONCE = 100, 20


ORDERS = ("explained", "random", "reversed")


@dataclass(frozen=True)
class Measure:
    """A figure of an explanation, and by how much it is better than with parts in random and in reversed order."""

    value: Score
    over_random: Score
    over_reversed: Score


@dataclass(frozen=True)
class Faithfulness:
    """How much the answer loses without the parts that weigh most (comprehensiveness, more is better), how much with them
    alone (sufficiency, less is better), and how much of it is left while they go one after the other (deletion, less).

    of: what of the answer these are shares or amounts of.
    """

    method: str
    examples: int
    of: str
    comprehensiveness: Measure
    sufficiency: Measure
    deletion: Measure

    @property
    def better_than_random(self) -> bool | None:
        """Whether both tests of leaving parts out say so beyond chance; None where there are too few examples to tell."""
        found = (self.comprehensiveness.over_random, self.deletion.over_random)
        return None if any(np.isnan(score.low) for score in found) else all(score.low > 0 for score in found)

    @property
    def verdict(self) -> str:
        """In words."""
        gain = self.comprehensiveness.over_random
        if self.better_than_random is None:
            return "how faithful this is cannot be told from one example; name rows like yours with --sample"
        said = f"on {self.examples:,} examples leaving out what weighs most costs {self.comprehensiveness.value.value:.3f} of the"
        said += (
            f" answer's {self.of}, {gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}) beside parts taken at random"
        )
        return said if self.better_than_random else f"{said}: NOT better than random, so do not rely on it"


def faithfulness(
    explainer: Explainer, rows: Rows, seed: int = 0, progress: Progress | None = None
) -> Faithfulness | None:
    """Measured on at most SAMPLE of the rows, of those that have two parts or more; None where there is none."""
    order = np.random.Generator(np.random.Philox(key=[seed, 2])).permutation(len(rows))[:SAMPLE]
    examples = [e for e in explainer.examples(rows.select(np.sort(order))) if len(parts_of(e)) > 1]
    if not examples:
        return None
    found = []
    for at in range(0, len(examples), MEASURED_AT_ONCE):
        some = examples[at : at + MEASURED_AT_ONCE]
        found.append(_asked_again(explainer, some, seed, at))
        if progress is not None and len(examples) > MEASURED_AT_ONCE:
            progress.rows("measured on", at + len(some), len(examples))
    whole, left = map(np.concatenate, zip(*found, strict=True))
    return _measured(explainer, whole, left)


def _asked_again(explainer: Explainer, examples: Sequence[Example], seed: int, first: int) -> tuple[Floats, Floats]:
    """What is left of each answer, (n,) and without parts of its example (n, orders, shares); `first` is the number of the
    first example."""
    outputs = explainer.outputs(examples)
    weights = explainer.weights(examples, outputs)
    changed: list[Example] = []
    for at, (example, weight) in enumerate(zip(examples, weights, strict=True), first):
        parts = parts_of(example)
        for ranked in _orders(np.array([weight[tokens].sum() for tokens in parts]), seed, at):
            changed += [explainer.without(example, _taken(parts, ranked, share)) for share in DELETED]
            changed += [explainer.without(example, _but(parts, ranked, share)) for share in KEPT]
    said = explainer.outputs(changed)
    of = torch.arange(len(examples)).repeat_interleave(len(ORDERS) * (len(DELETED) + len(KEPT)))
    named = has_exclusive_classes(explainer.target)
    whole = _probability(explainer.told(outputs, outputs), named)
    return whole, _probability(explainer.told(said, outputs[of]), named).reshape(len(examples), len(ORDERS), -1)


def _measured(explainer: Explainer, whole: Floats, left: Floats) -> Faithfulness:
    deleted, kept = left[:, :, : len(DELETED)], left[:, :, len(DELETED) :]
    at_kept = [DELETED.index(share) for share in KEPT]
    loss = whole[:, None] - deleted[:, :, at_kept].mean(axis=2)
    return Faithfulness(
        explainer.method,
        len(whole),
        "probability" if has_exclusive_classes(explainer.target) else explainer.target.score_unit,
        _measure(loss, 1),
        _measure(whole[:, None] - kept.mean(axis=2), -1),
        _measure(deleted.mean(axis=2), -1),
    )


@dataclass(frozen=True)
class Explanations:
    """Explanations of rows, in order, and the kinds of what was read.

    faithfulness: measured on a sample; None where nothing has two parts. cut: rows of which only the start was read. faults: of
    the rows that could not be read, which have none.
    """

    rows: Rows
    ports: list[str]
    found: list[Explanation]
    faithfulness: Faithfulness | None
    cut: int
    faults: list[Finding]

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, row: int) -> Explanation:
        return self.found[row]

    def records(self) -> Iterator[dict[str, Any]]:
        """Each row as JSON, with the file and row it stands in; behind them those that could not be read, which say why."""
        for at, explanation in enumerate(self.found):
            file, row = self.rows.table.origin(int(self.rows.rows[at]))
            yield {"file": file, "row": row, **asdict(explanation)}
        for fault in self.faults:
            yield {"file": fault.file, "row": fault.row, "error": fault.reason}


def explanations(
    explainer: Explainer, table: Table, sample: Table | None, progress: Progress | None = None
) -> Explanations:
    """Every row of a table explained that can be read, and measured on `sample`, by default on the table. Raises DataError where
    no row can."""
    rows, faults = _read(explainer, table)
    measured = faithfulness(explainer, rows if sample is None else _read(explainer, sample)[0], progress=progress)
    ports = [port.kind for port in explainer.mapping.arrow.sources]
    found: list[Explanation] = []
    for explanation in explainer.explain(rows):
        found.append(explanation)
        if progress is not None and len(rows) > ROWS_AT_ONCE:
            progress.rows("explained", len(found), len(rows))
    return Explanations(rows, ports, found, measured, explainer.cut_rows, faults)


def _read(explainer: Explainer, table: Table) -> tuple[Rows, list[Finding]]:
    rows = explainer.read(table)
    return rows, require_some(rows, table.rejected)


def _orders(weights: Floats, seed: int, at: int) -> tuple[Ints, Ints, Ints]:
    ranked = np.argsort(-weights, kind="stable")
    return ranked, np.random.Generator(np.random.Philox(key=[seed, at])).permutation(len(weights)), ranked[::-1]


def _taken(parts: Sequence[Ints], ranked: Ints, share: float) -> list[Ints]:
    """The first parts of an order: at least one, and never all."""
    return [parts[i] for i in ranked[: _count(len(parts), share)]]


def _but(parts: Sequence[Ints], ranked: Ints, share: float) -> list[Ints]:
    return [parts[i] for i in ranked[_count(len(parts), share) :]]


def _count(parts: int, share: float) -> int:
    return min(parts - 1, max(1, round(share * parts)))


def _probability(told: Floats, named: bool) -> Floats:
    return 1 / (1 + np.exp(-told)) if named else told


def _measure(by_order: Floats, sign: int) -> Measure:
    """From (n, 3): explained, random, reversed; `sign` is 1 where more is better."""
    explained, chance, backwards = by_order.T
    return Measure(*map(_score, (explained, sign * (explained - chance), sign * (explained - backwards))))


def _score(values: Floats) -> Score:
    if len(values) < 2:
        return Score(float(values[0]), float("nan"), float("nan"), 1)
    return with_interval(np.mean, values)
