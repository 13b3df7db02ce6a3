"""A model that is served: its weights once in memory, and an answerer for each operation, which all use them."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mapsto import kinds
from mapsto.data.table import Table, read_table
from mapsto.errors import CheckpointError, UsageError
from mapsto.explain.attribution import DEFAULT_METHOD, Explainer, Explanation
from mapsto.inference.embedder import Embedder
from mapsto.inference.find import Finder, SearchSettings, make_finder
from mapsto.inference.output_files import answer_files, are_files
from mapsto.inference.predictor import Predictor, Prepared, fault_answers
from mapsto.inference.row_outputs import generated_ports
from mapsto.metrics.intervals import to_json
from mapsto.model.mapping import Mapping
from mapsto.task.arrow import Arrow, Port
from mapsto.task.capabilities import FileBacked
from mapsto.task.generation import Decoding
from mapsto.task.source_capabilities import Explainable, Tokenized
from mapsto.task.target_capabilities import Attributable, Voiced

# How many settings of decoding and limits a model keeps prepared.
MAX_SETTINGS = 64
# A row is explained by about so many passes, and an answer is generated in about so many, as one pass predicts a row.
EXPLAIN_PASSES, GENERATE_PASSES = 6, 16
WARM_UP_ROWS = 2


class Answerer(Protocol):
    """An object that answers rows in two steps: one reads and encodes them, the other computes."""

    def prepare(self, part: Table, bound: Arrow) -> Prepared:
        """Read and encode the rows of a table. bound: the arrow bound to its columns."""
        ...

    def answer_prepared(self, prepared: Prepared) -> list[dict[str, Any]]:
        """Return one answer (dict) for each row of the table; {"error": reason} for a row that cannot be answered."""
        ...


class ExplainAnswerer:
    """An answerer whose answer to a row is the explanation of the model's answer to it. mapping: in fp32, and no one else's."""

    def __init__(self, mapping: Mapping, device: torch.device, method: str) -> None:
        self.explainer = Explainer(mapping, device, method)

    def prepare(self, part: Table, bound: Arrow) -> Prepared:
        rows = self.explainer.read(part)
        return Prepared(fault_answers(part, rows), rows, [], 0)

    def answer_prepared(self, prepared: Prepared) -> list[dict[str, Any]]:
        answers = prepared.answers
        if len(prepared.rows):
            for row, explanation in zip(prepared.rows.indices, self.explainer.explain(prepared.rows), strict=True):
                answers[int(row)] = describe_explanation(explanation)
        return answers


class FileAnswerer:
    """An answerer whose answers are files, such as pictures and recordings, as {"type": …, "base64": …}. predictor: the model."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    def prepare(self, part: Table, bound: Arrow) -> Prepared:
        return self.predictor.prepare(part, bound)

    def answer_prepared(self, prepared: Prepared) -> list[dict[str, Any]]:
        answers = self.predictor.answer_prepared(prepared)
        for answer in answers:
            for file in answer_files(self.predictor.arrow, answer):
                file.replace({"type": file.media_type, "base64": base64.b64encode(file.content).decode()})
        return answers


def describe_explanation(explanation: Explanation) -> dict[str, Any]:
    """Return an explanation as a JSON object: the answer, and the parts of the input with their weights."""
    fields: dict[str, Any] = to_json(
        {
            "answer": explanation.answer,
            "summary": explanation.summary,
            "method": explanation.method,
            "score": explanation.score,
            "score_name": explanation.score_name,
            "parts": explanation.parts,
        }
    )
    return fields


@dataclass(frozen=True)
class Settings:
    """The settings of the answers to one request. Fields as for `Predictor` and `Embedder`, and the method of explanations."""

    min_confidence: float = 0.0
    reject: float = 0.0
    decoding: Decoding | None = None
    pooling: str | None = None
    method: str = DEFAULT_METHOD


