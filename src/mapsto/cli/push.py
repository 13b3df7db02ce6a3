"""`mapsto push`: send a model with its card to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mapsto.cli.app import Quiet, app


@app.command(epilog="Example: mapsto push runs/clf user/name")
def push(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    name: Annotated[str, typer.Argument(help="The model of the hub, as user/name; it is made if it does not exist.")],
    public: Annotated[bool, typer.Option("--public", help="Let everyone read it; by default it is private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
    quiet: Quiet = False,
) -> None:
    """Send a finished model with its card to the Hugging Face hub; first say what is sent, and what it tells of the data."""
    from mapsto import progress
    from mapsto.cli.output import print_text
    from mapsto.pretrained import hub

    if dry_run:
        for line in hub.pack(folder).describe(name, public):
            print_text(line)
        return
    print_text(hub.push(folder, name, public=public, say=progress.choose_progress(quiet, False).say))
