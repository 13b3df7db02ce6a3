"""Prediction: tables in, answers out, in the order of the rows.

Rows are packed into batches as in training, so that no padding is computed. A row that cannot be read is answered with
the reason. Weights are converted once to the precision of the computation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mapsto.data.encoding import EncodedRows, choose_long, encode_sides, encode_to_answer
from mapsto.data.rows import Rows, bind_pair, bind_to, load_rows
from mapsto.data.streamed_rows import stream_rows
from mapsto.data.table import Table, stream_tables
from mapsto.errors import BadCell, UsageError
from mapsto.inference.decoding.constraints import Constraint, make_constraint
from mapsto.inference.forward import (
    RowReader,
    StreamedExamples,
    build_value,
    chunk_size,
    decoded_target,
    embed_examples,
    familiarity_vectors,
    port_reader,
    prefetch,
    question_examples,
    read_rows,
    token_outputs,
)
from mapsto.inference.generation import generate_answers, stream_text
from mapsto.inference.reconstruct import reconstruct
from mapsto.inference.row_outputs import generated_ports
from mapsto.model.mapping import Mapping
from mapsto.options import DEFAULT_FORMAT, TextFormat, require_choice
from mapsto.sequence.batch import Example
from mapsto.sequence.piece import Piece
from mapsto.task.arrow import Arrow
from mapsto.task.generation import Decoding, Generated, Prompted, Searched
from mapsto.task.generation_rules import describe_unfollowed
from mapsto.task.source import Source
from mapsto.task.source_capabilities import Spoken, Streamed
from mapsto.task.target_capabilities import Composed, Confident, Located, Reconstruction, Voiced, located_port
from mapsto.task.transcription import Transcriber

# The error of a row whose outputs are not finite, as with weights so large that their products overflow.
NOT_FINITE = "the model's output for this row is not finite (nan or inf), so there is no answer"


def bind_tables(bind: Callable[[Table], Arrow], tables: Iterable[Table]) -> Iterator[tuple[Table, Arrow | None]]:
    """Yield each table with the arrow bound to the columns of the first table that has rows.

    bind: returns the arrow bound to a table; called once. An empty table before the first one with rows comes with
        None.
    Raises the errors of `bind`, such as UsageError for a missing column.
    """
    bound: Arrow | None = None
    for table in tables:
        if bound is None and len(table):
            bound = bind(table)
        yield table, bound


def bind_sources(arrow: Arrow, table: Table) -> Arrow:
    """Return the arrow with its sources bound to the columns of a table.

    Raises UsageError for an arrow without answers, and for sources that no column fits.
    """
    if not arrow.targets:
        raise UsageError("this model has no answers yet; fit it to a table with labels, or use `embed`")
    if arrow.is_grouped:
        return bind_pair(arrow, table)
    return bind_to(arrow.pair if arrow.symmetric else arrow, table, answers=False)


@dataclass(frozen=True)
class Prepared:
    """Rows of a table that were read and encoded, ready for the forward pass."""

    # One answer per row of the table: the error of an unreadable row, or a placeholder.
    answers: list[dict[str, Any]]
    # The readable rows, whose `indices` are their places in the table.
    rows: Rows
    examples: Iterable[Example]
    # Number of rows that were cut.
    num_cut: int


def _require_limits(mapping: Mapping, min_confidence: float, reject: float) -> None:
    """Raise UsageError if a limit is no share, or the mapping gives nothing to compare with it; see `Predictor`."""
    if not 0 <= min_confidence <= 1:
        raise UsageError(f"--min-confidence is a probability from 0 to 1, not {min_confidence}")
    if min_confidence and not any(isinstance(target, Confident) for target in mapping.targets):
        raise UsageError(f"--min-confidence is for answers with a probability; {mapping.arrow} gives none")
    if not 0 <= reject < 1:
        raise UsageError(f"--reject is a share of the training rows, from 0 to less than 1, not {reject}")
    if reject and mapping.familiarity is None:
        raise UsageError(
            "--reject compares rows with the training rows, and this model keeps none of them: it was not fitted, "
            "its answers are pictures or boxes, or an earlier version fitted it"
        )


def _make_constraints(mapping: Mapping, decoding: Decoding | None) -> list[Constraint | None]:
    """Return for each target the constraint on its answers that the settings of decoding ask for; None for none.

    Raises UsageError if settings are given for a mapping that generates no answer token by token, and for a constraint that no
    answer can satisfy.
    """
    if decoding is not None and not isinstance(decoding, Decoding):
        raise UsageError(f"decoding is a mapsto.Decoding, such as Decoding(beams=4), not {type(decoding).__name__}")
    if decoding is not None and not any(isinstance(target, Generated | Searched) for target in mapping.targets):
        raise UsageError(
            "settings of decoding (--beams, --samples, --longest, --answers, --schema, --times, --language, --task, "
            "--language-model) are for "
            f"answers that are generated or read along a sound; {mapping.arrow} has none"
        )
    is_written = any(isinstance(target, Generated) for target in mapping.targets)
    if decoding is not None and decoding.language_model is not None and is_written:
        raise UsageError(
            "--language-model is for transcripts that are read along a sound (CTC); this model writes its answers token "
            "by token, and knows spellings itself"
        )
    for target in mapping.targets:
        # Raises for settings that a target ignores, before any row is read.
        decoded_target(target, decoding)
    return [make_constraint(decoding, target) if isinstance(target, Generated) else None for target in mapping.targets]


class Predictor:
    """A copy of a mapping (model) that answers the rows of tables, on one device and in one precision.

    device, precision: names such as "cpu" and "bf16"; "auto" chooses what suits the machine.
    long: treatment of rows longer than the model takes: "cut", "window" (read in parts) or "error"; "auto" is "window" for
        answers that lie in a text, such as tags, and "cut" for others.
    min_confidence: an answer with a lower probability is withheld: its value becomes None, and its probability stays.
    reject: answers to values that are less familiar than this are withheld (see model/familiarity.py); 0.05 means less
        familiar than 95 % of the training rows.
    decoding: how the tokens of generated answers are chosen; None for the likeliest token at each step.
    Raises UsageError for an unknown option, a missing device, for `min_confidence` if no answer has a probability,
    for `reject` if the model keeps no training vectors, and for `decoding` if no answer is generated, or none can be.
    """

    def __init__(
        self,
        mapping: Mapping,
        device: str = "auto",
        precision: str = "auto",
        long: str = "auto",
        min_confidence: float = 0.0,
        reject: float = 0.0,
        decoding: Decoding | None = None,
    ) -> None:
        require_choice("long", long)
        _require_limits(mapping, min_confidence, reject)
        self.constraints = _make_constraints(mapping, decoding)
        self.min_confidence, self.reject, self.decoding = min_confidence, reject, decoding
        self.long = long
        self.cut_rows = 0  # number of rows that were longer than the model takes
        self.device = mapping.device_for(device)
        self.mapping = mapping.for_prediction(self.device, precision)

    def with_settings(self, min_confidence: float, reject: float, decoding: Decoding | None = None) -> Predictor:
        """Return a predictor with the same weights and other limits and settings. Raises UsageError as for a new one."""
        _require_limits(self.mapping, min_confidence, reject)
        other = copy.copy(self)
        other.constraints = _make_constraints(self.mapping, decoding)
        other.min_confidence, other.reject, other.decoding = min_confidence, reject, decoding
        return other

    @property
    def notes(self) -> list[str]:
        """Return what users should know about all answers: settings of the model by which other libraries answer otherwise."""
        if not generated_ports(self.mapping, range(len(self.mapping.targets))):
            return []
        is_search_chosen = self.decoding is not None and (self.decoding.beams > 1 or self.decoding.samples > 0)
        sources = (source for source in self.mapping.sources.values() if isinstance(source, Prompted))
        return list(filter(None, (describe_unfollowed(source.generation, is_search_chosen) for source in sources)))

    @property
    def arrow(self) -> Arrow:
        """Return the model's arrow, which names its sources and targets, such as `text -> label`."""
        return self.mapping.arrow

    @property
    def max_tokens(self) -> int:
        """Return the maximum number of tokens per example, special tokens included."""
        return self.mapping.config.max_tokens

    def bind(self, table: Table) -> Arrow:
        """Return the arrow with its sources bound to a table's columns. Raises UsageError if a column is missing."""
        return bind_sources(self.arrow, table)

    def answer_tables(self, tables: Iterable[Table]) -> Iterator[tuple[Table, list[dict[str, Any]]]]:
        """Yield each table with its answers, one dict per row.

        The first table that has rows decides which columns are read.
        """
        for table, bound in bind_tables(self.bind, tables):
            yield table, list(self.answer(table, bound))

    def answer(self, table: Table, bound: Arrow | None = None) -> Iterator[dict[str, Any]]:
        """Yield one answer (dict) per row, in order; {"error": reason} for a row that cannot be read.

        bound: the arrow bound to a table with the same columns; None binds it to `table`.
        """
        answers = self._answer_rows(table, bound or self.bind(table)) if len(table) else iter(())
        for row in table.in_order():
            yield next(answers) if isinstance(row, int) else {"error": f"row {row.row}: {row.reason}"}

    def _answer_rows(self, table: Table, bound: Arrow) -> Iterator[dict[str, Any]]:
        """Yield one answer per row of the table. Rows that the table's reader rejected are not among them."""

        def prepare(rows: list[int]) -> Prepared:
            return self.prepare(table.select(rows), bound)

        for prepared in prefetch(range(len(table)), chunk_size(self.mapping), prepare):
            yield from self.answer_prepared(prepared)

    def answer_prepared(self, prepared: Prepared) -> list[dict[str, Any]]:
        """Return one answer (dict) per row of the part of a table that `prepare` has read and encoded."""
        answers = prepared.answers
        self.cut_rows += prepared.num_cut
        if len(prepared.rows):
            decoded = self._decode(prepared.examples, prepared.rows)
            for row, answer in zip(prepared.rows.indices, decoded, strict=True):
                answers[int(row)] = answer
        return answers

    def prepare(self, part: Table, bound: Arrow) -> Prepared:
        """Read and encode rows for the forward pass.

        part: the rows, as a part of a table. bound: the arrow bound to the table's columns.
        """
        mapping = self.mapping
        rows = load_rows(bound, part, answers=False)
        answers = fault_answers(part, rows)
        if not len(rows):
            return Prepared(answers, rows, [], 0)
        if bound.symmetric:
            assert mapping.config.sentence is not None
            encoded = encode_sides(rows, mapping.sources, mapping.config.sentence, self.long)
        else:
            aligned = self.decoding is not None and self.decoding.times
            settings = mapping.sources, mapping.targets, self.max_tokens, self.long, aligned
            if (streamed := stream_rows(rows, *settings)) is not None:
                return Prepared(answers, rows, StreamedExamples(mapping, streamed), 0)
            encoded = encode_to_answer(rows, *settings)
        # Windows lose no tokens.
        num_cut = len(encoded.long_rows) if encoded.num_cut else 0
        return Prepared(answers, rows, self._make_examples(encoded), num_cut)

    def _make_examples(self, encoded: EncodedRows) -> list[Example]:
        return list(question_examples(self.mapping, encoded))

    def _decode(self, examples: Iterable[Example], rows: Rows) -> list[dict[str, Any]]:
        """Run the forward pass over the examples of some rows, and return one answer (dict) per row.

        If the arrow has several target ports, a row's answer is a dict of the ports' answers by name.
        """
        ports, count = self.mapping.arrow.targets, len(rows)
        if self.mapping.arrow.symmetric:
            return self._decode_pairs(examples, count)
        answers: list[dict[str, Any]] = [{} for _ in range(count)]
        generated = generated_ports(self.mapping, self.mapping.ports_per_example)
        per_example = [port for port in self.mapping.ports_per_example if port not in generated]
        readers = [port_reader(self.mapping, port, self.decoding) for port in per_example]
        familiarity = self.mapping.familiarity
        if familiarity is not None:
            readers.append(RowReader(partial(familiarity_vectors, self.mapping)))
        results = read_rows(self.mapping, examples, count, readers, self.device)
        outputs = dict(zip(per_example, results[: len(per_example)], strict=True))
        # Without training vectors, all values count as familiar.
        shares = [1.0] * count if familiarity is None else familiarity.score(results[-1]).tolist()
        # Without the rounding error of fp32, so that what is printed is what is compared.
        familiar = [round(share, 4) for share in shares]
        is_finite = torch.ones(count, dtype=torch.bool)
        for port, own_target in enumerate(self.mapping.targets):
            target = decoded_target(own_target, self.decoding)
            name = "" if len(ports) == 1 else (ports[port].column or ports[port].kind)
            if port in generated:
                port_answers = self._generate(examples, count, port)
            elif port in outputs:
                finite, port_output = split_finite(outputs[port])
                port_answers = target.decode(port_output)
                is_finite &= finite
            else:
                port_answers = self._decode_tokens(examples, count, port)
            if isinstance(target, Composed):
                _add_excerpts(target, port_answers, rows)
            for row, (answer, port_answer) in enumerate(zip(answers, port_answers, strict=True)):
                # Answers without a probability, such as vectors, are never withheld for it.
                if port_answer.get("probability", 1.0) < self.min_confidence or familiar[row] < self.reject:
                    if isinstance(target, Composed):
                        target.withhold(port_answer)
                    port_answer[target.kind] = None
                answer.update({name: port_answer} if name else port_answer)
        if familiarity is not None:
            for answer, share in zip(answers, familiar, strict=True):
                answer["familiar"] = share
        for row in (~is_finite).nonzero()[:, 0].tolist():
            answers[row] = {"error": NOT_FINITE}
        # A text without words has an answer all the same: that there is nothing in it. A generated answer has a beginning.
        if any(isinstance(target, Composed | Generated) for target in self.mapping.targets):
            return answers
        # A row in which nothing is hidden, such as a text without a mask token, has no answer.
        rows_asked = {example.row for example in examples if any(question is not None for question in example.answers)}
        first = self.mapping.targets[0]
        reason = first.nothing_hidden if isinstance(first, Reconstruction) else "nothing is asked of this value"
        return [answer if row in rows_asked else {"error": reason} for row, answer in enumerate(answers)]

    def _generate(self, examples: Iterable[Example], count: int, port: int) -> list[dict[str, Any]]:
        """Return one answer (dict) per row for a target that generates it; with `--samples` the others are its entry "others"."""
        target = self.mapping.targets[port]
        assert isinstance(target, Generated)
        answers: list[dict[str, Any]] = [{} for _ in range(count)]
        generated = generate_answers(
            self.mapping, examples, port, self.device, self.decoding, constraint=self.constraints[port]
        )
        for row, alternatives in generated:
            best, *further = target.decode(target.pack(alternatives))
            if self.decoding is not None and self.decoding.times and isinstance(target, Transcriber):
                best["phrases"] = target.phrases(alternatives[0])
                if self.decoding.words:
                    best["words"] = target.words(alternatives[0])
            is_sampled = self.decoding is not None and self.decoding.samples > 1
            answers[row] = {**best, "others": further} if is_sampled else best
        return answers

    def _decode_pairs(self, examples: Iterable[Example], count: int) -> list[dict[str, Any]]:
        """Return the score of each pair: the cosine of the vectors of its two values, which are examples of their own.

        examples: for each row an example with both values.
        """
        sides = [
            embed_examples(
                self.mapping,
                (Example((example.pieces[side],), (), row) for row, example in enumerate(examples)),
                count,
                self.device,
                self.mapping.sentence_vectors,
            )
            for side in range(2)
        ]
        queries, passages = (F.normalize(torch.from_numpy(vectors), dim=-1) for vectors in sides)
        return self.mapping.targets[0].decode((queries * passages).sum(-1))

    def _decode_tokens(self, examples: Iterable[Example], count: int, port: int) -> list[dict[str, Any]]:
        """Return one answer {kind: value} per row for a target that is read at tokens.

        The value is a list with one entry per token, or what all tokens make up together, such as a picture.
        """
        target = self.mapping.targets[port]
        answers: list[Any] = [[] for _ in range(count)]
        # Packing changes the order of the examples, and the windows of a row share its number.
        read_examples = list(examples)
        numbered = [replace(example, row=index) for index, example in enumerate(read_examples)]
        outputs = dict(token_outputs(self.mapping, numbered, port, self.device))
        for index, output in sorted(outputs.items()):
            example = read_examples[index]
            if isinstance(target, Located) and target.resembles:
                answers[example.row].append(build_value(target, example.pieces, output))
            else:
                answers[example.row] += target.decode(output)
        if isinstance(target, Located) and target.resembles:
            # A row of which nothing is asked has no part.
            answers = [target.join(parts) if parts else None for parts in answers]
        decoded = [{target.kind: answer} for answer in answers]
        if isinstance(target, Voiced):
            for example in read_examples:
                if num_unspoken := target.count_unspoken(example.pieces):
                    row_answer = decoded[example.row]
                    row_answer["left_out"] = row_answer.get("left_out", 0) + num_unspoken
        return decoded

    def require_streamed_sounds(self) -> Streamed:
        """Return the source of sounds whose windows are answered one by one. Raises UsageError if the model has none."""
        source = self.mapping.sources[self.arrow.sources[0].kind]
        is_spoken = isinstance(source, Spoken) and isinstance(source, Streamed) and len(self.arrow.sources) == 1
        if (
            not is_spoken
            or choose_long(self.arrow, self.mapping.targets, "auto") != "window"
            or len(self.arrow.targets) > 1
        ):
            raise UsageError(
                f"--stream of a sound is for models that write what is said in it, and this is {self.arrow}"
            )
        assert isinstance(source, Streamed)
        return source

    def answer_windows(self, windows: Iterable[Piece]) -> Iterator[dict[str, Any]]:
        """Yield the answer to each window of a sound as soon as it is there. windows: from `require_streamed_sounds`."""
        target = decoded_target(self.mapping.targets[0], self.decoding)
        for window in windows:
            examples = list(question_examples(self.mapping, [((window,), 0)]))
            if isinstance(target, Generated):
                yield self._generate(examples, 1, 0)[0]
            else:
                (output,) = read_rows(
                    self.mapping, examples, 1, [port_reader(self.mapping, 0, self.decoding)], self.device
                )
                yield target.decode(output)[0]

    def stream(self, source: Any, text_format: TextFormat = DEFAULT_FORMAT) -> Iterator[Iterator[str]]:
        """Yield for each row of a source an iterator over the parts of its generated answer, as soon as they are chosen.

        source, text_format: anything that `stream_tables` takes. The iterator of a row that cannot be read raises UsageError.
        Raises UsageError unless the arrow has one answer, which is generated greedily.
        """
        decoding = self.decoding or Decoding()
        target = self.mapping.targets[0] if len(self.arrow.targets) == 1 else None
        is_joined = isinstance(target, Generated) and target.joins_windows
        if target is None or not generated_ports(self.mapping, [0]):
            raise UsageError(f"--stream prints one answer that is generated token by token, and {self.arrow} has none")
        if (decoding.beams > 1 or decoding.samples) and not is_joined:
            raise UsageError(
                "--stream prints tokens as soon as they are certain, which --beams and --samples never are"
            )
        for table, bound in bind_tables(self.bind, stream_tables(source, text_format)):
            for row in range(len(table)):
                prepared = self.prepare(table.select([row]), bound or self.bind(table))
                self.cut_rows += prepared.num_cut
                if not len(prepared.rows):
                    yield _refuse(prepared.answers[0]["error"])
                elif is_joined:
                    answers = self.answer_windows(example.pieces[0] for example in prepared.examples)
                    yield (answer[self.arrow.targets[0].kind] + " " for answer in answers)
                else:
                    (example,) = prepared.examples
                    yield stream_text(self.mapping, example, self.device, decoding, self.constraints[0])

    def complete(
        self, values: Sequence[Any], hide: float, seed: int = 0, mask: Any = None, rows: Sequence[int] | None = None
    ) -> list[Any]:
        """Return the values with a part of each hidden and filled in by the model: texts, or pixels (h, w, 3).

        values: texts, or pictures or their file names. hide: the share of the tokens to hide at random.
        mask: the region to hide instead, for pictures: one mask for all values, or a list with one mask per value.
        rows: the values' row numbers, which seed the random choice together with `seed`; by default 0, 1, …
        Raises UsageError for a value that cannot be read, an unsuitable mask, and a model that was not trained to fill
        in.
        """
        source = self.mapping.sources[self.mapping.arrow.sources[0].kind]
        read_values = [read_value(source, value, index) for index, value in enumerate(values)]
        masks = mask if mask is None or isinstance(mask, list | tuple) else [mask] * len(read_values)
        if masks is not None and len(masks) != len(read_values):
            raise UsageError(f"{len(masks)} masks for {len(read_values)} values; give one for all, or one for each")
        return list(reconstruct(self.mapping, read_values, hide, self.device, seed, masks, rows))


