"""labels: all classes that apply, none, one or several.

Legend of shapes: m answers, c classes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.errors import BadCell, DataError
from mapsto.metrics.classification import multilabel_macro_f1, multilabel_micro_f1
from mapsto.metrics.intervals import Score, mean_score, with_interval
from mapsto.model.layers import new_head
from mapsto.model.linear_probe import fit_logistic_regression
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.capabilities import Attributable, Classes, Comparable, LinearProbe, Mixable
from mapsto.task.readout import Pooled
from mapsto.task.target import Metric, State
from mapsto.text.features import no_text

BETWEEN = ("|", ";", "；", ",", "，", "、")  # the first of these that stands in a text parts its labels


Values = NDArray[np.float64]


class Labels(Classes, LinearProbe, Comparable, Attributable, Mixable):
    """Those of the classes seen in training that apply, each told by a sigmoid of its own from the pooled vector."""

    kind = "labels"
    readout = Pooled()
    primary_metric = "agreement"
    constant_rule = "always the commonest answer"

    def __init__(self, classes: Sequence[str] = ()) -> None:
        self.classes = list(classes)

    @staticmethod
    def fits(values: Sequence[object]) -> bool:
        """A column of lists, or of texts of which some are parted."""
        known = [value for value in values if value is not None]
        if any(isinstance(value, list | tuple | np.ndarray) for value in known):
            return all(isinstance(value, list | tuple | np.ndarray | str) for value in known)
        return any(isinstance(value, str) and any(mark in value for mark in BETWEEN[:3]) for value in known)

    @staticmethod
    def samples() -> list[Any]:
        """None, one, several, in several scripts."""
        return [[], ["green"], "green|red|蓝", "red"]

    @staticmethod
    def read(cell: object) -> tuple[str, ...]:
        """A list of names, also as JSON, or a text that parts them by |, ; or a comma; nothing means that none applies."""
        if cell is None:
            return ()
        if isinstance(cell, str) and cell.lstrip().startswith("["):
            try:
                cell = json.loads(cell)
            except ValueError as error:
                raise BadCell("the list of labels is no JSON") from error
        if isinstance(cell, str):
            mark = next((mark for mark in BETWEEN if mark in cell), None)
            parts: Sequence[object] = cell.split(mark) if mark else [cell]
        elif isinstance(cell, list | tuple | np.ndarray):
            parts = list(cell)
        else:
            raise BadCell(f"labels are a list or a text, not {type(cell).__name__}")
        names = [str(part).strip() for part in parts if part is not None]
        for name in names:
            if (fault := no_text(name)) is not None:
                raise BadCell(f"a label holds {fault}")
        return tuple(dict.fromkeys(name for name in names if name))

    @classmethod
    def count_published_classes(cls, tensors: Mapping[str, Tensor]) -> int | None:
        """Return None: no family publishes such a head."""
        return None

    def learn(self, answers: Sequence[tuple[str, ...]], balance: bool = False) -> None:
        """The classes, in order of their names. Raises DataError where none is named."""
        counts = Counter(name for answer in answers for name in answer)
        if not counts:
            raise DataError("no row has a label")
        self.classes = sorted(counts)

    def encode(self, answer: tuple[str, ...], pieces: Sequence[Piece]) -> Answer:
        """1 for each class that applies, else 0: (c,)."""
        return Answer(self._truth([answer])[0].astype(np.float32))

    def probe(self, features: Any, values: Ints, seed: int, selection_features: Any = None) -> tuple[Tensor, Tensor]:
        """A logistic regression for each class."""
        weight, bias = np.zeros((len(self.classes), features.shape[1])), np.zeros(len(self.classes))
        for at, column in enumerate(np.asarray(values).T):
            often = column.mean()
            if 0 < often < 1:
                fitted = fit_logistic_regression(features, column > 0, seed, selection_features=selection_features)
                weight[at], bias[at] = fitted.coef_[0], fitted.intercept_[0]
            else:
                bias[at] = 10.0 if often else -10.0
        return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()

    def constant_output(self, values: Ints) -> Tensor | None:
        """How often each applies."""
        often = np.clip(np.asarray(values).mean(0), 1e-3, 1 - 1e-3)
        return torch.from_numpy(np.log(often / (1 - often))).float()

    def answer_score(self, output: Tensor, answered: Tensor) -> Tensor:
        """The log-odds of all that is answered; where nothing is, those that the likeliest does not apply either."""
        applies = answered > 0
        nothing = ~applies.any(-1, keepdim=True) & (answered == answered.amax(-1, keepdim=True))
        return torch.where(applies, output, torch.where(nothing, -output, torch.zeros_like(output))).sum(-1)

    def per_item_metric(self, output: Tensor, answers: Sequence[tuple[str, ...]]) -> NDArray[np.float32] | None:
        """What share of the labels said or true is both (Jaccard); 1 where nothing is said and nothing true."""
        return self._agreement(output, answers).astype(np.float32)

    def correctness(self, output: Tensor, answers: Sequence[tuple[str, ...]]) -> NDArray[np.float32]:
        """1 where all labels are right and none is missing, else 0."""
        return self._exact(output, answers).astype(np.float32)

    def _exact(self, output: Tensor, answers: Sequence[tuple[str, ...]]) -> Values:
        known = np.array([set(answer) <= set(self.classes) for answer in answers])
        found: Values = ((_said(output) == self._truth(answers)).all(1) & known).astype(np.float64)
        return found

    def _agreement(self, output: Tensor, answers: Sequence[tuple[str, ...]]) -> Values:
        said, truth = _said(output), self._truth(answers)
        unknown = np.array([len(set(answer) - set(self.classes)) for answer in answers])
        either = (said | truth).sum(1) + unknown
        return np.where(either > 0, (said & truth).sum(1) / np.maximum(either, 1), 1.0)

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """A linear map to one logit a class."""
        return new_head(width, len(self.classes))

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """The binary cross-entropies of logits (m, c) against (m, c), summed."""
        return F.binary_cross_entropy_with_logits(output.float(), values, reduction="sum")

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Every class that is likelier to apply than not, and how likely it is that all of them are right."""
        shares, sure = torch.sigmoid(output.double()).tolist(), self.confidence(output).tolist()
        found = []
        for row, said, probability in zip(shares, _said(output), sure, strict=True):
            chosen = [name for name, applies in zip(self.classes, said, strict=True) if applies]
            found.append(
                {"labels": chosen, "probability": probability, "scores": dict(zip(self.classes, row, strict=True))}
            )
        return found

    def confidence(self, output: Tensor) -> NDArray[np.float64]:
        """The probability that all of them are right, were they independent of each other."""
        share = torch.sigmoid(output.double())
        found: NDArray[np.float64] = torch.maximum(share, 1 - share).prod(-1).cpu().numpy()
        return found

    def metrics(self, output: Tensor, answers: Sequence[tuple[str, ...]]) -> dict[str, Metric]:
        """Agreement (Jaccard by row), the share of rows with exactly the true labels, and F1 over classes and over labels."""
        said, truth = _said(output), self._truth(answers)
        return {
            "agreement": (mean_score, self._agreement(output, answers)),
            "exact": (mean_score, self._exact(output, answers)),
            "macro_f1": (multilabel_macro_f1, said, truth),
            "micro_f1": (multilabel_micro_f1, said, truth),
        }

    def baseline(self, answers: Sequence[tuple[str, ...]]) -> dict[str, Score]:
        """Never a label."""
        none = np.array([not answer for answer in answers], np.float64)
        return {"agreement": with_interval(mean_score, none), "exact": with_interval(mean_score, none)}

    def class_names(self, answer: tuple[str, ...]) -> Sequence[str]:
        """Those that apply."""
        return answer

    def notes(self, answers: Sequence[tuple[str, ...]]) -> list[str]:
        """Labels that training never saw."""
        unseen = Counter(name for answer in answers for name in answer if name not in self.classes)
        return [f"{n:,} rows have the label {name!r}, which training never saw" for name, n in unseen.most_common(5)]

    def state(self) -> State:
        """The classes."""
        return {"classes": self.classes}

    def brief(self, answer: Sequence[str]) -> str:
        """The labels, parted by commas."""
        return ", ".join(answer) or "none"

    def _truth(self, answers: Sequence[tuple[str, ...]]) -> NDArray[np.bool_]:
        """(m, c); labels that training never saw are in no column."""
        known = {name: at for at, name in enumerate(self.classes)}
        found = np.zeros((len(answers), len(self.classes)), np.bool_)
        for row, answer in enumerate(answers):
            found[row, [known[name] for name in answer if name in known]] = True
        return found


def _said(output: Tensor) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (output > 0).cpu().numpy()
    return found


target = Labels
