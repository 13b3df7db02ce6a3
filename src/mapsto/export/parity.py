"""Parity of an exported graph with the model, measured on the user's rows: outputs as numbers, and answers as users see them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mapsto.data.encoding import encode_sides, encode_to_answer
from mapsto.data.rows import bind_to, load_rows
from mapsto.data.table import Table
from mapsto.errors import DataError
from mapsto.inference.embedder import Embedder
from mapsto.inference.forward import TOKENS_PER_BATCH, question_examples
from mapsto.inference.predictor import Predictor, bind_sources
from mapsto.metrics.intervals import Score, mean_score, to_json, with_interval
from mapsto.model.mapping import Mapping
from mapsto.pretrained.exported.interface import (
    batch_inputs,
    compute_outputs,
    source_examples,
    to_arrays,
    writes_answers,
)
from mapsto.pretrained.exported.opening import largest_difference
from mapsto.pretrained.exported.session import Session
from mapsto.pretrained.exported.session_mapping import SessionMapping
from mapsto.sequence.batch import Example
from mapsto.sequence.packing import make_batches
from mapsto.task.generation import Decoding, Generated
from mapsto.task.target import Target

# Numbers are equal answers up to this difference: of a score, and of a vector's cosine from 1.
NUMBER_TOLERANCE, COSINE_TOLERANCE = 0.01, 0.01
# Answers that are written token by token are compared up to this length.
MAX_WRITTEN_TOKENS = 64


@dataclass(frozen=True)
class Parity:
    """The parity of a graph with its model on some rows.

    difference: largest difference of an output (see `largest_difference`). output: the name of that output.
    agreement: share of the rows with equal answers, with its interval.
    probability_change: mean absolute change of the probability of the model's answer; None for answers without one.
    """

    difference: float
    output: str
    agreement: Score
    probability_change: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the parity in JSON types."""
        return {
            "largest_difference": self.difference,
            "output": self.output,
            "equal_answers": to_json(self.agreement),
            "mean_probability_change": self.probability_change,
        }


def make_examples(mapping: Mapping, table: Table) -> list[Example]:
    """Return the examples of the rows of a table with questions for all target ports, as prediction makes them.

    A matching arrow gives an example for each value. Raises DataError if no row can be read.
    """
    has_answers = bool(mapping.targets)
    arrow = bind_sources(mapping.arrow, table) if has_answers else bind_to(mapping.arrow, table, answers=False)
    rows = load_rows(arrow, table, answers=False)
    if not len(rows):
        first = next(iter([*table.rejected, *rows.faults]), None)
        reason = "" if first is None else f"; the first: {first}"
        raise DataError(f"none of the rows to check the export on can be read{reason}")
    if arrow.symmetric:
        assert mapping.config.sentence is not None
        encoded = encode_sides(rows, mapping.sources, mapping.config.sentence)
        sides = [
            (piece, row) for pieces, row in zip(encoded.pieces, encoded.row_indices, strict=True) for piece in pieces
        ]
        return [Example((piece,), (), int(row)) for piece, row in sides]
    encoded = encode_to_answer(rows, mapping.sources, mapping.targets, mapping.config.max_tokens)
    return list(question_examples(mapping, encoded))


def measure_parity(mapping: Mapping, exported: SessionMapping, table: Table) -> Parity:
    """Return the parity of a graph with its mapping on the rows of a table.

    mapping: in fp32 on the CPU. exported: the same mapping with a session of the graph as its network.
    """
    examples = make_examples(mapping, table)
    differences = list(_output_differences(mapping, exported.session, examples))
    if writes_answers(mapping):
        differences += _step_differences(mapping, exported, examples)
    pairs = _answer_pairs(mapping, exported, table, asks=bool(mapping.targets))
    if not pairs:
        # Nothing is asked of these rows, such as of texts without a mask.
        pairs = _answer_pairs(mapping, exported, table, asks=False)
    equal = np.array([_is_equal(mapping.targets, *pair) for pair in pairs], np.float64)
    changes = [change for pair in pairs for change in _probability_changes(*pair)]
    return Parity(*max(differences), with_interval(mean_score, equal), float(np.mean(changes)) if changes else None)


