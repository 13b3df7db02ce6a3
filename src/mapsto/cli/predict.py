"""`mapsto predict` and `mapsto embed`: answers, vectors and filled-in values, to the screen, a table or a folder."""

from __future__ import annotations

import csv
import json as jsons
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mapsto.cli.app import AsJson, Device, Encoding, Inputs, ModelName, Precision, Texts, app
from mapsto.cli.output import print_counts, print_note, read_table_with_notes
from mapsto.errors import UsageError, place
from mapsto.options import require_choice

if TYPE_CHECKING:
    from mapsto.data.table import Table
    from mapsto.inference.table_engine import Engine
    from mapsto.task.arrow import Arrow
    from mapsto.task.capabilities import Reconstruction

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class Job:
    """Rows to answer, and where their answers go. rows: a table's name, or a list of rows."""

    rows: Any
    encoding: str | None
    out: Path | None = None
    as_json: bool = False
    # The output formats in which lists stay lists, instead of becoming JSON text.
    nested_formats: Collection[str] = ("jsonl",)


@app.command(epilog="Example: mapsto predict runs/clf new.csv --out answers.csv")
def predict(
    model: ModelName,
    data: Inputs = None,
    text: Texts = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="A table (csv, jsonl or parquet), by default csv on the screen; a folder for picture answers.",
        ),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    encoding: Encoding = None,
    json: AsJson = False,
    long: Annotated[
        str, typer.Option(help="Examples longer than the model takes: cut, window (mean over windows), error.")
    ] = "cut",
    engine: Annotated[
        str,
        typer.Option(
            help="local: this process. ray: every core, or the cluster that RAY_ADDRESS names (the extra `ray`).",
        ),
    ] = "local",
    min_confidence: Annotated[
        float,
        typer.Option(help="Leave answers of lower probability blank; `mapsto evaluate` shows what that gains."),
    ] = 0.0,
    draw: Annotated[
        Path | None,
        typer.Option(help="A folder for copies of the pictures with the answers, such as boxes, drawn into them."),
    ] = None,
    hide: Annotated[
        float | None,
        typer.Option(
            help="For a pretrained model: hide this share of each value and fill it in; pictures go to the folder --out."
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="For a model pretrained on pictures: fill in what is not black in this picture of the same size, or in "
            "the pictures of the same names in this folder."
        ),
    ] = None,
) -> None:
    """Answer every row of a table, in order."""
    from mapsto import kinds
    from mapsto.data.writers import require_place, require_writable
    from mapsto.device import keep_memory
    from mapsto.inference.output_files import Drawing, Filing, are_files
    from mapsto.inference.predictor import Predictor
    from mapsto.inference.ray_engine import Workers
    from mapsto.pretrained.model_folder import load_mapping
    from mapsto.task.arrow import restores
    from mapsto.task.capabilities import FileBacked

    keep_memory()
    _require_one(data, text)
    require_place(out)
    if hide is not None or mask is not None:
        if hide is not None and mask is not None:
            raise UsageError("give --hide (a share, anywhere) or --mask (a marked region), not both")
        predictor = Predictor(load_mapping(model), device, precision)
        _complete(predictor, Job(_rows(data, text, predictor.arrow), encoding, out), hide or 0.0, mask)
        return
    require_place(draw)
    require_choice("engine", engine, ENGINES)
    settings = (device, precision, long, min_confidence)
    answering: Engine = Workers(model, *settings) if engine == "ray" else Predictor(load_mapping(model), *settings)
    arrow = answering.arrow
    if None not in restores(arrow) and issubclass(kinds.source(arrow.sources[0].kind), FileBacked):
        raise UsageError(f"{arrow} fills in what is hidden: say what is, with --hide 0.5 or --mask")
    answers_in_files = are_files(arrow)
    if any(answers_in_files):
        answering, out = Filing(answering, _folder(out)), None
    elif out is not None:
        require_writable(out)
    if draw is not None:
        answering = Drawing(answering, draw)
    job = Job(_rows(data, text, arrow), encoding, out, json)
    answer = _write_files if answers_in_files and all(answers_in_files) else _write_answers
    print_counts(*answer(answering, job), answering.cut_rows, " (see --long)")


