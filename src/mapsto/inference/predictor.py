"""Rows in, answers out, in order: the same packer as in training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mapsto.data.encoding import EncodedRows, encode_rows, need_alignment
from mapsto.data.rows import bind_to, load_rows
from mapsto.data.table import Table
from mapsto.device import choose_device, choose_precision
from mapsto.errors import BadCell, UsageError
from mapsto.inference.forward import ahead, asking, made, row_outputs, rows_at_once, told_by
from mapsto.inference.reconstruct import completed
from mapsto.model.mapping import Mapping
from mapsto.options import require_choice
from mapsto.sequence.batch import Example
from mapsto.sequence.piece import Ints
from mapsto.task.arrow import Arrow
from mapsto.task.capabilities import Classes, Located, Reconstruction
from mapsto.task.source import Source


def bound_parts(bound_to: Callable[[Table], Arrow], parts: Iterable[Table]) -> Iterator[tuple[Table, Arrow | None]]:
    """Each table with the arrow as it is bound to the first one that has rows. Raises UsageError."""
    bound: Arrow | None = None
    for part in parts:
        if bound is None and len(part):
            bound = bound_to(part)
        yield part, bound


def bind_answering(arrow: Arrow, table: Table) -> Arrow:
    """The arrow with the columns of a table of which it shall answer the rows. Raises UsageError."""
    if not arrow.targets:
        raise UsageError("this model has no answers yet; fit it to a table with labels, or use `embed`")
    return bind_to(arrow, table, answers=False)


@dataclass(frozen=True)
class Asked:
    """Rows ready to be answered: `answers` (n,), so far those of rows that cannot be read; of the others the places `rows` (m,)
    and `examples`, of which `cut` rows lost something."""

    answers: list[dict[str, Any]]
    rows: Ints
    examples: list[Example]
    cut: int


class Predictor:
    """A mapping made ready to answer: on its device, in its precision, never trained again.

    long: what happens to rows longer than the model takes, "cut", "window" or "error"; `cut_rows` counts those that were cut.
    min_confidence: an answer whose probability is lower is withheld: it is None, beside its probability.
    """

    def __init__(
        self,
        mapping: Mapping,
        device: str = "auto",
        precision: str = "auto",
        long: str = "cut",
        min_confidence: float = 0.0,
    ) -> None:
        require_choice("long", long)
        if not 0 <= min_confidence <= 1:
            raise UsageError(f"--min-confidence is a probability from 0 to 1, not {min_confidence}")
        if min_confidence and not any(isinstance(target, Classes) for target in mapping.targets):
            raise UsageError(f"--min-confidence is for answers with a probability; {mapping.arrow} gives none")
        self.min_confidence = min_confidence
        self.long = "cut" if long == "auto" else long
        self.cut_rows = 0
        self.device = choose_device(device)
        dtype = choose_precision(precision, self.device)
        self.mapping = copy.deepcopy(mapping).to(self.device).eval().computing_in(dtype)
        self.mapping.transformer.pack(dtype)

    @property
    def arrow(self) -> Arrow:
        """What the mapping reads and answers."""
        return self.mapping.arrow

    @property
    def longest(self) -> int:
        """How many tokens of an example are read."""
        return self.mapping.config.max_tokens

    def bound(self, table: Table) -> Arrow:
        """The arrow with the columns of a table. Raises UsageError."""
        return bind_answering(self.arrow, table)

    def answer_parts(self, parts: Iterable[Table]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
        """Each table with one answer for every row of it; the first that has rows decides which columns are read."""
        for part, bound in bound_parts(self.bound, parts):
            yield part, list(self.answer(part, bound))

    def answer(self, table: Table, bound: Arrow | None = None) -> Iterator[dict[str, Any]]:
        """One answer a row, in order; a row that cannot be read gets {"error": reason} in its place.

        bound: the arrow as it was bound to a table of the same columns.
        """
        answers = self._answers(table, bound or self.bound(table)) if len(table) else iter(())
        for place in table.in_order():
            yield next(answers) if isinstance(place, int) else {"error": f"row {place.row}: {place.reason}"}

    def _answers(self, table: Table, bound: Arrow) -> Iterator[dict[str, Any]]:
        """One answer for each row that the table holds."""
        for asked in ahead(
            range(len(table)), rows_at_once(self.mapping), lambda rows: self._asked(table.select(rows), bound)
        ):
            answers = asked.answers
            self.cut_rows += asked.cut
            if len(asked.rows):
                found = self._decode(asked.examples, len(asked.rows))
                for of, answer in zip(asked.rows, found, strict=True):
                    answers[int(of)] = answer
            yield from answers

    def _asked(self, part: Table, bound: Arrow) -> Asked:
        mapping = self.mapping
        rows = load_rows(bound, part, answers=False)
        answers: list[dict[str, Any]] = [{"error": "this row could not be read"} for _ in range(len(part))]
        where = {part.origin(i): i for i in range(len(part))} if rows.faults else {}
        for fault in rows.faults:
            if fault.row is not None:
                answers[where[fault.file, fault.row]] = {"error": f"{fault.column}: {fault.reason}"}
        if not len(rows):
            return Asked(answers, rows.indices, [], 0)
        encoded = encode_rows(rows, mapping.sources, self.longest, self.long, need_alignment(mapping.targets))
        cut = len(encoded.long_rows) if encoded.num_cut else 0
        return Asked(answers, rows.indices, self._examples(encoded), cut)

    def _examples(self, encoded: EncodedRows) -> list[Example]:
        return list(asking(self.mapping, encoded))

    def _decode(self, examples: Sequence[Example], count: int) -> list[dict[str, Any]]:
        """Answers of `count` rows; the windows of one long row share their mean output."""
        ports = self.mapping.arrow.targets
        found: list[dict[str, Any]] = [{} for _ in range(count)]
        whole = self.mapping.ports_per_example
        outputs = dict(zip(whole, row_outputs(self.mapping, examples, count, whole, self.device), strict=True))
        for port, target in enumerate(self.mapping.targets):
            name = "" if len(ports) == 1 else (ports[port].column or ports[port].kind)
            answers = target.decode(outputs[port]) if port in outputs else self._aligned(examples, count, port)
            for row, answer in zip(found, answers, strict=True):
                if answer.get("probability", 1.0) < self.min_confidence:
                    answer[target.kind] = None
                row.update({name: answer} if name else answer)
        asked = {example.row for example in examples if any(question is not None for question in example.answers)}
        first = self.mapping.targets[0]
        unasked = {
            "error": first.nothing_hidden if isinstance(first, Reconstruction) else "nothing is asked of this value"
        }
        return [answer if row in asked else dict(unasked) for row, answer in enumerate(found)]

    def _aligned(self, examples: Sequence[Example], count: int, port: int) -> list[dict[str, Any]]:
        """What each token says, end to end; for kinds that resemble a source, what becomes of it."""
        target = self.mapping.targets[port]
        found: list[Any] = [[] for _ in range(count)]
        pieces = {example.row: example.pieces for example in examples}
        for row, output in told_by(self.mapping, examples, port, self.device):
            if isinstance(target, Located) and target.resembles:
                found[row] = made(target, pieces[row], output)
            else:
                found[row] += target.decode(output)
        return [{target.kind: answers} for answers in found]

    def complete(
        self, values: Sequence[Any], hide: float, seed: int = 0, mask: Any = None, rows: Sequence[int] | None = None
    ) -> list[Any]:
        """Each value with a share of it, or what a mask marks, hidden and put back: text, or pixels (h, w, 3). mask: one for all
        values, or a list of one for each. rows: their numbers, where some of a table are left out. Raises UsageError."""
        source = self.mapping.sources[self.mapping.arrow.sources[0].kind]
        read = [read_value(source, value, row) for row, value in enumerate(values)]
        masks = mask if mask is None or isinstance(mask, list | tuple) else [mask] * len(read)
        if masks is not None and len(masks) != len(read):
            raise UsageError(f"{len(masks)} masks for {len(read)} values; give one for all, or one for each")
        return list(completed(self.mapping, read, hide, self.device, seed, masks, rows))


def read_value(source: Source, value: object, row: int) -> Any:
    """A value of a list. Raises UsageError with its place."""
    try:
        return source.read(value)
    except BadCell as bad:
        raise UsageError(f"value {row} (counted from 0): {bad}") from bad