class ServedModel:
    """A model in memory.

    name: by which requests name it. mapping: the model in fp32, which this object takes over.
    """

    def __init__(self, name: str, mapping: Mapping, device: str = "auto", precision: str = "auto") -> None:
        self.name = name
        self.fit_record = mapping.fit_record
        # Explanations are computed in fp32; everything else by the predictor's copy.
        self._source_mapping: Mapping | None = mapping if can_explain(mapping) else None
        self.predictor = Predictor(mapping, device, precision)
        self._answerers: dict[str, Answerer] = {}
        self._bound: dict[str, Arrow] = {}
        self.finder: Finder | None = None
        self.num_bytes = sum(parameter.nbytes for parameter in self.predictor.mapping.parameters())
        if self._source_mapping is not None:
            self.num_bytes += sum(parameter.nbytes for parameter in mapping.parameters())

    @property
    def arrow(self) -> Arrow:
        """The arrow of the model, such as `text -> label`."""
        return self.predictor.arrow

    def bind(self, answerer: Any, operation: str, columns: dict[str, list[Any]]) -> Arrow:
        """Return the arrow of an answerer bound to the columns of rows; it is the same for all rows with these columns.

        Raises UsageError if a column fits no source.
        """
        key = f"{operation} {tuple(columns)}"
        if key not in self._bound:
            table = Table(columns, [("the request", row + 1) for row in range(len(next(iter(columns.values()))))], [])
            binder = answerer if isinstance(answerer, Predictor) else self.predictor
            self._bound[key] = binder.bind(table)
        return self._bound[key]

    def ports_of(self, operation: str, row: Any) -> list[tuple[str, Port]]:
        """Return the columns that the rows of a request have, each with the source that it is read as.

        row: the first of the rows; where one of the two values of a match is embedded, its columns say which.
        """
        if operation != "embed" or not self.arrow.symmetric:
            return self.ports
        sides = [(port.column or port.kind, port) for port in self.arrow.sources[:2]]
        return [next((side for side in sides if isinstance(row, dict) and side[0] in row), sides[0])]

    @cached_property
    def ports(self) -> list[tuple[str, Port]]:
        """The columns that a row has, each with the source that it is read as."""
        arrow = self.arrow.pair if self.arrow.symmetric else self.arrow
        if self.arrow.is_grouped:  # both sides have the name of one column
            return [(f"{port.kind} {number}", port) for number, port in enumerate(arrow.sources, 1)]
        return [(port.column or port.kind, port) for port in arrow.sources]

    @cached_property
    def abilities(self) -> dict[str, bool]:
        """The operations, and whether the model can do each."""
        mapping = self.predictor.mapping
        is_generated = len(self.arrow.targets) == 1 and bool(generated_ports(mapping, [0]))
        reads_text = issubclass(kinds.source(self.arrow.sources[0].kind), Tokenized)
        targets = kinds.answering(self.arrow)
        embeds = not mapping.config.is_linear
        is_single = len(self.arrow.sources) == 1 or self.arrow.symmetric
        return {
            # A picture of which nothing is hidden has no hidden part to be answered.
            "predict": bool(self.arrow.targets) and not (self.arrow.corrupted and self.answers_files),
            "embed": embeds,
            "explain": self._source_mapping is not None,
            "generate": is_generated,
            "chat": is_generated and self.arrow.is_prompted,
            "speak": len(targets) == 1 and is_single and issubclass(targets[0], Voiced),
            "rank": embeds and reads_text and is_single,
        }

    @property
    def answers_files(self) -> bool:
        """Return whether an answer is a file, such as a picture."""
        return any(are_files(self.arrow))

    def describe(self) -> dict[str, Any]:
        """Return what clients need to know of the model, as a JSON object."""
        return {
            "name": self.name,
            "arrow": str(self.arrow),
            "columns": [{"name": column, "kind": port.kind} for column, port in self.ports],
            "answers": [port.column or port.kind for port in self.arrow.targets],
            "operations": [name for name, is_able in self.abilities.items() if is_able],
            "family": self.predictor.mapping.config.family,
            "bytes": self.num_bytes,
        }

    def require(self, operation: str) -> None:
        """Raise UsageError if the model cannot do an operation."""
        if not self.abilities[operation]:
            able = ", ".join(name for name, is_able in self.abilities.items() if is_able)
            raise UsageError(f"the model {self.name!r} ({self.arrow}) cannot {operation}; it can {able}")

    def answerer(self, operation: str, settings: Settings) -> Answerer:
        """Return the answerer of an operation: "predict", "embed" or "explain". Requests with equal settings share it.

        Raises UsageError if the model cannot do it, or for settings that it cannot follow.
        """
        key = f"{operation} {settings}"
        if key not in self._answerers:
            if len(self._answerers) >= MAX_SETTINGS:
                self._answerers.pop(next(iter(self._answerers)))
            self._answerers[key] = self._make_answerer(operation, settings)
        return self._answerers[key]

    def _make_answerer(self, operation: str, settings: Settings) -> Answerer:
        self.require(operation)
        make: dict[str, Callable[[], Answerer]] = {
            "predict": lambda: self._make_predictor(settings),
            "embed": lambda: Embedder.sharing(self.predictor, settings.pooling),
            "explain": lambda: ExplainAnswerer(self._explained(), self.predictor.device, settings.method),
        }
        return make[operation]()

    def _make_predictor(self, settings: Settings) -> Answerer:
        predictor = self.predictor.with_settings(settings.min_confidence, settings.reject, settings.decoding)
        return FileAnswerer(predictor) if self.answers_files else predictor

    def _explained(self) -> Mapping:
        assert self._source_mapping is not None
        return self._source_mapping

    def passes(self, operation: str) -> int:
        """Return about how many times as much a row costs as one forward pass over it."""
        if operation == "explain":
            return EXPLAIN_PASSES
        return GENERATE_PASSES if operation == "predict" and self.abilities["generate"] else 1

    def index(self, among: Path) -> None:
        """Embed the texts of a table, among which `/find` searches. Raises UsageError if the model or the table does not fit."""
        self.require("rank")
        table = read_table(among)
        self.finder = make_finder(self.predictor.mapping, self.device, table, SearchSettings(None))

    def warm_up(self) -> None:
        """Answer a few made rows, so that nothing is loaded or compiled at the first request.

        Raises CheckpointError if the model cannot answer them.
        """
        samples = {column: kinds.source(port.kind).samples() for column, port in self.ports}
        count = min(WARM_UP_ROWS, *map(len, samples.values()))
        rows = [{column: cells[row] for column, cells in samples.items()} for row in range(count)]
        operation = "predict" if self.abilities["predict"] else "embed"
        if not self.abilities[operation]:
            return
        answerer, table = self.answerer(operation, Settings()), read_table(rows)
        answers = answerer.answer_prepared(answerer.prepare(table, self.bind(answerer, operation, dict(table.data))))
        # Where hidden parts are restored, a whole value has no answer. The graph of an exported file reads pictures of one shape.
        has_shape = not self.predictor.mapping.has_weights and any(is_file_backed(port) for _, port in self.ports)
        if all("error" in answer for answer in answers) and not (self.arrow.corrupted or has_shape):
            raise CheckpointError(f"the model {self.name!r} answers no row: {answers[0]['error']}")

    @property
    def device(self) -> torch.device:
        """The device on which the model computes."""
        return self.predictor.device


def can_explain(mapping: Mapping) -> bool:
    """Return whether the model has an answer that can be attributed to parts of its input."""
    explainable = all(isinstance(source, Explainable) for source in mapping.sources.values())
    return mapping.has_weights and explainable and any(isinstance(target, Attributable) for target in mapping.targets)


def cosine(queries: Any, documents: Any) -> Any:
    """Return the cosines (q, d) of vectors (q, w) and (d, w)."""
    sides = [np.asarray(side, np.float32) for side in (queries, documents)]
    first, second = (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-12) for side in sides)
    return first @ second.T


def is_file_backed(port: Port) -> bool:
    """Return whether the values of a port are files, such as pictures."""
    return issubclass(kinds.source(port.kind), FileBacked)
