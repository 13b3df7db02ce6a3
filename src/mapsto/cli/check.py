"""`mapsto check`, the data doctor."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from json import dumps
from typing import TYPE_CHECKING, Annotated

import typer

from mapsto.cli.app import Arrow, AsJson, Data, Encoding, Test, app
from mapsto.cli.output import count_of
from mapsto.errors import SHOWN_FINDINGS, DataError, Finding

if TYPE_CHECKING:
    from mapsto.data.table import Table
    from mapsto.task.arrow import Arrow as BoundArrow


@app.command(epilog="Example: mapsto check 'text -> label' train.csv --test test.csv")
def check(
    arrow: Arrow,
    data: Data,
    test: Test = None,
    start: Annotated[str | None, typer.Option(help="Count tokens as this model does.")] = None,
    encoding: Encoding = None,
    json: AsJson = False,
) -> None:
    """Find everything that is wrong with a table in one pass. Exit status 1 when something must be fixed."""
    from mapsto import kinds
    from mapsto.data.checks import doctor
    from mapsto.data.rows import bind_to, read_cells
    from mapsto.data.table import read_table
    from mapsto.task.arrow import parse

    table = read_table(data, encoding=encoding)
    test_table = None if test is None else read_table(test, encoding=encoding)
    bound = bind_to(parse(arrow), table)
    sources = {port.kind: kinds.source(port.kind) for port in bound.sources}
    targets = [kinds.target(port.kind) for port in bound.targets]
    rows = read_cells(bound, table, sources, targets)
    test_rows = None if test_table is None else read_cells(bind_to(bound, test_table), test_table, sources, targets)
    report = doctor(bound, rows, test_rows)
    errors = [*table.rejected, *rows.faults]
    if test_table is not None and test_rows is not None:
        errors += [*test_table.rejected, *test_rows.faults]
    errors += report.errors
    notes = _length_notes(bound, table, start) if len(rows.whole()) else []
    if json:
        warnings = list(map(asdict, report.warnings))
        record = {"errors": list(map(asdict, errors)), "warnings": warnings, "notes": notes}
        print(dumps(record, ensure_ascii=False))
    else:
        print(f"{bound}: {len(table):,} rows" + ("" if test_table is None else f", {len(test_table):,} test rows"))
        for severity, findings in (("note", notes), ("warning", report.warnings), ("error", errors)):
            for line in _lines(findings):
                print(f"{severity}: {line}")
        print(f"{count_of(len(errors), 'error')}, {count_of(len(report.warnings), 'warning')}")
    if errors:
        raise DataError(f"{count_of(len(errors), 'fault')} must be fixed")


def _lines(findings: Iterable[Finding | str]) -> Iterator[str]:
    """Yield one line per finding; of a reason that many rows of a column share, the first ones and their number."""
    counts = Counter[tuple[str | None, str]]()
    for finding in findings:
        if isinstance(finding, Finding):
            reason = finding.column, finding.reason
            counts[reason] += 1
            if counts[reason] > SHOWN_FINDINGS:
                continue
        yield str(finding)
    for (column, text), count in counts.items():
        if count > SHOWN_FINDINGS:
            place = "" if column is None else f" of column {column!r}"
            yield f"… and {count - SHOWN_FINDINGS:,} more rows{place} (--json lists them all): {text}"


def _length_notes(arrow: BoundArrow, table: Table, start: str | None) -> list[str]:
    """Return notes on tokens that a model's vocabulary lacks, and on rows longer than it takes.

    start: the model; None for a new one of the usual size.
    """
    from mapsto import kinds
    from mapsto.data.encoding import encode, unknown_in
    from mapsto.data.rows import read_rows
    from mapsto.fitting.build import make_config, make_sources
    from mapsto.fitting.start import begin
    from mapsto.options import Options

    beginning = begin(start, None)
    rows = read_rows(replace(arrow, targets=()), table, kinds.reading(arrow), [])
    sources = make_sources(beginning, arrow, rows, Options(), lambda text: None)
    longest = make_config(beginning, Options(), arrow.corrupted, sources).transformer.max_tokens
    encoded = encode(arrow, rows, sources, longest, "cut")
    limit = f"the {longest} tokens that {start or 'a new model'} takes"
    unknown = list(filter(None, [unknown_in(encoded, sources)]))
    if not len(encoded.long):
        return [*unknown, f"no row is longer than {limit}"]
    share = 100 * encoded.lost / encoded.total
    return [
        *unknown,
        f"{len(encoded.long):,} rows are longer than {limit}; "
        f"{encoded.lost:,} of {encoded.total:,} tokens ({share:.1f} %) would be cut off (see --long)",
    ]
