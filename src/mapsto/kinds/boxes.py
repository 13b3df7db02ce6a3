"""boxes: the objects in an image, each as a rectangle and a class (object detection).

Each query, a vector computed from the image, predicts one box or no box. By default there is a query for each cell of a grid
over the image. Its vector is interpolated from the tokens around the cell, and a few layers of the head mix neighbouring
cells. In training a true box is assigned to the cells near its centre (FCOS, Tian et al. 2019). Where predicted boxes of a
class overlap, only the most confident one is kept (non-maximum suppression). Each class has a sigmoid of its own.
A starting model may instead have learnt queries: extra tokens behind the patches of each image (YOLOS, Fang et al. 2021).
Each true box is matched to one of them (DETR, Carion et al. 2020), which learns much more slowly from a few hundred images.
Learnt queries are classified by a softmax, in which "no box" is one more class, as in the published models.
Legend of shapes: n examples, q queries, m = n·q, c classes, k boxes, d width.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.errors import BadCell, DataError, UsageError, fault_of
from mapsto.metrics.average_precision import AveragePrecision, match_detections, non_maximum_suppression
from mapsto.metrics.intervals import mean_score
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import MixturePart, Piece
from mapsto.task.capabilities import require
from mapsto.task.item_counts import ItemCounts
from mapsto.task.printed_lists import parse_list
from mapsto.task.readout import Queried
from mapsto.task.source import Learning, Source
from mapsto.task.source_capabilities import Mark, Spatial
from mapsto.task.target import Metric, State
from mapsto.task.target_capabilities import Advising, Classes, Comparable, Located, Mixable
from mapsto.text.characters import find_invalid_character
from mapsto.vision import detection_annotations
from mapsto.vision.annotations.unread import describe_box, describe_folder
from mapsto.vision.detection_heads import (
    BoxHead,
    LearntHead,
    assign_by_centre,
    focal_loss,
    generalised_iou,
    grid_centres,
    match_one_to_one,
)

# The least and the most queries along each side of the grid, and how many queries there should be for each true box.
GRIDS, QUERIES_A_BOX = (16, 32), 32
LIKELIEST = 300  # candidates of a picture that are considered before overlapping ones are suppressed

# Weights of class, distance and overlap in the loss (Carion et al. 2020); the last two also in the matching.
CLASS_WEIGHT, DISTANCE_WEIGHT, OVERLAP_WEIGHT = 2.0, 5.0, 2.0
NO_BOX_WEIGHT = 0.1  # of the class "no box" of learnt queries in the loss (Carion et al. 2020)

MIN_VISIBLE = 0.25  # the share of a box that must be visible for it to be learnt
MIN_CONFIDENCE, MAX_BOXES = 0.4, 100  # the least confidence of a box in an answer, and the most boxes

# The head of a grid is new, so it learns ten times as fast as the starting model.
GRID_LEARNING, QUERY_LEARNING = Learning(20, 100, 250, 1e-4, head_factor=10), Learning(20, 100, 250, 1e-4)

Floats = NDArray[np.float64]
VisibleBox = tuple[int, Floats, Floats]  # class, first and last corner (y, x) as fractions of the visible picture


@dataclass(frozen=True)
class Box:
    """A labelled rectangle, given by the coordinates of its four edges in pixels of the raw image.

    crowd: True for a rectangle around many objects without boxes of their own (COCO). It is neither learnt nor scored.
    """

    label: str
    left: float
    top: float
    right: float
    bottom: float
    crowd: bool = False

    def __str__(self) -> str:
        return f"{self.label} at {self.left:.0f}, {self.top:.0f} to {self.right:.0f}, {self.bottom:.0f}"


def _is_share(box: Box) -> bool:
    """Return whether the sides of a box are probably shares of the picture's size: they lie between 0 and 1, some within."""
    sides = (box.left, box.top, box.right, box.bottom)
    return all(0 <= side <= 1 for side in sides) and any(0 < side < 1 for side in sides)


