"""Attribution: signed weights on the parts of an input that say how much each contributed to the model's answer.

The quantity explained is a score of the model's own answer, such as the log-odds of its class. A part with a positive
weight raises this score, a part with a negative weight lowers it. There are four methods. AttnLRP relevance (the
default) and gradient × input cost one backward pass. Integrated gradients (Sundararajan et al. 2017) cost one backward
pass per step. Occlusion costs one forward pass per part.
Legend of shapes: n examples, r rows, l row length, d width, t tokens, u parts (words of a text, patches of a picture).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapsto.data.encoding import EncodedRows, encode_rows
from mapsto.data.rows import Rows, load_rows
from mapsto.data.table import Table
from mapsto.errors import UsageError, near
from mapsto.explain.attnlrp import AttnLRP
from mapsto.inference.forward import question_examples, row_outputs
from mapsto.metrics.intervals import Floats
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch, Example
from mapsto.sequence.packing import make_batches
from mapsto.sequence.piece import Ints
from mapsto.task.capabilities import Attributable, Explainable, require

METHODS = ("relevance", "gradient", "integrated", "occlusion")
DEFAULT_METHOD = "relevance"
DEFAULT_STEPS = 50  # of integrated gradients

# Bounds on memory: tokens of a batch that is differentiated, examples whose interpolation steps are packed together,
# rows that are explained together.
TOKENS_WITH_GRADIENT = 2048
INTEGRATED_AT_ONCE = 64
EXPLAINED_AT_ONCE = 128


@dataclass(frozen=True)
class Attribution:
    """A part of the input, such as a word, with its attribution weight.

    text: the part in words.
    region: (a, 2), start and end of the part on each axis of the raw value, such as the characters of a text.
    port: index of the source that contains the part.
    """

    text: str
    region: list[list[float]]
    weight: float
    port: int = 0


@dataclass(frozen=True)
class Explanation:
    """The attribution of one answer to the parts of its input.

    summary: the answer in a few words.
    score: the model's score of its answer, in units of `score_name`.
    baseline_score: the score of the same answer for a blank input.
    completeness_gap: the sum of the weights minus (score − baseline_score), which is 0 in theory. Only for integrated
        gradients; None for other methods.
    """

    answer: dict[str, Any]
    summary: str = field(metadata={"key": "said"})
    parts: list[Attribution]
    method: str
    score_name: str = field(metadata={"key": "strength"})
    score: float = field(metadata={"key": "told"})
    baseline_score: float = field(metadata={"key": "blank"})
    completeness_gap: float | None = field(metadata={"key": "gap"})

    def lines(self, max_parts: int = 12) -> list[str]:
        """Return the lines to print in the terminal: the answer, then the parts with the largest weights as bars."""
        ranked = sorted(self.parts, key=lambda part: -abs(part.weight))[:max_parts]
        largest = max((abs(part.weight) for part in ranked), default=0.0) or 1.0
        bars = []
        for part in ranked:
            bar = ("█" if part.weight > 0 else "░") * round(20 * abs(part.weight) / largest)
            bars.append(f"  {part.weight:+8.3f}  {bar:<20}  {part.text}")
        if num_left_out := len(self.parts) - len(ranked):
            bars.append(f"            … and {num_left_out} parts with smaller weights")
        total = f"  {self.score:+8.3f}  {self.score_name} of this answer; {self.baseline_score:+.3f} for a blank input"
        gap = []
        if self.completeness_gap is not None:
            gap = [f"  {self.completeness_gap:+8.3f}  error of the sum of the weights"]
        return [f"{self.summary}   by {self.method}", *bars, total, *gap]


class Explainer:
    """A model with an attribution method. It computes in fp32, since gradients and small differences matter.

    port: index of the explained target, the first one whose answers can be attributed.
    num_cut: number of explained rows that were longer than the model takes.

    Raises UsageError if no target can be explained, and for an unknown method.
    """

    def __init__(
        self, mapping: Mapping, device: torch.device, method: str = DEFAULT_METHOD, steps: int = DEFAULT_STEPS
    ) -> None:
        if method not in METHODS:
            raise UsageError(
                f"unknown method of explanation {method!r}{near(method, METHODS)}; there are: {', '.join(METHODS)}"
            )
        if steps < 1:
            raise UsageError(f"--steps must be above 0, not {steps}")
        # A kernel for bf16 would bypass the rules of AttnLRP, and rounding would drown small differences.
        self.mapping = mapping.to(device).eval().float().compute_in(torch.float32)
        self.device, self.method, self.steps = device, method, steps
        self.num_cut = 0
        self.sources = {kind: require(source, Explainable, "explained") for kind, source in mapping.sources.items()}
        attributable = (
            (port, target) for port, target in enumerate(mapping.targets) if isinstance(target, Attributable)
        )
        first = next(attributable, None)
        if first is None:
            raise UsageError(f"only answers such as labels can be explained; {mapping.arrow} has none")
        self.port, self.target = first

    def read(self, table: Table) -> Rows:
        """Read the inputs of a table. The result's `faults` lists the rows that cannot be read."""
        return load_rows(self.mapping.arrow, table, answers=False)

    def examples(self, rows: Rows) -> list[Example]:
        """Encode rows as examples whose tokens are aligned to regions of the raw values."""
        return list(question_examples(self.mapping, self._encode(rows)))

    def _encode(self, rows: Rows) -> EncodedRows:
        """Encode rows with an alignment of tokens to raw values; rows that are too long are cut."""
        mapping = self.mapping
        return encode_rows(rows, mapping.sources, mapping.config.max_tokens, "cut", aligned=True)

    def explain(self, rows: Rows) -> Iterator[Explanation]:
        """Yield one explanation per row, in order. At most EXPLAINED_AT_ONCE rows are in memory."""
        self.num_cut = 0
        for start in range(0, len(rows), EXPLAINED_AT_ONCE):
            yield from self._explain_chunk(rows.select(np.arange(start, min(start + EXPLAINED_AT_ONCE, len(rows)))))

    def _explain_chunk(self, rows: Rows) -> Iterator[Explanation]:
        """Yield one explanation per row; the rows share their forward and backward passes."""
        encoded = self._encode(rows)
        self.num_cut += len(encoded.long_rows)
        examples = list(question_examples(self.mapping, encoded))
        outputs = self.outputs(examples)
        scores = self.answer_scores(outputs, outputs)
        baseline_scores = self.answer_scores(self.outputs([self.blank(example) for example in examples]), outputs)
        weights = self.token_weights(examples, outputs)
        answers = self.target.decode(outputs)
        for row, example in enumerate(examples):
            gap = None
            if self.method == "integrated":
                gap = float(weights[row].sum() - (scores[row] - baseline_scores[row]))
            values = [column[row] for column in rows.sources]
            yield Explanation(
                answers[row],
                self._summary(answers[row]),
                self._attributions(example, weights[row], values),
                self.method,
                self.target.score_unit,
                float(scores[row]),
                float(baseline_scores[row]),
                gap,
            )

    def _summary(self, answer: dict[str, Any]) -> str:
        """Return the answer in a few words, with its probability if it has one."""
        probability = f", {answer['probability']:.2f}" if "probability" in answer else ""
        return f"{self.target.brief(answer[self.target.kind])}{probability}"

    def outputs(self, examples: Sequence[Example]) -> Tensor:
        """Return the outputs of the explained target for these examples, (n, …), on the CPU."""
        (outputs,) = row_outputs(self.mapping, _renumber(examples), len(examples), [self.port], self.device)
        return outputs

    def answer_scores(self, outputs: Tensor, reference: Tensor) -> Floats:
        """Return the scores (n,) that `outputs` (n, …) give to the answers of other outputs, `reference` (n, …).

        Keeping the answer fixed shows how its score changes when the input is changed.
        """
        scores: Floats = self.target.answer_score(outputs, reference).double().numpy()
        return scores

    def token_weights(self, examples: Sequence[Example], outputs: Tensor) -> list[NDArray[np.float32]]:
        """Return the attribution weights of each example's tokens, (t,) per example.

        outputs: the model's outputs (n, …) for the examples.
        Occlusion gives the weight of a part to the first token of the part.
        """
        if self.method == "occlusion":
            return self._occlusion(examples, outputs)
        if self.method == "integrated":
            return [
                weights
                for start in range(0, len(examples), INTEGRATED_AT_ONCE)
                for weights in self._integrated_gradients(examples[start : start + INTEGRATED_AT_ONCE], outputs[start:])
            ]
        return self._input_times_gradient(examples, outputs)

    def _input_times_gradient(self, examples: Sequence[Example], outputs: Tensor) -> list[NDArray[np.float32]]:
        """Return input × gradient of each token, summed over the width, (t,) per example.

        With the method "relevance", the gradient follows the rules of AttnLRP.
        """
        weights: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(examples)
        for batch in make_batches(_renumber(examples), TOKENS_WITH_GRADIENT):
            on_device = batch.to(self.device)
            reference = outputs[torch.from_numpy(batch.rows)].to(self.device)
            x = self._embed(on_device)
            # The other methods need the true gradient.
            with AttnLRP() if self.method == "relevance" else nullcontext():
                products = (x * self._gradient(on_device, x, reference)).sum(-1)
            flat = products.flatten().float().cpu().numpy()
            for row, start, length in zip(batch.rows, batch.starts.tolist(), batch.lengths.tolist(), strict=True):
                weights[int(row)] = flat[start : start + length]
        return weights

    def _integrated_gradients(self, examples: Sequence[Example], outputs: Tensor) -> list[NDArray[np.float32]]:
        """Return the weights of each token by integrated gradients, (t,) per example.

        Gradients are integrated along the line from the blank input to the input by Gauss–Legendre quadrature. For each
        step of the quadrature there is a copy of each example, and the copies are packed together.
        """
        positions, quadrature_weights = np.polynomial.legendre.leggauss(self.steps)
        positions, quadrature_weights = (positions + 1) / 2, quadrature_weights / 2  # from [−1, 1] to [0, 1]
        weights = [np.zeros(sum(map(len, example.pieces)), np.float32) for example in examples]
        blanks = [self.blank(example) for example in examples]
        # The row number of a copy encodes its example and its step.
        copies = [
            Example(example.pieces, example.answers, index * self.steps + step)
            for index, example in enumerate(examples)
            for step in range(self.steps)
        ]
        # Steps of all examples share batches, so that short texts fill them too.
        for batch in make_batches(copies, TOKENS_WITH_GRADIENT):
            on_device = batch.to(self.device)
            indices, step = batch.rows // self.steps, batch.rows % self.steps
            x = self._embed(on_device)
            baseline = self._embed(_with_tokens_of(on_device, [blanks[int(index)] for index in indices]))
            # The place behind the last example is padding, which stays at the baseline.
            progress = torch.from_numpy(np.append(positions[step], 0)).to(x)[on_device.owner][..., None]
            reference = outputs[torch.from_numpy(indices)].to(self.device)
            gradient = self._gradient(on_device, baseline + progress * (x - baseline), reference)
            flat = ((x - baseline) * gradient).sum(-1).flatten().float().cpu().numpy()
            ends = batch.starts + batch.lengths
            for index, quadrature_weight, start, end in zip(
                indices, quadrature_weights[step], batch.starts.tolist(), ends.tolist(), strict=True
            ):
                weights[int(index)] += np.float32(quadrature_weight) * flat[start:end]
        return weights

    def _embed(self, batch: Batch) -> Tensor:
        """Return the embedded tokens (r, l, d), which are constants for the gradient."""
        with torch.no_grad():
            return self.mapping.embed(batch)

    def _gradient(self, batch: Batch, x: Tensor, reference: Tensor) -> Tensor:
        """Return the gradient (r, l, d) of the summed answer scores with respect to the embedded tokens `x` (r, l, d).

        Examples do not attend to each other, so each token gets the gradient of the score of its own example.
        reference: outputs (n, …) that determine the answers.
        """
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            output = self.mapping.read(self.mapping.hidden(batch, x), batch, self.port)
            scores = self.target.answer_score(output.float(), reference)
            (gradient,) = torch.autograd.grad(scores.sum(), x)
        return gradient

    def _occlusion(self, examples: Sequence[Example], outputs: Tensor) -> list[NDArray[np.float32]]:
        """Return by how much the answer's score falls when each part is removed, (t,) per example.

        The value stands at the first token of the part; other tokens have 0.
        """
        removals = [(index, part) for index, example in enumerate(examples) for part in split_parts(example)]
        outputs_without = self.outputs([self.remove_parts(examples[index], [part]) for index, part in removals])
        indices = torch.tensor([index for index, _ in removals])
        scores = self.answer_scores(outputs, outputs)[indices.numpy()]
        # The score followed is that of the original answer, even where another answer is better without the part.
        drops = scores - self.answer_scores(outputs_without, outputs[indices])
        weights = [np.zeros(sum(map(len, example.pieces)), np.float32) for example in examples]
        for (index, part), drop in zip(removals, drops.tolist(), strict=True):
            weights[index][part[0]] = drop
        return weights

    def blank(self, example: Example) -> Example:
        """Return the example with blank values, the baseline of an attribution. The number of tokens stays the same."""
        return Example(
            tuple(self.sources[piece.kind].blank(piece) for piece in example.pieces),
            example.answers,
            example.row,
        )

    def remove_parts(self, example: Example, parts: Sequence[Ints]) -> Example:
        """Return the example without some of its parts, as if they had never stood in the input.

        parts: the token indices of each part to remove, from `split_parts`.
        """
        # The empty array sets the type if there are no parts.
        removed = np.concatenate([np.zeros(0, np.int64), *parts])
        pieces, first = [], 0
        for piece in example.pieces:
            in_piece = removed[(removed >= first) & (removed < first + len(piece))] - first
            pieces.append(self.sources[piece.kind].remove_tokens(piece, in_piece) if len(in_piece) else piece)
            first += len(piece)
        return Example(tuple(pieces), example.answers, example.row)

    def _attributions(self, example: Example, weights: NDArray[np.float32], values: Sequence[Any]) -> list[Attribution]:
        """Sum the token weights (t,) of each part, and locate the parts in the raw values (one per source).

        Parts without a region in the raw value are left out.
        """
        first_tokens = np.cumsum([0, *map(len, example.pieces)])
        attributions = []
        for tokens in split_parts(example):
            port = int(np.searchsorted(first_tokens, tokens[0], side="right")) - 1
            piece = example.pieces[port]
            assert piece.alignment is not None
            # None where the tokens have no place in the raw value, such as an inserted space.
            region = piece.alignment.to_raw(tokens - first_tokens[port])
            if region is not None:
                text = self.sources[piece.kind].excerpt(values[port], region)
                attributions.append(Attribution(text, region.tolist(), float(weights[tokens].sum()), port))
        return attributions


