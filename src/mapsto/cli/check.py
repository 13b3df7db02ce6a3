"""`mapsto check`: find all problems of a table in one pass, before any training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mapsto.cli.app import Arrow, Data, Delimiter, Encoding, Json, app
from mapsto.errors import SHOWN_FINDINGS, DataError, Finding, UsageError, counted
from mapsto.options import TextFormat, require_choice

if TYPE_CHECKING:
    from mapsto.data.rows import Rows
    from mapsto.data.table import Table
    from mapsto.fitting.starting_model import StartingModel
    from mapsto.task.arrow import Arrow as BoundArrow
    from mapsto.task.source import Source


@app.command(epilog="Example: mapsto check 'text -> label' train.csv --test test.csv")
def check(
    arrow: Arrow,
    data: Data,
    test: Annotated[
        Path | None, typer.Option(help="Test rows: checked as well, and searched for copies of training rows.")
    ] = None,
    start: Annotated[str | None, typer.Option(help="Count tokens with the tokenizer of this model.")] = None,
    listen: Annotated[
        bool,
        typer.Option(
            "--listen",
            help="With a --start that writes what is said: name texts that may belong to another recording. Two passes a row.",
        ),
    ] = False,
    repair: Annotated[
        Path | None,
        typer.Option(
            help="Write the table to this new file (csv, tsv or jsonl) with tags moved where a warning says that they fit."
        ),
    ] = None,
    unlabelled: Annotated[str, typer.Option(help="Rows without a label: stop (an error each), or drop.")] = "stop",
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    json: Json = False,
) -> None:
    """Find all problems of a table at once. The exit status is 1 when there are errors to fix."""
    from mapsto.cli.output import print_json, print_text
    from mapsto.data.checks import check_rows
    from mapsto.data.files import join_paths
    from mapsto.data.rows import bind_to, load_rows
    from mapsto.data.table import read_table
    from mapsto.fitting.answer_way import choose_answer_way
    from mapsto.fitting.starting_model import open_start
    from mapsto.task.arrow import parse

    text_format = TextFormat(encoding, delimiter)
    table = read_table(join_paths(data), text_format)
    test_table = None if test is None else read_table(test, text_format)
    # Unreadable cells are reported together with all other problems.
    beginning = open_start(start)
    bound = bind_to(choose_answer_way(parse(arrow), beginning), table)
    table, num_unlabelled = _drop_unlabelled(bound, table, unlabelled)
    rows = load_rows(bound, table, keep_unreadable=True)
    # The arrow is bound now, so the test table is read by the same columns.
    if test_table is not None:
        test_table, num_unlabelled_test = _drop_unlabelled(bound, test_table, unlabelled)
        num_unlabelled += num_unlabelled_test
    test_rows = None if test_table is None else load_rows(rows.arrow, test_table, keep_unreadable=True)
    report = check_rows(rows, test_rows)
    if repair is not None:
        _write_repaired(rows, repair)
    errors = [*table.rejected, *rows.faults]
    if test_table is not None and test_rows is not None:
        errors += [*test_table.rejected, *test_rows.faults]
    errors += report.errors
    notes = _describe_lengths(rows, table, beginning, errors) if len(rows.readable()) else []
    notes += [f"{num_unlabelled:,} rows have no label"] if num_unlabelled else []
    if listen:
        notes.append(_listen(rows, start, report.warnings))
    if json:
        print_json(
            {"errors": list(map(asdict, errors)), "warnings": list(map(asdict, report.warnings)), "notes": notes}
        )
    else:
        print_text(
            f"{rows.arrow}: {len(table):,} rows"
            + (f", {len(test_table):,} test rows" if test_table is not None else "")
        )
        for level, findings in (("note", notes), ("warning", report.warnings), ("error", errors)):
            for line in _summarise(findings):
                print_text(f"{level}: {line}")
        print_text(f"{counted(len(errors), 'error')}, {counted(len(report.warnings), 'warning')}")
    if errors:
        raise DataError(f"{counted(len(errors), 'error')} to fix")


def _listen(rows: Rows, start: str | None, warnings: list[Finding]) -> str:
    """Add a warning for each text that may belong to another recording; return a note on what a model has listened to.

    start: the model. Raises UsageError for none, and for one that does not write what is said.
    """
    from mapsto.cli.output import print_note
    from mapsto.device import choose_device
    from mapsto.evaluation.transcripts import find_misplaced
    from mapsto.fitting.transcript_beginning import choose_beginnings
    from mapsto.inference.predictor import Predictor
    from mapsto.pretrained.model_folder import load_mapping
    from mapsto.progress import choose_progress

    if start is None:
        raise UsageError("--listen needs a model that writes what is said, such as --start hf:openai/whisper-tiny")
    mapping, readable, progress = Predictor(load_mapping(start)).mapping, rows.readable(), choose_progress()
    try:
        if len(readable):
            choose_beginnings(mapping, mapping.sources, readable, None, None, print_note)
        listening = find_misplaced(
            mapping, readable, choose_device("auto"), lambda count: progress.rows("listened to", count, len(readable))
        )
    finally:
        progress.close()
    warnings += listening.findings
    return listening.describe()


def _drop_unlabelled(arrow: BoundArrow, table: Table, unlabelled: str) -> tuple[Table, int]:
    """Return (table without the rows that have no label, their number). Raises UsageError for other values than stop and drop."""
    from mapsto.data.rows import set_aside_unlabelled

    require_choice("unlabelled", unlabelled, ("stop", "drop"))
    labelled, rest = set_aside_unlabelled(arrow, table, unlabelled)
    return labelled, 0 if rest is None else len(rest)


def _write_repaired(rows: Rows, path: Path) -> None:
    """Write the table of rows to a file, with the cells that `find_repairs` corrects."""
    from mapsto.cli.output import print_status
    from mapsto.data.checks import find_repairs
    from mapsto.data.readers import file_format
    from mapsto.data.table import write_rows

    if path.exists():
        raise UsageError(f"{path} exists already; name another file for the repaired table")
    if file_format(path) == "parquet":
        raise UsageError("a repaired table is written as csv, tsv or jsonl")
    table = rows.table
    cells = {(row, column): cell for (row, column, cell), _ in find_repairs(rows)}
    repaired = (
        {name: cells.get((row, name), table.column(name)[row]) for name in table.columns} for row in range(len(table))
    )
    write_rows(path, table.columns, list(repaired))
    left_out = f"; {len(table.rejected):,} rows that cannot be read are not in it" if table.rejected else ""
    print_status(f"wrote {len(table):,} rows to {path}, {len(cells):,} of them repaired{left_out}")


def _summarise(findings: Iterable[Finding | str]) -> Iterator[str]:
    """Yield the lines to print for some findings, one line each.

    Of findings in the same column with the same reason, but for what it quotes, only the first SHOWN_FINDINGS get a line, the
    others one line together.
    """
    counts = Counter[tuple[str | None, str]]()
    for finding in findings:
        if isinstance(finding, Finding):
            counts[finding.group] += 1
            if counts[finding.group] > SHOWN_FINDINGS:
                continue
        yield str(finding)
    for (column, reason), count in counts.items():
        if count > SHOWN_FINDINGS:
            place = "" if column is None else f" of column {column!r}"
            yield f"… and {count - SHOWN_FINDINGS:,} more rows{place} (--json lists them all): {reason}"


def _find_long_answers(rows: Rows, sources: dict[str, Source], start: StartingModel) -> list[Finding]:
    """Return a finding for each answer that has more tokens than the model writes, which `fit` refuses.

    sources: by kind. start: the starting model.
    """
    from mapsto.data.encoding import find_long_answers
    from mapsto.fitting.run_data import bind_targets, learn_answers, length_limits, make_targets
    from mapsto.options import Options

    options, arrow = Options(), rows.arrow
    targets = make_targets(arrow, options)
    config = bind_targets(arrow, sources, targets, start, options)
    for target, answers in zip(targets, rows.targets, strict=True):
        learn_answers(target, answers, options)
    limits = length_limits(options, config, False, sources)
    return list(find_long_answers(rows, targets, min(limits.longest, config.answer_stack.max_tokens)))


def _describe_lengths(rows: Rows, table: Table, start: StartingModel, errors: list[Finding]) -> list[str]:
    """Return notes on text that the tokenizer loses, if it is much, and on how many rows are longer than the model's token limit.

    rows: the table's rows. start: the starting model, whose tokenizer and limit are used; an empty one for those of a new model.
    errors: gets a finding for each answer that is longer than the model writes, and each value whose answer cannot be divided.
    """
    from mapsto import kinds
    from mapsto.data.encoding import describe_dropped, encode_rows, encode_sides, find_undivided
    from mapsto.data.rows import load_rows
    from mapsto.fitting.build_model import make_config, make_sentence_config, make_sources, read_sources
    from mapsto.options import Options
    from mapsto.task.generation import Generated
    from mapsto.task.source_capabilities import Spoken
    from mapsto.task.target_capabilities import Composed

    arrow = rows.arrow
    is_generated = not arrow.corrupted and any(issubclass(target, Generated) for target in kinds.answering(arrow))
    # Without targets, rows with an unreadable label count too. But they make
    # the vocabulary of generated answers, and the pairs of grouped texts.
    source_rows = rows.readable() if is_generated or arrow.is_grouped else load_rows(replace(arrow, targets=()), table)
    sources = make_sources(start, arrow, source_rows, Options(), lambda text: None)
    config = make_config(start, Options(), arrow.corrupted, read_sources(arrow, sources))
    max_tokens = config.transformer.max_tokens
    if arrow.symmetric:
        sentence = make_sentence_config(start, config, Options())
        max_tokens, encoded = sentence.max_tokens, encode_sides(source_rows, sources, sentence)
    else:
        encoded = encode_rows(source_rows, sources, max_tokens, "cut")
    limit = f"the {max_tokens} tokens that {start.name or 'a new model'} takes"
    unknown = list(filter(None, [encoded.describe_unknown_tokens(sources), describe_dropped(source_rows, sources)]))
    if is_generated:
        errors += _find_long_answers(source_rows, sources, start)
    are_joined = is_generated and any(isinstance(source, Spoken) for source in sources.values())
    undivided = find_undivided(source_rows, encoded, kinds.answering(arrow), are_joined)
    errors += undivided
    if not len(encoded.long_rows):
        return [*unknown, f"no row is longer than {limit}"]
    if undivided:
        return unknown
    if any(issubclass(target, Composed) for target in kinds.answering(arrow)):
        effect = "they are read in windows"
    else:
        effect = f"{encoded.describe_cut()} would be cut off (see --long)"
    return [*unknown, f"{len(encoded.long_rows):,} rows are longer than {limit}; {effect}"]
