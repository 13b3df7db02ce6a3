"""boxes: where things are in a picture, and what they are (object detection).

Each query predicts one box, or that there is none. By default the queries are the cells of a grid over the picture. The
vector of a cell is interpolated from the tokens around it, and a few layers mix neighbouring cells. In training a true
box is assigned to the cells near its centre (FCOS, Tian et al. 2019). Of predictions that overlap, the most confident
is kept (non-maximum suppression).
A starting model may have learnt queries, as tokens of every piece (YOLOS, Fang et al. 2021). They are matched to boxes
one to one (DETR, Carion et al. 2020), which learns much more slowly from a few hundred pictures. For them "no box" is
one more class, as published. On a grid each class is predicted by a sigmoid of its own.
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

from mapsto.errors import BadCell, DataError, UsageError
from mapsto.metrics.average_precision import AveragePrecision, match_detections, non_maximum_suppression
from mapsto.metrics.intervals import Score, mean_score
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import MixturePart, Piece
from mapsto.task.capabilities import Classes, Comparable, Located, Mark, Mixable, Spatial, require
from mapsto.task.readout import Queried
from mapsto.task.source import Learning, Source
from mapsto.task.target import Metric, State
from mapsto.text.features import find_invalid_character
from mapsto.vision import detection_annotations
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
    """A labelled rectangle of pixels.

    crowd: whether it holds many objects that were not counted. Such a box is neither learnt nor scored.
    """

    label: str
    left: float
    top: float
    right: float
    bottom: float
    crowd: bool = False

    def __str__(self) -> str:
        return f"{self.label} at {self.left:.0f}, {self.top:.0f} to {self.right:.0f}, {self.bottom:.0f}"


def _parse_box(entry: object) -> Box:
    """Return the box in an entry. Raises BadCell.

    entry: {"label", "box": [left, top, right, bottom]}, or COCO's {"category", "bbox": [left, top, width, height]}.
    """
    if not isinstance(entry, dict):
        raise BadCell(f"a box is a dict, not {type(entry).__name__}")
    label = entry.get("label", entry.get("category"))
    sides = entry.get("box", entry.get("bbox"))
    if not isinstance(label, str | int | np.integer | None) or isinstance(sides, str | dict):
        raise BadCell("a box has a label, which is text or a number, and a list of four sides")
    try:
        left, top, right, bottom = map(float, sides)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise BadCell('a box has four sides: "box": [left, top, right, bottom]') from error
    if "box" not in entry:
        right, bottom = left + right, top + bottom
    if label is None or not str(label).strip() or (problem := find_invalid_character(str(label))) is not None:
        raise BadCell("a box has no label" if label is None or not str(label).strip() else f"a label holds {problem}")
    box = Box(str(label).strip(), left, top, right, bottom, bool(entry.get("crowd")))
    if not all(map(math.isfinite, (left, top, right, bottom))) or right <= left or bottom <= top:
        raise BadCell(f"a box without an area: {box}")
    return box


class Boxes(Located, Classes, Comparable, Mixable):
    """The boxes of a picture, each of a class seen in training.

    classes: names of the classes in the order of the logits.
    grid: number of queries along each side of the picture, if the starting model has no learnt queries.
    usual: mean number of boxes in a picture.
    """

    kind = "boxes"
    readout = Queried()
    head_name = "box_head"
    class_weight_names = "named."
    lies_in = "image"
    primary_metric = "found"
    mixture_layouts = ("placed",)

    def __init__(self, classes: Sequence[str] = (), grid: int = GRIDS[0], usual: float = 1.0) -> None:
        self.classes, self.grid, self.usual = list(classes), grid, usual
        self.num_learnt = 0  # number of learnt queries of the starting model

    @property
    def learning(self) -> Learning:
        """Return the length and learning rates of fits, for a grid of queries or for learnt queries."""
        return QUERY_LEARNING if self.num_learnt else GRID_LEARNING

    @property
    def queries(self) -> int:
        """Return the number of queries of a picture, which limits the number of boxes in an answer."""
        return self.num_learnt or self.grid**2

    @staticmethod
    def fits(values: Sequence[object]) -> bool:
        """Return whether all cells of a column hold lists of boxes, or errors of annotation files.

        A list may also be JSON or a dict of lists; see `read`.
        """
        cells = [value for value in values if value is not None and not _is_fault(value)]
        try:
            entries = [entry for cell in cells for entry in _parse_list(cell)]
        except BadCell:
            return False
        return len(cells) + sum(map(_is_fault, values)) > 0 and all(isinstance(entry, dict) for entry in entries)

    @staticmethod
    def samples() -> list[Any]:
        """Return cells with no box, with one, and with two that overlap (as JSON, one of them in COCO's form)."""
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
        """Return a message on the first box too far outside the picture to be learnt; an empty string if none is."""
        for box in answer:
            wide = min(box.right, value.width) - max(box.left, 0)
            high = min(box.bottom, value.height) - max(box.top, 0)
            if max(wide, 0) * max(high, 0) < MIN_VISIBLE * (box.right - box.left) * (box.bottom - box.top):
                return f"a box outside the picture of {value.width} × {value.height} pixels: {box}"
        return ""

    @staticmethod
    def annotations(path: Path, within: Callable[[Path], Sequence[Path]]) -> dict[str, Any]:
        """Return the boxes in COCO, Pascal VOC or YOLO files at `path`, by image path.

        within: function that returns the files of a folder.
        """
        return dict(detection_annotations.read_annotations(path, within))

    @classmethod
    def count_published_classes(cls, tensors: Mapping[str, Tensor]) -> int | None:
        """Return the number of classes of the box head among a published model's weights; None without a box head.

        The head's last class, which means "no box", is not counted.
        """
        bias = tensors.get(f"{cls.head_name}.named.bias")
        return None if bias is None else len(bias) - 1

    def learn(self, answers: Sequence[tuple[Box, ...]], balance: bool = False) -> None:
        """Learn the classes (sorted by name), the mean number of boxes in a picture, and the size of the grid.

        Raises DataError if no row has a box.
        """
        counted = [[box for box in answer if not box.crowd] for answer in answers]
        counts = Counter(box.label for boxes in counted for box in boxes)
        if not counts:
            raise DataError("no row has a box")
        self.classes = sorted(counts)
        self.usual = max(1.0, counts.total() / len(counted))
        self.grid = int(np.clip(math.ceil((QUERIES_A_BOX * max(map(len, counted))) ** 0.5), *GRIDS))

    def bind(self, sources: Mapping[str, Source], transform: Any) -> None:
        """Take the picture source and the number of its learnt queries. Raises UsageError if there is no picture."""
        source = sources.get(self.lies_in)
        if source is None:
            raise UsageError("boxes lie in a picture: the arrow reads none")
        self.source = require(source, Spatial, "asked about places")
        self.num_learnt = self.source.queries

    def questions(self, pieces: Sequence[Piece]) -> Answer:
        """Return an answer without boxes that asks all queries of the picture.

        Its values (q, 5) are −1. It is read at the tokens of learnt queries, or between the patches on a grid.
        """
        (port,) = (port for port, piece in enumerate(pieces) if piece.kind == self.lies_in)
        first, no_boxes = sum(map(len, pieces[:port])), np.full((self.queries, 5), -1.0, np.float32)
        if self.num_learnt:
            end = first + len(pieces[port])
            return Answer(no_boxes, np.arange(end - self.num_learnt, end))
        indices, shares = self.source.tokens_around(pieces[port], (self.grid, self.grid))
        return Answer(no_boxes, first + indices, shares=shares)

    def encode(self, answer: tuple[Box, ...], pieces: Sequence[Piece]) -> Answer:
        """Return values (q, 5), a box a row: class, centre x and y, width, height, as fractions of the visible picture.

        Rows after the last box have the class −1.
        """
        return self._to_answer(self._visible_boxes(answer, self._find_piece(pieces)), pieces)

    def mix_answers(
        self, answers: Sequence[tuple[Box, ...]], pieces: Sequence[Piece], parts: Sequence[MixturePart]
    ) -> Answer:
        """Return the boxes of all pictures in a mixture, moved to the place of their picture.

        parts: for each picture, the tokens of the mixture that show it.
        """
        grid = self._find_piece(pieces).positions.max(0) + 1
        boxes: list[VisibleBox] = []
        for answer, part in zip(answers, parts, strict=True):
            if part.piece is not None:
                begin, end = part.piece.positions.min(0) / grid, (part.piece.positions.max(0) + 1) / grid
                visible = self._visible_boxes(answer, part.piece)
                boxes += [(index, *(begin + side * (end - begin) for side in sides)) for index, *sides in visible]
        return self._to_answer(boxes, pieces)

    def _visible_boxes(self, answer: tuple[Box, ...], piece: Piece) -> list[VisibleBox]:
        """Return the boxes of an answer that are visible enough in a piece, cut off at its edges.

        Crowds and boxes of unknown classes are left out.
        """
        first, last = _ends(piece)
        boxes: list[VisibleBox] = []
        for box in answer:
            sides = np.array([[box.top, box.bottom], [box.left, box.right]])
            extent = np.sort((sides - first[:, None]) / (last - first)[:, None], axis=1)
            low, high = np.clip(extent, 0, 1).T
            is_visible = (high - low).prod() >= MIN_VISIBLE * (extent[:, 1] - extent[:, 0]).prod()
            if is_visible and not box.crowd and box.label in self.classes:
                boxes.append((self.classes.index(box.label), low, high))
        return boxes

    def _to_answer(self, boxes: Sequence[VisibleBox], pieces: Sequence[Piece]) -> Answer:
        """Return the encoded answer (q, 5) with the largest of the boxes, at most one per query."""
        answer = self.questions(pieces)
        largest = sorted(boxes, key=lambda box: -(box[2] - box[1]).prod())[: self.queries]
        for row, (index, low, high) in enumerate(largest):
            answer.values[row] = index, *((low + high) / 2)[::-1], *(high - low)[::-1]
        return answer

    def _find_piece(self, pieces: Sequence[Piece]) -> Piece:
        """Return the piece of the picture among the pieces of an example."""
        (picture,) = (piece for piece in pieces if piece.kind == self.lies_in)
        return picture

    def gather(self, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """Return the outputs of each example, (n, q, c + 4): class logits, then left, top, right, bottom in raw pixels.

        For learnt queries there is one more logit, that of "no box": (n, q, c + 5).
        """
        queries = output.view(len(pieces), self.queries, -1)
        ends = np.array([_ends(self._find_piece(example)) for example in pieces])[
            :, :, ::-1
        ].copy()  # (n, 2, 2): first and last x, y
        first, last = torch.from_numpy(ends).to(queries).unbind(1)
        middle, extent = queries[..., -4:-2], queries[..., -2:]
        corners = [(middle + side * extent / 2).clamp(0, 1) for side in (-1, 1)]
        raw = torch.stack([first[:, None] + corner * (last - first)[:, None] for corner in corners])
        return torch.cat([queries[..., :-4], raw.amin(0), raw.amax(0)], dim=-1)

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return the head from query vectors to class logits and boxes: LearntHead for learnt queries, else BoxHead."""
        return LearntHead(width, len(self.classes)) if self.num_learnt else BoxHead(width, len(self.classes), self.grid)

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the summed loss of classes and boxes of outputs (m, …) against encoded answers (m, 5).

        It is scaled so that a picture with the usual number of boxes weighs as much as one example.
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
        """Return the loss of one picture on a grid: focal loss of classes, and overlap (GIoU) with assigned boxes.

        middle_q2: (x, y) of each query. truth_k5: class, centre and size of each true box.
        """
        classes, sides = truth_k5[:, 0].long(), truth_k5[:, 1:]
        query, true = assign_by_centre(middle_q2, sides, 1 / self.grid)
        labels = torch.zeros_like(logits_qc)
        labels[query, classes[true]] = 1.0
        overlap_loss = (1 - generalised_iou(boxes_q4[query], sides[true])).sum()
        queries_per_box = max(1.0, len(query) / max(1, len(sides)))
        return (CLASS_WEIGHT * focal_loss(logits_qc, labels) + OVERLAP_WEIGHT * overlap_loss) / queries_per_box

    def _matched_loss(self, logits_qc: Tensor, boxes_q4: Tensor, truth_k5: Tensor) -> Tensor:
        """Return the loss of one picture with learnt queries (DETR).

        It sums the cross-entropy of classes, and distance and overlap (GIoU) of the matched boxes.
        truth_k5: class, centre and size of each true box.
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
        """Return the cross-entropy of the class logits of learnt queries.

        query, classes: matched queries and their true classes. All other queries have the class "no box".
        """
        no_box = len(self.classes)
        weight = logits.new_ones(no_box + 1)
        weight[no_box] = NO_BOX_WEIGHT
        labels = classes.new_full((len(logits),), no_box)
        labels[query] = classes
        total_weight = self.usual + NO_BOX_WEIGHT * (self.queries - self.usual)
        return F.cross_entropy(logits, labels, weight, reduction="sum") * self.usual / total_weight

    def _class_scores(self, logits: Tensor) -> Tensor:
        """Return the probability of each class from logits, (…, c), without the class "no box" of learnt queries."""
        return logits.softmax(-1)[..., :-1] if self.num_learnt else torch.sigmoid(logits)

    def ranked(self, picture: Tensor) -> tuple[Floats, NDArray[np.int64], Floats]:
        """Return scores (b,), classes (b,) and sides (b, 4) of a picture's likeliest boxes, the most confident first.

        picture: (q, …), the outputs of one picture. On a grid, a box is left out if it overlaps a more confident box of
        its class.
        """
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
        """Return {"boxes", "probability"} for each picture: its boxes in raw pixels, and the answer's confidence.

        A box is {"label", "box", "probability"}, with a probability of at least MIN_CONFIDENCE. The most confident is
        first.
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
        """Return COCO's average precision and recall, and "found", by name.

        Precision is "map" over ten overlaps (IoU), "map50" at 0.5 and "map75" at 0.75. "found" is the Jaccard index of
        predicted and true boxes, matched at an overlap of 0.5.
        """
        precision, pictures = self._precision(output, answers), np.arange(len(answers))
        return {
            "map": (precision.precision, pictures),
            "map50": (lambda rows: precision.precision(rows, slice(0, 1)), pictures),
            "map75": (lambda rows: precision.precision(rows, slice(5, 6)), pictures),
            "recall": (precision.recall, pictures),
            "found": (mean_score, self.per_item_metric(output, answers).astype(np.float64)),
        }

    def _precision(self, output: Tensor, answers: Sequence[tuple[Box, ...]]) -> AveragePrecision:
        """Return the average precision over all classes, from detections matched to the true boxes of each picture."""
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
        """Return the confidence (n,) of each answer: the mean probability of its boxes.

        For an answer without boxes it is the probability that the likeliest candidate is wrong.
        """
        return np.array([_answer_confidence(self.ranked(picture)[0]) for picture in output])

    def per_item_metric(self, output: Tensor, answers: Sequence[tuple[Box, ...]]) -> NDArray[np.float32]:
        """Return the Jaccard index (n,) of predicted and true boxes, matched at an overlap (IoU) of 0.5.

        It is 1 for a picture without predicted and true boxes.
        """
        scores_of_rows = []
        for picture, answer in zip(output, answers, strict=True):
            scores, kinds, sides = self.ranked(picture)
            is_predicted = scores >= MIN_CONFIDENCE
            num_true = sum(not box.crowd for box in answer)
            num_matched = num_ignored = 0
            for name in {box.label for box in answer}:
                of_class = is_predicted & (kinds == (self.classes.index(name) if name in self.classes else -1))
                detections = match_detections(sides[of_class], scores[of_class], *_boxes_of(answer, name))
                num_matched += int(detections.is_correct[0].sum())
                num_ignored += int((~detections.counts[0]).sum())
            num_either = int(is_predicted.sum()) - num_ignored + num_true - num_matched
            scores_of_rows.append(num_matched / num_either if num_either else 1.0)
        return np.array(scores_of_rows, np.float32)

    def correctness(self, output: Tensor, answers: Sequence[tuple[Box, ...]]) -> NDArray[np.float32]:
        """Return the Jaccard index (n,) of predicted and true boxes; see `per_item_metric`."""
        return self.per_item_metric(output, answers)

    def baseline(self, answers: Sequence[tuple[Box, ...]]) -> dict[str, Score]:
        """Return no scores: there are no boxes that would be a useful constant answer."""
        return {}

    def brief(self, answer: Any) -> str:
        """Return the number of boxes of each class in words, such as "2 cat, 1 dog"."""
        counts = Counter(mark.text for mark in self.regions(answer))
        return ", ".join(f"{n} {name}" for name, n in counts.most_common()) or "nothing"

    @staticmethod
    def regions(answer: Any, true: bool = False) -> list[Mark]:
        """Return the rectangle of each box as a mark with its label.

        true: whether the boxes are labels, not predictions.
        """
        boxes = [
            (box.label, (box.left, box.top, box.right, box.bottom))
            if isinstance(box, Box)
            else (box["label"], box["box"])
            for box in answer
        ]
        return [Mark([[top, bottom], [left, right]], label, true) for label, (left, top, right, bottom) in boxes]

    def class_names(self, answer: tuple[Box, ...]) -> Sequence[str]:
        """Return the label of each box."""
        return [box.label for box in answer]

    def notes(self, answers: Sequence[tuple[Box, ...]]) -> list[str]:
        """Return sentences on classes never seen in training, and on pictures with too many boxes for an answer."""
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
        """Return the classes, the number of queries a side of the grid, and the mean number of boxes in a picture."""
        return {"classes": self.classes, "grid": self.grid, "usual": self.usual}


def _ends(piece: Piece) -> tuple[Floats, Floats]:
    """Return the raw pixels (y, x) at which the visible part of a picture begins, and those at which it ends."""
    assert piece.alignment is not None
    return piece.alignment.ends(piece.positions)


def _parse_list(cell: object) -> list[Any]:
    """Return the entries of a cell, one for each box. Raises BadCell."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError as error:
            raise BadCell("the boxes are no JSON") from error
    if isinstance(cell, dict) and _is_fault(cell):
        raise BadCell(str(cell["fault"]))
    if isinstance(cell, dict) and {"bbox", "category"} <= cell.keys():
        sides, names = cell["bbox"], cell["category"]
        if not all(isinstance(part, list | tuple | np.ndarray) for part in (sides, names)) or len(sides) != len(names):
            raise BadCell("there are not as many categories as boxes")
        return [{"bbox": box, "category": name} for box, name in zip(sides, names, strict=True)]
    if not isinstance(cell, list | tuple | np.ndarray):
        raise BadCell(f"boxes are a list, not {type(cell).__name__}")
    return list(cell)


def _answer_confidence(scores: Floats) -> float:
    """Return the confidence of an answer; see Boxes.confidence. scores: of its candidates, the highest first."""
    kept = scores[scores >= MIN_CONFIDENCE]
    return float(kept.mean() if len(kept) else 1 - scores[0])


def _is_fault(cell: object) -> bool:
    """Return whether a cell is the error of an annotation file, {"fault": reason}."""
    return isinstance(cell, dict) and "fault" in cell


def _boxes_of(answer: Sequence[Box], name: str) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the boxes (g, 4) of one class in an answer, in pixels, and a mask (g,) of the crowds among them."""
    boxes = [box for box in answer if box.label == name]
    sides = [[box.left, box.top, box.right, box.bottom] for box in boxes]
    return np.array(sides, np.float64).reshape(-1, 4), np.array([box.crowd for box in boxes], np.bool_)


target = Boxes
