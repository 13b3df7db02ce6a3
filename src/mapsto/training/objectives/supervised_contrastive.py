"""Supervised contrastive learning: rows of one class get similar vectors, rows of different classes dissimilar ones.

All rows of a step are compared with each other, as in Khosla et al. 2020 (https://arxiv.org/abs/2004.11362), so n
forward passes give n (n − 1) / 2 pairs. SetFit (Tunstall et al. 2022, https://arxiv.org/abs/2209.11055) needs two
passes per pair.
Legend of shapes: n examples, d width.
"""

from __future__ import annotations

from collections.abc import Sequence

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
from mapsto.training.objectives.gradient_cache import GradientCache

# Divides the cosine similarities before the softmax.
TEMPERATURE = 0.1

# The least number of rows of each class in a step.
ROWS_PER_CLASS = 4


class SupervisedContrastive(GradientCache):
    """The supervised contrastive loss over the classes of target number `port`; the heads are not trained.

    Each row is compared with all others of its step, in however many packed batches they are.
    """

    trains_heads = False
    single_process_option = "--method contrast"

    def __init__(self, examples: Examples, port: int) -> None:
        assert examples.answers is not None, "a corrupted source has no classes"
        answers = [answers[port] for answers in examples.answers.encoded]
        classes = np.array([-1 if answer is None else int(answer.values) for answer in answers])
        self.port = port
        self.rows_by_class = [np.flatnonzero(classes == label) for label in np.unique(classes[classes >= 0])]
        if max(map(len, self.rows_by_class)) < 2:
            raise UsageError(
                "--method contrast compares rows of one class, and no class has two; --method probe needs one"
            )

    def rows(self, seed: int, step: int, batch_size: int, num_examples: int) -> Ints:
        """Return the indices of the examples of a step: several rows of each of some classes.

        All classes are drawn from if `batch_size` allows, else random ones. At least ROWS_PER_CLASS rows are drawn per
        class, or all when a class has fewer.
        """
        num_classes = len(self.rows_by_class)
        rows_per_class = max(ROWS_PER_CLASS, batch_size // num_classes)
        rng = np.random.Generator(np.random.Philox(key=[seed, step]))
        # Rows of a single class would have nothing to be dissimilar to.
        count = min(num_classes, max(2, batch_size // rows_per_class))
        classes = np.unique(rows_of_step(seed, step, count, num_classes))
        return np.concatenate([rng.permutation(self.rows_by_class[i])[:rows_per_class] for i in classes])

    def begin_step(self, mapping: Mapping, batches: Sequence[Batch]) -> None:
        """Remember the rows and classes of a step, and the vectors of its rows when they fill several batches."""
        super().begin_step(mapping, batches)
        readouts = [self._readout(batch) for batch in batches]
        self.classes = torch.cat([readout.values for readout in readouts])
        self.weights = torch.cat([torch.ones(len(r.values)) if r.weights is None else r.weights for r in readouts])

    def losses(self, mapping: Mapping, batch: Batch) -> list[tuple[int, Tensor]]:
        """Return [(port, loss summed over the batch's rows)]; its gradient includes the losses of the step's other rows."""
        vectors = self.step_vectors(mapping, batch)
        losses_n = row_losses(vectors, self.classes.to(vectors.device)) * self.weights.to(vectors.device)
        is_own = torch.from_numpy(np.isin(self.step.rows, batch.rows)).to(vectors.device)
        loss_elsewhere = losses_n[~is_own].sum()
        # The difference is 0, but it adds the gradient of the other rows' losses by this batch's vectors.
        return [(self.port, losses_n[is_own].sum() + loss_elsewhere - loss_elsewhere.detach())]

    def counts(self, batch: Batch) -> dict[int, int]:
        """Return {port: number of the batch's rows that have a loss}.

        A row has one if another row of the step has the same class.
        """
        _, index, sizes = np.unique(self.classes.numpy(), return_inverse=True, return_counts=True)
        return {self.port: int((sizes[index] > 1)[np.isin(self.step.rows, batch.rows)].sum())}

    def vectors(self, mapping: Mapping, batch: Batch) -> Tensor:
        return mapping.pool(mapping.hidden(batch), batch)

    def _readout(self, batch: Batch) -> PackedAnswers:
        readout = batch.answers[self.port]
        assert readout is not None
        return readout


def contrastive_loss(vectors_nd: Tensor, classes_n: Tensor) -> Tensor:
    """Return the sum of all rows' contrastive losses; vectors_nd: (n, d), classes_n: (n,) class indices."""
    return row_losses(vectors_nd, classes_n).sum()


def row_losses(vectors_nd: Tensor, classes_n: Tensor) -> Tensor:
    """Return each row's contrastive loss, (n,); vectors_nd: (n, d), classes_n: (n,) class indices.

    The loss is the cross-entropy of picking a row of the same class among all other rows by cosine similarity, averaged
    over the rows of that class. It is 0 for the only row of its class.
    """
    unit = F.normalize(vectors_nd, dim=-1)
    is_self = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    is_same_class = (classes_n[:, None] == classes_n[None, :]) & ~is_self
    similarity = (unit @ unit.T / TEMPERATURE).masked_fill(is_self, -torch.inf)
    cross_entropy = torch.logsumexp(similarity, dim=1, keepdim=True) - similarity
    num_partners = is_same_class.sum(dim=1)
    return cross_entropy.masked_fill(~is_same_class, 0.0).sum(dim=1) / num_partners.clamp(min=1)
