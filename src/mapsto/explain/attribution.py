"""Attribution: a signed weight for each part of an input, by which the part contributed to the model's answer.

The quantity explained is a score of the model's own answer, such as the log-odds of the answered class. A part with a positive
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
from mapsto.explain.answers import make_reader, renumber
from mapsto.explain.attnlrp import AttnLRP
from mapsto.inference.forward import question_examples
from mapsto.metrics.intervals import Floats
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch, Example
from mapsto.sequence.packing import make_batches
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.capabilities import require
from mapsto.task.source_capabilities import Explainable
from mapsto.task.target_capabilities import Attributable, Extracted

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

    text: the part as text; for other kinds, such as images, a description of it.
    region: (a, 2), start and end of the part on each axis of the raw value, such as character indices of a text.
    weight: how much the part raises (positive) or lowers (negative) the score of the model's answer.
    port: index of the source port whose value contains the part.
    """

    text: str
    region: list[list[float]]
    weight: float
    port: int = 0


@dataclass(frozen=True, repr=False)
class Explanation:
    """A model's answer for one row, and the attribution of this answer to the parts of the row's input.

    parts: the parts of the input with their weights. method: name of the attribution method.
    answer: the decoded answer. summary: the answer in a few words.
    score_name: name of the score that is attributed, such as "log-odds". score: the score that the model gives its answer.
    baseline_score: the score of the same answer for the input with all content blanked (`Explainer.blank`).
    completeness_gap: for integrated gradients the sum of the weights minus (score − baseline_score), which would be 0 if the
        integration were exact; None for other methods.
    """

    answer: dict[str, Any]
    summary: str = field(metadata={"key": "said"})
    parts: list[Attribution]
    method: str
    score_name: str = field(metadata={"key": "strength"})
    score: float = field(metadata={"key": "told"})
    baseline_score: float = field(metadata={"key": "blank"})
    completeness_gap: float | None = field(metadata={"key": "gap"})

    def strongest(self, count: int = 3) -> tuple[str, str]:
        """Return the parts that raise the score of the answer most, and those that lower it most, each as one text."""
        ranked = sorted(self.parts, key=lambda part: -abs(part.weight))
        return (
            ", ".join([part.text for part in ranked if part.weight > 0][:count]),
            ", ".join([part.text for part in ranked if part.weight < 0][:count]),
        )

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def lines(self, max_parts: int = 12) -> list[str]:
        """Return the lines to print in a terminal: the answer, bars for the parts with the largest weights, and the score.

        max_parts: number of parts to show.
        """
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
    """A model with an attribution method, which explains the model's answers to rows. It computes in fp32.

    mapping: the model. method: one of METHODS. steps: number of steps of integrated gradients.
    token: of generated answers the token to explain, counted from 1 or named by its text; None for the whole answer.
    port: index of the explained target port: the first whose answers have a score to attribute (`Attributable`).
    num_cut: number of rows in the last call of `explain` that were cut to the model's token limit.
    Raises UsageError if no target is `Attributable`, if tokens of a source cannot be removed and highlighted (it is not
    `Explainable`), for an unknown method, for fewer than 1 step, and for a token of an answer that is not generated.
    """

    def __init__(
        self,
        mapping: Mapping,
        device: torch.device,
        method: str = DEFAULT_METHOD,
        steps: int = DEFAULT_STEPS,
        token: str | int | None = None,
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
        self.answers = make_reader(self.mapping, self.port, device, token)

    def read(self, table: Table) -> Rows:
        """Return the readable rows of a table, read without answers; `Rows.faults` has the findings about the other rows."""
        return load_rows(self.mapping.arrow, table, answers=False)

    def examples(self, rows: Rows) -> list[Example]:
        """Encode rows as examples without true answers, whose pieces are aligned to raw coordinates; long rows are cut.

        Rows whose generated answer does not have the token to explain are left out.
        """
        examples = self.answers.fix(list(question_examples(self.mapping, self._encode(rows))))
        return list(filter(self.answers.is_explained, examples))

    def _encode(self, rows: Rows) -> EncodedRows:
        """Encode rows as pieces that are aligned to raw coordinates, and cut those above the model's token limit."""
        mapping = self.mapping
        return encode_rows(rows, mapping.sources, mapping.config.max_tokens, "cut", aligned=True)

    def explain(self, rows: Rows) -> Iterator[Explanation]:
        """Yield an explanation of the model's answer to each row, in order; EXPLAINED_AT_ONCE rows are computed together."""
        self.num_cut = 0
        for start in range(0, len(rows), EXPLAINED_AT_ONCE):
            yield from self._explain_chunk(rows.select(np.arange(start, min(start + EXPLAINED_AT_ONCE, len(rows)))))

    def _explain_chunk(self, rows: Rows) -> Iterator[Explanation]:
        """Yield an explanation of the model's answer to each row, after computing all rows in shared batches."""
        encoded = self._encode(rows)
        self.num_cut += len(encoded.long_rows)
        examples = self.answers.fix(list(question_examples(self.mapping, encoded)))
        outputs = self.outputs(examples)
        reference = self.reference(outputs, examples)
        answers, summaries = self.answers.describe(rows, examples, outputs, reference)
        scores = self.answer_scores(outputs, reference)
        baseline_scores = self.answer_scores(self.outputs([self.blank(example) for example in examples]), reference)
        weights = self.token_weights(examples, reference)
        for row, example in enumerate(examples):
            gap = None
            if self.method == "integrated":
                gap = float(weights[row].sum() - (scores[row] - baseline_scores[row]))
            values = [column[row] for column in rows.sources]
            yield Explanation(
                answers[row],
                summaries[row],
                self._attributions(example, weights[row], values),
                self.method,
                self.target.score_unit,
                float(scores[row]),
                float(baseline_scores[row]),
                gap,
            )

    def reference(self, outputs: Tensor, examples: Sequence[Example]) -> Tensor:
        """Return what fixes the explained answer of each example, (n, …): a part of the answer, or by default the outputs.

        outputs: (n, …), the model's outputs for the examples.
        """
        return self.answers.reference(outputs, examples)

    def outputs(self, examples: Sequence[Example]) -> Tensor:
        """Return the model's outputs for examples at the explained target port, (n, …), on the CPU; see `AnswerReader`."""
        return self.answers.outputs(examples)

    def answer_scores(self, outputs: Tensor, reference: Tensor) -> Floats:
        """Return for each example the score (n,) that `outputs`, (n, …), give to the answer that `reference`, (n, …), gives.

        If `reference` is for the original input and `outputs` for a changed input, this is the score of the original answer after
        the change.
        """
        scores: Floats = self.target.answer_score(outputs, reference).double().numpy()
        return scores

    def token_weights(self, examples: Sequence[Example], reference: Tensor) -> list[NDArray[np.float32]]:
        """Return for each example the attribution weights of its tokens, (t,), by the method of this object.

        reference: (n, …), what fixes the answers that are explained, see `reference`.
        Occlusion gives the weight of a whole part to the first token of the part, and 0 to the others.
        """
        if self.method == "occlusion":
            return self._occlusion(examples, reference)
        if self.method == "integrated":
            return [
                weights
                for start in range(0, len(examples), INTEGRATED_AT_ONCE)
                for weights in self._integrated_gradients(
                    examples[start : start + INTEGRATED_AT_ONCE], reference[start:]
                )
            ]
        return self._input_times_gradient(examples, reference)

    def _input_times_gradient(self, examples: Sequence[Example], references: Tensor) -> list[NDArray[np.float32]]:
        """Return for each example its tokens' weights (t,): embedding × gradient of the answer's score, summed over the width.

        references: (n, …), what fixes the answers of the examples.
        With the method "relevance", the gradient follows the rules of AttnLRP; otherwise it is the true gradient.
        """
        weights: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(examples)
        for batch in make_batches(renumber(examples), TOKENS_WITH_GRADIENT):
            on_device = batch.to(self.device)
            reference = references[torch.from_numpy(batch.rows)].to(self.device)
            pieces = [examples[row].pieces for row in batch.rows.tolist()]
            x = self._embed(on_device)
            # The other methods need the true gradient.
            with AttnLRP() if self.method == "relevance" else nullcontext():
                products = (x * self._gradient(on_device, x, reference, pieces)).sum(-1)
            flat = products.flatten().float().cpu().numpy()
            for row, start, length in zip(batch.rows, batch.starts.tolist(), batch.lengths.tolist(), strict=True):
                weights[int(row)] = flat[start : start + length]
        return weights

    def _integrated_gradients(self, examples: Sequence[Example], references: Tensor) -> list[NDArray[np.float32]]:
        """Return for each example its tokens' weights (t,) by integrated gradients.

        Gradients are integrated along the line from the blank input to the input by Gauss–Legendre quadrature. Each step of the
        quadrature is a copy of the example, and the copies of all examples are packed into the same batches.
        references: (n, …), what fixes the answers of the examples.
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
            reference = references[torch.from_numpy(indices)].to(self.device)
            pieces = [examples[int(index)].pieces for index in indices]
            gradient = self._gradient(on_device, baseline + progress * (x - baseline), reference, pieces)
            flat = ((x - baseline) * gradient).sum(-1).flatten().float().cpu().numpy()
            ends = batch.starts + batch.lengths
            for index, quadrature_weight, start, end in zip(
                indices, quadrature_weights[step], batch.starts.tolist(), ends.tolist(), strict=True
            ):
                weights[int(index)] += np.float32(quadrature_weight) * flat[start:end]
        return weights

    def _embed(self, batch: Batch) -> Tensor:
        """Return the embedded tokens (r, l, d) of a batch, computed without gradient."""
        with torch.no_grad():
            return self.mapping.embed(batch)

    def _gradient(self, batch: Batch, x: Tensor, reference: Tensor, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """Return the gradient (r, l, d) of the summed answer scores with respect to the embedded tokens `x` (r, l, d).

        Examples do not attend to each other, so each token gets the gradient of the score of its own example.
        reference: (n, …), what fixes the answers that are scored. pieces: those of each example of the batch.
        """
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            if batch.answers[self.port] is None and isinstance(self.target, Extracted):
                return torch.zeros_like(x)  # no example has a word
            output = self.answers.read(self.mapping.hidden(batch, x), batch, pieces)
            scores = self.target.answer_score(output, reference)
            (gradient,) = torch.autograd.grad(scores.sum(), x)
        return gradient

    def _occlusion(self, examples: Sequence[Example], references: Tensor) -> list[NDArray[np.float32]]:
        """Return for each example its tokens' weights (t,): the fall of the answer's score when a part is removed.

        The first token of a part has the weight of the part, other tokens have 0.
        references: (n, …), what fixes the answers of the examples.
        """
        removals = [(index, part) for index, example in enumerate(examples) for part in split_parts(example)]
        outputs_without = self.outputs([self.remove_parts(examples[index], [part]) for index, part in removals])
        indices = torch.tensor([index for index, _ in removals])
        scores = self.answer_scores(self.outputs(examples), references)[indices.numpy()]
        # The score followed is that of the original answer, even where another answer is better without the part.
        drops = scores - self.answer_scores(outputs_without, references[indices])
        weights = [np.zeros(sum(map(len, example.pieces)), np.float32) for example in examples]
        for (index, part), drop in zip(removals, drops.tolist(), strict=True):
            weights[index][part[0]] = drop
        return weights

    def blank(self, example: Example) -> Example:
        """Return the example with the content of all tokens removed, special tokens excepted: the baseline of an attribution.

        The number of tokens stays the same. Each source decides by what it replaces them, such as [MASK] or the mean colour.
        """
        return Example(
            tuple(self.sources[piece.kind].blank(piece) for piece in example.pieces),
            example.answers,
            example.row,
        )

    def remove_parts(self, example: Example, parts: Sequence[Ints]) -> Example:
        """Return the example without the tokens of some parts, as if the input had never contained them.

        Where a convolutional network embeds whole images, the tokens stay and are blanked instead.
        parts: for each part to remove the indices of its tokens, from `split_parts`.
        """
        # The empty array sets the type if there are no parts.
        removed = np.concatenate([np.zeros(0, np.int64), *parts])
        pieces, first = [], 0
        for piece in example.pieces:
            in_piece = removed[(removed >= first) & (removed < first + len(piece))] - first
            pieces.append(self.sources[piece.kind].remove_tokens(piece, in_piece) if len(in_piece) else piece)
            first += len(piece)
        return Example(tuple(pieces), self.answers.ask(example, pieces), example.row)

    def _attributions(self, example: Example, weights: NDArray[np.float32], values: Sequence[Any]) -> list[Attribution]:
        """Return the attribution of each part of an example: the sum of its tokens' weights, and its region of the raw value.

        weights: (t,), the weights of the example's tokens. values: the raw value of each source.
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
    """Split an example into parts: words or other units, or single tokens where a piece has no units.

    Return for each part the indices of its tokens, counted from the first token of the example. Special tokens are in no part.
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


def _with_tokens_of(batch: Batch, examples: list[Example]) -> Batch:
    """Return the batch with its tokens replaced by those of `examples`, which must have the same lengths and order."""
    tokens = {kind: values.clone() for kind, values in batch.tokens.items()}
    # The tokens of a kind lie in the batch in the order of the examples, and within these in that of the pieces.
    offsets = dict.fromkeys(tokens, 0)
    for example in examples:
        for piece in example.all_pieces:
            offset = offsets[piece.kind]
            tokens[piece.kind][offset : offset + len(piece)] = torch.from_numpy(piece.tokens)
            offsets[piece.kind] = offset + len(piece)
    return replace(batch, tokens=tokens)