def _output_differences(mapping: Mapping, session: Session, examples: Sequence[Example]) -> Iterator[tuple[float, str]]:
    """Yield for each packed batch the largest difference of an output of the graph, and the output's name."""
    for batch in make_batches(source_examples(mapping, examples), TOKENS_PER_BATCH):
        inputs = batch_inputs(mapping, batch)
        with torch.inference_mode():
            expected = to_arrays(compute_outputs(mapping, inputs))
        yield largest_difference(session.run(to_arrays(inputs)), expected)


def _step_differences(
    mapping: Mapping, exported: SessionMapping, examples: Sequence[Example]
) -> Iterator[tuple[float, str]]:
    """Yield for each packed batch the largest difference of the logits of the first two tokens that the model writes."""
    kind = mapping.targets[0].kind
    for batch in make_batches(examples, TOKENS_PER_BATCH):
        with torch.inference_mode():
            (states, cache), (exported_states, exported_cache) = (
                model.start_answers(batch, 0) for model in (mapping, exported)
            )
            first = mapping.next_logits(states, 0)
            tokens = first.argmax(-1)
            second = mapping.next_logits(mapping.next_states(tokens, kind, cache), 0)
            exported_second = exported.next_states(tokens, kind, exported_cache)
        for expected, logits in ((first, exported_states), (second, exported_second)):
            yield largest_difference(to_arrays({kind: logits}), to_arrays({kind: expected}))


def _answer_pairs(
    mapping: Mapping, exported: Mapping, table: Table, asks: bool
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the answers of both mappings in fp32 to each row of a table that the first one answers.

    asks: whether the answers are those of the targets, of which at most MAX_WRITTEN_TOKENS tokens are written; else vectors.
    """
    answers = []
    for model in (mapping, exported):
        limits = [target.longest for target in mapping.targets if isinstance(target, Generated)]
        decoding = Decoding(longest=min(MAX_WRITTEN_TOKENS, *limits)) if limits else None
        predictor = Predictor(model, "cpu", "fp32", decoding=decoding) if asks else Embedder(model, "cpu", "fp32")
        answers.append(predictor.answer(table))
    return [pair for pair in zip(*answers, strict=True) if "error" not in pair[0]]


def _is_equal(targets: Sequence[Target], expected: dict[str, Any], answer: dict[str, Any]) -> bool:
    """Return whether two answers to a row are equal, at all ports of the arrow."""
    if "error" in answer:
        return False
    if len(targets) > 1:
        ports = [name for name, value in expected.items() if isinstance(value, dict)]
        return all(
            _is_equal([target], expected[port], answer[port]) for target, port in zip(targets, ports, strict=True)
        )
    name = targets[0].kind if targets and targets[0].kind in expected else next(iter(expected))
    first, second = expected[name], answer[name]
    if _is_number(first):
        return bool(abs(first - second) <= NUMBER_TOLERANCE * max(1.0, abs(first)))
    if isinstance(first, list | tuple) and first and all(map(_is_number, first)):
        norms = np.linalg.norm(first) * np.linalg.norm(second)
        return bool(np.dot(first, second) >= (1 - COSINE_TOLERANCE) * norms)
    return _spell(targets, first) == _spell(targets, second)


def _spell(targets: Sequence[Target], value: Any) -> str:
    """Return an answer as a string by which answers are compared, without the probabilities of its parts."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return str([{key: part for key, part in entry.items() if not isinstance(part, float)} for entry in value])
    return str(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _probability_changes(expected: dict[str, Any], answer: dict[str, Any]) -> Iterator[float]:
    """Yield by how much the probability of the expected answer differs, for each port whose answers have one."""
    if "probability" in expected and "probability" in answer:
        scores = answer.get("scores", {})
        label = next((value for value in expected.values() if isinstance(value, str) and value in scores), None)
        yield abs(expected["probability"] - (answer["probability"] if label is None else scores[label]))
    for name, value in expected.items():
        if isinstance(value, dict) and name != "scores" and isinstance(answer.get(name), dict):
            yield from _probability_changes(value, answer[name])
