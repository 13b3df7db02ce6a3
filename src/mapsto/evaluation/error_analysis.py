"""Where a model fails: slices of the rows, surest mistakes, labels that may be wrong, and what silence would gain."""

from __future__ import annotations

import copy
import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from collections.abc import Mapping as Dict
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mapsto import kinds
from mapsto.errors import UsageError, place, shorten
from mapsto.evaluation.evaluate import Answers, Evaluation
from mapsto.explain.attribution import Explainer, Part
from mapsto.metrics.intervals import Floats, Score, mean_score, with_interval
from mapsto.model.mapping import Mapping
from mapsto.sequence.corruption import generator
from mapsto.sequence.piece import Ints
from mapsto.task.capabilities import Attributable, Classes, Comparable, Describable, has_exclusive_classes

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)


SHOWN, SHOWN_ON_A_SCREEN = 20, 5


EXAMPLES = 8


SMALLEST_SLICE = 10


MOST_VALUES = 20  # of a column that are slices, the commonest; a number with more is cut into quarters


CHANCE = 0.05


# With 5 % of the labels of SST-2 made wrong, 63 % of the first 20 were these with a model of 84 % accuracy, 33 % with 70 %.
IF_NOT_THE_MODEL = "or the model is: the weaker it is, the more of these are its own mistakes"


@dataclass(frozen=True)
class Slice:
    """Rows that have something in common: their score, and the chance of one so unlike the other rows' by luck, corrected for
    having looked at many slices (Holm 1979)."""

    name: str
    score: Score
    others: float
    chance: float

    @property
    def stands_out(self) -> bool:
        """Whether luck does not explain it."""
        return self.chance < CHANCE


@dataclass(frozen=True)
class Kept:
    """Answering only where the model is at least `threshold` sure: the share of rows answered, and their score."""

    threshold: float
    coverage: float
    score: Score

    @property
    def shown(self) -> str:
        """The threshold, as it is typed."""
        return np.format_float_positional(self.threshold, min_digits=3)


@dataclass(frozen=True)
class Case:
    """One row to look at: the one at `at` of those answered. parts: which parts of it decided, where that was asked."""

    at: int
    file: str
    row: int
    read: str
    truth: str
    answer: str
    confidence: float
    parts: list[Part]

    @property
    def percent(self) -> str:
        """The confidence, for people."""
        return f"{100 * self.confidence:.0f} %"

    def __str__(self) -> str:
        said = f"{self.truth!r} answered as {self.answer!r} ({self.percent})"
        read = "" if self.read == self.file else f": {shorten(self.read)}"
        return f"{place(self.file, self.row)}: {said}{read}"


@dataclass(frozen=True)
class Scrutiny:
    """What a close look at the answers to one target found. suspects: None without the package that finds them. examples: a few
    rows drawn at random."""

    gain: str
    slices: list[Slice]
    kept: list[Kept]
    mistakes: list[Case]
    suspects: list[Case] | None
    examples: list[Case]

    def lines(self) -> list[str]:
        """For a screen."""
        found = []
        if worst := [part for part in self.slices if part.stands_out]:
            found += ["", f"slices that stand out ({len(self.slices)} looked at, corrected for that):"]
            found += [
                f"  {part.name:<40} {part.score.percent}, others {100 * part.others:.1f} %" for part in worst[:10]
            ]
        if self.kept:
            found += ["", "answering only when sure (predict --min-confidence):"]
            for kept in self.kept:
                rows = f"{100 * kept.coverage:5.1f} % of the rows"
                found.append(f"  at least {kept.shown} sure: {rows}, {kept.score.percent}")
        looked_at = (
            ("surest mistakes", self.mistakes),
            (f"labels that may be wrong, {IF_NOT_THE_MODEL}", self.suspects or []),
        )
        for title, cases in looked_at:
            if cases:
                found += ["", f"{title}:", *(f"  {case}" for case in cases[:SHOWN_ON_A_SCREEN])]
        return found


def looks_at(found: Evaluation, mapping: Mapping | None, device: torch.device) -> list[tuple[Answers, Scrutiny]]:
    """A close look at the answers to every target of which they are right or wrong; with what decided where the `mapping` that
    gave them is here to say it."""
    looks = []
    for answers in found.answers:
        parts = {} if mapping is None else explained(answers, mapping, device)
        if (look := scrutinize(answers, parts)) is not None:
            looks.append((answers, look))
    return looks