def fault_answers(part: Table, rows: Rows) -> list[dict[str, Any]]:
    """Return {"error": reason} for each row of a table, where `rows` are those that could be read; theirs is a placeholder."""
    answers: list[dict[str, Any]] = [{"error": "this row could not be read"} for _ in range(len(part))]
    # Faults know a row by its file and number only.
    index_of = {part.origin(index): index for index in range(len(part))} if rows.faults else {}
    for fault in rows.faults:
        if fault.row is not None:
            answers[index_of[fault.file, fault.row]] = {"error": f"{fault.column}: {fault.reason}"}
    return answers


def split_finite(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return for each row of `outputs` (n, …) whether all its numbers are finite, and the outputs with 0 in all other rows."""
    is_finite = torch.isfinite(outputs).flatten(1).all(1) if outputs.ndim > 1 else torch.isfinite(outputs)
    if is_finite.all():
        return is_finite, outputs
    return is_finite, outputs.masked_fill(~is_finite.view(-1, *[1] * (outputs.ndim - 1)), 0.0)


def _refuse(reason: str) -> Iterator[str]:
    """Return an iterator that raises UsageError with the reason why a row cannot be read."""
    raise UsageError(reason)
    yield ""


def _add_excerpts(target: Composed, answers: Sequence[dict[str, Any]], rows: Rows) -> None:
    """Add to the answers of rows what takes the source value that they lie in, such as the texts of entities."""
    port = located_port(target, [port.kind for port in rows.arrow.sources])
    for answer, value in zip(answers, rows.sources[port], strict=True):
        target.add_excerpts(answer, value)


def read_value(source: Source, value: object, index: int) -> Any:
    """Convert a value to the form that `source.encode` takes, such as a file name to pixels.

    index: position of the value in the user's list, from 0; the UsageError for an unreadable value names it.
    """
    try:
        return source.read(value)
    except BadCell as bad:
        raise UsageError(f"value {index} (counted from 0): {bad}") from bad
