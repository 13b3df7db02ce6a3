"""Temperature scaling: dividing logits so that probabilities equal shares of right answers (Guo et al. 2017).

https://arxiv.org/abs/1706.04599
Legend of shapes: m answers, c classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

# The natural logarithms between which a temperature is looked for.
LOG_TEMPERATURE_BOUNDS = (-3.0, 3.0)
# Standard deviation of the logarithm of a temperature that is expected before any row is seen. Chosen on seven
# draws of 64 and 300 rows from MiniLM among 0.3, 0.5 and 1; a wider prior gave larger calibration errors.
LOG_TEMPERATURE_DEVIATION = 0.4


class Answered(NamedTuple):
    """A model's answers to rows that it was not fitted to.

    loss: returns the log loss, summed over answers, of logits and true answers. It is the model's own: models of other rows
        may know other classes.
    logits: (m, c). values: (m, …), the true answers.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    logits: Tensor
    values: Tensor


def logit_scale(logits: Tensor) -> float:
    """Return the root mean square of the deviation of logits (m, c) from the mean of their class over the rows."""
    deviations = logits.double() - logits.double().mean(0)
    return float(deviations.square().mean().sqrt())


def fit_temperature(parts: Sequence[Answered], deviation: float = LOG_TEMPERATURE_DEVIATION) -> float:
    """Return the temperature, between e⁻³ and e³, by which logits are divided for the lowest loss.

    parts: the answers of each model that answered some of the rows.
    deviation: the standard deviation of the temperature's logarithm in its normal prior. It keeps the temperature near 1 where
        rows are few; without it, a few answers that are all right would make the model certain.
    """
    from scipy.optimize import minimize_scalar  # half a second to import

    exact = [part._replace(logits=part.logits.double()) for part in parts]

    def penalized_loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        total = sum(float(part.loss(part.logits / temperature, part.values)) for part in exact)
        return total + (log_temperature / deviation) ** 2 / 2

    return math.exp(minimize_scalar(penalized_loss, bounds=LOG_TEMPERATURE_BOUNDS, method="bounded").x)
