"""What the fits of a comparison say: scores, differences, labels saved, robustness, costs, and all of it in words.

Every interval is over draws of labels and over items at once (`crossed`); with one draw there is none.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.comparison.crossed_bootstrap import Means, interval
from mapsto.comparison.design import BLIND, CLASSICAL, SHIFT, TEST, Cell, Study, Way
from mapsto.comparison.learning_curves import ahead, reach
from mapsto.comparison.runs import Outcome
from mapsto.metrics.intervals import Floats, Score, mean_interval, to_json

LOOKED_AHEAD = (2, 4)


FEWEST_FOR_A_CURVE = 3


# By way and number of labels the score, and below it scores as they could have been, all drawn together: (1 + b,).
Drawn = dict[tuple[str, int], Floats]


@dataclass(frozen=True)
class Cost:
    """What one fit took: medians over the seeds. peak: megabytes, where the system tells."""

    seconds: float
    tokens: int
    peak: float | None


@dataclass(frozen=True)
class Point:
    """One way with so many labels. figures: the kind's other scores, over seeds. views: the score on other rows, and
    by how much disturbing the test rows changed it."""

    labels: int
    score: Score
    figures: dict[str, Score]
    views: dict[str, Score]
    changes: dict[str, Score]
    cost: Cost


@dataclass(frozen=True)
class Difference:
    """By how much one way is better than another with the same labels, and how many labels more the other needs for the same
    score: infinite where it never gets there with the labels there are, and never below `least`, which its first number gives.
    """

    way: str
    against: str
    labels: int
    points: Score
    saved: Score
    least: int


@dataclass(frozen=True)
class Foresight:
    """A curve looked ahead along a power law; and how well it had foretold its last point from those before it."""

    way: str
    at: dict[int, Score]
    last_foretold: Score


@dataclass(frozen=True)
class Comparison:
    """What a comparison found. curves: the points of each way, by its name, in the order of the labels."""

    arrow: str
    gain: str
    tested: int
    seeds: int
    pool: int
    curves: dict[str, list[Point]]
    differences: list[Difference]
    foresights: list[Foresight]
    headline: list[str]

    def record(self) -> dict[str, Any]:
        """All of it as JSON: what is infinite or has no interval is null."""
        found: dict[str, Any] = to_json(self)
        return found

    @property
    def labels(self) -> list[int]:
        """The numbers of labels, in order."""
        return sorted({point.labels for points in self.curves.values() for point in points})

    def lines(self) -> list[str]:
        """A table for a screen, and what it means."""
        labels = self.labels
        width = max(map(len, self.curves)) + 2
        head = " " * width + "".join(f"{count:,} labels".rjust(21) for count in labels)
        rows = []
        for name, points in self.curves.items():
            at = {point.labels: shown(point.score) for point in points}
            rows.append(name.ljust(width) + "".join(at.get(count, "").rjust(21) for count in labels))
        said = f"95 % interval over {self.seeds} draws and the items" if self.seeds > 1 else "one draw, so no interval"
        note = f"{self.gain} in % on {self.tested:,} items; mean, {said}"
        return [head, *rows, note, "", *self.headline]


def shown(score: Score) -> str:
    """For people, in percent: "81.4 (79.0–83.6)"."""
    middle = f"{100 * score.value:.1f}"
    return middle if math.isnan(score.low) else f"{middle} ({score.interval_percent})"


def signed(score: Score) -> str:
    """For people, in points: "+9.1 (+6.8 to +11.4)"."""
    if math.isnan(score.low):
        return f"{100 * score.value:+.1f}"
    return f"{100 * score.value:+.1f} ({100 * score.low:+.1f} to {100 * score.high:+.1f})"


def understand(study: Study, outcomes: dict[Cell, Outcome]) -> Comparison:
    """Everything that the finished cells say."""
    gains = {
        (way.name, count): _table(study, outcomes, way, count, TEST)
        for way in study.ways
        for count in study.labels
        if Cell(way, count, study.seeds[0]) in outcomes
    }
    items = len(study.views[TEST])
    drawn: Drawn = dict(zip(gains, _means(*gains.values()).T, strict=True))
    curves = {
        way.name: [
            _point(study, outcomes, way, count, interval(drawn[way.name, count], items))
            for count in _labels(way, drawn)
        ]
        for way in study.ways
    }
    differences = _differences(study, drawn, items)
    return Comparison(
        arrow=str(study.arrow),
        gain=study.gain,
        tested=items,
        seeds=len(study.seeds),
        pool=len(study.pool),
        curves=curves,
        differences=differences,
        foresights=_foresights(study, drawn, items),
        headline=_headline(study, curves, differences),
    )


def _labels(way: Way, drawn: Drawn) -> list[int]:
    return [count for name, count in drawn if name == way.name]


def _curve(way: Way, labels: list[int], drawn: Drawn) -> Floats:
    """The scores of a way by number of labels, (1 + b, m)."""
    return np.stack([drawn[way.name, count] for count in labels], axis=1)


def _table(study: Study, outcomes: dict[Cell, Outcome], way: Way, count: int, view: str) -> Any:
    """What each item was worth in each draw, (s, n)."""
    return np.stack([outcomes[Cell(way, count, seed)].gains[view].numpy() for seed in study.seeds])


def _means(*gains: Any) -> Floats:
    """The means of gains, (s, n) each, and below them means as they could have been, (1 + b, k); none beyond what can be: 1, and
    0 where no item is worth less."""
    together = np.stack(gains)
    return np.clip(Means.of(together).samples(), 0.0 if together.min() >= 0 else -np.inf, 1.0)


def over_draws(figures: list[float], most: float) -> Score:
    """A figure over draws; one that is never below 0 cannot be."""
    return mean_interval(figures, 0.0 if min(figures) >= 0 else -math.inf, most)


def _point(study: Study, outcomes: dict[Cell, Outcome], way: Way, count: int, score: Score) -> Point:
    found = [outcomes[Cell(way, count, seed)] for seed in study.seeds]
    amounts = study.target.unbounded_metrics
    clean = _table(study, outcomes, way, count, TEST)
    views, changes = {}, {}
    for view in study.views:
        if view != TEST:
            gains = _table(study, outcomes, way, count, view)
            views[view] = interval(_means(gains)[:, 0], gains.shape[1])
            if view != SHIFT:
                disturbed, usual = _means(gains, clean).T
                changes[view] = interval(disturbed - usual, gains.shape[1])
    peaks = [outcome.peak for outcome in found if outcome.peak is not None]
    return Point(
        labels=count,
        score=score,
        figures={
            name: over_draws([outcome.figures[name] for outcome in found], math.inf if name in amounts else 1.0)
            for name in found[0].figures
            if all(name in outcome.figures for outcome in found)
        },
        views=views,
        changes=changes,
        cost=Cost(
            seconds=statistics.median(outcome.seconds for outcome in found),
            tokens=round(statistics.median(outcome.tokens for outcome in found)),
            peak=statistics.median(peaks) if peaks else None,
        ),
    )


def _differences(study: Study, drawn: Drawn, items: int) -> list[Difference]:
    """Each start against random weights of its shape; each start, and random weights, against what read no other text."""
    found = []
    for other in study.ways:
        if other.start is not None or other.method == BLIND:
            continue
        labels = _labels(other, drawn)
        curve = _curve(other, labels, drawn)
        for way in study.ways:
            if way.start is None and (way.method != "full" or other.method == "full"):
                continue
            for place, count in enumerate(labels):
                if (way.name, count) in drawn:
                    scores = drawn[way.name, count]
                    points = interval(scores - curve[:, place], items)
                    saved = interval(reach(labels, curve, scores) - count, items)
                    found.append(Difference(way.name, other.name, count, points, saved, labels[0] - count))
    return found


def _foresights(study: Study, drawn: Drawn, items: int) -> list[Foresight]:
    found = []
    for way in study.ways:
        labels = _labels(way, drawn)
        if way.method == BLIND or len(labels) < FEWEST_FOR_A_CURVE:
            continue
        curve, last = _curve(way, labels, drawn), labels[-1]
        later = {times * last: interval(ahead(labels, curve, times * last), items) for times in LOOKED_AHEAD}
        found.append(Foresight(way.name, later, interval(ahead(labels[:-1], curve[:, :-1], last), items)))
    return found


def _headline(study: Study, curves: dict[str, list[Point]], differences: list[Difference]) -> list[str]:
    """In words: what each start is worth over random weights with the same method, where a simpler way is as good, and what is
    best with how many labels."""
    lines = []
    scratch = next((way.name for way in study.ways if way.start is None and way.method not in (BLIND, CLASSICAL)), None)
    classical = next((way.name for way in study.ways if way.method == CLASSICAL), None)
    for reference in filter(None, (scratch, classical)):
        for start in dict.fromkeys(way.start for way in study.ways if way.start is not None):
            names = [way.name for way in study.ways if way.start == start]
            told = [d for d in differences if d.against == reference and d.way in names]
            if told:
                lines.append(worth(Path(start).name, reference, told))
    for count in study.labels:
        at = {name: point for name, points in curves.items() for point in points if point.labels == count}
        best = max(at, key=lambda name: at[name].score.value)
        lines.append(f"{count:,} labels: best is {best}, {study.gain} {shown(at[best].score)} %.")
    return lines


def worth(start: str, reference: str, told: list[Difference]) -> str:
    """What a start is worth over a reference, by one method: of those fitted with the most numbers of labels the one that gains
    most in their mean. What is for few labels alone says nothing of the others."""
    by_way = [[d for d in told if d.way == way] for way in dict.fromkeys(d.way for d in told)]
    own = max(by_way, key=lambda found: (len(found), sum(d.points.value for d in found)))
    chosen = own[0].way
    better = [d for d in own if d.points.low > 0]
    worse = [d for d in own if d.points.high < 0]
    parts = [f"{signed(d.points)} points with {d.labels:,} labels" for d in own]
    said = f"{chosen} against {reference}: {'; '.join(parts)}."
    if math.isnan(own[0].points.low):
        return f"{said} One draw of labels tells no difference from chance."
    if not better:
        verdict = "it is worse" if worse else "no difference is told apart from chance"
        return f"{said} Starting from {start} does not help over {reference}: {verdict}."
    best = better[0]
    if not math.isinf(best.saved.value):
        said += f" At {best.labels:,} labels it saves {labels_saved(best)}."
    else:
        said += f" What it reaches with {best.labels:,} labels, {reference} does not reach with the labels you have."
    if worse:
        said += f" With {' and '.join(f'{d.labels:,}' for d in worse)} labels it is worse."
    elif len(better) < len(own):
        level = " and ".join(f"{d.labels:,}" for d in own if d not in better)
        said += f" With {level} labels the two are not told apart."
    return said


def labels_saved(difference: Difference) -> str:
    """For people: "about 180 labels (90 to 420)"; where the other way is ahead with its fewest labels, "-48 or less"."""
    saved = difference.saved

    def said(count: float, known: str) -> str:
        if math.isinf(count):
            return "more than you have"
        return f"{difference.least:,} or less" if count <= difference.least else known.format(_rounded(count))

    middle = said(saved.value, "about {} labels")
    if math.isnan(saved.low):
        return middle
    low, high = said(saved.low, "{}"), said(saved.high, "{}")
    return middle if low == high else f"{middle} ({low} to {high})"


def _rounded(value: float) -> str:
    """Two digits that count; more are not known."""
    if abs(value) < 10:
        return f"{round(value)}"
    digits = 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, digits):,.0f}"
