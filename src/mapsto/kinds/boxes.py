"""boxes: where things are in a picture, and what they are.

The queries are places of a grid over the picture, read between its tokens (or the cells of a network); a few layers that see the
places about each tell one box or that there is none. While learning, the places in the middle of a true box are given to it
(FCOS, Tian et al. 2019); of answers that overlap the surest is told.
To match one of many queries to each box (DETR, Carion et al. 2020) learns very much more slowly from a few hundred pictures. It
is done where a start brings queries that learnt so: tokens of its own in every piece (YOLOS, Fang et al. 2021). Then there being
nothing is a class beside the others, as published; else each class is there or not.
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
from mapsto.sequence.piece import Part, Piece
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

GRIDS, QUERIES_A_BOX = (16, 32), 32


LIKELIEST = 300  # answers of a picture among which those that overlap are looked for


# Weights of class, distance and overlap, in the matching and in the loss (Carion et al. 2020).
NAMED, NEAR, SHARED = 2.0, 5.0, 2.0


NOTHING = 0.1  # weight of the class of there being nothing, where it is one (Carion et al. 2020)


LEFT = 0.25  # the share of a box that must be seen for it to be asked for


SURE, MOST_TOLD = 0.4, 100


LEARNING, LEARNT = Learning(20, 100, 250, 1e-4, head_factor=10), Learning(20, 100, 250, 1e-4)


Floats = NDArray[np.float64]


Left = tuple[int, Floats, Floats]  # the class of a box, and its corners (y, x) as shares of what is seen


@dataclass(frozen=True)
class Box:
    """What stands in a rectangle of pixels. crowd: of many things that nobody counted, so that it is not asked for."""

    label: str
    left: float
    top: float
    right: float
    bottom: float
    crowd: bool = False

    def __str__(self) -> str:
        return f"{self.label} at {self.left:.0f}, {self.top:.0f} to {self.right:.0f}, {self.bottom:.0f}"


def _box(said: object) -> Box:
    """A box out of {"label", "box": [left, top, right, bottom]} or COCO's {"category", "bbox": [left, top, width, height]}."""
    if not isinstance(said, dict):
        raise BadCell(f"a box is a dict, not {type(said).__name__}")
    label = said.get("label", said.get("category"))
    sides = said.get("box", said.get("bbox"))
    if not isinstance(label, str | int | np.integer | None) or isinstance(sides, str | dict):
        raise BadCell("a box has a label, which is text or a number, and a list of four sides")
    try:
        left, top, right, bottom = map(float, sides)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise BadCell('a box has four sides: "box": [left, top, right, bottom]') from error
    if "box" not in said:
        right, bottom = left + right, top + bottom
    if label is None or not str(label).strip() or (fault := find_invalid_character(str(label))) is not None:
        raise BadCell("a box has no label" if label is None or not str(label).strip() else f"a label holds {fault}")
    box = Box(str(label).strip(), left, top, right, bottom, bool(said.get("crowd")))
    if not all(map(math.isfinite, (left, top, right, bottom))) or right <= left or bottom <= top:
        raise BadCell(f"a box without an area: {box}")
    return box


