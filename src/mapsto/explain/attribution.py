"""Which part of the input decided: signed weights on the parts of a value, in raw coordinates, and how far to trust them.

What is explained is how strongly the model says its own answer (`Attributable.answer_score`): for a class its log-odds. A part
with a weight above 0 speaks for the answer, one below 0 against it.
Legend of shapes: n examples, r rows, l row length, d width, t tokens, u parts (words of a text, …).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapsto.data.encoding import Encoded, encode
from mapsto.data.rows import Rows, bind_to, read_rows
from mapsto.data.table import Table
from mapsto.errors import UsageError, near
from mapsto.explain.attnlrp import Relevance
from mapsto.inference.forward import asking, row_outputs
from mapsto.metrics.intervals import Floats
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Batch, Example
from mapsto.sequence.packing import batches
from mapsto.sequence.piece import Ints
from mapsto.task.capabilities import Attributable, Explainable, require

METHODS = ("relevance", "gradient", "integrated", "occlusion")


DEFAULT = "relevance"


STEPS = 50


TOKENS_WITH_GRADIENT = 2048


EXAMPLES_IN_STEPS = 64


ROWS_AT_ONCE = 128


@dataclass(frozen=True)
class Part:
    """A part of what was read: its text, where it stands in the raw value (for text: characters), and its weight.

    port: which source it stands in, counted from 0.
    """

    text: str
    region: list[list[float]]
    weight: float
    port: int = 0


@dataclass(frozen=True)
class Explanation:
    """Why a model gave an answer. said: the answer in a few words. told: how strongly it says it, as `strength` measures it.
    blank: the same when it reads nothing.

    gap: for integrated gradients, by how much the weights miss told − blank, which they should sum to; None for others.
    """

    answer: dict[str, Any]
    said: str
    parts: list[Part]
    method: str
    strength: str
    told: float
    blank: float
    gap: float | None

    def lines(self, most: int = 12) -> list[str]:
        """For a screen: the answer, and the parts that weigh most with a bar of how much."""
        ranked = sorted(self.parts, key=lambda part: -abs(part.weight))[:most]
        longest = max((abs(part.weight) for part in ranked), default=0.0) or 1.0
        bars = []
        for part in ranked:
            bar = ("█" if part.weight > 0 else "░") * round(20 * abs(part.weight) / longest)
            bars.append(f"  {part.weight:+8.3f}  {bar:<20}  {part.text}")
        more = len(self.parts) - len(ranked)
        told = f"  {self.told:+8.3f}  is how strongly it says so ({self.strength}); {self.blank:+.3f} when it reads nothing"
        gap = [] if self.gap is None else [f"  {self.gap:+8.3f}  is missing from the sum of the weights"]
        said = f"{self.said}   by {self.method}"
        return [said, *bars, *([f"            … and {more} parts that weigh less"] if more else []), told, *gap]


class Explainer:
    """A mapping made ready to say why. It computes in fp32: gradients are taken, and small differences count.

    port: which target is explained. cut_rows: how many of the rows explained were longer than the model takes.

    Raises UsageError for answers that cannot be explained, and for a method there is not.
    """

    def __init__(self, mapping: Mapping, device: torch.device, method: str = DEFAULT, steps: int = STEPS) -> None:
        if method not in METHODS:
            raise UsageError(
                f"no method {method!r} of explaining{near(method, METHODS)}; there are: {', '.join(METHODS)}"
            )
        if steps < 1:
            raise UsageError(f"--steps must be above 0, not {steps}")
        self.mapping = mapping.to(device).eval().float().computing_in(torch.float32)
        self.device, self.method, self.steps = device, method, steps
        self.sources = {kind: require(of, Explainable, "explained") for kind, of in mapping.sources.items()}
        self.cut_rows = 0
        found = next(
            ((i, target) for i, target in enumerate(mapping.targets) if isinstance(target, Attributable)), None
        )
        if found is None:
            raise UsageError(f"answers such as labels can be explained; {mapping.arrow} gives none")
        self.port, self.target = found

    def read(self, table: Table) -> Rows:
        """The rows of a table that can be read; the faults of the others are in `faults`."""
        bound = bind_to(self.mapping.arrow, table, answers=False)
        return read_rows(bound, table, self.mapping.sources, self.mapping.targets, answers=False)

    def examples(self, rows: Rows) -> list[Example]:
        """Rows as examples that know where their tokens stand."""
        return list(asking(self.mapping, self._encoded(rows)))

    def _encoded(self, rows: Rows) -> Encoded:
        mapping = self.mapping
        return encode(mapping.arrow, rows, mapping.sources, mapping.config.max_tokens, "cut", aligned=True)

    def explain(self, rows: Rows) -> Iterator[Explanation]:
        """One explanation for each row, in order; so many rows at a time that few are held."""
        self.cut_rows = 0
        for at in range(0, len(rows), ROWS_AT_ONCE):
            yield from self._explained(rows.select(np.arange(at, min(at + ROWS_AT_ONCE, len(rows)))))

    def _explained(self, rows: Rows) -> Iterator[Explanation]:
        encoded = self._encoded(rows)
        self.cut_rows += len(encoded.long)
        examples = list(asking(self.mapping, encoded))
        outputs = self.outputs(examples)
        told = self.told(outputs, outputs)
        blank = self.told(self.outputs([self.blank(example) for example in examples]), outputs)
        weights = self.weights(examples, outputs)
        answers = self.target.decode(outputs)
        for row, example in enumerate(examples):
            gap = None
            if self.method == "integrated":
                gap = float(weights[row].sum() - (told[row] - blank[row]))
            values = [column[row] for column in rows.sources]
            yield Explanation(
                answers[row],
                self._said(answers[row]),
                self._parts(example, weights[row], values),
                self.method,
                self.target.score_unit,
                float(told[row]),
                float(blank[row]),
                gap,
            )

    def _said(self, answer: dict[str, Any]) -> str:
        probability = f", {answer['probability']:.2f}" if "probability" in answer else ""
        return f"{self.target.brief(answer[self.target.kind])}{probability}"

    def outputs(self, examples: Sequence[Example]) -> Tensor:
        """What the model says of each example, (n, …), on the CPU."""
        (found,) = row_outputs(self.mapping, _numbered(examples), len(examples), [self.port], self.device)
        return found

    def told(self, outputs: Tensor, answered: Tensor) -> Floats:
        """How strongly `outputs` (n, …) say the answers of `answered` (n, …): (n,)."""
        found: Floats = self.target.answer_score(outputs, answered).double().numpy()
        return found

    def weights(self, examples: Sequence[Example], outputs: Tensor) -> list[NDArray[np.float32]]:
        """The weight of every token of every example, [(t,)], by the chosen method; 0 in the frame for occlusion."""
        if self.method == "occlusion":
            return self._occluded(examples, outputs)
        if self.method == "integrated":
            groups = range(0, len(examples), EXAMPLES_IN_STEPS)
            return [w for at in groups for w in self._integrated(examples[at : at + EXAMPLES_IN_STEPS], outputs[at:])]
        found: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(examples)
        for batch in batches(_numbered(examples), TOKENS_WITH_GRADIENT):
            moved = batch.to(self.device)
            answered = outputs[torch.from_numpy(batch.rows)].to(self.device)
            x = self._embedded(moved)
            with Relevance() if self.method == "relevance" else nullcontext():
                tokens = (x * self._gradient(moved, x, answered)).sum(-1)
            flat = tokens.flatten().float().cpu().numpy()
            for row, start, length in zip(batch.rows, batch.starts.tolist(), batch.lengths.tolist(), strict=True):
                found[int(row)] = flat[start : start + length]
        return found

    def _integrated(self, examples: Sequence[Example], outputs: Tensor) -> list[NDArray[np.float32]]:
        """Every example once for each step on the way from nothing to what it is, all packed together."""
        places, shares = np.polynomial.legendre.leggauss(self.steps)
        places, shares = (places + 1) / 2, shares / 2
        found = [np.zeros(sum(map(len, example.pieces)), np.float32) for example in examples]
        blanks = [self.blank(example) for example in examples]
        copies = [
            Example(example.pieces, example.answers, at * self.steps + step)
            for at, example in enumerate(examples)
            for step in range(self.steps)
        ]
        for batch in batches(copies, TOKENS_WITH_GRADIENT):
            moved, of, step = batch.to(self.device), batch.rows // self.steps, batch.rows % self.steps
            x = self._embedded(moved)
            base = self._embedded(_in_place(moved, [blanks[int(at)] for at in of]))
            along = torch.from_numpy(np.append(places[step], 0)).to(x)[moved.owner][..., None]
            gradient = self._gradient(moved, base + along * (x - base), outputs[torch.from_numpy(of)].to(self.device))
            flat = ((x - base) * gradient).sum(-1).flatten().float().cpu().numpy()
            ends = batch.starts + batch.lengths
            for at, share, start, end in zip(of, shares[step], batch.starts.tolist(), ends.tolist(), strict=True):
                found[int(at)] += np.float32(share) * flat[start:end]
        return found

    def _embedded(self, batch: Batch) -> Tensor:
        with torch.no_grad():
            return self.mapping.embed(batch)

    def _gradient(self, batch: Batch, x: Tensor, answered: Tensor) -> Tensor:
        """Of the sum of what is told; no example sees another, so each token has the gradient of its own."""
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            output = self.mapping.read(self.mapping.hidden(batch, x), batch, self.port)
            told = self.target.answer_score(output.float(), answered)
            (found,) = torch.autograd.grad(told.sum(), x)
        return found

    def _occluded(self, examples: Sequence[Example], outputs: Tensor) -> list[NDArray[np.float32]]:
        """By how much less is told when a part is left out, on the first token of the part."""
        asked = [(at, part) for at, example in enumerate(examples) for part in parts_of(example)]
        changed = self.outputs([self.without(examples[at], [part]) for at, part in asked])
        of = torch.tensor([at for at, _ in asked])
        drops = self.told(outputs, outputs)[of.numpy()] - self.told(changed, outputs[of])
        found = [np.zeros(sum(map(len, example.pieces)), np.float32) for example in examples]
        for (at, part), drop in zip(asked, drops.tolist(), strict=True):
            found[at][part[0]] = drop
        return found

    def blank(self, example: Example) -> Example:
        """An example in which nothing stands."""
        return Example(tuple(self.sources[p.kind].blank(p) for p in example.pieces), example.answers, example.row)

    def without(self, example: Example, parts: Sequence[Ints]) -> Example:
        """An example without some of its parts."""
        left_out = np.concatenate([np.zeros(0, np.int64), *parts])
        pieces, first = [], 0
        for piece in example.pieces:
            own = left_out[(left_out >= first) & (left_out < first + len(piece))] - first
            pieces.append(self.sources[piece.kind].without(piece, own) if len(own) else piece)
            first += len(piece)
        return Example(tuple(pieces), example.answers, example.row)

    def _parts(self, example: Example, weights: NDArray[np.float32], values: Sequence[Any]) -> list[Part]:
        firsts = np.cumsum([0, *map(len, example.pieces)])
        found = []
        for tokens in parts_of(example):
            port = int(np.searchsorted(firsts, tokens[0], side="right")) - 1
            piece = example.pieces[port]
            assert piece.alignment is not None
            region = piece.alignment.to_raw(tokens - firsts[port])
            if region is not None:
                text = self.sources[piece.kind].excerpt(values[port], region)
                found.append(Part(text, region.tolist(), float(weights[tokens].sum()), port))
        return found


def parts_of(example: Example) -> list[Ints]:
    """The parts of an example, each the places of its tokens counted from the first one of the example."""
    found: list[Ints] = []
    first = 0
    for piece in example.pieces:
        units = np.arange(len(piece)) if piece.units is None else piece.units
        inner = np.flatnonzero(~piece.special)
        if len(inner):
            breaks = np.flatnonzero(np.diff(units[inner])) + 1
            found += [first + part for part in np.split(inner, breaks)]
        first += len(piece)
    return found


def _numbered(examples: Sequence[Example]) -> list[Example]:
    """Examples by their place in the list."""
    return [Example(example.pieces, example.answers, at) for at, example in enumerate(examples)]


def _in_place(batch: Batch, examples: list[Example]) -> Batch:
    """The batch with the tokens of other examples of the same lengths."""
    tokens = {kind: values.clone() for kind, values in batch.tokens.items()}
    taken = dict.fromkeys(tokens, 0)
    for example in examples:
        for piece in example.pieces:
            at = taken[piece.kind]
            tokens[piece.kind][at : at + len(piece)] = torch.from_numpy(piece.tokens)
            taken[piece.kind] = at + len(piece)
    return replace(batch, tokens=tokens)
