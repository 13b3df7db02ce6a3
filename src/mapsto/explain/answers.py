"""Read the outputs of the explained target port, for each of the ways in which a target answers.

Most targets have one output for each example. An Extracted target has one for each token that it reads, of which a part of the
answer is explained. The answer of a Generated target is generated once and then fixed: its tokens stay behind the source while
the source is changed, and their log-probabilities are the outputs. This costs one forward pass for an answer, as for a label.
Legend of shapes: n examples, k tokens of an answer, r rows, l row length, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mapsto.data.rows import Rows
from mapsto.errors import UsageError, place, shorten
from mapsto.inference.forward import forward_batches, make_questions
from mapsto.inference.generation import generate_answers
from mapsto.inference.row_outputs import row_outputs
from mapsto.model.mapping import Mapping
from mapsto.sequence.batch import Answer, Batch, Example
from mapsto.sequence.piece import Ints, Piece
from mapsto.task.generation import Generated, GeneratedAnswer
from mapsto.task.target_capabilities import Extracted, located_port


def make_reader(mapping: Mapping, port: int, device: torch.device, token: str | int | None) -> AnswerReader:
    """Return the reader for the target of a port. token: the token of generated answers to explain, see GeneratedReader.

    Raises UsageError if a token is named and the port generates no answers.
    """
    target = mapping.targets[port]
    if isinstance(target, Generated):
        return GeneratedReader(mapping, port, device, token)
    if token is not None:
        raise UsageError(f"--token names a token of a generated answer, and {mapping.arrow} generates none")
    return (ExtractedReader if isinstance(target, Extracted) else AnswerReader)(mapping, port, device)


class AnswerReader:
    """A reader of the outputs of a target port with one output for each example."""

    def __init__(self, mapping: Mapping, port: int, device: torch.device) -> None:
        self.mapping, self.port, self.device, self.target = mapping, port, device, mapping.targets[port]

    def fix(self, examples: Sequence[Example]) -> list[Example]:
        """Return the examples in the form in which they are read: with the fixed answer, if answers are generated."""
        return list(examples)

    def ask(self, example: Example, pieces: Sequence[Piece]) -> tuple[Answer | None, ...]:
        """Return what is read of an example after its source pieces have been changed to `pieces`."""
        # The places of what is asked move with the tokens.
        return make_questions(self.mapping, pieces)

    def is_explained(self, example: Example) -> bool:
        """Return whether the example's answer has the part that is to be explained."""
        return True

    def outputs(self, examples: Sequence[Example]) -> Tensor:
        """Return the outputs for examples, (n, …), on the CPU."""
        (outputs,) = row_outputs(self.mapping, renumber(examples), len(examples), [self.port], self.device)
        return outputs

    def read(self, hidden: Tensor, batch: Batch, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        """Return the outputs (n, …) for a batch, with gradient. hidden: (r, l, d). pieces: those of each example."""
        return self.mapping.read(hidden, batch, self.port).float()

    def reference(self, outputs: Tensor, examples: Sequence[Example]) -> Tensor:
        """Return what fixes the explained answer of each example, (n, …): a part of the answer, or by default the outputs."""
        return outputs

    def describe(
        self, rows: Rows, examples: Sequence[Example], outputs: Tensor, reference: Tensor
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Return the decoded answers of rows, and what is explained of each in a few words, with a probability if it has one."""
        answers = self.target.decode(outputs)
        return answers, [self._summary(answer) for answer in answers]

    def _summary(self, answer: dict[str, Any]) -> str:
        """Return a decoded answer in a few words, with its probability if it has one."""
        probability = f", {answer['probability']:.2f}" if "probability" in answer else ""
        return f"{self.target.brief(answer[self.target.kind])}{probability}"


class ExtractedReader(AnswerReader):
    """A reader of an Extracted target, whose outputs are the results of `split`, padded."""

    target: Extracted

    def outputs(self, examples: Sequence[Example]) -> Tensor:
        parts: list[Tensor] = [torch.zeros(0)] * len(examples)
        for batch, hidden in forward_batches(self.mapping, renumber(examples), self.device):
            pieces = [examples[row].pieces for row in batch.rows.tolist()]
            if batch.answers[self.port] is not None:
                output = self.mapping.read(hidden, batch, self.port).float().cpu()
                for row, part in zip(batch.rows.tolist(), self.target.split(output, pieces), strict=True):
                    parts[row] = part
        # Nothing is read of an example without words, as when all are removed.
        shape = next((part.shape[1:] for part in parts if part.ndim > 1), (self.target.width,))
        return self.target.pad([part if part.ndim > 1 else torch.zeros(0, *shape) for part in parts])

    def read(self, hidden: Tensor, batch: Batch, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        return self.target.pad(self.target.split(super().read(hidden, batch, pieces), pieces))

    def reference(self, outputs: Tensor, examples: Sequence[Example]) -> Tensor:
        return self.target.main_part(outputs)

    def describe(
        self, rows: Rows, examples: Sequence[Example], outputs: Tensor, reference: Tensor
    ) -> tuple[list[dict[str, Any]], list[str]]:
        target = self.target
        values = rows.sources[located_port(target, [port.kind for port in rows.arrow.sources])]
        answers = target.decode(target.pad([target.compose([part]) for part in target.unpad(outputs)]))
        for answer, value in zip(answers, values, strict=True):
            target.add_excerpts(answer, value)
        return answers, [target.describe_part(part, value) for part, value in zip(reference, values, strict=True)]


class GeneratedReader(AnswerReader):
    """A reader of a Generated target: its outputs are the log-probabilities (n, k) of the tokens of fixed answers, padded with 0.

    token: the token to explain, counted from 1; or a part of the answer as text, of which the first occurrence is explained; or
        None for the whole answer.
    """

    target: Generated

    def __init__(self, mapping: Mapping, port: int, device: torch.device, token: str | int | None = None) -> None:
        super().__init__(mapping, port, device)
        self.token = token

    def fix(self, examples: Sequence[Example]) -> list[Example]:
        """Generate the answer of each example greedily, and put its tokens behind the source in place of the question."""
        generated = dict(generate_answers(self.mapping, renumber(examples), self.port, self.device))
        num_ports = len(self.mapping.targets)
        fixed = []
        for index, example in enumerate(examples):
            answers: list[Answer | None] = [None] * num_ports
            answers[self.port] = self.target.encode_generated(generated[index][0])
            fixed.append(replace(example, answers=tuple(answers)))
        return fixed

    def ask(self, example: Example, pieces: Sequence[Piece]) -> tuple[Answer | None, ...]:
        # The answer counts its places from its own first token.
        return example.answers

    def is_explained(self, example: Example) -> bool:
        return bool(len(self._explained_tokens(example)))

    def outputs(self, examples: Sequence[Example]) -> Tensor:
        parts: list[Tensor] = [torch.zeros(0)] * len(examples)
        for batch, hidden in forward_batches(self.mapping, renumber(examples), self.device):
            for row, part in zip(batch.rows.tolist(), self._split(hidden, batch), strict=True):
                parts[row] = part.cpu()
        return pad_sequence(parts, batch_first=True)

    def read(self, hidden: Tensor, batch: Batch, pieces: Sequence[Sequence[Piece]]) -> Tensor:
        return pad_sequence(self._split(hidden, batch), batch_first=True)

    def _split(self, hidden: Tensor, batch: Batch) -> list[Tensor]:
        """Return the log-probabilities of the tokens of each example's answer, (k,) with k of its own."""
        answers = batch.answers[self.port]
        assert answers is not None
        output = self.mapping.read(hidden, batch, self.port).float()
        log_probabilities = self.target.log_probabilities(output, answers.values)
        return list(torch.split(log_probabilities, torch.bincount(answers.examples).tolist()))

    def reference(self, outputs: Tensor, examples: Sequence[Example]) -> Tensor:
        """Return 1 for the tokens of each answer that are explained, and 0 for the others, (n, k)."""
        reference = torch.zeros(outputs.shape)
        for row, example in zip(reference, examples, strict=True):
            row[torch.from_numpy(self._explained_tokens(example))] = 1
        return reference

    def _explained_tokens(self, example: Example) -> Ints:
        """Return the indices of the tokens of an example's answer that are explained; none if it does not have them."""
        count, token = len(self._values(example)), self.token
        if token is None:
            return np.arange(count)
        if isinstance(token, int):
            return np.arange(count)[token - 1 : token] if token > 0 else np.zeros(0, np.int64)
        tokens = self._generated(example).tokens
        start = str(self.target.to_value(tokens)).find(token)
        # The end of each token is the length of the text up to it, in which an unfinished character is not counted.
        ends = [len(str(self.target.to_value(tokens[: i + 1])).rstrip("\ufffd")) for i in range(len(tokens))]
        starts = [0, *ends[:-1]]
        is_inside = [start >= 0 and a < start + len(token) and b > start for a, b in zip(starts, ends, strict=True)]
        return np.flatnonzero(is_inside)

    def _values(self, example: Example) -> Ints:
        """Return the tokens of an example's fixed answer, with the end token if it ended."""
        answer = example.answers[self.port]
        assert answer is not None
        values: Ints = answer.values
        return values

    def _generated(self, example: Example, log_probability: float = 0.0) -> GeneratedAnswer:
        """Return an example's fixed answer as it was generated. log_probability: that of all its tokens."""
        values = self._values(example).tolist()
        is_ended = values[-1] in self.target.ends
        return GeneratedAnswer(tuple(values[:-1] if is_ended else values), log_probability, is_ended)

    def describe(
        self, rows: Rows, examples: Sequence[Example], outputs: Tensor, reference: Tensor
    ) -> tuple[list[dict[str, Any]], list[str]]:
        """Describe answers. Raises UsageError for a row whose answer does not have the token to explain."""
        for index, example in enumerate(examples):
            if not self.is_explained(example):
                raise self._missing_token(example, place(*rows.origin(index)))
        generated = [self._generated(*pair) for pair in zip(examples, outputs.sum(1).tolist(), strict=True)]
        answers = self.target.decode(self.target.pack(generated))
        if self.token is None:
            return answers, [self._summary(answer) for answer in answers]
        summaries = []
        for example, answer in zip(examples, answers, strict=True):
            tokens = self._values(example)[self._explained_tokens(example)]
            summaries.append(f"{self._spell(tokens)!r} in {answer[self.target.kind]!r}")
        return answers, summaries

    def _summary(self, answer: dict[str, Any]) -> str:
        return f"{answer[self.target.kind]} · mean token probability {answer['probability']:.2f}"

    def _missing_token(self, example: Example, location: str) -> UsageError:
        """Return the error for an answer without the token to explain. location: the row in words."""
        text = shorten(str(self.target.to_value(self._generated(example).tokens)))
        count = len(self._values(example))
        return UsageError(
            f"--token {self.token!r}: the answer to {location} is {text!r}; name a part of it, or a number from 1 to {count}"
        )

    def _spell(self, tokens: Ints) -> str:
        """Return explained tokens as text; the end token is "(end)"."""
        if len(tokens) and int(tokens[-1]) in self.target.ends:
            return "(end)"
        return str(self.target.to_value(tokens.tolist()))


def renumber(examples: Sequence[Example]) -> list[Example]:
    """Return copies of the examples whose `row` is the index in `examples`, so that batches tell which example is which."""
    return [Example(example.pieces, example.answers, index) for index, example in enumerate(examples)]
