"""Matching: the two values of a row get similar vectors, values of different rows dissimilar ones (`<->`).

Each query is compared with the candidates of all rows of the step, and each passage with all queries: the symmetric cross-entropy
over in-batch negatives (Henderson et al. 2017, https://arxiv.org/abs/1705.00652; Radford et al. 2021). Hard negatives are
further candidates. A candidate is left out for a query if the training rows have the two as a pair, or if their texts are equal:
it would be taught as wrong though it is right. Of texts in groups, those of the query's group are left out. With a score for each
pair, the cosines learn the order of the scores instead.

Matryoshka learning (Kusupati et al. 2022, https://arxiv.org/abs/2205.13147) sums the loss over several sizes: the first numbers
of each vector, scaled to length 1, are a shorter vector that can be searched as well.
Legend of shapes: b rows of a step, s sides, n = b · s examples, c candidates, d width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mapsto.data.examples import Examples
from mapsto.data.rows import link_rows, side_keys
from mapsto.errors import UsageError
from mapsto.metrics.ranking import Relevance, number_by_occurrence
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch, PackedAnswers
from mapsto.sequence.piece import Ints
from mapsto.training.objectives.gradient_cache import GradientCache


class Matching(GradientCache):
    """The loss of the pairs of a step.

    Each value of a row is an example of its own: number `row + side · number of rows`.
    sizes: the sizes of vectors whose losses are summed; empty for the full width alone.
    """

    single_process_option = "<->"
    packs_views_together = False

    def __init__(self, mapping: Mapping, examples: Examples, sizes: Sequence[int] = ()) -> None:
        width = mapping.config.transformer.width
        if too_large := [size for size in sizes if size > width]:
            raise UsageError(f"--sizes {too_large[0]} is more than the {width} numbers of this model's vectors")
        self.sizes = tuple(sizes) or (width,)
        self.num_rows, self.num_views = len(examples), len(examples.arrow.sources)
        assert examples.answers is not None, "pairs are read from a table"
        rows = examples.answers.rows
        self.weights = examples.weights
        # By number of the row, the score of its pair; None without scores.
        self.scores = np.array(rows.targets[0], np.float32) if rows.arrow.is_scored else None
        keys = side_keys(rows)
        # Equal texts have one number on all sides, (s, number of rows).
        self.texts = number_by_occurrence([key for side in keys for key in side]).reshape(len(keys), -1)
        # By number of a text that is a query, the numbers of the texts that are right for it.
        pairs = Relevance(number_by_occurrence(keys[0]), self.texts[1])
        self.right = dict(zip(self.texts[0, pairs.query_rows].tolist(), pairs.right, strict=True))
        # By number of the row, its group and all groups with which that has texts in common; None for pairs.
        self.groups = link_rows(rows) if rows.arrow.is_grouped else None

    def num_terms(self, mapping: Mapping) -> int:
        """Return 1: the loss of the pairs."""
        return 1

    def rows(self, seed: int, step: int, batch_size: int, num_examples: int) -> Ints:
        """Return the rows of a step without repetition, which occurs only where one epoch ends and the next begins."""
        return np.unique(super().rows(seed, step, batch_size, num_examples))

    def vectors(self, mapping: Mapping, batch: Batch) -> Tensor:
        return mapping.sentence_vectors(mapping.hidden(batch), batch)

    def losses(self, mapping: Mapping, batch: Batch) -> list[tuple[int, Tensor]]:
        """Return [(0, the batch's share of the loss of the step)]; its gradient is that of the whole by the batch's vectors."""
        vectors = self.step_vectors(mapping, batch)
        order = np.argsort(self.step.rows)
        rows = self.step.rows[order].reshape(self.num_views, -1)[0]
        sides = vectors[torch.from_numpy(order).to(vectors.device)].view(self.num_views, len(rows), -1)
        total = self.total(mapping, sides, rows)
        # The value is shared out among the batches, but each gives the gradient of the whole.
        return [(0, total - total.detach() * (1 - len(batch.rows) / len(self.step.rows)))]

    def counts(self, batch: Batch) -> dict[int, int]:
        """Return {0: number of examples of the batch}; a step divides the sum of `losses` by that of all batches."""
        return {0: len(batch.rows)}

    def total(self, mapping: Mapping, sides: Tensor, rows: Ints) -> Tensor:
        """Return the loss of some rows, summed over all sizes; see `loss`."""
        return torch.stack([self.loss(mapping, sides[..., :size], rows) for size in self.sizes]).sum()

    def loss(self, mapping: Mapping, sides: Tensor, rows: Ints) -> Tensor:
        """Return the loss of some rows, times the number of their examples.

        sides: (s, b, d), the vectors of the values on each side. rows: (b,), their rows.
        """
        target, (queries, passages) = mapping.targets[0], F.normalize(sides.float(), dim=-1)[:2]
        if self.scores is not None:
            scores = torch.from_numpy(self.scores[rows]).to(sides.device)
            return self.num_views * target.loss((queries * passages).sum(-1), scores)
        candidates = F.normalize(sides[1:].float(), dim=-1).flatten(0, 1)
        left_out = torch.from_numpy(self.find_left_out(rows)).to(sides.device)
        answers = torch.arange(len(rows), device=sides.device)
        similarities = (queries @ candidates.T).masked_fill(left_out, -torch.inf)
        weights = None if self.weights is None else torch.from_numpy(self.weights[rows]).to(sides.device)
        pairs = PackedAnswers(answers, None, answers, weights=weights)
        forward, backward = (
            pairs.sum_weighted(target.loss, by_row) for by_row in (similarities, similarities[:, : len(rows)].T)
        )
        return self.num_views * (forward + backward) / 2

    def find_left_out(self, rows: Ints) -> NDArray[np.bool_]:
        """Return which candidates of a step are left out for which query, (b, c): right ones, but for the query's own.

        rows: (b,), the rows of the step. The candidates are their passages, then their hard negatives, column by column.
        """
        if self.groups is not None:
            same: NDArray[np.bool_] = self.groups[rows][:, None] == self.groups[rows]
            return same & ~np.eye(len(rows), dtype=np.bool_)
        queries, candidates = self.texts[0, rows], self.texts[1:, rows].ravel()
        left_out: NDArray[np.bool_] = np.stack([np.isin(candidates, self.right[query]) for query in queries.tolist()])
        left_out |= queries[:, None] == candidates[None, :]
        left_out[np.arange(len(rows)), np.arange(len(rows))] = False
        return left_out
