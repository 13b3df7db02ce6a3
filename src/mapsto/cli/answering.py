"""What `mapsto predict` and `mapsto embed` do: answers, vectors and filled-in values, to the screen, a table or a folder."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mapsto import kinds
from mapsto.data.readers import format_of
from mapsto.data.rows import bind_to, read_rows, require_some
from mapsto.data.table import Table, read_table, write_rows
from mapsto.data.writers import legible, require_place, require_writable
from mapsto.errors import DataError, Finding, UsageError, place
from mapsto.inference.embedder import Embedder
from mapsto.inference.output_files import Drawing, Filing, are_files, write_file
from mapsto.inference.predictor import Predictor
from mapsto.inference.ray_engine import Workers
from mapsto.inference.table_engine import Answered, Engine, answer_all
from mapsto.options import require_choice
from mapsto.pretrained import model_folder
from mapsto.progress import Lines, choose_progress
from mapsto.task.arrow import Arrow, restores
from mapsto.task.capabilities import FileBacked, Reconstruction, require

ENGINES = ("local", "ray")


def predict(
    model: str,
    data: Path | None,
    texts: list[str] | None,
    out: Path | None,
    device: str,
    precision: str,
    encoding: str | None,
    as_json: bool,
    long: str,
    engine: str = "local",
    min_confidence: float = 0.0,
    draw: Path | None = None,
) -> None:
    """Answers for a table or for texts, to a file or to the screen; and drawn into copies of what was read. Answers that are
    files go to a folder, with their names in the place of them."""
    _require_one(data, texts)
    require_place(out)
    require_place(draw)
    answering = _engine(engine, model, device, precision, long, min_confidence)
    filed = are_files(answering.arrow)
    source = answering.arrow.sources[0]
    if None not in restores(answering.arrow) and issubclass(kinds.source(source.kind), FileBacked):
        raise UsageError(f"{answering.arrow} puts back what is hidden: say what is, with --hide 0.5 or --mask")
    if any(filed):
        answering, out = Filing(answering, _folder(out)), None
    elif out is not None:
        require_writable(out)
    if draw is not None:
        answering = Drawing(answering, draw)
    given = _given(data, texts, answering.arrow)
    show = _file_all if filed and all(filed) else partial(_show, out=out, as_json=as_json)
    _tell(*show(answering, given, encoding), answering.cut_rows, " (see --long)")


def embed(
    model: str,
    data: Path | None,
    texts: list[str] | None,
    out: Path | None,
    device: str,
    precision: str,
    encoding: str | None,
    as_json: bool,
    pooling: str | None,
) -> None:
    """A vector for every row of a table or for texts, to a file or to the screen."""
    _require_one(data, texts)
    if out is not None:
        require_writable(out)
    embedder = Embedder(model_folder.load_mapping(model), device, precision, pooling)
    counts = _show(embedder, _given(data, texts, embedder.arrow), encoding, out, as_json, nested=("jsonl", "parquet"))
    _tell(*counts, embedder.cut_rows)


def complete(
    model: str,
    data: Path | None,
    texts: list[str] | None,
    out: Path | None,
    device: str,
    precision: str,
    encoding: str | None,
    hide: float | None,
    mask: Path | None,
) -> None:
    """Values with a share of them, or what masks mark, hidden and filled in again: to files in a folder, a table or the
    screen, as their kind is."""
    _require_one(data, texts)
    if hide is not None and mask is not None:
        raise UsageError("give --hide (a share, anywhere) or --mask (what it marks), not both")
    require_place(out)
    held = Predictor(model_folder.load_mapping(model), device, precision)
    port = held.arrow.sources[0]
    files = _folder(out) if issubclass(kinds.source(port.kind), FileBacked) else None
    if files is None and out is not None:
        require_writable(out)
    given = _given(data, texts, held.arrow)
    table = read_noted(given, encoding)
    bound = replace(bind_to(held.arrow, table, answers=False), targets=())
    rows = read_rows(bound, table, kinds.reading(bound), [])
    faults = require_some(rows, table.rejected)
    masks = None if mask is None else _masks(mask, port.kind, rows.sources[0])
    numbers = rows.rows.tolist()
    found = held.complete(rows.sources[0], hide or 0.0, mask=masks, rows=numbers)
    filled = dict(zip(numbers, found, strict=True))
    if files is not None:
        target = held.mapping.targets[0]
        assert isinstance(target, Reconstruction)
        _file_filled(target, table, filled, files)
    elif out is None:
        print("\n".join(filled.get(at, "") if isinstance(at, int) else "" for at in table.in_order()))
    else:
        answers = [{port.kind: filled.get(at) if isinstance(at, int) else None} for at in table.in_order()]
        write_rows(out, [port.kind], answers)
    for fault in faults:
        _note(fault)
    if bad := len(table) + len(table.rejected) - len(rows):
        print(f"note: {bad:,} rows could not be filled in", file=sys.stderr)


def _file_filled(target: Reconstruction, table: Table, filled: Mapping[int, Any], out: Path) -> None:
    """What each row of a table was filled in to as a file, named by its number in the table."""
    out.mkdir(parents=True, exist_ok=True)
    for number, at in enumerate(table.in_order(), 1):
        if isinstance(at, int) and at in filled and (content := target.file(filled[at])) is not None:
            write_file(out, table.origin(at), number, *content)
    print(f"wrote {len(filled):,} files to {out}", file=sys.stderr)


def _masks(path: Path, kind: str, values: Sequence[Any]) -> list[str]:
    """The file of a mask for each value: the one, or those in a folder that are called as the values are, but for the ending."""
    if path.is_file():
        return [str(path)] * len(values)
    if not path.is_dir():
        raise UsageError(f"--mask {path}: there is no such file or folder")
    suffixes = require(kinds.source(kind), FileBacked, "masked by a picture").suffixes
    named = {file.stem: str(file) for file in sorted(path.iterdir()) if file.suffix.lower() in suffixes}
    if missing := [str(value) for value in values if Path(str(value)).stem not in named]:
        more = f", and for {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UsageError(f"--mask {path}: there is no mask for {missing[0]}{more}")
    return [named[Path(str(value)).stem] for value in values]


def _folder(out: Path | None) -> Path:
    if out is None or format_of(out) is not None:
        raise UsageError("these answers are files: name a folder for them with --out")
    return out


def _require_one(data: Path | None, texts: list[str] | None) -> None:
    if (data is None) == (not texts):
        raise UsageError("give a table, or one or more --text")


def _given(data: Path | None, texts: list[str] | None, arrow: Arrow) -> Any:
    """A table as it was named, or rows made of texts."""
    source = arrow.sources[0]
    return data if data is not None else [{source.column or source.kind: text} for text in texts or []]


def _show(
    engine: Engine,
    given: Any,
    encoding: str | None,
    out: Path | None,
    as_json: bool,
    nested: Collection[str] = ("jsonl",),
) -> tuple[int, int]:
    """Every answer in its row, where it is wanted; how many rows there were, and how many of them could not be answered.
    nested: the formats in which lists stay lists."""
    if as_json and out is None:
        return _print_all(engine, given, encoding)
    return _table(engine, given, encoding, out, out is not None and format_of(out) in nested)


def _print_all(engine: Engine, given: Any, encoding: str | None) -> tuple[int, int]:
    """Every answer as a line of JSON; counts as of `_show`."""
    rows = failed = 0
    # No live line: it would be drawn between the answers.
    for _, found in answer_all(engine, given, encoding, Lines()):
        for answer in found:
            print(json.dumps(answer, ensure_ascii=False))
        rows, failed = rows + len(found), failed + sum("error" in answer for answer in found)
    return rows, failed


def _table(engine: Engine, given: Any, encoding: str | None, out: Path | None, nested: bool) -> tuple[int, int]:
    """Every row with its answer, to a file or as csv; counts as of `_show`."""
    answered = Answered(engine, given, encoding, choose_progress(), None if out is None else out.parent, nested)
    if out is not None:
        print(f"wrote {write_rows(out, answered.columns, answered)} rows to {out}", file=sys.stderr)
    else:
        writer = csv.DictWriter(sys.stdout, answered.columns)
        writer.writeheader()
        writer.writerows(map(legible, answered))
    return answered.rows, answered.failed


def _file_all(engine: Engine, given: Any, encoding: str | None) -> tuple[int, int]:
    """Have every row answered by an engine that writes files, and say which rows have none; counts as of `_show`."""
    rows = failed = 0
    shown = choose_progress()
    for part, found in answer_all(engine, given, encoding, shown):
        for at, answer in zip(part.in_order(), found, strict=True):
            if isinstance(at, int) and "error" in answer:
                shown.say(f"note: {place(*part.origin(at))}: {answer['error']}")
        rows, failed = rows + len(found), failed + sum("error" in answer for answer in found)
    print(f"wrote {rows - failed:,} files", file=sys.stderr)
    return rows, failed


def _engine(engine: str, model: str, *how: Any) -> Engine:
    """how: what a Predictor takes beside its mapping, in order."""
    require_choice("engine", engine, ENGINES)
    return Workers(model, *how) if engine == "ray" else Predictor(model_folder.load_mapping(model), *how)


def read_noted(source: Any, encoding: str | None, answers: bool = False) -> Table:
    """A table, and on the screen what was left aside where it was read from; with `answers` also of what they are."""
    table = read_table(source, encoding=encoding)
    for remark in table.remarks_on(table.columns if answers else ()):
        _note(remark)
    return table


def _note(finding: Finding) -> None:
    print(f"note: {finding}", file=sys.stderr)


def _tell(rows: int, failed: int, cut: int, instead: str = "") -> None:
    """Say how many rows have no answer, and how many were cut. Raises DataError where none has one."""
    if failed:
        print(f"note: {failed} of {rows} rows could not be answered; they say why", file=sys.stderr)
    if cut:
        print(f"note: {cut} rows are longer than the model takes and were cut{instead}", file=sys.stderr)
    if rows == failed:
        raise DataError("no row could be answered")