def split_parts(example: Example) -> list[Ints]:
    """Split an example into parts such as words; return the token indices of each part.

    Indices count from the first token of the example. Special tokens belong to no part.
    """
    parts: list[Ints] = []
    first = 0
    for piece in example.pieces:
        # Without units, such as words, each token is a part.
        units = np.arange(len(piece)) if piece.units is None else piece.units
        tokens = np.flatnonzero(~piece.special)
        if len(tokens):
            # A part is a run of tokens of the same unit.
            breaks = np.flatnonzero(np.diff(units[tokens])) + 1
            parts += [first + part for part in np.split(tokens, breaks)]
        first += len(piece)
    return parts


def _renumber(examples: Sequence[Example]) -> list[Example]:
    """Return copies of the examples, in which `row` is the index in the list."""
    return [Example(example.pieces, example.answers, index) for index, example in enumerate(examples)]


def _with_tokens_of(batch: Batch, examples: list[Example]) -> Batch:
    """Return the batch with the tokens of other examples, which have the same lengths and the same order."""
    tokens = {kind: values.clone() for kind, values in batch.tokens.items()}
    offsets = dict.fromkeys(tokens, 0)
    for example in examples:
        for piece in example.pieces:
            offset = offsets[piece.kind]
            tokens[piece.kind][offset : offset + len(piece)] = torch.from_numpy(piece.tokens)
            offsets[piece.kind] = offset + len(piece)
    return replace(batch, tokens=tokens)
