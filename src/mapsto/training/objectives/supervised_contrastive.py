"""contrast: rows of one class are drawn together, rows of different classes apart.

SetFit (Tunstall et al. 2022) reads two rows for one pair; here every pair of a batch is compared, as in supervised
contrastive learning (Khosla et al. 2020): n rows give n (n − 1) / 2 pairs for n forward passes.
Legend of shapes: n examples, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mapsto.data.examples import Examples
from mapsto.data.sampling import rows_of_step
from mapsto.errors import UsageError
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch, PackedAnswers
from mapsto.sequence.piece import Ints
from mapsto.training.objectives import Objective

TEMPERATURE = 0.1


ROWS_A_CLASS = 4


@dataclass(frozen=True)
class Step:
    """The rows of a step: their numbers and classes (n,), and where no batch holds them all their vectors (n, d)."""

    rows: Ints
    classes: Tensor
    vectors: Tensor | None


class Contrast(Objective):
    """Supervised contrast over the classes that target `port` answers; the heads do not learn.

    Each row is compared with all others of its step. Where long ones fill several batches, every batch is compared with the
    vectors of the others as they were before, so that the gradient is whole and memory holds one batch (Gao et al. 2021).
    """

    watches = False
    compares = "--method contrast"

    def __init__(self, examples: Examples, port: int) -> None:
        assert examples.answers is not None, "classes are no values that `~` hides"
        answers = [answers[port] for answers in examples.answers]
        classes = np.array([-1 if answer is None else int(answer.values) for answer in answers])
        self.port = port
        self.members = [np.flatnonzero(classes == found) for found in np.unique(classes[classes >= 0])]
        if max(map(len, self.members)) < 2:
            raise UsageError(
                "--method contrast compares rows of one class, and no class has two; --method probe needs one"
            )

    def rows(self, seed: int, step: int, batch: int, n: int) -> Ints:
        """The classes in turn, several rows of each: all classes where a batch holds them."""
        classes = len(self.members)
        of_each = max(ROWS_A_CLASS, batch // classes)
        rng = np.random.Generator(np.random.Philox(key=[seed, step]))
        chosen = np.unique(rows_of_step(seed, step, min(classes, max(2, batch // of_each)), classes))
        return np.concatenate([rng.permutation(self.members[i])[:of_each] for i in chosen])

    def meet(self, mapping: Mapping, batches: Sequence[Batch]) -> None:
        """Read all rows of a step once, where they are in several batches."""
        device = next(mapping.parameters()).device
        made = [batch.to(device) for batch in batches]
        with torch.no_grad():
            vectors = torch.cat([self._vectors(mapping, batch) for batch in made]) if len(made) > 1 else None
        classes = torch.cat([self._answered(batch).values for batch in made])
        self.step = Step(np.concatenate([batch.rows for batch in made]), classes, vectors)

    def losses(self, mapping: Mapping, batch: Batch) -> list[tuple[int, Tensor]]:
        """The contrast of the batch's pooled vectors, with the gradient of that of all the step's."""
        vectors, classes = self._vectors(mapping, batch), self._answered(batch).values
        if self.step.vectors is None:
            return [(self.port, contrast(vectors, classes))]
        others = torch.from_numpy(~np.isin(self.step.rows, batch.rows)).to(classes.device)
        every = torch.cat([vectors, self.step.vectors[others]]), torch.cat([classes, self.step.classes[others]])
        found = surprises(*every)
        theirs = found[len(vectors) :].sum()
        return [(self.port, found[: len(vectors)].sum() + theirs - theirs.detach())]

    def counts(self, batch: Batch) -> dict[int, int]:
        """Rows that have another of their class beside them in the step."""
        _, of, sizes = np.unique(self.step.classes.cpu().numpy(), return_inverse=True, return_counts=True)
        return {self.port: int((sizes[of] > 1)[np.isin(self.step.rows, batch.rows)].sum())}

    def _vectors(self, mapping: Mapping, batch: Batch) -> Tensor:
        return mapping.pool(mapping.hidden(batch), batch)

    def _answered(self, batch: Batch) -> PackedAnswers:
        readout = batch.answers[self.port]
        assert readout is not None
        return readout


def contrast(vectors_nd: Tensor, classes_n: Tensor) -> Tensor:
    """The sum of all surprises."""
    return surprises(vectors_nd, classes_n).sum()


def surprises(vectors_nd: Tensor, classes_n: Tensor) -> Tensor:
    """For each vector with another of its class, how little its likeness to those stands out among all, (n,); zero for others."""
    unit = F.normalize(vectors_nd, dim=-1)
    alone = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    same = (classes_n[:, None] == classes_n[None, :]) & ~alone
    likeness = (unit @ unit.T / TEMPERATURE).masked_fill(alone, -torch.inf)
    surprise = torch.logsumexp(likeness, dim=1, keepdim=True) - likeness
    partners = same.sum(dim=1)
    return surprise.masked_fill(~same, 0.0).sum(dim=1) / partners.clamp(min=1)