@app.command(epilog="Example: mapsto embed runs/base texts.csv --out vectors.parquet")
def embed(
    model: ModelName,
    data: Inputs = None,
    text: Texts = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="A table (parquet, jsonl or csv) of the rows with a column `vector`; by default csv on the screen.",
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(help="first, mean or normed_mean; by default as the model was trained to give vectors."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "auto",
    encoding: Encoding = None,
    json: AsJson = False,
) -> None:
    """Compute a vector for every row of a table, in order: for search, clustering or models of your own."""
    from mapsto.data.writers import require_writable
    from mapsto.device import keep_memory
    from mapsto.inference.embedder import Embedder
    from mapsto.pretrained.model_folder import load_mapping

    keep_memory()
    _require_one(data, text)
    if out is not None:
        require_writable(out)
    embedder = Embedder(load_mapping(model), device, precision, pooling)
    job = Job(_rows(data, text, embedder.arrow), encoding, out, json, nested_formats=("jsonl", "parquet"))
    print_counts(*_write_answers(embedder, job), embedder.cut_rows)


def _require_one(data: Path | None, texts: list[str] | None) -> None:
    """Raise UsageError unless there is a table or texts, and not both."""
    if (data is None) == (not texts):
        raise UsageError("give a table, or one or more --text")


def _rows(data: Path | None, texts: list[str] | None, arrow: Arrow) -> Any:
    """Return the table's name, or rows made of the texts."""
    source = arrow.sources[0]
    return data if data is not None else [{source.column or source.kind: text} for text in texts or []]


def _folder(out: Path | None) -> Path:
    """Return --out as a folder. Raises UsageError where it is missing or names a table."""
    from mapsto.data.readers import format_of

    if out is None or format_of(out) is not None:
        raise UsageError("these answers are files: name a folder for them with --out")
    return out


def _write_answers(engine: Engine, job: Job) -> tuple[int, int]:
    """Write every answer in its row; return the numbers of rows and of rows without an answer."""
    from mapsto.data.readers import format_of
    from mapsto.data.table import write_rows
    from mapsto.data.writers import legible
    from mapsto.inference.table_engine import Answered
    from mapsto.progress import choose_progress

    out = job.out
    if job.as_json and out is None:
        return _print_as_json(engine, job)
    nested = out is not None and format_of(out) in job.nested_formats
    folder = None if out is None else out.parent
    answered = Answered(engine, job.rows, job.encoding, choose_progress(), folder, nested)
    if out is not None:
        print(f"wrote {write_rows(out, answered.columns, answered)} rows to {out}", file=sys.stderr)
    else:
        writer = csv.DictWriter(sys.stdout, answered.columns)
        writer.writeheader()
        writer.writerows(map(legible, answered))
    return answered.rows, answered.failed


def _print_as_json(engine: Engine, job: Job) -> tuple[int, int]:
    """Print every answer as a line of JSON; return the same numbers as `_write_answers`."""
    from mapsto.inference.table_engine import answer_all
    from mapsto.progress import Lines

    num_rows = num_failed = 0
    # Plain progress lines: a live one would be redrawn between the answers.
    for _, answers in answer_all(engine, job.rows, job.encoding, Lines()):
        for answer in answers:
            print(jsons.dumps(answer, ensure_ascii=False))
        num_rows, num_failed = num_rows + len(answers), num_failed + sum("error" in answer for answer in answers)
    return num_rows, num_failed


def _write_files(engine: Engine, job: Job) -> tuple[int, int]:
    """Have an engine write every answer to a file, and name the rows without one; return the same numbers."""
    from mapsto.inference.table_engine import answer_all
    from mapsto.progress import choose_progress

    num_rows = num_failed = 0
    progress = choose_progress()
    for table, answers in answer_all(engine, job.rows, job.encoding, progress):
        for row, answer in zip(table.in_order(), answers, strict=True):
            if isinstance(row, int) and "error" in answer:
                progress.say(f"note: {place(*table.origin(row))}: {answer['error']}")
        num_rows, num_failed = num_rows + len(answers), num_failed + sum("error" in answer for answer in answers)
    print(f"wrote {num_rows - num_failed:,} files", file=sys.stderr)
    return num_rows, num_failed


def _complete(predictor: Any, job: Job, share: float, mask: Path | None) -> None:
    """Hide a share of each value, or what its mask marks, and write the values filled in.

    Files go to a folder, other kinds to a table or the screen.
    """
    from mapsto import kinds
    from mapsto.data.rows import bind_to, read_rows, require_some
    from mapsto.data.table import write_rows
    from mapsto.data.writers import require_writable
    from mapsto.task.capabilities import FileBacked, Reconstruction

    out, kind = job.out, predictor.arrow.sources[0].kind
    folder = _folder(out) if issubclass(kinds.source(kind), FileBacked) else None
    if folder is None and out is not None:
        require_writable(out)
    table = read_table_with_notes(job.rows, job.encoding)
    arrow = replace(bind_to(predictor.arrow, table, answers=False), targets=())
    rows = read_rows(arrow, table, kinds.reading(arrow), [])
    faults = require_some(rows, table.rejected)
    masks = None if mask is None else _masks(mask, kind, rows.sources[0])
    row_numbers = rows.rows.tolist()
    values = predictor.complete(rows.sources[0], share, mask=masks, rows=row_numbers)
    completed = dict(zip(row_numbers, values, strict=True))
    if folder is not None:
        target = predictor.mapping.targets[0]
        assert isinstance(target, Reconstruction)
        _write_completed(target, table, completed, folder)
    elif out is None:
        print("\n".join(completed.get(row, "") if isinstance(row, int) else "" for row in table.in_order()))
    else:
        answers = [{kind: completed.get(row) if isinstance(row, int) else None} for row in table.in_order()]
        write_rows(out, [kind], answers)
    for fault in faults:
        print_note(fault)
    if num_bad := len(table) + len(table.rejected) - len(rows):
        print_note(f"{num_bad:,} rows could not be filled in")


def _write_completed(target: Reconstruction, table: Table, completed: Mapping[int, Any], folder: Path) -> None:
    """Write each completed value to a file that is named by its row's number in the table."""
    from mapsto.inference.output_files import write_file

    folder.mkdir(parents=True, exist_ok=True)
    for number, row in enumerate(table.in_order(), 1):
        if isinstance(row, int) and row in completed and (content := target.file(completed[row])) is not None:
            write_file(folder, table.origin(row), number, *content)
    print(f"wrote {len(completed):,} files to {folder}", file=sys.stderr)


def _masks(path: Path, kind: str, values: Sequence[Any]) -> list[str]:
    """Return a mask's file for each value: always `path`, or the file in the folder `path` with the value's name.

    Suffixes may differ. Raises UsageError for a value without a mask.
    """
    from mapsto import kinds
    from mapsto.task.capabilities import FileBacked, require

    if path.is_file():
        return [str(path)] * len(values)
    if not path.is_dir():
        raise UsageError(f"--mask {path}: there is no such file or folder")
    suffixes = require(kinds.source(kind), FileBacked, "masked by a picture").suffixes
    masks = {file.stem: str(file) for file in sorted(path.iterdir()) if file.suffix.lower() in suffixes}
    if missing := [str(value) for value in values if Path(str(value)).stem not in masks]:
        more = f", and for {len(missing) - 1} others" if len(missing) > 1 else ""
        raise UsageError(f"--mask {path}: there is no mask for {missing[0]}{more}")
    return [masks[Path(str(value)).stem] for value in values]