def _parse_box(entry: object) -> Box:
    """Return the box that one entry of a cell describes. Raises BadCell.

    entry: {"label", "box": [left, top, right, bottom]}, or COCO's {"category", "bbox": [left, top, width, height]}.
    """
    if not isinstance(entry, dict):
        raise BadCell(f"a box is a dict, not {type(entry).__name__}")
    label = entry.get("label", entry.get("category"))
    sides = entry.get("box", entry.get("bbox"))
    if not isinstance(label, str | int | np.integer | None) or isinstance(sides, str | dict):
        raise BadCell(f"a box has a label, which is text or a number, and a list of four sides{describe_box(entry)}")
    try:
        left, top, right, bottom = map(float, sides)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError) as error:
        reason = f'a box has four sides: "box": [left, top, right, bottom]{describe_box(entry)}'
        raise BadCell(reason) from error
    if "box" not in entry:
        right, bottom = left + right, top + bottom
    if label is None or not str(label).strip() or (problem := find_invalid_character(str(label))) is not None:
        raise BadCell("a box has no label" if label is None or not str(label).strip() else f"a label holds {problem}")
    box = Box(str(label).strip(), left, top, right, bottom, bool(entry.get("crowd")))
    if not all(map(math.isfinite, (left, top, right, bottom))) or right <= left or bottom <= top:
        raise BadCell(f"a box without an area: {box}")
    return box


