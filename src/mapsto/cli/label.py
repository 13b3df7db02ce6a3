"""`mapsto label`: label the rows of a pool on a page, most useful rows first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mapsto.cli.app import Arrow, CsvSafe, Data, Delimiter, Device, Encoding, Host, Log, Port, Start, app
from mapsto.errors import UsageError

if TYPE_CHECKING:
    from mapsto.serve.labelling.answer_file import AnswerFile
    from mapsto.serve.labelling.pool import LabelPool

MISSING = "labelling needs further packages: pip install 'mapsto[serve]'"


@app.command(epilog="Example: mapsto label 'text -> label' pool.csv --out labels.jsonl --start runs/base")
def label(
    arrow: Arrow,
    pool: Data,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The .jsonl file of answers, which fit reads; one that is there goes on."),
    ],
    start: Start = None,
    labels: Annotated[
        str | None, typer.Option(help="The labels to choose from, with commas; more can be added.")
    ] = None,
    labels_per_fit: Annotated[int, typer.Option("--every", help="Fit the model again after this many answers.")] = 20,
    lease: Annotated[float, typer.Option(help="Minutes for which a row is shown to nobody else.")] = 10.0,
    export: Annotated[
        Path | None,
        typer.Option(
            help="Write the answers that --out has as csv or another table, .json (Label Studio) or .coco.json, and end."
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Let --export replace a file.")] = False,
    host: Host = "127.0.0.1",
    port: Port = 8001,
    key: Annotated[
        str | None,
        typer.Option(envvar="MAPSTO_KEY", help="The password that the page asks for.", show_envvar=True),
    ] = None,
    log: Log = "none",
    device: Device = "auto",
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    csv_safe: CsvSafe = False,
    seed: Annotated[int, typer.Option(help="Everything random is a function of it.")] = 0,
) -> None:
    """Label rows on a page in the browser: the most useful first, answers safe on the disk, a learning curve as you go."""
    from mapsto import api
    from mapsto.cli.output import print_note, print_status, read_table_with_notes
    from mapsto.data.files import join_paths, require_no_input
    from mapsto.device import keep_memory
    from mapsto.options import TextFormat
    from mapsto.task.arrow import parse

    try:
        from mapsto.serve.labelling.answer_file import AnswerFile, require_answer_path
        from mapsto.serve.labelling.learner import Learner, require_reader
        from mapsto.serve.labelling.pool import read_pool
        from mapsto.serve.labelling.questions import Question, short_arrow
        from mapsto.serve.labelling.server import run_labelling
        from mapsto.serve.labelling.service import LabelService
        from mapsto.serve.labelling.session import Session
        from mapsto.serve.settings import ServeSettings
    except ImportError as error:
        raise UsageError(f"{MISSING} ({error.name} is not here)") from error
    keep_memory()
    if not lease > 0:
        raise UsageError(f"--lease is a number of minutes above 0, not {lease:g}")
    if labels_per_fit < 1:
        raise UsageError(f"--every must be above 0, not {labels_per_fit}")
    names = [name for name in (labels or "").split(",") if name.strip()]
    require_answer_path(out)
    task = parse(arrow)
    Question(task, names)  # refuses a task without a control before the rows are read
    rows = read_pool(task, read_table_with_notes(join_paths(pool), TextFormat(encoding, delimiter)), names, print_note)
    if export is not None:
        require_no_input(export, join_paths(pool))
        if export.exists() and not overwrite:
            raise UsageError(f"{export} exists; name another file, or add --overwrite")
        _export(export, out, rows, csv_safe)
        return
    model = None
    if start is not None:
        model = api.load(start, device)
        require_reader(model, rows)
    settings = ServeSettings(host, port, key or None, max_body=2**20, log=log, device=device)
    listener = settings.bind()
    file = AnswerFile(out, rows.question.column, print_note)
    session = Session(rows, file, seed, 60 * lease)
    learner = Learner(session, model, labels_per_fit, seed)
    _report(rows, file, session.num_foreign)
    run_labelling(LabelService(settings, session, learner, csv_safe), listener, print_status)
    if not file.answers:
        print_status("no row was labelled")
        return
    command = f"mapsto fit {short_arrow(rows.question.arrow)!r} {out} --out runs/labelled"
    print_status(f"{len(file.answers):,} labels are in {out}; to fit: {command}{f' --start {start}' if start else ''}")


def _report(pool: LabelPool, file: AnswerFile, num_foreign: int) -> None:
    """Print how many rows there are, and how many answers are there from earlier."""
    from mapsto.cli.output import print_note, print_status

    present = f", {len(file.answers) - num_foreign:,} of them labelled" if file.answers else ""
    print_status(f"{len(pool):,} different rows to label{present}")
    if num_foreign:
        print_note(f"{file.path} has {num_foreign:,} labels of rows that this pool does not have; they stay there")


def _export(path: Path, out: Path, pool: LabelPool, csv_safe: bool) -> None:
    """Write the answers that there are to another file."""
    from mapsto.cli.output import print_note, print_status
    from mapsto.serve.labelling.answer_file import AnswerFile
    from mapsto.serve.labelling.exports import export, require_export_path

    require_export_path(path)
    if not out.exists():
        raise UsageError(f"there are no answers in {out} yet")
    if path.resolve() == out.resolve():
        raise UsageError("--export names another file than --out")
    file = AnswerFile(out, pool.question.column, print_note)
    try:
        print_status(f"wrote {export(path, file, pool.question, csv_safe):,} labels to {path}")
    finally:
        file.close()
