"""Rows in, answers out, in order: the same packer as in training."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from mapsto.arrow import Arrow, restores
from mapsto.corrupt import READS_ON, Corruption, generator
from mapsto.data import Table
from mapsto.device import choose_device, choose_precision
from mapsto.errors import BadCell, UsageError
from mapsto.examples import Encoded, batches, bind_to, encode, lie_in_raw, read_rows
from mapsto.mapping import Mapping
from mapsto.options import require_choice
from mapsto.sequence import Answer, Batch, Example, Ints, Piece
from mapsto.source import Source
from mapsto.target import Target

TOKENS_AT_ONCE = 4096
Done = Callable[[int], None]
T = TypeVar("T")
R = TypeVar("R")


def over(mapping: Mapping, examples: Iterable[Example], device: torch.device) -> Iterator[tuple[Batch, Tensor]]:
    """Each packed batch of `examples` with its hidden states; `batch.rows` are the examples' own row numbers. No more of them are
    held at once than their kind allows, twice over: the next ones are made meanwhile."""
    for part in held(mapping, examples):
        with torch.inference_mode():
            for batch in batches(part, TOKENS_AT_ONCE):
                moved = batch.to(device)
                yield moved, mapping.hidden(moved)


def held(mapping: Mapping, examples: Iterable[Example]) -> Iterator[list[Example]]:
    """The examples in parts, as many at a time as may be held as pieces."""
    return ahead(examples, rows_at_once(mapping), list)


def rows_at_once(mapping: Mapping) -> int:
    """How many rows may be held as pieces."""
    return min(source.rows_at_once for source in mapping.sources.values())


def ahead(items: Iterable[T], at_once: int, make: Callable[[list[T]], R]) -> Iterator[R]:
    """What `make` makes of so many items at a time, in order; while one part is used, a thread takes and makes the next."""
    rest = iter(items)

    def following() -> tuple[int, R | None]:
        part = list(islice(rest, at_once))
        return len(part), make(part) if part else None

    count, made = following()
    with ThreadPoolExecutor(1) as pool:
        while made is not None:
            waiting = pool.submit(following) if count == at_once else None
            yield made
            count, made = waiting.result() if waiting else (0, None)


@dataclass(frozen=True)
class Evidence:
    """What one target said over some examples: `shown` (m, …), the true `values` (m,), and the `rows` (m,) asked about."""

    shown: Tensor
    values: Tensor
    rows: Ints


def evidence(
    mapping: Mapping, examples: Iterable[Example], device: torch.device, done: Done = lambda count: None
) -> dict[int, Evidence]:
    """For each target port that is told of what it said of the answers that `examples` carry, on the CPU. done: is told of how
    many examples it was, batch by batch."""
    kept: dict[int, list[Evidence]] = {}
    for part in held(mapping, examples):
        pieces = {example.row: example.pieces for example in part}
        for batch, hidden in over(mapping, part, device):
            for port, readout in enumerate(batch.answers):
                if readout is not None:
                    target = mapping.targets[port]
                    shown = target.evidence(mapping.read(hidden, batch, port), readout.values).float().cpu()
                    rows = batch.rows[readout.examples.cpu().numpy()]
                    if target.lies_in:
                        rows = batch.rows[torch.unique_consecutive(readout.examples).cpu().numpy()]
                        shown = target.by_example(shown, [pieces[row] for row in rows.tolist()])
                    kept.setdefault(port, []).append(Evidence(shown, readout.values.cpu(), rows))
            done(len(batch.rows))
    return {
        port: Evidence(
            torch.cat([part.shown for part in parts]),
            torch.cat([part.values for part in parts]),
            np.concatenate([part.rows for part in parts]),
        )
        for port, parts in sorted(kept.items())
    }


def questions(mapping: Mapping, pieces: Sequence[Piece]) -> tuple[Answer | None, ...]:
    """Empty answers that say where each target is to be read."""
    found: list[Answer | None] = []
    for target, source in zip(mapping.targets, restores(mapping.arrow), strict=True):
        if target.way == "pooled":
            found.append(Answer(np.zeros((), np.int64)))
        elif source is None:
            found.append(target.question(pieces))
        else:
            asked, before = target.question(pieces[source : source + 1]), sum(map(len, pieces[:source]))
            found.append(None if asked is None or asked.at is None else replace(asked, at=asked.at + before))
    return tuple(found)


def asking(mapping: Mapping, encoded: Encoded) -> Iterator[Example]:
    """Examples without answers, each with the number of its row."""
    for pieces, of in zip(encoded.pieces, encoded.of, strict=True):
        yield Example(pieces, questions(mapping, pieces), int(of))


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
        if min_confidence and all(type(target).confidence is Target.confidence for target in mapping.targets):
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
        return self.mapping.config.longest

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
        rows = read_rows(bound, part, mapping.sources, mapping.targets, answers=False)
        answers: list[dict[str, Any]] = [{"error": "this row could not be read"} for _ in range(len(part))]
        where = {part.origin(i): i for i in range(len(part))} if rows.faults else {}
        for fault in rows.faults:
            if fault.row is not None:
                answers[where[fault.file, fault.row]] = {"error": f"{fault.column}: {fault.reason}"}
        if not len(rows):
            return Asked(answers, rows.rows, [], 0)
        encoded = encode(bound, rows, mapping.sources, self.longest, self.long, lie_in_raw(mapping.targets))
        cut = len(encoded.long) if encoded.lost else 0
        return Asked(answers, rows.rows, self._examples(encoded), cut)

    def _examples(self, encoded: Encoded) -> list[Example]:
        return list(asking(self.mapping, encoded))

    def _decode(self, examples: Sequence[Example], count: int) -> list[dict[str, Any]]:
        """Answers of `count` rows; the windows of one long row share their mean output."""
        ports = self.mapping.arrow.targets
        found: list[dict[str, Any]] = [{} for _ in range(count)]
        whole = self.mapping.whole_rows
        outputs = dict(zip(whole, row_outputs(self.mapping, examples, count, whole, self.device), strict=True))
        for port, target in enumerate(self.mapping.targets):
            name = "" if len(ports) == 1 else (ports[port].column or ports[port].kind)
            answers = target.decode(outputs[port]) if port in outputs else self._aligned(examples, count, port)
            for row, answer in zip(found, answers, strict=True):
                if answer.get("probability", 1.0) < self.min_confidence:
                    answer[target.kind] = None
                row.update({name: answer} if name else answer)
        asked = {example.row for example in examples if any(question is not None for question in example.answers)}
        unasked = {"error": self.mapping.targets[0].unasked}
        return [answer if row in asked else dict(unasked) for row, answer in enumerate(found)]

    def _aligned(self, examples: Sequence[Example], count: int, port: int) -> list[dict[str, Any]]:
        """What each token says, end to end; for kinds that resemble a source, what becomes of it."""
        target = self.mapping.targets[port]
        found: list[Any] = [[] for _ in range(count)]
        pieces = {example.row: example.pieces for example in examples}
        for row, output in told_by(self.mapping, examples, port, self.device):
            if target.resembles:
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


def completed(
    mapping: Mapping,
    values: Sequence[Any],
    share: float,
    device: torch.device,
    seed: int = 0,
    masks: Sequence[object] | None = None,
    rows: Sequence[int] | None = None,
) -> Iterator[Any]:
    """Each value, already read, with a `share` of it hidden, a function of (seed, row), or what its mask marks; and put back.
    rows: the number of each, by default its place.

    Raises UsageError for a mapping that does not put back what `~` hides of its one source.
    """
    source, target = mapping.sources[mapping.arrow.sources[0].kind], mapping.targets[0] if mapping.targets else None
    if len(mapping.arrow.sources) != 1 or target is None or not mapping.arrow.corrupted:
        raise UsageError(
            f"--hide and --mask are for mappings that put back what is hidden, such as '~text -> text', not {mapping.arrow}"
        )
    if target.corruption.causal == 1:
        raise UsageError(READS_ON)
    if masks is None and not 0 < share < 1:
        raise UsageError(f"--hide is a share between 0 and 1, not {share}")
    corruption = Corruption(share, share, ahead=target.corruption.ahead)
    longest = mapping.config.longest
    pieces = [
        piece if len(piece) <= longest else source.cut(piece, longest)
        for piece in source.encode(values, 0, aligned=True)
    ]
    examples, chosen = [], []
    for row, piece in enumerate(pieces):
        if masks is None:
            shown, hidden = source.corrupt(
                piece, corruption, generator(seed, row if rows is None else rows[row], 0), 0.0
            )
        else:
            shown, hidden = _covered(source, piece, values[row], masks[row])
        chosen.append(hidden)
        asked = Answer(np.zeros(len(hidden), np.int64), hidden - corruption.ahead)
        examples.append(Example((shown,), (asked, *([None] * (len(mapping.targets) - 1))), row))
    said = dict(told_by(mapping, examples, 0, device))
    for row, (value, piece, hidden) in enumerate(zip(values, pieces, chosen, strict=True)):
        yield target.completed(value, piece, hidden, said.get(row, torch.zeros(0)))


def _covered(source: Source, piece: Piece, value: Any, mask: object) -> tuple[Piece, Ints]:
    try:
        return source.covered(piece, value, mask)
    except BadCell as bad:
        raise UsageError(f"the mask for {value} cannot be used: {bad}") from bad


def told_by(
    mapping: Mapping, examples: Iterable[Example], port: int, device: torch.device
) -> Iterator[tuple[int, Tensor]]:
    """The row of each example that asks target `port` about tokens, and what is said of these, (m, …) on the CPU."""
    for batch, hidden in over(mapping, examples, device):
        readout = batch.answers[port]
        if readout is not None:
            output = mapping.read(hidden, batch, port).float().cpu()
            asked, counts = torch.unique_consecutive(readout.examples.cpu(), return_counts=True)
            yield from zip(batch.rows[asked.numpy()].tolist(), torch.split(output, counts.tolist()), strict=True)


def made(target: Target, pieces: Sequence[Piece], output: Tensor) -> Any:
    """What a target that resembles a source makes of it, from what it said (m, …) of the tokens of one example."""
    (piece,) = (piece for piece in pieces if piece.kind == target.lies_in)
    return target.completed(None, piece, np.flatnonzero(~piece.special), output)


def row_outputs(
    mapping: Mapping,
    examples: Iterable[Example],
    count: int,
    ports: Sequence[int],
    device: torch.device,
    done: Done = lambda count: None,
) -> list[Tensor]:
    """What each of these targets, which give one answer a row, says of `count` rows, (count, …); windows of one long row share
    their mean. done: as of `evidence`."""
    if not ports:
        return []
    sums: dict[int, Tensor] = {}
    windows = torch.zeros(count)
    for part in held(mapping, examples):
        pieces = {example.row: example.pieces for example in part}
        for batch, hidden in over(mapping, part, device):
            rows = torch.from_numpy(batch.rows)
            for port in ports:
                read = mapping.read(hidden, batch, port).float().cpu()
                output = mapping.targets[port].whole(read, [pieces[row] for row in batch.rows.tolist()])
                if port not in sums:
                    sums[port] = torch.zeros(count, *output.shape[1:])
                sums[port].index_add_(0, rows, output)
            windows.index_add_(0, rows, torch.ones(len(rows)))
            done(len(rows))
    return [sums[port] / windows.view(-1, *[1] * (sums[port].ndim - 1)) for port in ports]


def read_value(source: Source, value: object, row: int) -> Any:
    """A value of a list. Raises UsageError with its place."""
    try:
        return source.read(value)
    except BadCell as bad:
        raise UsageError(f"value {row} (counted from 0): {bad}") from bad