def explained(answers: Answers, mapping: Mapping, device: torch.device) -> dict[int, list[Part]]:
    """Which parts decided, of the surest mistakes and of the examples; nothing for answers that cannot be explained."""
    first = next((target for target in mapping.targets if isinstance(target, Attributable)), None)
    if first is None or first.state() != answers.target.state():
        return {}  # an Explainer is about the first target
    rows = np.unique(np.concatenate([_surest(answers), _drawn(answers)]))
    try:
        explainer = Explainer(copy.deepcopy(mapping), device)
        found = [explanation.parts for explanation in explainer.explain(answers.rows.select(rows))]
    except UsageError:
        return {}
    return dict(zip(rows.tolist(), found, strict=True))


def scrutinize(answers: Answers, parts: Dict[int, list[Part]] | None = None) -> Scrutiny | None:
    """A close look at one target's answers; None for answers that are neither right nor wrong. parts: see `explained`."""
    target = answers.target
    gains = target.per_item_metric(answers.outputs, answers.truths) if isinstance(target, Comparable) else None
    if gains is None:
        return None
    assert isinstance(target, Comparable)
    worth = gains.astype(np.float64)
    sure = target.confidence(answers.outputs) if isinstance(target, Classes) else None
    return Scrutiny(
        target.primary_metric,
        _slices(answers, worth),
        [] if sure is None else _kept(worth, sure),
        _cases(answers, _surest(answers), parts or {}),
        _suspects(answers) if has_exclusive_classes(target) else [],
        _cases(answers, _drawn(answers), parts or {}),
    )


def _kept(worth: Floats, sure: Floats) -> list[Kept]:
    found: list[Kept] = []
    for wanted in COVERAGES:
        threshold = _short_of(float(np.sort(sure)[::-1][max(1, round(wanted * len(sure))) - 1]))
        chosen = sure >= threshold
        kept = Kept(threshold, float(chosen.mean()), with_interval(mean_score, worth[chosen]))
        if not found or kept.coverage < found[-1].coverage:
            found.append(kept)
    return found


def _short_of(threshold: float) -> float:
    """A probability that can be typed, no higher: of three digits, and up to six as it comes near 1."""
    digits = 3 if threshold < 0.99 else 6
    return float(Decimal(threshold).quantize(Decimal(1).scaleb(-digits), ROUND_FLOOR))


