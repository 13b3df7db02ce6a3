"""Probabilities that the labels of a table are wrong, estimated from a model's logits and the labels alone.

The model of the noise is that of confident learning (Northcutt et al. 2021): the given label depends on the true class
alone, so that p(true = k | x, given = y) is proportional to p(k | x) · p(given = y | true = k). Confident learning
counts confident rows to estimate p(given | true), and so counts the model's own mistakes as wrong labels: in SST-2 with no
label flipped, it expects 80 % of its 10 most suspicious rows to be wrong (benchmarks/suspects.py). Here the likelihood
of the given labels is maximised. First come the model's temperature and one rate of noise for all classes, since noise
and an overconfident model can only be separated together. Then comes a rate for each pair of classes, by expectation
maximisation with a prior at the common rate. The price is a few seconds for 20,000 rows of 77 classes.
The rows must not be those that the model was fitted to, which it may know by heart.
Legend of shapes: n rows, c classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.metrics.intervals import Floats

Ints = NDArray[np.integer[Any]]

# Bounds of the search: the logarithm of the temperature, and the common rate, as labels are more often right than wrong.
LOG_TEMPERATURE_BOUNDS, RATE_BOUNDS = (-3.0, 3.0), (0.0, 0.5)
# Standard deviation of the logarithm of the temperature in the prior. Where all answers are equally confident, noise and
# temperature explain wrong answers equally well, and the model's own confidence is trusted.
LOG_TEMPERATURE_DEVIATION = 0.5
START = (0.0, 0.05)  # of the search: the logarithm of the temperature, and the rate

MAX_ROWS = 20_000  # of which the noise is estimated; of more, a random sample

# Rows of each true class that the prior counts as much as.
PRIOR_ROWS = 20.0
MAX_ITERATIONS, TOLERANCE = 500, 1e-6  # of expectation maximisation, and the change of a rate at which it ends

MIN_PROBABILITY = 1e-300  # keeps logarithms and quotients finite


@dataclass(frozen=True)
class LabelNoise:
    """Estimated rates of wrong labels, and the temperature of the model that was estimated together with them.

    temperature: the number to divide the model's logits by before the softmax.
    rates: (c, c), p(given label | true class), with a row for each true class.
    """

    temperature: float
    rates: Floats


def estimate_label_noise(logits: Floats, labels: Ints) -> LabelNoise:
    """Return the temperature and the rates of noise under which the given labels are most probable, by the priors of this module.

    logits: (n, c), the model's. labels: (n,), the given labels as class indices. Of more than MAX_ROWS rows a sample is used.
    """
    if len(labels) > MAX_ROWS:
        sample = np.random.default_rng(0).choice(len(labels), MAX_ROWS, replace=False)
        logits, labels = logits[sample], labels[sample]
    temperature, common_rate = _fit_common_rate(logits, labels)
    prior = _uniform_noise(logits.shape[1], common_rate)
    probabilities, one_hot = _softmax(logits / temperature), np.eye(logits.shape[1])[labels]
    rates = _uniform_noise(logits.shape[1], START[1])
    for _ in range(MAX_ITERATIONS):
        counts = _true_class_probabilities(probabilities, labels, rates).T @ one_hot + PRIOR_ROWS * prior
        previous, rates = rates, counts / counts.sum(axis=1, keepdims=True)
        if np.abs(rates - previous).max() < TOLERANCE:
            break
    return LabelNoise(temperature, rates)


def wrong_label_probabilities(logits: Floats, labels: Ints, noise: LabelNoise) -> Floats:
    """Return the probability (n,) that each label is wrong. logits: (n, c). labels: (n,), class indices."""
    posterior = _true_class_probabilities(_softmax(logits / noise.temperature), labels, noise.rates)
    probabilities: Floats = 1 - posterior[np.arange(len(labels)), labels]
    return probabilities


def _fit_common_rate(logits: Floats, labels: Ints) -> tuple[float, float]:
    """Return (temperature, rate of wrong labels), fitted under the assumption that all wrong classes are equally probable.

    logits: (n, c). labels: (n,), the given labels as class indices.
    """
    from scipy.optimize import minimize  # half a second to import

    num_others = logits.shape[1] - 1
    label_logits = logits[np.arange(len(labels)), labels]

    def loss(parameters: Floats) -> float:
        log_temperature, rate = parameters
        temperature = np.exp(log_temperature)
        of_labels = np.exp(label_logits / temperature - np.logaddexp.reduce(logits / temperature, axis=1))
        likelihood = (1 - rate) * of_labels + rate * (1 - of_labels) / num_others
        penalty = (log_temperature / LOG_TEMPERATURE_DEVIATION) ** 2 / 2
        return float((penalty - np.log(np.maximum(likelihood, MIN_PROBABILITY)).sum()) / len(labels))

    fitted = minimize(loss, START, bounds=(LOG_TEMPERATURE_BOUNDS, RATE_BOUNDS), method="L-BFGS-B")
    return float(np.exp(fitted.x[0])), float(fitted.x[1])


def _uniform_noise(num_classes: int, rate: float) -> Floats:
    """Return p(given label | true class), (c, c), for labels of which a share of `rate` is wrong.

    The rate is the same for each true class, and is divided equally between the other classes.
    """
    rates = np.full((num_classes, num_classes), rate / (num_classes - 1))
    np.fill_diagonal(rates, 1 - rate)
    return rates


def _true_class_probabilities(probabilities: Floats, labels: Ints, rates: Floats) -> Floats:
    """Return p(true class | input, given label), (n, c).

    probabilities: (n, c), the model's p(true class | input). labels: (n,), the given labels as class indices.
    rates: (c, c), p(given label | true class), with a row for each true class.
    """
    joint = probabilities * rates[:, labels].T
    posterior: Floats = joint / np.maximum(joint.sum(axis=1, keepdims=True), MIN_PROBABILITY)
    return posterior


def _softmax(logits: Floats) -> Floats:
    """Return the softmax, (n, c), of the logits of each row, (n, c)."""
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities: Floats = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities
