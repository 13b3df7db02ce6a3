"""label: one of several classes (classification), read from the pooled vector.

A linear head is trained with cross-entropy; with few labelled rows it is a logistic regression on frozen vectors.
Then the logits are divided by a temperature fitted on rows that were not trained on (calibration): about 90 % of the
answers with a probability near 0.9 are then right.
With `--balance`, training adds the logarithm of each class's share of the training rows to the logits (logit adjustment,
Menon et al. 2021, https://arxiv.org/abs/2007.07314). The model's own logits then answer as if all classes were equally
frequent, and no row has a larger gradient than in plain training, as it would with weights: at 1:50 a rare row has 50 times
the weight of a common one. Weights of classes (`--class-weights`) do the same with the logarithm of 1 / weight: the model answers
the class with the largest probability × weight, which costs least.
Legend of shapes: m answers, c classes, d width.
"""

from __future__ import annotations

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
from mapsto.sequence.piece import Ints, MixturePart, Piece
from mapsto.task.label_spelling import describe_alike
from mapsto.task.readout import Pooled
from mapsto.task.target import Metric, State
from mapsto.task.target_capabilities import (
    DEFAULT_PROBE,
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

UNSEEN_LOGIT = -10.0  # bias of a class without training rows, so that it is hardly ever answered
WHOLE_NUMBER = re.compile(r"-?\d{1,4000}")  # Python converts no more digits to a number


class Label(WeightedClasses, Calibratable, LinearProbe, Comparable, Attributable, Mixable):
    """A target that answers with one of the classes seen in training.

    classes: names of the classes in the order of the logits.
    weights: what a mistake on each class costs, with the mean 1 over the training rows, and 0 for a class without rows; None if
        all count alike. If classes are balanced, it is rows / (classes × rows of the class).
    """

    kind = "label"
    readout = Pooled()
    head_name = "classifier"
    exclusive = True
    primary_metric = "accuracy"
    unbounded_metrics = ("log_loss",)
    constant_rule = "always the majority class"
    hub_tasks: ClassVar[Mapping[str, str]] = {
        "text": "text-classification",
        "image": "image-classification",
        "video": "video-classification",
    }

    def __init__(
        self, classes: Sequence[str] = (), weights: Sequence[float] | None = None, folds: bool = False
    ) -> None:
        self.classes, self.folds = list(classes), folds
        self.weights = None if weights is None else list(weights)

    @staticmethod
    def fits(values: Sequence[object]) -> bool:
        """Return whether the cells of a column can be class names: at most 100 characters each, and not too many different ones.

        The number of different names may be half of the number of cells, or 2.
        """
        labels = [str(as_name(value)) for value in values if value is not None]
        are_repeated = len(set(labels)) <= max(2, len(labels) // 2)
        return bool(labels) and are_repeated and max(map(len, labels)) <= 100

    @staticmethod
    def samples() -> list[str]:
        """Return three cells, each of another class, one of them Chinese."""
        return ["no", "yes", "也许"]

    @staticmethod
    def read(cell: object) -> str:
        """Return the class name in a cell; a number or a boolean becomes text. Raises BadCell, also for a blank cell.

        A float or decimal without a fraction becomes the text of an integer: 3.0 is "3". True is "true", as JSON writes it.
        """
        if cell is None or (isinstance(cell, str) and not has_visible(cell) and "\0" not in cell):
            raise BadCell("the label is blank")
        cell = as_name(cell)
        if not isinstance(cell, str | int | float | bool | np.generic):
            raise BadCell(f"a label is text or a number, not {type(cell).__name__}")
        if (problem := find_invalid_character(str(cell))) is not None:
            raise BadCell(f"the label holds {problem}")
        return canonical(str(cell))

    @classmethod
    def count_published_classes(cls, tensors: Mapping[str, Tensor]) -> int | None:
        """Return the number of classes of a published model's classifier; None if the model has no classifier.

        tensors: the model's weights, renamed to the parameter names of mapsto's models.
        """
        weight = tensors.get(f"{cls.head_name}.weight")
        return None if weight is None else len(weight)

    def learn(self, answers: Sequence[str], balance: bool = False) -> None:
        """Learn the classes from the training answers: sorted by number if all are whole numbers, else by name.

        If classes are already set, as by a starting model with a classifier, they are kept.
        balance: whether the model learns to answer as if all classes were equally frequent.
        Raises DataError if `answers` have fewer than two classes, or a class that is not among those kept.
        """
        counts = Counter(answers)
        # A starting model's classes are kept, so that the rows of its head keep their meaning.
        if not self.classes:
            are_numbers = all(WHOLE_NUMBER.fullmatch(name) for name in counts)
            self.classes = sorted(counts, key=lambda name: (int(name), name) if are_numbers else (0, name))
        if len(counts) < 2:
            raise DataError(
                f"all {len(answers)} rows have the label {next(iter(counts), None)!r}; two classes are needed"
            )
        unknown = sorted(set(counts) - set(self.classes))
        if unknown:
            raise DataError(f"labels that the start does not know: {unknown[:10]}; it knows {self.classes[:10]}")
        if balance:
            self.weigh_classes(answers, {name: len(answers) / (len(counts) * counts[name]) for name in counts})

    def weigh_classes(self, answers: Sequence[str], weights: Mapping[str, float]) -> None:
        counts = Counter(answers)
        # The mean weight over the rows is 1, so that weighted and plain errors have the same scale.
        mean = sum(weights.get(name, 1.0) * count for name, count in counts.items()) / len(answers)
        self.weights = [weights.get(name, 1.0) / mean if counts[name] else 0.0 for name in self.classes]

    def encode(self, answer: str, pieces: Sequence[Piece]) -> Answer:
        """Return the index of the class as a scalar."""
        return Answer(np.asarray(self.classes.index(answer), np.int64))

    def mix_answers(self, answers: Sequence[str], pieces: Sequence[Piece], parts: Sequence[MixturePart]) -> Answer:
        """Return the share of each class in a mixture of rows, (c,).

        answers: the class of each row. parts: the contribution of each row to the mixture.
        """
        shares = np.zeros(len(self.classes), np.float32)
        np.add.at(shares, [self.classes.index(answer) for answer in answers], [part.share for part in parts])
        return Answer(shares)

    def probe(
        self, features: Any, values: Ints, seed: int, settings: ProbeSettings = DEFAULT_PROBE
    ) -> tuple[Tensor, Tensor]:
        """Return weight (c, d) and bias (c,) of a logistic regression of the classes on the features.

        features: (m, d). values: (m,), class indices. seed: draws the rows and the folds for choosing the regularisation
        strength.
        """
        fitted = fit_logistic_regression(features, values, seed, settings)
        # The regression knows only classes with training rows; the others are hardly ever answered.
        weight = np.zeros((len(self.classes), features.shape[1]))
        bias = np.full(len(self.classes), UNSEEN_LOGIT)
        if len(fitted.classes_) == 2:  # scikit-learn gives one logit; half of it goes to each class
            weight[fitted.classes_] = np.concatenate([-fitted.coef_, fitted.coef_]) / 2
            bias[fitted.classes_] = np.concatenate([-fitted.intercept_, fitted.intercept_]) / 2
        else:
            weight[fitted.classes_], bias[fitted.classes_] = fitted.coef_, fitted.intercept_
        if self.weights is not None:
            # A regression on weighted rows learns the few rows of a rare class by heart (benchmarks/RESULTS.md).
            bias[fitted.classes_] -= self._log_shares()[fitted.classes_]
        return torch.from_numpy(weight).float(), torch.from_numpy(bias).float()

    def head(self, width: int, embedder: nn.Module | None) -> nn.Module:
        """Return a linear map (m, d) → (m, c) to one logit per class."""
        return new_head(width, len(self.classes))

    def loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the cross-entropy, summed over answers, of logits (m, c) against class indices (m,) or shares of classes (m, c).

        If classes are balanced, it is that of the logits plus the logarithms of the classes' shares of the training rows.
        True classes are smoothed by `label_smoothing` (Szegedy et al. 2016).
        """
        if self.weights is None:
            return F.cross_entropy(output.float(), values, reduction="sum", label_smoothing=self.label_smoothing)
        logits = self._at_training_shares(output.float())
        loss = F.cross_entropy(logits, values, reduction="sum")
        # Even smoothing would give a rare class many times its share: the model would answer it wherever another is certain.
        shares = logits.new_tensor(np.exp(self._log_shares())).expand_as(logits)
        return torch.lerp(loss, F.cross_entropy(logits, shares, reduction="sum"), self.label_smoothing)

    def _at_training_shares(self, output: Tensor) -> Tensor:
        """Return the logits (m, c) of answers at the classes' shares of the training rows: `output` if nothing is balanced."""
        return output if self.weights is None else output + output.new_tensor(self._log_shares())

    def _log_shares(self) -> NDArray[np.float64]:
        """Return the logarithm of each class's share of the training rows, (c,), computed from the weights.

        A class without training rows counts as an average one. The logarithm of its true share, −∞, would take the class
        out of the loss; as an average class it is trained to be hardly ever answered, as without balance.
        """
        assert self.weights is not None
        rows = np.array([1 / weight if weight else 1.0 for weight in self.weights])
        log_shares: NDArray[np.float64] = np.log(rows / rows.sum())
        return log_shares

    def validation_error(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the number of wrong answers in a batch; if classes are balanced, the sum of the wrong answers' class weights.

        Cross-entropy is not used, since on held-out rows it may already grow while the number of errors still falls.
        """
        is_wrong = (output.argmax(dim=-1) != values).float()
        return is_wrong.sum() if self.weights is None else is_wrong @ is_wrong.new_tensor(self.weights)[values]

    def decode(self, output: Tensor) -> list[dict[str, Any]]:
        """Return {"label", "probability", "scores"} for each answer: the likeliest class, its probability, and all probabilities.

        "scores" is {class: probability}.
        """
        answers = []
        for probabilities in torch.softmax(output.float(), dim=-1).tolist():
            best = max(range(len(probabilities)), key=probabilities.__getitem__)
            answers.append(
                {
                    "label": self.classes[best],
                    "probability": probabilities[best],
                    "scores": dict(zip(self.classes, probabilities, strict=True)),
                }
            )
        return answers

    def calibration_loss(self, output: Tensor, values: Tensor) -> Tensor:
        """Return the cross-entropy, summed over answers, of logits (m, c) divided by a temperature, without label smoothing.

        If classes are balanced, it is that of the logits plus the logarithms of the classes' shares, as in training. With
        weighted rows the few rows of a rare class would decide, and the temperature would vary twice as much.
        """
        return F.cross_entropy(self._at_training_shares(output), values, reduction="sum")

    def constant_output(self, values: Ints) -> Tensor:
        """Return the logarithm of each class's share of the training answers, (c,), as logits to be used for every row.

        values: (m,), class indices of the training answers.
        """
        counts = torch.from_numpy(np.bincount(values, minlength=len(self.classes)))
        # Clamped, since the logarithm of a frequency of 0 is no finite logit.
        return (counts / counts.sum()).clamp_min(torch.finfo(torch.float32).tiny).log()

    def answer_score(self, output: Tensor, reference: Tensor) -> Tensor:
        """Return the log-odds (m,), according to the logits `output`, of each answer's fixed class against all other classes.

        reference: (m, c), logits whose likeliest class is the fixed class.
        """
        # −∞ takes the answered class out of the sum over all others.
        answer = reference.argmax(dim=-1, keepdim=True)
        mask = torch.full_like(output, 0.0).scatter(1, answer, -torch.inf)
        return output.gather(1, answer).squeeze(1) - torch.logsumexp(output + mask, dim=-1)

    def confidence(self, output: Tensor) -> NDArray[np.float64]:
        """Return the probability (m,) of the likeliest class."""
        probabilities: NDArray[np.float64] = torch.softmax(output.double(), dim=-1).amax(dim=-1).numpy()
        return probabilities

    def per_item_metric(self, output: Tensor, answers: Sequence[str]) -> NDArray[np.float32]:
        """Return for each answer 1 if the likeliest class is the true class, else 0, (m,)."""
        predictions = (self.classes[index] for index in output.argmax(dim=-1).tolist())
        return np.array([predicted == true for predicted, true in zip(predictions, answers, strict=True)], np.float32)

    def correctness(self, output: Tensor, answers: Sequence[str]) -> NDArray[np.float32]:
        """Return for each answer 1 if the likeliest class is the true class, else 0, (m,)."""
        return self.per_item_metric(output, answers)

    def metrics(self, output: Tensor, answers: Sequence[str]) -> dict[str, Metric]:
        """Return accuracy, macro F1, log loss and expected calibration error, by name.

        A row whose true class was never seen in training counts as wrong. Log loss is computed without these rows, since the
        model gives no probability to their true class.
        """
        names = self.classes + sorted(set(answers) - set(self.classes))
        labels = np.array([names.index(answer) for answer in answers])
        probabilities = torch.softmax(output.double(), dim=-1).numpy()
        predictions = probabilities.argmax(axis=1)
        is_known = labels < len(self.classes)
        metrics: dict[str, Metric] = {
            "accuracy": (intervals.accuracy, labels, predictions),
            "macro_f1": (classification.macro_f1, labels, predictions),
        }
        if is_known.any():
            metrics["log_loss"] = (classification.log_loss, labels[is_known], probabilities[is_known])
        return {**metrics, "calibration_error": (classification.expected_calibration_error, labels, probabilities)}

    def confusion(self, output: Tensor, answers: Sequence[str]) -> dict[str, dict[str, int]]:
        """Return the confusion matrix as {true class: {predicted class: number of rows}}, including pairs with 0 rows.

        True classes that were never seen in training have a row too.
        """
        predictions = (self.classes[index] for index in output.argmax(dim=-1).tolist())
        counts = Counter(zip(answers, predictions, strict=True))
        true_names = self.classes + sorted(set(answers) - set(self.classes))
        return {true: {name: counts[true, name] for name in self.classes} for true in true_names}

    def answered_names(self, output: Tensor) -> list[Sequence[str]]:
        """Return a tuple of one name for each answer: the likeliest class."""
        return [(self.classes[index],) for index in output.argmax(dim=-1).tolist()]

    def describe_scores(self, scores: Mapping[str, Score]) -> str:
        """Return the accuracy in a clause."""
        return f"it is right on {100 * scores['accuracy'].value:.1f} % of the rows"

    def class_names(self, answer: str) -> Sequence[str]:
        """Return a tuple of one name: the class of a true answer."""
        return (answer,)

    def rename(self, answer: str, names: Mapping[str, str]) -> str:
        """Return the new name of the class. names: new names by old ones; other classes stay."""
        return names.get(answer, answer)

    def notes(self, answers: Sequence[str]) -> list[str]:
        """Return a sentence for each class of `answers` that was never seen in training, with its number of rows."""
        unseen = Counter(answer for answer in answers if answer not in self.classes)
        return [
            f"{count} rows have the label {name!r}, which training never saw{describe_alike(name, self.classes)}"
            for name, count in unseen.items()
        ]

    def baseline(self, answers: Sequence[str]) -> dict[str, Metric]:
        """Return the accuracy, on `answers`, of always predicting their most frequent class."""
        names = sorted(set(answers))
        labels = np.array([names.index(answer) for answer in answers])
        predictions = np.full(len(labels), np.bincount(labels).argmax())
        return {"accuracy": (intervals.accuracy, labels, predictions)}

    def state(self) -> State:
        """Return the classes in the order of the logits, and their weights (None if they are not balanced)."""
        return {"classes": self.classes, "weights": self.weights, **({"folds": True} if self.folds else {})}


target = Label
