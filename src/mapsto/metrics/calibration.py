"""Temperature scaling: dividing logits so that probabilities equal shares of right answers (Guo et al. 2017).

https://arxiv.org/abs/1706.04599
Legend of shapes: m answers, c classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

# The natural logarithms between which a temperature is looked for.
LOG_TEMPERATURE_BOUNDS = (-3.0, 3.0)


def fit_temperature(
    parts: Sequence[tuple[Tensor, Tensor]], loss: Callable[[Tensor, Tensor], Tensor], penalty: float = 0.0
) -> float:
    """Return the temperature, between e⁻³ and e³, by which logits are divided for the lowest mean loss.

    parts: (logits (m, c), true answers) of each model that answered some of the rows. No model may have been fitted to the
        rows that it answers.
    loss: returns the log loss, summed over answers, of logits and true answers.
    penalty: is multiplied by the squared logarithm of the temperature and added to the mean loss. It keeps the temperature
        near 1 where rows are few; without it, a few answers that are all right would make the model certain.
    """
    from scipy.optimize import minimize_scalar  # half a second to import

    logits = [(output.double(), values) for output, values in parts]
    count = sum(len(values) for _, values in parts)

    def penalized_loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        total = sum(float(loss(output / temperature, values)) for output, values in logits)
        return total / count + penalty * log_temperature**2

    return math.exp(minimize_scalar(penalized_loss, bounds=LOG_TEMPERATURE_BOUNDS, method="bounded").x)