class Boxes(Located, Classes, Comparable, Mixable):
    """The boxes of an example, each of one of the classes seen in training. grid: queries along each side, where the start brings
    none. usual: boxes in an example."""

    kind = "boxes"
    readout = Queried()
    head_name = "box_head"
    class_weight_names = "named."
    lies_in = "image"
    primary_metric = "found"
    mixture_layouts = ("placed",)

    def __init__(self, classes: Sequence[str] = (), grid: int = GRIDS[0], usual: float = 1.0) -> None:
        self.classes, self.grid, self.usual = list(classes), grid, usual
        self.learnt = 0  # queries of the start

    @property
    def learning(self) -> Learning:
        """Much faster than the start where the head looks at places, of which that knows nothing."""
        return LEARNT if self.learnt else LEARNING

    @property
    def queries(self) -> int:
        """How many boxes can be told at most."""
        return self.learnt or self.grid**2

    @staticmethod
    def fits(values: Sequence[object]) -> bool:
        """A column of lists of dicts, also as JSON or as lists by field; or of what says why it is none."""
        known = [value for value in values if value is not None and not _fault(value)]
        try:
            listed = [box for value in known for box in _listed(value)]
        except BadCell:
            return False
        return len(known) + sum(map(_fault, values)) > 0 and all(isinstance(box, dict) for box in listed)

    @staticmethod
    def samples() -> list[Any]:
        """None, one, several that overlap, in several scripts; as COCO has them, and as JSON."""
        cat = {"label": "cat", "box": [2, 3, 12, 11]}
        return [[], [cat], json.dumps([cat, {"label": "狗", "bbox": [0, 0, 8, 8]}], ensure_ascii=False)]

    @staticmethod
    def read(cell: object) -> tuple[Box, ...]:
        """A list of dicts, as such or as JSON, or a dict of lists as Hugging Face has it."""
        if cell is None:
            raise BadCell("no boxes are given; an empty list says that there is nothing")
        return tuple(map(_box, _listed(cell)))

    @staticmethod
    def misplaced(answer: tuple[Box, ...], value: Any) -> str:
        """A box of which so little is in the picture that it would not be asked for."""
        for box in answer:
            wide = min(box.right, value.width) - max(box.left, 0)
            high = min(box.bottom, value.height) - max(box.top, 0)
            if max(wide, 0) * max(high, 0) < LEFT * (box.right - box.left) * (box.bottom - box.top):
                return f"a box outside the picture of {value.width} × {value.height} pixels: {box}"
        return ""

    @staticmethod
    def annotations(path: Path, within: Callable[[Path], Sequence[Path]]) -> dict[str, Any]:
        """What COCO's, Pascal VOC's or YOLO's files say."""
        return dict(detection_annotations.read_annotations(path, within))

    @classmethod
    def count_published_classes(cls, tensors: Mapping[str, Tensor]) -> int | None:
        """Return the classes of the box head, of which the last means that there is no box."""
        bias = tensors.get(f"{cls.head_name}.named.bias")
        return None if bias is None else len(bias) - 1

    def learn(self, answers: Sequence[tuple[Box, ...]], balance: bool = False) -> None:
        """The classes in order of their names, and how many boxes there are. Raises DataError where there is none."""
        told = [[box for box in answer if not box.crowd] for answer in answers]
        counts = Counter(box.label for boxes in told for box in boxes)
        if not counts:
            raise DataError("no row has a box")
        self.classes = sorted(counts)
        self.usual = max(1.0, counts.total() / len(told))
        self.grid = int(np.clip(math.ceil((QUERIES_A_BOX * max(map(len, told))) ** 0.5), *GRIDS))

    def bind(self, sources: Mapping[str, Source], transform: Any) -> None:
        """Take the picture source, and the learnt queries that it brings. Raises UsageError without one."""
        source = sources.get(self.lies_in)
        if source is None:
            raise UsageError("boxes lie in a picture: the arrow reads none")
        self.source = require(source, Spatial, "asked about places")
        self.learnt = self.source.queries

    def questions(self, pieces: Sequence[Piece]) -> Answer:
        """The queries, and nothing known."""
        (port,) = (port for port, piece in enumerate(pieces) if piece.kind == self.lies_in)
        first, nothing = sum(map(len, pieces[:port])), np.full((self.queries, 5), -1.0, np.float32)
        if self.learnt:
            end = first + len(pieces[port])
            return Answer(nothing, np.arange(end - self.learnt, end))
        at, shares = self.source.tokens_around(pieces[port], (self.grid, self.grid))
        return Answer(nothing, first + at, shares=shares)

    def encode(self, answer: tuple[Box, ...], pieces: Sequence[Piece]) -> Answer:
        """(q, 5): class, middle x and y, width and height as shares of what is seen of the picture; class −1 where there is no
        further box."""
        return self._told(self._left(answer, self._seen(pieces)), pieces)

    def mix_answers(self, answers: Sequence[tuple[Box, ...]], pieces: Sequence[Piece], parts: Sequence[Part]) -> Answer:
        """The boxes of all pictures, each where its picture stands."""
        grid = self._seen(pieces).positions.max(0) + 1
        found: list[Left] = []
        for answer, part in zip(answers, parts, strict=True):
            if part.piece is not None:
                begin, end = part.piece.positions.min(0) / grid, (part.piece.positions.max(0) + 1) / grid
                left = self._left(answer, part.piece)
                found += [(kind, *(begin + side * (end - begin) for side in sides)) for kind, *sides in left]
        return self._told(found, pieces)

    def _left(self, answer: tuple[Box, ...], seen: Piece) -> list[Left]:
        """The boxes of which enough is seen."""
        first, last = _ends(seen)
        found: list[Left] = []
        for box in answer:
            sides = np.array([[box.top, box.bottom], [box.left, box.right]])
            whole = np.sort((sides - first[:, None]) / (last - first)[:, None], axis=1)
            low, high = np.clip(whole, 0, 1).T
            kept = (high - low).prod() >= LEFT * (whole[:, 1] - whole[:, 0]).prod()
            if kept and not box.crowd and box.label in self.classes:
                found.append((self.classes.index(box.label), low, high))
        return found

    def _told(self, boxes: Sequence[Left], pieces: Sequence[Piece]) -> Answer:
        """The largest boxes, as many as there are queries."""
        asked = self.questions(pieces)
        largest = sorted(boxes, key=lambda box: -(box[2] - box[1]).prod())[: self.queries]
        for row, (kind, low, high) in enumerate(largest):
            asked.values[row] = kind, *((low + high) / 2)[::-1], *(high - low)[::-1]
        return asked

    def _seen(self, pieces: Sequence[Piece]) -> Piece:
        """The picture of an example."""
        (seen,) = (piece for piece in pieces if piece.kind == self.lies_in)
        return seen

    def gather(self, output: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """(n, q, c + 4), or c + 5 where nothing is a class: logits, and left, top, right, bottom in raw pixels."""
        found = output.view(len(pieces), self.queries, -1)
        ends = np.array([_ends(self._seen(one)) for one in pieces])[:, :, ::-1].copy()  # (n, 2, 2): first and last x, y
        first, last = torch.from_numpy(ends).to(found).unbind(1)
        middle, extent = found[..., -4:-2], found[..., -2:]
        corners = [(middle + side * extent / 2).clamp(0, 1) for side in (-1, 1)]
        raw = torch.stack([first[:, None] + corner * (last - first)[:, None] for corner in corners])
        return torch.cat([found[..., :-4], raw.amin(0), raw.amax(0)], dim=-1)

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Dense layers to classes and sides."""
        return LearntHead(width, len(self.classes)) if self.learnt else BoxHead(width, len(self.classes), self.grid)

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """The loss of the classes and that of the sides; weighed so that the usual number of boxes makes the sum of one
        example."""
        found, truth = output.float().view(-1, self.queries, output.shape[-1]), values.view(-1, self.queries, 5)
        total = output.new_zeros((), dtype=torch.float32)
        of = self._matched if self.learnt else partial(self._placed, grid_centres(self.grid).to(values))
        for one, true in zip(found, truth, strict=True):
            total = total + of(one[:, :-4], one[:, -4:], true[true[:, 0] >= 0])
        return total * self.queries / self.usual

    def _placed(self, middle_q2: Tensor, logits_qc: Tensor, boxes_q4: Tensor, truth_k5: Tensor) -> Tensor:
        """Of queries at places: focal loss of the classes, and overlap of what is told in the middle of a true box with it."""
        kinds, sides = truth_k5[:, 0].long(), truth_k5[:, 1:]
        query, true = assign_by_centre(middle_q2, sides, 1 / self.grid)
        wanted = torch.zeros_like(logits_qc)
        wanted[query, kinds[true]] = 1.0
        apart = (1 - generalised_iou(boxes_q4[query], sides[true])).sum()
        a_box = max(1.0, len(query) / max(1, len(sides)))
        return (NAMED * focal_loss(logits_qc, wanted) + SHARED * apart) / a_box

    def _matched(self, logits_qc: Tensor, boxes_q4: Tensor, truth_k5: Tensor) -> Tensor:
        """Of learnt queries: cross-entropy of the classes, and distance and overlap of the matched boxes (DETR)."""
        kinds, sides = truth_k5[:, 0].long(), truth_k5[:, 1:]
        with torch.no_grad():
            cost = NEAR * torch.cdist(boxes_q4, sides, p=1) - self._likely(logits_qc)[:, kinds]
            cost -= SHARED * generalised_iou(boxes_q4[:, None], sides[None])
        query, true = match_one_to_one(cost)
        near = (boxes_q4[query] - sides[true]).abs().sum()
        apart = (1 - generalised_iou(boxes_q4[query], sides[true])).sum()
        return self._naming(logits_qc, query, kinds[true]) + NEAR * near + SHARED * apart

    def _naming(self, logits: Tensor, query: Tensor, kinds: Tensor) -> Tensor:
        """The loss of the classes, where these learnt queries are to name these kinds and others none."""
        nothing = len(self.classes)
        weight = logits.new_ones(nothing + 1)
        weight[nothing] = NOTHING
        said = kinds.new_full((len(logits),), nothing)
        said[query] = kinds
        usual = self.usual + NOTHING * (self.queries - self.usual)
        return F.cross_entropy(logits, said, weight, reduction="sum") * self.usual / usual

    def _likely(self, logits: Tensor) -> Tensor:
        """How likely each class is, (…, c)."""
        return logits.softmax(-1)[..., :-1] if self.learnt else torch.sigmoid(logits)

    def ranked(self, picture: Tensor) -> tuple[Floats, NDArray[np.int64], Floats]:
        """Scores, classes and sides (·, 4) of the likeliest pairs of query and class of one (q, …), the surest first; of queries
        at places those alone that overlap no surer one of their class."""
        likely, at = self._likely(picture[:, :-4].double()).flatten().sort(descending=True, stable=True)
        at, classes = at[:LIKELIEST], len(self.classes)
        scores, kinds, sides = (
            likely[:LIKELIEST].numpy(),
            (at % classes).numpy(),
            picture[at // classes, -4:].double().numpy(),
        )
        told = slice(MOST_TOLD) if self.learnt else non_maximum_suppression(sides, kinds)[:MOST_TOLD]
        return scores[told], kinds[told], sides[told]

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """The boxes that are sure enough, the surest first, each with its probability, in raw pixels; an answer without one
        holds an empty list. The probability of an answer is its `confidence`."""
        told = []
        for scores, kinds, sides in map(self.ranked, output):
            shown = [
                {"label": self.classes[kind], "box": [round(side, 1) for side in box], "probability": score}
                for score, kind, box in zip(scores.tolist(), kinds.tolist(), sides.tolist(), strict=True)
                if score >= SURE
            ]
            told.append({"boxes": shown, "probability": _sure(scores)})
        return told

    def metrics(self, output: Tensor, answers: Sequence[tuple[Box, ...]]) -> dict[str, Metric]:
        """COCO's average precision over ten overlaps, at 0.5 and at 0.75, its average recall; and what share of all boxes said
        or true is both, at an overlap of 0.5."""
        precision, pictures = self._precision(output, answers), np.arange(len(answers))
        return {
            "map": (precision.precision, pictures),
            "map50": (lambda chosen: precision.precision(chosen, slice(0, 1)), pictures),
            "map75": (lambda chosen: precision.precision(chosen, slice(5, 6)), pictures),
            "recall": (precision.recall, pictures),
            "found": (mean_score, self.per_item_metric(output, answers).astype(np.float64)),
        }

    def _precision(self, output: Tensor, answers: Sequence[tuple[Box, ...]]) -> AveragePrecision:
        names = self.classes + sorted({box.label for answer in answers for box in answer} - set(self.classes))
        found = [self.ranked(picture) for picture in output]
        return AveragePrecision(
            [
                [
                    match_detections(sides[kinds == kind], scores[kinds == kind], *_of(answer, name))
                    for (scores, kinds, sides), answer in zip(found, answers, strict=True)
                ]
                for kind, name in enumerate(names)
            ]
        )

    def confidence(self, output: Tensor) -> Floats:
        """How likely the boxes that are told are right, in the mean; where none is told, how unlikely the likeliest one is."""
        return np.array([_sure(self.ranked(picture)[0]) for picture in output])

    def per_item_metric(self, output: Tensor, answers: Sequence[tuple[Box, ...]]) -> NDArray[np.float32]:
        """For each picture what share of the boxes said or true is both, at an overlap of 0.5; 1 where there is neither."""
        worth = []
        for picture, answer in zip(output, answers, strict=True):
            scores, kinds, sides = self.ranked(picture)
            said = scores >= SURE
            true = sum(not box.crowd for box in answer)
            both = left_out = 0
            for name in {box.label for box in answer}:
                chosen = said & (kinds == (self.classes.index(name) if name in self.classes else -1))
                found = match_detections(sides[chosen], scores[chosen], *_of(answer, name))
                both += int(found.is_correct[0].sum())
                left_out += int((~found.counts[0]).sum())
            either = int(said.sum()) - left_out + true - both
            worth.append(both / either if either else 1.0)
        return np.array(worth, np.float32)

    def correctness(self, output: Tensor, answers: Sequence[tuple[Box, ...]]) -> NDArray[np.float32]:
        """Return the share of boxes found, as `per_item_metric`."""
        return self.per_item_metric(output, answers)

    def baseline(self, answers: Sequence[tuple[Box, ...]]) -> dict[str, Score]:
        """None: what reads nothing has no box to tell."""
        return {}

    def brief(self, answer: Any) -> str:
        """How many of each class."""
        counts = Counter(mark.text for mark in self.regions(answer))
        return ", ".join(f"{n} {name}" for name, n in counts.most_common()) or "nothing"

    @staticmethod
    def regions(answer: Any, true: bool = False) -> list[Mark]:
        """Where each box stands."""
        told = [
            (box.label, (box.left, box.top, box.right, box.bottom))
            if isinstance(box, Box)
            else (box["label"], box["box"])
            for box in answer
        ]
        return [Mark([[top, bottom], [left, right]], label, true) for label, (left, top, right, bottom) in told]

    def class_names(self, answer: tuple[Box, ...]) -> Sequence[str]:
        """What the boxes are of."""
        return [box.label for box in answer]

    def notes(self, answers: Sequence[tuple[Box, ...]]) -> list[str]:
        """Classes that training never saw, and pictures with more boxes than queries."""
        unseen = Counter(box.label for answer in answers for box in answer if box.label not in self.classes)
        most = min(self.queries, MOST_TOLD)
        full = sum(sum(not box.crowd for box in answer) > most for answer in answers)
        found = [f"{n:,} boxes are of {name!r}, which training never saw" for name, n in unseen.most_common(5)]
        return found + (
            [f"{full:,} rows have more boxes than the {most} that can be told; there the surest count"] if full else []
        )

    def state(self) -> State:
        """The classes, and how many boxes can be asked for."""
        return {"classes": self.classes, "grid": self.grid, "usual": self.usual}


def _ends(seen: Piece) -> tuple[Floats, Floats]:
    """The raw places, (y, x) each, where a picture begins and ends as it is seen."""
    assert seen.alignment is not None
    return seen.alignment.ends(seen.positions)


def _listed(cell: object) -> list[Any]:
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError as error:
            raise BadCell("the boxes are no JSON") from error
    if isinstance(cell, dict) and _fault(cell):
        raise BadCell(str(cell["fault"]))
    if isinstance(cell, dict) and {"bbox", "category"} <= cell.keys():
        sides, names = cell["bbox"], cell["category"]
        if not all(isinstance(part, list | tuple | np.ndarray) for part in (sides, names)) or len(sides) != len(names):
            raise BadCell("there are not as many categories as boxes")
        return [{"bbox": box, "category": name} for box, name in zip(sides, names, strict=True)]
    if not isinstance(cell, list | tuple | np.ndarray):
        raise BadCell(f"boxes are a list, not {type(cell).__name__}")
    return list(cell)


def _sure(scores: Floats) -> float:
    """How likely an answer is right, by the scores of its boxes, the surest first: see Boxes.confidence."""
    told = scores[scores >= SURE]
    return float(told.mean() if len(told) else 1 - scores[0])


def _fault(cell: object) -> bool:
    """Whether a cell says why it could not be read."""
    return isinstance(cell, dict) and "fault" in cell


def _of(answer: Sequence[Box], name: str) -> tuple[Floats, NDArray[np.bool_]]:
    """The boxes (g, 4) of one class, and which of them are crowds."""
    chosen = [box for box in answer if box.label == name]
    sides = [[box.left, box.top, box.right, box.bottom] for box in chosen]
    return np.array(sides, np.float64).reshape(-1, 4), np.array([box.crowd for box in chosen], np.bool_)


target = Boxes
