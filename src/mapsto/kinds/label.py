"""label: one class out of several.

Legend of shapes: m answers, c classes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mapsto.errors import BadCell, DataError
from mapsto.metrics import classification, intervals
from mapsto.metrics.intervals import Score
from mapsto.model.layers import new_head
from mapsto.model.linear_probe import fit_logistic_regression
from mapsto.sequence.batch import Answer
from mapsto.sequence.piece import Ints, Part, Piece
from mapsto.task.capabilities import Attributable, Classes, Comparable, LinearProbe, Mixable
from mapsto.task.readout import Pooled
from mapsto.task.target import Metric, State
from mapsto.text.features import no_text

UNSEEN_LOGIT = -10.0


FEWEST_TO_CALIBRATE, LOG_TEMPERATURES = 100, (-3.0, 3.0)


WHOLE_NUMBER = re.compile(r"-?\d{1,4000}")  # Python makes no number of more digits


class Label(Classes, LinearProbe, Comparable, Attributable, Mixable):
    """One class out of those seen in training, read from the pooled vector."""

    kind = "label"
    readout = Pooled()
    head_name = "classifier"
    exclusive = True
    primary_metric = "accuracy"
    unbounded_metrics = ("log_loss",)
    constant_rule = "always the commonest answer"
    hub_tasks: ClassVar[Mapping[str, str]] = {
        "text": "text-classification",
        "image": "image-classification",
        "video": "video-classification",
    }

    def __init__(self, classes: Sequence[str] = (), weights: Sequence[float] | None = None) -> None:
        self.classes = list(classes)
        self.weights = None if weights is None else list(weights)

    @staticmethod
    def fits(values: Sequence[object]) -> bool:
        """A column of few different, short values."""
        known = [str(value) for value in values if value is not None]
        repeated = len(set(known)) <= max(2, len(known) // 2)
        return bool(known) and repeated and max(map(len, known)) <= 100

    @staticmethod
    def samples() -> list[str]:
        """Three classes, one of them Chinese."""
        return ["no", "yes", "也许"]

    @staticmethod
    def read(cell: object) -> str:
        """The class name; numbers and booleans become text, 3.0 the same as 3."""
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            raise BadCell("the label is blank")
        if isinstance(cell, float) and cell.is_integer():
            cell = int(cell)
        if not isinstance(cell, str | int | float | bool | np.generic):
            raise BadCell(f"a label is text or a number, not {type(cell).__name__}")
        if (fault := no_text(str(cell))) is not None:
            raise BadCell(f"the label holds {fault}")
        return str(cell)

    @classmethod
    def count_published_classes(cls, tensors: Mapping[str, Tensor]) -> int | None:
        """Return the rows of the classifier."""
        weight = tensors.get(f"{cls.head_name}.weight")
        return None if weight is None else len(weight)

    def learn(self, answers: Sequence[str], balance: bool = False) -> None:
        """The classes, in order: by number when all are whole numbers, else by name. Raises DataError for fewer than two."""
        counts = Counter(answers)
        if not self.classes:
            whole = all(WHOLE_NUMBER.fullmatch(name) for name in counts)
            self.classes = sorted(counts, key=lambda name: (int(name), name) if whole else (0, name))
        if len(counts) < 2:
            raise DataError(
                f"all {len(answers)} rows have the label {next(iter(counts), None)!r}; two classes are needed"
            )
        unknown = sorted(set(counts) - set(self.classes))
        if unknown:
            raise DataError(f"labels that the start does not know: {unknown[:10]}; it knows {self.classes[:10]}")
        if balance:
            self.weights = [
                len(answers) / (len(counts) * counts[name]) if counts[name] else 0.0 for name in self.classes
            ]

    def encode(self, answer: str, pieces: Sequence[Piece]) -> Answer:
        """The index of the class."""
        return Answer(np.asarray(self.classes.index(answer), np.int64))

    def mix_answers(self, answers: Sequence[str], pieces: Sequence[Piece], parts: Sequence[Part]) -> Answer:
        """The share of each class, (c,)."""
        shares = np.zeros(len(self.classes), np.float32)
        np.add.at(shares, [self.classes.index(answer) for answer in answers], [part.share for part in parts])
        return Answer(shares)

    def probe(self, features: Any, values: Ints, seed: int, selection_features: Any = None) -> tuple[Tensor, Tensor]:
        """Logistic regression; classes without a row are hardly ever answered."""
        weights = None if self.weights is None else dict(enumerate(self.weights))
        fitted = fit_logistic_regression(features, values, seed, weights, selection_features)
        weight = np.zeros((len(self.classes), features.shape[1]))
        bias = np.full(len(self.classes), UNSEEN_LOGIT)
        if len(fitted.classes_) == 2:
            weight[fitted.classes_] = np.concatenate([-fitted.coef_, fitted.coef_]) / 2
            bias[fitted.classes_] = np.concatenate([-fitted.intercept_, fitted.intercept_]) / 2
        else:
            weight[fitted.classes_], bias[fitted.classes_] = fitted.coef_, fitted.intercept_
        return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """A linear map to one logit a class."""
        return new_head(width, len(self.classes))

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Cross-entropy of logits (m, c) against class indices (m,) or their shares (m, c), summed; weighted by class when
        balanced, the classes smoothed when asked (Szegedy et al. 2016)."""
        weight = None if self.weights is None else output.new_tensor(self.weights, dtype=torch.float32)
        return F.cross_entropy(
            output.float(), values, weight=weight, reduction="sum", label_smoothing=self.label_smoothing
        )

    def validation_error(self, output: Tensor, values: Tensor) -> Tensor:
        """Wrong answers, weighed by class when balanced; in fine-tuning they go on falling when cross-entropy already grows."""
        wrong = (output.argmax(dim=-1) != values).float()
        return wrong.sum() if self.weights is None else wrong @ wrong.new_tensor(self.weights)[values]

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """The likeliest class, its probability, and the probability of each class."""
        answers = []
        for row in torch.softmax(output.float(), dim=-1).tolist():
            best = max(range(len(row)), key=row.__getitem__)
            answers.append(
                {
                    "label": self.classes[best],
                    "probability": row[best],
                    "scores": dict(zip(self.classes, row, strict=True)),
                }
            )
        return answers

    def calibrate(self, head: nn.Module, output: Tensor, values: Tensor) -> float | None:
        """Temperature scaling (Guo et al. 2017) within the head: the logits are divided by what makes their log loss least."""
        if len(values) < FEWEST_TO_CALIBRATE:
            return None
        from scipy.optimize import minimize_scalar  # half a second to import

        logits = output.double()

        def loss(log_temperature: float) -> float:
            return float(F.cross_entropy(logits / math.exp(log_temperature), values))

        temperature = math.exp(minimize_scalar(loss, bounds=LOG_TEMPERATURES, method="bounded").x)
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.div_(temperature)
        return temperature

    def constant_output(self, values: Ints) -> Tensor:
        """The log of how common each class is, so that the commonest is always answered."""
        counts = torch.from_numpy(np.bincount(values, minlength=len(self.classes)))
        return (counts / counts.sum()).clamp_min(torch.finfo(torch.float32).tiny).log()

    def answer_score(self, output: Tensor, answered: Tensor) -> Tensor:
        """The log-odds of the answered class against all others."""
        chosen = answered.argmax(dim=-1, keepdim=True)
        others = torch.full_like(output, 0.0).scatter(1, chosen, -torch.inf)
        return output.gather(1, chosen).squeeze(1) - torch.logsumexp(output + others, dim=-1)

    def confidence(self, output: Tensor) -> NDArray[np.float64]:
        """The probability of the likeliest class."""
        found: NDArray[np.float64] = torch.softmax(output.double(), dim=-1).amax(dim=-1).numpy()
        return found

    def per_item_metric(self, output: Tensor, answers: Sequence[str]) -> NDArray[np.float32]:
        """1 where the class is right, else 0."""
        predicted = (self.classes[index] for index in output.argmax(dim=-1).tolist())
        return np.array([said == truth for said, truth in zip(predicted, answers, strict=True)], np.float32)

    def correctness(self, output: Tensor, answers: Sequence[str]) -> NDArray[np.float32]:
        """Return 1 for each correct class, else 0."""
        return self.per_item_metric(output, answers)

    def metrics(self, output: Tensor, answers: Sequence[str]) -> dict[str, Metric]:
        """Accuracy, macro F1, log loss and expected calibration error.

        A true class never seen in training counts as a mistake in the first two; the last two need a probability for the
        truth and leave such rows out, which their n shows.
        """
        names = self.classes + sorted(set(answers) - set(self.classes))
        truth = np.array([names.index(answer) for answer in answers])
        probabilities = torch.softmax(output.double(), dim=-1).numpy()
        predicted = probabilities.argmax(axis=1)
        known = truth < len(self.classes)
        found: dict[str, Metric] = {
            "accuracy": (intervals.accuracy, truth, predicted),
            "macro_f1": (classification.macro_f1, truth, predicted),
        }
        if known.any():
            found["log_loss"] = (classification.log_loss, truth[known], probabilities[known])
            found["calibration_error"] = (
                classification.expected_calibration_error,
                truth[known],
                probabilities[known],
            )
        return found

    def confusion(self, output: Tensor, answers: Sequence[str]) -> dict[str, dict[str, int]]:
        """How often each true class was answered by each class."""
        predicted = output.argmax(dim=-1).tolist()
        pairs = Counter(zip(answers, (self.classes[p] for p in predicted), strict=True))
        truths = self.classes + sorted(set(answers) - set(self.classes))
        return {truth: {name: pairs[truth, name] for name in self.classes} for truth in truths}

    def class_names(self, answer: str) -> Sequence[str]:
        """The one."""
        return (answer,)

    def notes(self, answers: Sequence[str]) -> list[str]:
        """Classes that training never saw."""
        unseen = Counter(answer for answer in answers if answer not in self.classes)
        return [f"{count} rows have the label {name!r}, which training never saw" for name, count in unseen.items()]

    def baseline(self, answers: Sequence[str]) -> dict[str, Score]:
        """Always the commonest class."""
        names = sorted(set(answers))
        truth = np.array([names.index(answer) for answer in answers])
        guess = np.full(len(truth), np.bincount(truth).argmax())
        return {"accuracy": intervals.with_interval(intervals.accuracy, truth, guess)}

    def state(self) -> State:
        """Classes in the order of the logits, and their weights in the loss."""
        return {"classes": self.classes, "weights": self.weights}


target = Label
