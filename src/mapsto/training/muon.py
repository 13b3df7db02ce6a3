"""Muon (Jordan et al. 2024) as in torch, also fast where the hardware has no units for bf16 products."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

# Size of an update relative to the root of a matrix's longer side, which gives it the root mean square of AdamW's updates
# (Liu et al. 2025).
UPDATE_SCALE = 0.2


class Muon(torch.optim.Muon):
    """torch's Muon with the learning rates of AdamW ("match_rms_adamw"), in a chosen precision of the orthogonalisation.

    torch computes it in bf16. A CPU without bf16 units emulates these products, which takes many times as long as fp32
    products (benchmarks/muon.py).
    precision: "bf16", which is torch's own step, or "fp32".
    """

    def __init__(self, params: Any, lr: float, weight_decay: float, precision: Literal["bf16", "fp32"]) -> None:
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self.precision = precision

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update all matrices once. closure: not supported; must be None."""
        assert closure is None
        if self.precision == "bf16":
            super().step()  # type: ignore[no-untyped-call]
            return
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Update one matrix with Nesterov momentum, decoupled weight decay and an orthogonalised update in fp32."""
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(momentum, group["momentum"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        scale = UPDATE_SCALE * max(parameter.shape) ** 0.5
        parameter.add_(orthogonalise(update, group), alpha=-group["lr"] * scale)


def orthogonalise(matrix: Tensor, group: dict[str, Any]) -> Tensor:
    """Return a matrix whose singular values are about 1 and whose singular vectors are those of `matrix` (m, n).

    It is a Newton–Schulz iteration (Jordan et al. 2024).
    group: the optimizer's settings `ns_coefficients`, `ns_steps` and `eps`.
    """
    a, b, c = group["ns_coefficients"]
    is_tall = matrix.shape[0] > matrix.shape[1]
    result = matrix.T if is_tall else matrix
    # The iteration needs singular values of at most 1.
    result = result / result.norm().clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = result @ result.T
        result = torch.addmm(result, torch.addmm(gram, gram, gram, beta=b, alpha=c), result, beta=a)
    return result.T if is_tall else result