class Boxes(Located, Advising, Classes, Comparable, Mixable):
    """A target that answers with the boxes in an image, each with one of the classes seen in training.

    classes: names of the classes in the order of the logits.
    grid: number of queries along each side of the image; not used if the starting model has learnt queries.
    usual: mean number of boxes in a training image, at least 1; it scales the loss.
    """

    kind = "boxes"
    readout = Queried()
    head_name = "box_head"
    class_weight_names = "named."
    lies_in = "image"
    primary_metric = "found"
    item_name = "boxes"
    mixture_layouts = ("placed",)

    def __init__(self, classes: Sequence[str] = (), grid: int = GRIDS[0], usual: float = 1.0) -> None:
        self.classes, self.grid, self.usual = list(classes), grid, usual
        self.num_learnt = 0  # number of learnt queries of the starting model

    @property
    def learning(self) -> Learning:
        """Return the default numbers of epochs and steps and the learning rates of a fit.

        A grid's head has a higher learning rate.
        """
        return QUERY_LEARNING if self.num_learnt else GRID_LEARNING

    @property
    def queries(self) -> int:
        """Return the number of queries of an image. Each query predicts at most one true box."""
        return self.num_learnt or self.grid**2

    @staticmethod
    def fits(values: Sequence[object]) -> bool:
        """Return whether all cells of a column are lists of boxes, such lists as JSON, dicts of lists (Hugging Face), or None.

        A cell {"fault": reason}, which stands for an annotation file that could not be read, is allowed too.
        """
        cells = [value for value in values if value is not None and fault_of(value) is None]
        try:
            entries = [entry for cell in cells for entry in _parse_list(cell)]
        except BadCell:
            return False
        return any(value is not None for value in values) and all(isinstance(entry, dict) for entry in entries)

    @staticmethod
    def samples() -> list[Any]:
        """Return three cells: one without boxes, one with a box, and one with two boxes that overlap, as JSON."""
        cat = {"label": "cat", "box": [2, 3, 12, 11]}
        return [[], [cat], json.dumps([cat, {"label": "狗", "bbox": [0, 0, 8, 8]}], ensure_ascii=False)]

    @staticmethod
    def read(cell: object) -> tuple[Box, ...]:
        """Return the boxes in a cell. Raises BadCell.

        cell: a list of dicts, such a list as JSON, or a dict of lists (Hugging Face).
        """
        if cell is None:
            raise BadCell("no boxes are given; an empty list says that there is nothing")
        return tuple(map(_parse_box, _parse_list(cell)))

    @staticmethod
    def misplaced(answer: tuple[Box, ...], value: Any) -> str:
        """Return a message on the first box of `answer` of which less than a quarter of the area lies inside the image `value`.

        Such a box is not learnt. Boxes in shares of the picture's size, where pixels are expected, have a message of their own.
        Returns "" if there is no such box.
        """
        if answer and all(_is_share(box) for box in answer):
            return (
                "all sides of the boxes lie between 0 and 1, as shares of the width and height; pixels are expected: multiply "
                f"them by {value.width} and {value.height}"
            )
        for box in answer:
            wide = min(box.right, value.width) - max(box.left, 0)
            high = min(box.bottom, value.height) - max(box.top, 0)
            if max(wide, 0) * max(high, 0) < MIN_VISIBLE * (box.right - box.left) * (box.bottom - box.top):
                return f"a box outside the picture of {value.width} × {value.height} pixels: {box}"
        return ""

    @staticmethod
    def annotations(path: Path, within: Callable[[Path], Sequence[Path]]) -> dict[str, Any]:
        """Return the boxes read from COCO, Pascal VOC or YOLO files, by the path of the image to which they belong.

        path: a COCO file, or a folder with annotation files. within: function that lists all files below a folder.
        Raises DataError if a COCO file or a file of class names is damaged, OSError if a file cannot be read.
        """
        return dict(detection_annotations.read_annotations(path, within))

    @classmethod
    def advise(cls, columns: Mapping[str, Sequence[object]], folder: Path) -> str:
        """Return a sentence on annotations in the folder of the table whose format is not read; "" if there are none."""
        return describe_folder(folder)

    @classmethod
    def count_published_classes(cls, tensors: Mapping[str, Tensor]) -> int | None:
        """Return the number of classes of a published model's box head, not counting "no box"; None if the model has no box head.

        tensors: the model's weights, renamed to the parameter names of mapsto's models.
        """
        bias = tensors.get(f"{cls.head_name}.named.bias")
        return None if bias is None else len(bias) - 1

    def learn(self, answers: Sequence[tuple[Box, ...]], balance: bool = False) -> None:
        """Learn from the training answers the classes (sorted by name), the mean number of boxes, and the size of the grid.

        The grid gets more queries the more boxes the fullest image has, from 16 × 16 to 32 × 32. Crowds do not count.
        balance: not used. Raises DataError if no answer has a box.
        """
        counted = [[box for box in answer if not box.crowd] for answer in answers]
        counts = Counter(box.label for boxes in counted for box in boxes)
        if not counts:
            raise DataError("no row has a box")
        # Those of a start, which this model goes on from, are kept in their order.
        self.classes = self.classes or sorted(counts)
        self.usual = max(1.0, counts.total() / len(counted))
        self.grid = int(np.clip(math.ceil((QUERIES_A_BOX * max(map(len, counted))) ** 0.5), *GRIDS))

    def bind(self, sources: Mapping[str, Source], transform: Any) -> None:
        """Store the image source and its number of learnt queries. Raises UsageError if the arrow has no image source.

        transform: not used.
        """
        source = sources.get(self.lies_in)
        if source is None:
            raise UsageError("boxes lie in a picture: the arrow reads none")
        self.source = require(source, Spatial, "asked about places")
        self.num_learnt = self.source.queries

    def questions(self, pieces: Sequence[Piece]) -> Answer:
        """Return an answer without boxes that names the tokens from which each query's vector is read: values (q, 5), all −1.

        A learnt query is read at its own token. A query on the grid is interpolated from the four patches around it.
        """
        (port,) = (port for port, piece in enumerate(pieces) if piece.kind == self.lies_in)
        first, no_boxes = sum(map(len, pieces[:port])), np.full((self.queries, 5), -1.0, np.float32)
        if self.num_learnt:
            # Learnt queries are the last tokens of the picture's piece.
            end = first + len(pieces[port])
            return Answer(no_boxes, np.arange(end - self.num_learnt, end))
        indices, shares = self.source.tokens_around(pieces[port], (self.grid, self.grid))
        return Answer(no_boxes, first + indices, shares=shares)

    def encode(self, answer: tuple[Box, ...], pieces: Sequence[Piece]) -> Answer:
        """Return the boxes as values (q, 5): class index, centre x, centre y, width, height, as fractions of the visible image.

        The boxes fill the first rows, the largest first; the other rows are −1. The loss assigns boxes to queries.
        Boxes that are crowds, of unknown classes, or mostly outside the visible image are left out.
        """
        return self._to_answer(self._visible_boxes(answer, self._find_piece(pieces)), pieces)

    def mix_answers(
        self, answers: Sequence[tuple[Box, ...]], pieces: Sequence[Piece], parts: Sequence[MixturePart]
    ) -> Answer:
        """Return the encoded boxes of all images in a mosaic, each box moved to where the mosaic shows its image.

        answers: the boxes of each image. pieces: the source pieces of the mosaic's example.
        parts: for each image, the tokens of the mosaic that show it.
        """
        # Positions count patches, so dividing by the grid gives fractions of the mosaic, as boxes are encoded.
        grid = self._find_piece(pieces).positions.max(0) + 1
        boxes: list[VisibleBox] = []
        for answer, part in zip(answers, parts, strict=True):
            if part.piece is not None:
                begin, end = part.piece.positions.min(0) / grid, (part.piece.positions.max(0) + 1) / grid
                visible = self._visible_boxes(answer, part.piece)
                boxes += [(index, *(begin + side * (end - begin) for side in sides)) for index, *sides in visible]
        return self._to_answer(boxes, pieces)

    def _visible_boxes(self, answer: tuple[Box, ...], piece: Piece) -> list[VisibleBox]:
        """Return the boxes of an answer, cut off at the edges of the part of the image that `piece` shows.

        Boxes with less than the share MIN_VISIBLE of their area in this part, crowds, and boxes of classes not in `classes` are
        left out. The coordinates are fractions of this part.
        """
        first, last = _ends(piece)
        boxes: list[VisibleBox] = []
        for box in answer:
            sides = np.array([[box.top, box.bottom], [box.left, box.right]])
            # Sorted, because the alignment of a mirrored picture runs from right to left.
            extent = np.sort((sides - first[:, None]) / (last - first)[:, None], axis=1)
            low, high = np.clip(extent, 0, 1).T
            is_visible = (high - low).prod() >= MIN_VISIBLE * (extent[:, 1] - extent[:, 0]).prod()
            if is_visible and not box.crowd and box.label in self.classes:
                boxes.append((self.classes.index(box.label), low, high))
        return boxes

    def _to_answer(self, boxes: Sequence[VisibleBox], pieces: Sequence[Piece]) -> Answer:
        """Return boxes as an encoded answer (q, 5), see `encode`; if there are more than q boxes, only the q largest.

        pieces: the source pieces of the example, in which the tokens of the queries are looked up.
        """
        answer = self.questions(pieces)
        largest = sorted(boxes, key=lambda box: -(box[2] - box[1]).prod())[: self.queries]
        for row, (index, low, high) in enumerate(largest):
            answer.values[row] = index, *((low + high) / 2)[::-1], *(high - low)[::-1]
        return answer

    def _find_piece(self, pieces: Sequence[Piece]) -> Piece:
        """Return the one image piece among the source pieces of an example."""
        (picture,) = (piece for piece in pieces if piece.kind == self.lies_in)
        return picture

    def gather(self, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """Return the outputs by example, (n, q, c + 4): class logits, then left, top, right, bottom in pixels of the raw image.

        With learnt queries they are (n, q, c + 5): the logit of "no box" follows the class logits.
        output: (m, …), class logits, then centre x, centre y, width, height as fractions of the visible image.
        """
        queries = output.view(len(pieces), self.queries, -1)
        ends = np.array([_ends(self._find_piece(example)) for example in pieces])[
            :, :, ::-1
        ].copy()  # (n, 2, 2): first and last x, y
        first, last = torch.from_numpy(ends).to(queries).unbind(1)
        middle, extent = queries[..., -4:-2], queries[..., -2:]
        corners = [(middle + side * extent / 2).clamp(0, 1) for side in (-1, 1)]
        raw = torch.stack([first[:, None] + corner * (last - first)[:, None] for corner in corners])
        # In a mirrored picture the first corner is on the right, so sides are ordered again.
        return torch.cat([queries[..., :-4], raw.amin(0), raw.amax(0)], dim=-1)

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return the module from query vectors (m, d) to class logits and boxes: LearntHead for learnt queries, else BoxHead.

        embedder: not used.
        """
        return LearntHead(width, len(self.classes)) if self.num_learnt else BoxHead(width, len(self.classes), self.grid)

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the loss of outputs (m, …) against encoded answers (m, 5), summed over images, and multiplied by q / `usual`.

        The training loop divides by m = n·q. The result is then the mean loss of an image, divided by the usual number of boxes.
        """
        predictions, labels = output.float().view(-1, self.queries, output.shape[-1]), values.view(-1, self.queries, 5)
        total = output.new_zeros((), dtype=torch.float32)
        loss_of = (
            self._matched_loss if self.num_learnt else partial(self._grid_loss, grid_centres(self.grid).to(values))
        )
        # Pictures have different numbers of boxes, so each is assigned alone.
        for predicted, true in zip(predictions, labels, strict=True):
            total = total + loss_of(predicted[:, :-4], predicted[:, -4:], true[true[:, 0] >= 0])
        return total * self.queries / self.usual

    def _grid_loss(self, middle_q2: Tensor, logits_qc: Tensor, boxes_q4: Tensor, truth_k5: Tensor) -> Tensor:
        """Return the loss of one image on a grid: the weighted sum of the classes' focal loss and the boxes' 1 − GIoU.

        The sum is divided by the mean number of queries to which a true box is assigned.
        middle_q2: x, y of each query. boxes_q4: predicted boxes. truth_k5: class index of each true box, then its coordinates.
        All coordinates are fractions of the visible image; a box is centre x, centre y, width, height.
        """
        classes, sides = truth_k5[:, 0].long(), truth_k5[:, 1:]
        query, true = assign_by_centre(middle_q2, sides, 1 / self.grid)
        labels = torch.zeros_like(logits_qc)
        labels[query, classes[true]] = 1.0
        overlap_loss = (1 - generalised_iou(boxes_q4[query], sides[true])).sum()
        # Large boxes are assigned to more queries than small ones; their loss should not be larger for that.
        queries_per_box = max(1.0, len(query) / max(1, len(sides)))
        return (CLASS_WEIGHT * focal_loss(logits_qc, labels) + OVERLAP_WEIGHT * overlap_loss) / queries_per_box

    def _matched_loss(self, logits_qc: Tensor, boxes_q4: Tensor, truth_k5: Tensor) -> Tensor:
        """Return the loss of one image with learnt queries, each true box of which is matched to one query (DETR).

        It is a weighted sum of the cross-entropy of all queries, and the L1 distance and 1 − GIoU of the matched boxes.
        boxes_q4: predicted boxes. truth_k5: class index of each true box, then its coordinates. A box is centre x, centre y,
        width, height as fractions of the visible image.
        """
        classes, sides = truth_k5[:, 0].long(), truth_k5[:, 1:]
        with torch.no_grad():
            cost = DISTANCE_WEIGHT * torch.cdist(boxes_q4, sides, p=1) - self._class_scores(logits_qc)[:, classes]
            cost -= OVERLAP_WEIGHT * generalised_iou(boxes_q4[:, None], sides[None])
        query, true = match_one_to_one(cost)
        distance_loss = (boxes_q4[query] - sides[true]).abs().sum()
        overlap_loss = (1 - generalised_iou(boxes_q4[query], sides[true])).sum()
        return (
            self._class_loss(logits_qc, query, classes[true])
            + DISTANCE_WEIGHT * distance_loss
            + OVERLAP_WEIGHT * overlap_loss
        )

    def _class_loss(self, logits: Tensor, query: Tensor, classes: Tensor) -> Tensor:
        """Return the cross-entropy of the logits (q, c + 1) of learnt queries, summed and weighted: "no box" has a small weight.

        query: indices of the queries that are matched to a true box. classes: the class index of that box for each of them.
        The correct class of all other queries is "no box".
        """
        no_box = len(self.classes)
        weight = logits.new_ones(no_box + 1)
        weight[no_box] = NO_BOX_WEIGHT
        labels = classes.new_full((len(logits),), no_box)
        labels[query] = classes
        # The weights of the queries in a picture with the usual number of boxes add up to this.
        total_weight = self.usual + NO_BOX_WEIGHT * (self.queries - self.usual)
        return F.cross_entropy(logits, labels, weight, reduction="sum") * self.usual / total_weight

    def _class_scores(self, logits: Tensor) -> Tensor:
        """Return the probability of each class, (…, c), from logits: by a softmax for learnt queries, else by sigmoids.

        For learnt queries the logits (…, c + 1) end with "no box", whose probability is left out.
        """
        return logits.softmax(-1)[..., :-1] if self.num_learnt else torch.sigmoid(logits)

    def ranked(self, picture: Tensor) -> tuple[Floats, NDArray[np.int64], Floats]:
        """Return the most confident boxes of an image, at most MAX_BOXES: probabilities (b,), class indices (b,), boxes (b, 4).

        A box is left, top, right, bottom. On a grid, a box that overlaps a more confident box of its class is left out.
        picture: (q, …), the outputs of one image, from `gather`.
        """
        # Each pair of a query and a class is a candidate, numbered query · classes + class.
        probabilities, pairs = self._class_scores(picture[:, :-4].double()).flatten().sort(descending=True, stable=True)
        pairs, num_classes = pairs[:LIKELIEST], len(self.classes)
        scores, classes, sides = (
            probabilities[:LIKELIEST].numpy(),
            (pairs % num_classes).numpy(),
            picture[pairs // num_classes, -4:].double().numpy(),
        )
        # One-to-one matching already teaches learnt queries not to predict a box twice.
        best = slice(MAX_BOXES) if self.num_learnt else non_maximum_suppression(sides, classes)[:MAX_BOXES]
        return scores[best], classes[best], sides[best]

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"boxes", "probability"} for each image: its boxes, the most confident first, and the answer's `confidence`.

        A box is {"label", "box": [left, top, right, bottom] in raw pixels, "probability"}, if that is at least MIN_CONFIDENCE.
        """
        answers = []
        for scores, classes, sides in map(self.ranked, output):
            boxes = [
                {"label": self.classes[index], "box": [round(side, 1) for side in box], "probability": score}
                for score, index, box in zip(scores.tolist(), classes.tolist(), sides.tolist(), strict=True)
                if score >= MIN_CONFIDENCE
            ]
            answers.append({"boxes": boxes, "probability": _answer_confidence(scores)})
        return answers

    def metrics(self, output: Tensor, answers: Sequence[tuple[Box, ...]]) -> dict[str, Metric]:
        """Return average precision ("map", "map50", "map75") and recall ("recall") as in COCO, and "found".

        "map" is the mean over ten IoU thresholds, "map50" is at IoU 0.5, "map75" at 0.75. "found" is the mean over images of
        `per_item_metric`.
        """
        precision, pictures = self._precision(output, answers), np.arange(len(answers))
        return {
            "map": (precision.precision, pictures),
            "map50": (partial(precision.precision, thresholds=slice(0, 1)), pictures),
            "map75": (partial(precision.precision, thresholds=slice(5, 6)), pictures),
            "recall": (precision.recall, pictures),
            "found": (mean_score, self.per_item_metric(output, answers).astype(np.float64)),
        }

    def _precision(self, output: Tensor, answers: Sequence[tuple[Box, ...]]) -> AveragePrecision:
        """Return an AveragePrecision built from all classes and images, with predicted boxes matched to true boxes.

        Classes never seen in training are included, without predictions.
        """
        names = self.classes + sorted({box.label for answer in answers for box in answer} - set(self.classes))
        detections = [self.ranked(picture) for picture in output]
        return AveragePrecision(
            [
                [
                    match_detections(sides[kinds == kind], scores[kinds == kind], *_boxes_of(answer, name))
                    for (scores, kinds, sides), answer in zip(detections, answers, strict=True)
                ]
                for kind, name in enumerate(names)
            ]
        )

    def confidence(self, output: Tensor) -> Floats:
        """Return the confidence (n,) of each answer: the mean probability of the boxes in it.

        For an answer without boxes it is 1 minus the highest probability of any box, all of which were below MIN_CONFIDENCE.
        """
        return np.array([_answer_confidence(self.ranked(picture)[0]) for picture in output])

    def per_item_metric(self, output: Tensor, answers: Sequence[tuple[Box, ...]]) -> NDArray[np.float32]:
        """Return for each image the Jaccard index of its predicted and true boxes, (n,): matched pairs over all distinct boxes.

        A predicted and a true box match if they have the same class and an IoU of at least 0.5. Predictions inside a crowd do not
        count. The index is 1 if an image has neither predicted nor true boxes.
        """
        counts = self.item_counts(output, answers).by_row
        num_right, num_answered, num_true = counts.T
        num_either = num_answered + num_true - num_right
        return np.where(num_either > 0, num_right / np.maximum(num_either, 1), 1.0).astype(np.float32)

    def item_counts(self, output: Tensor, answers: Sequence[tuple[Box, ...]]) -> ItemCounts:
        """Return the numbers of right, predicted and true boxes by row and class.

        Right boxes have an IoU of at least 0.5 with a true box of their class. A prediction inside a crowd does not count, since
        it is neither right nor wrong, and crowds are no true boxes.
        """
        return ItemCounts.collect(map(self._count_boxes, output, answers))

    def _count_boxes(self, picture: Tensor, answer: tuple[Box, ...]) -> tuple[Counter[str], Counter[str], Counter[str]]:
        """Return the numbers of right, predicted and true boxes of one image by class; see `item_counts`."""
        scores, kinds, sides = self.ranked(picture)
        is_predicted = scores >= MIN_CONFIDENCE
        right: Counter[str] = Counter()
        answers = Counter(self.classes[kind] for kind in kinds[is_predicted])
        true = Counter(box.label for box in answer if not box.crowd)
        for name in {box.label for box in answer}:
            of_class = is_predicted & (kinds == (self.classes.index(name) if name in self.classes else -1))
            detections = match_detections(sides[of_class], scores[of_class], *_boxes_of(answer, name))
            right[name] = int(detections.is_correct[0].sum())
            answers[name] -= int((~detections.counts[0]).sum())
        return right, answers, true

    def correctness(self, output: Tensor, answers: Sequence[tuple[Box, ...]]) -> NDArray[np.float32]:
        """Return for each image the Jaccard index of its predicted and true boxes, (n,); see `per_item_metric`."""
        return self.per_item_metric(output, answers)

    def baseline(self, answers: Sequence[tuple[Box, ...]]) -> dict[str, Metric]:
        """Return {}: boxes have no baseline, since it is not useful to predict the same boxes in every image."""
        return {}

    def brief(self, answer: Any) -> str:
        """Return the number of boxes of each class in words, such as "2 cat, 1 dog"; "nothing" if there are no boxes."""
        counts = Counter(mark.text for mark in self.regions(answer))
        return ", ".join(f"{n} {name}" for name, n in counts.most_common()) or "nothing"

    @staticmethod
    def regions(answer: Any, true: bool = False) -> list[Mark]:
        """Return a mark for each box of an answer: the rectangle in raw pixels, with the box's label as caption.

        true: True if the answer is a true one, False if it is a prediction; stored in the marks.
        """
        boxes = [
            (box.label, (box.left, box.top, box.right, box.bottom))
            if isinstance(box, Box)
            else (box["label"], box["box"])
            for box in answer
        ]
        return [Mark([[top, bottom], [left, right]], label, true) for label, (left, top, right, bottom) in boxes]

    def class_names(self, answer: tuple[Box, ...]) -> Sequence[str]:
        """Return the label of each box in a true answer, in the order of the boxes; a label may occur several times."""
        return [box.label for box in answer]

    def notes(self, answers: Sequence[tuple[Box, ...]]) -> list[str]:
        """Return sentences on the five most frequent classes in `answers` that training never saw, with their number of boxes.

        If images have more true boxes than an answer can hold (q or MAX_BOXES), one more sentence gives the number of such
        images.
        """
        unseen = Counter(box.label for answer in answers for box in answer if box.label not in self.classes)
        max_boxes = min(self.queries, MAX_BOXES)
        num_full = sum(sum(not box.crowd for box in answer) > max_boxes for answer in answers)
        notes = [f"{n:,} boxes are of {name!r}, which training never saw" for name, n in unseen.most_common(5)]
        return notes + (
            [f"{num_full:,} rows have more than the {max_boxes} boxes of an answer; only the most confident count"]
            if num_full
            else []
        )

    def state(self) -> State:
        """Return the constructor's arguments: the classes, the number of queries along a side of the grid, and `usual`."""
        return {"classes": self.classes, "grid": self.grid, "usual": self.usual}


def _ends(piece: Piece) -> tuple[Floats, Floats]:
    """Return two corners of the visible part of an image, each (y, x) in raw pixels: top left and bottom right.

    In a mirrored image they are top right and bottom left.
    """
    assert piece.alignment is not None
    return piece.alignment.ends(piece.positions)


def _parse_list(cell: object) -> list[Any]:
    """Return one entry for each box in a cell. Raises BadCell if the cell holds no such list, or is {"fault": reason}.

    cell: a list, a list as JSON, or a dict of the lists "bbox" and "category" (Hugging Face).
    """
    if isinstance(cell, str):
        try:
            cell = parse_list(cell)
        except ValueError as error:
            raise BadCell(f"the boxes are no list: {error}") from error
    if (reason := fault_of(cell)) is not None:
        raise BadCell(reason)
    # Hugging Face data sets give a list of dicts as a dict of lists.
    if isinstance(cell, dict) and {"bbox", "category"} <= cell.keys():
        sides, names = cell["bbox"], cell["category"]
        if not all(isinstance(part, list | tuple | np.ndarray) for part in (sides, names)) or len(sides) != len(names):
            raise BadCell("there are not as many categories as boxes")
        return [{"bbox": box, "category": name} for box, name in zip(sides, names, strict=True)]
    if not isinstance(cell, list | tuple | np.ndarray):
        raise BadCell(f"boxes are a list, not {type(cell).__name__}")
    return list(cell)


def _answer_confidence(scores: Floats) -> float:
    """Return the mean of the probabilities that are at least MIN_CONFIDENCE; if none is, 1 minus the highest probability.

    scores: the probabilities of an image's predicted boxes, the highest first.
    """
    kept = scores[scores >= MIN_CONFIDENCE]
    return float(kept.mean() if len(kept) else 1 - scores[0])


def _boxes_of(answer: Sequence[Box], name: str) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the boxes with label `name` in an answer, (g, 4), and a mask (g,) that is True for crowds.

    A box is left, top, right, bottom in raw pixels.
    """
    boxes = [box for box in answer if box.label == name]
    sides = [[box.left, box.top, box.right, box.bottom] for box in boxes]
    return np.array(sides, np.float64).reshape(-1, 4), np.array([box.crowd for box in boxes], np.bool_)


target = Boxes
