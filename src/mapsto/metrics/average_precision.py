"""Detection metrics: box overlap (IoU), matching of detections to objects, and average precision as COCO counts it.

Detections are matched once per picture, class and IoU threshold; average precision is then computed for any multiset of
pictures, which makes a bootstrap over pictures cheap.
A box is (left, top, right, bottom) in pixels. Legend of shapes: d detections, g true boxes, t thresholds, n pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.metrics.intervals import Floats

Bools = NDArray[np.bool_]

# COCO's evaluation protocol (Lin et al. 2014).
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100  # per class and picture

NMS_IOU = 0.6  # two detections of a class that overlap more than this are of one object


def pairwise_iou(detections: Floats, objects: Floats, is_crowd: Bools) -> Floats:
    """Return the intersection over union (d, g) of each detection with each object.

    Where the object is a crowd, the intersection is divided by the detection's own area instead, as in COCO.
    """
    low = np.maximum(detections[:, None, :2], objects[None, :, :2])
    high = np.minimum(detections[:, None, 2:], objects[None, :, 2:])
    intersection = np.clip(high - low, 0, None).prod(-1)
    area_d, area_g = ((boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (detections, objects))
    union = np.where(is_crowd[None], area_d[:, None], area_d[:, None] + area_g[None] - intersection)
    iou: Floats = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return iou


def non_maximum_suppression(detections: Floats, class_indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of the detections that no stronger detection of their class overlaps by more than NMS_IOU.

    detections: boxes (d, 4), the most confident first.
    """
    overlap = pairwise_iou(detections, detections, np.zeros(len(detections), np.bool_)) > NMS_IOU
    # Objects of different classes may share a box.
    overlap &= class_indices[:, None] == class_indices[None]
    survivors: list[int] = []
    for d in range(len(detections)):
        if not overlap[d, survivors].any():
            survivors.append(d)
    return np.array(survivors, np.int64)


@dataclass(frozen=True)
class Detections:
    """The matched detections of one class in one picture, the most confident first.

    scores: confidence (d,).
    is_correct: by threshold, whether the detection matched an object, (t, d).
    counts: by threshold, whether the detection counts at all, (t, d); one inside a crowd does not.
    num_objects: how many objects there are to detect.
    """

    scores: Floats
    is_correct: Bools
    counts: Bools
    num_objects: int


def match_detections(detections: Floats, scores: Floats, objects: Floats, is_crowd: Bools) -> Detections:
    """Match detections (d, 4) to objects (g, 4) of one class in one picture, as COCO does.

    In the order of confidence, each detection takes the free object that it overlaps most. A crowd may be matched any number of
    times, and detections matched to one do not count.
    """
    order = np.argsort(-scores, kind="stable")[:MAX_DETECTIONS]
    detections, scores = detections[order], scores[order]
    # COCO tries the crowds last.
    crowds_last = np.argsort(is_crowd, kind="stable")
    objects, is_crowd = objects[crowds_last], is_crowd[crowds_last]
    iou = pairwise_iou(detections, objects, is_crowd)
    is_correct = np.zeros((len(IOU_THRESHOLDS), len(detections)), np.bool_)
    counts = np.ones_like(is_correct)
    for t, threshold in enumerate(IOU_THRESHOLDS):
        is_matched = np.zeros(len(objects), np.bool_)
        for d in range(len(detections)):
            # COCO caps the threshold below 1, so that a perfect box still matches.
            best = _best_match(iou[d], is_matched, is_crowd, min(float(threshold), 1 - 1e-10))
            if best is None:
                continue
            is_matched[best] = True
            is_correct[t, d], counts[t, d] = not is_crowd[best], not is_crowd[best]
    return Detections(scores, is_correct, counts, int((~is_crowd).sum()))


def _best_match(iou: Floats, is_matched: Bools, is_crowd: Bools, threshold: float) -> int | None:
    """Return the index of the object that one detection takes, or None.

    Of equal overlaps the last wins, as in COCO's reference code; a crowd is taken only where no object is left.
    """
    for candidates in (~is_crowd & ~is_matched, is_crowd):
        eligible = np.flatnonzero(candidates & (iou >= threshold))
        if len(eligible):
            return int(eligible[np.flatnonzero(iou[eligible] == iou[eligible].max())[-1]])
    return None


def _interpolated_precision(recall: Floats, precision: Floats) -> float:
    """Return the mean precision at COCO's 101 recalls; 0 beyond the highest recall reached."""
    index = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(index, len(precision))].mean())


@dataclass(frozen=True)
class _ClassDetections:
    """The detections of one class in all pictures, the most confident first.

    picture: the index of each detection's picture, (d,).
    is_correct, counts: as in `Detections`, (t, d).
    num_objects: objects of the class in each picture, (n,).
    """

    picture: NDArray[np.int64]
    is_correct: Bools
    counts: Bools
    num_objects: NDArray[np.int64]

    @classmethod
    def merge(cls, pictures: Sequence[Detections]) -> _ClassDetections:
        scores = np.concatenate([detections.scores for detections in pictures])
        order = np.argsort(-scores, kind="stable")
        picture = np.repeat(np.arange(len(pictures)), [len(detections.scores) for detections in pictures])[order]
        is_correct, counts = (
            np.concatenate([getattr(detections, name) for detections in pictures], axis=1)[:, order]
            for name in ("is_correct", "counts")
        )
        return cls(picture, is_correct, counts, np.array([detections.num_objects for detections in pictures]))

    def precision_and_recall(self, weight: NDArray[Any], thresholds: slice) -> tuple[Floats, Floats]:
        """Return average precision and recall by threshold, (t,) each, with every picture repeated `weight` (n,) times."""
        repeats = weight[self.picture]
        num_correct = np.cumsum(self.is_correct[thresholds] * repeats, axis=1)
        num_wrong = np.cumsum((self.counts & ~self.is_correct)[thresholds] * repeats, axis=1)
        recall = num_correct / (weight @ self.num_objects)
        # The smallest float keeps 0 / 0 at 0.
        precision = num_correct / (num_correct + num_wrong + np.spacing(1))
        # The envelope: the best precision at this or any higher recall.
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        average = np.array([_interpolated_precision(r, p) for r, p in zip(recall, precision, strict=True)])
        return average, recall[:, -1] if recall.shape[1] else np.zeros(len(recall))


class AveragePrecision:
    """COCO's average precision and recall over pictures of several classes.

    Each metric takes the indices of the pictures it is over, some of them perhaps repeated, as a bootstrap draws them.
    """

    def __init__(self, classes: Sequence[Sequence[Detections]]) -> None:
        self.classes = [_ClassDetections.merge(pictures) for pictures in classes]

    def precision(self, pictures: NDArray[Any], thresholds: slice = slice(None)) -> float:
        """Return the average precision, the mean over classes and thresholds; NaN where there are no objects.

        pictures: indices (n,).
        """
        return self._mean(pictures, thresholds, 0)

    def recall(self, pictures: NDArray[Any]) -> float:
        """Return the recall, the mean over classes and thresholds; NaN where there are no objects."""
        return self._mean(pictures, slice(None), 1)

    def _mean(self, pictures: NDArray[Any], thresholds: slice, metric: int) -> float:
        # A bootstrap resample is a weight for each picture: how often it was drawn.
        weight = np.bincount(pictures, minlength=len(self.classes[0].num_objects)) if self.classes else np.zeros(0)
        values = [
            detections.precision_and_recall(weight, thresholds)[metric]
            for detections in self.classes
            if weight @ detections.num_objects
        ]
        return float(np.mean(values)) if values else float("nan")
