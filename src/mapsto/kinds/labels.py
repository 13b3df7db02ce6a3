"""labels: all classes that apply to a row: none, one or several (multi-label), read from the pooled vector.

Each class is a binary question of its own: one logit, one sigmoid, one binary cross-entropy.
Legend of shapes: m answers, c classes, d width.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.errors import BadCell, DataError
from mapsto.metrics.classification import multilabel_macro_f1, multilabel_micro_f1
from mapsto.metrics.intervals import mean_score
from mapsto.model.layers import new_head
from mapsto.model.linear_probe import fit_logistic_regression
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.label_spelling import describe_alike
from mapsto.task.printed_lists import is_printed_list, parse_list
from mapsto.task.readout import Pooled
from mapsto.task.target import Metric, State
from mapsto.task.target_capabilities import (
    DEFAULT_PROBE,
    Advising,
    Attributable,
    Calibratable,
    Comparable,
    LinearProbe,
    Mixable,
    ProbeSettings,
    WeightedClasses,
)
from mapsto.text.cells import as_name
from mapsto.text.characters import canonical, find_invalid_character, has_visible

# The first of these that a column contains separates the labels of all its texts; a comma may be one of Chinese.
SEPARATORS = ("|", ";；", ",，", "、")
# The entries of a row that has 1 at the place of each class that applies.
MATRIX_CELLS = frozenset(["0", "1", "0.0", "1.0", "True", "False", "true", "false"])
CONSTANT_LOGIT = (
    10.0  # bias of a class that applies to all training rows; its negative for a class that applies to none
)

Values = NDArray[np.float64]


class Labels(WeightedClasses, Advising, Calibratable, LinearProbe, Comparable, Attributable, Mixable):
    """A target that answers with all classes that apply to a row, of those seen in training.

    classes: names of the classes in the order of the logits.
    """

    kind = "labels"
    readout = Pooled()
    primary_metric = "agreement"
    item_name = "labels"
    constant_rule = "always the commonest answer"

    def __init__(
        self, classes: Sequence[str] = (), folds: bool = False, weights: Sequence[float] | None = None
    ) -> None:
        self.classes, self.folds = list(classes), folds
        self.weights = None if weights is None else list(weights)

    @staticmethod
    def fits(values: Sequence[object]) -> bool:
        """Return whether a column can hold several labels a row.

        True if a cell is a list and all others are lists or texts, or if a text contains "|" or ";" or is a list in brackets.
        """
        cells = [value for value in values if value is not None]
        if any(isinstance(cell, list | tuple | np.ndarray) for cell in cells):
            return all(isinstance(cell, list | tuple | np.ndarray | str) for cell in cells)
        texts = [cell for cell in cells if isinstance(cell, str)]
        return any(mark in text for text in texts for mark in "".join(SEPARATORS[:2])) or (
            bool(texts) and all(text.strip()[:1] == "[" and text.strip()[-1:] == "]" for text in texts)
        )

    @staticmethod
    def samples() -> list[Any]:
        """Return cells with no label, one label, and several labels, one of them Chinese."""
        return [[], ["green"], "green|red|蓝", "red"]

    @staticmethod
    def read(cell: object) -> tuple[str, ...]:
        """Return the distinct label names in a cell; () for an empty list, to which no class applies, also as the text [].

        cell: a list, a list as JSON or as Python and NumPy print it, or a text whose names are separated by one of |, ; and comma
        (the first of them that occurs; in a column the first that any cell has, see `prepare_column`).
        Raises BadCell for any other cell, also a blank one, a list that cannot be read, invalid characters, and a row of zeros
        and ones.
        """
        if cell is None or (isinstance(cell, str) and not has_visible(cell) and "\0" not in cell):
            raise BadCell("the label is blank; an empty list, [], says that no class applies")
        cell = _parse_cell(cell)
        if isinstance(cell, str):
            parts: Sequence[object] = _split(cell, find_separator([cell]))
        elif isinstance(cell, list | tuple | np.ndarray):
            parts = list(cell)
        else:
            raise BadCell(f"labels are a list or a text, not {type(cell).__name__}")
        if any(isinstance(part, dict | list | tuple) for part in parts):
            raise BadCell("a label is text or a number, not a dict or a list")
        names = [canonical(_name(part)) for part in parts if part is not None]
        for name in names:
            if (problem := find_invalid_character(name)) is not None:
                raise BadCell(f"a label holds {problem}")
        if len(names) > len(set(names)) and {*names} <= MATRIX_CELLS:
            raise BadCell(
                "this is a row of a 0/1 matrix, not a list of names: write the names of the classes whose place holds a 1"
            )
        # dict.fromkeys removes repeated names and keeps their order.
        return tuple(dict.fromkeys(name for name in names if name))

    @classmethod
    def prepare_column(cls, cells: Sequence[object]) -> Sequence[object]:
        """Return the cells of a column with its texts as lists, split at the one separator of the column."""
        separator = find_separator(cells)
        if separator is None:
            return cells
        return [_split(cell, separator) if isinstance(cell, str) and _is_plain(cell) else cell for cell in cells]

    @classmethod
    def find_column_fault(cls, cells: Sequence[object]) -> tuple[int, str] | None:
        """Return (index, problem) of the first cell with another separator than that of the column; None if there is none."""
        separator = find_separator(cells)
        rest = "".join(SEPARATORS[SEPARATORS.index(separator) + 1 :]) if separator else ""
        for index, cell in enumerate(cells):
            if not isinstance(cell, str) or not _is_plain(cell) or set(separator or "") & set(cell):
                continue
            if mark := next((mark for mark in rest if mark in cell), None):
                reason = f"{separator and separator[0]!r} separates the labels of this column, so {mark!r} is a part of this one"
                return index, reason
        return None

    @classmethod
    def advise(cls, columns: Mapping[str, Sequence[object]], folder: Path) -> str:
        """Return a sentence on several columns of zeros and ones, each of which is a class."""
        cells = {name: {str(cell).strip() for cell in column if cell is not None} for name, column in columns.items()}
        names = [name for name in columns if cells[name] and cells[name] <= MATRIX_CELLS]
        if len(names) < 2:
            return ""
        return (
            f"{', '.join(map(repr, names[:5]))}{', …' if len(names) > 5 else ''} hold 0 and 1: write the names of those with 1 "
            f'into one column, as "{names[0]}|{names[1]}" ([] for none), or answer each by itself, as in '
            f"'{names[0]}:label, {names[1]}:label'"
        )

    @classmethod
    def count_published_classes(cls, tensors: Mapping[str, Tensor]) -> int | None:
        """Return None, since no model family publishes a multi-label head."""
        return None

    def learn(self, answers: Sequence[tuple[str, ...]], balance: bool = False) -> None:
        """Learn the classes, sorted by name.

        balance: whether the model learns to answer as if each class applied to half of the rows.
        Raises DataError if no row has a label.
        """
        counts = Counter(name for answer in answers for name in answer)
        if not counts:
            raise DataError("no row has a label")
        # Those of a start, which this model goes on from, are kept in their order.
        self.classes = self.classes or sorted(counts)
        if balance:
            # A class of all rows, or of none, has no odds to be balanced.
            odds = {name: counts[name] / max(1, len(answers) - counts[name]) for name in self.classes}
            self.weigh_classes(answers, {name: 1 / value for name, value in odds.items() if value})

    def weigh_classes(self, answers: Sequence[tuple[str, ...]], weights: Mapping[str, float]) -> None:
        self.weights = [weights.get(name, 1.0) for name in self.classes]

    def _in_training(self, output: Tensor) -> Tensor:
        """Return the logits (m, c) that training fits to the answers: those of `output`, less the logarithms of the weights.

        So a class of weight w is answered where its odds × w are above 1, and a missed label costs w false alarms.
        """
        return output if self.weights is None else output - output.new_tensor(np.log(self.weights))

    def encode(self, answer: tuple[str, ...], pieces: Sequence[Piece]) -> Answer:
        """Return a vector (c,) with 1 for each class that applies, else 0."""
        return Answer(_one_hot([answer], self.classes)[0].astype(np.float32))

    def probe(
        self, features: Any, values: Ints, seed: int, settings: ProbeSettings = DEFAULT_PROBE
    ) -> tuple[Tensor, Tensor]:
        """Return weight (c, d) and bias (c,): one logistic regression on the features for each class.

        features: (m, d). values: (m, c), 1 where a class applies. seed: draws the rows and folds for choosing the regularisation.
        """
        weight, bias = np.zeros((len(self.classes), features.shape[1])), np.zeros(len(self.classes))
        for index, applies in enumerate(np.asarray(values).T):
            frequency = np.average(applies, weights=settings.weights)
            # A regression needs rows of both answers.
            if 0 < frequency < 1:
                fitted = fit_logistic_regression(features, applies > 0, seed, settings)
                weight[index], bias[index] = fitted.coef_[0], fitted.intercept_[0]
            else:
                bias[index] = CONSTANT_LOGIT if frequency else -CONSTANT_LOGIT
        if self.weights is not None:
            bias += np.log(self.weights)
        return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()

    def constant_output(self, values: Ints) -> Tensor | None:
        """Return the log-odds of each class's share of the training answers, (c,), as logits to be used for every row.

        values: (m, c), 1 where a class applies.
        """
        # Clipped, since a class that applies to all rows or to none has infinite log-odds.
        frequencies = np.clip(np.asarray(values).mean(0), 1e-3, 1 - 1e-3)
        return torch.from_numpy(np.log(frequencies / (1 - frequencies))).float()

    def answer_score(self, output: Tensor, reference: Tensor) -> Tensor:
        """Return the log-odds (m,), according to the logits `output`, of each row's fixed labels, summed over these labels.

        If a row has no fixed label, return the log-odds that the class with its highest `reference` logit does not apply.
        reference: (m, c), logits whose positive classes are the fixed labels.
        """
        applies = reference > 0
        # Without a label, the decision nearest to changing is that on the likeliest class.
        is_rejected = ~applies.any(-1, keepdim=True) & (reference == reference.amax(-1, keepdim=True))
        return torch.where(applies, output, torch.where(is_rejected, -output, torch.zeros_like(output))).sum(-1)

    def per_item_metric(self, output: Tensor, answers: Sequence[tuple[str, ...]]) -> NDArray[np.float32] | None:
        """Return for each row the Jaccard index of its predicted and true labels, (m,); 1 if a row has neither. Never None."""
        return self._jaccard(output, answers).astype(np.float32)

    def correctness(self, output: Tensor, answers: Sequence[tuple[str, ...]]) -> NDArray[np.float32]:
        """Return for each row 1 if the predicted labels are exactly the true labels, else 0, (m,), as float32."""
        return self._exact_match(output, answers).astype(np.float32)

    def _exact_match(self, output: Tensor, answers: Sequence[tuple[str, ...]]) -> Values:
        """Return for each row 1 if the predicted labels are exactly the true labels, else 0, (m,)."""
        predictions, labels = self._decisions(output, answers)
        matches: Values = (predictions == labels).all(1).astype(np.float64)
        return matches

    def _jaccard(self, output: Tensor, answers: Sequence[tuple[str, ...]]) -> Values:
        """Return for each row the Jaccard index of its predicted and true labels, (m,); 1 if a row has neither."""
        predictions, labels = self._decisions(output, answers)
        num_either = (predictions | labels).sum(1)
        return np.where(num_either > 0, (predictions & labels).sum(1) / np.maximum(num_either, 1), 1.0)

    def _decisions(
        self, output: Tensor, answers: Sequence[tuple[str, ...]]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return two matrices (m, c + u): the first is True where a class is predicted, the second where it truly applies.

        The last u columns are the classes in `answers` that were never seen in training. The first matrix is False in these
        columns.
        """
        unseen = sorted({name for answer in answers for name in answer}.difference(self.classes))
        predictions = np.pad(_predict(output), ((0, 0), (0, len(unseen))))
        return predictions, _one_hot(answers, [*self.classes, *unseen])

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return a linear map (m, d) → (m, c) to one logit per class."""
        return new_head(width, len(self.classes))

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the summed binary cross-entropy of logits (m, c) against encoded answers (m, c).

        values: 0 or 1, or shares in a mixture of rows. The logits are those of `_in_training`.
        """
        return F.binary_cross_entropy_with_logits(self._in_training(output.float()), values, reduction="sum")

    def calibration_loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the loss of logits (m, c) divided by a temperature, against encoded answers (m, c) of any number type."""
        return self.loss(output, values.float())

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"labels", "probability", "scores"} for each row. "labels" are the classes with a probability above one half.

        "probability" is the probability that the decisions on all classes are right. "scores" is {class: probability}.
        """
        scores, confidences = torch.sigmoid(output.double()).tolist(), self.confidence(output).tolist()
        answers = []
        for row_scores, applies, probability in zip(scores, _predict(output), confidences, strict=True):
            names = [name for name, does_apply in zip(self.classes, applies, strict=True) if does_apply]
            class_scores = dict(zip(self.classes, row_scores, strict=True))
            answers.append({"labels": names, "probability": probability, "scores": class_scores})
        return answers

    def confidence(self, output: Tensor) -> NDArray[np.float64]:
        """Return the probability (m,) that a row's decisions on all classes are right.

        It is the product of the probabilities of the decisions, as if they were independent.
        """
        scores = torch.sigmoid(output.double())
        probabilities: NDArray[np.float64] = torch.maximum(scores, 1 - scores).prod(-1).cpu().numpy()
        return probabilities

    def metrics(self, output: Tensor, answers: Sequence[tuple[str, ...]]) -> dict[str, Metric]:
        """Return "agreement", "exact", macro F1 ("macro_f1") and micro F1 ("micro_f1").

        "agreement" is the mean Jaccard index of a row's predicted and true labels, "exact" the share of rows in which both are
        equal. True labels that were never seen in training count, in all four, as labels that the model failed to predict.
        """
        predictions, labels = self._decisions(output, answers)
        return {
            "agreement": (mean_score, self._jaccard(output, answers)),
            "exact": (mean_score, self._exact_match(output, answers)),
            "macro_f1": (multilabel_macro_f1, predictions, labels),
            "micro_f1": (multilabel_micro_f1, predictions, labels),
        }

    def baseline(self, answers: Sequence[tuple[str, ...]]) -> dict[str, Metric]:
        """Return "agreement" and "exact" (see `metrics`) on `answers` if no label is predicted for any row."""
        # An empty answer is right only for rows without labels, by both metrics.
        is_empty = np.array([not answer for answer in answers], np.float64)
        return {"agreement": (mean_score, is_empty), "exact": (mean_score, is_empty)}

    def answered_names(self, output: Tensor) -> list[Sequence[str]]:
        """Return the names of the classes with a probability above one half in each row."""
        return [
            [name for name, does_apply in zip(self.classes, row, strict=True) if does_apply] for row in _predict(output)
        ]

    def class_names(self, answer: tuple[str, ...]) -> Sequence[str]:
        """Return the names of the classes in a true answer, which may be none."""
        return answer

    def notes(self, answers: Sequence[tuple[str, ...]]) -> list[str]:
        """Return a sentence for each of the five most frequent labels in `answers` that were never seen in training.

        It gives the number of rows that have the label.
        """
        unseen = Counter(name for answer in answers for name in answer if name not in self.classes)
        return [
            f"{count:,} rows have the label {name!r}, which training never saw{describe_alike(name, self.classes)}"
            for name, count in unseen.most_common(5)
        ]

    def rename(self, answer: tuple[str, ...], names: Mapping[str, str]) -> tuple[str, ...]:
        """Return the new names of the classes. names: new names by old ones; other classes stay."""
        return tuple(dict.fromkeys(names.get(name, name) for name in answer))

    def state(self) -> State:
        """Return the classes in the order of the logits, and their weights if they have some."""
        weights = {} if self.weights is None else {"weights": self.weights}
        return {"classes": self.classes, **({"folds": True} if self.folds else {}), **weights}

    def brief(self, answer: Sequence[str]) -> str:
        """Return the labels of a predicted or true answer, separated by commas; "none" if it has no label."""
        return ", ".join(answer) or "none"


