"""`mapsto demo`: pretrain, fit and compare on data of Python packages, or on data that it makes (translation, sounds)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mapsto.cli.app import Quiet, app


@app.command(epilog="Example: mapsto demo --out runs/demo")
def demo(
    what: Annotated[
        str,
        typer.Argument(
            metavar="text|image|tags|translate|sound",
            help="The data of the demo: texts, pictures, names in texts, sentences in two languages, or spoken-like words.",
        ),
    ] = "text",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Where reports and models go; by default runs/demo, for other data runs/demo-image and so on.",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            help="How long to pretrain; by default 5 minutes on texts, 4 for tags, 2 for translation, 1 on pictures and sounds."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Pretrain, fit and compare on data from Python packages; about 11 minutes on two cores, 4 with pictures or sounds."""
    from mapsto import device, options, progress
    from mapsto.demo import run

    options.require_choice("what", what, ("text", "image", "tags", "translate", "sound"))
    device.keep_memory()
    if what == "image":
        run.run_pictures(out or Path("runs/demo-image"), minutes or 1.0, progress.choose_progress(quiet))
    elif what == "tags":
        run.run_tags(out or Path("runs/demo-tags"), minutes or 4.0, progress.choose_progress(quiet))
    elif what == "translate":
        run.run_translation(out or Path("runs/demo-translate"), minutes or 2.0, progress.choose_progress(quiet))
    elif what == "sound":
        run.run_sounds(out or Path("runs/demo-sound"), minutes or 1.0, progress.choose_progress(quiet))
    else:
        run.run(out or Path("runs/demo"), minutes or 5.0, progress.choose_progress(quiet))
