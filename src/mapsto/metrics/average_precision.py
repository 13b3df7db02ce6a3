"""Boxes against boxes: how much they overlap, which detection found which object, and average precision as COCO counts it.

A box is (left, top, right, bottom) in pixels. Legend of shapes: d detections, g true boxes, t thresholds, n pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


THRESHOLDS = np.linspace(0.5, 0.95, 10)


RECALLS = np.linspace(0, 1, 101)


MOST_FOUND = 100  # detections of a class that count in a picture


ALIKE = 0.6  # of which two detections share so much, they are of one object


def overlaps(found: Floats, truth: Floats, crowd: NDArray[np.bool_]) -> Floats:
    """(d, g): the shared area over that of both; over the detection's own where the true box is a crowd."""
    low = np.maximum(found[:, None, :2], truth[None, :, :2])
    high = np.minimum(found[:, None, 2:], truth[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(-1)
    area_d, area_g = ((boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (found, truth))
    whole = np.where(crowd[None], area_d[:, None], area_d[:, None] + area_g[None] - shared)
    ratio: Floats = np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
    return ratio


def surest(found: Floats, kinds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of detections (d, 4), the surest first, the indices of those that share at most ALIKE with any surer one of their class
    that is kept."""
    alike = overlaps(found, found, np.zeros(len(found), np.bool_)) > ALIKE
    alike &= kinds[:, None] == kinds[None]
    kept: list[int] = []
    for d in range(len(found)):
        if not alike[d, kept].any():
            kept.append(d)
    return np.array(kept, np.int64)


@dataclass(frozen=True)
class Detections:
    """What was found of one class in one picture, the surest first: scores (d,), and by threshold whether each is right and
    whether it counts, (t, d). objects: how many there are to find."""

    scores: Floats
    right: NDArray[np.bool_]
    counts: NDArray[np.bool_]
    objects: int


def matched(found: Floats, scores: Floats, truth: Floats, crowd: NDArray[np.bool_]) -> Detections:
    """Each detection (d, 4), the surest first, takes the object (g, 4) that it overlaps most and that is free; crowds are never
    taken, and what lies in one does not count (COCO, Lin et al. 2014)."""
    order = np.argsort(-scores, kind="stable")[:MOST_FOUND]
    found, scores = found[order], scores[order]
    last = np.argsort(crowd, kind="stable")
    truth, crowd = truth[last], crowd[last]
    shared = overlaps(found, truth, crowd)
    right = np.zeros((len(THRESHOLDS), len(found)), np.bool_)
    counts = np.ones_like(right)
    for t, threshold in enumerate(THRESHOLDS):
        taken = np.zeros(len(truth), np.bool_)
        for d in range(len(found)):
            best = _best(shared[d], taken, crowd, min(float(threshold), 1 - 1e-10))
            if best is None:
                continue
            taken[best] = True
            right[t, d], counts[t, d] = not crowd[best], not crowd[best]
    return Detections(scores, right, counts, int((~crowd).sum()))


def _best(shared: Floats, taken: NDArray[np.bool_], crowd: NDArray[np.bool_], least: float) -> int | None:
    """The object that one detection takes: of equal ones the last, a crowd only where no object is left to take."""
    for among in (~crowd & ~taken, crowd):
        able = np.flatnonzero(among & (shared >= least))
        if len(able):
            return int(able[np.flatnonzero(shared[able] == shared[able].max())[-1]])
    return None


def _at(recall: Floats, precision: Floats) -> float:
    """The mean of the precision at the 101 recalls; 0 beyond what is reached."""
    place = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(place, len(precision))].mean())


@dataclass(frozen=True)
class _Merged:
    """The detections of one class in all pictures, the surest first."""

    picture: NDArray[np.int64]
    right: NDArray[np.bool_]
    counts: NDArray[np.bool_]
    objects: NDArray[np.int64]

    @classmethod
    def of(cls, found: Sequence[Detections]) -> _Merged:
        scores = np.concatenate([one.scores for one in found])
        order = np.argsort(-scores, kind="stable")
        picture = np.repeat(np.arange(len(found)), [len(one.scores) for one in found])[order]
        right, counts = (
            np.concatenate([getattr(one, name) for one in found], axis=1)[:, order] for name in ("right", "counts")
        )
        return cls(picture, right, counts, np.array([one.objects for one in found]))

    def curve(self, weight: NDArray[Any], thresholds: slice) -> tuple[Floats, Floats]:
        """Average precision and recall, (t,) each, with every picture as often as its weight (n,)."""
        times = weight[self.picture]
        right = np.cumsum(self.right[thresholds] * times, axis=1)
        wrong = np.cumsum((self.counts & ~self.right)[thresholds] * times, axis=1)
        recall = right / (weight @ self.objects)
        precision = right / (right + wrong + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        found = np.array([_at(r, p) for r, p in zip(recall, precision, strict=True)])
        return found, recall[:, -1] if recall.shape[1] else np.zeros(len(recall))


class Precision:
    """Average precision over pictures, of several classes; each figure can be had of any choice of pictures, also of one that
    takes some of them several times."""

    def __init__(self, classes: Sequence[Sequence[Detections]]) -> None:
        self.classes = [_Merged.of(found) for found in classes]

    def mean(self, pictures: NDArray[Any], thresholds: slice = slice(None)) -> float:
        """The mean over classes and thresholds of the precision at 101 recalls, over pictures (n,) by number; NaN where there is
        nothing to find."""
        return self._mean(pictures, thresholds, 0)

    def recall(self, pictures: NDArray[Any]) -> float:
        """The mean over classes and thresholds of the share that was found."""
        return self._mean(pictures, slice(None), 1)

    def _mean(self, pictures: NDArray[Any], thresholds: slice, figure: int) -> float:
        weight = np.bincount(pictures, minlength=len(self.classes[0].objects)) if self.classes else np.zeros(0)
        known = [found.curve(weight, thresholds)[figure] for found in self.classes if weight @ found.objects]
        return float(np.mean(known)) if known else float("nan")
