"""`mapsto demo`: pretrain, fit and compare on data that comes with Python packages: texts, names in texts, or images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mapsto.cli.app import Quiet, app


@app.command(epilog="Example: mapsto demo --out runs/demo")
def demo(
    what: Annotated[
        str, typer.Argument(metavar="text|image|tags", help="The data of the demo: texts, pictures, or names in texts.")
    ] = "text",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Where reports and models go; by default runs/demo, runs/demo-image or runs/demo-tags."
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(help="How long to pretrain; by default 5 minutes on texts, 4 for tags, 1 on pictures."),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Pretrain, fit and compare on data from Python packages; about 11 minutes on two cores, 4 with pictures."""
    from mapsto import device, options, progress
    from mapsto.demo import run

    options.require_choice("what", what, ("text", "image", "tags"))
    device.keep_memory()
    if what == "image":
        run.run_pictures(out or Path("runs/demo-image"), minutes or 1.0, progress.choose_progress(quiet))
    elif what == "tags":
        run.run_tags(out or Path("runs/demo-tags"), minutes or 4.0, progress.choose_progress(quiet))
    else:
        run.run(out or Path("runs/demo"), minutes or 5.0, progress.choose_progress(quiet))
