"""boxes: where objects are in a picture, and of which class they are (object detection).

Each query predicts one box, or that there is none. By default the queries are the cells of a grid over the picture. The
vector of a cell is interpolated from the tokens around it, and a few layers mix neighbouring cells. In training a true
box is assigned to the cells near its centre (FCOS, Tian et al. 2019). Of predictions that overlap, the most confident
is kept (non-maximum suppression). Each class is predicted by a sigmoid of its own.
A starting model may have learnt queries, as tokens of every piece (YOLOS, Fang et al. 2021). They are matched to boxes
one to one (DETR, Carion et al. 2020), which learns much more slowly from a few hundred pictures. Learnt queries are
classified by a softmax, in which "no box" is one more class, as in the published models.
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
    """A labelled rectangle, with its sides in pixels of the raw picture.

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
    """Return the box that one entry of a cell describes. Raises BadCell.

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
    usual: mean number of boxes in a training picture, at least 1.
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
        """Return the default length and learning rates of fits, which differ for a grid of queries and for learnt queries."""
        return QUERY_LEARNING if self.num_learnt else GRID_LEARNING

    @property
    def queries(self) -> int:
        """Return the number of queries of a picture, which limits the number of boxes in an answer."""
        return self.num_learnt or self.grid**2

    @staticmethod
    def fits(values: Sequence[object]) -> bool:
        """Return whether all cells of a column hold lists of boxes (also as JSON or a dict of lists), or {"fault": reason}.

        Such a dict stands for an annotation file that could not be read.
        """
        cells = [value for value in values if value is not None and not _is_fault(value)]
        try:
            entries = [entry for cell in cells for entry in _parse_list(cell)]
        except BadCell:
            return False
        return len(cells) + sum(map(_is_fault, values)) > 0 and all(isinstance(entry, dict) for entry in entries)

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
        """Return a message on the first box of which too little lies inside the picture to be learnt; "" if there is none."""
        for box in answer:
            wide = min(box.right, value.width) - max(box.left, 0)
            high = min(box.bottom, value.height) - max(box.top, 0)
            if max(wide, 0) * max(high, 0) < MIN_VISIBLE * (box.right - box.left) * (box.bottom - box.top):
                return f"a box outside the picture of {value.width} × {value.height} pixels: {box}"
        return ""

    @staticmethod
    def annotations(path: Path, within: Callable[[Path], Sequence[Path]]) -> dict[str, Any]:
        """Return the boxes in the COCO, Pascal VOC or YOLO files at `path`, by the path of their image.

        within: function that lists the files of a folder.
        """
        return dict(detection_annotations.read_annotations(path, within))

    @classmethod
    def count_published_classes(cls, tensors: Mapping[str, Tensor]) -> int | None:
        """Return the number of classes of the box head in a published model, without its class "no box"; None without a box head.

        tensors: the weights of the model under mapsto's names.
        """
        bias = tensors.get(f"{cls.head_name}.named.bias")
        return None if bias is None else len(bias) - 1

    def learn(self, answers: Sequence[tuple[Box, ...]], balance: bool = False) -> None:
        """Learn the classes (sorted by name), the mean number of boxes in a picture, and the number of queries on the grid.

        balance: not used. Raises DataError if no row has a box.
        """
        counted = [[box for box in answer if not box.crowd] for answer in answers]
        counts = Counter(box.label for boxes in counted for box in boxes)
        if not counts:
            raise DataError("no row has a box")
        self.classes = sorted(counts)
        self.usual = max(1.0, counts.total() / len(counted))
        self.grid = int(np.clip(math.ceil((QUERIES_A_BOX * max(map(len, counted))) ** 0.5), *GRIDS))

    def bind(self, sources: Mapping[str, Source], transform: Any) -> None:
        """Store the picture source and the number of its learnt queries. Raises UsageError if the arrow reads no picture."""
        source = sources.get(self.lies_in)
        if source is None:
            raise UsageError("boxes lie in a picture: the arrow reads none")
        self.source = require(source, Spatial, "asked about places")
        self.num_learnt = self.source.queries

    def questions(self, pieces: Sequence[Piece]) -> Answer:
        """Return an empty answer, (q, 5) filled with −1, that asks for a prediction of every query of the picture.

        A learnt query is read at its own token, a query on the grid is interpolated from the four patches around it.
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
        """Return values (q, 5), a box a row: class, centre x and y, width, height, as fractions of the visible picture.

        Rows without a box have the class −1.
        """
        return self._to_answer(self._visible_boxes(answer, self._find_piece(pieces)), pieces)

    def mix_answers(
        self, answers: Sequence[tuple[Box, ...]], pieces: Sequence[Piece], parts: Sequence[MixturePart]
    ) -> Answer:
        """Return the encoded boxes of all pictures in a mosaic, each box moved to where the mosaic shows its picture.

        answers: the boxes of each picture. parts: for each picture, the tokens of the mosaic that show it.
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
        """Return the boxes of an answer of which at least MIN_VISIBLE is visible in a piece, cut off at the piece's edges.

        Crowds and boxes of unknown classes are left out.
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
        """Return boxes as an encoded answer (q, 5); of more than q boxes, the q largest."""
        answer = self.questions(pieces)
        largest = sorted(boxes, key=lambda box: -(box[2] - box[1]).prod())[: self.queries]
        for row, (index, low, high) in enumerate(largest):
            answer.values[row] = index, *((low + high) / 2)[::-1], *(high - low)[::-1]
        return answer

    def _find_piece(self, pieces: Sequence[Piece]) -> Piece:
        """Return the piece of the picture among the source pieces of an example."""
        (picture,) = (piece for piece in pieces if piece.kind == self.lies_in)
        return picture

    def gather(self, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """Return the outputs of each example, (n, q, c + 4): class logits, then left, top, right, bottom in raw pixels.

        For learnt queries the logit of "no box" follows the class logits: (n, q, c + 5).
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
        """Return the module from query vectors (m, d) to class logits and boxes: LearntHead for learnt queries, else BoxHead."""
        return LearntHead(width, len(self.classes)) if self.num_learnt else BoxHead(width, len(self.classes), self.grid)

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the loss of classes and boxes, summed over pictures, from outputs (m, …) and encoded answers (m, 5).

        It is multiplied by queries / `usual`: divided by m, it is then the mean loss of a picture divided by `usual`.
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
        """Return the loss of one picture on a grid: focal loss of classes, and 1 − GIoU of predicted and assigned true boxes.

        middle_q2: (x, y) of each query. truth_k5: class, centre and size of each true box.
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
        """Return the loss of one picture with learnt queries, each true box of which is matched to one query (DETR).

        It sums the cross-entropy of classes, and the L1 distance and 1 − GIoU of matched boxes.
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
        """Return the cross-entropy of the class logits of learnt queries, with a small weight for "no box".

        query, classes: indices of the matched queries, and their true classes. All other queries have the class "no box".
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
        """Return the probability of each class from logits, (…, c), without the class "no box" of learnt queries."""
        return logits.softmax(-1)[..., :-1] if self.num_learnt else torch.sigmoid(logits)

    def ranked(self, picture: Tensor) -> tuple[Floats, NDArray[np.int64], Floats]:
        """Return probabilities (b,), classes (b,) and sides (b, 4) of at most MAX_BOXES boxes, the most confident first.

        picture: (q, …), the outputs of one picture. On a grid, a box is left out if it overlaps a more confident box of
        its class.
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
        """Return {"boxes", "probability"} for each picture: its boxes, the most confident first, and the answer's confidence.

        A box is {"label", "box", "probability"}, in raw pixels, with a probability of at least MIN_CONFIDENCE.
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

        Average precision is "map" over ten thresholds of IoU, "map50" at 0.5 and "map75" at 0.75. "found" is the mean Jaccard
        index of a picture's predicted and true boxes, which match from an IoU of 0.5.
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
        """Return an AveragePrecision of all classes, with the detections of each picture matched to its true boxes."""
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

        For an answer without boxes it is one minus the probability of the likeliest candidate.
        """
        return np.array([_answer_confidence(self.ranked(picture)[0]) for picture in output])

    def per_item_metric(self, output: Tensor, answers: Sequence[tuple[Box, ...]]) -> NDArray[np.float32]:
        """Return the Jaccard index (n,) of each picture's predicted and true boxes, which match from an IoU of 0.5.

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
                # A prediction that lies in a crowd is neither right nor wrong.
                num_ignored += int((~detections.counts[0]).sum())
            num_either = int(is_predicted.sum()) - num_ignored + num_true - num_matched
            scores_of_rows.append(num_matched / num_either if num_either else 1.0)
        return np.array(scores_of_rows, np.float32)

    def correctness(self, output: Tensor, answers: Sequence[tuple[Box, ...]]) -> NDArray[np.float32]:
        """Return the Jaccard index (n,) of each picture's predicted and true boxes, the same as `per_item_metric`."""
        return self.per_item_metric(output, answers)

    def baseline(self, answers: Sequence[tuple[Box, ...]]) -> dict[str, Score]:
        """Return no scores, since no boxes are a useful constant answer to all pictures."""
        return {}

    def brief(self, answer: Any) -> str:
        """Return the number of boxes of each class in words, such as "2 cat, 1 dog"."""
        counts = Counter(mark.text for mark in self.regions(answer))
        return ", ".join(f"{n} {name}" for name, n in counts.most_common()) or "nothing"

    @staticmethod
    def regions(answer: Any, true: bool = False) -> list[Mark]:
        """Return the rectangle of each box of an answer as a mark with the box's label.

        true: whether the answer is a true label, not a prediction.
        """
        boxes = [
            (box.label, (box.left, box.top, box.right, box.bottom))
            if isinstance(box, Box)
            else (box["label"], box["box"])
            for box in answer
        ]
        return [Mark([[top, bottom], [left, right]], label, true) for label, (left, top, right, bottom) in boxes]

    def class_names(self, answer: tuple[Box, ...]) -> Sequence[str]:
        """Return the label of each box in a true answer."""
        return [box.label for box in answer]

    def notes(self, answers: Sequence[tuple[Box, ...]]) -> list[str]:
        """Return sentences on classes in `answers` never seen in training, and on pictures with too many boxes for one answer."""
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
        """Return the classes, the number of queries along a side of the grid, and the mean number of boxes in a picture."""
        return {"classes": self.classes, "grid": self.grid, "usual": self.usual}


def _ends(piece: Piece) -> tuple[Floats, Floats]:
    """Return the first corner (y, x) and the last corner of the visible part of a picture, in raw pixels."""
    assert piece.alignment is not None
    return piece.alignment.ends(piece.positions)


def _parse_list(cell: object) -> list[Any]:
    """Return the entries of a cell, one for each box: of a list, of JSON, or of COCO's dict of lists. Raises BadCell."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError as error:
            raise BadCell("the boxes are no JSON") from error
    if isinstance(cell, dict) and _is_fault(cell):
        raise BadCell(str(cell["fault"]))
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
    """Return the mean of the probabilities that reach MIN_CONFIDENCE; if none does, one minus the highest.

    scores: the probabilities of a picture's candidate boxes, the highest first.
    """
    kept = scores[scores >= MIN_CONFIDENCE]
    return float(kept.mean() if len(kept) else 1 - scores[0])


def _is_fault(cell: object) -> bool:
    """Return whether a cell is {"fault": reason}, which stands for an annotation file that could not be read."""
    return isinstance(cell, dict) and "fault" in cell


def _boxes_of(answer: Sequence[Box], name: str) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the boxes (g, 4) of one class in an answer, in pixels, and a mask (g,) of the crowds among them."""
    boxes = [box for box in answer if box.label == name]
    sides = [[box.left, box.top, box.right, box.bottom] for box in boxes]
    return np.array(sides, np.float64).reshape(-1, 4), np.array([box.crowd for box in boxes], np.bool_)


target = Boxes