def _slices(answers: Answers, worth: Floats) -> list[Slice]:
    """Slices from the likeliest to be no luck on; those that hold nearly all rows or nearly none say nothing."""
    tried = [
        (name, chosen)
        for name, chosen in _candidates(answers)
        if SMALLEST_SLICE <= chosen.sum() <= len(chosen) - SMALLEST_SLICE
    ]
    chances = np.array([_chance(worth[chosen], worth[~chosen]) for _, chosen in tried])
    corrected = np.empty(len(chances))
    order = np.argsort(chances, kind="stable")
    steps = chances[order] * np.arange(len(chances), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    found = [
        Slice(name, with_interval(mean_score, worth[chosen]), float(worth[~chosen].mean()), float(chance))
        for (name, chosen), chance in zip(tried, corrected, strict=True)
    ]
    return sorted(found, key=lambda part: (part.chance, part.score.value))


def _candidates(answers: Answers) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    rows = answers.rows
    for port, values in zip(answers.arrow.sources, rows.sources, strict=True):
        kind = kinds.source(port.kind)
        if issubclass(kind, Describable):
            yield from _quarters(f"{kind.size_unit} of {port.column}", np.array([kind.size(value) for value in values]))
    yield from _of_classes(answers)
    used = {port.column for port in (*answers.arrow.sources, *answers.arrow.targets)}
    for column in rows.table.columns:
        if column in used:
            continue
        cells = [rows.table.column(column)[int(row)] for row in rows.rows]
        yield f"{column} is blank", np.array([cell is None for cell in cells])
        shown = np.array(["" if cell is None else str(cell) for cell in cells])
        different = Counter(shown[shown != ""].tolist())
        if len(different) > MOST_VALUES and (numbers := _numbers(cells)) is not None:
            yield from _quarters(column, numbers)
        else:
            for value, _ in different.most_common(MOST_VALUES):
                yield f"{column} is {shorten(value, 30)}", shown == value


def _of_classes(answers: Answers) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The rows of each true class, and together those of the classes that have too few to be looked at alone."""
    target = answers.target
    names = [set(target.class_names(truth)) if isinstance(target, Classes) else set() for truth in answers.truths]
    counts = Counter(name for found in names for name in found)
    verb = "is" if has_exclusive_classes(target) else "holds"
    for name in sorted(counts):
        yield f"truth {verb} {name}", np.array([name in found for found in names])
    rare = {name for name, count in counts.items() if count < SMALLEST_SLICE}
    yield f"truth {verb} one of {len(rare)} rare classes", np.array([bool(rare & found) for found in names])


def _numbers(cells: Sequence[object]) -> Floats | None:
    """Cells as numbers, blank ones as NaN; None where some are no numbers. A CSV file has them as text."""
    try:
        found = np.array([np.nan if cell is None else float(cell) for cell in cells])  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return None if np.isinf(found).any() else found


def _quarters(name: str, values: NDArray[Any]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    edges = np.unique(np.nanquantile(values, [0, 0.25, 0.5, 0.75, 1]))
    for at, (low, high) in enumerate(pairwise(edges.tolist())):
        chosen = (values >= low if at == 0 else values > low) & (values <= high)
        yield f"{name} {'from' if at == 0 else 'above'} {low:,g} to {high:,g}", chosen


def _chance(inside: Floats, outside: Floats) -> float:
    """Two-sided: Fisher's exact test for right and wrong, else Welch's."""
    from scipy import stats  # a second to import

    if set(np.unique(np.concatenate([inside, outside]))) <= {0.0, 1.0}:
        table = [[int(part.sum()), len(part) - int(part.sum())] for part in (inside, outside)]
        return float(stats.fisher_exact(table)[1])
    return float(np.nan_to_num(stats.ttest_ind(inside, outside, equal_var=False).pvalue, nan=1.0))


def _surest(answers: Answers) -> Ints:
    """The rows that are wrong although the model was sure, the surest first."""
    target = answers.target
    if not isinstance(target, Classes) or not isinstance(target, Comparable):
        return np.zeros(0, np.int64)
    sure, worth = target.confidence(answers.outputs), target.per_item_metric(answers.outputs, answers.truths)
    if worth is None:
        return np.zeros(0, np.int64)
    wrong = np.flatnonzero(worth < 1)
    return wrong[np.argsort(-sure[wrong], kind="stable")][:SHOWN]


def _drawn(answers: Answers) -> Ints:
    """A few rows, right or wrong, always the same."""
    count = len(answers.rows)
    return np.sort(generator(0, count, 0).permutation(count)[:EXAMPLES])


def _suspects(answers: Answers) -> list[Case] | None:
    """Rows whose label may be wrong (confident learning, Northcutt et al. 2021), the likeliest first."""
    try:
        find = importlib.import_module("cleanlab.filter").find_label_issues
    except ImportError:
        return None
    assert isinstance(answers.target, Classes)
    classes = answers.target.classes
    known = np.array([at for at, truth in enumerate(answers.truths) if truth in classes], np.int64)
    labels = np.array([classes.index(answers.truths[at]) for at in known])
    if len(set(labels.tolist())) < 2:
        return []
    probabilities = torch.softmax(answers.outputs.double(), dim=-1).numpy()[known]
    found = find(labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1)
    return _cases(answers, known[np.asarray(found, np.int64)][:SHOWN], {})


def _cases(answers: Answers, rows: Ints, parts: Dict[int, list[Part]]) -> list[Case]:
    target = answers.target
    if not len(rows) or not isinstance(target, Classes):
        return []
    sure = target.confidence(answers.outputs)
    decoded = answers.target.decode(answers.outputs[torch.from_numpy(rows)])
    found = []
    for row, answer in zip(rows.tolist(), decoded, strict=True):
        file, line = answers.rows.table.origin(int(answers.rows.rows[row]))
        read = "\n".join(str(column[row]) for column in answers.rows.sources)
        said, truth = target.brief(answer.get(target.kind, "")), target.brief(answers.truths[row])
        found.append(Case(row, file, line, read, truth, said, float(sure[row]), parts.get(row, [])))
    return found
