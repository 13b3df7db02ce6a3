"""Detection metrics: box overlap (IoU), matching of detections to objects, and average precision as COCO computes it.

Detections are matched once per image, class and IoU threshold. From the matches the average precision of any selection of
images, also with repetitions, is computed quickly, which makes a bootstrap over images cheap.
A detection is a predicted box, an object a true box; a box is (left, top, right, bottom) in pixels. A crowd is an object that
COCO annotates as one box around many things.
Legend of shapes: d detections, g objects, t IoU thresholds, n images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.metrics.intervals import Floats, bounded

Bools = NDArray[np.bool_]

# COCO's evaluation protocol (Lin et al. 2014).
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MAX_DETECTIONS = 100  # per class and picture; less confident ones are ignored

NMS_IOU = 0.6  # two detections of a class with a larger IoU are taken for the same object


def pairwise_iou(detections: Floats, objects: Floats, is_crowd: Bools) -> Floats:
    """Return the intersection over union, (d, g), of each detection (d, 4) with each object (g, 4), both boxes.

    is_crowd: (g,), whether each object is a crowd. For a crowd the intersection is divided by the detection's area, as in COCO.
    """
    low = np.maximum(detections[:, None, :2], objects[None, :, :2])
    high = np.minimum(detections[:, None, 2:], objects[None, :, 2:])
    intersection = np.clip(high - low, 0, None).prod(-1)
    area_d, area_g = ((boxes[:, 2:] - boxes[:, :2]).prod(-1) for boxes in (detections, objects))
    union = np.where(is_crowd[None], area_d[:, None], area_d[:, None] + area_g[None] - intersection)
    iou: Floats = np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)
    return iou


def non_maximum_suppression(detections: Floats, class_indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the indices of the detections that remain after non-maximum suppression within each class.

    A detection is removed if its IoU with a remaining, more confident detection of its class is above NMS_IOU.
    detections: (d, 4), boxes, the most confident first.
    class_indices: (d,), the class of each detection.
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
    """The detections of one class in one image, the most confident first, with the result of matching them to objects.

    scores: (d,), the confidence of each detection.
    is_correct: (t, d), whether each detection is matched to an object that is no crowd, at each IoU threshold.
    counts: (t, d), whether each detection counts as correct or wrong; one matched to a crowd is ignored.
    num_objects: number of objects to detect, without crowds.
    """

    scores: Floats
    is_correct: Bools
    counts: Bools
    num_objects: int


def match_detections(detections: Floats, scores: Floats, objects: Floats, is_crowd: Bools) -> Detections:
    """Match the detections (d, 4), in any order, and objects (g, 4) of one class in one image, as COCO does.

    At each of IOU_THRESHOLDS the detections are matched in order of falling confidence, each to the unmatched object with the
    largest IoU at or above the threshold. A crowd may be matched any number of times. Only the MAX_DETECTIONS most confident
    detections are kept.
    scores: (d,), the confidence of each detection. is_crowd: (g,), whether each object is a crowd.
    """
    order = np.argsort(-scores, kind="stable")[:MAX_DETECTIONS]
    detections, scores = detections[order], scores[order]
    # COCO tries the crowds after all other objects.
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
    """Return the index of the object to match a detection to; None if no object can be matched.

    It is the object of largest IoU, at least `threshold`, among those not yet matched. A crowd may be matched repeatedly, but is
    returned only if no other object can be. Of equal IoUs the last one wins, as in COCO's reference code.
    iou: (g,), IoU of the detection with each object. is_crowd: (g,), whether each object is a crowd.
    is_matched: (g,), whether each object is already matched to a more confident detection.
    """
    for candidates in (~is_crowd & ~is_matched, is_crowd):
        eligible = np.flatnonzero(candidates & (iou >= threshold))
        if len(eligible):
            return int(eligible[np.flatnonzero(iou[eligible] == iou[eligible].max())[-1]])
    return None


def _interpolated_precision(recall: Floats, precision: Floats) -> float:
    """Return the average precision: the mean precision at COCO's 101 recalls, 0 at recalls above the highest one reached.

    recall, precision: (d,), entry i over the i + 1 most confident detections.
    """
    index = np.searchsorted(recall, RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(index, len(precision))].mean())


@dataclass(frozen=True)
class _ClassDetections:
    """The matched detections of one class in all images, the most confident first.

    picture: (d,), index of each detection's image.
    is_correct: (t, d), whether each detection is matched to an object that is no crowd, at each IoU threshold.
    counts: (t, d), whether each detection counts as correct or wrong; one matched to a crowd is ignored.
    num_objects: (n,), number of objects of the class in each image, without crowds.
    """

    picture: NDArray[np.int64]
    is_correct: Bools
    counts: Bools
    num_objects: NDArray[np.int64]

    @classmethod
    def merge(cls, pictures: Sequence[Detections]) -> _ClassDetections:
        """Merge the detections of all images, sorted by confidence. pictures: the detections in each image."""
        scores = np.concatenate([detections.scores for detections in pictures])
        order = np.argsort(-scores, kind="stable")
        picture = np.repeat(np.arange(len(pictures)), [len(detections.scores) for detections in pictures])[order]
        is_correct, counts = (
            np.concatenate([getattr(detections, name) for detections in pictures], axis=1)[:, order]
            for name in ("is_correct", "counts")
        )
        return cls(picture, is_correct, counts, np.array([detections.num_objects for detections in pictures]))

    def precision_and_recall(self, weight: NDArray[Any], thresholds: slice) -> tuple[Floats, Floats]:
        """Return (average precision, recall) of the class at each IoU threshold, (t,) each.

        weight: (n,), how many times each image counts, which is 0 for an image that a bootstrap resample lacks.
        thresholds: which of IOU_THRESHOLDS to compute.
        """
        repeats = weight[self.picture]
        num_correct = np.cumsum(self.is_correct[thresholds] * repeats, axis=1)
        num_wrong = np.cumsum((self.counts & ~self.is_correct)[thresholds] * repeats, axis=1)
        recall = num_correct / (weight @ self.num_objects)
        # The tiny summand makes 0 / 0 a 0.
        precision = num_correct / (num_correct + num_wrong + np.spacing(1))
        # The envelope: the best precision at this or any higher recall.
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        average = np.array([_interpolated_precision(r, p) for r, p in zip(recall, precision, strict=True)])
        return average, recall[:, -1] if recall.shape[1] else np.zeros(len(recall))


class AveragePrecision:
    """COCO's average precision and recall, computed for any selection of images, as a bootstrap over images needs.

    classes: for each class the matched detections in each image.
    """

    def __init__(self, classes: Sequence[Sequence[Detections]]) -> None:
        self.classes = [_ClassDetections.merge(pictures) for pictures in classes]

    @bounded()
    def precision(self, pictures: NDArray[Any], thresholds: slice = slice(None)) -> float:
        """Return the mean over classes and IoU thresholds of the average precision on a selection of images.

        Classes without objects in the selection are left out; NaN if no class has any.
        pictures: indices of the selected images, which may repeat. thresholds: which of IOU_THRESHOLDS to use.
        """
        return self._mean(pictures, thresholds, 0)

    @bounded()
    def recall(self, pictures: NDArray[Any]) -> float:
        """Return the mean over classes and all IoU thresholds of the recall on a selection of images.

        Classes without objects in the selection are left out; NaN if no class has any.
        pictures: indices of the selected images, which may repeat.
        """
        return self._mean(pictures, slice(None), 1)

    def _mean(self, pictures: NDArray[Any], thresholds: slice, metric: int) -> float:
        """Return the mean of a metric over classes and IoU thresholds; NaN if no class has objects in the selected images.

        pictures: indices of the selected images, which may repeat. thresholds: which of IOU_THRESHOLDS to use.
        metric: 0 for average precision, 1 for recall.
        """
        # A bootstrap resample is a weight for each picture: how often it was drawn.
        weight = np.bincount(pictures, minlength=len(self.classes[0].num_objects)) if self.classes else np.zeros(0)
        values = [
            detections.precision_and_recall(weight, thresholds)[metric]
            for detections in self.classes
            # A class without objects has no recall; COCO leaves it out.
            if weight @ detections.num_objects
        ]
        return float(np.mean(values)) if values else float("nan")
