"""`mapsto demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mapsto.cli.app import Quiet, app
from mapsto.options import require_choice


@app.command(epilog="Example: mapsto demo --out runs/demo")
def demo(
    what: Annotated[str, typer.Argument(metavar="text|image", help="The data of the demo.")] = "text",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for reports and models, by default runs/demo or runs/demo-image."),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Minutes of pretraining, by default 5 on text, 1 on pictures.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Pretrain, fit and compare on data that packages carry; about 11 minutes on two cores, 4 with pictures."""
    from mapsto import device, progress
    from mapsto.demo import run

    require_choice("what", what, ("text", "image"))
    device.keep_memory()
    if what == "image":
        run.run_pictures(out or Path("runs/demo-image"), minutes or 1.0, progress.choose_progress(quiet))
    else:
        run.run(out or Path("runs/demo"), minutes or 5.0, progress.choose_progress(quiet))
