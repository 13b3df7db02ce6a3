"""`mapsto find`: find the texts of a table that belong to a query."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mapsto.cli.app import CsvSafe, Delimiter, Device, Encoding, Json, Model, Precision, app
from mapsto.errors import UsageError
from mapsto.options import TextFormat

if TYPE_CHECKING:
    from mapsto.inference.find import Finder, Match

SHOWN_CHARACTERS = 100  # of a text, on the screen


@app.command(epilog="Example: mapsto find runs/pairs 'Where is my card?' --among passages.csv --top 5")
def find(
    model: Model,
    query: Annotated[
        list[str] | None,
        typer.Argument(help="One or more queries, such as texts or files of recordings, in place of --queries."),
    ] = None,
    among: Annotated[
        Path | None, typer.Option(help="The table to search, or a folder of recordings or pictures.")
    ] = None,
    queries: Annotated[Path | None, typer.Option(help="A table with a query in each row.")] = None,
    top: Annotated[int, typer.Option(help="How many rows to find for each query.")] = 10,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="A table (csv, jsonl or parquet) or a page (.html); by default lines on the screen."
        ),
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="The folder that keeps the index; by default beside the table.")
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="The column to search; by default the model's, or the only one with texts.")
    ] = None,
    query_column: Annotated[
        str | None, typer.Option(help="The column of --queries; by default the model's, or the only one with texts.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            help="The column, such as speaker, of rows that are found as one, by the mean of their vectors. none: no column; by "
            "default a speaker of recordings is found by the name of its column."
        ),
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Compare only so many numbers of each vector, as trained with --sizes.")
    ] = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Compare all texts, also above a million, where an approximate index is faster."),
    ] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    json: Json = False,
    csv_safe: CsvSafe = False,
) -> None:
    """Find the values of a table, such as texts or speakers, that are most similar to each query, by a model that embeds them."""
    from mapsto.cli.output import announce_output, print_note, print_status, read_table_with_notes
    from mapsto.data.files import require_no_input
    from mapsto.data.writers import require_folder, require_writable
    from mapsto.device import keep_memory
    from mapsto.inference.find import SearchSettings, index_folder, make_finder, read_queries, split_readable
    from mapsto.inference.find_page import find_page
    from mapsto.inference.predictor import Predictor
    from mapsto.pretrained.model_folder import load_mapping

    if among is None:
        raise UsageError("name the table to search: --among passages.csv")
    if bool(query) == (queries is not None):
        raise UsageError("give a query or --queries FILE, a table of queries; one of the two, not both")
    keep_memory()
    is_page = out is not None and out.suffix == ".html"
    if out is not None:
        require_folder(out) if is_page else require_writable(out)
        require_no_input(out, among, queries)
    announce_output(out)
    text_format = TextFormat(encoding, delimiter)
    table = read_table_with_notes(among, text_format)
    predictor = Predictor(load_mapping(model), device, precision)
    texts = query or []
    if queries is not None:
        texts, faults = read_queries(predictor.mapping, read_table_with_notes(queries, text_format), query_column)
        for fault in faults:
            print_note(f"left out: {fault}")
    else:
        texts, reasons = split_readable(predictor.mapping, texts)
        for reason in reasons:
            print_note(f"left out: {reason}")
    names = [str(text) for text in texts]
    settings = SearchSettings(index or index_folder(among), column, size, index is not None, group)
    finder = make_finder(predictor.mapping, predictor.device, table, settings, print_status)
    if finder.faults:
        print_note(f"{len(finder.faults):,} rows cannot be read and are not searched; the first: {finder.faults[0]}")
    matches = finder.find(texts, top, exact)
    if out is not None and is_page:
        find_page(finder, names, matches, model).write(out)
        print_status(f"wrote what was found for {len(names):,} queries to {out}")
    elif out is None and not json:
        _print_matches(finder, names, matches)
    else:
        _write_matches(finder, names, matches, out, csv_safe)


def _print_matches(finder: Finder, texts: list[str], matches: list[list[Match]]) -> None:
    """Print a line for each text that was found: its cosine with the query, its place in the table, and the text."""
    from mapsto.cli.output import print_text
    from mapsto.errors import places, shorten

    for query, matches_of_query in zip(texts, matches, strict=True):
        if len(texts) > 1:
            print_text(query)
        origins = places([finder.table.origin(match.row) for match in matches_of_query])
        for match, origin in zip(matches_of_query, origins, strict=True):
            equal = f" and {match.count - 1:,} more" if match.count > 1 else ""
            print_text(f"{match.score:.4f}  {origin}{equal}: {shorten(finder.text(match), SHOWN_CHARACTERS)}")


def _write_matches(
    finder: Finder, texts: list[str], matches: list[list[Match]], out: Path | None, csv_safe: bool
) -> None:
    """Write a row for each text that was found to the file `out`, or print it as a line of JSON if `out` is None.

    It has the query, the rank, the cosine, the row in the file, and the cells of the row.
    csv_safe: whether csv is written so that a spreadsheet computes nothing.
    """
    from mapsto.cli.output import note_bytes, print_json, print_status
    from mapsto.data.table import write_rows
    from mapsto.data.writers import TextStyle, find_binary

    note_bytes(find_binary(finder.table.data), out)
    records = [
        {
            "query": query,
            "rank": rank,
            **finder.describe(match, ("query", "rank")),
        }
        for query, matches_of_query in zip(texts, matches, strict=True)
        for rank, match in enumerate(matches_of_query, 1)
    ]
    if out is not None:
        print_status(f"wrote {write_rows(out, list(records[0]), records, TextStyle(csv_safe=csv_safe))} rows to {out}")
        return
    for record in records:
        print_json(record)