def find_separator(cells: Sequence[object]) -> str | None:
    """Return the first of SEPARATORS of which a text among the cells has a character; None if no text has one."""
    texts = [cell for cell in cells if isinstance(cell, str) and _is_plain(cell)]
    return next((marks for marks in SEPARATORS if any(mark in text for text in texts for mark in marks)), None)


def _is_plain(text: str) -> bool:
    """Return whether a text is neither blank nor a printed list."""
    if not is_printed_list(text):
        return bool(text.strip())
    try:
        return isinstance(_parse_cell(text), str)
    except BadCell:
        return False


def _split(text: str, separator: str | None) -> list[str]:
    """Return the parts of a text between the characters of a separator."""
    return re.split(f"[{re.escape(separator)}]", text) if separator else [text]


def _parse_cell(cell: object) -> object:
    """Return the list that a text spells; any other cell unchanged. Raises BadCell for a text in [brackets] that is no list."""
    if not isinstance(cell, str) or not is_printed_list(cell):
        return cell
    try:
        parsed = parse_list(cell)
    except ValueError as error:
        # A label may begin with another bracket, such as "(other)".
        if not cell.lstrip().startswith("["):
            return cell
        raise BadCell(f'this is no list of labels: {error}; write ["a", "b"] or a|b') from error
    return parsed if isinstance(parsed, list) else cell


def _name(part: object) -> str:
    """Return the name of a label; 3.0 is "3", as a column with missing cells has it, and True is "true"."""
    return str(as_name(part)).strip()


def _one_hot(answers: Sequence[tuple[str, ...]], classes: Sequence[str]) -> NDArray[np.bool_]:
    """Return a matrix (m, c) that is True where the answer of the row has the class of the column.

    Labels that are not in `classes` are ignored.
    """
    index_of = {name: index for index, name in enumerate(classes)}
    applies = np.zeros((len(answers), len(classes)), np.bool_)
    for row, answer in enumerate(answers):
        applies[row, [index_of[name] for name in answer if name in index_of]] = True
    return applies


def _predict(output: Tensor) -> NDArray[np.bool_]:
    """Return a matrix (m, c) that is True where a class is predicted: where its logit in `output` is positive."""
    applies: NDArray[np.bool_] = (output > 0).cpu().numpy()
    return applies


target = Labels
